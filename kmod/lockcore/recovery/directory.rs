// SPDX-License-Identifier: GPL-2.0-only
//! Rebuilding the directory: every member asks every other one for the names it masters whose
//! directory node the asker is. One question at a time to each member, to all of them at once.

use super::super::arena::Walk;
use super::super::fault::{fault, Fault};
use super::super::hash::name_hash;
use super::super::members::NodeId;
use super::super::name::ResourceName;
use super::super::wire::names::{End, Reader, Writer};
use super::super::wire::rcom::{Rcom, RcomKind};
use super::effects::{RecoveryEffects, Shards};
use super::names::{Asked, Names};
use super::phase::{Phase, Step};
use super::Recovery;
use crate::platform::code::EINVAL;
use crate::platform::Result;

/// A question that got no answer for so long is asked again, as the protocol has it.
const ASK_AGAIN_MS: u64 = 5000;

impl Recovery {
    /// Asks whoever is due.
    pub(super) fn ask_names<R: RecoveryEffects>(
        &mut self,
        now_ms: u64,
        mut names: Names,
        fx: &mut R,
    ) -> Step {
        if names.asked.is_none() {
            let own = self.own;
            let others = self.members.iter().map(|known| known.start.node);
            if names.begin(others.filter(|node| *node != own)).is_err() {
                return self.pause(now_ms, Phase::Names(names));
            }
        }
        for asked in names.asked.iter_mut().flat_map(|list| list.iter_mut()) {
            if asked.is_done || asked.due_ms > now_ms {
                continue;
            }
            let last = asked.last;
            let payload = last.as_ref().map_or(&[][..], |name| name.as_bytes());
            // Without memory it is asked again as if the question had been lost.
            if let Ok((id, packet)) = self.request(RcomKind::Names, 0, payload) {
                asked.id = id;
                fx.send_rcom(asked.node, false, &packet);
            }
            asked.due_ms = now_ms.saturating_add(ASK_AGAIN_MS);
        }
        let mut open = names.asked.iter().flat_map(|list| list.iter());
        if open.any(|asked| !asked.is_done) {
            return Step::Wait(Phase::Names(names));
        }
        Step::Next(Phase::Directory)
    }

    /// A block of names that another member masters.
    pub(super) fn take_names<S: Shards>(
        &mut self,
        now_ms: u64,
        from: NodeId,
        rcom: &Rcom<'_>,
        shards: &S,
    ) -> Result {
        let waits = |asked: &&mut Asked| asked.node == from && !asked.is_done;
        let Phase::Names(Names { asked: Some(list) }) = &mut self.phase else {
            return Ok(());
        };
        let asked = list
            .iter_mut()
            .find(waits)
            .filter(|asked| asked.id == rcom.id);
        let Some(mut last) = asked.map(|asked| asked.last) else {
            return Ok(());
        };
        let mut reader = Reader::new(rcom.payload);
        for name in reader.by_ref() {
            let index = self.shard_of_name(&name, shards);
            // Want of memory: the whole block comes again, which does no harm.
            if !fault(Fault::NamesLost) {
                shards.with(index, |shard, _| shard.add_directory(&name, from))?;
            }
            last = Some(name);
        }
        let end = reader.end().ok_or(EINVAL)?;
        let Phase::Names(Names { asked: Some(list) }) = &mut self.phase else {
            return Ok(());
        };
        if let Some(asked) = list.iter_mut().find(waits) {
            asked.is_done = end == End::All;
            asked.last = last;
            asked.due_ms = now_ms;
        }
        Ok(())
    }

    /// Names mastered here whose directory node the asker is, from behind the last one it has.
    pub(super) fn answer_names<S: Shards, R: RecoveryEffects>(
        &mut self,
        from: NodeId,
        rcom: &Rcom<'_>,
        shards: &S,
        fx: &mut R,
    ) -> Result {
        let (mut index, mut walk) = (0, Walk::default());
        if !rcom.payload.is_empty() {
            let last = ResourceName::new(rcom.payload).ok_or(EINVAL)?;
            let at = self.shard_of_name(&last, shards);
            // A name that is not here any more: from the start, names told twice do no harm.
            if let Some(found) = shards.with(at, |shard, _| shard.walk_behind(&last)) {
                (index, walk) = (at, found);
            }
        }
        let mut block = Writer::new()?;
        let mut end = End::All;
        while index < shards.count() && end == End::All {
            end = shards.with(index, |shard, _| {
                while let Some((name, directory)) = shard.next_mastered(&mut walk) {
                    // The block has no way to say an empty name.
                    let tells = directory == from && !name.as_bytes().is_empty();
                    if tells && !block.push(&name) {
                        return End::More;
                    }
                }
                End::All
            });
            index = index.wrapping_add(1);
            walk = Walk::default();
        }
        let payload = block.finish(end);
        self.reply(from, rcom, RcomKind::NamesReply, 0, &payload, fx)
    }

    /// Who is the new master of a name, says its directory node: who asks first.
    pub(super) fn answer_lookup<S: Shards, R: RecoveryEffects>(
        &mut self,
        from: NodeId,
        rcom: &Rcom<'_>,
        shards: &S,
        fx: &mut R,
    ) -> Result {
        let name = ResourceName::new(rcom.payload).ok_or(EINVAL)?;
        let hash = name_hash(name.as_bytes());
        let table = self.table.as_ref().ok_or(EINVAL)?;
        if table.directory_node(hash) != self.own {
            return Err(EINVAL);
        }
        let index = self.shard_of_name(&name, shards);
        let master = shards.with(index, |shard, _| shard.claim_or_lookup(&name, from))?;
        self.reply(from, rcom, RcomKind::LookupReply, master.0, &[], fx)
    }
}
