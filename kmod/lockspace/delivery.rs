// SPDX-License-Identifier: GPL-2.0-only
//! Packets of peers on their way to a lockspace: a lock message goes to its shard, a recovery
//! message to the recovery machine.
//!
//! The transport calls with one packet after the other of a peer, in order. Nothing is decided
//! here but whom a packet is for.

use kernel::prelude::*;

use super::{
    index,
    recovery::{
        Outside,
        Reach, //
    },
    Lockspace,
    SHARDS,
    SHARD_BITS, //
};
use crate::ffi::memory::{
    self,
    NoReclaim, //
};
use crate::ffi::time::now_ms;
use crate::lockcore::members::NodeId;
use crate::lockcore::shard::{
    Config,
    Received, //
};
use crate::lockcore::wire::header::{
    Command,
    Header, //
};
use crate::lockcore::wire::message::{
    Message,
    Route, //
};
use crate::lockcore::wire::rcom::Rcom;
use crate::transport::Delivered;

/// One packet of a peer: a lock message or a recovery message, its header checked.
pub(crate) fn deliver(from: NodeId, packet: &[u8]) -> Delivered {
    let Some(header) = Header::decode(packet) else {
        return Delivered::Malformed;
    };
    let Some(ls) = index::find_by_id(header.lockspace) else {
        return Delivered::UnknownLockspace;
    };
    match header.command {
        Command::Message => ls.deliver_message(from, packet),
        Command::Rcom => ls.deliver_rcom(from, packet),
        Command::Opts | Command::Ack | Command::Fin => Delivered::Malformed,
    }
}

impl Lockspace {
    fn deliver_message(&self, from: NodeId, packet: &[u8]) -> Delivered {
        let Some(message) = Message::decode(packet) else {
            return Delivered::Malformed;
        };
        match message.route() {
            Route::Name(hash) => {
                self.receive(Config::shard_of_hash(hash, SHARD_BITS), from, &message)
            }
            Route::Lock(id) => self.receive(Config::shard_of_id(id, SHARD_BITS), from, &message),
            Route::All => {
                for shard in 0..SHARDS as u32 {
                    // A purge, which may be repeated.
                    if self.receive(shard, from, &message) == Delivered::NoMemory {
                        return Delivered::NoMemory;
                    }
                }
                Delivered::Done
            }
        }
    }

    fn receive(&self, shard: u32, from: NodeId, message: &Message<'_>) -> Delivered {
        let received = self.with_shard(shard as usize, |shard, fx| {
            shard.receive(now_ms(), from, message, fx)
        });
        match received {
            Received::Done | Received::Dropped => Delivered::Done,
            Received::NoMemory => {
                memory::wait_for_some();
                Delivered::NoMemory
            }
        }
    }

    fn deliver_rcom(&self, from: NodeId, packet: &[u8]) -> Delivered {
        let delivered = {
            let _memory = NoReclaim::enter();
            let mut recovery = self.recovery.lock();
            recovery.handle_packet(now_ms(), from, packet, &Reach(self), &mut Outside(self))
        };
        // A question is answered by now; only an answer may take recovery on.
        if Rcom::decode(packet).is_some_and(|rcom| rcom.kind.is_reply()) {
            self.wake_recoverd();
        }
        match delivered {
            Ok(()) => Delivered::Done,
            Err(e) if e == ENOMEM => Delivered::NoMemory,
            Err(_) => Delivered::Malformed,
        }
    }
}
