// SPDX-License-Identifier: GPL-2.0-only
//! Messages to bytes; the layout is at the top of `wire.rs`.

use super::Ballot;
use super::Chunk;
use super::Entry;
use super::Heartbeat;
use super::Message;
use super::Value;
use super::Writer;
use crate::Member;
use crate::ViewId;

impl Message {
    /// The bytes of the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u8(self.kind());
        match self {
            Self::Heartbeat(beat) => heartbeat(&mut out, beat),
            Self::Propose {
                ballot: attempt,
                base,
                members,
            } => {
                ballot(&mut out, attempt);
                out.option(base.as_ref(), view);
                out.list(members, member);
            }
            Self::Promise {
                ballot: attempt,
                base,
                received,
                floor,
                pending,
            } => {
                ballot(&mut out, attempt);
                out.option(base.as_ref(), view);
                out.u64(*received);
                out.u64(*floor);
                out.option(pending.as_ref(), |out, (accepted, content)| {
                    ballot(out, accepted);
                    value(out, content);
                });
            }
            Self::Reject {
                ballot: attempt,
                promised,
            } => {
                ballot(&mut out, attempt);
                ballot(&mut out, promised);
            }
            Self::Accept {
                ballot: attempt,
                value: content,
            } => {
                ballot(&mut out, attempt);
                value(&mut out, content);
            }
            Self::Accepted { ballot: attempt } => ballot(&mut out, attempt),
            Self::Commit { id } | Self::FetchView { id } => view(&mut out, id),
            Self::Submit {
                view: of,
                number,
                chunk: content,
            } => {
                view(&mut out, of);
                out.u64(*number);
                chunk(&mut out, content);
            }
            Self::Order {
                view: of,
                entry: content,
                stable,
            } => {
                view(&mut out, of);
                entry(&mut out, content);
                out.u64(*stable);
            }
            Self::Ack {
                view: of,
                received: a,
                highest: b,
            }
            | Self::Fetch {
                view: of,
                first: a,
                last: b,
            } => {
                view(&mut out, of);
                out.u64(*a);
                out.u64(*b);
            }
            Self::Stable { view: of, stable } => {
                view(&mut out, of);
                out.u64(*stable);
            }
            Self::Fill {
                view: of,
                entry: content,
            } => {
                view(&mut out, of);
                entry(&mut out, content);
            }
            Self::Install { value: content } => value(&mut out, content),
            Self::Refuse { incarnation, text } => {
                out.u64(incarnation.0);
                out.bytes(text.as_bytes());
            }
            Self::File { summary } => {
                out.u32(summary.expected_votes);
                out.u64(summary.detection_ms);
                out.list(&summary.nodes, |out, (node, votes)| {
                    out.u32(node.0);
                    out.u32(*votes);
                });
            }
        }
        out.0
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Heartbeat(_) => 1,
            Self::Propose { .. } => 2,
            Self::Promise { .. } => 3,
            Self::Reject { .. } => 4,
            Self::Accept { .. } => 5,
            Self::Accepted { .. } => 6,
            Self::Commit { .. } => 7,
            Self::Submit { .. } => 8,
            Self::Order { .. } => 9,
            Self::Ack { .. } => 10,
            Self::Stable { .. } => 11,
            Self::Fetch { .. } => 12,
            Self::Fill { .. } => 13,
            Self::FetchView { .. } => 14,
            Self::Install { .. } => 15,
            Self::Refuse { .. } => 16,
            Self::File { .. } => 17,
        }
    }
}

fn heartbeat(out: &mut Writer, beat: &Heartbeat) {
    out.raw(&beat.boot.0);
    out.u64(beat.config);
    out.u64(beat.time);
    out.u64(beat.echo.0.0);
    out.u64(beat.echo.1);
    out.option(beat.view.as_ref(), view);
    let flags = [
        beat.quorate,
        beat.member,
        beat.blocked,
        beat.joining,
        beat.stopped,
        beat.founds,
    ];
    let flags = flags.iter().enumerate();
    out.u8(flags.fold(0, |bits, (bit, set)| bits | u8::from(*set) << bit));
    out.u64(beat.round);
    out.list(&beat.heard, |out, node| out.u32(node.0));
    out.u64(beat.received);
    out.u64(beat.stable);
}

fn ballot(out: &mut Writer, ballot: &Ballot) {
    out.u64(ballot.round);
    out.u32(ballot.proposer.0);
}

fn view(out: &mut Writer, id: &ViewId) {
    out.u64(id.number);
    out.u64(id.tag);
}

fn member(out: &mut Writer, member: &Member) {
    out.u32(member.node.0);
    out.u64(member.incarnation.0);
    out.raw(&member.boot.0);
}

fn flagged(out: &mut Writer, (who, flag): &(Member, bool)) {
    member(out, who);
    out.bool(*flag);
}

fn chunk(out: &mut Writer, chunk: &Chunk) {
    out.bool(chunk.more);
    out.bytes(&chunk.bytes);
}

fn entry(out: &mut Writer, entry: &Entry) {
    out.u64(entry.sequence);
    out.u32(entry.sender.0);
    out.u64(entry.number);
    chunk(out, &entry.chunk);
}

fn value(out: &mut Writer, value: &Value) {
    view(out, &value.id);
    out.option(value.base.as_ref(), view);
    out.u64(value.flush);
    out.bool(value.quorate);
    out.list(&value.members, flagged);
    out.list(&value.departed, flagged);
    out.bytes(&value.groups);
}
