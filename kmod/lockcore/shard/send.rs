// SPDX-License-Identifier: GPL-2.0-only
//! Lock messages made from a lock.

use super::{Effects, Shard};
use crate::lockcore::arena::{LockIndex, ResourceIndex};
use crate::lockcore::flags::{AST_BLOCKING, AST_COMPLETION, CANCEL, VALBLK};
use crate::lockcore::lkb::state::{RETURNS_LVB, WANTS_BLOCKING};
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::wire::message::{Message, MessageKind};

impl<O> Shard<O> {
    /// The message of this kind about a lock.
    fn message(&self, i: LockIndex, kind: MessageKind) -> Message<'_> {
        let lock = self.lock(i);
        let rsb = self.resource(lock.resource);
        let extra: &[u8] = match kind {
            MessageKind::Request | MessageKind::Lookup | MessageKind::Remove => rsb.name.as_bytes(),
            MessageKind::Convert | MessageKind::Unlock => {
                let carried = lock.has(VALBLK).then_some(&lock.lvb[..]);
                carried.unwrap_or(&[])
            }
            MessageKind::RequestReply | MessageKind::ConvertReply | MessageKind::Grant => {
                let returned = lock.is(RETURNS_LVB).then(|| self.lvb_of(lock.resource));
                returned.unwrap_or(&[])
            }
            MessageKind::Cancel
            | MessageKind::UnlockReply
            | MessageKind::CancelReply
            | MessageKind::Bast
            | MessageKind::LookupReply
            | MessageKind::Purge => &[],
        };
        let mut asts = AST_COMPLETION;
        if lock.is(WANTS_BLOCKING) {
            asts |= AST_BLOCKING;
        }
        Message {
            nodeid: lock.peer.0 as i32,
            pid: lock.pid,
            lkid: self.id_of(i).raw(),
            remid: lock.remote_id,
            exflags: lock.flags,
            sbflags: lock.sb_flags,
            flags: lock.shared,
            lvbseq: lock.lvb_seq,
            hash: rsb.hash,
            status: lock.queue,
            grmode: lock.granted,
            rqmode: lock.requested,
            asts,
            extra,
            ..Message::new(kind)
        }
    }

    /// Sends a request, lookup, conversion, unlock or cancel of a lock of this node.
    pub(super) fn send<F: Effects<Owner = O>>(
        &self,
        i: LockIndex,
        kind: MessageKind,
        to: NodeId,
        fx: &mut F,
    ) {
        let mut message = self.message(i, kind);
        if kind == MessageKind::Cancel {
            message.exflags |= CANCEL;
        }
        // A master of the in-tree kind would write zeros for bytes that do not come.
        if kind == MessageKind::Unlock && message.extra.is_empty() {
            message.exflags.set(VALBLK, false);
        }
        fx.send(to, &message);
    }

    /// Answers the node of a master copy.
    pub(super) fn send_reply<F: Effects<Owner = O>>(
        &mut self,
        i: LockIndex,
        kind: MessageKind,
        result: i32,
        fx: &mut F,
    ) {
        let message = Message {
            result,
            ..self.message(i, kind)
        };
        fx.send(self.lock(i).peer, &message);
        self.lock_mut(i).set(RETURNS_LVB, false);
    }

    /// Tells the node of a master copy that it was granted what it waited for.
    pub(super) fn send_grant<F: Effects<Owner = O>>(&mut self, i: LockIndex, fx: &mut F) {
        self.send_reply(i, MessageKind::Grant, 0, fx);
    }

    /// Tells the node of a master copy that it is in the way of `mode`.
    pub(super) fn send_blocking<F: Effects<Owner = O>>(
        &self,
        i: LockIndex,
        mode: Mode,
        fx: &mut F,
    ) {
        let message = Message {
            bastmode: Some(mode),
            ..self.message(i, MessageKind::Bast)
        };
        fx.send(self.lock(i).peer, &message);
    }

    /// Tells the directory node that this node has no use for a resource that it masters.
    pub(super) fn send_remove<F: Effects<Owner = O>>(
        &self,
        to: NodeId,
        r: ResourceIndex,
        fx: &mut F,
    ) {
        let rsb = self.resource(r);
        let message = Message {
            hash: rsb.hash,
            extra: rsb.name.as_bytes(),
            ..Message::new(MessageKind::Remove)
        };
        fx.send(to, &message);
    }

    /// The message that asks another node to end its orphans of a process; 0 for all.
    pub fn purge_message(node: NodeId, pid: u32) -> Message<'static> {
        Message {
            nodeid: node.0 as i32,
            pid,
            ..Message::new(MessageKind::Purge)
        }
    }
}

/// Answers an operation for which there is no lock here.
pub(super) fn send_error<F: Effects>(
    to: NodeId,
    asked: &Message<'_>,
    kind: MessageKind,
    result: i32,
    fx: &mut F,
) {
    let message = Message {
        remid: asked.lkid,
        result,
        hash: asked.hash,
        ..Message::new(kind)
    };
    fx.send(to, &message);
}

/// Answers a lookup; `None`: this is not the directory node of that name.
pub(super) fn send_lookup_reply<F: Effects>(
    to: NodeId,
    asked: &Message<'_>,
    master: Option<NodeId>,
    fx: &mut F,
) {
    let message = Message {
        lkid: asked.lkid,
        nodeid: master.map_or(-1, |node| node.0 as i32),
        ..Message::new(MessageKind::LookupReply)
    };
    fx.send(to, &message);
}
