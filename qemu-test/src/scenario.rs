// SPDX-License-Identifier: GPL-2.0-only
//! What a scenario is, and how one is run to its verdict.
//!
//! A scenario boots clusters through its [`Ctx`], acts, and returns `Ok` or the first thing that
//! was wrong. It ends early when a console raises the alarm or its time is up. Whatever the end,
//! its machines are ended, its logs stay, and one line says how it went:
//!
//! ```text
//! PASS boot@uml 3.4s (boot 1.2 off 0.1)
//! FAIL boot@qemu 12.0s (boot 9.8): n1: "ping ..." exited with 1; logs in target/vm/...
//! ```

use std::fmt;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::cluster::Host;
use crate::console::Watchdog;
use crate::session;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

/// What the function of a scenario returns.
pub type ScenarioFuture = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

/// A scenario of the registry ([`crate::scenarios::ALL`]).
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for the list.
    pub about: &'static str,
    /// The kinds of node it can run on, the cheapest first: that is the default.
    pub rungs: &'static [Kind],
    /// More time than it ever needs on a busy host.
    pub limit: Duration,
    /// What must happen for it to pass.
    pub expect: Expect,
    /// The scenario itself.
    pub run: fn(Ctx) -> ScenarioFuture,
}

/// What must happen for a scenario to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It returns `Ok` and no console raises the alarm.
    Success,
    /// A console raises the alarm with this text in its excerpt: the scenario plants a fault.
    Alarm(&'static str),
}

/// A scenario on a kind of node.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The scenario.
    pub scenario: &'static Scenario,
    /// The kind.
    pub kind: Kind,
}

impl fmt::Display for Case {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}@{}", self.scenario.name, self.kind)
    }
}

/// How a case went.
#[derive(Debug)]
pub struct Verdict {
    /// Which case.
    pub case: Case,
    /// `Ok` if it passed.
    pub result: Result<()>,
    /// Whether it, or the wait after it, was ended by an interrupt: nothing should follow.
    pub is_interrupted: bool,
    /// From start to end.
    pub total: Duration,
    /// Named parts of it, in order.
    pub phases: Vec<(String, Duration)>,
    /// Where its logs are.
    pub logs: PathBuf,
}

impl Verdict {
    /// Whether it passed.
    pub fn is_pass(&self) -> bool {
        self.result.is_ok()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.is_pass() { "PASS" } else { "FAIL" };
        write!(out, "{word} {} {:.1}s", self.case, self.total.as_secs_f64())?;
        if !self.phases.is_empty() {
            let parts = self.phases.iter();
            let parts = parts.map(|(name, time)| format!("{name} {:.1}", time.as_secs_f64()));
            write!(out, " ({})", parts.collect::<Vec<_>>().join(" "))?;
        }
        match &self.result {
            Ok(()) => Ok(()),
            Err(error) => {
                // One line says it; what belongs to it follows, indented.
                let text = format!("{error:#}");
                let (first, rest) = text.trim_end().split_once('\n').unwrap_or((&text, ""));
                write!(
                    out,
                    ": {}; logs in {}",
                    first.trim_end(),
                    self.logs.display()
                )?;
                rest.lines()
                    .try_for_each(|line| write!(out, "\n    {}", line.trim_start()))
            }
        }
    }
}

/// How a case is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Leave the machines running after the end, open to `vm exec` and the like, until interrupted.
    pub keep: bool,
    /// Print the story as it happens.
    pub narrate: bool,
}

#[derive(Debug)]
struct Inner {
    case: Case,
    options: Options,
    start: Instant,
    host: Host,
    watchdog: Watchdog,
    clusters: Mutex<Vec<Arc<Cluster>>>,
    phases: Mutex<Vec<(String, Duration)>>,
}

/// What a scenario works with; clones are the same.
#[derive(Clone, Debug)]
pub struct Ctx {
    inner: Arc<Inner>,
}

impl Ctx {
    fn new(host: &Host, case: Case, options: Options) -> Self {
        let inner = Inner {
            case,
            options,
            start: Instant::now(),
            host: host.clone(),
            watchdog: Watchdog::default(),
            clusters: Mutex::default(),
            phases: Mutex::default(),
        };
        Ctx {
            inner: Arc::new(inner),
        }
    }

    /// The kind of node this run is on.
    pub fn kind(&self) -> Kind {
        self.inner.case.kind
    }

    /// Whether somebody wants to look at the cluster after the end: it should be left at work.
    pub fn is_kept(&self) -> bool {
        self.inner.options.keep
    }

    /// Tells what has just happened, in words for somebody who sees this for the first time.
    pub fn tell(&self, text: &str) {
        if self.inner.options.narrate {
            let time = self.inner.start.elapsed().as_secs_f64();
            // Whoever closed standard output does not want to know.
            let _ = writeln!(std::io::stdout(), "{time:6.1} s  {text}");
        }
    }

    /// The built files and the run.
    pub fn host(&self) -> &Host {
        &self.inner.host
    }

    /// The alarm of all consoles of this scenario.
    pub fn watchdog(&self) -> &Watchdog {
        &self.inner.watchdog
    }

