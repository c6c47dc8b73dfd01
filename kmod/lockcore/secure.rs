// SPDX-License-Identifier: GPL-2.0-only
//! Who speaks on a connection: both ends prove that they have the key of their two lives before a
//! lock message is taken, and every later byte is bound to this connection and this direction.
//!
//! A machine without sockets, clock and cipher, one for each connection. The shell gives it what
//! arrives ([`Session::take`]) and sends what it makes ([`Session::preface`], [`Session::seal`]).
//!
//! ```text
//!  who connects                                  who accepts
//!  HELLO, fresh nonce      ──────────────────►   (says nothing before)
//!                          ◄──────────────────   HELLO, fresh nonce; an empty record
//!  an empty record; data   ──────────────────►   data
//! ```
//!
//! | Off | Size | A hello (little-endian) |
//! |---|---|---|
//! | 0 | 8 | "CONCLAVE" |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | 0: for an in-tree node this is a packet of an impossible length |
//! | 16 | 4 | node id of who says it |
//! | 20 | 4 | node id of whom it is for |
//! | 24 | 8 | incarnation of who says it |
//! | 32 | 8 | incarnation of whom it is for |
//! | 40 | 32 | nonce, never used before |
//!
//! | Off | Size | A record |
//! |---|---|---|
//! | 0 | 4 | bytes sealed, n, at most [`RECORD_MAX`] |
//! | 4 | n | sealed bytes |
//! | 4+n | 16 | tag, of the length and the sealed bytes |
//!
//! Each direction has its own key: HMAC-SHA256, under the key of the two lives, of the name of the
//! direction and of both hellos. Records are sealed by ChaCha20-Poly1305 with their number as
//! nonce, so one that is missing, comes again, or comes from elsewhere, does not open. The first
//! record that opens proves the peer: to make it, one must have the key and have heard this end's
//! nonce.
//!
//! Whatever is wrong ends the connection ([`Refusal`]); nothing is skipped or guessed.

#[cfg(test)]
mod tests;

use core::marker::PhantomData;

use super::members::NodeId;

/// Bytes of a hello.
pub const HELLO_LEN: usize = 72;

/// Bytes of a record before what is sealed.
pub const RECORD_HEAD: usize = 4;

/// Bytes of a record behind it.
pub const RECORD_TAG: usize = 16;

/// Bytes that one record holds at most: two of the largest packets, so that a reader's buffer with
/// the beginning of a packet in it has room for them.
pub const RECORD_MAX: usize = 8192;

/// Bytes of the longest record.
pub const SEALED_MAX: usize = RECORD_HEAD + RECORD_MAX + RECORD_TAG;

/// Bytes of the longest [`Session::preface`].
pub const PREFACE_MAX: usize = HELLO_LEN + RECORD_HEAD + RECORD_TAG;

/// Bytes of a nonce in a hello.
pub const NONCE_LEN: usize = 32;

const MAGIC: &[u8; 8] = b"CONCLAVE";
const VERSION: u32 = 1;

/// What the packets of in-tree nodes begin with, without the minor version before it.
const CLEAR: [u8; 3] = [0, 3, 0];

const FROM_CONNECTOR: &[u8] = b"conclave lock wire 1: from who connects";
const FROM_ACCEPTOR: &[u8] = b"conclave lock wire 1: from who accepts";

/// A secret: of two lives, or of one direction of a connection. Forgotten when it is dropped;
/// cannot be shown.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// From its bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for who computes with them.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.fill(0);
        // What is looked at afterwards must have been written.
        core::hint::black_box(&mut self.0);
    }
}

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key")
    }
}

/// The computations, which the kernel has, and tests take from elsewhere: the same bytes in both.
pub trait Cipher {
    /// HMAC-SHA256.
    fn mac(key: &Key, data: &[u8]) -> [u8; 32];
    /// ChaCha20-Poly1305, with four zero bytes and `nonce` in little-endian order for the nonce.
    /// `out` has room for `plain` and the tag.
    fn seal(key: &Key, nonce: u64, associated: &[u8], plain: &[u8], out: &mut [u8]);
    /// The way back; false: not authentic, and `out` is not to be looked at. It has room for
    /// `sealed` without its tag.
    #[must_use]
    fn open(key: &Key, nonce: u64, associated: &[u8], sealed: &[u8], out: &mut [u8]) -> bool;
}

/// One life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// Which node, by its id in the cluster.
    pub node: NodeId,
    /// Which of its lives.
    pub incarnation: u64,
}

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It made the connection, and speaks first.
    Connector,
    /// It accepted it.
    Acceptor,
}

