// SPDX-License-Identifier: GPL-2.0-only
//! What happens to the value block when a lock is granted or given up.
//!
//! The master keeps bytes, a sequence and two marks: *invalid* (a writer was lost or said so; only
//! a write ends it) and *lost* (there may have been bytes that nobody has any more). A lock of this
//! node keeps what its owner last read or wrote. A master copy keeps nothing: its bytes come with
//! the message that writes, and go with the message that answers.
//!
//! A value block is written only with bytes that came with the operation, never with old ones; and
//! what does not exist is not handed out as zeros: the caller's buffer stays as it is.

use super::Shard;
use crate::lockcore::arena::{LockIndex, ResourceIndex};
use crate::lockcore::flags::{LockFlags, IVVALBLK, SBF_VALNOTVALID, VALBLK};
use crate::lockcore::lkb::state::RETURNS_LVB;
use crate::lockcore::lvb::{direction, writes_at_unlock, Direction};
use crate::lockcore::rsb::state::{LVB_INVALID, LVB_LOST};
use crate::platform::{KVec, Result, GFP};

impl<O> Shard<O> {
    /// Memory for what an owner reads and writes, filled with `bytes`; empty if there is nothing
    /// to be kept.
    pub(super) fn copy_lvb(&self, bits: LockFlags, bytes: Option<&[u8]>) -> Result<KVec<u8>> {
        let len = usize::from(self.config.lvb_len);
        let Some(bytes) = bytes.filter(|_| bits.has(VALBLK) && len > 0) else {
            return Ok(KVec::new());
        };
        let mut copy = KVec::with_capacity(len, GFP)?;
        copy.extend_from_slice(bytes.get(..len).unwrap_or(bytes), GFP)?;
        let missing = len - copy.len();
        copy.extend_with(missing, 0, GFP)?;
        Ok(copy)
    }

    /// The rules at the moment a lock is granted what it asked for, on the master. `carried` came
    /// with the message of a master copy.
    pub(super) fn lvb_at_grant(&mut self, i: LockIndex, carried: &[u8]) {
        let lock = self.locks.get_mut(i);
        lock.set(RETURNS_LVB, false);
        let Some(requested) = lock.requested else {
            return;
        };
        let rsb = self.resources.get_mut(lock.resource);
        match direction(lock.granted, requested) {
            Direction::Return => self.return_lvb(i),
            Direction::Write => self.write_lvb(i, carried),
            Direction::Nothing => {
                if rsb.is(LVB_INVALID) {
                    lock.sb_flags |= SBF_VALNOTVALID;
                }
            }
        }
    }

    fn return_lvb(&mut self, i: LockIndex) {
        let lock = self.locks.get_mut(i);
        let rsb = self.resources.get_mut(lock.resource);
        if !lock.has(VALBLK) || self.config.lvb_len == 0 {
            return;
        }
        if rsb.lvb.is_empty() {
            if rsb.is(LVB_LOST) {
                lock.sb_flags |= SBF_VALNOTVALID;
            }
            return;
        }
        if rsb.is(LVB_INVALID) {
            lock.sb_flags |= SBF_VALNOTVALID;
        }
        lock.lvb_seq = rsb.lvb_seq;
        if let Some(room) = lock.lvb.get_mut(..rsb.lvb.len()) {
            room.copy_from_slice(&rsb.lvb);
        }
        lock.set(RETURNS_LVB, true);
    }

    /// The rules for a lock that may write: at a grant, and at an unlock of PW or EX.
    fn write_lvb(&mut self, i: LockIndex, carried: &[u8]) {
        let lock = self.locks.get_mut(i);
        let r = lock.resource;
        if lock.has(IVVALBLK) {
            return self.resources.get_mut(r).set(LVB_INVALID, true);
        }
        if !lock.has(VALBLK) {
            return;
        }
        let rsb = self.resources.get_mut(r);
        let bytes = if lock.is_master_copy() {
            carried
        } else {
            &lock.lvb[..]
        };
        if bytes.is_empty() || !fill(&mut rsb.lvb, bytes, self.config.lvb_len) {
            return;
        }
        rsb.lvb_seq = rsb.lvb_seq.wrapping_add(1);
        lock.lvb_seq = rsb.lvb_seq;
        rsb.set(LVB_INVALID | LVB_LOST, false);
    }

    /// The rules at the end of a lock, on the master.
    pub(super) fn lvb_at_unlock(&mut self, i: LockIndex, carried: &[u8]) {
        if writes_at_unlock(self.lock(i).granted) {
            self.write_lvb(i, carried);
        }
    }

    /// What a resource hands out.
    pub(super) fn lvb_of(&self, r: ResourceIndex) -> &[u8] {
        &self.resource(r).lvb
    }

    /// Stores what the master sent with a reply or a grant, before the lock changes its mode.
    pub(super) fn take_lvb(&mut self, i: LockIndex, bytes: &[u8], seq: u32) {
        let lock = self.locks.get_mut(i);
        lock.set(RETURNS_LVB, false);
        let Some(requested) = lock.requested.filter(|_| lock.has(VALBLK)) else {
            return;
        };
        if direction(lock.granted, requested) != Direction::Return || bytes.is_empty() {
            return;
        }
        // Some masters send zeros where there is no value block yet.
        if lock.granted.is_none() && seq == 0 && bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        let len = bytes.len().min(lock.lvb.len());
        if let (Some(room), Some(bytes)) = (lock.lvb.get_mut(..len), bytes.get(..len)) {
            room.copy_from_slice(bytes);
            lock.lvb_seq = seq;
            lock.set(RETURNS_LVB, true);
        }
    }

    /// The owner's part of a write that a remote master will do.
    pub(super) fn note_written(&mut self, i: LockIndex) {
        let lock = self.locks.get_mut(i);
        if lock.has(VALBLK) && !lock.has(IVVALBLK) && !lock.lvb.is_empty() {
            lock.lvb_seq = lock.lvb_seq.wrapping_add(1);
        }
    }
}

/// Sets the bytes of a value block, for which room was made before. Returns whether it could.
pub(super) fn fill(lvb: &mut KVec<u8>, bytes: &[u8], len: u16) -> bool {
    let len = usize::from(len);
    if lvb.capacity() < len || len == 0 {
        return false;
    }
    lvb.clear();
    let bytes = bytes.get(..len).unwrap_or(bytes);
    // Within capacity: neither can fail.
    let copied = lvb.extend_from_slice(bytes, GFP).is_ok();
    let missing = len - bytes.len();
    copied && lvb.extend_with(missing, 0, GFP).is_ok()
}