    /// Boots a cluster, as phase `boot`. It is ended when the scenario has ended.
    pub async fn boot(&self, spec: &ClusterSpec) -> Result<Arc<Cluster>> {
        self.timed("boot", async {
            let cluster = self.prepare(spec)?;
            cluster.power_on_all().await?;
            Ok(cluster)
        })
        .await
    }

    /// As [`Ctx::boot`], with all nodes off.
    pub fn prepare(&self, spec: &ClusterSpec) -> Result<Arc<Cluster>> {
        let name = self.inner.case.to_string();
        let cluster = Cluster::prepare(self.host(), self.watchdog(), &name, spec)?;
        let cluster = Arc::new(cluster);
        lock(&self.inner.clusters).push(Arc::clone(&cluster));
        Ok(cluster)
    }

    /// Notes the time of a named part, for the verdict.
    pub fn phase(&self, name: &str, time: Duration) {
        lock(&self.inner.phases).push((name.to_owned(), time));
    }

    /// Runs a part and notes its time; a failure is said to be this part's.
    pub async fn timed<T>(&self, name: &str, part: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let result = part.await;
        self.phase(name, start.elapsed());
        result.with_context(|| name.to_owned())
    }

    /// Lets other processes talk to the first cluster.
    async fn open_to_others(&self) {
        let first = lock(&self.inner.clusters).first().cloned();
        if let Some(cluster) = first
            && let Err(error) = session::serve(cluster, self.host().run.dir()).await
        {
            self.warn(&format!("{error:#}"));
        }
        std::future::pending().await
    }

    fn warn(&self, text: &str) {
        // Standard error may be closed; there is nowhere else to say it.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    async fn end(&self) -> Result<()> {
        let clusters = std::mem::take(&mut *lock(&self.inner.clusters));
        let mut failure = Ok(());
        for cluster in clusters {
            failure = failure.and(cluster.shutdown().await);
        }
        failure
    }

    fn logs(&self) -> PathBuf {
        let clusters = lock(&self.inner.clusters);
        let first = clusters.first().map(|cluster| cluster.dir().to_owned());
        first.unwrap_or_else(|| self.host().run.dir().to_owned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one case to its verdict; `interrupt` ends it early.
pub async fn run(
    host: &Host,
    case: Case,
    options: Options,
    interrupt: impl Future<Output = ()>,
) -> Verdict {
    let ctx = Ctx::new(host, case, options);
    let start = ctx.inner.start;
    let mut interrupt = std::pin::pin!(interrupt);
    let mut is_interrupted = false;
    let result = tokio::select! {
        // The alarm first: what it has broken is then not taken for the cause.
        biased;
        alarm = ctx.watchdog().wait() => Err(anyhow!("{alarm}")),
        result = (case.scenario.run)(ctx.clone()) => result,
        () = tokio::time::sleep(case.scenario.limit) => {
            Err(anyhow!("not at its end after {:?}", case.scenario.limit))
        }
        () = &mut interrupt => {
            is_interrupted = true;
            Err(anyhow!("interrupted"))
        }
    };
    let total = start.elapsed();
    let logs = ctx.logs();
    if options.keep && !is_interrupted {
        is_interrupted = true;
        let word = match (&result, ctx.watchdog().alarm()) {
            (Ok(()), None) => "passed",
            (Ok(()), Some(_)) | (Err(_), _) => "ended",
        };
        ctx.warn(&format!("{case} has {word}; its machines run until Ctrl-C"));
        tokio::select! {
            () = ctx.open_to_others() => {}
            () = &mut interrupt => {}
        }
    }
    let ended = ctx.end().await.context("ending the machines");
    let result = judge(case.scenario.expect, result, ctx.watchdog()).await;
    Verdict {
        case,
        result: result.and(ended),
        is_interrupted,
        total,
        phases: std::mem::take(&mut *lock(&ctx.inner.phases)),
        logs,
    }
}

async fn judge(expect: Expect, result: Result<()>, watchdog: &Watchdog) -> Result<()> {
    // The machines have ended, so this does.
    watchdog.drained().await;
    match expect {
        Expect::Success => match watchdog.alarm() {
            Some(alarm) => Err(anyhow!("{alarm}")),
            None => result,
        },
        Expect::Alarm(text) => match watchdog.alarm() {
            Some(alarm) if alarm.excerpt.iter().any(|line| line.contains(text)) => Ok(()),
            Some(alarm) => Err(anyhow!("an alarm without {text:?}: {alarm}")),
            None => result.and(Err(anyhow!("the planted fault raised no alarm"))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_is_one_line_and_its_evidence_is_indented() {
        let case = crate::scenarios::find("boot@qemu").unwrap();
        let verdict = |result| Verdict {
            case,
            result,
            is_interrupted: false,
            total: Duration::from_millis(12_340),
            phases: vec![("boot".to_owned(), Duration::from_millis(9810))],
            logs: "target/vm/x".into(),
        };
        let pass = verdict(Ok(())).to_string();
        assert_eq!(pass, "PASS boot@qemu 12.3s (boot 9.8)");
        let fail = verdict(Err(anyhow!("console of n1: \"BUG:\"\n    one\n    two\n")));
        assert_eq!(
            fail.to_string(),
            "FAIL boot@qemu 12.3s (boot 9.8): console of n1: \"BUG:\"; logs in target/vm/x\n    \
             one\n    two"
        );
    }
}
