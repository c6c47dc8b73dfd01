// SPDX-License-Identifier: GPL-2.0-only
//! One connection to a peer, and the packets in the stream of bytes it receives; and the few of
//! them that a peer has.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    }, //
};

use crate::ffi::socket::{
    Connection,
    Events,
    Watched, //
};
use crate::lockcore::connection::{
    ConnectionId,
    SocketState, //
};
use crate::lockcore::framer::Framer;

/// See the head of this file. `framer` is guarded by its mutex, which only the peer's work item for
/// receiving takes.
#[pin_data]
pub(super) struct Link<E: Events> {
    pub(super) id: ConnectionId,
    pub(super) socket: Watched<E>,
    #[pin]
    pub(super) framer: Mutex<Framer>,
}

impl<E: Events> Link<E> {
    /// A connection from its first byte on.
    pub(super) fn new(id: ConnectionId, socket: Watched<E>) -> Result<Arc<Self>> {
        let framer = Framer::new()?;
        Arc::pin_init(
            pin_init!(Self {
                id,
                socket,
                framer <- new_mutex!(framer, "dlm_framer"),
            }),
            GFP_KERNEL,
        )
    }

    /// State of the socket.
    pub(super) fn state(&self) -> SocketState {
        match self.socket.state() {
            Connection::Connecting => SocketState::Connecting,
            Connection::Established => SocketState::Established,
            Connection::Closed => SocketState::Closed,
        }
    }
}

/// Connections of a peer: one that is sent on, and one that is only read.
pub(super) struct Links<E: Events>([Option<Arc<Link<E>>>; 2]);

impl<E: Events> Links<E> {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self([None, None])
    }

    /// The one with this name.
    pub(super) fn get(&self, id: ConnectionId) -> Option<&Arc<Link<E>>> {
        self.0.iter().flatten().find(|link| link.id == id)
    }

    /// Adds one; gives it back if there are two.
    pub(super) fn add(&mut self, link: Arc<Link<E>>) -> Option<Arc<Link<E>>> {
        match self.0.iter_mut().find(|place| place.is_none()) {
            Some(place) => place.replace(link),
            None => Some(link),
        }
    }

    /// Takes the one with this name out.
    pub(super) fn take(&mut self, id: ConnectionId) -> Option<Arc<Link<E>>> {
        let mut places = self.0.iter_mut();
        let is_it =
            |place: &&mut Option<Arc<Link<E>>>| place.as_ref().is_some_and(|link| link.id == id);
        places.find(is_it)?.take()
    }
}
