// SPDX-License-Identifier: GPL-2.0-only
//! The Ethernet segment of one cluster: a switch inside this process.
//!
//! Every machine holds one end of a datagram socket pair (one datagram is one frame), the switch
//! the other. So a cluster's network exists nowhere on the host, needs no rights, and each
//! direction between two nodes has a [`Link`] that a scenario can cut, delay or make lossy.
//!
//! Per attached node: a task that reads its frames and decides where they go, a bounded queue and
//! a task that writes to it. A full queue drops its newest frame, as a switch does; a machine that
//! cannot send for want of room waits, as QEMU and User Mode Linux do on a full socket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use tokio::net::UnixDatagram;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// Longest frame: a jumbo frame with room for offloads that are not split yet.
const FRAME_LEN_MAX: usize = 68 << 10;

/// Frames that wait for one node. About a millisecond's worth at the rate of this switch.
const QUEUE_LEN_MAX: usize = 512;

/// Bytes in flight in one socket: a few dozen full frames as the kernel counts them.
const SOCKET_BUFFER: usize = 512 << 10;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Nothing passes.
    pub is_cut: bool,
    /// Every frame arrives so much later.
    pub delay: Duration,
    /// So many of a thousand frames are lost.
    pub loss_per_mille: u32,
}

/// What the switch has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames handed to a node.
    pub forwarded: u64,
    /// Frames a cut or lossy link swallowed.
    pub lost: u64,
    /// Frames a full queue swallowed.
    pub overrun: u64,
}

type Frame = Arc<[u8]>;

/// Where a frame goes.
enum Route {
    Now(mpsc::Sender<Frame>),
    Later(Instant, mpsc::Sender<(Instant, Frame)>),
}

#[derive(Debug)]
struct Port {
    mac: Mac,
    queue: mpsc::Sender<Frame>,
    delayed: BTreeMap<u32, mpsc::Sender<(Instant, Frame)>>,
    tasks: Vec<AbortHandle>,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Debug)]
struct State {
    ports: BTreeMap<u32, Port>,
    links: BTreeMap<(u32, u32), Link>,
    counters: Counters,
    random: u64,
}

/// The switch; clones are the same switch.
#[derive(Clone, Debug)]
pub struct Switch {
    state: Arc<Mutex<State>>,
}

