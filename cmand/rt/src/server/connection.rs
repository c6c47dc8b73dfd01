// SPDX-License-Identifier: GPL-2.0-only
//! One task that accepts, and per client one that reads and one that writes.

use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::ClientId;
use super::Clients;
use super::FRAME_TIMEOUT;
use super::Input;
use super::OTHERS_REQUEST_LIMIT;
use super::Peer;
use super::budget::Budget;
use super::budget::NoRoom;
use super::budget::Parcel;
use super::budget::Place;
use super::locked;
use crate::client::ClientFrame;
use crate::client::Refusal;
use crate::client::RefusalKind;
use crate::client::ServerFrame;
use crate::frame;
use crate::frame::Decoder;
use crate::log;

/// How long a client that was disconnected may take to read what is left for it.
const LINGER: Duration = Duration::from_secs(1);

/// Pause after a client could not be accepted: out of descriptors or memory, which
/// passes, and spinning on it would not help.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What waits to be written to one client. Dropping it disconnects the client
/// once the queue is written.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Parcel>,
    writing: JoinHandle<()>,
    peer: Peer,
    place: Arc<Place>,
    /// Dropped with the outbox, which ends the reader, and soon the writer.
    _open: watch::Sender<()>,
}

impl Outbox {
    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn push(&self, bytes: Vec<u8>) -> Result<(), NoRoom> {
        let parcel = self
            .place
            .wrap(bytes)
            .inspect_err(|_| self.writing.abort())?;
        // A closed queue: the connection broke, and the reader tells.
        let _ = self.queue.send(parcel);
        Ok(())
    }

    pub(super) async fn drain(self) {
        let Self { queue, writing, .. } = self;
        drop(queue);
        let _ = writing.await;
    }
}

/// Writes what is queued, and for [`LINGER`] after the client was disconnected.
struct Writer {
    stream: OwnedWriteHalf,
    queue: mpsc::UnboundedReceiver<Parcel>,
    /// Gets a permit for each frame that is written.
    written: Arc<Semaphore>,
    /// For as long as anything may wait here.
    _place: Arc<Place>,
}

impl Writer {
    async fn run(mut self, mut closed: watch::Receiver<()>) {
        let end = async {
            // The sender is never used, only dropped.
            let _ = closed.changed().await;
            tokio::time::sleep(LINGER).await;
        };
        let write = async {
            while let Some(parcel) = self.queue.recv().await {
                if self.stream.write_all(parcel.bytes()).await.is_err() {
                    return;
                }
                self.written.add_permits(1);
            }
        };
        tokio::select! {
            () = write => {}
            () = end => {}
        }
    }
}

