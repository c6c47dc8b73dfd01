// SPDX-License-Identifier: GPL-2.0-only
//! The command `vm`, for `cargo xtask` to embed.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use clap::Args;
use clap::Subcommand;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::assets::Assets;
use crate::cluster::Cluster;
use crate::cluster::Host;
use crate::console::Watchdog;
use crate::evidence;
use crate::run::Run;
use crate::run::leftovers;
use crate::run::newest_session;
use crate::scenario;
use crate::scenario::Case;
use crate::scenario::Options;
use crate::scenario::Verdict;
use crate::scenarios;
use crate::session;
use crate::session::Answer;
use crate::session::Request;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

/// For whoever has a cluster up.
const HOW_TO_TALK: &str =
    "cargo xtask vm exec n1 COMMAND, vm off|on|reset NODE, vm cut|heal NODE NODE";

/// The scenario that the demo tells.
const DEMO: &str = "main-job";

/// Virtual machines: scenarios, and clusters to play with.
#[derive(Clone, Debug, Subcommand)]
pub enum VmCommand {
    /// List all scenarios and the kinds of node they run on
    List,
    /// Run scenarios, one verdict line each
    Run(RunArgs),
    /// Boot a cluster and keep it up until interrupted
    Up(UpArgs),
    /// Run a program on a node of the cluster that `vm up` keeps
    Exec(ExecArgs),
    /// Power a node off at once
    Off {
        /// Node name, as n2
        node: String,
    },
    /// Power a node on and wait until it is up
    On {
        /// Node name, as n2
        node: String,
    },
    /// Reset a node and wait until it is up
    Reset {
        /// Node name, as n2
        node: String,
    },
    /// Cut the link between two nodes
    Cut {
        /// One node
        a: String,
        /// The other one
        b: String,
    },
    /// Heal the link between two nodes
    Heal {
        /// One node
        a: String,
        /// The other one
        b: String,
    },
}

/// Arguments of `vm run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Scenarios as NAME (on the cheapest kind of node) or NAME@KIND; all without any
    #[arg(value_name = "NAME[@KIND]")]
    pub names: Vec<String>,
    /// Without names: all scenarios on this kind of node only
    #[arg(long, value_name = "KIND", conflicts_with = "names")]
    pub kind: Option<Kind>,
    /// Run the whole list so many times
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub repeat: u32,
    /// Leave the machines of a scenario running after its end, until interrupted
    #[arg(long)]
    pub keep: bool,
}

/// Arguments of `vm up`.
#[derive(Clone, Debug, Args)]
pub struct UpArgs {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub nodes: u32,
    /// Kind of node
    #[arg(long, value_name = "KIND", default_value = "qemu")]
    pub kind: Kind,
    /// Size of a disk that all nodes share
    #[arg(long, value_name = "MIB")]
    pub shared_disk: Option<u64>,
}

/// Arguments of `vm exec`.
#[derive(Clone, Debug, Args)]
pub struct ExecArgs {
    /// Node name, as n2
    pub node: String,
    /// After so many seconds it is killed
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub limit: u64,
    /// Program and arguments
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    pub argv: Vec<String>,
}

/// Carries out a command. `target` is the workspace's target directory.
pub async fn run(command: VmCommand, target: &Path) -> Result<ExitCode> {
    match command {
        VmCommand::List => list(),
        VmCommand::Run(args) => run_command(args, target).await,
        VmCommand::Up(args) => up(args, target).await,
        VmCommand::Exec(args) => {
            let ExecArgs { node, limit, argv } = args;
            let limit_s = limit;
            ask(
                target,
                Request::Exec {
                    node,
                    argv,
                    limit_s,
                },
            )
            .await
        }
        VmCommand::Off { node } => ask(target, Request::Off { node }).await,
        VmCommand::On { node } => ask(target, Request::On { node }).await,
        VmCommand::Reset { node } => ask(target, Request::Reset { node }).await,
        VmCommand::Cut { a, b } => ask(target, Request::Cut { a, b }).await,
        VmCommand::Heal { a, b } => ask(target, Request::Heal { a, b }).await,
    }
}

