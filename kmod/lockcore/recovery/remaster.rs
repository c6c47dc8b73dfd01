// SPDX-License-Identifier: GPL-2.0-only
//! New masters for resources that lost theirs: their directory nodes are asked who it is, then the
//! locks of this node are made known there. Both with many questions under way at once.

use super::super::arena::Walk;
use super::super::errno::EBADR;
use super::super::fault::{fault, Fault};
use super::super::lkb::LockId;
use super::super::members::NodeId;
use super::super::shard::Image;
use super::super::wire::rcom::{Rcom, RcomKind, RcomLock};
use super::effects::{RecoveryEffects, Shards};
use super::images::Images;
use super::lookups::{Lookups, Question, WINDOW};
use super::phase::{Phase, Step};
use super::Recovery;
use crate::platform::code::EINVAL;
use crate::platform::{KVec, Result, GFP};

/// Pause before a question that got a useless answer is asked again: whoever gave it has not come
/// as far as we have.
const AGAIN_MS: u64 = 50;

impl Recovery {
    pub(super) fn ask_lookups<S: Shards, R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        mut lookups: Lookups,
        shards: &S,
        fx: &mut R,
    ) -> Step {
        if lookups.fill(shards).is_err() {
            return self.pause(now_ms, Phase::Lookups(lookups));
        }
        for question in lookups.open.iter_mut() {
            if question.id.is_some() || question.due_ms > now_ms {
                continue;
            }
            match self.request(RcomKind::Lookup, 0, question.name.as_bytes()) {
                Ok((id, packet)) => {
                    question.id = Some(id);
                    fx.send_rcom(question.to, false, &packet);
                }
                Err(_) => question.due_ms = now_ms.saturating_add(AGAIN_MS),
            }
        }
        if lookups.open.is_empty() {
            return Step::Next(Phase::Images(Images::default()));
        }
        Step::Wait(Phase::Lookups(lookups))
    }

    /// A directory node names the new master.
    pub(super) fn take_lookup<S: Shards>(
        &mut self,
        now_ms: u64,
        from: NodeId,
        rcom: &Rcom<'_>,
        shards: &S,
    ) -> Result {
        let master = NodeId(rcom.result);
        let is_member = self.known(master).is_some();
        let Phase::Lookups(lookups) = &mut self.phase else {
            return Ok(());
        };
        let fits = |question: &Question| question.id == Some(rcom.id) && question.to == from;
        let Some(at) = lookups.open.iter().position(fits) else {
            return Ok(());
        };
        if !is_member {
            // An error, or a node that is gone: it is further behind than we thought.
            if let Some(question) = lookups.open.get_mut(at) {
                question.id = None;
                question.due_ms = now_ms.saturating_add(AGAIN_MS);
            }
            return Ok(());
        }
        let name = lookups.open.get(at).map(|question| question.name);
        let mut index = 0;
        lookups.open.retain(|_| {
            index += 1;
            index != at + 1
        });
        if let Some(name) = name {
            let index = self.shard_of_name(&name, shards);
            shards.with(index, |shard, _| shard.set_master(&name, master));
        }
        Ok(())
    }

    pub(super) fn send_images<S: Shards, R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        mut images: Images,
        shards: &S,
        fx: &mut R,
    ) -> Step {
        if self.send_again(now_ms, &mut images, shards, fx).is_err() {
            return self.pause(now_ms, Phase::Images(images));
        }
        if fault(Fault::ImagesForgotten) {
            return Step::Next(Phase::Locks);
        }
        while images.shard < shards.count() && images.under_way < WINDOW {
            // What cannot be sent now for want of memory is sent again later.
            if images.again.reserve(1, GFP).is_err() {
                return self.pause(now_ms, Phase::Images(images));
            }
            let walk = &mut images.walk;
            let sent = shards.with(images.shard, |shard, _| {
                shard
                    .next_image(walk)
                    .map(|image| (image.id, self.send_image(&image, fx)))
            });
            match sent {
                Some((_, Ok(()))) => images.under_way = images.under_way.wrapping_add(1),
                Some((id, Err(_))) => {
                    let _ = images
                        .again
                        .push((id, now_ms.saturating_add(AGAIN_MS)), GFP);
                }
                None => {
                    images.shard = images.shard.wrapping_add(1);
                    images.walk = Walk::default();
                }
            }
        }
        if images.under_way == 0 && images.again.is_empty() && images.shard >= shards.count() {
            return Step::Next(Phase::Locks);
        }
        Step::Wait(Phase::Images(images))
    }

    /// Sends what was refused before. An error: no memory.
    fn send_again<S: Shards, R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        images: &mut Images,
        shards: &S,
        fx: &mut R,
    ) -> Result {
        for at in (0..images.again.len()).rev() {
            let Some((id, _)) = images
                .again
                .get(at)
                .copied()
                .filter(|(_, due)| *due <= now_ms)
            else {
                continue;
            };
            let index = self.shard_of_lock(id.raw(), shards);
            let sent = shards.with(index, |shard, _| {
                shard.image(id).map(|image| self.send_image(&image, fx))
            });
            match sent {
                Some(Err(error)) => return Err(error),
                Some(Ok(())) => images.under_way = images.under_way.wrapping_add(1),
                // It is gone, or needs no new master any more.
                None => {}
            }
            let last = images.again.len().wrapping_sub(1);
            images.again.swap(at, last);
            images.again.pop();
        }
        Ok(())
    }

    fn send_image<R: RecoveryEffects>(&mut self, image: &Image<'_>, fx: &mut R) -> Result {
        let mut payload = KVec::new();
        payload.extend_from_slice(&image.lock.encode(), GFP)?;
        payload.extend_from_slice(image.lock.lvb, GFP)?;
        let (_, packet) = self.request(RcomKind::Lock, 0, &payload)?;
        fx.send_rcom(image.to, false, &packet);
        Ok(())
    }

    /// The new master has a lock of this node, or says why not.
    pub(super) fn take_lock<S: Shards>(
        &mut self,
        now_ms: u64,
        from: NodeId,
        rcom: &Rcom<'_>,
        shards: &S,
    ) -> Result {
        let lock = RcomLock::decode(rcom.payload).ok_or(EINVAL)?;
        let id = LockId::from_raw(lock.lkid);
        let index = self.shard_of_lock(lock.lkid, shards);
        let Phase::Images(images) = &mut self.phase else {
            return Ok(());
        };
        if lock.result == EBADR {
            images
                .again
                .push((id, now_ms.saturating_add(AGAIN_MS)), GFP)?;
        }
        images.under_way = images.under_way.saturating_sub(1);
        if lock.result != EBADR {
            shards.with(index, |shard, _| {
                shard.rebuilt(from, id, lock.remid, lock.result)
            });
        }
        Ok(())
    }
}
