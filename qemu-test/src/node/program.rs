// SPDX-License-Identifier: GPL-2.0-only
//! Programs on nodes: what a finished one has left, and one that goes on running.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use guest_init::protocol::Bytes;
use guest_init::protocol::Event;
use guest_init::protocol::Exit;
use guest_init::protocol::Op;
use guest_init::protocol::Stream;
use tokio::sync::watch;

use crate::control::Control;
use crate::control::Replies;

/// Lines of a running program kept in memory; the log has all.
const LINES_MAX: usize = 20_000;

/// Output shown in an error.
const ERROR_TAIL: usize = 2000;

/// How long a signal or a line may take to be delivered.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// What a program has left.
#[derive(Clone, Debug)]
pub struct Output {
    node: String,
    command: String,
    /// How it ended.
    pub exit: Exit,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    pub(super) fn of(node: &str, command: &str) -> Self {
        Output {
            node: node.to_owned(),
            command: command.to_owned(),
            exit: Exit::default(),
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// Whether it ended with exit code 0.
    pub fn is_ok(&self) -> bool {
        self.exit.code == Some(0)
    }

    /// Standard output as text, without blanks at the end.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.stdout);
        text.trim_end().to_owned()
    }

    /// Itself if the exit code was 0, otherwise an error with command, end and output.
    pub fn ok(self) -> Result<Self> {
        if self.is_ok() {
            return Ok(self);
        }
        bail!(
            "{}: {:?} {}\n{}{}",
            self.node,
            self.command,
            describe(&self.exit),
            tail(&self.stdout),
            tail(&self.stderr)
        )
    }
}

/// How a program ended, in words.
pub fn describe(exit: &Exit) -> String {
    match (exit.timed_out, exit.code, exit.signal) {
        (true, ..) => "took too long and was killed".to_owned(),
        (false, Some(code), _) => format!("exited with {code}"),
        (false, None, Some(signal)) => format!("was ended by signal {signal}"),
        (false, None, None) => "ended in an unknown way".to_owned(),
    }
}

fn tail(bytes: &[u8]) -> String {
    let start = bytes.len().saturating_sub(ERROR_TAIL);
    String::from_utf8_lossy(&bytes[start..]).into_owned()
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<String>,
    /// Lines that fell out of the front.
    dropped: usize,
    end: Option<std::result::Result<Exit, String>>,
}

/// A program that was started and may still run; clones are the same program.
#[derive(Clone, Debug)]
pub struct Running {
    node: String,
    name: String,
    id: u64,
    control: Control,
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl Running {
    pub(super) fn follow(
        control: Control,
        node: &str,
        name: &str,
        log: &Path,
        replies: Replies,
    ) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        let running = Running {
            node: node.to_owned(),
            name: name.to_owned(),
            id: replies.id(),
            control,
            state: Arc::default(),
            changed: watch::Sender::new(()),
        };
        tokio::spawn(collect(running.clone(), file, replies));
        Ok(running)
    }

    /// All lines so far, of both streams as they came.
    pub fn lines(&self) -> Vec<String> {
        self.lock().lines.iter().cloned().collect()
    }

    /// How it ended; `None` while it runs.
    pub fn end(&self) -> Option<Result<Exit>> {
        let state = self.lock();
        let end = state.end.clone()?;
        Some(end.map_err(|error| anyhow!(error)))
    }

    /// Waits for its end.
    pub async fn wait(&self, limit: Duration) -> Result<Exit> {
        let ended = self.until(limit, |state| state.end.is_some().then_some(()));
        ended
            .await
            .with_context(|| format!("{} does not end", self.what()))?;
        self.end().unwrap_or_else(|| bail!("no end"))
    }

