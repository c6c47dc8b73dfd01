// SPDX-License-Identifier: GPL-2.0-only
//! What a shard wants done, and what it answers.
//!
//! A shard calls its [`Effects`] in the order in which things happened: per peer and per lock that
//! order must be kept by who carries them out.

use crate::lockcore::errno;
use crate::lockcore::flags::{self, LockFlags, StatusFlags};
use crate::lockcore::lkb::LockId;
use crate::lockcore::members::NodeId;
use crate::lockcore::mode::Mode;
use crate::lockcore::wire::message::Message;

/// The sink of what a shard wants done.
pub trait Effects {
    /// What the shell keeps with a lock of this node.
    type Owner;

    /// Sends a lock message. It must arrive, in order; if memory is short, later.
    fn send(&mut self, to: NodeId, message: &Message<'_>);

    /// An operation on a lock is over.
    fn complete(&mut self, owner: &mut Self::Owner, done: &Completion<'_>);

    /// A lock is in the way of a request for `mode`.
    fn blocking(&mut self, owner: &mut Self::Owner, mode: Mode);

    /// The lock is gone; nothing more will be said about it.
    fn release(&mut self, owner: Self::Owner);
}

/// How an operation on a lock ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The request or conversion was granted.
    Granted,
    /// The lock is gone.
    Unlocked,
    /// What waited was taken back; a new request is gone.
    Cancelled,
    /// Not to be had at once; a new request is gone.
    Again,
    /// The conversion would wait for ever; the lock is as it was.
    Deadlock,
}

impl Status {
    /// The number in status blocks and messages.
    pub const fn errno(self) -> i32 {
        match self {
            Status::Granted => 0,
            Status::Unlocked => errno::EUNLOCK,
            Status::Cancelled => errno::ECANCEL,
            Status::Again => errno::EAGAIN,
            Status::Deadlock => errno::EDEADLK,
        }
    }
}

/// The end of an operation.
#[derive(Clone, Copy, Debug)]
pub struct Completion<'a> {
    /// The lock.
    pub id: LockId,
    /// How it ended.
    pub status: Status,
    /// What else there is to say of it.
    pub sb_flags: StatusFlags,
    /// What the lock holds now.
    pub mode: Option<Mode>,
    /// To be stored in the owner's value block before it is told.
    pub lvb: Option<&'a [u8]>,
}

/// A new request, or the adoption of an orphan.
#[derive(Debug)]
pub struct Request<'a, O> {
    /// Wanted mode, as the caller said it.
    pub mode: i32,
    /// What is asked for, and whatever else the caller set.
    pub flags: LockFlags,
    /// The process that asks.
    pub pid: u32,
    /// A program's lock.
    pub user: bool,
    /// Whether there is a blocking callback.
    pub wants_blocking: bool,
    /// The caller's value block; `None` for a null pointer.
    pub lvb: Option<&'a [u8]>,
    /// What the shell keeps with the lock.
    pub owner: O,
}

/// A conversion.
#[derive(Clone, Copy, Debug)]
pub struct Conversion<'a> {
    /// Wanted mode, as the caller said it.
    pub mode: i32,
    /// What is asked for, and whatever else the caller set.
    pub flags: LockFlags,
    /// The process that asks.
    pub pid: u32,
    /// Whether there is a blocking callback from now on.
    pub wants_blocking: bool,
    /// The caller's value block; `None` for a null pointer.
    pub lvb: Option<&'a [u8]>,
}

/// Why an operation was not accepted. Nothing has changed and nothing will be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The lockspace is stopped: wait and ask again.
    Blocked,
    /// An operation on the lock is under way.
    Busy,
    /// No such lock.
    NotFound,
    /// The arguments make no sense.
    Invalid,
    /// No memory.
    NoMemory,
    /// Adoption: there is an orphan, but in another mode.
    Again,
}

impl Refused {
    /// The number for the caller. That of [`Refused::Blocked`] must not be shown.
    pub const fn errno(self) -> i32 {
        match self {
            Refused::Blocked | Refused::Again => errno::EAGAIN,
            Refused::Busy => errno::EBUSY,
            Refused::NotFound => errno::ENOENT,
            Refused::Invalid => errno::EINVAL,
            Refused::NoMemory => errno::ENOMEM,
        }
    }
}

impl From<crate::platform::Error> for Refused {
    /// The only error inside a shard is want of memory.
    fn from(_: crate::platform::Error) -> Self {
        Refused::NoMemory
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Dealt with, or saved for the end of recovery.
    Done,
    /// No memory, nothing changed: deliver it again later, before what came behind it.
    NoMemory,
    /// Not for a lock that is here, or not from who may send it: counted.
    Dropped,
}

/// What a lock request may not ask for, whatever the lock.
pub(super) fn check_request(mode: i32, bits: LockFlags, has_lvb: bool) -> Result<Mode, Refused> {
    let mode = Mode::from_raw(mode).ok_or(Refused::Invalid)?;
    let has = |flag| bits.has_any(flag);
    let converts = has(flags::CONVERT);
    let wrong = has(flags::CANCEL)
        || has(flags::QUECVT) && !converts
        || has(flags::CONVDEADLK) && (!converts || has(flags::NOQUEUE))
        || has(flags::EXPEDITE)
            && (converts || has(flags::QUECVT | flags::NOQUEUE) || mode != Mode::Nl)
        || has(flags::VALBLK) && !has_lvb;
    if wrong {
        return Err(Refused::Invalid);
    }
    Ok(mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flags::*;

    #[test]
    fn argument_rules() {
        let refused = [
            (-1, LockFlags::NONE),
            (6, LockFlags::NONE),
            (5, CANCEL),
            (5, QUECVT),
            (5, CONVDEADLK),
            (5, CONVERT | CONVDEADLK | NOQUEUE),
            (0, EXPEDITE | CONVERT),
            (0, EXPEDITE | NOQUEUE),
            (0, EXPEDITE | QUECVT | CONVERT),
            (3, EXPEDITE),
            (5, VALBLK),
        ];
        for (mode, bits) in refused {
            assert_eq!(
                check_request(mode, bits, false),
                Err(Refused::Invalid),
                "{bits:?}"
            );
        }
        let accepted = [
            (0, EXPEDITE),
            (5, NOQUEUE | NOQUEUEBAST),
            (5, CONVERT | QUECVT | CONVDEADLK),
            (
                3,
                ALTPR | ALTCW | HEADQUE | NOORDER | NODLCKWT | NODLCKBLK | TIMEOUT,
            ),
            (3, LockFlags::from_raw(0x0010_0000)),
            (3, IVVALBLK),
        ];
        for (mode, bits) in accepted {
            assert!(check_request(mode, bits, false).is_ok(), "{bits:?}");
        }
        assert!(check_request(5, VALBLK, true).is_ok());
    }
}
