// SPDX-License-Identifier: GPL-2.0-only
//! Serves the control channel: one thread reads, every operation that can block has its own.

use std::collections::HashMap;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use nix::sys::reboot::RebootMode;
use nix::sys::reboot::reboot;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;

use crate::children::Children;
use crate::devices::complain;
use crate::exec;
use crate::exec::Feeder;
use crate::port::Writer;
use crate::protocol::Bytes;
use crate::protocol::CHUNK;
use crate::protocol::Event;
use crate::protocol::Halt;
use crate::protocol::Op;
use crate::protocol::Request;
use crate::protocol::Run;
use crate::protocol::Splitter;
use crate::protocol::Stream;

/// Pause before a channel without a peer is read again (virtio-serial reads as ended then).
const NO_PEER_PAUSE: Duration = Duration::from_millis(20);

/// The served node.
#[derive(Clone)]
pub struct Server {
    children: Arc<Children>,
    writer: Arc<Writer>,
    running: Arc<Mutex<HashMap<u64, Program>>>,
}

/// A program that has not ended yet.
struct Program {
    group: Pid,
    feeder: Option<Feeder>,
}

impl Server {
    /// A server that answers on `writer`.
    pub fn new(children: Arc<Children>, writer: Arc<Writer>) -> Self {
        let running = Arc::default();
        Server {
            children,
            writer,
            running,
        }
    }

    /// Reads requests and carries them out, until the channel breaks. On a serial line it also says
    /// how much it has read.
    pub fn run(&self, mut channel: File, is_line: bool) -> io::Error {
        let mut splitter = Splitter::default();
        let mut bytes = 0;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match channel.read(&mut buffer) {
                Ok(0) => thread::sleep(NO_PEER_PAUSE),
                Ok(len) => {
                    let lines = splitter.push(&buffer[..len]);
                    if is_line {
                        bytes += len as u64;
                        self.send(0, Event::Consumed { bytes });
                    }
                    lines.iter().for_each(|line| self.receive(line));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return error,
            }
        }
    }

    fn receive(&self, line: &[u8]) {
        match serde_json::from_slice::<Request>(line) {
            Ok(request) if request.boot == self.writer.boot() => self.start(request),
            // Made to an earlier boot of this node.
            Ok(_) => {}
            Err(error) => complain(&format!("request not understood: {error}")),
        }
    }

    fn start(&self, request: Request) {
        let Request { id, op, .. } = request;
        match op {
            Op::Run(run) => self.run_program(id, run),
            Op::Kill { target, signal } => self.answer(id, self.kill(target, signal)),
            Op::Feed {
                target,
                data,
                is_last,
            } => self.answer(id, self.feed(target, data.0, is_last)),
            Op::Halt(how) => self.answer(id, halt(how)),
            Op::Write {
                path,
                data,
                mode,
                append,
            } => {
                let server = self.clone();
                thread::spawn(move || {
                    server.answer(id, write(Path::new(&path), &data.0, mode, append));
                });
            }
            Op::Read { path, limit } => {
                let server = self.clone();
                thread::spawn(move || {
                    let result = server.read(id, Path::new(&path), limit);
                    server.answer(id, result);
                });
            }
        }
    }

    fn answer(&self, id: u64, result: Result<()>) {
        let event = match result {
            Ok(()) => Event::Done,
            Err(error) => Event::Failed {
                error: format!("{error:#}"),
            },
        };
        self.send(id, event);
    }

    fn send(&self, id: u64, event: Event) {
        if let Err(error) = self.writer.send(id, event) {
            complain(&format!("answering request {id}: {error}"));
        }
    }

    /// Starts the program in order of arrival, so that a kill that follows finds it; only its end
    /// is waited for elsewhere.
    fn run_program(&self, id: u64, run: Run) {
        let name = run.argv.first().cloned().unwrap_or_default();
        let started = exec::command(&run).and_then(|mut command| {
            let (child, end) = self.children.spawn(&mut command)?;
            Ok(exec::started(child, end, &run))
        });
        let mut started = match started {
            Ok(started) => started,
            Err(error) => {
                return self.answer(id, Err(anyhow!(error).context(format!("starting {name}"))));
            }
        };
        let program = Program {
            group: started.group(),
            feeder: started.feeder(),
        };
        self.running().insert(id, program);
        let server = self.clone();
        thread::spawn(move || {
            let exit = exec::follow(started, &run, id, &server.writer);
            server.running().remove(&id);
            server.send(id, Event::Exited(exit));
        });
    }

    fn kill(&self, target: u64, signal: i32) -> Result<()> {
        let signal = Signal::try_from(signal).with_context(|| format!("signal {signal}"))?;
        let running = self.running();
        let Some(Program { group, .. }) = running.get(&target) else {
            bail!("request {target} is not a running program");
        };
        killpg(*group, signal).with_context(|| format!("sending {signal} to group {group}"))
    }

    fn feed(&self, target: u64, data: Vec<u8>, is_last: bool) -> Result<()> {
        let mut running = self.running();
        let program = running.get_mut(&target);
        let feeder = program.map(|program| &mut program.feeder);
        let Some(feeder) = feeder.filter(|feeder| feeder.is_some()) else {
            bail!("request {target} is not a running program with open input");
        };
        let sent = feeder.as_ref().is_some_and(|open| open.send(data).is_ok());
        if is_last {
            *feeder = None;
        }
        if !sent {
            bail!("the program of request {target} has closed its input");
        }
        Ok(())
    }

    fn read(&self, id: u64, path: &Path, limit: u64) -> Result<()> {
        let what = || format!("reading {}", path.display());
        let file = File::open(path).with_context(what)?;
        let mut file = file.take(limit.saturating_add(1));
        let mut sent = 0;
        let mut buffer = vec![0; CHUNK];
        loop {
            let len = file.read(&mut buffer).with_context(what)?;
            if len == 0 {
                return Ok(());
            }
            sent += len as u64;
            if sent > limit {
                bail!("{}: longer than {limit} bytes", what());
            }
            let data = Bytes(buffer[..len].to_vec());
            let stream = Stream::Out;
            self.writer.send(id, Event::Output { stream, data })?;
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<u64, Program>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(path: &Path, data: &[u8], mode: u32, append: bool) -> Result<()> {
    let what = || format!("writing {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(what)?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .append(append)
        .truncate(!append)
        .mode(mode)
        .open(path)
        .with_context(what)?;
    file.write_all(data).with_context(what)
}

fn halt(how: Halt) -> Result<()> {
    let mode = match how {
        Halt::PowerOff => RebootMode::RB_POWER_OFF,
        Halt::Restart => RebootMode::RB_AUTOBOOT,
    };
    match reboot(mode) {
        Ok(never) => match never {},
        Err(error) => Err(error).context("stopping the node"),
    }
}
