// SPDX-License-Identifier: GPL-2.0-only
//! Query and control cmand.
//!
//! Answers go to standard output, everything else to standard error. Exit
//! status: 0 yes or done, 1 failed, 2 no: this node is not quorate.

mod check;
mod keygen;
mod render;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Parser;
use clap::Subcommand;
use cluster_rt::config;
use cluster_rt::exit;
use cmand_client::Node;
use cmand_client::Reply;
use cmand_client::Request;
use cmand_client::Status;

/// Query and control cluster membership.
#[derive(Debug, Parser)]
#[command(name = "cman_tool", version, arg_required_else_help = true, after_help = EXIT_STATUS)]
struct Options {
    /// Control socket of cmand
    #[arg(long, value_name = "PATH", default_value = cmand_client::SOCKET, global = true)]
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

const EXIT_STATUS: &str = "\
Exit status: 0 yes or done; 1 failed, or the command line or a checked file is wrong;\n\
2 no: status on a node that is not quorate.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show this node's view of the cluster, and why it may not act if it may not
    Status,
    /// List all configured nodes
    Nodes {
        /// Add a line with addresses for each node
        #[arg(short = 'a', long)]
        addresses: bool,
    },
    /// Make a key for a new cluster; copy the file to every node
    Keygen {
        /// File to write; it must not exist
        #[arg(value_name = "PATH", default_value = config::KEY_FILE)]
        path: PathBuf,
    },
    /// Leave the cluster cleanly and end cmand on this node
    Leave {
        /// Leave although programs on this node are members of groups
        #[arg(long)]
        force: bool,
    },
    /// Decide about the configuration file
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the daemon's debug log
    Dump,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Found views with the file cmand has read, and act beside nodes with another one
    Accept,
    /// Check a file as the daemons do when they start, and ask each fence agent what it knows
    Check {
        /// The file
        #[arg(value_name = "FILE", default_value = config::PATH)]
        file: PathBuf,
        /// Name of this node in the file, instead of the host name
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
    },
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // clap's own status for a wrong command line means "no" here.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                exit::FAILED
            } else {
                exit::OK
            });
        }
    };
    match run(&options) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("cman_tool: {error:#}");
            ExitCode::from(exit::FAILED)
        }
    }
}

fn run(options: &Options) -> anyhow::Result<u8> {
    let mut out = std::io::stdout().lock();
    match &options.command {
        Command::Status => {
            let status = status(options)?;
            if options.json {
                json(&mut out, &status)?;
            } else {
                render::status(&mut out, &status)?;
            }
            return Ok(if status.quorate { exit::OK } else { exit::NO });
        }
        Command::Nodes { addresses } => {
            let nodes = nodes(options)?;
            if options.json {
                json(&mut out, &nodes)?;
            } else {
                render::nodes(&mut out, &nodes, *addresses, &render::local_time)?;
            }
        }
        Command::Keygen { path } => {
            keygen::write(path)?;
            let path = path.display();
            writeln!(
                out,
                "{path} made; copy it to every node, readable by root only"
            )?;
        }
        Command::Leave { force } => match ask(options, &Request::Leave { force: *force })? {
            Reply::Done => {}
            Reply::Status(_)
            | Reply::Nodes(_)
            | Reply::Dump(_)
            | Reply::Accepted(_)
            | Reply::Alive(_) => {
                return wrong_answer();
            }
        },
        Command::Config(ConfigCommand::Accept) => match ask(options, &Request::AcceptConfig)? {
            Reply::Accepted(beside) => render::accepted(&mut out, &beside)?,
            Reply::Done | Reply::Status(_) | Reply::Nodes(_) | Reply::Dump(_) | Reply::Alive(_) => {
                return wrong_answer();
            }
        },
        Command::Config(ConfigCommand::Check { file, node }) => {
            let checked = check::check(file, node.as_deref())?;
            if options.json {
                json(&mut out, &checked)?;
            } else {
                check::render(&mut out, &checked)?;
            }
            return Ok(if checked.is_good() {
                exit::OK
            } else {
                exit::FAILED
            });
        }
        Command::Dump => match ask(options, &Request::Dump)? {
            Reply::Dump(text) => out.write_all(text.as_bytes())?,
            Reply::Done
            | Reply::Status(_)
            | Reply::Nodes(_)
            | Reply::Accepted(_)
            | Reply::Alive(_) => {
                return wrong_answer();
            }
        },
    }
    Ok(exit::OK)
}

fn ask(options: &Options, request: &Request) -> anyhow::Result<Reply> {
    let limit = Duration::from_secs(options.timeout);
    Ok(cmand_client::call_within(&options.socket, limit, request)?)
}

fn status(options: &Options) -> anyhow::Result<Status> {
    match ask(options, &Request::Status)? {
        Reply::Status(status) => Ok(*status),
        Reply::Done | Reply::Nodes(_) | Reply::Dump(_) | Reply::Accepted(_) | Reply::Alive(_) => {
            wrong_answer()
        }
    }
}

fn nodes(options: &Options) -> anyhow::Result<Vec<Node>> {
    match ask(options, &Request::Nodes)? {
        Reply::Nodes(nodes) => Ok(nodes),
        Reply::Done | Reply::Status(_) | Reply::Dump(_) | Reply::Accepted(_) | Reply::Alive(_) => {
            wrong_answer()
        }
    }
}

fn wrong_answer<T>() -> anyhow::Result<T> {
    bail!("cmand answered something else; tool and daemon may be of different versions")
}

fn json<T: serde::Serialize + ?Sized>(out: &mut impl Write, value: &T) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}
