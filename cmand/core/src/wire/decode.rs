// SPDX-License-Identifier: GPL-2.0-only
//! Bytes to messages; the layout is at the top of `wire.rs`.

use super::Ballot;
use super::CHUNK_LIMIT;
use super::Chunk;
use super::Entry;
use super::FileSummary;
use super::GROUPS_LIMIT;
use super::Heartbeat;
use super::Malformed;
use super::Message;
use super::NODE_LIMIT;
use super::NodeIdOrNone;
use super::Reader;
use super::TEXT_LIMIT;
use super::Value;
use crate::BootId;
use crate::Incarnation;
use crate::Member;
use crate::NodeId;
use crate::ViewId;

impl Message {
    /// The message in these bytes.
    ///
    /// # Errors
    /// [`Malformed`] for anything that [`Message::encode`] does not give.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let message = read(&mut reader)?;
        reader.end()?;
        Ok(message)
    }
}

fn read(from: &mut Reader<'_>) -> Result<Message, Malformed> {
    Ok(match from.u8()? {
        1 => Message::Heartbeat(heartbeat(from)?),
        2 => Message::Propose {
            ballot: ballot(from)?,
            base: from.option(view)?,
            members: from.list(NODE_LIMIT, member)?,
        },
        3 => Message::Promise {
            ballot: ballot(from)?,
            base: from.option(view)?,
            received: from.number()?,
            floor: from.number()?,
            pending: from.option(|from| Ok((ballot(from)?, value(from)?)))?,
        },
        4 => Message::Reject {
            ballot: ballot(from)?,
            promised: ballot(from)?,
        },
        5 => Message::Accept {
            ballot: ballot(from)?,
            value: value(from)?,
        },
        6 => Message::Accepted {
            ballot: ballot(from)?,
        },
        7 => Message::Commit { id: view(from)? },
        8 => Message::Submit {
            view: view(from)?,
            number: from.number()?,
            chunk: chunk(from)?,
        },
        9 => Message::Order {
            view: view(from)?,
            entry: entry(from)?,
            stable: from.number()?,
        },
        10 => Message::Ack {
            view: view(from)?,
            received: from.number()?,
            highest: from.number()?,
        },
        11 => Message::Stable {
            view: view(from)?,
            stable: from.number()?,
        },
        12 => Message::Fetch {
            view: view(from)?,
            first: from.number()?,
            last: from.number()?,
        },
        13 => Message::Fill {
            view: view(from)?,
            entry: entry(from)?,
        },
        14 => Message::FetchView { id: view(from)? },
        15 => Message::Install {
            value: value(from)?,
        },
        16 => Message::Refuse {
            incarnation: Incarnation(from.u64()?),
            text: from.text(TEXT_LIMIT)?,
        },
        17 => Message::File {
            summary: summary(from)?,
        },
        _ => return Err(Malformed),
    })
}

fn summary(from: &mut Reader<'_>) -> Result<FileSummary, Malformed> {
    Ok(FileSummary {
        expected_votes: from.u32()?,
        detection_ms: from.u64()?,
        nodes: from.list(NODE_LIMIT, |from| Ok((node(from)?, from.u32()?)))?,
    })
}

fn heartbeat(from: &mut Reader<'_>) -> Result<Heartbeat, Malformed> {
    let boot = BootId(from.array16()?);
    let (config, time) = (from.u64()?, from.u64()?);
    let echo = (Incarnation(from.u64()?), from.u64()?);
    let view = from.option(view)?;
    let flags = from.u8()?;
    if flags >= 64 {
        return Err(Malformed);
    }
    Ok(Heartbeat {
        boot,
        config,
        time,
        echo,
        view,
        quorate: flags & 1 != 0,
        member: flags & 2 != 0,
        blocked: flags & 4 != 0,
        joining: flags & 8 != 0,
        stopped: flags & 16 != 0,
        founds: flags & 32 != 0,
        round: from.number()?,
        heard: from.list(NODE_LIMIT, node)?,
        received: from.number()?,
        stable: from.number()?,
    })
}

fn node(from: &mut Reader<'_>) -> Result<NodeId, Malformed> {
    match from.u32()? {
        0 => Err(Malformed),
        id => Ok(NodeId(id)),
    }
}

fn ballot(from: &mut Reader<'_>) -> Result<Ballot, Malformed> {
    Ok(Ballot {
        round: from.number()?,
        proposer: NodeIdOrNone(from.u32()?),
    })
}

fn view(from: &mut Reader<'_>) -> Result<ViewId, Malformed> {
    Ok(ViewId {
        number: from.number()?,
        tag: from.u64()?,
    })
}

fn member(from: &mut Reader<'_>) -> Result<Member, Malformed> {
    Ok(Member {
        node: node(from)?,
        incarnation: Incarnation(from.u64()?),
        boot: BootId(from.array16()?),
    })
}

fn flagged(from: &mut Reader<'_>) -> Result<(Member, bool), Malformed> {
    Ok((member(from)?, from.bool()?))
}

fn chunk(from: &mut Reader<'_>) -> Result<Chunk, Malformed> {
    Ok(Chunk {
        more: from.bool()?,
        bytes: from.bytes(CHUNK_LIMIT)?.to_vec(),
    })
}

fn entry(from: &mut Reader<'_>) -> Result<Entry, Malformed> {
    Ok(Entry {
        sequence: from.number()?,
        sender: node(from)?,
        number: from.number()?,
        chunk: chunk(from)?,
    })
}

fn value(from: &mut Reader<'_>) -> Result<Value, Malformed> {
    Ok(Value {
        id: view(from)?,
        base: from.option(view)?,
        flush: from.number()?,
        quorate: from.bool()?,
        members: from.list(NODE_LIMIT, flagged)?,
        departed: from.list(NODE_LIMIT, flagged)?,
        groups: from.bytes(GROUPS_LIMIT)?.to_vec(),
    })
}
