// SPDX-License-Identifier: GPL-2.0-only
//! The cluster's own module, by its netlink family.
//!
//! The lockspaces role is bound to one socket, so all calls go through it, one
//! at a time. Nodes and quorum are told to the module by cmand, not from here;
//! the two daemons do not wait for each other, so a start waits until the module
//! knows the members as this daemon's view has them.

use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use dlm_client::Client;
use dlm_client::LsState;
use dlm_client::Member;
use dlm_client::Role;
use dlm_controld_core::Start;
use nix::errno::Errno;

use super::Answered;
use super::Found;
use super::Kernel;
use super::KernelError;
use super::Members;
use super::Request;

/// Shares of the directory that every member has.
const WEIGHT: u32 = 1;

/// How long cmand may take to tell the module about members; it does so at once.
const MEMBERS_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at what the module knows.
const LOOK: Duration = Duration::from_millis(5);

/// The module, once the role is claimed.
pub(crate) struct Netlink {
    client: Mutex<Client>,
    /// Members of the newest view and their lives.
    members: Mutex<Members>,
}

impl Netlink {
    /// # Errors
    /// [`dlm_client::Error::NotLoaded`] without the module.
    pub(crate) fn open() -> Result<Self, KernelError> {
        let client = Mutex::new(Client::open()?);
        let members = Mutex::default();
        Ok(Self { client, members })
    }

    fn client(&self) -> MutexGuard<'_, Client> {
        // A panic between two calls leaves the socket as it was.
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Netlink {
    /// Waits until the module knows those who are to be members.
    fn wait_for_members(&self, start: &Start) -> Result<(), KernelError> {
        let mut wanted = self
            .members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        wanted.retain(|node, _| start.members.iter().any(|member| member.0 == *node));
        let end = Instant::now() + MEMBERS_LIMIT;
        loop {
            let missing = missing(&self.client().nodes()?, &wanted);
            if missing.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                // The module says what it makes of that.
                tracing::warn!(nodes = ?missing, "cmand has not told the module about members");
                return Ok(());
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Members that the module does not know as they are in the view.
fn missing(known: &[dlm_client::Node], wanted: &Members) -> Vec<u32> {
    let is_known = |node: u32, life: u64| {
        let mut known = known.iter();
        known.any(|one| one.node == node && (one.local || one.up && one.incarnation == life))
    };
    let missing = wanted
        .iter()
        .filter(|(node, life)| !is_known(**node, **life));
    missing.map(|(node, _)| *node).collect()
}

/// What the family's start says for a change.
///
/// It has no word for a member that left and is back: such a node's locks of its
/// former life must go, so it is told as failed. That costs a needless
/// `recover_slot` and loses nothing.
fn translate(start: &Start) -> dlm_client::Start {
    let mut failed: Vec<u32> = start.failed.iter().map(|node| node.0).collect();
    failed.extend(start.renewed.iter().map(|node| node.0));
    failed.sort_unstable();
    failed.dedup();
    dlm_client::Start {
        name: start.lockspace.clone(),
        id: start.id,
        members: start
            .members
            .iter()
            .map(|node| Member {
                node: node.0,
                weight: WEIGHT,
            })
            .collect(),
        failed,
    }
}

impl Kernel for Netlink {
    fn name(&self) -> &'static str {
        "netlink"
    }

    fn reports_recovery(&self) -> bool {
        true
    }

    fn lockspaces(&self) -> Result<Vec<Found>, KernelError> {
        let found = |lockspace: dlm_client::Lockspace| Found {
            name: lockspace.name,
            request: match lockspace.state {
                LsState::New => Request::Join {
                    flags: lockspace.flags,
                },
                LsState::Leaving => Request::Leave,
                LsState::Stopped | LsState::Recovering | LsState::Running | LsState::Failed => {
                    Request::Unknown
                }
            },
        };
        Ok(self.client().lockspaces()?.into_iter().map(found).collect())
    }

    fn begin(&self) -> Result<(), KernelError> {
        Ok(self.client().claim(Role::Lockspaces)?)
    }

    fn set_members(&self, members: &Members) -> Result<(), KernelError> {
        self.members
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone_from(members);
        Ok(())
    }

    fn stop(&self, lockspace: &str) -> Result<(), KernelError> {
        match self.client().lockspace_stop(lockspace) {
            // Gone with its creator: nothing runs.
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    fn start(&self, start: &Start) -> Result<(), KernelError> {
        self.wait_for_members(start)?;
        Ok(self.client().lockspace_start(&translate(start))?)
    }

    fn answer(&self, lockspace: &str, result: i32) -> Result<Answered, KernelError> {
        match self.client().lockspace_answer(lockspace, result) {
            Ok(()) => Ok(Answered::Taken),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Answered::NobodyWaits),
            Err(error) => Err(error.into()),
        }
    }

    fn forget(&self, _: &str) -> Result<(), KernelError> {
        Ok(())
    }

    fn end(&self) -> Result<(), KernelError> {
        // Closing the socket gives the role back.
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dlm_controld_core::NodeId;

    use super::*;

    fn node(node: u32, incarnation: u64, up: bool, local: bool) -> dlm_client::Node {
        dlm_client::Node {
            node,
            incarnation,
            address: None,
            up,
            local,
            state: None,
            suspicion: dlm_client::Suspicion::None,
            sent: 0,
            received: 0,
            resent: 0,
            dropped: 0,
            unacked: 0,
        }
    }

    #[test]
    fn members_are_waited_for_until_they_are_up_in_their_present_life() {
        let wanted = Members::from([(1, 10), (2, 20), (3, 30), (4, 40)]);
        let local = node(1, 0, false, true);
        let known = [local, node(2, 20, true, false), node(3, 30, false, false)];
        assert_eq!(missing(&known, &wanted), [3, 4]);
        assert_eq!(
            missing(&[node(2, 19, true, false)], &Members::from([(2, 20)])),
            [2]
        );
        assert!(missing(&known[..2], &Members::from([(1, 10), (2, 20)])).is_empty());
    }

    #[test]
    fn a_member_that_is_back_is_told_as_failed_once() {
        let start = Start {
            lockspace: "web".into(),
            id: 9,
            change: 4,
            members: vec![NodeId(1), NodeId(3)],
            failed: vec![NodeId(2), NodeId(3)],
            released: vec![],
            renewed: vec![NodeId(1), NodeId(3)],
        };
        let told = translate(&start);
        assert_eq!(told.failed, [1, 2, 3]);
        let members: Vec<_> = told.members.iter().map(|m| (m.node, m.weight)).collect();
        assert_eq!(members, [(1, 1), (3, 1)]);
        assert_eq!((told.name.as_str(), told.id), ("web", 9));
    }
}
