// SPDX-License-Identifier: GPL-2.0-only
//! The work item that receives and delivers.

use kernel::{
    prelude::*,
    sync::{
        atomic::ordering,
        Arc, //
    }, //
};

use super::{
    Link,
    PeerNode,
    NO_MEMORY_MS, //
};
use crate::ffi::time::{
    self,
    now_ms, //
};
use crate::lockcore::connection::{
    Ending,
    SocketState, //
};
use crate::lockcore::framer::Framer;
use crate::lockcore::wire::header::{
    Header,
    Malformed, //
};
use crate::lockcore::wire::rcom::{
    Config,
    Rcom,
    RcomKind,
    NOT_READY, //
};
use crate::transport::Delivered;

/// Reads of one connection before others get a turn.
const READS_MAX: u32 = 64;

/// What reading a connection came to.
enum Read {
    /// There is nothing more now.
    Empty,
    /// There may be more.
    More,
    /// The connection has ended.
    Ended(Ending),
}

impl PeerNode {
    /// Reads what there is on both connections.
    pub(super) fn receive_all(self: &Arc<Self>) {
        let links = {
            let state = self.state.lock();
            let ids = state.machine.readable();
            ids.map(|id| state.link(id).cloned())
        };
        for link in links.into_iter().flatten() {
            match self.read(&link) {
                Read::Empty => {}
                Read::More => self.receive_later(),
                Read::Ended(ending) => self.broken(&link, ending),
            }
        }
    }

    fn read(self: &Arc<Self>, link: &Arc<Link>) -> Read {
        if link.state() == SocketState::Connecting {
            return Read::Empty;
        }
        let mut framer = link.framer.lock();
        for _ in 0..READS_MAX {
            match link.socket.receive(framer.space()) {
                Ok(0) => return Read::Ended(Ending::InOrder),
                Ok(len) => framer.filled(len),
                Err(e) if e == EAGAIN => return Read::Empty,
                Err(_) => return Read::Ended(Ending::Reset),
            }
            if self.take_packets(link, &mut framer).is_err() {
                return Read::Ended(Ending::Reset);
            }
        }
        Read::More
    }

    fn take_packets(
        self: &Arc<Self>,
        link: &Arc<Link>,
        framer: &mut Framer,
    ) -> Result<(), Malformed> {
        loop {
            match framer.next_packet() {
                Ok(Some(packet)) => self.packet(link, packet),
                Ok(None) => return Ok(()),
                Err(malformed) => {
                    self.count_unreadable();
                    pr_warn!("node {}: not a packet, connection closed\n", self.node.0);
                    return Err(malformed);
                }
            }
        }
    }

    fn count_unreadable(&self) {
        self.unreadable.fetch_add(1, ordering::Relaxed);
    }

    /// One packet of the stream.
    fn packet(self: &Arc<Self>, link: &Arc<Link>, packet: &[u8]) {
        let (delivered, incarnation) = self.with(|machine, fx| {
            let delivered = machine.receive(now_ms(), link.id, packet, fx);
            (delivered, machine.config().incarnation)
        });
        // An answer may be due, now or later.
        self.look();
        if let Some(packet) = delivered {
            self.deliver(packet, incarnation);
        }
    }

    /// Hands a packet of this incarnation to its lockspace; it is the next one in order until that
    /// has taken it, for the peer may never send it again.
    fn deliver(self: &Arc<Self>, inner: &[u8], incarnation: u64) {
        loop {
            match (self.shared.hooks.deliver)(self.node, inner) {
                Delivered::Done => return,
                Delivered::UnknownLockspace => return self.answer_not_ready(inner),
                Delivered::Malformed => return self.count_unreadable(),
                Delivered::NoMemory if self.is_over(incarnation) => return,
                Delivered::NoMemory => time::sleep_ms(NO_MEMORY_MS),
            }
        }
    }

    /// Whether nothing of this incarnation counts any more. It may be down and come up again.
    fn is_over(&self, incarnation: u64) -> bool {
        self.state.lock().machine.is_over(incarnation)
    }

    /// Who asks for the status of a lockspace that is not here is told so; anything else about it
    /// is late.
    fn answer_not_ready(self: &Arc<Self>, inner: &[u8]) {
        let header = Header::decode(inner);
        let question = Rcom::decode(inner).filter(|rcom| rcom.kind == RcomKind::Status);
        let (Some(header), Some(question)) = (header, question) else {
            return self.count_unreadable();
        };
        let config = Config::NOT_READY.encode();
        let answer = Rcom {
            kind: RcomKind::StatusReply,
            result: NOT_READY,
            id: question.id,
            seq: 0,
            seq_reply: question.seq,
            payload: &config,
        };
        // Outside the sequence: the peer may still count from before this node left, and must not
        // take the first number of the new sequence for one of the old. It asks again if this gets
        // lost, or if there is no memory.
        if let Ok(packet) = answer.encode(header.lockspace, self.own.node) {
            self.send(&packet, false);
        }
    }
}
