// SPDX-License-Identifier: GPL-2.0-only
//! The transport of a kernel: what `kmod/transport` is there, sockets and work items around the
//! machines that decide about a peer's connections and its conversation.
//!
//! As there, two works are done for a peer: one looks after the connection to send on and sends
//! ([`World::look`]), one reads and delivers ([`World::receive`]). Each runs when it was asked for,
//! a little later.

use dlm_core::lockcore::connection::{
    Config, ConnectionId, Connections, Ending, Seen, SocketState,
};
use dlm_core::platform::fail;

use super::tcp::{Read, Socket};
use super::{Event, World, trace};
use crate::kernel::{Held, LinkSink, Wanted};
use crate::truth::{Violation, broken};

/// Longest wait for peers to say that they leave too, ms.
const GOODBYE_MS: u64 = 6_000;

/// Pause before memory is asked for again, ms.
const NO_MEMORY_MS: u64 = 10;

/// Reads of one connection before others get a turn.
const READS_MAX: u32 = 8;

type Machine = Connections<()>;

impl World {
    /// Calls the machine of `node` for `with`, and does what it wants done.
    pub(super) fn drive<R>(
        &mut self,
        node: u32,
        with: u32,
        f: impl FnOnce(u64, &mut Machine, &mut LinkSink) -> R,
    ) -> Option<R> {
        let now_ms = self.now_ms;
        let link = self.link(node, with)?;
        let mut sink = LinkSink::default();
        let before = link.machine.peer().state();
        let result = f(now_ms, &mut link.machine, &mut sink);
        let after = link.machine.peer().state();
        if before != after {
            trace!(
                self,
                "node {node} and {with}: {} to {}",
                before.name(),
                after.name()
            );
        }
        for wanted in sink.wanted {
            self.fulfil(node, with, wanted);
        }
        Some(result)
    }

    /// The same, and has the work that sends look whether there is something to do.
    pub(super) fn talk<R>(
        &mut self,
        node: u32,
        with: u32,
        f: impl FnOnce(u64, &mut Machine, &mut LinkSink) -> R,
    ) -> Option<R> {
        let result = self.drive(node, with, f);
        self.look_later(node, with);
        result
    }

    fn fulfil(&mut self, node: u32, with: u32, wanted: Wanted) {
        match wanted {
            Wanted::Connect(id) => self.begin_to_connect(node, with, id),
            Wanted::SendOn(id) => {
                trace!(self, "node {node} sends to {with} on {id:?}");
                if let Some(link) = self.link(node, with) {
                    link.out.clear();
                    link.out_of = Some(id);
                }
            }
            Wanted::Transmit(packet) => {
                if let Some(link) = self.link(node, with) {
                    link.out.extend(packet);
                }
            }
            Wanted::GiveUp(id, ending) => {
                trace!(self, "node {node} gives up {id:?} with {with}: {ending:?}");
                let socket = self.link(node, with).and_then(|l| l.sockets.remove(&id));
                if let Some(socket) = socket {
                    self.hang_up(socket, ending);
                }
            }
            Wanted::Suspect(suspicion) => {
                trace!(self, "node {node} and {with}: {}", suspicion.name());
            }
            Wanted::Ended => trace!(self, "node {node} and {with}: the conversation has ended"),
        }
    }

    fn begin_to_connect(&mut self, node: u32, with: u32, id: ConnectionId) {
        if self.now_ms < self.short_memory_until && self.random.percent(20) {
            self.talk(node, with, |now_ms, machine, sink| {
                machine.not_begun(now_ms, id, sink);
            });
            return;
        }
        let socket = self.dial(node, with, id);
        if let Some(link) = self.link(node, with) {
            link.sockets.insert(id, socket);
        }
    }

    /// The peer has made a connection.
    pub(super) fn accepted(&mut self, node: u32, with: u32, id: ConnectionId, socket: Socket) {
        if let Some(link) = self.link(node, with) {
            link.sockets.insert(id, socket);
        }
        self.talk(node, with, |now_ms, machine, sink| {
            machine.accepted(now_ms, id, sink);
        });
        self.receive_later(node, with);
    }

    /// Sends a packet of a node's kernel.
    pub(super) fn transmit(&mut self, node: u32, to: u32, sequenced: bool, packet: &[u8]) {
        self.talk(node, to, |now_ms, machine, sink| {
            while machine.send(now_ms, packet, sequenced, sink).is_err() {
                fail::after(None);
            }
        });
    }

