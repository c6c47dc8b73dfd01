// SPDX-License-Identifier: GPL-2.0-only
//! The membership daemon as a library, for its `main` and its tests.
//!
//! ```text
//!  UDP ──► engine (real-time thread: cmand-core) ──► kernel (thread: dlm-client)
//!             ▲  commands      │ notices, in order
//!             │                ▼
//!          service (tokio: control socket, signals) ◄──► clients
//! ```
//! Nothing is decided here: the engine carries out the effects of the core, the
//! service translates between clients and the core.

mod address;
mod args;
mod convert;
mod engine;
mod error;
mod identity;
mod kernel;
mod key;
mod mailbox;
mod memory;
mod service;

pub use args::Args;
pub use args::KernelUse;
pub use error::Error;

use cluster_rt::config;
use cluster_rt::config::Config;
use cluster_rt::log::Log;
use cluster_rt::notify::Manager;
use cluster_rt::signals::Blocked;

/// Runs the daemon until it has left the cluster or cannot go on, in the process's first thread.
///
/// # Errors
/// [`Error`]; its [`Error::status`] is the exit status.
pub fn run(args: &Args, log: &Log, blocked: Blocked) -> Result<(), Error> {
    let config = config::load(&args.config)?;
    let node = config.local_node(args.node.as_deref())?.clone();
    let key = key::read(&config.cluster.key_file)?;
    if args.kernel == KernelUse::Auto {
        kernel::refuse_earlier_life()?;
    }
    let memory = memory::Memory::open(&args.state);
    let identity = identity::Identity::new()?;
    let core = convert::core_config(&config, &node, key, &identity, &memory);
    let address = address::Address::new(&node, config.cluster.port);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Error::System {
            what: "starting threads",
            source,
        })?;
    let manager = Manager::of_this_process().map_err(|source| Error::System {
        what: "starting threads",
        source,
    })?;
    let kernel = kernel::start(args.kernel, &config, &node, identity.incarnation.0);
    let setup = service::Setup {
        args,
        config: &config,
        node: &node,
        log,
        memory,
        manager,
    };
    describe(&config, &node, &identity);
    runtime.block_on(service::run(setup, blocked, |notices| {
        engine::start(core, address, notices, kernel)
    }))
}

fn describe(config: &Config, node: &config::Node, identity: &identity::Identity) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster = config.cluster.name,
        node = node.id,
        name = node.name,
        address = %node.address,
        incarnation = %identity.incarnation,
        detection_ms = config.cluster.detection_ms,
        expected_votes = config.cluster.expected_votes,
        "starting"
    );
}
