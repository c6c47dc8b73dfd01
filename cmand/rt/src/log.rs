// SPDX-License-Identifier: GPL-2.0-only
//! The log of a daemon: lines with fields to stderr, and the last few thousand
//! debug lines in memory for dumps.
//!
//! Threads that log do not wait for stderr: a thread of its own writes there what
//! the memory has, and what is pushed out of the memory before that is counted
//! and lost there. Nor does a real-time thread spin for an ordinary one here: the
//! one lock is held for a few instructions, and waiting for it is sleeping.
//!
//! Before a line that a peer, a stranger or a local user can cause stands
//! [`is_due`].

mod limits;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use tracing::Event;
use tracing::Level;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use limits::LeftOut;
use limits::Limits;

/// Lines kept in memory: some minutes of a busy cluster's decisions.
const MEMORY_LINES: usize = 4096;

/// Bytes of lines kept in memory. Most lines are short; long ones, which others may
/// cause, push out more of them. A dump stays well below what one reply may hold.
const MEMORY_BYTES: usize = 1024 * 1024;

/// Longest line, bytes.
const LINE_LIMIT: usize = 1024;

/// How long [`Log::flush`] waits for stderr.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Line {
    text: Arc<str>,
    /// Whether it is for stderr, too.
    is_shown: bool,
}

/// Lines are numbered from 0 in the order they came.
#[derive(Debug, Default)]
struct Lines {
    kept: VecDeque<Line>,
    /// Sum of their lengths.
    bytes: usize,
    /// Number of the next line.
    next: u64,
    /// The writer has taken all lines before this one.
    taken: u64,
    /// They are on stderr before this one, as far as they are for it.
    written: u64,
    /// For stderr, and never got there.
    lost: u64,
}

impl Lines {
    /// Number of the oldest line kept.
    fn first(&self) -> u64 {
        self.next - self.kept.len() as u64
    }

    fn keep(&mut self, line: Line) {
        self.bytes += line.text.len();
        while self.kept.len() == MEMORY_LINES || self.bytes > MEMORY_BYTES {
            let first = self.first();
            let Some(oldest) = self.kept.pop_front() else {
                break;
            };
            self.bytes -= oldest.text.len();
            if first >= self.taken {
                self.taken = first + 1;
                self.lost += u64::from(oldest.is_shown);
            }
        }
        self.kept.push_back(line);
        self.next += 1;
    }

    /// What stderr has not got, oldest first.
    fn take(&mut self) -> Vec<Arc<str>> {
        let skip = usize::try_from(self.taken - self.first()).unwrap_or(usize::MAX);
        self.taken = self.next;
        let new = self.kept.iter().skip(skip).filter(|line| line.is_shown);
        new.map(|line| Arc::clone(&line.text)).collect()
    }
}

#[derive(Debug, Default)]
struct Memory {
    lines: Mutex<Lines>,
    came: Condvar,
    went: Condvar,
}

impl Memory {
    fn lines(&self) -> MutexGuard<'_, Lines> {
        // A panic between two operations on the lines leaves them whole.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, text: &str, is_shown: bool) {
        let text = Arc::from(text);
        self.lines().keep(Line { text, is_shown });
        self.came.notify_one();
    }

    /// Writes lines as they come, for as long as the process lives.
    fn write(&self, mut out: impl std::io::Write) {
        let mut lines = self.lines();
        loop {
            while lines.taken == lines.next {
                let came = self.came.wait_timeout(lines, limits::INTERVAL);
                lines = came.unwrap_or_else(PoisonError::into_inner).0;
                if limits().next().is_some_and(|at| at <= Instant::now()) {
                    drop(lines);
                    sum_up();
                    lines = self.lines();
                }
            }
            let (new, until) = (lines.take(), lines.next);
            drop(lines);
            for line in new {
                // Nobody is left to tell when stderr itself fails. One write a line: readers
                // of a pipe see whole ones.
                let _ = out.write_all(format!("{line}\n").as_bytes());
            }
            let _ = out.flush();
            lines = self.lines();
            lines.written = until;
            self.went.notify_all();
        }
    }
}

/// Handle of the log, for dumps and for the end.
#[derive(Debug, Clone)]
pub struct Log {
    memory: Arc<Memory>,
}

impl Log {
    /// The lines kept in memory, oldest first.
    #[must_use]
    pub fn dump(&self) -> String {
        let (kept, lost) = {
            let lines = self.memory.lines();
            let kept = lines.kept.iter().map(|line| Arc::clone(&line.text));
            (kept.collect::<Vec<_>>(), lines.lost)
        };
        let mut text = String::new();
        for line in kept {
            text.push_str(&line);
            text.push('\n');
        }
        if lost > 0 {
            let _ = writeln!(text, "({lost} lines did not reach stderr)");
        }
        text
    }

    /// Waits until what was logged so far has been written, for a second at most.
    pub fn flush(&self) {
        let lines = self.memory.lines();
        let until = lines.next;
        let is_behind = |lines: &mut Lines| lines.written < until;
        // Late or poisoned: there is nothing more to wait for.
        let _ = self
            .memory
            .went
            .wait_timeout_while(lines, FLUSH_TIMEOUT, is_behind);
    }
}