    /// Whether a node accepts connections.
    pub(super) fn listens(&self, node: u32) -> bool {
        let machine = self.machines.get(&node);
        machine.is_some_and(|machine| machine.up && machine.kernel.running)
    }

    fn seen(&self, node: u32, with: u32) -> Option<Seen> {
        let kernel = &self.machines.get(&node)?.kernel;
        let link = kernel.links.get(&with)?;
        let socket = |id: Option<ConnectionId>| id.and_then(|id| link.sockets.get(&id).copied());
        let sending = socket(link.machine.sending());
        let receiving = socket(link.machine.receiving());
        Some(Seen {
            is_running: kernel.running,
            sending: sending.map_or(SocketState::Connecting, |s| self.socket_state(s)),
            receiving: receiving.map_or(SocketState::Closed, |s| self.socket_state(s)),
            retransmits: sending.map_or(0, |s| self.retransmits(s)),
        })
    }

    /// When the connections of a node have to be looked at.
    pub(super) fn next_look(&self, node: u32) -> Option<u64> {
        let kernel = &self.machines.get(&node)?.kernel;
        let due = kernel.links.iter().filter(|(_, link)| !link.looks);
        let due = due.filter_map(|(with, link)| {
            let due = link.machine.next_due(&self.seen(node, *with)?);
            (due != u64::MAX).then_some(due)
        });
        due.chain(kernel.stop_by).min()
    }

    /// Has those looked at whose time has come.
    pub(super) fn look_at_due(&mut self, node: u32) {
        let now_ms = self.now_ms;
        let Some(machine) = self.machines.get(&node) else {
            return;
        };
        let links = machine.kernel.links.iter();
        let links = links.filter(|(with, link)| {
            let seen = self.seen(node, **with);
            seen.is_some_and(|seen| link.machine.next_due(&seen) <= now_ms)
        });
        let links: Vec<u32> = links.map(|(with, _)| *with).collect();
        for with in links {
            self.look_later(node, with);
        }
        self.check_stopped(node);
    }

    /// Has the work that sends run.
    pub(super) fn look_later(&mut self, node: u32, with: u32) {
        let life = self.machines.get(&node).map_or(0, |machine| machine.life);
        let Some(link) = self.link(node, with) else {
            return;
        };
        if !std::mem::replace(&mut link.looks, true) {
            let delay = self.random.below(2);
            self.after(delay, Event::Look { node, life, with });
        }
    }

    /// Has the work that reads run.
    pub(super) fn receive_later(&mut self, node: u32, with: u32) {
        let life = self.machines.get(&node).map_or(0, |machine| machine.life);
        let Some(link) = self.link(node, with) else {
            return;
        };
        if !std::mem::replace(&mut link.reads, true) {
            let delay = self.random.below(2);
            self.after(delay, Event::Receive { node, life, with });
        }
    }

    /// Sees to the connection and sends what there is to send.
    pub(super) fn look(&mut self, node: u32, life: u32, with: u32) {
        if !self.is_life(node, life) {
            return;
        }
        if let Some(link) = self.link(node, with) {
            link.looks = false;
        }
        while self.push_out(node, with) {}
        self.check_stopped(node);
        self.set_timer(node);
    }

    /// Sends once; `false` if there is nothing more to do until something happens.
    fn push_out(&mut self, node: u32, with: u32) -> bool {
        let Some(seen) = self.seen(node, with) else {
            return false;
        };
        let id = self.drive(node, with, |now_ms, machine, sink| {
            machine.step(now_ms, &seen, sink)
        });
        let (Some(id), Some(link)) = (id.flatten(), self.link(node, with)) else {
            return false;
        };
        let Some(socket) = link.sockets.get(&id).copied() else {
            return false;
        };
        if link.out.is_empty() || link.out_of != Some(id) {
            return false;
        }
        let out = std::mem::take(&mut link.out);
        let sent = self.put(socket, &out);
        if let Some(link) = self.link(node, with) {
            link.out = out;
            link.out.drain(..sent.unwrap_or(0));
        }
        self.drive(node, with, |now_ms, machine, sink| match sent {
            Some(0) => machine.blocked(now_ms, id),
            Some(_) => machine.has_sent(id),
            None => machine.broken(now_ms, id, Ending::Reset, sink),
        });
        sent != Some(0)
    }

