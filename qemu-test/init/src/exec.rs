// SPDX-License-Identifier: GPL-2.0-only
//! Runs one program for the runner: output as it comes, a time limit, the end.

use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Child;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use crate::boot::SEARCH_PATH;
use crate::port::Writer;
use crate::protocol::Bytes;
use crate::protocol::CHUNK;
use crate::protocol::Event;
use crate::protocol::Exit;
use crate::protocol::Run;
use crate::protocol::Stream;

/// How long output is still collected after the program's end: a process it left behind may keep
/// the pipes open for ever, what is already in them must not be lost.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// Output of one program on its way to the runner.
struct Sink {
    writer: Arc<Writer>,
    id: u64,
    limit: Option<u64>,
    state: Mutex<SinkState>,
}

#[derive(Default)]
struct SinkState {
    sent: u64,
    is_closed: bool,
    is_truncated: bool,
}

impl Sink {
    fn send(&self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_closed {
            return Ok(());
        }
        let room = self.limit.map_or(u64::MAX, |limit| limit - state.sent);
        let take = usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()));
        state.is_truncated |= take < bytes.len();
        if take == 0 {
            return Ok(());
        }
        state.sent += take as u64;
        let data = Bytes(bytes[..take].to_vec());
        self.writer.send(self.id, Event::Output { stream, data })
    }

    /// No output is sent after this. Returns whether any was thrown away.
    fn close(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_closed = true;
        state.is_truncated
    }
}

/// Standard input on its way to a program; dropping it is the end of the input.
pub type Feeder = mpsc::Sender<Vec<u8>>;

/// A program that has been started.
pub struct Started {
    child: Child,
    end: mpsc::Receiver<WaitStatus>,
    feeder: Option<Feeder>,
}

impl Started {
    /// Its process group.
    pub fn group(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The way to its standard input, if that is to stay open.
    pub fn feeder(&mut self) -> Option<Feeder> {
        self.feeder.take()
    }
}

/// What to start for `run`.
pub fn command(run: &Run) -> io::Result<Command> {
    let (program, arguments) = run
        .argv
        .split_first()
        .ok_or_else(|| io::Error::other("no program given"))?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .envs(run.env.iter().map(|(name, value)| (name, value)))
        .current_dir(run.cwd.as_deref().unwrap_or("/"))
        .stdin(if run.stdin.is_some() || run.is_fed {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own: a limit or a kill reaches the helpers it started, too.
        .process_group(0);
    Ok(command)
}

/// Puts a child and its end together, and gives it its input.
pub fn started(mut child: Child, end: mpsc::Receiver<WaitStatus>, run: &Run) -> Started {
    let feeder = child.stdin.take().map(|pipe| {
        let (feeder, pieces) = mpsc::channel();
        thread::spawn(move || feed(pipe, &pieces));
        if let Some(Bytes(input)) = &run.stdin {
            // The receiver is alive: its thread has just begun.
            let _ = feeder.send(input.clone());
        }
        feeder
    });
    Started {
        child,
        end,
        feeder: feeder.filter(|_| run.is_fed),
    }
}

/// The program may end without reading all of it.
fn feed(mut pipe: ChildStdin, pieces: &mpsc::Receiver<Vec<u8>>) {
    while let Ok(piece) = pieces.recv() {
        if pipe.write_all(&piece).is_err() {
            return;
        }
    }
}

/// Follows a program to its end and sends everything it writes.
pub fn follow(started: Started, run: &Run, id: u64, writer: &Arc<Writer>) -> Exit {
    let Started { mut child, end, .. } = started;
    let group = Pid::from_raw(child.id().cast_signed());
    let sink = Arc::new(Sink {
        writer: Arc::clone(writer),
        id,
        limit: run.output_limit,
        state: Mutex::default(),
    });
    let (done, readers_done) = mpsc::channel();
    if let Some(pipe) = child.stdout.take() {
        pump(pipe, Stream::Out, Arc::clone(&sink), done.clone());
    }
    if let Some(pipe) = child.stderr.take() {
        pump(pipe, Stream::Err, Arc::clone(&sink), done.clone());
    }
    drop(done);
    let mut exit = wait(&end, run.timeout_ms, group);
    drain(&readers_done);
    exit.truncated = sink.close();
    exit
}

/// Copies a pipe; dropping `done` says that it is at its end.
fn pump(
    mut pipe: impl Read + Send + 'static,
    stream: Stream,
    sink: Arc<Sink>,
    done: mpsc::Sender<()>,
) {
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        while let Ok(len) = pipe.read(&mut buffer) {
            if len == 0 || sink.send(stream, &buffer[..len]).is_err() {
                break;
            }
        }
        drop(done);
    });
}

/// Waits until both readers have dropped their end, or the limit.
fn drain(readers_done: &mpsc::Receiver<()>) {
    let end = Instant::now() + DRAIN_LIMIT;
    // Nothing is ever sent: Ok cannot happen, an error is either the end or the limit.
    let _ = readers_done.recv_timeout(end.saturating_duration_since(Instant::now()));
}

fn wait(end: &mpsc::Receiver<WaitStatus>, timeout_ms: Option<u64>, group: Pid) -> Exit {
    let Some(timeout_ms) = timeout_ms else {
        return end.recv().map_or(Exit::default(), exit_of);
    };
    match end.recv_timeout(Duration::from_millis(timeout_ms)) {
        Ok(status) => exit_of(status),
        Err(_) => {
            // It may end this very moment; then there is nobody to kill and the status arrives.
            let _ = killpg(group, Signal::SIGKILL);
            let status = end.recv().map_or(Exit::default(), exit_of);
            Exit {
                timed_out: true,
                ..status
            }
        }
    }
}

fn exit_of(status: WaitStatus) -> Exit {
    match status {
        WaitStatus::Exited(_, code) => Exit {
            code: Some(code),
            ..Exit::default()
        },
        WaitStatus::Signaled(_, signal, _) => Exit {
            signal: Some(signal as i32),
            ..Exit::default()
        },
        WaitStatus::Stopped(..)
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive => Exit::default(),
    }
}