/// Why a connection is ended. Nothing of what came with it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It speaks DLM in clear.
    Clear,
    /// It speaks something else, or another version of this.
    Foreign,
    /// It is another node, or speaks to another one.
    OtherNode,
    /// It is in another life, or speaks to another one of this node.
    OtherLife,
    /// A record longer than any.
    TooLong,
    /// A record that does not open: of another key, changed, missing one before it, or repeated.
    NotAuthentic,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Clear,
        Self::Foreign,
        Self::OtherNode,
        Self::OtherLife,
        Self::TooLong,
        Self::NotAuthentic,
    ];

    /// As the log has it.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Clear => {
                "it speaks clear DLM though it should not: the node runs the in-tree dlm?"
            }
            Self::Foreign => "it speaks no lock wire of this version",
            Self::OtherNode => "it is another node, or takes this one for another",
            Self::OtherLife => "it is another life of the node, or takes this one for another",
            Self::TooLong => "it sent a record that is too long",
            Self::NotAuthentic => "what it sent is not authentic",
        }
    }
}

/// What was taken of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of the stream that are done with.
    pub used: usize,
    /// Bytes of packets that were put into the reader's buffer.
    pub plain: usize,
}

/// One direction: its key, and the number of the next record.
struct Direction<C> {
    key: Key,
    next: u64,
    cipher: PhantomData<C>,
}

impl<C: Cipher> Direction<C> {
    fn new(
        key: &Key,
        name: &[u8],
        connector: &[u8; HELLO_LEN],
        acceptor: &[u8; HELLO_LEN],
    ) -> Self {
        // Both names fit, and none begins with the other.
        let mut data = [0; 40 + 2 * HELLO_LEN];
        let (head, hellos) = data.split_at_mut(40);
        for (to, from) in head.iter_mut().zip(name) {
            *to = *from;
        }
        let (first, second) = hellos.split_at_mut(HELLO_LEN);
        first.copy_from_slice(connector);
        second.copy_from_slice(acceptor);
        Self {
            key: Key(C::mac(key, &data)),
            next: 0,
            cipher: PhantomData,
        }
    }

    /// The nonce of the next record. There are more than can ever be sent.
    fn nonce(&mut self) -> Option<u64> {
        let nonce = self.next;
        self.next = nonce.checked_add(1)?;
        Some(nonce)
    }
}

/// Where a session stands.
enum State<C> {
    /// The peer's hello has not come.
    Greeting,
    /// Both hellos are known. `is_proven`: a record of the peer has opened.
    Keyed {
        sending: Direction<C>,
        receiving: Direction<C>,
        is_proven: bool,
    },
    /// Something was wrong.
    Refused(Refusal),
}

/// See the head of this file.
pub struct Session<C> {
    side: Side,
    own: Life,
    peer: Life,
    key: Key,
    hello: [u8; HELLO_LEN],
    has_said_hello: bool,
    has_proven_itself: bool,
    state: State<C>,
}

impl<C: Cipher> Session<C> {
    /// Of a new connection between two lives that share `key`. `nonce` must be random and never
    /// used before.
    pub fn new(side: Side, own: Life, peer: Life, key: Key, nonce: &[u8; NONCE_LEN]) -> Self {
        Self {
            side,
            own,
            peer,
            key,
            hello: hello(own, peer, nonce),
            has_said_hello: false,
            has_proven_itself: false,
            state: State::Greeting,
        }
    }

    /// Whether the peer has proven that it has the key: packets may be delivered, and this
    /// connection may take the place of another.
    pub fn is_proven(&self) -> bool {
        matches!(
            self.state,
            State::Keyed {
                is_proven: true,
                ..
            }
        )
    }

