// SPDX-License-Identifier: GPL-2.0-only
//! Messages that came during a recovery or without quorum, until they can be dealt with.
//!
//! None is lost for want of memory: one that cannot be saved is refused and stays with who brought
//! it. At the end of that time they are worked off in order, and what comes meanwhile queues
//! behind them.

use super::{Effects, Gate, Received, Shard};
use crate::lockcore::members::NodeId;
use crate::lockcore::wire::message::{Message, MessageKind};
use crate::platform::{KVVec, KVec, Result, GFP};

/// A message with its bytes.
struct SavedMessage {
    from: NodeId,
    message: Message<'static>,
    extra: KVec<u8>,
}

impl SavedMessage {
    fn new(from: NodeId, message: &Message<'_>) -> Result<Self> {
        let mut extra = KVec::new();
        extra.extend_from_slice(message.extra, GFP)?;
        let Message {
            kind,
            nodeid,
            pid,
            lkid,
            remid,
            exflags,
            sbflags,
            flags,
            lvbseq,
            hash,
            status,
            grmode,
            rqmode,
            bastmode,
            asts,
            result,
            extra: _,
        } = *message;
        let message = Message {
            kind,
            nodeid,
            pid,
            lkid,
            remid,
            exflags,
            sbflags,
            flags,
            lvbseq,
            hash,
            status,
            grmode,
            rqmode,
            bastmode,
            asts,
            result,
            extra: &[],
        };
        Ok(Self {
            from,
            message,
            extra,
        })
    }
}

/// Saved messages, oldest first.
pub(super) struct Saved {
    messages: KVVec<SavedMessage>,
    /// Those before it are dealt with.
    next: usize,
}

/// How far the saved messages are worked off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All: the shard is running.
    Done,
    /// Call again.
    More,
    /// No memory for the next one: call again later.
    NoMemory,
}

impl Saved {
    pub(super) const fn new() -> Self {
        Self {
            messages: KVVec::new(),
            next: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len() - self.next
    }

    pub(super) fn push(&mut self, from: NodeId, message: &Message<'_>) -> Result {
        let saved = SavedMessage::new(from, message)?;
        self.messages.push(saved, GFP)?;
        Ok(())
    }

    pub(super) fn clear(&mut self) {
        self.messages = KVVec::new();
        self.next = 0;
    }

    fn retain(&mut self, mut keep: impl FnMut(NodeId, MessageKind) -> bool) {
        // Those dealt with go first, so that what is kept stays in order behind nothing.
        let next = core::mem::take(&mut self.next);
        let mut at = 0;
        self.messages.retain(|saved| {
            at += 1;
            at > next && keep(saved.from, saved.message.kind)
        });
    }
}

impl<O> Shard<O> {
    /// Throws away the saved messages that mean nothing any more: those of nodes that are gone, and
    /// those to or from a directory that was rebuilt.
    pub fn drop_saved(&mut self, gone: &[NodeId]) {
        let members = &self.members;
        self.saved.retain(|from, kind| {
            let about_directory = matches!(
                kind,
                MessageKind::Lookup | MessageKind::LookupReply | MessageKind::Remove
            );
            !about_directory && !gone.contains(&from) && members.contains(from)
        });
    }

    /// Deals with up to `limit` saved messages; when none is left, the shard is running.
    pub fn drain_saved<F: Effects<Owner = O>>(
        &mut self,
        now_ms: u64,
        limit: usize,
        fx: &mut F,
    ) -> Drained {
        self.advance(now_ms);
        if !self.quorate || !matches!(self.gate, Gate::Draining | Gate::Reopening) {
            return Drained::Done;
        }
        for _message in 0..limit {
            let next = self.saved.next;
            let Some(saved) = self.saved.messages.get_mut(next) else {
                break;
            };
            let extra = core::mem::take(&mut saved.extra);
            let (from, message) = (saved.from, saved.message);
            let message = Message {
                extra: &extra,
                ..message
            };
            if self.handle(from, &message, fx) == Received::NoMemory {
                if let Some(saved) = self.saved.messages.get_mut(next) {
                    saved.extra = extra;
                }
                return Drained::NoMemory;
            }
            self.saved.next += 1;
        }
        if self.saved.len() > 0 {
            return Drained::More;
        }
        self.saved.clear();
        self.gate = Gate::Open;
        Drained::Done
    }
}
