// SPDX-License-Identifier: GPL-2.0-only
//! Seeded simulation of a whole cluster.
//!
//! What runs is the source that the kernel module and the daemons run: membership with its sealed
//! datagrams, the fence domain, the choreography of lockspaces, shards, recovery, and conversations
//! with peers. Around it are models: machines with power and processes, a network that delays,
//! loses and breaks, fence agents, and clients ([`world`]). One number decides everything, so that
//! a run can be repeated; [`truth`] checks after each step what clients may rely on, [`views`] what
//! daemons may.
//!
//! A run has two parts. First things go wrong, as the [`plan`] of the seed has it, and nothing may
//! be broken. Then everything is healed, and all that was asked for must be done.

pub mod kernel;
pub mod plan;
pub mod random;
pub mod truth;
pub mod views;
pub mod world;

use dlm_core::lockcore::fault::Fault;

pub use truth::Violation;
pub use world::{Summary, run};

/// A mistake that is planted, to see it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// In the lock manager.
    Locking(Fault),
    /// dlm_controld is told that nobody needs to be fenced.
    FencingIgnored,
    /// One vote is a quorum.
    MinorityActs,
    /// cmand does not keep which configuration was in force.
    FileForgotten,
    /// A fence agent says that it has done what it has not.
    AgentLies,
    /// A fence daemon that joins is told of no victim.
    SnapshotShort,
    /// Fence daemons are not told that a boot is heard that was fenced.
    ReturnIgnored,
    /// cmand keeps nobody out that was cut off from storage.
    KeptIn,
}

impl Mistake {
    /// All of them, by name.
    #[must_use]
    pub fn all() -> Vec<(&'static str, Self)> {
        let locking = Fault::ALL.into_iter();
        let locking = locking.map(|(name, fault)| (name, Self::Locking(fault)));
        let around = [
            ("fencing-ignored", Self::FencingIgnored),
            ("minority-acts", Self::MinorityActs),
            ("file-forgotten", Self::FileForgotten),
            ("agent-lies", Self::AgentLies),
            ("snapshot-short", Self::SnapshotShort),
            ("return-ignored", Self::ReturnIgnored),
            ("kept-in", Self::KeptIn),
        ];
        locking.chain(around).collect()
    }
}
