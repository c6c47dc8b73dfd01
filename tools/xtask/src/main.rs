// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask`: the developer's commands.
//!
//! What each does is in the module of its name; this file only reads the command line and prints
//! the error. Nothing depends on this crate, and it links nothing of ours: it must build while
//! everything else does not.
#![expect(
    clippy::print_stdout,
    reason = "a command line tool answers on standard output"
)]

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;
use clap::Subcommand;

use crate::paths::Layout;

mod apt;
mod fuzz;
mod hazards;
mod host;
mod image;
mod kernel;
mod kmod;
mod manpages;
mod paths;
mod payload;
mod root;
mod rules;
mod run;
mod setup;
mod sizes;
mod source;
mod step;
mod storeys;
mod uml;
mod verify;

/// Prepare, build, test and show Conclave.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prepare this machine: packages, toolchain root, kernel tree, node image.
    Setup {
        /// Ask the archive again for the newest kernel.
        #[arg(long)]
        refresh: bool,
        /// Build the User Mode Linux kernel too; other commands do when they first need it.
        #[arg(long)]
        uml: bool,
        /// Build the User Mode Linux kernel with KASAN too.
        #[arg(long)]
        kasan: bool,
        /// Build the User Mode Linux kernel for figures too.
        #[arg(long)]
        fast: bool,
    },
    /// Build dlm.ko for Debian's kernel, or for User Mode Linux.
    Kmod {
        /// For User Mode Linux.
        #[arg(long)]
        uml: bool,
        /// For User Mode Linux with KASAN.
        #[arg(long, conflicts_with = "uml")]
        kasan: bool,
        /// For the User Mode Linux that figures are taken on.
        #[arg(long, conflicts_with_all = ["uml", "kasan"])]
        fast: bool,
        /// Run clippy in place of the compiler.
        #[arg(long)]
        clippy: bool,
        /// Another directory with a Kbuild, in place of kmod/.
        #[arg(long, value_name = "DIR")]
        source: Option<PathBuf>,
    },
    /// Build programs, module and test clients into the image nodes mount at /opt/conclave.
    Payload {
        /// Do not build the module; nodes get what the last build made, or none.
        #[arg(long)]
        without_module: bool,
    },
    /// Check formatting, lints and the rules of the house; changes no file.
    Check {
        /// Only formatting and the rules, which takes seconds.
        #[arg(long)]
        quick: bool,
    },
    /// Run all checks and tests; the last line is "N passed, N failed".
    Test {
        /// Leave out what boots machines.
        #[arg(long)]
        quick: bool,
    },
    /// Run the simulator: --seeds N, --seed S.
    #[command(disable_help_flag = true)]
    Sim {
        /// Arguments of the simulator.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Throw inputs at everything that reads what others say: all targets, or those named.
    Fuzz {
        /// Targets (files of tests/fuzz/targets).
        names: Vec<String>,
        /// A million inputs each instead of fifty thousand.
        #[arg(long)]
        long: bool,
        /// Plant a mistake in each target, which must be found.
        #[arg(long)]
        planted: bool,
    },
    /// Show a cluster of three machines going through a node failure, from nothing.
    Demo {
        /// Leave the cluster up afterwards.
        #[arg(long)]
        shell: bool,
    },
    /// Measure our lock manager beside the distribution's: NAME..., --quick, --profile, --list.
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments of the runner.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Virtual machines: list, run NAME..., up --nodes N.
    #[command(disable_help_flag = true)]
    Vm {
        /// Arguments of the runner.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    match dispatch(cli.command) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    let layout = Layout::find();
    match command {
        Command::Setup {
            refresh,
            uml,
            kasan,
            fast,
        } => {
            let options = setup::Options {
                refresh,
                image: true,
                uml,
                kasan,
                fast,
            };
            let ready = setup::run(&layout, options)?;
            eprintln!("setup: ready; kernel {}", ready.kernel.release);
            Ok(())
        }
        Command::Kmod {
            uml,
            kasan,
            fast,
            clippy,
            source,
        } => {
            let options = setup::Options {
                uml,
                kasan,
                fast,
                ..Default::default()
            };
            let prepared = setup::run(&layout, options)?;
            let kind = match (uml, kasan, fast) {
                (true, ..) => kmod::Kind::Uml(uml::Flavour::Smp),
                (_, true, _) => kmod::Kind::Uml(uml::Flavour::Kasan),
                (.., true) => kmod::Kind::Uml(uml::Flavour::Fast),
                (false, false, false) => kmod::Kind::X86,
            };
            let source = source.unwrap_or_else(|| layout.workspace().join("kmod"));
            kmod::build(
                &layout,
                &prepared,
                &kmod::Request {
                    kind,
                    source,
                    clippy,
                },
            )
        }
        Command::Payload { without_module } => {
            let prepared = setup::run(&layout, setup::Options::default())?;
            payload::build(&layout, &prepared, !without_module)
        }
        Command::Check { quick } => verify::check(&layout, quick),
        Command::Test { quick } => verify::test(&layout, quick),
        Command::Sim { args } => run::become_command("sim", &mut verify::sim(&layout, &args)),
        Command::Fuzz {
            names,
            long,
            planted,
        } => verify::fuzz(&layout, &names, long, planted),
        Command::Vm { args } => vm(&layout, &args),
        Command::Bench { args } => bench(&layout, &args),
        Command::Demo { shell } => demo(&layout, shell),
    }
}

/// Prepares what the machines are made of, if the verb starts any, and hands over to the runner.
fn vm(layout: &Layout, args: &[OsString]) -> anyhow::Result<()> {
    let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let verb = args.first().copied().unwrap_or_default();
    if matches!(verb, "run" | "up") && !args.iter().any(|arg| matches!(*arg, "--help" | "-h")) {
        let list = run::output(
            "listing the scenarios",
            verify::vm(layout).args(["vm", "list"]),
        )?;
        prepare_nodes(layout, needs_uml(&list, &args))?;
    }
    run::become_command("vm", verify::vm(layout).arg("vm").args(args))
}

/// The main job as a story, from nothing.
fn demo(layout: &Layout, shell: bool) -> anyhow::Result<()> {
    prepare_nodes(layout, false)?;
    let mut command = verify::vm(layout);
    command.arg("demo").args(shell.then_some("--shell"));
    run::become_command("demo", &mut command)
}

/// Prepares what benches boot, unless nothing will be, and hands over to the runner. The quick ones
/// run on the kernel of the scenarios.
fn bench(layout: &Layout, args: &[OsString]) -> anyhow::Result<()> {
    let has = |words: &[&str]| args.iter().any(|arg| words.iter().any(|word| arg == word));
    if !has(&["--help", "-h", "--list"]) {
        if has(&["--quick"]) {
            prepare_nodes(layout, true)?;
        } else {
            prepare_for_figures(layout, !has(&["--profile"]))?;
        }
    }
    run::become_command("bench", verify::vm(layout).arg("bench").args(args))
}

fn prepare_for_figures(layout: &Layout, fast: bool) -> anyhow::Result<()> {
    let options = setup::Options {
        image: true,
        fast,
        ..Default::default()
    };
    let prepared = setup::run(layout, options)?;
    if fast {
        kmod::build_for_figures(layout, &prepared)?;
    }
    payload::build(layout, &prepared, true)
}

fn prepare_nodes(layout: &Layout, uml: bool) -> anyhow::Result<()> {
    let options = setup::Options {
        image: true,
        uml,
        ..Default::default()
    };
    let prepared = setup::run(layout, options)?;
    if uml {
        kmod::build_for_uml(layout, &prepared)?;
    }
    payload::build(layout, &prepared, true)
}

/// Whether a command of the runner boots User Mode Linux. `list` is what its `vm list` prints: a
/// scenario a line, its name, then the kinds of node it can run on, the default first.
fn needs_uml(list: &str, args: &[&str]) -> bool {
    let default_is_uml = |name: &str| {
        list.lines()
            .map(str::split_whitespace)
            .find_map(|mut words| (words.next() == Some(name)).then(|| words.next())?)
            .is_some_and(|kinds| kinds.starts_with("uml"))
    };
    let is_name = |arg: &str| {
        arg.contains('@')
            || list
                .lines()
                .any(|line| line.split_whitespace().next() == Some(arg))
    };
    let mut names = args.iter().filter(|arg| is_name(arg)).peekable();
    if args.first() == Some(&"up") || args.contains(&"--kind") || args.contains(&"--kind=qemu") {
        return args.iter().any(|arg| *arg == "uml" || *arg == "--kind=uml");
    }
    // Without names, all scenarios run on all kinds.
    names.peek().is_none() || names.any(|name| name.ends_with("@uml") || default_is_uml(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn uml_is_prepared_only_for_those_who_boot_it() {
        let list = "boot   uml,qemu  three nodes boot\nmain-job qemu  the story\n";
        for args in [
            &["run"][..],
            &["run", "boot"],
            &["run", "--repeat", "2"],
            &["run", "main-job", "boot@uml"],
        ] {
            assert!(needs_uml(list, args), "{args:?}");
        }
        assert!(needs_uml(list, &["up", "--kind", "uml"]));
        for args in [
            &["run", "main-job"][..],
            &["run", "boot@qemu"],
            &["up", "--nodes", "3"],
        ] {
            assert!(!needs_uml(list, args), "{args:?}");
        }
        assert!(!needs_uml(list, &["run", "--kind", "qemu"]));
    }
}
