// SPDX-License-Identifier: GPL-2.0-only
//! Query dlm_controld, look at locks, create and release lockspaces.
//!
//! Answers go to standard output, everything else to standard error. Options
//! may stand before or after the command, as in the field's tool.

mod control;
mod locks;
mod render;
mod waiting;

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use dlm_controld_client::CALL_TIMEOUT;
use dlm_controld_client::Lockspace;
use dlm_controld_client::Reply;
use dlm_controld_client::Request;

use crate::control::Control;

/// Where the kernel shows locks.
const DEBUGFS: &str = "/sys/kernel/debug/dlm";

/// Exit status for "no": the lockspace does not exist.
const NO: u8 = 2;

/// Query and steer lockspaces.
#[derive(Debug, Parser)]
#[command(
    name = "dlm_tool",
    version,
    arg_required_else_help = true,
    after_help = "Exit status: 0 done; 1 failed; 2 there is no such lockspace, or the command \
                  line is wrong."
)]
struct Options {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Common {
    /// Control socket of dlm_controld
    #[arg(long, value_name = "PATH", default_value = dlm_controld_client::SOCKET, global = true)]
    socket: PathBuf,
    /// Seconds to wait for an answer; join and leave wait without a limit if not given
    #[arg(long, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..=86_400), global = true)]
    timeout: Option<u64>,
    /// Where debugfs shows locks
    #[arg(long, value_name = "DIR", default_value = DEBUGFS, global = true)]
    debugfs: PathBuf,
    /// Answer in JSON
    #[arg(long, global = true)]
    json: bool,
    /// ls: also list all nodes
    #[arg(short = 'n', long = "nodes", global = true)]
    nodes: bool,
    /// join: the lockspace must not exist on this node yet
    #[arg(short = 'e', long = "exclusive", value_name = "0|1", default_value = "0",
          value_parser = ["0", "1"], global = true, hide_default_value = true)]
    exclusive: String,
    /// join: create it as file systems do
    #[arg(short = 'f', long = "fs", value_name = "0|1", default_value = "0",
          value_parser = ["0", "1"], global = true, hide_default_value = true)]
    fs: String,
    /// join: permission of the lockspace's device, octal
    #[arg(short = 'm', long = "mode", value_name = "MODE", default_value = "0600",
          value_parser = parse_mode, global = true)]
    mode: u32,
    /// lockdump: also locks of other nodes that are mastered here
    #[arg(short = 'M', long = "master-copies", global = true)]
    master_copies: bool,
}

impl Common {
    /// How long join and leave may take.
    fn limit(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }

    fn ask(&self, request: &Request) -> anyhow::Result<Reply> {
        let limit = self.limit().unwrap_or(CALL_TIMEOUT);
        Ok(dlm_controld_client::call_within(
            &self.socket,
            limit,
            request,
        )?)
    }

    /// Does what the kernel asks dlm_controld for: one that does not answer would be waited for
    /// without a word.
    fn through_the_daemon<T: Send + 'static>(
        &self,
        name: &str,
        what: &str,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        self.ask(&Request::Status)?;
        match waiting::within(self.limit(), work) {
            Some(done) => done,
            None => {
                let limit_s = self.timeout.unwrap_or_default();
                let waits = self.waits_for(name);
                bail!("{what} lockspace {name:?}: not within {limit_s} s ({waits}); given up")
            }
        }
    }

    /// What a lockspace waits for, in the words of `dlm_tool ls`.
    fn waits_for(&self, name: &str) -> String {
        let all = match self.ask(&Request::Lockspaces) {
            Ok(Reply::Lockspaces(all)) => all,
            Ok(_) => return "no reason known".to_owned(),
            Err(error) => return error.to_string(),
        };
        let found = all.iter().find(|lockspace| lockspace.name == name);
        let wait = found.and_then(|lockspace| render::wait(&lockspace.wait));
        wait.unwrap_or_else(|| "dlm_controld waits for nothing".to_owned())
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show lockspaces and the changes they go through
    Ls {
        /// Only this one
        name: Option<String>,
    },
    /// Show the daemon and what it knows of nodes
    Status,
    /// Print the daemon's debug log
    Dump,
    /// Create a lockspace on this node, or join it
    Join {
        /// The lockspace
        name: String,
    },
    /// Release a lockspace; locks that programs of this node hold in it are dropped
    Leave {
        /// The lockspace
        name: String,
    },
    /// Show the locks this node knows in a lockspace
    Lockdump {
        /// The lockspace
        name: String,
    },
}

fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        Ok(_) | Err(_) => Err("is no octal mode, for example 0600".into()),
    }
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dlm_tool: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let common = &options.common;
    match &options.command {
        Command::Ls { name } => return ls(&mut out, common, name.as_deref()),
        Command::Status => status(&mut out, common)?,
        Command::Dump => match common.ask(&Request::Dump)? {
            Reply::Dump(text) if common.json => {
                let lines: Vec<&str> = text.lines().collect();
                json(&mut out, &lines)?;
            }
            Reply::Dump(text) => out.write_all(text.as_bytes())?,
            Reply::Status(_) | Reply::Lockspaces(_) => {
                bail!("dlm_controld answered something else")
            }
        },
        Command::Join { name } => join(&mut out, common, name)?,
        Command::Leave { name } => leave(&mut out, common, name)?,
        Command::Lockdump { name } => return lockdump(&mut out, common, name),
    }
    Ok(ExitCode::SUCCESS)
}

fn json(out: &mut impl Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

fn ls(out: &mut impl Write, common: &Common, name: Option<&str>) -> anyhow::Result<ExitCode> {
    let mut all = match common.ask(&Request::Lockspaces)? {
        Reply::Lockspaces(all) => all,
        Reply::Status(_) | Reply::Dump(_) => bail!("dlm_controld answered something else"),
    };
    all.retain(|lockspace: &Lockspace| name.is_none_or(|name| lockspace.name == name));
    if let Some(name) = name
        && all.is_empty()
    {
        return no_lockspace(name);
    }
    if common.json {
        json(out, &all)?;
    } else {
        render::ls(out, &all, common.nodes)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn no_lockspace(name: &str) -> anyhow::Result<ExitCode> {
    eprintln!("dlm_tool: no lockspace {name:?} on this node");
    Ok(ExitCode::from(NO))
}

fn status(out: &mut impl Write, common: &Common) -> anyhow::Result<()> {
    let status = match common.ask(&Request::Status)? {
        Reply::Status(status) => status,
        Reply::Lockspaces(_) | Reply::Dump(_) => bail!("dlm_controld answered something else"),
    };
    if common.json {
        return json(out, &status);
    }
    Ok(render::status(out, &status)?)
}

fn join(out: &mut impl Write, common: &Common, name: &str) -> anyhow::Result<()> {
    let flags = control::flags(common.exclusive == "1", common.fs == "1");
    if !common.json {
        render::joining(out, name, common.mode, flags)?;
        out.flush()?;
    }
    let asked = name.to_owned();
    let create = move || Control::open()?.create(&asked, flags);
    let minor = common.through_the_daemon(name, "joining", create)?;
    control::set_mode(name, common.mode)?;
    if common.json {
        return json(
            out,
            &serde_json::json!({ "lockspace": name, "minor": minor }),
        );
    }
    Ok(writeln!(out, "done")?)
}

fn leave(out: &mut impl Write, common: &Common, name: &str) -> anyhow::Result<()> {
    if !common.json {
        writeln!(out, "Leaving lockspace \"{name}\"")?;
        out.flush()?;
    }
    let asked = name.to_owned();
    let remove = move || Control::open()?.remove(&asked);
    common.through_the_daemon(name, "leaving", remove)?;
    if common.json {
        return json(out, &serde_json::json!({ "lockspace": name }));
    }
    Ok(writeln!(out, "done")?)
}

fn lockdump(out: &mut impl Write, common: &Common, name: &str) -> anyhow::Result<ExitCode> {
    let path = common.debugfs.join(format!("{name}_locks"));
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_there(&common.debugfs) => {
            return no_lockspace(name);
        }
        Err(error) => {
            return Err(error).with_context(|| {
                format!(
                    "reading {}; is debugfs mounted, are you root?",
                    path.display()
                )
            });
        }
    };
    let locks = locks::parse(&bytes).with_context(|| format!("reading {}", path.display()))?;
    let shown: Vec<_> = locks
        .into_iter()
        .filter(|lock| common.master_copies || !lock.is_master_copy())
        .collect();
    if common.json {
        json(out, &shown)?;
    } else {
        render::lockdump(out, &shown)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn is_there(directory: &Path) -> bool {
    directory.is_dir()
}
