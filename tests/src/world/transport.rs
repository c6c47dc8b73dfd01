// SPDX-License-Identifier: GPL-2.0-only
//! Connections between machines: bytes arrive in order and late, and a connection may break with
//! what is under way.

use std::collections::VecDeque;

use dlm_core::lockcore::framer::Framer;

use super::{Event, World, trace};
use crate::kernel::PeerSink;
use crate::truth::{Violation, broken};

/// Pause before a connection is tried again, ms.
const RECONNECT_MS: u64 = 120;

/// One direction between two lives.
pub(super) struct Connection {
    from: u32,
    from_life: u32,
    to: u32,
    to_life: u32,
    chunks: VecDeque<(u64, Vec<u8>)>,
    framer: Framer,
}

impl Connection {
    /// Who reads from it.
    pub(super) fn receiver(&self) -> u32 {
        self.to
    }
}

impl World {
    /// Sends a packet of a node's kernel.
    pub(super) fn transmit(&mut self, node: u32, to: u32, sequenced: bool, packet: &[u8]) {
        self.talk(node, to, |now_ms, peer, sink| {
            while peer.send(now_ms, packet, sequenced, sink).is_err() {
                dlm_core::platform::fail::after(None);
            }
        });
    }

    /// Calls the conversation of `node` with `with`, and carries out what comes of it.
    pub(super) fn talk<R>(
        &mut self,
        node: u32,
        with: u32,
        f: impl FnOnce(u64, &mut dlm_core::lockcore::peer::Peer, &mut PeerSink) -> R,
    ) -> Option<R> {
        let now_ms = self.now_ms;
        let link = self.link(node, with)?;
        let mut sink = PeerSink::default();
        let before = link.peer.state();
        let result = f(now_ms, &mut link.peer, &mut sink);
        let after = link.peer.state();
        let connection = link.connection;
        if before != after {
            trace!(
                self,
                "node {node} and {with}: {} to {}",
                before.name(),
                after.name()
            );
        }
        if let Some(id) = connection.filter(|_| !sink.out.is_empty()) {
            self.put(id, sink.out);
        }
        if sink.closed {
            // What was said last still gets there.
            if let Some(id) = connection {
                self.break_connection(id, 100);
            }
            self.refuse(with, node);
        }
        self.see_to_connection(node, with);
        Some(result)
    }

    fn put(&mut self, id: u64, bytes: Vec<u8>) {
        let delay = self.random.within(0, self.plan.wire_ms);
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let last = connection.chunks.back_mut();
        match last {
            Some((at, chunk)) if *at >= now_ms + delay => chunk.extend(bytes),
            Some(_) | None => {
                connection.chunks.push_back((now_ms + delay, bytes));
                self.after(delay, Event::Arrive { connection: id });
            }
        }
    }

    /// Has a connection made if there is use for one.
    fn see_to_connection(&mut self, node: u32, with: u32) {
        let Some(life) = self.machines.get(&node).map(|machine| machine.life) else {
            return;
        };
        let Some(link) = self.link(node, with) else {
            return;
        };
        let wanted = link.up && (link.users > 0 || link.peer.needs_connection());
        if wanted && link.connection.is_none() && !link.connecting {
            link.connecting = true;
            let delay = self.random.within(0, self.plan.wire_ms);
            self.after(
                delay,
                Event::Connect {
                    from: node,
                    life,
                    to: with,
                },
            );
        }
    }

    /// Makes a connection, if the other node can be reached and knows this one.
    pub(super) fn connect(&mut self, from: u32, to: u32) {
        let (Some(here), Some(there)) = (self.machines.get(&from), self.machines.get(&to)) else {
            return;
        };
        let (from_life, to_life) = (here.life, there.life);
        let reachable = here.side == there.side && there.up;
        let knows = there.kernel.links.contains_key(&from);
        let Some(link) = self.link(from, to) else {
            return;
        };
        link.connecting = false;
        if !link.up || link.connection.is_some() {
            return;
        }
        if !reachable || !knows {
            link.connecting = true;
            let life = from_life;
            return self.after(RECONNECT_MS, Event::Connect { from, life, to });
        }
        let id = self.next_connection;
        self.next_connection += 1;
        if let Some(link) = self.link(from, to) {
            link.connection = Some(id);
        }
        let connection = Connection {
            from,
            from_life,
            to,
            to_life,
            chunks: VecDeque::new(),
            framer: Framer::new().expect("no allocation is made to fail here"),
        };
        self.connections.insert(id, connection);
        self.talk(from, to, |now_ms, peer, sink| peer.connected(now_ms, sink));
    }

    /// The sender of a connection learns that it is no more.
    fn lose(&mut self, id: u64, node: u32, life: u32, with: u32) {
        if !self.is_life(node, life) {
            return;
        }
        let Some(link) = self.link(node, with) else {
            return;
        };
        if link.connection == Some(id) {
            link.connection = None;
            link.peer.disconnected();
            self.see_to_connection(node, with);
        }
    }

    /// Breaks a connection. `left`: how much of what is under way still arrives, in percent.
    fn break_connection(&mut self, id: u64, left: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let (from, from_life, to) = (connection.from, connection.from_life, connection.to);
        let total: usize = connection.chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        let mut keep = total * left as usize / 100;
        for (_, chunk) in &mut connection.chunks {
            chunk.truncate(keep);
            keep -= chunk.len();
        }
        if left == 0 {
            self.connections.remove(&id);
        }
        self.summary.cuts += 1;
        self.lose(id, from, from_life, to);
    }