    /// Reads what there is on the connections of a peer, and delivers it.
    pub(super) fn receive(&mut self, node: u32, life: u32, with: u32) -> Result<(), Violation> {
        if !self.is_life(node, life) {
            return Ok(());
        }
        let Some(link) = self.link(node, with) else {
            return Ok(());
        };
        link.reads = false;
        if !self.deliver_held(node, with)? {
            return Ok(());
        }
        let Some(link) = self.link(node, with) else {
            return Ok(());
        };
        let sockets = link.machine.readable().into_iter().flatten();
        let sockets = sockets.filter_map(|id| Some((id, *link.sockets.get(&id)?)));
        let sockets: Vec<_> = sockets.collect();
        for (id, socket) in sockets {
            self.read(node, with, id, socket)?;
        }
        Ok(())
    }

    fn read(
        &mut self,
        node: u32,
        with: u32,
        id: ConnectionId,
        socket: Socket,
    ) -> Result<(), Violation> {
        if self.socket_state(socket) == SocketState::Connecting {
            return Ok(());
        }
        for _ in 0..READS_MAX {
            let max = self.random.within(1, 8_192) as usize;
            match self.take(socket, max) {
                Read::Nothing => return Ok(()),
                Read::Bytes(bytes) => self.take_packets(node, with, id, socket, &bytes)?,
                Read::Ended(ending) => {
                    self.talk(node, with, |now_ms, machine, sink| {
                        machine.broken(now_ms, id, ending, sink);
                    });
                    return Ok(());
                }
            }
            if self
                .link(node, with)
                .is_some_and(|link| !link.held.is_empty())
            {
                return Ok(());
            }
        }
        self.receive_later(node, with);
        Ok(())
    }

    fn take_packets(
        &mut self,
        node: u32,
        with: u32,
        id: ConnectionId,
        socket: Socket,
        mut rest: &[u8],
    ) -> Result<(), Violation> {
        while !rest.is_empty() {
            let Some(connection) = self.connections.get_mut(&socket.0) else {
                return Ok(());
            };
            let framer = &mut connection.framers[socket.1];
            let space = framer.space();
            let count = rest.len().min(space.len());
            space[..count].copy_from_slice(&rest[..count]);
            framer.filled(count);
            rest = &rest[count..];
            let mut packets = Vec::new();
            loop {
                match framer.next_packet() {
                    Ok(Some(packet)) => packets.push(packet.to_vec()),
                    Ok(None) => break,
                    Err(_) => return broken(format!("connection {socket:?} lost its framing")),
                }
            }
            let sender = &connection.ends[1 - socket.1];
            let sender = (sender.node, sender.incarnation);
            for packet in packets {
                self.packet(node, with, id, sender, packet)?;
            }
        }
        Ok(())
    }

    /// One packet of the stream. While one waits for memory, those behind it wait, too.
    fn packet(
        &mut self,
        node: u32,
        with: u32,
        id: ConnectionId,
        sender: (u32, u64),
        packet: Vec<u8>,
    ) -> Result<(), Violation> {
        let Some(link) = self.link(node, with) else {
            return Ok(());
        };
        if !link.held.is_empty() {
            link.held.push_back(Held::Read { id, sender, packet });
            return Ok(());
        }
        let (life, up) = (link.life, link.up);
        let delivered = self.talk(node, with, |now_ms, machine, sink| {
            machine
                .receive(now_ms, id, &packet, sink)
                .map(<[u8]>::to_vec)
        });
        let Some(packet) = delivered.flatten() else {
            return Ok(());
        };
        self.check_sender(node, with, sender, life, up)?;
        if self.deliver(node, with, &packet)? {
            return Ok(());
        }
        self.hold(node, with, Held::Received { life, packet });
        Ok(())
    }

    /// Nothing is taken from a node that is not up, nor from what it was before.
    fn check_sender(
        &self,
        node: u32,
        with: u32,
        (_, incarnation): (u32, u64),
        life: u64,
        up: bool,
    ) -> Result<(), Violation> {
        if !up {
            return broken(format!(
                "node {node} takes packets of {with}, which is down"
            ));
        }
        let order = |life: u64| self.incarnations.get(&(with, life)).copied();
        if order(incarnation) < order(life) {
            return broken(format!(
                "node {node} takes packets of {with} as {incarnation:x}, which is {life:x}"
            ));
        }
        Ok(())
    }

