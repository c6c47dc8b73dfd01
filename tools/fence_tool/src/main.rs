// SPDX-License-Identifier: GPL-2.0-only
//! Query fenced and tell it what an operator knows.
//!
//! Answers go to standard output, everything else to standard error. Exit
//! status: 0 done, 1 failed, 2 usage.

mod render;

use std::io::BufRead;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Parser;
use clap::Subcommand;
use cmand_client::NodeId;
use fenced_client::CallError;
use fenced_client::RefusalKind;
use fenced_client::Reply;
use fenced_client::Request;
use fenced_client::Status;

/// What an operator types to say that a node is off.
const CONFIRMATION: &str = "absolutely";

/// Query the fence domain.
#[derive(Debug, Parser)]
#[command(name = "fence_tool", version, arg_required_else_help = true)]
struct Options {
    /// Control socket of fenced
    #[arg(long, value_name = "PATH", default_value = fenced_client::SOCKET, global = true)]
    socket: PathBuf,
    /// Seconds to wait for an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
          value_parser = clap::value_parser!(u64).range(1..=86_400), global = true)]
    timeout: u64,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the fence domain
    Ls {
        /// Also list all nodes
        #[arg(short = 'n', long = "nodes")]
        nodes: bool,
    },
    /// Print the daemon's debug log
    Dump,
    /// Declare that a node cut off from storage was reset and its storage is switched on again
    Unfence {
        /// Id of the node
        #[arg(value_name = "NODEID", value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Declare that a victim is off or was reset, so that recovery goes on
    Ack {
        /// Id of the victim
        #[arg(value_name = "NODEID", value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fence_tool: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match options.command {
        Command::Ls { nodes } => {
            let status = status(options)?;
            if options.json {
                serde_json::to_writer_pretty(&mut out, &status)?;
                writeln!(out)?;
            } else {
                render::ls(&mut out, &status, nodes)?;
            }
        }
        Command::Dump => match ask(options, &Request::Dump)? {
            Reply::Dump(text) => out.write_all(text.as_bytes())?,
            Reply::Done | Reply::Status(_) => bail!("fenced answered something else"),
        },
        Command::Unfence { node, yes } => {
            if !yes && !unfenced(node)? {
                bail!("nothing was done");
            }
            let node = NodeId(node);
            ask(options, &Request::Unfence { node })?;
        }
        Command::Ack { node, yes } => {
            let status = status(options)?;
            let mut nodes = status.nodes.iter();
            let Some(victim) = nodes.find(|other| other.node.0 == node && other.victim) else {
                bail!("node {node} is not a victim; `fence_tool ls -n` shows who is");
            };
            if !victim.member && !yes && !confirmed(node)? {
                bail!("nothing was done");
            }
            let name = &victim.name;
            let acknowledge = |alive: Option<String>| Request::Acknowledge {
                node: NodeId(node),
                alive,
            };
            let refusal = if victim.member {
                format!("node {node} ({name}) is a member of the cluster at this moment: it runs")
            } else {
                match fenced_client::call_within(
                    &options.socket,
                    limit(options),
                    &acknowledge(None),
                ) {
                    Ok(_) => return Ok(()),
                    Err(CallError::Refused(refusal)) if refusal.kind == RefusalKind::Busy => {
                        refusal.message
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            // No --yes: whoever writes a script does not know what runs when it is run.
            let alive = named_alive(&refusal, name)?;
            ask(options, &acknowledge(Some(alive)))?;
        }
    }
    Ok(())
}

fn ask(options: &Options, request: &Request) -> anyhow::Result<Reply> {
    let reply = fenced_client::call_within(&options.socket, limit(options), request)?;
    Ok(reply)
}

fn limit(options: &Options) -> Duration {
    Duration::from_secs(options.timeout)
}

fn status(options: &Options) -> anyhow::Result<Status> {
    match ask(options, &Request::Status)? {
        Reply::Status(status) => Ok(*status),
        Reply::Done | Reply::Dump(_) => bail!("fenced answered something else"),
    }
}

/// Asks the operator to type the name of a node that runs, as `why` says.
fn named_alive(why: &str, name: &str) -> anyhow::Result<String> {
    eprint!(
        "NOT DONE: {why}.\n\
         If it runs, what it holds will be given to others while it goes on writing. Every file\n\
         system and every volume that it shares with them will be destroyed. Reset it instead.\n\
         To do it all the same, type the name of the node: "
    );
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != name {
        bail!("that is not its name; nothing was done");
    }
    Ok(name.to_owned())
}

/// Asks the operator to type the word, for a node whose storage is on again.
fn unfenced(node: u32) -> anyhow::Result<bool> {
    eprint!(
        "Node {node} was cut off from storage, and others were given what it held.\n\
         If it was not reset since and its storage is switched on, it goes on writing there and\n\
         destroys it. If you have made sure that node {node} was reset, and after that have\n\
         switched its storage on again, type \"{CONFIRMATION}\": "
    );
    said()
}

/// Whether the operator types the word.
fn said() -> anyhow::Result<bool> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim() == CONFIRMATION)
}

/// Asks the operator to type the word.
fn confirmed(node: u32) -> anyhow::Result<bool> {
    eprint!(
        "Node {node} will be taken for off, and what it held will be given to others.\n\
         If it still runs and writes to shared storage, that storage will be corrupted.\n\
         This cannot be undone. If you have made sure that node {node} is off or was reset,\n\
         type \"{CONFIRMATION}\": "
    );
    said()
}
