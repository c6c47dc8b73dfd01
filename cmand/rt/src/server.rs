// SPDX-License-Identifier: GPL-2.0-only
//! The daemon's side of a control socket.
//!
//! Everything clients do arrives as one ordered stream of [`Input`]s; replies
//! and events go out without waiting, in order, through a bounded queue per
//! client. A client that does not read is disconnected when its queue is full,
//! one that stops in the middle of a frame after [`FRAME_TIMEOUT`], one that
//! sends garbage at once: each with a reason in the log and, where it can still
//! be told, a [`Refusal`].
//!
//! Who may ask what is the daemon's decision; the kernel vouches for [`Peer`].
//! What a daemon keeps for clients is bounded in all and by class (`budget`). A
//! client that is not privileged has one request under way: its next one is read
//! when the reply to the last is written.

mod budget;
mod connection;

pub use budget::CLIENT_LIMIT;
pub use budget::OTHERS_BYTES_LIMIT;
pub use budget::OTHERS_LIMIT;
pub use budget::OUTBOX_LIMIT;
pub use budget::PRIVILEGED_LIMIT;
pub use budget::USER_LIMIT;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use nix::fcntl::Flock;
use nix::fcntl::FlockArg;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::client::Refusal;
use crate::client::RefusalKind;
use crate::client::ServerFrame;
use crate::files;
use crate::frame;
use crate::log;

use budget::Budget;
use connection::Outbox;

/// A frame that has begun must have ended after this time.
pub const FRAME_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of JSON in one frame of a client that is not privileged: what it
/// may ask is short.
pub const OTHERS_REQUEST_LIMIT: usize = 4096;

/// Inputs waiting for the daemon; readers pause when it is full.
const INBOX_LIMIT: usize = 256;

/// How long the last replies may take when the daemon ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// One connection; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u64);

impl std::fmt::Display for ClientId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// Process id; 0 if the kernel did not tell.
    pub pid: i32,
}

impl Peer {
    /// Whether it may change things: root, or the user the daemon runs as.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.uid == 0 || self.uid == nix::unistd::geteuid().as_raw()
    }

    /// Passes privileged peers and refuses others.
    ///
    /// # Errors
    /// [`RefusalKind::Permission`].
    pub fn require_privileged(&self) -> Result<(), Refusal> {
        if self.is_privileged() {
            return Ok(());
        }
        let message = format!("user {} may not do this; run as root", self.uid);
        Err(Refusal::new(RefusalKind::Permission, message))
    }
}

/// What clients do.
#[derive(Debug)]
pub enum Input<Q> {
    /// A request that must be answered with [`Server::reply`].
    Request {
        /// Who asks.
        client: ClientId,
        /// Which user and process that is.
        peer: Peer,
        /// For the reply.
        id: u64,
        /// What is asked.
        request: Q,
    },
    /// A client is gone, for whatever reason; it sent its requests before.
    Gone {
        /// Which.
        client: ClientId,
    },
}

/// The socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another instance holds it.
    #[error("{path} is in use: another instance is running")]
    Running {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error("opening the control socket {path}: {source}")]
    System {
        /// The file at fault.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

type Clients = Arc<Mutex<BTreeMap<ClientId, Outbox>>>;

fn locked(clients: &Clients) -> MutexGuard<'_, BTreeMap<ClientId, Outbox>> {
    // A panic between two operations on the map leaves it whole.
    clients.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listening control socket with its clients. `Q` is what they ask.
#[derive(Debug)]
pub struct Server<Q> {
    path: PathBuf,
    #[cfg(test)]
    budget: Budget,
    clients: Clients,
    inbox: mpsc::Receiver<Input<Q>>,
    accepting: JoinHandle<()>,
    /// Held while this instance lives; the file stays, the lock does not.
    _instance: Flock<File>,
}

impl<Q: DeserializeOwned + Send + 'static> Server<Q> {
    /// Opens the socket, for everybody to connect to: requests are judged by
    /// [`Peer`]. A socket file left by a dead instance is replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let system = |source| BindError::System {
            path: path.to_owned(),
            source,
        };
        if let Some(directory) = path.parent() {
            files::make_directory(directory, files::PUBLIC_DIRECTORY).map_err(system)?;
        }
        let instance = instance_lock(path)?;
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(system)?;
        let everybody = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(path, everybody).map_err(system)?;
        let clients = Clients::default();
        let (inputs, inbox) = mpsc::channel(INBOX_LIMIT);
        let budget = Budget::default();
        let accept = connection::accept(listener, budget.clone(), clients.clone(), inputs);
        let accepting = tokio::spawn(accept);
        Ok(Self {
            path: path.to_owned(),
            #[cfg(test)]
            budget,
            clients,
            inbox,
            accepting,
            _instance: instance,
        })
    }

    /// The next thing a client did. Safe to cancel.
    pub async fn next(&mut self) -> Input<Q> {
        match self.inbox.recv().await {
            Some(input) => input,
            // The accepting task holds a sender for as long as this server lives.
            None => std::future::pending().await,
        }
    }
}

impl<Q> Server<Q> {
    /// Answers a request. A client that is gone meanwhile gets nothing.
    pub fn reply<R: Serialize>(&self, client: ClientId, id: u64, reply: Result<R, Refusal>) {
        self.send(client, &ServerFrame::<R, ()>::Reply { id, reply });
    }

    /// Tells a client what happened.
    pub fn event<E: Serialize>(&self, client: ClientId, event: E) {
        self.send(client, &ServerFrame::<(), E>::Event(event));
    }

    fn send<R: Serialize, E: Serialize>(&self, client: ClientId, what: &ServerFrame<R, E>) {
        let bytes = match frame::encode(what, frame::REPLY_LIMIT) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%client, %error, "encoding for a client; it is disconnected");
                return self.close(client);
            }
        };
        let mut clients = locked(&self.clients);
        if let Some(outbox) = clients.get(&client)
            && let Err(reason) = outbox.push(bytes)
        {
            let Peer { uid, pid } = outbox.peer();
            if log::is_due("client disconnected", uid) {
                tracing::warn!(%client, uid, pid, %reason, "disconnecting a client");
            }
            clients.remove(&client);
        }
    }

    /// Disconnects a client; [`Input::Gone`] follows.
    pub fn close(&self, client: ClientId) {
        locked(&self.clients).remove(&client);
    }

    /// Ends: no new clients, and a second at most for what is still queued.
    pub async fn shutdown(self) {
        self.accepting.abort();
        // Best effort: the next instance replaces a file that stays.
        let _ = std::fs::remove_file(&self.path);
        let outboxes = std::mem::take(&mut *locked(&self.clients));
        let drained = async {
            for outbox in outboxes.into_values() {
                outbox.drain().await;
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, drained).await;
    }
}

/// A file lock beside the socket: unlike the socket file it cannot be stale.
fn instance_lock(path: &Path) -> Result<Flock<File>, BindError> {
    let lock = path.with_extension("lock");
    let file = files::open_lock(&lock).map_err(|source| BindError::System {
        path: lock.clone(),
        source,
    })?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            let path = path.to_owned();
            return BindError::Running { path };
        }
        BindError::System {
            path: lock,
            source: errno.into(),
        }
    })
}

#[cfg(test)]
mod tests;
