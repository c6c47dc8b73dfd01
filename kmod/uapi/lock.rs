// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! Structs and numbers of the lock calls: `include/uapi/linux/dlm.h` and `include/linux/dlm.h`.
//!
//! Only layouts and numbers; `capi.rs` is who reads and writes them through pointers. Request flags
//! (`DLM_LKF_*`) are `lockcore/flags.rs`: the core decides by them.

use core::ffi::c_int;
use core::mem::offset_of;

/// `struct dlm_lksb`: status block of a kernel caller.
#[derive(Debug)]
#[repr(C)]
pub struct Lksb {
    /// Outcome of the last operation, stored right before its completion callback.
    pub sb_status: c_int,
    /// Lock id, stored before a new request is processed.
    pub sb_lkid: u32,
    /// `SBF_*`.
    pub sb_flags: u8,
    /// The caller's value block, or null.
    pub sb_lvbptr: *mut u8,
}

const _: () = assert!(size_of::<Lksb>() == 24);
const _: () = assert!(offset_of!(Lksb, sb_status) == 0);
const _: () = assert!(offset_of!(Lksb, sb_lkid) == 4);
const _: () = assert!(offset_of!(Lksb, sb_flags) == 8);
const _: () = assert!(offset_of!(Lksb, sb_lvbptr) == 16);

/// `struct dlm_slot`: a member as told to a file system.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// Node id.
    pub nodeid: c_int,
    /// Slot, from 1.
    pub slot: c_int,
}

const _: () = assert!(size_of::<Slot>() == 8);

/// Flags of a lockspace, `DLM_LSFL_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LsFlags(u32);

/// `DLM_LSFL_TIMEWARN`: accepted, without effect.
pub const LSFL_TIMEWARN: LsFlags = LsFlags(0x2);
/// `DLM_LSFL_FS`: created by the kernel.
pub const LSFL_FS: LsFlags = LsFlags(0x4);
/// `DLM_LSFL_NEWEXCL`: it must not exist yet.
pub const LSFL_NEWEXCL: LsFlags = LsFlags(0x8);
/// `DLM_LSFL_SOFTIRQ`: the callbacks of this lockspace do not sleep.
pub const LSFL_SOFTIRQ: LsFlags = LsFlags(0x10);
/// Flags that are this node's own business; all others must be equal on all members.
pub const LSFL_LOCAL: LsFlags = LSFL_FS.with(LSFL_NEWEXCL).with(LSFL_SOFTIRQ);

impl LsFlags {
    /// As a caller gave them.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Whether all of `bits` are set.
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 == bits.0
    }

    /// These flags, and `bits`.
    pub const fn with(self, bits: Self) -> Self {
        Self(self.0 | bits.0)
    }

    /// The number of those that must be equal on all members.
    pub const fn shared(self) -> u32 {
        self.0 & !LSFL_LOCAL.0
    }
}

/// Whether two creators of one name mean the same lockspace: value blocks of one length, and the
/// same flags but for those that are each one's own business.
pub const fn is_same_lockspace(flags: (LsFlags, LsFlags), lvblen: (u32, u32)) -> bool {
    flags.0.shared() == flags.1.shared() && lvblen.0 == lvblen.1
}

/// How [`dlm_release_lockspace`](../../capi/fn.dlm_release_lockspace.html) treats what is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Refused if any lock exists.
    NoLocks,
    /// Refused if a lock of this node, mastered here, is granted.
    Unused,
    /// Locks that are left are freed.
    Normal,
    /// The same without telling the controller.
    NoEvent,
    /// The same, and the others are asked to recover as if this node had failed.
    Recover,
}

impl Release {
    /// By its number in C.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            0 => Self::NoLocks,
            1 => Self::Unused,
            2 => Self::Normal,
            3 => Self::NoEvent,
            4 => Self::Recover,
            5.. => return None,
        })
    }
}

/// Longest name of a lockspace.
pub const LOCKSPACE_NAME_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_numbers_are_the_headers_numbers() {
        let numbers = [
            Release::NoLocks,
            Release::Unused,
            Release::Normal,
            Release::NoEvent,
            Release::Recover,
        ];
        for (raw, release) in numbers.into_iter().enumerate() {
            assert_eq!(Release::from_raw(raw as u32), Some(release));
        }
        assert_eq!(Release::from_raw(5), None);
        assert_eq!(Release::from_raw(u32::MAX), None);
    }

    #[test]
    fn creators_agree_on_what_all_members_must_agree_on() {
        let (none, nodir) = (LsFlags(0), LsFlags(1));
        assert!(is_same_lockspace((none, none), (32, 32)));
        assert!(is_same_lockspace((LSFL_LOCAL, none), (32, 32)));
        assert!(is_same_lockspace((LSFL_NEWEXCL, LSFL_SOFTIRQ), (0, 0)));
        assert!(!is_same_lockspace((none, none), (32, 64)));
        assert!(!is_same_lockspace((nodir, none), (32, 32)), "nodir");
    }
}
