// SPDX-License-Identifier: GPL-2.0-only
//! The client's side of a control socket: requests with an id, replies with the
//! same id, and events without one in between.
//!
//! [`Blocking`] is for tools: one call at a time, with a time limit.
//! [`Connection`] is for daemons: replies and events arrive in one ordered
//! stream, because their order is what a group member relies on.

use std::io;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use nix::sys::socket::AddressFamily;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::UnixAddr;
use nix::sys::socket::connect as connect_socket;
use nix::sys::socket::socket;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;

use crate::frame;
use crate::frame::Decoder;
use crate::frame::FrameError;

/// How long a tool waits for one reply before it says that the daemon hangs, unless it is told
/// otherwise. Daemons that work answer in milliseconds; a person waits this long without wondering.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClientFrame<Q> {
    /// Chosen by the client; the reply carries it back.
    pub id: u64,
    /// What is asked.
    pub request: Q,
}

/// What a daemon sends.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerFrame<R, E> {
    /// The answer to the request with this id.
    Reply {
        /// Id of the request.
        id: u64,
        /// The answer.
        reply: Result<R, Refusal>,
    },
    /// Something that happened; only to clients that asked for events.
    Event(E),
}

/// A request was not accepted and changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Machine-readable class.
    pub kind: RefusalKind,
    /// What was wrong and what would help, one line.
    pub message: String,
}

impl Refusal {
    /// A refusal of this kind.
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

/// Classes of refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// The caller's user id may not do this.
    Permission,
    /// An argument is wrong.
    Invalid,
    /// The named node, group or lockspace does not exist.
    NotFound,
    /// Not possible in the present state; may be later.
    Busy,
}

