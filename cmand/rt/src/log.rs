// SPDX-License-Identifier: GPL-2.0-only
//! The log of a daemon: lines with fields to stderr, and the last few thousand
//! debug lines in memory for dumps.
//!
//! Threads that log never wait: a thread of its own writes to stderr, and what
//! does not fit its queue is counted and lost there (the memory keeps it).

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

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

/// Lines kept in memory: some minutes of a busy cluster's decisions.
const MEMORY_LINES: usize = 4096;

/// Longest line, bytes; with [`MEMORY_LINES`] a dump stays well below what one
/// reply may hold.
const LINE_LIMIT: usize = 1024;

/// Lines waiting for stderr. More than a burst at a view change; what a stuck
/// journal makes us lose beyond this is still in memory.
const QUEUE_LINES: usize = 1024;

/// How long [`Log::flush`] waits for stderr.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

enum ToWriter {
    Line(String),
    Flush(SyncSender<()>),
}

#[derive(Debug, Default)]
struct Memory {
    lines: Mutex<VecDeque<String>>,
    lost: AtomicU64,
}

impl Memory {
    fn lines(&self) -> MutexGuard<'_, VecDeque<String>> {
        // A panic between two operations on the queue leaves it whole.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, line: String) {
        let mut lines = self.lines();
        if lines.len() == MEMORY_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// Handle of the log, for dumps and for the end.
#[derive(Debug, Clone)]
pub struct Log {
    memory: Arc<Memory>,
    writer: SyncSender<ToWriter>,
}

impl std::fmt::Debug for ToWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => f.debug_tuple("Line").field(line).finish(),
            Self::Flush(_) => f.write_str("Flush"),
        }
    }
}

impl Log {
    /// The lines kept in memory, oldest first.
    #[must_use]
    pub fn dump(&self) -> String {
        let lines = self.memory.lines();
        let mut text = String::new();
        for line in lines.iter() {
            text.push_str(line);
            text.push('\n');
        }
        let lost = self.memory.lost.load(Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(text, "({lost} lines did not reach stderr)");
        }
        text
    }

    /// Waits until what was logged so far has been written, for a second at most.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.writer.send(ToWriter::Flush(done)).is_ok() {
            let _ = wait.recv_timeout(FLUSH_TIMEOUT);
        }
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
    let (writer, queue) = sync_channel(QUEUE_LINES);
    let spawned = std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&queue, out));
    if let Err(error) = spawned {
        eprintln!("log: starting the writer: {error}; only memory keeps the log");
    }
    let log = Log { memory, writer };
    let layer = LogLayer {
        log: log.clone(),
        level,
    };
    (log, layer)
}

fn write_lines(queue: &std::sync::mpsc::Receiver<ToWriter>, mut out: impl std::io::Write) {
    while let Ok(next) = queue.recv() {
        match next {
            ToWriter::Line(line) => {
                // Nobody is left to tell when stderr itself fails.
                let _ = out.write_all(line.as_bytes());
            }
            ToWriter::Flush(done) => {
                let _ = out.flush();
                let _ = done.try_send(());
            }
        }
    }
}

struct LogLayer {
    log: Log,
    level: Level,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let line = line(event);
        if *event.metadata().level() <= self.level {
            let queued = self
                .log
                .writer
                .try_send(ToWriter::Line(format!("{line}\n")));
            if queued.is_err() {
                self.log.memory.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.log.memory.keep(line);
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
    fn memory_is_bounded_in_lines_and_length() {
        let (log, layer) = build(Level::ERROR, std::io::sink());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..=MEMORY_LINES {
                tracing::debug!(number, "{}", "ä".repeat(LINE_LIMIT));
            }
        });
        let dump = log.dump();
        assert_eq!(dump.lines().count(), MEMORY_LINES);
        assert!(dump.lines().all(|line| line.len() <= LINE_LIMIT + 4));
    }
}
