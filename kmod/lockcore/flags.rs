// SPDX-License-Identifier: GPL-2.0-only
//! The bits of requests, of status blocks and of lock messages, with the interface's values.

use super::word::word;

word! {
    /// What an operation asks for. Bits that mean nothing here belong to the user (`fs/ocfs2` has
    /// one) and are kept and passed on unchanged.
    pub struct LockFlags(u32);
    /// Refuse at once what cannot be granted at once.
    NOQUEUE = 0x1;
    /// Unlock: take back what waits.
    CANCEL = 0x2;
    /// Change the mode of a granted lock.
    CONVERT = 0x4;
    /// The value block is carried.
    VALBLK = 0x8;
    /// Grant the conversion only if no other waits.
    QUECVT = 0x10;
    /// What would write the value block makes it invalid.
    IVVALBLK = 0x20;
    /// Break a conversion deadlock by giving up the granted mode.
    CONVDEADLK = 0x40;
    /// User locks: outlive the file as an orphan.
    PERSISTENT = 0x80;
    /// Queue a conversion that is deadlocked.
    NODLCKWT = 0x100;
    /// Without meaning.
    NODLCKBLK = 0x200;
    /// Grant a new NL request past every queue.
    EXPEDITE = 0x400;
    /// A refused NOQUEUE operation still tells the holders.
    NOQUEUEBAST = 0x800;
    /// Queue at the head.
    HEADQUE = 0x1000;
    /// Grant as soon as compatible, whatever waits before.
    NOORDER = 0x2000;
    /// User locks: adopt an orphan.
    ORPHAN = 0x4000;
    /// PR will do.
    ALTPR = 0x8000;
    /// CW will do.
    ALTCW = 0x1_0000;
    /// Unlock whatever the lock waits for.
    FORCEUNLOCK = 0x2_0000;
    /// Without meaning.
    TIMEOUT = 0x4_0000;
}

/// What an unlock may carry.
pub const UNLOCK_ALLOWED: LockFlags = CANCEL.with(VALBLK).with(IVVALBLK).with(FORCEUNLOCK);

word! {
    /// Of a status block: what else there is to say of an operation that ended.
    pub struct StatusFlags(u8);
    /// The granted mode was given up to break a deadlock.
    SBF_DEMOTED = 0x1;
    /// The value block is stale.
    SBF_VALNOTVALID = 0x2;
    /// Granted in the alternative mode.
    SBF_ALTMODE = 0x4;
}

word! {
    /// Lock messages, `m_flags`: what both copies of a lock agree on.
    pub struct SharedFlags(u8);
    /// A program's lock.
    SHARED_USER = 0x1;
    /// A lock whose program is gone.
    SHARED_ORPHAN = 0x2;
}

/// The bits of `m_flags` that are kept.
pub const SHARED: SharedFlags = SHARED_USER.with(SHARED_ORPHAN);

word! {
    /// Lock messages, `m_asts`: what the owner of a lock is to be told.
    pub struct Asts(u8);
    /// It wants completions.
    AST_COMPLETION = 0x1;
    /// It wants blocking callbacks.
    AST_BLOCKING = 0x2;
}
