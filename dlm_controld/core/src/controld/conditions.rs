// SPDX-License-Identifier: GPL-2.0-only
//! The conditions under which a lockspace goes on: the rule this crate is for.
//! Only reads; whoever asks does what the answer allows.

use crate::lockspace::Kernel;
use crate::lockspace::Lockspace;
use crate::lockspace::Stage;
use crate::report::Wait;

use super::Controld;

/// What an advancing lockspace may do.
pub(super) enum Step {
    Wait(Wait),
    Send,
    Start,
}

impl Controld {
    pub(super) fn next_step(&self, lockspace: &Lockspace) -> Step {
        match self.obstacle(lockspace) {
            Some(wait) => Step::Wait(wait),
            None => match &lockspace.change {
                None => Step::Wait(Wait::None),
                Some(change) if !change.sent => Step::Send,
                Some(_) => Step::Start,
            },
        }
    }

    /// What keeps the pending change from its next step. The order is that of
    /// the steps; the first that applies is the one to tell.
    pub(super) fn obstacle(&self, lockspace: &Lockspace) -> Option<Wait> {
        match lockspace.stage {
            Stage::Waiting => return Some(Wait::Protocol),
            // Nothing is sent to a group that is being left, and nothing started in it: cmand
            // refuses the one, and the other would be of a membership that is over.
            Stage::Joining | Stage::Leaving => return Some(Wait::Group),
            Stage::Member | Stage::Left => {}
        }
        let change = lockspace.change.as_ref()?;
        if self.halted {
            return Some(Wait::Halted);
        }
        if lockspace.kernel != Kernel::Stopped {
            return Some(Wait::Stop);
        }
        if !self.own.is_known_holder() {
            return Some(Wait::Announcement);
        }
        if self
            .view
            .as_ref()
            .is_none_or(|view| view.number < change.view)
        {
            return Some(Wait::View);
        }
        if !self.quorate {
            return Some(Wait::Quorum);
        }
        let unfenced = lockspace.unfenced();
        if !unfenced.is_empty() {
            return Some(Wait::Fencing(unfenced));
        }
        if !change.sent {
            return None;
        }
        let missing = change.missing();
        if !missing.is_empty() {
            return Some(Wait::Messages(missing));
        }
        if !change.is_all_fresh() {
            return None;
        }
        // Nobody here knows who failed before: any victim may be one of them.
        match self.fencing.outstanding(change.view) {
            Some(outstanding) if outstanding.is_empty() => None,
            Some(outstanding) => Some(Wait::Fencing(outstanding.into_iter().collect())),
            None => Some(Wait::Fencing(Vec::new())),
        }
    }
}