    /// Waits for a line, among those that are there as well, and returns the first that fits.
    /// Fails at once when the program ends without it.
    pub async fn wait_for_line(
        &self,
        limit: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String> {
        self.wait_for_line_after(0, limit, fits).await
    }

    /// As [`Running::wait_for_line`], without the first lines up to a [`Running::position`].
    pub async fn wait_for_line_after(
        &self,
        position: usize,
        limit: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let mut seen = position;
        let found = self.until(limit, |state| {
            let skip = seen_in(state, seen);
            seen = state.dropped + state.lines.len();
            let line = state.lines.iter().skip(skip).find(|line| fits(line));
            match (line, &state.end) {
                (Some(line), _) => Some(Some(line.clone())),
                (None, Some(_)) => Some(None),
                (None, None) => None,
            }
        });
        let line = found.await.with_context(|| self.with_tail())?;
        line.with_context(|| format!("{}: ended instead", self.with_tail()))
    }

    /// Gives it a line to read; it must have been started with [`Program::is_fed`].
    ///
    /// [`Program::is_fed`]: guest_init::protocol::Run::is_fed
    pub async fn send_line(&self, line: &str) -> Result<()> {
        self.request(Op::Feed {
            target: self.id,
            data: Bytes(format!("{line}\n").into_bytes()),
            is_last: false,
        })
        .await
        .with_context(|| format!("sending {line:?} to {}", self.what()))
    }

    /// Ends its input.
    pub async fn end_input(&self) -> Result<()> {
        let end = Op::Feed {
            target: self.id,
            data: Bytes::default(),
            is_last: true,
        };
        let done = self.request(end).await;
        done.with_context(|| format!("ending the input of {}", self.what()))
    }

    /// Gives it a line to read and waits for one that it writes afterwards and that fits.
    pub async fn ask(
        &self,
        line: &str,
        limit: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let position = self.position();
        self.send_line(line).await?;
        self.wait_for_line_after(position, limit, fits)
            .await
            .with_context(|| format!("after {line:?}"))
    }

    /// How many lines it has written so far.
    pub fn position(&self) -> usize {
        let state = self.lock();
        state.dropped + state.lines.len()
    }

    /// Sends a signal to it and all it has started in its group.
    pub async fn kill(&self, signal: i32) -> Result<()> {
        let target = self.id;
        let done = self.request(Op::Kill { target, signal }).await;
        done.with_context(|| format!("sending signal {signal} to {}", self.what()))
    }

    async fn request(&self, op: Op) -> Result<()> {
        let mut replies = self.control.request(op)?;
        let answer = tokio::time::timeout(ANSWER_LIMIT, replies.next()).await;
        answer.context("no answer")?.map(drop)
    }

    /// Asks it to end (SIGTERM) and waits.
    pub async fn stop(&self, limit: Duration) -> Result<Exit> {
        self.kill(nix::sys::signal::Signal::SIGTERM as i32).await?;
        self.wait(limit).await
    }

    fn what(&self) -> String {
        format!("{} on {}", self.name, self.node)
    }

    fn with_tail(&self) -> String {
        let lines = self.lines();
        let start = lines.len().saturating_sub(15);
        let tail = lines[start..].join("\n    ");
        format!(
            "waiting for a line of {}; its last ones:\n    {tail}\n",
            self.what()
        )
    }

    async fn until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&State) -> Option<T>,
    ) -> Result<T> {
        let mut changes = self.changed.subscribe();
        let found = async {
            loop {
                if let Some(found) = look(&self.lock()) {
                    return found;
                }
                // Cannot fail: the sender lives in self.
                let _ = changes.changed().await;
            }
        };
        let found = tokio::time::timeout(limit, found).await;
        found.with_context(|| format!("not within {limit:?}"))
    }

    fn add(&self, line: String) {
        let mut state = self.lock();
        if state.lines.len() == LINES_MAX {
            state.lines.pop_front();
            state.dropped += 1;
        }
        state.lines.push_back(line);
        drop(state);
        self.changed.send_replace(());
    }

    fn finish(&self, end: std::result::Result<Exit, String>) {
        self.lock().end = Some(end);
        self.changed.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many of the lines that are there were looked at before.
fn seen_in(state: &State, seen: usize) -> usize {
    seen.saturating_sub(state.dropped)
}

async fn collect(running: Running, mut log: File, mut replies: Replies) {
    let mut out = Vec::new();
    let mut err = Vec::new();
    let end = loop {
        match replies.next().await {
            Ok(Event::Output { stream, data }) => {
                // A full disk must not stop the program.
                let _ = log.write_all(&data.0);
                let buffer = match stream {
                    Stream::Out => &mut out,
                    Stream::Err => &mut err,
                };
                add_lines(&running, buffer, &data.0);
            }
            Ok(Event::Exited(exit)) => break Ok(exit),
            Ok(Event::Hello(_) | Event::Consumed { .. } | Event::Done | Event::Failed { .. }) => {
                break Err("unexpected answer".to_owned());
            }
            Err(error) => break Err(format!("{error:#}")),
        }
    };
    for rest in [out, err] {
        if !rest.is_empty() {
            running.add(String::from_utf8_lossy(&rest).into_owned());
        }
    }
    running.finish(end);
}

fn add_lines(running: &Running, buffer: &mut Vec<u8>, bytes: &[u8]) {
    for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
        buffer.extend_from_slice(piece);
        if buffer.ends_with(b"\n") {
            buffer.pop();
            running.add(String::from_utf8_lossy(buffer).into_owned());
            buffer.clear();
        }
    }
}
