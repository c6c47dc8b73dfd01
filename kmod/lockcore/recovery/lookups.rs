// SPDX-License-Identifier: GPL-2.0-only
//! The questions of phase `Lookups`: who is the new master?

use super::super::arena::{ResourceIndex, Walk};
use super::super::members::NodeId;
use super::super::name::ResourceName;
use super::effects::Shards;
use crate::platform::{KVec, Result, GFP};

/// Questions and locks under way at once: enough to fill the wire, few enough that a peer's queue
/// and ours stay small.
pub(super) const WINDOW: usize = 256;

/// A question to a directory node.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) name: ResourceName,
    pub(super) to: NodeId,
    /// `None`: to be asked, or asked again.
    pub(super) id: Option<u64>,
    pub(super) due_ms: u64,
}

/// The questions of phase `Lookups`.
#[derive(Debug, Default)]
pub(super) struct Lookups {
    pub(super) shard: usize,
    pub(super) walk: Walk<ResourceIndex>,
    pub(super) open: KVec<Question>,
}

impl Lookups {
    pub(super) fn next_timeout(&self) -> Option<u64> {
        let due = self.open.iter().filter(|question| question.id.is_none());
        match due.map(|question| question.due_ms).min() {
            // Nothing is under way: at the start, or at the end.
            None if self.open.is_empty() => Some(0),
            due => due,
        }
    }

    /// Takes in resources without master until the window is full. An error: no memory.
    pub(super) fn fill<S: Shards>(&mut self, shards: &S) -> Result {
        while self.shard < shards.count() && self.open.len() < WINDOW {
            self.open.reserve(1, GFP)?;
            let walk = &mut self.walk;
            match shards.with(self.shard, |shard, _| shard.next_orphaned(walk)) {
                Some((name, to)) => {
                    self.open.push(
                        Question {
                            name,
                            to,
                            id: None,
                            due_ms: 0,
                        },
                        GFP,
                    )?;
                }
                None => {
                    self.shard = self.shard.wrapping_add(1);
                    self.walk = Walk::default();
                }
            }
        }
        Ok(())
    }
}
