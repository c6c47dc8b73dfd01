// SPDX-License-Identifier: GPL-2.0-only
//! The membership daemon: from the command line to an exit status.

use std::process::ExitCode;

use clap::Parser;
use cluster_rt::exit;
use cluster_rt::log;
use cluster_rt::signals;

fn main() -> ExitCode {
    let args = cmand::Args::parse();
    let blocked = match signals::block() {
        Ok(blocked) => blocked,
        Err(error) => return exit::report("cmand", &error, exit::FAILED),
    };
    let level = if args.debug {
        tracing::Level::DEBUG
    } else {
        tracing::Level::INFO
    };
    let log = log::init(level);
    log::abort_on_panic(&log);
    let result = cmand::run(&args, &log, blocked);
    log.flush();
    match result {
        Ok(()) => ExitCode::from(exit::OK),
        Err(error) => exit::report("cmand", &error, error.status()),
    }
}