pub(super) async fn accept<Q: DeserializeOwned + Send + 'static>(
    listener: UnixListener,
    budget: Budget,
    clients: Clients,
    inputs: mpsc::Sender<Input<Q>>,
) {
    let mut last = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                last += 1;
                admit(ClientId(last), stream, &budget, &clients, &inputs);
            }
            Err(error) => {
                if log::is_due("accepting a client", "") {
                    tracing::warn!(%error, "accepting a client");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn admit<Q: DeserializeOwned + Send + 'static>(
    client: ClientId,
    stream: UnixStream,
    budget: &Budget,
    clients: &Clients,
    inputs: &mpsc::Sender<Input<Q>>,
) {
    let Ok(credentials) = stream.peer_cred() else {
        if log::is_due("client without a user", "") {
            tracing::warn!(%client, "the kernel does not say who a client is; refused");
        }
        return;
    };
    let peer = Peer {
        uid: credentials.uid(),
        pid: credentials.pid().unwrap_or(0),
    };
    let place = match budget.admit(&peer) {
        Ok(place) => place,
        Err(why) => {
            let Peer { uid, pid } = peer;
            if log::is_due("client refused", uid) {
                tracing::warn!(uid, pid, %why, "a client is refused");
            }
            return turn_away(&stream, &why);
        }
    };
    let (read_half, write_half) = stream.into_split();
    let (queue, queued) = mpsc::unbounded_channel();
    let (open, closed) = watch::channel(());
    // Of the first request; each frame that is written makes room for another.
    let written = Arc::new(Semaphore::new(1));
    let writer = Writer {
        stream: write_half,
        queue: queued,
        written: Arc::clone(&written),
        _place: Arc::clone(&place),
    };
    let outbox = Outbox {
        queue,
        writing: tokio::spawn(writer.run(closed.clone())),
        peer,
        place: Arc::clone(&place),
        _open: open,
    };
    locked(clients).insert(client, outbox);
    let reader = Reader {
        client,
        peer,
        stream: read_half,
        clients: clients.clone(),
        inputs: inputs.clone(),
        written: (!place.is_privileged()).then_some(written),
        _place: place,
    };
    tokio::spawn(reader.run(closed));
}

/// Tells a client for which there is no place why, as far as its socket takes that at
/// once: nothing of it is kept.
fn turn_away(stream: &UnixStream, why: &NoRoom) {
    let message = format!("{why}; try again later");
    let reply = Err(Refusal::new(RefusalKind::Busy, message));
    let frame = ServerFrame::<(), ()>::Reply { id: 0, reply };
    if let Ok(bytes) = frame::encode(&frame, frame::REPLY_LIMIT) {
        let _ = stream.try_write(&bytes);
    }
}

fn refuse(outbox: &Outbox, id: u64, refusal: Refusal) {
    let reply = Err(refusal);
    let frame = ServerFrame::<(), ()>::Reply { id, reply };
    if let Ok(bytes) = frame::encode(&frame, frame::REPLY_LIMIT) {
        // A full queue ends the connection, which is what comes next anyway.
        let _ = outbox.push(bytes);
    }
}

/// Reads one client until it is gone or has to go.
struct Reader<Q> {
    client: ClientId,
    peer: Peer,
    stream: OwnedReadHalf,
    clients: Clients,
    inputs: mpsc::Sender<Input<Q>>,
    /// One permit for each request that may be taken; none for a privileged client,
    /// whose requests are taken as they come.
    written: Option<Arc<Semaphore>>,
    /// For as long as anything may wait here.
    _place: Arc<Place>,
}

impl<Q: DeserializeOwned> Reader<Q> {
    async fn run(mut self, mut closed: watch::Receiver<()>) {
        let client = self.client;
        tokio::select! {
            // The sender is never used, only dropped.
            _ = closed.changed() => {}
            end = self.read() => if let Err(reason) = end {
                let Peer { uid, pid } = self.peer;
                if log::is_due("client disconnected", uid) {
                    tracing::warn!(%client, uid, pid, reason, "disconnecting a client");
                }
                self.refuse(0, RefusalKind::Invalid, reason);
            }
        }
        locked(&self.clients).remove(&client);
        // Fails only when the daemon is ending.
        let _ = self.inputs.send(Input::Gone { client }).await;
    }

    fn refuse(&self, id: u64, kind: RefusalKind, message: String) {
        if let Some(outbox) = locked(&self.clients).get(&self.client) {
            refuse(outbox, id, Refusal::new(kind, message));
        }
    }

    /// `Ok` when the client closed the connection between two frames.
    async fn read(&mut self) -> Result<(), String> {
        let limit = match self.written {
            None => frame::REQUEST_LIMIT,
            Some(_) => OTHERS_REQUEST_LIMIT,
        };
        let mut decoder = Decoder::new(limit);
        let mut buffer = vec![0; 16 * 1024];
        let mut begun = None;
        loop {
            while let Some(asked) = decoder.take().map_err(|error| error.to_string())? {
                begun = None;
                if !self.pass_on(asked).await {
                    return Ok(());
                }
            }
            let deadline = decoder
                .is_partial()
                .then(|| *begun.get_or_insert_with(|| tokio::time::Instant::now() + FRAME_TIMEOUT));
            let read = self.stream.read(&mut buffer);
            let read = match deadline {
                None => read.await,
                Some(deadline) => tokio::time::timeout_at(deadline, read)
                    .await
                    .map_err(|_| "it stopped in the middle of a frame".to_owned())?,
            };
            match read.map_err(|error| error.to_string())? {
                0 if decoder.is_partial() => {
                    return Err("it left in the middle of a frame".to_owned());
                }
                0 => return Ok(()),
                length => decoder.feed(&buffer[..length]),
            }
        }
    }

    /// A request this daemon does not know is refused and the client stays. `false` when
    /// the daemon is ending.
    async fn pass_on(&self, asked: ClientFrame<serde_json::Value>) -> bool {
        let ClientFrame { id, request } = asked;
        if let Some(written) = &self.written {
            match written.acquire().await {
                Ok(permit) => permit.forget(),
                // Never closed; without permits nobody waits for replies.
                Err(_) => return false,
            }
        }
        match serde_json::from_value(request) {
            Ok(request) => {
                let (client, peer) = (self.client, self.peer);
                let input = Input::Request {
                    client,
                    peer,
                    id,
                    request,
                };
                self.inputs.send(input).await.is_ok()
            }
            Err(error) => {
                let message = format!("request not understood: {error}");
                self.refuse(id, RefusalKind::Invalid, message);
                true
            }
        }
    }
}