    /// Why the connection is to be ended, if it is.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.state {
            State::Refused(refusal) => Some(refusal),
            State::Greeting | State::Keyed { .. } => None,
        }
    }

    /// What must be sent now, before any record of data; how many bytes of `out` it is. Ask after
    /// the connection was made, and after each [`Session::take`].
    #[must_use]
    pub fn preface(&mut self, out: &mut [u8; PREFACE_MAX]) -> usize {
        let mut len = 0;
        let may_greet = match (&self.state, self.side) {
            (State::Greeting, Side::Acceptor) | (State::Refused(_), _) => false,
            (State::Greeting, Side::Connector) | (State::Keyed { .. }, _) => true,
        };
        if may_greet && !self.has_said_hello {
            self.has_said_hello = true;
            if let Some(place) = out.get_mut(..HELLO_LEN) {
                place.copy_from_slice(&self.hello);
                len = HELLO_LEN;
            }
        }
        if matches!(self.state, State::Keyed { .. }) && !self.has_proven_itself {
            self.has_proven_itself = true;
            let rest = out.get_mut(len..).unwrap_or(&mut []);
            len += self.seal_record(&[], rest).unwrap_or(0);
        }
        len
    }

    /// Seals the beginning of `plain` as the next record. Returns how much of it, and how many
    /// bytes
    /// of `out` the record has. `None`: nothing may be sent yet or any more; the preface comes
    /// first, and the peer is proven before anything is said to it.
    #[must_use]
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8; SEALED_MAX]) -> Option<(usize, usize)> {
        if !self.is_proven() || !self.has_proven_itself {
            return None;
        }
        let len = plain.len().min(RECORD_MAX);
        let sealed = self.seal_record(plain.get(..len)?, out)?;
        Some((len, sealed))
    }

    fn seal_record(&mut self, plain: &[u8], out: &mut [u8]) -> Option<usize> {
        let State::Keyed { sending, .. } = &mut self.state else {
            return None;
        };
        let head = u32::try_from(plain.len()).ok()?.to_le_bytes();
        let len = RECORD_HEAD + plain.len() + RECORD_TAG;
        let (start, rest) = out.get_mut(..len)?.split_at_mut_checked(RECORD_HEAD)?;
        start.copy_from_slice(&head);
        let nonce = sending.nonce()?;
        C::seal(&sending.key, nonce, &head, plain, rest);
        Some(len)
    }

    /// Takes the hello or the record at the beginning of the stream, if it is there as a whole;
    /// packets in it go to the beginning of `plain`, which has room for [`RECORD_MAX`] bytes.
    pub fn take(&mut self, stream: &[u8], plain: &mut [u8]) -> Result<Option<Taken>, Refusal> {
        let taken = match &mut self.state {
            State::Greeting => self.take_hello(stream),
            State::Keyed {
                receiving,
                is_proven,
                ..
            } => take_record(receiving, is_proven, stream, plain),
            State::Refused(refusal) => Err(*refusal),
        };
        if let Err(refusal) = taken {
            self.state = State::Refused(refusal);
        }
        taken
    }

    fn take_hello(&mut self, stream: &[u8]) -> Result<Option<Taken>, Refusal> {
        // A stranger is not waited for: what is there must be how a hello begins.
        if stream.get(1..4) == Some(&CLEAR[..]) {
            return Err(Refusal::Clear);
        }
        if stream.iter().zip(MAGIC).any(|(came, due)| came != due) {
            return Err(Refusal::Foreign);
        }
        let Some(theirs) = stream.first_chunk::<HELLO_LEN>() else {
            return Ok(None);
        };
        let expected = hello(self.peer, self.own, &[0; NONCE_LEN]);
        let differs = |from: usize, to: usize| theirs.get(from..to) != expected.get(from..to);
        if differs(0, 16) {
            return Err(Refusal::Foreign);
        }
        if differs(16, 24) {
            return Err(Refusal::OtherNode);
        }
        if differs(24, 40) {
            return Err(Refusal::OtherLife);
        }
        let (connector, acceptor) = match self.side {
            Side::Connector => (&self.hello, theirs),
            Side::Acceptor => (theirs, &self.hello),
        };
        let direction = |name| Direction::new(&self.key, name, connector, acceptor);
        let (own, other) = match self.side {
            Side::Connector => (FROM_CONNECTOR, FROM_ACCEPTOR),
            Side::Acceptor => (FROM_ACCEPTOR, FROM_CONNECTOR),
        };
        self.state = State::Keyed {
            sending: direction(own),
            receiving: direction(other),
            is_proven: false,
        };
        Ok(Some(Taken {
            used: HELLO_LEN,
            plain: 0,
        }))
    }
}

fn take_record<C: Cipher>(
    receiving: &mut Direction<C>,
    is_proven: &mut bool,
    stream: &[u8],
    plain: &mut [u8],
) -> Result<Option<Taken>, Refusal> {
    let Some((head, rest)) = stream.split_first_chunk::<RECORD_HEAD>() else {
        return Ok(None);
    };
    let len = usize::try_from(u32::from_le_bytes(*head)).map_err(|_| Refusal::TooLong)?;
    // Before it is proven, the peer has nothing to say but its proof.
    if len > RECORD_MAX || (len > 0 && !*is_proven) {
        return Err(Refusal::TooLong);
    }
    let Some(sealed) = rest.get(..len + RECORD_TAG) else {
        return Ok(None);
    };
    let to = plain.get_mut(..len).ok_or(Refusal::TooLong)?;
    let nonce = receiving.nonce().ok_or(Refusal::NotAuthentic)?;
    if !C::open(&receiving.key, nonce, head, sealed, to) {
        return Err(Refusal::NotAuthentic);
    }
    *is_proven = true;
    Ok(Some(Taken {
        used: RECORD_HEAD + sealed.len(),
        plain: len,
    }))
}

/// A hello of `from`, for `to`.
fn hello(from: Life, to: Life, nonce: &[u8; NONCE_LEN]) -> [u8; HELLO_LEN] {
    let fields: [&[u8]; 8] = [
        MAGIC,
        &VERSION.to_le_bytes(),
        &[0; 4],
        &from.node.0.to_le_bytes(),
        &to.node.0.to_le_bytes(),
        &from.incarnation.to_le_bytes(),
        &to.incarnation.to_le_bytes(),
        nonce,
    ];
    let mut hello = [0; HELLO_LEN];
    let bytes = fields.into_iter().flatten();
    for (place, byte) in hello.iter_mut().zip(bytes) {
        *place = *byte;
    }
    hello
}
