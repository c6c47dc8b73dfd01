// SPDX-License-Identifier: GPL-2.0-only
//! fenced: decides which nodes must be fenced, has it done, and says when each
//! one is. The decisions are `fenced-core`'s; here are the sockets, the clock
//! and the agents.

mod agent;
mod daemon;
mod report;

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
use crate::daemon::DaemonError;
use crate::daemon::Settings;

/// The fence daemon.
#[derive(Debug, Parser)]
#[command(name = "fenced", version, after_help = EXIT_STATUS)]
struct Options {
    /// Configuration file
    #[arg(long, value_name = "PATH", default_value = config::PATH)]
    config: PathBuf,
    /// Name of this node in the configuration, instead of the host name
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Control socket to offer
    #[arg(long, value_name = "PATH", default_value = fenced_client::SOCKET)]
    socket: PathBuf,
    /// Control socket of cmand
    #[arg(long, value_name = "PATH", default_value = cmand_client::SOCKET)]
    cmand: PathBuf,
    /// Log debug lines, too
    #[arg(long)]
    debug: bool,
}

/// Foot of `--help`; the man page repeats it.
const EXIT_STATUS: &str = "\
Exit status: 0 ended as asked; 1 failed, for example because cmand is gone; 2 the command line
is wrong; 3 the configuration is wrong; 4 another fenced runs; 5 the cluster went on without
this node, which must be reset.";

fn main() -> ExitCode {
    let options = Options::parse();
    let blocked = match signals::block() {
        Ok(blocked) => blocked,
        Err(error) => return exit::report("fenced", &error, exit::FAILED),
    };
    let log = log::init(if options.debug {
        Level::DEBUG
    } else {
        Level::INFO
    });
    let config = match config::load(&options.config) {
        Ok(config) => config,
        Err(error) => return exit::report("fenced", &error, exit::CONFIG),
    };
    // What agents are told must not end in a core file or a debugger's hands.
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        tracing::warn!(%error, "core files of this daemon may hold secrets");
    }
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let settings = match Settings::new(&config, options.node.as_deref(), credentials.as_deref()) {
        Ok(settings) => settings,
        Err(error) => return exit::report("fenced", &error, exit::CONFIG),
    };
    let manager = match Manager::of_this_process() {
        Ok(manager) => manager,
        Err(error) => return exit::report("fenced", &error, exit::FAILED),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return exit::report("fenced", &error, exit::FAILED),
    };
    let end = runtime.block_on(async {
        let mut signals = blocked.listen().map_err(DaemonError::Signals)?;
        let start = Daemon::start(settings, &options.socket, &options.cmand, log.clone());
        let daemon = tokio::select! {
            daemon = start => daemon?,
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
        Err(error) => exit::report("fenced", &error, error.status()),
    }
}
