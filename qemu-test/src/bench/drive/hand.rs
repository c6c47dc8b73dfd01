// SPDX-License-Identifier: GPL-2.0-only
//! How a node's lock manager is told: ours through `dlm-steer`, which speaks its netlink family;
//! the distribution's through a shell that writes configfs and sysfs as its daemon does.
//!
//! Both are a program that reads lines and answers each with `done` or `error …`; both lock
//! managers write the same two lines about a recovery into the kernel's log.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use guest_init::protocol::Run as Program;
use tokio::sync::Mutex;

use super::Recovered;
use super::STEP_LIMIT;
use crate::node::Node;
use crate::node::Running;
use crate::node::program_of;
use crate::stack::BIN;
use crate::stack::Module;

/// The cluster's name.
const CLUSTER: &str = "bench";

/// Where the distribution's module is configured.
const CONFIGFS: &str = "/sys/kernel/config/dlm/cluster";

/// The shell: each line is a script, carried out without a process of its own where it can be.
const SHELL: &str = "echo ready; while read -r line; do \
                     if eval \"$line\"; then echo done; else echo error \"$line\"; fi; done";

/// Gives the shell a directory to configure.
const FIND_CONFIGFS: &str = "test -d /sys/kernel/config/dlm || \
                             mount -t configfs none /sys/kernel/config";

/// A node as others know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub id: u32,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// One boot of it.
    pub life: u64,
}

/// What steers a node.
#[derive(Debug)]
pub struct Hand {
    node: Node,
    module: Module,
    program: Running,
    /// Who asks the program something holds this until it has answered.
    turn: Mutex<()>,
    /// The kernel's log.
    log: Running,
}

impl Hand {
    /// Begins to steer a node that has its lock manager loaded, and tells it who it is.
    pub async fn start(node: &Node, module: Module, own: Identity) -> Result<Self> {
        let log = node.spawn_argv("kmsg", &["cat", "/dev/kmsg"])?;
        let argv = match module {
            Module::Ours => vec![format!("{BIN}/dlm-steer")],
            Module::InTree => vec!["sh".to_owned(), "-c".to_owned(), SHELL.to_owned()],
        };
        let program = Program {
            is_fed: true,
            ..program_of(&argv)
        };
        let program = node.spawn("steer", program)?;
        let hand = Hand {
            node: node.clone(),
            module,
            program,
            turn: Mutex::new(()),
            log,
        };
        let fits = |line: &str| line == "ready" || line.starts_with("error ");
        let first = hand.program.wait_for_line(STEP_LIMIT, fits).await?;
        ensure!(first == "ready", "{}: {first}", node.name());
        hand.introduce(own).await?;
        Ok(hand)
    }

    async fn introduce(&self, own: Identity) -> Result<()> {
        let Identity { id, address, life } = own;
        match self.module {
            Module::Ours => {
                self.tell(&format!("cluster {CLUSTER} {id} {life} {address}"))
                    .await?;
                self.tell("quorum yes").await
            }
            Module::InTree => {
                // The name without a newline: the module would keep it.
                let cluster = format!("{CONFIGFS}/cluster_name");
                let callbacks = format!("{CONFIGFS}/recover_callbacks");
                self.tell(&format!(
                    "{FIND_CONFIGFS}; mkdir {CONFIGFS} && printf {CLUSTER} >{cluster} && \
                     echo 1 >{callbacks}"
                ))
                .await?;
                self.add_comms(own).await?;
                self.tell(&format!("echo 1 >{CONFIGFS}/comms/{id}/local"))
                    .await
            }
        }
    }

    async fn add_comms(&self, node: Identity) -> Result<()> {
        let entry = format!("{CONFIGFS}/comms/{}", node.id);
        self.tell(&format!(
            "mkdir {entry} && echo {} >{entry}/nodeid",
            node.id
        ))
        .await?;
        // Whole, in one write.
        let path = format!("{entry}/addr");
        self.node
            .write_file(&path, &socket_address(node.address), 0o600)
            .await
    }

    /// Has a line carried out.
    async fn tell(&self, line: &str) -> Result<()> {
        let _turn = self.turn.lock().await;
        let fits = |line: &str| line == "done" || line.starts_with("error ");
        let answer = self.program.ask(line, STEP_LIMIT, fits).await?;
        if answer != "done" {
            bail!("{}: {line:?}: {answer}", self.node.name());
        }
        Ok(())
    }

    /// A peer is a member of the cluster from now on.
    pub async fn peer_up(&self, peer: Identity) -> Result<()> {
        match self.module {
            Module::Ours => self.tell(&state_line(peer, "up")).await,
            Module::InTree => self.add_comms(peer).await,
        }
    }

