// SPDX-License-Identifier: GPL-2.0-only
//! A serial line to the power switch, made to look like the virtio-serial port that agents expect.
//!
//! A port is open to one program at a time, a line is not: two agents would take each other's
//! answers. So agents get a unix socket at the port's place, which serves one after the other.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;

use anyhow::Context;
use anyhow::Result;

use crate::devices::PORTS_DIR;
use crate::devices::complain;
use crate::port::make_raw;
use crate::port::open_device;
use crate::protocol::POWER_PORT;

type Client = Arc<Mutex<Option<UnixStream>>>;

/// Starts to relay between the line at `path` and the programs that connect.
pub fn start(path: &str) -> Result<()> {
    let what = || format!("relaying to the power switch on {path}");
    let line = open_device(Path::new(path)).with_context(what)?;
    make_raw(&line).with_context(what)?;
    let answers = line.try_clone().with_context(what)?;
    fs::create_dir_all(PORTS_DIR).with_context(what)?;
    let listener = UnixListener::bind(Path::new(PORTS_DIR).join(POWER_PORT)).with_context(what)?;
    let client = Client::default();
    let same = Arc::clone(&client);
    thread::spawn(move || end_of(pass_answers(answers, &same)));
    thread::spawn(move || end_of(serve(&listener, line, &client)));
    Ok(())
}

fn end_of(result: io::Result<()>) {
    if let Err(error) = result {
        complain(&format!("relaying to the power switch: {error}"));
    }
}

fn pass_answers(mut line: File, client: &Client) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let len = line.read(&mut buffer)?;
        let mut client = client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = client.as_mut() {
            // An agent that has gone does not want its answer any more.
            let _ = stream.write_all(&buffer[..len]);
        }
    }
}

fn serve(listener: &UnixListener, mut line: File, client: &Client) -> io::Result<()> {
    loop {
        let (mut stream, _) = listener.accept()?;
        let answers = stream.try_clone()?;
        *client.lock().unwrap_or_else(PoisonError::into_inner) = Some(answers);
        let mut buffer = [0; 4096];
        while let Ok(len) = stream.read(&mut buffer) {
            if len == 0 {
                break;
            }
            line.write_all(&buffer[..len])?;
        }
        *client.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
