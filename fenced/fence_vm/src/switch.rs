// SPDX-License-Identifier: GPL-2.0-only
//! The power switch: one JSON object a line, each request answered once.
//!
//! The stream may hold replies meant for an agent that was killed before this
//! one began, so every request has a random id and lines with another are
//! skipped. The character device can be open once at a time; another agent at
//! work is waited for within the time limit.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::bail;
use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use serde::Deserialize;
use serde::Serialize;

use crate::options::Options;

/// Longest line of a reply, bytes.
const LINE_LIMIT: usize = 64 * 1024;

/// Between two attempts to open a device that another agent uses.
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// Whether a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    On,
    Off,
    Unknown,
}

#[derive(Serialize)]
struct Request<'a> {
    id: u64,
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    plug: Option<&'a str>,
}

#[derive(Debug, Deserialize)]
struct Reply {
    id: u64,
    ok: bool,
    #[serde(default)]
    error: String,
    state: Option<State>,
    plugs: Option<Vec<String>>,
}

/// An open power switch.
#[derive(Debug)]
pub(crate) struct Switch {
    stream: File,
    timeout: Duration,
    buffer: Vec<u8>,
}

impl Switch {
    /// Opens the switch the options name, after the delay they ask for.
    pub(crate) fn open(options: &Options) -> anyhow::Result<Self> {
        std::thread::sleep(options.delay());
        let path = &options.monitor;
        let stream = open(path, Instant::now() + options.timeout())
            .with_context(|| format!("opening the power switch {}", path.display()))?;
        let mut switch = Self {
            stream,
            timeout: options.timeout(),
            buffer: Vec::new(),
        };
        // Ends whatever a killed agent before this one left unfinished.
        switch.write(b"\n", Instant::now() + options.timeout())?;
        Ok(switch)
    }

    pub(crate) fn list(&mut self) -> anyhow::Result<Vec<String>> {
        self.ask("list", None)?
            .plugs
            .context("the power switch named no machines")
    }

    pub(crate) fn status(&mut self, plug: &str) -> anyhow::Result<State> {
        self.ask("status", Some(plug))?
            .state
            .context("the power switch told no state")
    }

    pub(crate) fn off(&mut self, plug: &str) -> anyhow::Result<()> {
        self.ask("off", Some(plug)).map(drop)
    }

    pub(crate) fn on(&mut self, plug: &str) -> anyhow::Result<()> {
        self.ask("on", Some(plug)).map(drop)
    }

    pub(crate) fn reboot(&mut self, plug: &str) -> anyhow::Result<()> {
        self.ask("reboot", Some(plug)).map(drop)
    }

    fn ask(&mut self, action: &str, plug: Option<&str>) -> anyhow::Result<Reply> {
        let what = || format!("{action} {}", plug.unwrap_or_default());
        let deadline = Instant::now() + self.timeout;
        let id = random_id()?;
        let mut line = serde_json::to_vec(&Request { id, action, plug })?;
        line.push(b'\n');
        self.write(&line, deadline).with_context(what)?;
        loop {
            let line = self.line(deadline).with_context(what)?;
            match serde_json::from_slice::<Reply>(&line) {
                Ok(reply) if reply.id == id && reply.ok => return Ok(reply),
                Ok(reply) if reply.id == id => bail!("{}: {}", what(), reply.error),
                // For somebody else, or the tail of a line cut short.
                Ok(_) | Err(_) => {}
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8], deadline: Instant) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => bail!("the power switch takes no more bytes"),
                Ok(n) => bytes = &bytes[n..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, deadline)?;
                }
                Err(error) => return Err(error).context("writing to the power switch"),
            }
        }
        Ok(())
    }

    fn line(&mut self, deadline: Instant) -> anyhow::Result<Vec<u8>> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.buffer.len() > LINE_LIMIT {
                bail!("the power switch sent a line of more than {LINE_LIMIT} bytes");
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the power switch closed the connection"),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLIN, deadline)?;
                }
                Err(error) => return Err(error).context("reading from the power switch"),
            }
        }
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> anyhow::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.stream.as_fd(), flags)];
        match poll(&mut fds, timeout) {
            Ok(0) => bail!(
                "no answer from the power switch in {} s",
                self.timeout.as_secs()
            ),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("waiting for the power switch"),
        }
    }
}

/// Opens a socket or a character device without blocking on either.
fn open(path: &Path, deadline: Instant) -> anyhow::Result<File> {
    let kind = std::fs::metadata(path)
        .context("is the machine given a power switch by its host?")?
        .file_type();
    if kind.is_socket() {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        return Ok(File::from(OwnedFd::from(stream)));
    }
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(O_NONBLOCK)
            .open(path);
        match file {
            Err(error) if error.kind() == ErrorKind::ResourceBusy && Instant::now() < deadline => {
                std::thread::sleep(OPEN_PAUSE);
            }
            other => return Ok(other?),
        }
    }
}

fn random_id() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    random.context("reading /dev/urandom")?;
    Ok(u64::from_le_bytes(bytes))
}