    /// A peer is none any more; its lockspaces are about to be stopped.
    pub async fn peer_down(&self, peer: Identity) -> Result<()> {
        match self.module {
            Module::Ours => self.tell(&state_line(peer, "down")).await,
            // Its entry goes when all have stopped.
            Module::InTree => Ok(()),
        }
    }

    /// A peer is known to be dead, and its lockspace has stopped here.
    pub async fn peer_gone(&self, lockspace: &str, peer: Identity) -> Result<()> {
        match self.module {
            Module::Ours => Ok(()),
            Module::InTree => {
                let (id, space) = (peer.id, space_of(lockspace));
                self.tell(&format!(
                    "! test -d {space}/nodes/{id} || rmdir {space}/nodes/{id}; \
                     rmdir {CONFIGFS}/comms/{id}"
                ))
                .await
            }
        }
    }

    /// Stops a lockspace; returns when it has stopped.
    pub async fn stop(&self, lockspace: &str) -> Result<()> {
        match self.module {
            Module::Ours => self.tell(&format!("stop {lockspace}")).await,
            Module::InTree => self.control(lockspace, 0).await,
        }
    }

    async fn control(&self, lockspace: &str, word: u32) -> Result<()> {
        self.tell(&format!("echo {word} >/sys/kernel/dlm/{lockspace}/control"))
            .await
    }

    /// Tells a stopped lockspace its id and members, as far as that comes before the start.
    pub async fn set_members(&self, lockspace: &str, id: u32, members: &[u32]) -> Result<()> {
        match self.module {
            Module::Ours => Ok(()),
            Module::InTree => self.tell(&members_line(lockspace, id, members)).await,
        }
    }

    /// Starts the recovery of a stopped lockspace; returns at once.
    pub async fn start_lockspace(
        &self,
        lockspace: &str,
        id: u32,
        members: &[u32],
        failed: &[u32],
    ) -> Result<()> {
        match self.module {
            Module::Ours => {
                let (members, failed) = (comma(members), comma(failed));
                self.tell(&format!("start {lockspace} {id} {members} {failed}"))
                    .await
            }
            Module::InTree => self.control(lockspace, 1).await,
        }
    }

    /// Lets the creator of a lockspace go on.
    pub async fn answer(&self, lockspace: &str) -> Result<()> {
        match self.module {
            Module::Ours => self.tell(&format!("answer {lockspace} 0")).await,
            Module::InTree => {
                let file = format!("/sys/kernel/dlm/{lockspace}/event_done");
                self.tell(&format!("echo 0 >{file}")).await
            }
        }
    }

    /// Lets the releaser of a lockspace go: it is stopped here and forgotten.
    pub async fn let_go(&self, lockspace: &str) -> Result<()> {
        self.stop(lockspace).await?;
        self.answer(lockspace).await?;
        match self.module {
            Module::Ours => Ok(()),
            Module::InTree => {
                let space = space_of(lockspace);
                self.tell(&format!("rmdir {space}/nodes/* && rmdir {space}"))
                    .await
            }
        }
    }

    /// Where to wait from for a request that is made from now on.
    pub fn watch_requests(&self) -> usize {
        self.requests().position()
    }

    /// What shows requests of joins and leaves.
    fn requests(&self) -> &Running {
        match self.module {
            Module::Ours => &self.program,
            Module::InTree => &self.log,
        }
    }

    /// Waits until somebody creates a lockspace here and waits for an answer.
    pub async fn wait_for_join(&self, lockspace: &str, since: usize) -> Result<()> {
        self.wait_for_request(lockspace, "join", "joining", since)
            .await
    }

    /// Waits until somebody releases a lockspace here and waits for an answer.
    pub async fn wait_for_leave(&self, lockspace: &str, since: usize) -> Result<()> {
        self.wait_for_request(lockspace, "leave", "leaving", since)
            .await
    }

    async fn wait_for_request(
        &self,
        lockspace: &str,
        event: &str,
        doing: &str,
        since: usize,
    ) -> Result<()> {
        let wanted = match self.module {
            Module::Ours => format!("event {event} {lockspace}"),
            Module::InTree => format!("dlm: {lockspace}: {doing} the lockspace group..."),
        };
        let fits = |line: &str| line.ends_with(&wanted);
        let found = self
            .requests()
            .wait_for_line_after(since, STEP_LIMIT, fits)
            .await;
        found.map(drop)
    }

    /// Where to wait from for the end of a recovery that is started from now on.
    pub fn watch_recovery(&self) -> usize {
        self.log.position()
    }