impl Switch {
    /// A switch without ports. The `seed` decides which frames a lossy link loses.
    pub fn new(seed: u64) -> Self {
        let state = State {
            ports: BTreeMap::new(),
            links: BTreeMap::new(),
            counters: Counters::default(),
            // The generator below must not start at zero.
            random: seed | 1,
        };
        Switch {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Plugs a node in and returns the machine's end. An earlier port of that node is unplugged.
    pub fn attach(&self, node: u32, mac: Mac) -> io::Result<OwnedFd> {
        let (ours, theirs) = StdDatagram::pair()?;
        setsockopt(&ours, SndBuf, &SOCKET_BUFFER)?;
        setsockopt(&theirs, SndBuf, &SOCKET_BUFFER)?;
        ours.set_nonblocking(true)?;
        let socket = Arc::new(UnixDatagram::from_std(ours)?);
        let (queue, frames) = mpsc::channel(QUEUE_LEN_MAX);
        let reader = tokio::spawn(read_frames(self.clone(), node, Arc::clone(&socket)));
        let writer = tokio::spawn(write_frames(socket, frames));
        let port = Port {
            mac,
            queue,
            delayed: BTreeMap::new(),
            tasks: vec![reader.abort_handle(), writer.abort_handle()],
        };
        self.lock().ports.insert(node, port);
        Ok(theirs.into())
    }

    /// Unplugs a node.
    pub fn detach(&self, node: u32) {
        self.lock().ports.remove(&node);
    }

    /// Sets one direction between two nodes; they need not be plugged in.
    pub fn set_link(&self, from: u32, to: u32, link: Link) {
        self.lock().links.insert((from, to), link);
    }

    /// One direction between two nodes.
    pub fn link(&self, from: u32, to: u32) -> Link {
        let state = self.lock();
        state.links.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Cuts both directions between two nodes.
    pub fn cut(&self, a: u32, b: u32) {
        self.set_cut(a, b, true);
    }

    /// Undoes [`Switch::cut`]; delay and loss stay.
    pub fn heal(&self, a: u32, b: u32) {
        self.set_cut(a, b, false);
    }

    /// Makes all links perfect again.
    pub fn heal_all(&self) {
        self.lock().links.clear();
    }

    /// What it has done so far.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    fn set_cut(&self, a: u32, b: u32, is_cut: bool) {
        let mut state = self.lock();
        for pair in [(a, b), (b, a)] {
            state.links.entry(pair).or_default().is_cut = is_cut;
        }
    }

    fn forward(&self, from: u32, frame: &[u8]) {
        let Some(routes) = frame
            .first_chunk::<6>()
            .map(|mac| self.lock().routes(from, mac))
        else {
            return;
        };
        let frame: Frame = frame.into();
        for route in routes {
            let result = match route {
                Route::Now(queue) => queue.try_send(Arc::clone(&frame)).map_err(drop),
                Route::Later(due, queue) => queue.try_send((due, Arc::clone(&frame))).map_err(drop),
            };
            let mut state = self.lock();
            match result {
                Ok(()) => state.counters.forwarded += 1,
                Err(()) => state.counters.overrun += 1,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// All ways a frame for `mac` takes; takes the dice of lossy links.
    fn routes(&mut self, from: u32, mac: &Mac) -> Vec<Route> {
        let known = self.ports.iter().find(|(_, port)| port.mac == *mac);
        let targets: Vec<u32> = match known {
            Some((node, _)) => vec![*node],
            None => self.ports.keys().copied().collect(),
        };
        targets
            .into_iter()
            .filter(|to| *to != from)
            .filter_map(|to| self.route(from, to))
            .collect()
    }

    fn route(&mut self, from: u32, to: u32) -> Option<Route> {
        let link = self.links.get(&(from, to)).copied().unwrap_or_default();
        if link.is_cut || self.is_lost(link.loss_per_mille) {
            self.counters.lost += 1;
            return None;
        }
        let port = self.ports.get_mut(&to)?;
        if link.delay.is_zero() {
            return Some(Route::Now(port.queue.clone()));
        }
        let due = Instant::now() + link.delay;
        Some(Route::Later(due, port.delay_line(from)))
    }

    fn is_lost(&mut self, per_mille: u32) -> bool {
        if per_mille == 0 {
            return false;
        }
        // Xorshift: any spread-out sequence does, the same for the same seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) % 1000 < u64::from(per_mille)
    }
}

impl Port {
    /// The line in which frames from `from` wait for their time; those of one link keep their
    /// order.
    fn delay_line(&mut self, from: u32) -> mpsc::Sender<(Instant, Frame)> {
        let Port {
            queue,
            delayed,
            tasks,
            ..
        } = self;
        let line = delayed.entry(from).or_insert_with(|| {
            let (line, waiting) = mpsc::channel(QUEUE_LEN_MAX);
            let task = tokio::spawn(delay_frames(waiting, queue.clone()));
            tasks.push(task.abort_handle());
            line
        });
        line.clone()
    }
}

async fn read_frames(switch: Switch, node: u32, socket: Arc<UnixDatagram>) {
    let mut buffer = vec![0; FRAME_LEN_MAX];
    // An error means that the machine has closed its end: it has been ended.
    while let Ok(len) = socket.recv(&mut buffer).await {
        switch.forward(node, &buffer[..len]);
    }
}

async fn write_frames(socket: Arc<UnixDatagram>, mut frames: mpsc::Receiver<Frame>) {
    while let Some(frame) = frames.recv().await {
        // A machine that has ended loses its frames, as any unplugged one.
        let _ = socket.send(&frame).await;
    }
}

async fn delay_frames(mut waiting: mpsc::Receiver<(Instant, Frame)>, queue: mpsc::Sender<Frame>) {
    while let Some((due, frame)) = waiting.recv().await {
        tokio::time::sleep_until(due).await;
        if queue.send(frame).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BROADCAST: Mac = [0xff; 6];
    const LIMIT: Duration = Duration::from_secs(10);

    struct Host {
        socket: UnixDatagram,
    }

    impl Host {
        fn attach(switch: &Switch, node: u32) -> Self {
            let fd = switch.attach(node, mac(node)).unwrap();
            let socket = StdDatagram::from(fd);
            socket.set_nonblocking(true).unwrap();
            let socket = UnixDatagram::from_std(socket).unwrap();
            Host { socket }
        }

        async fn send(&self, to: Mac, text: &str) {
            let mut frame = to.to_vec();
            frame.extend_from_slice(text.as_bytes());
            self.socket.send(&frame).await.unwrap();
        }

        async fn receive(&self) -> String {
            let mut buffer = vec![0; 2000];
            let len = tokio::time::timeout(LIMIT, self.socket.recv(&mut buffer))
                .await
                .expect("a frame arrives")
                .unwrap();
            String::from_utf8(buffer[6..len].to_vec()).unwrap()
        }
    }

    fn mac(node: u32) -> Mac {
        [2, 0, 0, 0, 0, u8::try_from(node).unwrap()]
    }

    #[tokio::test]
    async fn unicast_reaches_its_owner_only_and_broadcast_everybody_else() {
        let switch = Switch::new(1);
        let [a, b, c] = [1, 2, 3].map(|node| Host::attach(&switch, node));
        a.send(mac(2), "for b").await;
        a.send(BROADCAST, "for all").await;
        assert_eq!(b.receive().await, "for b");
        assert_eq!(b.receive().await, "for all");
        assert_eq!(c.receive().await, "for all");
        // Nothing came back to the sender: the next thing it sees is for it.
        c.send(mac(1), "for a").await;
        assert_eq!(a.receive().await, "for a");
    }

    #[tokio::test]
    async fn a_cut_swallows_and_a_heal_lets_pass_again() {
        let switch = Switch::new(1);
        let [a, b, c] = [1, 2, 3].map(|node| Host::attach(&switch, node));
        switch.cut(1, 2);
        a.send(BROADCAST, "lost for b").await;
        assert_eq!(c.receive().await, "lost for b");
        switch.heal(1, 2);
        a.send(BROADCAST, "second").await;
        assert_eq!(b.receive().await, "second");
        assert_eq!(switch.counters().lost, 1);
    }

    #[tokio::test]
    async fn a_delayed_link_delays_and_keeps_the_order() {
        let switch = Switch::new(1);
        let [a, b] = [1, 2].map(|node| Host::attach(&switch, node));
        let delay = Duration::from_millis(80);
        switch.set_link(
            1,
            2,
            Link {
                delay,
                ..Link::default()
            },
        );
        let start = Instant::now();
        a.send(mac(2), "1").await;
        a.send(mac(2), "2").await;
        assert_eq!(b.receive().await, "1");
        assert!(start.elapsed() >= delay);
        assert_eq!(b.receive().await, "2");
        b.send(mac(1), "back").await;
        assert_eq!(a.receive().await, "back");
    }

    #[tokio::test]
    async fn a_lossy_link_loses_about_its_share() {
        let switch = Switch::new(7);
        let hosts = [1, 2].map(|node| Host::attach(&switch, node));
        let loss_per_mille = 300;
        switch.set_link(
            1,
            2,
            Link {
                loss_per_mille,
                ..Link::default()
            },
        );
        for _ in 0..1000 {
            switch.forward(1, &mac(2));
            // Room in the queue is not what is tested.
            tokio::task::yield_now().await;
        }
        let lost = switch.counters().lost;
        assert!((240..360).contains(&lost), "{lost} of 1000 lost");
        drop(hosts);
    }

    #[tokio::test]
    async fn a_node_that_is_plugged_in_again_gets_its_frames_on_the_new_socket() {
        let switch = Switch::new(1);
        let a = Host::attach(&switch, 1);
        let old = Host::attach(&switch, 2);
        let new = Host::attach(&switch, 2);
        a.send(mac(2), "hello").await;
        assert_eq!(new.receive().await, "hello");
        drop(old);
        a.send(mac(2), "again").await;
        assert_eq!(new.receive().await, "again");
    }

    #[tokio::test]
    async fn a_node_that_does_not_read_costs_its_own_frames_only() {
        let switch = Switch::new(1);
        let [a, _stuck, c] = [1, 2, 3].map(|node| Host::attach(&switch, node));
        for _ in 0..20_000 {
            switch.forward(1, &[mac(2).as_slice(), &[0; 1400]].concat());
        }
        assert!(switch.counters().overrun > 0);
        a.send(mac(3), "alive").await;
        assert_eq!(c.receive().await, "alive");
    }
}
