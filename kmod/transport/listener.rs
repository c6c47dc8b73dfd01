// SPDX-License-Identifier: GPL-2.0-only
//! Accepts connections, and hands each to the peer that has the address it came from.

use kernel::{
    impl_has_work,
    new_mutex,
    new_work,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc,
        ArcBorrow,
        Mutex, //
    },
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

use super::{
    find_by_address,
    peer::Waker,
    Shared, //
};
use crate::ffi::errno;
use crate::ffi::memory::NoReclaim;
use crate::ffi::socket::{
    Address,
    Event,
    Events,
    Socket,
    Watched, //
};
use crate::ffi::time::{
    self,
    now_ms, //
};

/// Pause when no connection can be accepted for want of memory.
const RETRY_MS: u32 = 100;

/// Pause between two log lines about strangers.
const QUIET_MS: u64 = 5000;

/// A socket that listens, until it is closed.
#[pin_data]
pub(super) struct Listener {
    shared: Arc<Shared>,
    /// Guarded by its mutex; `None` once closed.
    #[pin]
    socket: Mutex<Option<Watched<Bell>>>,
    /// When the next line about strangers may be logged.
    quiet_until: Atomic<u64>,
    #[pin]
    work: Work<Listener>,
}

impl_has_work! {
    impl HasWork<Self> for Listener { self.work }
}

/// Who is told that somebody connects.
pub(super) struct Bell(Arc<Listener>);

impl Events for Bell {
    fn event(this: ArcBorrow<'_, Self>, event: Event) {
        match event {
            Event::Data => this.0.look(),
            Event::Space | Event::State => {}
        }
    }
}

impl Listener {
    /// Listens on `address`.
    pub(super) fn listen(shared: Arc<Shared>, address: &Address, port: u16) -> Result<Arc<Self>> {
        let this = Arc::pin_init(
            pin_init!(Self {
                shared,
                socket <- new_mutex!(None, "dlm_listener"),
                quiet_until: Atomic::new(0u64),
                work <- new_work!("dlm_listener"),
            }),
            GFP_KERNEL,
        )?;
        let socket = Socket::listen(address, port)
            .inspect_err(|e| pr_err!("cannot listen on {}: {}\n", address, e.to_errno()))?;
        let bell = Arc::new(Bell(this.clone()), GFP_KERNEL)?;
        *this.socket.lock() = Some(Watched::new(socket, bell));
        this.look();
        Ok(this)
    }

    /// Listens no more.
    pub(super) fn close(&self) {
        let socket = self.socket.lock().take();
        drop(socket);
    }

    fn look(self: &Arc<Self>) {
        let this = self.clone();
        // That it is queued already is fine.
        let _ = self.shared.queue.enqueue(this);
    }

    /// The next connection of a peer.
    fn accept(self: &Arc<Self>) -> Option<Accepted> {
        let listening = self.socket.lock();
        let listening = listening.as_ref()?;
        loop {
            match listening.accept() {
                Ok(socket) => match self.identify(socket) {
                    Some(accepted) => return Some(accepted),
                    None => {
                        self.shared.refused.fetch_add(1, ordering::Relaxed);
                    }
                },
                Err(e) if e == EAGAIN => return None,
                // Of one connection, which broke before it was accepted.
                Err(e) if e.to_errno() == errno::ECONNABORTED.to_errno() => {}
                Err(_) => {
                    time::sleep_ms(RETRY_MS);
                    self.look();
                    return None;
                }
            }
        }
    }

    fn identify(&self, socket: Socket) -> Option<Accepted> {
        let address = socket.peer().ok()?;
        let Some(peer) = find_by_address(&address) else {
            self.report_stranger(&address);
            return None;
        };
        let waker = Waker::new(peer.clone()).ok()?;
        Some(Accepted {
            link: Watched::new(socket, waker),
            peer,
        })
    }
}

impl Listener {
    /// At most one line in a while: a stranger can make as many connections as it likes.
    fn report_stranger(&self, address: &Address) {
        let now = now_ms();
        if now >= self.quiet_until.load(ordering::Relaxed) {
            self.quiet_until
                .store(now.saturating_add(QUIET_MS), ordering::Relaxed);
            pr_info!(
                "connection from {} refused: no node of the cluster\n",
                address
            );
        }
    }
}

struct Accepted {
    peer: Arc<super::PeerNode>,
    link: Watched<Waker>,
}

impl WorkItem for Listener {
    type Pointer = Arc<Listener>;

    fn run(this: Arc<Listener>) {
        let _memory = NoReclaim::enter();
        while let Some(Accepted { peer, link }) = this.accept() {
            peer.accepted(link);
        }
    }
}
