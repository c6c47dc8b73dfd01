// SPDX-License-Identifier: GPL-2.0-only
//! Who is told what happens to the connections of a peer.

use kernel::{
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

use super::PeerNode;
use crate::ffi::socket::{
    Event,
    Events, //
};

/// Who is told what happens to a connection: the work items of its peer.
pub(in crate::transport) struct Waker(Arc<PeerNode>);

impl Waker {
    /// For connections of this peer.
    pub(in crate::transport) fn new(peer: Arc<PeerNode>) -> Result<Arc<Self>> {
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
