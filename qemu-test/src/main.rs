// SPDX-License-Identifier: GPL-2.0-only
//! The runner as a program; `cargo xtask vm` prepares what it needs and calls it.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use clap::Subcommand;
use qemu_test::bench::command;
use qemu_test::bench::command::BenchArgs;
use qemu_test::cli;
use qemu_test::cli::VmCommand;

/// Clusters of virtual machines.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Virtual machines: scenarios, and clusters to play with
    #[command(subcommand)]
    Vm(VmCommand),
    /// The main job as a story: a cluster, its locks, a failure and a return
    Demo {
        /// Leave the cluster at work afterwards, until interrupted
        #[arg(long)]
        shell: bool,
    },
    /// Measure our lock manager beside the distribution's
    Bench(BenchArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Vm(command) => cli::run(command, &target()).await,
        Command::Demo { shell } => cli::demo(&target(), shell).await,
        Command::Bench(args) => command::run(args, &target()).await,
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be closed; the exit code says it as well.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The target directory of the checkout this was built from.
fn target() -> std::path::PathBuf {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_dir.parent().unwrap_or(crate_dir).join("target")
}
