// SPDX-License-Identifier: GPL-2.0-only
//! The node's end of the control channel: finds it, opens it, writes whole frames.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::Context;
use anyhow::Result;
use nix::sys::termios;

use crate::boot::wait_for;
use crate::devices::find_port;
use crate::protocol::CONTROL_PORT;
use crate::protocol::Event;
use crate::protocol::Reply;
use crate::protocol::encode;

/// Writes replies; shared by all that have something to say.
#[derive(Debug)]
pub struct Writer {
    boot: String,
    file: Mutex<File>,
}

impl Writer {
    /// `boot` is put on every frame.
    pub fn new(boot: String, file: File) -> Self {
        let file = Mutex::new(file);
        Writer { boot, file }
    }

    /// The boot this node is in.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Sends one reply. Blocks while the runner does not read.
    pub fn send(&self, id: u64, event: Event) -> io::Result<()> {
        let boot = self.boot.clone();
        let frame = encode(&Reply { id, boot, event })?;
        self.write(&frame)
    }

    /// Ends whatever line an earlier boot may have left unfinished in the stream.
    pub fn send_newline(&self) -> io::Result<()> {
        self.write(b"\n")
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.write_all(bytes)
    }
}

/// Opens the control channel for reading and writing. `line` is a serial line to use instead of the
/// virtio-serial port.
pub fn open(line: Option<&str>) -> Result<(File, File)> {
    let path = match line {
        Some(line) => PathBuf::from(line),
        None => wait_for(|| find_port(CONTROL_PORT))
            .with_context(|| format!("no virtio-serial port {CONTROL_PORT} appeared"))?,
    };
    let what = || format!("opening the control channel {}", path.display());
    let reader = open_device(&path).with_context(what)?;
    if line.is_some() {
        make_raw(&reader).with_context(what)?;
    }
    let writer = reader.try_clone().with_context(what)?;
    Ok((reader, writer))
}

pub(crate) fn open_device(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Sets a line up as a plain byte stream.
pub(crate) fn make_raw(file: &File) -> io::Result<()> {
    let mut settings = termios::tcgetattr(file)?;
    termios::cfmakeraw(&mut settings);
    termios::tcsetattr(file, termios::SetArg::TCSANOW, &settings)?;
    Ok(())
}