    /// Waits for the end of a recovery, and reads from the kernel's log when it ran. Several may
    /// have run since then: an interrupted one is not the answer, the first that has ended is.
    pub async fn wait_for_recovery(
        &self,
        lockspace: &str,
        since: usize,
        limit: Duration,
    ) -> Result<Recovered> {
        let of_space = format!("dlm: {lockspace}: dlm_recover ");
        let is_end = |line: &str| line.contains(&of_space) && line.contains(" done: ");
        let end = self.log.wait_for_line_after(since, limit, is_end).await?;
        let begin = begin_of(&of_space, &end)?;
        let is_begin = |line: &str| line.ends_with(&begin);
        let begin = self
            .log
            .wait_for_line_after(since, STEP_LIMIT, is_begin)
            .await?;
        Ok(Recovered {
            begin: stamp(&begin)?,
            end: stamp(&end)?,
            took: took(&end)?,
        })
    }

    /// Lets go of a node without lockspaces: its lock manager can be unloaded then.
    pub async fn end(self) -> Result<()> {
        if self.module == Module::InTree {
            self.tell(&format!("rmdir {CONFIGFS}/comms/* && rmdir {CONFIGFS}"))
                .await?;
        }
        self.program.end_input().await?;
        let end = self.program.wait(STEP_LIMIT).await?;
        ensure!(end.code == Some(0), "{}: {end:?}", self.node.name());
        self.log.stop(STEP_LIMIT).await?;
        Ok(())
    }
}

fn state_line(peer: Identity, state: &str) -> String {
    let Identity { id, address, life } = peer;
    format!("node {id} {life} {address} {state}")
}

fn comma(ids: &[u32]) -> String {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    ids.join(",")
}

fn space_of(lockspace: &str) -> String {
    format!("{CONFIGFS}/spaces/{lockspace}")
}

/// Makes the directories of a lockspace's members, and of no others.
fn members_line(lockspace: &str, id: u32, members: &[u32]) -> String {
    let space = space_of(lockspace);
    let list: Vec<String> = members.iter().map(u32::to_string).collect();
    let list = list.join(" ");
    format!(
        "test -d {space} || mkdir {space}; \
         for n in {space}/nodes/*; do test -d $n || continue; \
         case ' {list} ' in *\" ${{n##*/}} \"*) ;; *) rmdir $n;; esac; done; \
         for n in {list}; do test -d {space}/nodes/$n || \
         {{ mkdir {space}/nodes/$n && echo 1 >{space}/nodes/$n/weight; }}; done; \
         echo {id} >/sys/kernel/dlm/{lockspace}/id"
    )
}

/// The line of the log that belongs to the one about the end of a recovery.
fn begin_of(of_space: &str, end: &str) -> Result<String> {
    let number = end.split(of_space).nth(1);
    let number = number.and_then(|rest| rest.split(' ').next());
    let number = number.with_context(|| format!("no number in {end:?}"))?;
    Ok(format!("{of_space}{number}"))
}

/// How long the recovery took that such a line is about.
fn took(end: &str) -> Result<Duration> {
    let words = end.split(" done: ").nth(1);
    let number = words.and_then(|words| words.strip_suffix(" ms"));
    let millis = number.and_then(|number| number.parse().ok());
    let millis = millis.with_context(|| format!("no duration in {end:?}"))?;
    Ok(Duration::from_millis(millis))
}

/// The time of a record of the kernel's log: its third field, µs since boot.
fn stamp(record: &str) -> Result<Duration> {
    let field = record.split(',').nth(2);
    let micros = field.and_then(|field| field.parse().ok());
    let micros = micros.with_context(|| format!("no time in {record:?}"))?;
    Ok(Duration::from_micros(micros))
}

/// `struct sockaddr_storage` with port 0.
fn socket_address(address: Ipv4Addr) -> [u8; 128] {
    const AF_INET: u16 = 2;
    let mut bytes = [0; 128];
    bytes[..2].copy_from_slice(&AF_INET.to_ne_bytes());
    bytes[4..8].copy_from_slice(&address.octets());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_is_found_in_the_log() {
        let of_space = "dlm: a: dlm_recover ";
        let end = "6,412,12345678,-;dlm: a: dlm_recover 12 generation 3 done: 4 ms";
        assert_eq!(begin_of(of_space, end).unwrap(), "dlm: a: dlm_recover 12");
        assert_eq!(stamp(end).unwrap(), Duration::from_micros(12_345_678));
        assert_eq!(took(end).unwrap(), Duration::from_millis(4));
        assert!(stamp("no record").is_err() && took("no record").is_err());
        assert!(begin_of(of_space, "another line").is_err());
    }

    #[test]
    fn an_address_has_no_port() {
        let bytes = socket_address(Ipv4Addr::new(10, 77, 1, 2));
        assert_eq!(bytes[..8], [2, 0, 0, 0, 10, 77, 1, 2]);
        assert!(bytes[8..].iter().all(|byte| *byte == 0));
    }
}
