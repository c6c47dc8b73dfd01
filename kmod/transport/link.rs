// SPDX-License-Identifier: GPL-2.0-only
//! One connection to a peer, and the packets in the stream of bytes it receives.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow,
        Mutex, //
    }, //
};

use super::peer::PeerNode;
use crate::ffi::socket::{
    Event,
    Events,
    Watched, //
};
use crate::lockcore::framer::Framer;

/// Who is told what happens to a connection: the work items of its peer.
pub(super) struct Waker(Arc<PeerNode>);

impl Waker {
    /// For connections of this peer.
    pub(super) fn new(peer: Arc<PeerNode>) -> Result<Arc<Self>> {
        Ok(Arc::new(Self(peer), GFP_KERNEL)?)
    }
}

impl Events for Waker {
    fn event(this: ArcBorrow<'_, Self>, event: Event) {
        match event {
            Event::Data => this.0.receive_later(),
            Event::Space => this.0.look(),
            Event::State => {
                this.0.receive_later();
                this.0.look();
            }
        }
    }
}

/// See the head of this file. `framer` is guarded by its mutex, which only the peer's work item for
/// receiving takes.
#[pin_data]
pub(super) struct Link {
    pub(super) socket: Watched<Waker>,
    #[pin]
    pub(super) framer: Mutex<Framer>,
}

impl Link {
    /// A connection from its first byte on.
    pub(super) fn new(socket: Watched<Waker>) -> Result<Arc<Self>> {
        let framer = Framer::new()?;
        Arc::pin_init(
            pin_init!(Self {
                socket,
                framer <- new_mutex!(framer, "dlm_framer"),
            }),
            GFP_KERNEL,
        )
    }
}
