// SPDX-License-Identifier: GPL-2.0-only
//! Watches the consoles: everything a kernel prints is logged, signs of trouble raise the alarm.
//!
//! The first alarm of a scenario ends it. A text that a scenario provokes on purpose is listed by
//! it ([`Watchdog::allow`]); there is no other way round.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::Instant;

/// What a kernel says when something is wrong with it.
const SIGNS: [&str; 28] = [
    "Kernel panic",
    "Oops",
    "BUG:",
    "kernel BUG at",
    "WARNING: ",
    "general protection fault",
    "unable to handle",
    "panicked at",
    "possible circular locking dependency",
    "INFO: possible recursive",
    "possible irq lock inversion",
    "inconsistent lock state",
    "bad unlock balance",
    "held lock freed",
    "suspicious RCU",
    "Invalid wait context",
    "sleeping function called from invalid context",
    "scheduling while atomic",
    "soft lockup",
    "hard LOCKUP",
    "blocked for more than",
    "detected stall",
    "KASAN:",
    "UBSAN:",
    "KFENCE:",
    "refcount_t:",
    "list_add corruption",
    "Out of memory: Killed",
];

/// Said by healthy kernels of every node, at boot.
const HARMLESS: [&str; 1] = ["Spectre V2"];

/// Lines kept with an alarm: enough for a backtrace.
const EXCERPT_LEN: usize = 60;

/// How long the rest of a report may take to come.
const EXCERPT_LIMIT: Duration = Duration::from_millis(1500);

/// Longest line looked at; a longer one is broken.
const LINE_LEN_MAX: usize = 4096;

/// A sign of trouble on a console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The node whose console it is.
    pub node: String,
    /// The text that raised it.
    pub sign: String,
    /// The line and what followed.
    pub excerpt: Vec<String>,
    /// The console's log.
    pub log: PathBuf,
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Alarm {
            node,
            sign,
            excerpt,
            log,
        } = self;
        writeln!(out, "console of {node}: {sign:?} ({})", log.display())?;
        excerpt
            .iter()
            .try_for_each(|line| writeln!(out, "    {line}"))
    }
}

/// Shared by all consoles of a scenario; clones are the same watchdog.
#[derive(Clone, Debug)]
pub struct Watchdog {
    alarm: watch::Sender<Option<Alarm>>,
    /// How many consoles are being read.
    open: watch::Sender<usize>,
    allowed: Arc<Mutex<Vec<String>>>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Watchdog {
            alarm: watch::Sender::new(None),
            open: watch::Sender::new(0),
            allowed: Arc::default(),
        }
    }
}

impl Watchdog {
    /// A line that contains `text` raises no alarm from now on.
    pub fn allow(&self, text: &str) {
        let mut allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        allowed.push(text.to_owned());
    }

    /// The alarm, if it was raised.
    pub fn alarm(&self) -> Option<Alarm> {
        self.alarm.borrow().clone()
    }

    /// Waits for the alarm.
    pub async fn wait(&self) -> Alarm {
        let mut watch = self.alarm.subscribe();
        loop {
            if let Some(alarm) = watch.borrow_and_update().clone() {
                return alarm;
            }
            // Cannot fail: the sender lives in self.
            if watch.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until everything that ended machines have printed is read; only then is it certain
    /// that there was no alarm.
    pub async fn drained(&self) {
        // Cannot fail: the sender lives in self.
        let _ = self.open.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Logs and watches one console until its machine ends.
    pub fn watch(&self, node: &str, log: &Path, stream: UnixStream) -> Result<()> {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let console = Console {
            node: node.to_owned(),
            path: log.to_owned(),
            file,
            watchdog: self.clone(),
            line: Vec::new(),
            report: None,
        };
        self.open.send_modify(|open| *open += 1);
        tokio::spawn(console.run(stream));
        Ok(())
    }

    /// The sign in `line` that nobody has allowed.
    fn sign_in(&self, line: &str) -> Option<&'static str> {
        let sign = SIGNS.into_iter().find(|sign| line.contains(sign))?;
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut harmless = HARMLESS
            .into_iter()
            .chain(allowed.iter().map(String::as_str));
        (!harmless.any(|text| line.contains(text))).then_some(sign)
    }

    fn raise(&self, alarm: Alarm) {
        self.alarm.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(alarm);
            is_first
        });
    }
}

/// A report being collected.
struct Report {
    sign: &'static str,
    lines: Vec<String>,
    end: Instant,
}

struct Console {
    node: String,
    path: PathBuf,
    file: std::fs::File,
    watchdog: Watchdog,
    line: Vec<u8>,
    report: Option<Report>,
}