fn list() -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for scenario in scenarios::ALL {
        let rungs: Vec<_> = scenario.rungs.iter().map(Kind::to_string).collect();
        let (name, rungs) = (scenario.name, rungs.join(","));
        writeln!(out, "{name:<16} {rungs:<10} {}", scenario.about)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_command(args: RunArgs, target: &Path) -> Result<ExitCode> {
    let cases = cases(&args)?;
    let options = Options {
        keep: args.keep,
        narrate: false,
    };
    let verdicts = run_cases(target, &cases, args.repeat, options).await?;
    let failed = verdicts.iter().filter(|verdict| !verdict.is_pass()).count();
    let passed = verdicts.len() - failed;
    writeln!(std::io::stdout(), "{passed} passed, {failed} failed")?;
    let all = cases.len() * args.repeat as usize;
    Ok(if passed == all {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn cases(args: &RunArgs) -> Result<Vec<Case>> {
    if !args.names.is_empty() {
        return args
            .names
            .iter()
            .map(|name| scenarios::find(name))
            .collect();
    }
    Ok(match args.kind {
        Some(kind) => scenarios::all_cases(&[kind]),
        None => scenarios::all_cases(&[Kind::Uml, Kind::Qemu]),
    })
}

/// Runs cases one after the other, `repeat` times, and prints a verdict line for each as it comes.
/// Ends early, with all machines ended, when interrupted.
pub async fn run_cases(
    target: &Path,
    cases: &[Case],
    repeat: u32,
    options: Options,
) -> Result<Vec<Verdict>> {
    let host = host(target)?;
    let mut verdicts = Vec::new();
    for case in (0..repeat).flat_map(|_| cases) {
        if options.keep {
            say(HOW_TO_TALK);
        }
        let verdict = scenario::run(&host, *case, options, interrupted()).await;
        writeln!(std::io::stdout(), "{verdict}")?;
        if !verdict.is_pass() && !verdict.is_interrupted {
            let told = evidence::tails(&verdict.logs);
            told.iter()
                .try_for_each(|line| writeln!(std::io::stdout(), "    {line}"))?;
        }
        let is_interrupted = verdict.is_interrupted;
        verdicts.push(verdict);
        if is_interrupted {
            break;
        }
    }
    Ok(verdicts)
}

/// Tells the main job as it happens. With `shell` the cluster is left at work afterwards.
pub async fn demo(target: &Path, shell: bool) -> Result<ExitCode> {
    let case = scenarios::find(DEMO)?;
    let options = Options {
        keep: shell,
        narrate: true,
    };
    let verdicts = run_cases(target, &[case], 1, options).await?;
    Ok(if verdicts.iter().all(Verdict::is_pass) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn up(args: UpArgs, target: &Path) -> Result<ExitCode> {
    let host = host(target)?;
    let mut spec = ClusterSpec::new(args.kind, args.nodes).with_image();
    spec.shared_disk_mib = args.shared_disk;
    let watchdog = Watchdog::default();
    say(&format!("booting {} nodes ...", args.nodes));
    let cluster = tokio::select! {
        cluster = Cluster::boot(&host, &watchdog, "up", &spec) => Arc::new(cluster?),
        () = interrupted() => return Ok(ExitCode::FAILURE),
    };
    for node in cluster.nodes() {
        say(&format!("{} is up at {}", node.name(), node.address()));
    }
    say(&format!("logs: {}", cluster.dir().display()));
    say(&format!("{HOW_TO_TALK}; Ctrl-C ends"));
    let served = tokio::select! {
        served = session::serve(Arc::clone(&cluster), host.run.dir()) => served,
        alarm = watchdog.wait() => {
            say(&alarm.to_string());
            say("the machines go on running until Ctrl-C");
            tokio::select! {
                served = session::serve(Arc::clone(&cluster), host.run.dir()) => served,
                () = interrupted() => Ok(()),
            }
        }
        () = interrupted() => Ok(()),
    };
    cluster.shutdown().await?;
    served.map(|()| ExitCode::SUCCESS)
}

async fn ask(target: &Path, request: Request) -> Result<ExitCode> {
    let Some(dir) = newest_session(target) else {
        bail!("no cluster is up; `cargo xtask vm up` boots one");
    };
    let Answer::Output {
        stdout,
        stderr,
        exit,
    } = session::ask(&dir, &request).await?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    std::io::stdout().write_all(&stdout.0)?;
    std::io::stderr().write_all(&stderr.0)?;
    if let Some(code) = exit.code.and_then(|code| u8::try_from(code).ok()) {
        return Ok(ExitCode::from(code));
    }
    say(&crate::node::program::describe(&exit));
    Ok(ExitCode::FAILURE)
}

/// Makes a run, and reports what earlier ones have left behind.
pub fn host(target: &Path) -> Result<Host> {
    for leftover in leftovers(target) {
        say(&format!(
            "process {} ({} of the dead run {}) is still there; end it if you do not need it",
            leftover.pid,
            leftover.name,
            leftover.dir.display()
        ));
    }
    let run = Run::create(target).context("starting a run")?;
    Ok(Host {
        assets: Assets::new(target),
        run: Arc::new(run),
    })
}

/// Waits for Ctrl-C or a request to terminate.
pub async fn interrupted() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut stream) => stream.recv().await.unwrap_or_default(),
            // Without a handler the signal ends this process, and the kernel its machines.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
}

fn say(text: &str) {
    // Standard error may be closed; there is nowhere else to say it.
    let _ = writeln!(std::io::stderr(), "{text}");
}