static LIMITS: Mutex<Limits> = Mutex::new(Limits::new());

fn limits() -> MutexGuard<'static, Limits> {
    LIMITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a line may be written about what `peer` caused: one for each cause and peer
/// within ten seconds. What is left out is summed up in a line of its own.
#[must_use]
pub fn is_due(cause: &'static str, peer: impl std::fmt::Display) -> bool {
    limits().is_due(Instant::now(), cause, peer.to_string())
}

fn sum_up() {
    let told = limits().sum_up(Instant::now());
    for LeftOut { cause, peer, lines } in told {
        tracing::warn!(cause, peer, "{lines} more");
    }
}

/// Starts the log of a daemon. `level` is for stderr; memory keeps debug lines
/// in any case. To be called once, first thing in `main`.
#[must_use]
pub fn init(level: Level) -> Log {
    let (log, layer) = build(level, std::io::stderr());
    // Fails only when a subscriber is set already, as in tests of several
    // daemons in one process; the first one stays.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    log
}

/// Ends the process when any thread panics: a broken invariant. A node that is
/// gone can be fenced; one that goes on wrongly corrupts.
pub fn abort_on_panic(log: &Log) {
    let log = log.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let what = panic.to_string();
        tracing::error!(what, "broken invariant; ending");
        log.flush();
        std::process::abort();
    }));
}

fn build(level: Level, out: impl std::io::Write + Send + 'static) -> (Log, LogLayer) {
    let memory = Arc::new(Memory::default());
    let source = Arc::clone(&memory);
    let spawned = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || source.write(out));
    if let Err(error) = spawned {
        eprintln!("log: starting the writer: {error}; only memory keeps the log");
    }
    let log = Log { memory };
    let layer = LogLayer {
        log: log.clone(),
        level,
    };
    (log, layer)
}

struct LogLayer {
    log: Log,
    level: Level,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let is_shown = *event.metadata().level() <= self.level;
        self.log.memory.keep(&line(event), is_shown);
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level.max(Level::DEBUG)))
    }

    fn enabled(&self, metadata: &tracing::Metadata<'_>, _context: Context<'_, S>) -> bool {
        *metadata.level() <= self.level.max(Level::DEBUG)
    }
}

/// `time level message field=value ...`
fn line(event: &Event<'_>) -> String {
    let mut line = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut line));
    let level = match *event.metadata().level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    };
    let _ = write!(line, " {level} ");
    let mut fields = Fields {
        message: String::new(),
        rest: String::new(),
    };
    event.record(&mut fields);
    line.push_str(&fields.message);
    line.push_str(&fields.rest);
    let line = line.replace('\n', " / ");
    cut(line)
}

fn cut(mut line: String) -> String {
    if line.len() > LINE_LIMIT {
        let mut end = LINE_LIMIT;
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push_str(" ...");
    }
    line
}

struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn text(&mut self, field: &Field, text: &str) {
        let _ = match field.name() {
            "message" => self.message.write_str(text),
            name if text.is_empty() || text.contains([' ', '"', '=']) => {
                write!(self.rest, " {name}={text:?}")
            }
            name => write!(self.rest, " {name}={text}"),
        };
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.text(field, if value { "yes" } else { "no" });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message.push_str(&text),
            name => {
                let _ = write!(self.rest, " {name}={text}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn without_time(text: &str) -> Vec<String> {
        text.lines()
            .map(|line| line.split_once(' ').unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn stderr_gets_its_level_and_memory_keeps_debug() {
        let sink = Sink::default();
        let (log, layer) = build(Level::INFO, sink.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(view = 7, quorate = false, reason = "no one\nhere", "view");
            tracing::debug!(node = 3, "suspected");
            tracing::trace!("packet");
        });
        log.flush();
        let written = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let info = "info view view=7 quorate=no reason=\"no one\\nhere\"";
        assert_eq!(without_time(&written), [info]);
        assert_eq!(without_time(&log.dump()), [info, "debug suspected node=3"]);
    }

    #[test]
    fn what_a_stuck_stderr_never_gets_is_counted() {
        let mut lines = Lines::default();
        let line = |text: &str, is_shown| Line {
            text: Arc::from(text),
            is_shown,
        };
        lines.keep(line("written", true));
        assert_eq!(lines.take(), [Arc::from("written")]);
        for number in 0..MEMORY_LINES + 10 {
            lines.keep(line("debug or not", number % 2 == 0));
        }
        assert_eq!((lines.lost, lines.kept.len()), (5, MEMORY_LINES));
        assert_eq!(lines.take().len(), MEMORY_LINES / 2);
        assert!(lines.take().is_empty());
    }

    #[test]
    fn memory_is_bounded_in_lines_and_length() {
        let (log, layer) = build(Level::ERROR, std::io::sink());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..=MEMORY_LINES {
                tracing::debug!(number, "{}", "ä".repeat(LINE_LIMIT));
            }
        });
        let dump = log.dump();
        let most = MEMORY_BYTES / LINE_LIMIT;
        assert!((most - 50..=most).contains(&dump.lines().count()));
        assert!(dump.len() <= MEMORY_BYTES + MEMORY_LINES);
        assert!(dump.lines().all(|line| line.len() <= LINE_LIMIT + 4));
    }
}