impl Console {
    async fn run(mut self, mut stream: UnixStream) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let end = self.report.as_ref().map(|report| report.end);
            let result = match end {
                None => Ok(stream.read(&mut buffer).await),
                Some(end) => tokio::time::timeout_at(end, stream.read(&mut buffer)).await,
            };
            match result {
                Err(_) => self.finish_report(),
                Ok(Ok(len)) if len > 0 => self.take(&buffer[..len]),
                Ok(Ok(_) | Err(_)) => break,
            }
        }
        self.end_line();
        self.finish_report();
        self.watchdog.open.send_modify(|open| *open -= 1);
    }

    fn take(&mut self, bytes: &[u8]) {
        // A full disk must not stop the watch.
        let _ = self.file.write_all(bytes);
        for byte in bytes {
            if *byte == b'\n' || self.line.len() == LINE_LEN_MAX {
                self.end_line();
            }
            if *byte != b'\n' && *byte != b'\r' {
                self.line.push(*byte);
            }
        }
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(report) = &mut self.report {
            report.lines.push(line);
            if report.lines.len() == EXCERPT_LEN {
                self.finish_report();
            }
        } else if let Some(sign) = self.watchdog.sign_in(&line) {
            self.report = Some(Report {
                sign,
                lines: vec![line],
                end: Instant::now() + EXCERPT_LIMIT,
            });
        }
    }

    fn finish_report(&mut self) {
        if let Some(report) = self.report.take() {
            self.watchdog.raise(Alarm {
                node: self.node.clone(),
                sign: report.sign.to_owned(),
                excerpt: report.lines,
                log: self.path.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn alarm_of(watchdog: &Watchdog, text: &[u8]) -> Option<Alarm> {
        let dir = std::env::temp_dir().join(format!("console-test-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (ours, mut machine) = UnixStream::pair().unwrap();
        let log = dir.join("n1.console.log");
        watchdog.watch("n1", &log, ours).unwrap();
        machine.write_all(text).await.unwrap();
        machine
            .write_all(b"\nKernel panic: the end\n")
            .await
            .unwrap();
        drop(machine);
        Some(watchdog.wait().await)
    }

    #[tokio::test]
    async fn the_first_sign_raises_the_alarm_with_what_follows() {
        let text = b"fine\n[ 1.0] BUG: planted\r\n[ 1.1] Call Trace:";
        let alarm = alarm_of(&Watchdog::default(), text).await.unwrap();
        assert_eq!(alarm.sign, "BUG:");
        assert_eq!(alarm.node, "n1");
        assert_eq!(alarm.excerpt[0], "[ 1.0] BUG: planted");
        assert_eq!(alarm.excerpt[1], "[ 1.1] Call Trace:");
        assert!(alarm.to_string().contains("BUG: planted"));
    }

    #[tokio::test]
    async fn an_allowed_line_raises_none() {
        let watchdog = Watchdog::default();
        watchdog.allow("planted");
        let alarm = alarm_of(&watchdog, b"[ 1.0] BUG: planted").await.unwrap();
        assert_eq!(alarm.sign, "Kernel panic");
    }

    #[tokio::test]
    async fn drained_means_that_the_last_word_was_read() {
        let watchdog = Watchdog::default();
        alarm_of(&watchdog, b"BUG: the last word").await;
        watchdog.drained().await;
        let (ours, machine) = UnixStream::pair().unwrap();
        let log = std::env::temp_dir().join(format!("console-open-{}", std::process::id()));
        watchdog.watch("n1", &log, ours).unwrap();
        let soon = Duration::from_millis(20);
        let early = tokio::time::timeout(soon, watchdog.drained()).await;
        assert!(early.is_err(), "drained while a machine runs");
        drop(machine);
        watchdog.drained().await;
    }

    #[test]
    fn every_kind_of_trouble_has_a_sign() {
        let watchdog = Watchdog::default();
        for line in [
            "[    5.1] WARNING: possible circular locking dependency detected",
            "[    5.1] WARNING: fs/dlm/lock.c:12 at put_rsb+0x1/0x2, CPU#0: x/1",
            "[    5.1] BUG: sleeping function called from invalid context at x.c:1",
            "watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "INFO: task dlm_recoverd:12 blocked for more than 60 seconds.",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "rust_kernel: panicked at kmod/x.rs:1:1:",
            "Oops: general protection fault, probably for non-canonical address",
        ] {
            assert!(watchdog.sign_in(line).is_some(), "{line}");
        }
        for line in [
            "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
            "dlm: x: dlm_recover 3 generation 4 done: 12 ms",
            "dlm: loading out-of-tree module taints kernel.",
        ] {
            assert!(watchdog.sign_in(line).is_none(), "{line}");
        }
    }
}
