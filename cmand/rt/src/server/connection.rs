// SPDX-License-Identifier: GPL-2.0-only
//! One task that accepts, and per client one that reads and one that writes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::CLIENT_LIMIT;
use super::ClientId;
use super::Clients;
use super::FRAME_TIMEOUT;
use super::Input;
use super::OTHERS_LIMIT;
use super::OUTBOX_LIMIT;
use super::Peer;
use super::locked;
use crate::client::ClientFrame;
use crate::client::Refusal;
use crate::client::RefusalKind;
use crate::client::ServerFrame;
use crate::frame;
use crate::frame::Decoder;

/// What waits to be written to one client. Dropping it disconnects the client
/// once the queue is written.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    writing: JoinHandle<()>,
    privileged: bool,
    /// Dropped with the outbox, which ends the reader.
    _open: watch::Sender<()>,
}

impl Outbox {
    pub(super) fn push(&self, bytes: Vec<u8>) -> Result<(), &'static str> {
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        if waiting > OUTBOX_LIMIT {
            self.writing.abort();
            return Err("it does not read what it asked for");
        }
        // A closed queue: the connection broke, and the reader tells.
        let _ = self.queue.send(bytes);
        Ok(())
    }

    pub(super) async fn drain(self) {
        let Self { queue, writing, .. } = self;
        drop(queue);
        let _ = writing.await;
    }
}

async fn write(
    mut stream: OwnedWriteHalf,
    mut queue: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(bytes) = queue.recv().await {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
    }
}

pub(super) async fn accept<Q: DeserializeOwned + Send + 'static>(
    listener: UnixListener,
    clients: Clients,
    inputs: mpsc::Sender<Input<Q>>,
) {
    let mut last = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                last += 1;
                admit(ClientId(last), stream, &clients, &inputs);
            }
            Err(error) => {
                // Out of descriptors or memory: that passes, and spinning on it
                // would not help.
                tracing::warn!(%error, "accepting a client");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

fn admit<Q: DeserializeOwned + Send + 'static>(
    client: ClientId,
    stream: UnixStream,
    clients: &Clients,
    inputs: &mpsc::Sender<Input<Q>>,
) {
    let Ok(credentials) = stream.peer_cred() else {
        return tracing::warn!(%client, "the kernel does not say who a client is; refused");
    };
    let peer = Peer {
        uid: credentials.uid(),
        pid: credentials.pid().unwrap_or(0),
    };
    let (read_half, write_half) = stream.into_split();
    let (queue, queued) = mpsc::unbounded_channel();
    let (open, closed) = watch::channel(());
    let waiting = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox {
        queue,
        waiting: waiting.clone(),
        writing: tokio::spawn(write(write_half, queued, waiting)),
        privileged: peer.is_privileged(),
        _open: open,
    };
    let mut all = locked(clients);
    if is_full(&all, &peer) {
        tracing::warn!(
            uid = peer.uid,
            pid = peer.pid,
            "too many clients; one is refused"
        );
        let refusal = Refusal::new(RefusalKind::Busy, "too many clients; try again later");
        return refuse(&outbox, 0, refusal);
    }
    all.insert(client, outbox);
    drop(all);
    let reader = Reader {
        client,
        peer,
        stream: read_half,
        clients: clients.clone(),
        inputs: inputs.clone(),
    };
    tokio::spawn(reader.run(closed));
}

fn is_full(clients: &BTreeMap<ClientId, Outbox>, peer: &Peer) -> bool {
    let others = clients.values().filter(|outbox| !outbox.privileged);
    clients.len() >= CLIENT_LIMIT || (!peer.is_privileged() && others.count() >= OTHERS_LIMIT)
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
}

impl<Q: DeserializeOwned> Reader<Q> {
    async fn run(mut self, mut closed: watch::Receiver<()>) {
        let client = self.client;
        tokio::select! {
            // The sender is never used, only dropped.
            _ = closed.changed() => {}
            end = self.read() => if let Err(reason) = end {
                let Peer { uid, pid } = self.peer;
                tracing::warn!(%client, uid, pid, reason, "disconnecting a client");
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
        let mut decoder = Decoder::new(frame::REQUEST_LIMIT);
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
