// SPDX-License-Identifier: GPL-2.0-only
//! The bits of requests, of status blocks and of lock messages, with the interface's values.
//!
//! Flags stay a plain `u32`: bits that mean nothing here belong to the user (`fs/ocfs2` has one)
//! and must be kept and passed on unchanged.

/// Refuse at once what cannot be granted at once.
pub const NOQUEUE: u32 = 0x1;
/// Unlock: take back what waits.
pub const CANCEL: u32 = 0x2;
/// Change the mode of a granted lock.
pub const CONVERT: u32 = 0x4;
/// The value block is carried.
pub const VALBLK: u32 = 0x8;
/// Grant the conversion only if no other waits.
pub const QUECVT: u32 = 0x10;
/// What would write the value block makes it invalid.
pub const IVVALBLK: u32 = 0x20;
/// Break a conversion deadlock by giving up the granted mode.
pub const CONVDEADLK: u32 = 0x40;
/// User locks: outlive the file as an orphan.
pub const PERSISTENT: u32 = 0x80;
/// Queue a conversion that is deadlocked.
pub const NODLCKWT: u32 = 0x100;
/// Without meaning.
pub const NODLCKBLK: u32 = 0x200;
/// Grant a new NL request past every queue.
pub const EXPEDITE: u32 = 0x400;
/// A refused NOQUEUE operation still tells the holders.
pub const NOQUEUEBAST: u32 = 0x800;
/// Queue at the head.
pub const HEADQUE: u32 = 0x1000;
/// Grant as soon as compatible, whatever waits before.
pub const NOORDER: u32 = 0x2000;
/// User locks: adopt an orphan.
pub const ORPHAN: u32 = 0x4000;
/// PR will do.
pub const ALTPR: u32 = 0x8000;
/// CW will do.
pub const ALTCW: u32 = 0x1_0000;
/// Unlock whatever the lock waits for.
pub const FORCEUNLOCK: u32 = 0x2_0000;
/// Without meaning.
pub const TIMEOUT: u32 = 0x4_0000;

/// What an unlock may carry.
pub const UNLOCK_ALLOWED: u32 = CANCEL | VALBLK | IVVALBLK | FORCEUNLOCK;

/// Status block: the granted mode was given up to break a deadlock.
pub const SBF_DEMOTED: u8 = 0x1;
/// Status block: the value block is stale.
pub const SBF_VALNOTVALID: u8 = 0x2;
/// Status block: granted in the alternative mode.
pub const SBF_ALTMODE: u8 = 0x4;

/// Lock messages: a program's lock.
pub const SHARED_USER: u32 = 0x1;
/// Lock messages: a lock whose program is gone.
pub const SHARED_ORPHAN: u32 = 0x2;
/// Lock messages: the flags both copies of a lock agree on.
pub const SHARED: u32 = SHARED_USER | SHARED_ORPHAN;

/// Lock messages, `m_asts`: wants completions.
pub const AST_COMPLETION: u32 = 0x1;
/// Lock messages, `m_asts`: wants blocking callbacks.
pub const AST_BLOCKING: u32 = 0x2;