    /// Breaks one connection.
    pub(super) fn cut_one(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        if let Some(id) = self.random.pick(&ids) {
            let left = self.random.within(0, 100);
            trace!(self, "connection {id} breaks, {left}% still arrives");
            self.break_connection(id, left);
        }
    }

    /// Breaks all connections between parts of the network.
    pub(super) fn cut_across(&mut self) {
        let side = |node: &u32| self.machines.get(node).map(|machine| machine.side);
        let across = |c: &&Connection| side(&c.from) != side(&c.to);
        let ids = self.connections.iter().filter(|(_, c)| across(c));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            self.break_connection(id, 0);
        }
    }

    /// Breaks all connections from and to a machine.
    pub(super) fn cut_off(&mut self, node: u32) {
        let of = |c: &Connection| c.from == node || c.to == node;
        let ids = self.connections.iter().filter(|(_, c)| of(c));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            self.break_connection(id, 0);
        }
    }

    /// A node stops or begins to trust another: connections between the two are closed.
    pub(super) fn cut_between(&mut self, a: u32, b: u32) {
        let of = |c: &Connection| (c.from, c.to) == (a, b) || (c.from, c.to) == (b, a);
        let ids = self.connections.iter().filter(|(_, c)| of(c));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            self.break_connection(id, 0);
        }
    }

    /// A node closes the connection that another one sends on.
    fn refuse(&mut self, from: u32, to: u32) {
        let of = |c: &Connection| (c.from, c.to) == (from, to);
        let ids = self.connections.iter().filter(|(_, c)| of(c));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            self.break_connection(id, 0);
        }
    }

    /// Bytes arrive.
    pub(super) fn arrive(&mut self, id: u64) -> Result<(), Violation> {
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get(&id) else {
            return Ok(());
        };
        let from = connection.from;
        let (to, to_life) = (connection.to, connection.to_life);
        let listens = self.is_life(to, to_life) && self.link(to, from).is_some();
        if !listens {
            self.break_connection(id, 0);
            return Ok(());
        }
        if self.link(to, from).is_some_and(|link| !link.up) {
            // It waits unread until membership says more.
            return Ok(());
        }
        while let Some(connection) = self.connections.get_mut(&id) {
            if connection.chunks.front().is_none_or(|(at, _)| *at > now_ms) {
                break;
            }
            let Some((_, chunk)) = connection.chunks.pop_front() else {
                break;
            };
            let mut packets = Vec::new();
            let mut rest = &chunk[..];
            while !rest.is_empty() {
                let space = connection.framer.space();
                let count = rest.len().min(space.len());
                space[..count].copy_from_slice(&rest[..count]);
                connection.framer.filled(count);
                rest = &rest[count..];
                loop {
                    match connection.framer.next_packet() {
                        Ok(Some(packet)) => packets.push(packet.to_vec()),
                        Ok(None) => break,
                        Err(_) => return broken(format!("connection {id} lost its framing")),
                    }
                }
            }
            for packet in packets {
                let delivered = self.talk(to, from, |now_ms, peer, sink| {
                    peer.receive(now_ms, &packet, sink).map(<[u8]>::to_vec)
                });
                if let Some(link) = self.link(to, from) {
                    link.inbox.extend(delivered.flatten());
                }
                self.work_inbox(to, from)?;
            }
        }
        self.tidy_up(id);
        Ok(())
    }

    /// Reads what a node has sent, also before it was known to be up.
    pub(super) fn read_all_of(&mut self, node: u32, from: u32) -> Result<(), Violation> {
        let of = |c: &Connection| (c.from, c.to) == (from, node);
        let ids = self.connections.iter().filter(|(_, c)| of(c));
        let ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        for id in ids {
            self.arrive(id)?;
        }
        Ok(())
    }

    /// Forgets a broken connection on which nothing is under way any more.
    fn tidy_up(&mut self, id: u64) {
        let Some(connection) = self.connections.get(&id) else {
            return;
        };
        let (from, from_life, to) = (connection.from, connection.from_life, connection.to);
        let empty = connection.chunks.is_empty();
        let alive = self.is_life(from, from_life);
        let link = self.link(from, to);
        let used = alive && link.is_some_and(|link| link.connection == Some(id));
        if empty && !used {
            self.connections.remove(&id);
        }
    }

    /// Deals with what was received; what memory was missing for is tried again later, before what
    /// came behind it.
    pub(super) fn work_inbox(&mut self, node: u32, from: u32) -> Result<(), Violation> {
        loop {
            let Some(link) = self.link(node, from).filter(|link| !link.stuck) else {
                return Ok(());
            };
            let Some(packet) = link.inbox.pop_front() else {
                return Ok(());
            };
            if self.deliver(node, from, &packet)? {
                continue;
            }
            let life = self.machines.get(&node).map_or(0, |machine| machine.life);
            if let Some(link) = self.link(node, from) {
                link.inbox.push_front(packet);
                link.stuck = true;
            }
            self.after(10, Event::Inbox { node, life, from });
            return Ok(());
        }
    }

    pub(super) fn retry_inbox(&mut self, node: u32, life: u32, from: u32) -> Result<(), Violation> {
        if !self.is_life(node, life) {
            return Ok(());
        }
        if let Some(link) = self.link(node, from) {
            link.stuck = false;
        }
        self.work_inbox(node, from)
    }
}