    /// There is no memory for it now: it is tried again later.
    fn hold(&mut self, node: u32, with: u32, held: Held) {
        let life = self.machines.get(&node).map_or(0, |machine| machine.life);
        if let Some(link) = self.link(node, with) {
            link.held.push_front(held);
            link.reads = true;
            self.after(NO_MEMORY_MS, Event::Receive { node, life, with });
        }
    }

    /// Deals with what waited for memory, in order; `false`: it has to wait on.
    fn deliver_held(&mut self, node: u32, with: u32) -> Result<bool, Violation> {
        loop {
            let Some(link) = self.link(node, with) else {
                return Ok(true);
            };
            match link.held.pop_front() {
                None => return Ok(true),
                Some(Held::Received { life, .. }) if link.machine.is_over(life) => {}
                Some(Held::Received { life, packet }) => {
                    if !self.deliver(node, with, &packet)? {
                        self.hold(node, with, Held::Received { life, packet });
                        return Ok(false);
                    }
                }
                Some(Held::Read { id, sender, packet }) => {
                    let rest = std::mem::take(&mut link.held);
                    self.packet(node, with, id, sender, packet)?;
                    if let Some(link) = self.link(node, with) {
                        link.held.extend(rest);
                        if !link.held.is_empty() && link.reads {
                            return Ok(false);
                        }
                    }
                }
            }
        }
    }

    /// The kernel hears of a node.
    pub(super) fn configure(
        &mut self,
        node: u32,
        other: u32,
        life: u64,
        up: bool,
    ) -> Result<(), Violation> {
        trace!(
            self,
            "node {node}: the kernel hears node {other} {life:x} up: {up}"
        );
        let links = &mut self.machine(node).kernel.links;
        let link = links
            .entry(other)
            .or_insert_with(|| crate::kernel::Link::new(node, other, life));
        (link.life, link.up) = (life, up);
        self.talk(node, other, |_, machine, sink| {
            let config = Config {
                incarnation: life,
                address: (),
                is_up: up,
            };
            machine.configure(config, sink);
        });
        // It may have connected before it was known to be up.
        self.receive_later(node, other);
        self.check_stopped(node);
        Ok(())
    }

    /// The kernel gets another name: its peers are forgotten.
    pub(super) fn forget_peers(&mut self, node: u32) {
        let links: Vec<u32> = self.machine(node).kernel.links.keys().copied().collect();
        for with in links {
            self.drive(node, with, |_, machine, sink| machine.close(sink));
        }
        self.machine(node).kernel.links.clear();
    }

    /// The first lockspace comes.
    pub(super) fn start_transport(&mut self, node: u32) {
        let kernel = &mut self.machine(node).kernel;
        kernel.running = true;
        let links: Vec<u32> = kernel.links.keys().copied().collect();
        for with in links {
            self.look_later(node, with);
        }
    }

    /// The last lockspace goes: peers are taken leave of.
    pub(super) fn stop_transport(&mut self, node: u32) {
        let now_ms = self.now_ms;
        let kernel = &mut self.machine(node).kernel;
        kernel.stop_by = Some(now_ms + GOODBYE_MS);
        let links: Vec<u32> = kernel.links.keys().copied().collect();
        for with in links {
            self.talk(node, with, |now_ms, machine, sink| {
                machine.shutdown(now_ms, sink);
            });
        }
        self.check_stopped(node);
        self.set_timer(node);
    }

    /// Closes all connections when the last conversation has ended, or was waited for long enough.
    fn check_stopped(&mut self, node: u32) {
        let now_ms = self.now_ms;
        let kernel = &self.machine(node).kernel;
        let Some(stop_by) = kernel.stop_by else {
            return;
        };
        let talks = kernel.links.values().any(|link| link.machine.is_talking());
        if talks && now_ms < stop_by {
            return;
        }
        let links: Vec<u32> = kernel.links.keys().copied().collect();
        trace!(self, "node {node} has no connections any more");
        self.machine(node).kernel.stop_by = None;
        for with in &links {
            // What the last words made is sent.
            while self.push_out(node, *with) {}
        }
        self.machine(node).kernel.running = false;
        for with in links {
            self.drive(node, with, |_, machine, sink| machine.rest(sink));
        }
    }
}
