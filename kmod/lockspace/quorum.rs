// SPDX-License-Identifier: GPL-2.0-only
//! Whether this node may act for the cluster, and what follows for every lockspace.
//!
//! Membership says it ([`set_quorate`]); a node that was never told may not. Without quorum a
//! lockspace grants nothing, neither here nor to others, and works nothing off: the majority may be
//! giving away what this node holds or masters, once it has seen to it that this node cannot write.
//! Quorate again, and nothing stopped meanwhile, lockspaces go on without a recovery.

use kernel::{
    prelude::*,
    sync::atomic::{
        ordering,
        Atomic, //
    }, //
};

use super::{
    recovery::{
        Outside,
        Reach, //
    },
    registry,
    Lockspace, //
};
use crate::ffi::memory::NoReclaim;

static QUORATE: Atomic<bool> = Atomic::new(false);

/// Membership says whether this node may act. Returns when every lockspace heeds it: none of them
/// grants anything after `false`.
pub(crate) fn set_quorate(quorate: bool) {
    let before = QUORATE.xchg(quorate, ordering::Full);
    registry::for_each(&mut |ls| {
        if before != quorate {
            let word = if quorate {
                "quorate again, goes on"
            } else {
                "no quorum, waits"
            };
            pr_info!("{}: {}\n", ls.display_name(), word);
        }
        ls.heed_quorum();
    });
}

impl Lockspace {
    /// Does what membership said last. Called for every lockspace on the list when that changes,
    /// and for a new one when it is on the list, so that none misses it.
    pub(super) fn heed_quorum(&self) {
        {
            let _memory = NoReclaim::enter();
            let mut recovery = self.recovery.lock();
            // Read under the mutex: of two calls, the later one has the later word.
            let quorate = QUORATE.load(ordering::Acquire);
            if !quorate {
                self.gate.close();
            }
            recovery.set_quorate(quorate, &Reach(self), &mut Outside(self));
            if self.is_gone() {
                self.gate.open();
            }
        }
        self.wake_recoverd();
    }
}
