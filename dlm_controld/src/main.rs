// SPDX-License-Identifier: GPL-2.0-only
//! dlm_controld: agrees with its peers on who is in which lockspace, and stops
//! and starts the kernel's lockspaces accordingly. The decisions are
//! `dlm_controld-core`'s; here are the sockets, the clock, the kernel and the
//! threads that call it.

mod daemon;
mod history;
mod kernel;
mod plock;
mod report;
mod settings;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use cluster_rt::config;
use cluster_rt::exit;
use cluster_rt::log;
use cluster_rt::notify::Manager;
use cluster_rt::signals;
use tracing::Level;

use crate::daemon::Daemon;
use crate::settings::Settings;
use crate::settings::Sockets;

/// The lockspace daemon.
#[derive(Debug, Parser)]
#[command(name = "dlm_controld", version, after_help = EXIT_STATUS)]
struct Options {
    /// Configuration file
    #[arg(long, value_name = "PATH", default_value = config::PATH)]
    config: PathBuf,
    /// Name of this node in the configuration, instead of the host name
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Control socket to offer
    #[arg(long, value_name = "PATH", default_value = dlm_controld_client::SOCKET)]
    socket: PathBuf,
    /// Control socket of cmand
    #[arg(long, value_name = "PATH", default_value = cmand_client::SOCKET)]
    cmand: PathBuf,
    /// Control socket of fenced
    #[arg(long, value_name = "PATH", default_value = fenced_client::SOCKET)]
    fenced: PathBuf,
    /// Fail instead of loading a module when none is loaded
    #[arg(long)]
    no_load: bool,
    /// Log debug lines, too
    #[arg(long)]
    debug: bool,
}

/// Foot of `--help`; the man page repeats it.
const EXIT_STATUS: &str = "\
Exit status: 0 ended as asked; 1 failed, for example because cmand or fenced is gone; 2 the
command line is wrong; 3 the configuration is wrong; 4 another dlm_controld runs; 5 this node
must be reset: the kernel has lockspaces of an earlier life, or the cluster went on without this
node; 6 the other daemons follow a protocol this one cannot.";

fn main() -> ExitCode {
    let options = Options::parse();
    let blocked = match signals::block() {
        Ok(blocked) => blocked,
        Err(error) => return exit::report("dlm_controld", &error, exit::FAILED),
    };
    let log = log::init(if options.debug {
        Level::DEBUG
    } else {
        Level::INFO
    });
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(error) => return exit::report("dlm_controld", &error, exit::CONFIG),
    };
    let settings = match Settings::new(&config, options.node.as_deref(), !options.no_load) {
        Ok(settings) => settings,
        Err(error) => return exit::report("dlm_controld", &error, exit::CONFIG),
    };
    let sockets = Sockets {
        own: options.socket,
        cmand: options.cmand,
        fenced: options.fenced,
    };
    let manager = match Manager::of_this_process() {
        Ok(manager) => manager,
        Err(error) => return exit::report("dlm_controld", &error, exit::FAILED),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::report("dlm_controld", &error, exit::FAILED),
    };
    let end = runtime.block_on(async {
        let mut signals = blocked.listen()?;
        let daemon = tokio::select! {
            daemon = Daemon::start(settings, &sockets, log.clone()) => daemon?,
            signal = signals.told_to_end() => {
                tracing::info!(signal, "ending before the start was over");
                return Ok(());
            }
        };
        daemon.run(signals, manager).await
    });
    // Nothing that is left there is worth waiting for.
    runtime.shutdown_background();
    log.flush();
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report("dlm_controld", &error, error.status()),
    }
}
