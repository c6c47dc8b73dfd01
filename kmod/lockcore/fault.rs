// SPDX-License-Identifier: GPL-2.0-only
//! Mistakes that can be planted in the lock manager, one at a time, to see that the simulator finds
//! them.
//!
//! [`fault`] says whether one is planted. In the kernel the answer is a constant no, and nothing of
//! it is left in the module.

use crate::platform;

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Packets that were lost with a connection are not sent again on the next one.
    NotResent,
    /// A packet that comes twice is taken twice.
    TakenTwice,
    /// A node does not wait until all others have rebuilt their locks.
    BarrierSkipped,
    /// Names that others master are not recorded when the directory is rebuilt.
    NamesLost,
    /// Locks are not made known to a new master.
    ImagesForgotten,
    /// Locks of failed nodes stay.
    GoneNotPurged,
    /// What was asked of a failed master is not asked again.
    WaitersForgotten,
    /// A value block stays valid although its writer was lost.
    WriterLossIgnored,
    /// Messages that come during a recovery are thrown away.
    SavedLost,
    /// PR is granted beside anything.
    ReadBesideWrite,
    /// Operations go on while the lockspace is stopped.
    NotStopped,
    /// Operations go on without quorum.
    OpenWithoutQuorum,
    /// A directory node that looks for a new master makes everybody who asks one.
    EveryoneMaster,
    /// A connection that has ended, or was replaced, is still sent on.
    EndedSentOn,
    /// The conversation is not told that it goes on in another connection.
    NotRepeated,
    /// Connections of an earlier incarnation of a peer are still read.
    OldIncarnationRead,
    /// A peer is read that is not in the view.
    DownRead,
    /// A connection that could not be made, or broke, is not made again.
    NeverRetried,
}

/// Whether this mistake is planted.
pub(crate) fn fault(fault: Fault) -> bool {
    platform::is_planted(fault as u32)
}

impl Fault {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Fault); 18] = [
        ("not-resent", Fault::NotResent),
        ("taken-twice", Fault::TakenTwice),
        ("barrier-skipped", Fault::BarrierSkipped),
        ("names-lost", Fault::NamesLost),
        ("images-forgotten", Fault::ImagesForgotten),
        ("gone-not-purged", Fault::GoneNotPurged),
        ("waiters-forgotten", Fault::WaitersForgotten),
        ("writer-loss-ignored", Fault::WriterLossIgnored),
        ("saved-lost", Fault::SavedLost),
        ("read-beside-write", Fault::ReadBesideWrite),
        ("not-stopped", Fault::NotStopped),
        ("open-without-quorum", Fault::OpenWithoutQuorum),
        ("everyone-master", Fault::EveryoneMaster),
        ("ended-sent-on", Fault::EndedSentOn),
        ("not-repeated", Fault::NotRepeated),
        ("old-incarnation-read", Fault::OldIncarnationRead),
        ("down-read", Fault::DownRead),
        ("never-retried", Fault::NeverRetried),
    ];
}
