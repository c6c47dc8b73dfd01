// SPDX-License-Identifier: GPL-2.0-only
//! Steers our lock manager on a test node as it is told, line by line, in place of the daemons:
//! it holds both roles of the netlink family until its input ends.
//!
//! ```text
//! cluster NAME NODE LIFE ADDRESS       who this node is
//! node NODE LIFE ADDRESS up|down       a peer as the view has it
//! forget NODE
//! quorum yes|no
//! stop LOCKSPACE                       returns when it has stopped
//! start LOCKSPACE ID NODE,NODE,… [FAILED,…]
//! answer LOCKSPACE RESULT              of a join or leave that waits
//! ```
//!
//! Each line is answered by `done` or `error WORDS`. The module's events come in between, as
//! `event join LOCKSPACE`, `event leave LOCKSPACE` and `event recovered LOCKSPACE RESULT MS`.
//! Nothing is decided here, and nothing checked: a wrong order of lines loses exclusion. It is for
//! clusters of tests only.

use std::io::BufRead;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use dlm_client::Client;
use dlm_client::Event;
use dlm_client::Events;
use dlm_client::Member;
use dlm_client::NodeUpdate;
use dlm_client::Role;
use dlm_client::Start;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut events = Events::open()?;
    let mut steer = Steer::new()?;
    std::thread::spawn(move || {
        if let Err(error) = tell(&mut events) {
            say(&format!("error listening: {error:#}"));
        }
    });
    say("ready");
    for line in std::io::stdin().lock().lines() {
        match steer.carry_out(&line.context("reading a line")?) {
            Ok(()) => say("done"),
            Err(error) => say(&format!("error {error:#}")),
        }
    }
    Ok(())
}

/// Prints events for ever.
fn tell(events: &mut Events) -> Result<()> {
    loop {
        poll(
            &mut [PollFd::new(events.as_fd(), PollFlags::POLLIN)],
            PollTimeout::NONE,
        )?;
        while let Some(event) = events.receive()? {
            match event {
                Event::Join { lockspace, .. } => say(&format!("event join {lockspace}")),
                Event::Leave { lockspace, .. } => say(&format!("event leave {lockspace}")),
                Event::Recovered {
                    lockspace,
                    result,
                    milliseconds,
                    ..
                } => say(&format!(
                    "event recovered {lockspace} {result} {milliseconds}"
                )),
                Event::Peer { node, suspicion } => say(&format!("event peer {node} {suspicion}")),
            }
        }
    }
}

fn say(line: &str) {
    // Whoever closed the output does not want to know.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// The two roles, each bound to its socket.
struct Steer {
    membership: Client,
    lockspaces: Client,
}

impl Steer {
    fn new() -> Result<Self> {
        let mut membership = Client::open()?;
        membership.claim(Role::Membership)?;
        let mut lockspaces = Client::open()?;
        lockspaces.claim(Role::Lockspaces)?;
        Ok(Steer {
            membership,
            lockspaces,
        })
    }

    fn carry_out(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["cluster", name, node, life, address] => Ok(self.membership.cluster_set(
                name,
                number(node)?,
                life.parse().context("the life")?,
                address.parse().context("the address")?,
            )?),
            ["node", node, life, address, state] => Ok(self.membership.node_set(&NodeUpdate {
                node: number(node)?,
                incarnation: life.parse().context("the life")?,
                address: address.parse().context("the address")?,
                up: choice(state, "up", "down")?,
            })?),
            ["forget", node] => Ok(self.membership.node_del(number(node)?)?),
            ["quorum", state] => Ok(self.membership.quorum_set(choice(state, "yes", "no")?)?),
            ["stop", name] => Ok(self.lockspaces.lockspace_stop(name)?),
            ["start", name, id, members] => self.start(name, id, members, ""),
            ["start", name, id, members, failed] => self.start(name, id, members, failed),
            ["answer", name, result] => {
                let result = result.parse().context("the result")?;
                Ok(self.lockspaces.lockspace_answer(name, result)?)
            }
            _ => bail!("{line:?}: no such command"),
        }
    }

    fn start(&mut self, name: &str, id: &str, members: &str, failed: &str) -> Result<()> {
        let weight = 1;
        let members = list(members)?.into_iter();
        Ok(self.lockspaces.lockspace_start(&Start {
            name: name.to_owned(),
            id: number(id)?,
            members: members.map(|node| Member { node, weight }).collect(),
            failed: list(failed)?,
        })?)
    }
}

fn number(word: &str) -> Result<u32> {
    word.parse().with_context(|| format!("{word:?}"))
}

fn list(words: &str) -> Result<Vec<u32>> {
    let words = words.split(',').filter(|word| !word.is_empty());
    words.map(number).collect()
}

fn choice(word: &str, yes: &str, no: &str) -> Result<bool> {
    match word {
        _ if word == yes => Ok(true),
        _ if word == no => Ok(false),
        _ => Err(anyhow!("{word:?} is neither {yes} nor {no}")),
    }
}