/// Why a call had no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens on the socket.
    #[error("{daemon} is not running ({path}: {source}); start it with `systemctl start {daemon}`")]
    NotRunning {
        /// Name of the daemon.
        daemon: &'static str,
        /// The socket.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The socket is there and may not be used by this user.
    #[error("no permission to talk to {daemon} ({path}); run as root")]
    Permission {
        /// Name of the daemon.
        daemon: &'static str,
        /// The socket.
        path: PathBuf,
    },
    /// It is there and says nothing. What changes something may still be done.
    #[error(
        "{daemon} does not answer ({path}, nothing within {} s); it is stopped or hangs: see \
         `systemctl status {daemon}`. Where it only waits until the cluster can agree, what was \
         asked for happens then, and a longer --timeout waits for it",
        limit.as_secs()
    )]
    NoAnswer {
        /// Name of the daemon.
        daemon: &'static str,
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The connection broke.
    #[error("talking to {daemon}: {source}")]
    Broken {
        /// Name of the daemon.
        daemon: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The daemon sent something this client does not understand.
    #[error("talking to {daemon}: {source}; tool and daemon may be of different versions")]
    Frame {
        /// Name of the daemon.
        daemon: &'static str,
        /// What was wrong with it.
        source: FrameError,
    },
    /// The daemon understood and refused.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

fn connect_error(daemon: &'static str, path: &Path, source: std::io::Error) -> CallError {
    let path = path.to_owned();
    if source.kind() == std::io::ErrorKind::PermissionDenied {
        return CallError::Permission { daemon, path };
    }
    CallError::NotRunning {
        daemon,
        path,
        source,
    }
}

/// Asks one thing and waits so long for the answer; events on the way are skipped.
///
/// # Errors
/// Any [`CallError`]. After [`CallError::Broken`] the request may have been
/// carried out.
pub fn call<Q, R, E>(
    daemon: &'static str,
    path: &Path,
    limit: Duration,
    request: &Q,
) -> Result<R, CallError>
where
    Q: Serialize,
    R: DeserializeOwned,
    E: DeserializeOwned,
{
    let deadline = Instant::now() + limit;
    let late = || CallError::NoAnswer {
        daemon,
        path: path.to_owned(),
        limit,
    };
    let broken = |source: io::Error| {
        if is_late(&source) {
            return late();
        }
        CallError::Broken { daemon, source }
    };
    let unframed = |source| CallError::Frame { daemon, source };
    let mut stream = connect_in_time(path, limit).map_err(|source| {
        if is_late(&source) {
            return late();
        }
        connect_error(daemon, path, source)
    })?;
    let bytes =
        frame::encode(&ClientFrame { id: 1, request }, frame::REQUEST_LIMIT).map_err(unframed)?;
    // A client that is refused is told before it has said anything, and then cannot.
    let sent = stream.write_all(&bytes);
    let mut decoder = Decoder::new(frame::REPLY_LIMIT);
    let mut buffer = [0; 16 * 1024];
    loop {
        while let Some(answer) = decoder.take::<ServerFrame<R, E>>().map_err(unframed)? {
            match answer {
                ServerFrame::Reply { id: 1, reply } => return Ok(reply?),
                // To nothing that was asked: the connection is refused, or ends.
                ServerFrame::Reply {
                    reply: Err(refusal),
                    ..
                } => return Err(refusal.into()),
                ServerFrame::Reply { .. } | ServerFrame::Event(_) => {}
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(late());
        }
        stream.set_read_timeout(Some(left)).map_err(broken)?;
        match stream.read(&mut buffer) {
            Ok(0) => {
                let end = || io::ErrorKind::UnexpectedEof.into();
                return Err(broken(sent.err().unwrap_or_else(end)));
            }
            Ok(n) => decoder.feed(&buffer[..n]),
            Err(error) => return Err(broken(sent.err().unwrap_or(error))),
        }
    }
}

/// What the system says of a socket whose time is over.
fn is_late(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
    kinds.contains(&error.kind())
}

/// Connects, or gives up: the queue of a daemon that is stopped fills, and then waits.
fn connect_in_time(path: &Path, limit: Duration) -> io::Result<std::os::unix::net::UnixStream> {
    let socket = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let stream = std::os::unix::net::UnixStream::from(socket);
    // Connecting counts as sending.
    stream.set_write_timeout(Some(limit))?;
    connect_socket(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream)
}

/// The sending half of a daemon's connection to another daemon.
#[derive(Debug)]
pub struct Sender {
    daemon: &'static str,
    stream: OwnedWriteHalf,
    next_id: u64,
}

/// The receiving half: replies and events in the order the daemon sent them.
#[derive(Debug)]
pub struct Receiver<R, E> {
    daemon: &'static str,
    stream: OwnedReadHalf,
    decoder: Decoder,
    kind: std::marker::PhantomData<fn() -> (R, E)>,
}

/// Connects to a daemon's control socket.
///
/// # Errors
/// [`CallError::NotRunning`] or [`CallError::Permission`].
pub async fn connect<R, E>(
    daemon: &'static str,
    path: &Path,
) -> Result<(Sender, Receiver<R, E>), CallError> {
    let stream = UnixStream::connect(path)
        .await
        .map_err(|source| connect_error(daemon, path, source))?;
    let (read, write) = stream.into_split();
    Ok((
        Sender {
            daemon,
            stream: write,
            next_id: 1,
        },
        Receiver {
            daemon,
            stream: read,
            decoder: Decoder::new(frame::REPLY_LIMIT),
            kind: std::marker::PhantomData,
        },
    ))
}

impl Sender {
    /// Sends a request and returns its id.
    ///
    /// # Errors
    /// [`CallError::Broken`], or [`CallError::Frame`] for a request over the limit.
    pub async fn send<Q: Serialize>(&mut self, request: &Q) -> Result<u64, CallError> {
        let daemon = self.daemon;
        let id = self.next_id;
        self.next_id += 1;
        let bytes = frame::encode(&ClientFrame { id, request }, frame::REQUEST_LIMIT)
            .map_err(|source| CallError::Frame { daemon, source })?;
        let sent = self.stream.write_all(&bytes).await;
        sent.map_err(|source| CallError::Broken { daemon, source })?;
        Ok(id)
    }
}

impl<R: DeserializeOwned, E: DeserializeOwned> Receiver<R, E> {
    /// The next reply or event. Safe to cancel: no bytes are lost.
    ///
    /// # Errors
    /// [`CallError::Broken`] also when the daemon closed the connection.
    pub async fn next(&mut self) -> Result<ServerFrame<R, E>, CallError> {
        let daemon = self.daemon;
        let mut buffer = [0; 16 * 1024];
        loop {
            let whole = self.decoder.take();
            if let Some(answer) = whole.map_err(|source| CallError::Frame { daemon, source })? {
                return Ok(answer);
            }
            let read = self.stream.read(&mut buffer).await;
            match read.map_err(|source| CallError::Broken { daemon, source })? {
                0 => {
                    let source = std::io::ErrorKind::UnexpectedEof.into();
                    return Err(CallError::Broken { daemon, source });
                }
                n => self.decoder.feed(&buffer[..n]),
            }
        }
    }
}
