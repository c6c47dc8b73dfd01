// SPDX-License-Identifier: GPL-2.0-only
//! Lock operations on a node, through `dlmbench.ko`: a type for each command and for its answer.
//!
//! The head of `qemu-test/bench/dlmbench.rs` says what the commands do. Times are in ns of the
//! node's monotonic clock.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use guest_init::protocol::Run as Program;

use crate::node::Node;
use crate::node::program_of;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

/// Where QEMU nodes have the module.
const QEMU_MODULE: &str = "/opt/conclave/bench/dlmbench.ko";

/// Where User Mode Linux nodes have it.
pub const UML_MODULE: &str = "/opt/dlmbench.ko";

/// Gives the command line on its standard input to the module and prints the answer, also the one
/// that says why it failed. One process writes, so that the file's position is one.
const ASK: &str = "exec 3<>/dev/dlmbench; read -r line; printf '%s\\n' \"$line\" >&3; \
                   status=$?; cat <&3; exit $status";

/// Runs the script that is its first argument, on the processor that is its second.
const ON_CPU: &str = "t=taskset; command -v $t >/dev/null || t='busybox taskset'; \
                      exec $t -c \"$2\" sh -c \"$1\"";

/// The benchmark module on a node that has a lock manager loaded.
#[derive(Clone, Debug)]
pub struct Bench {
    node: Node,
}

/// Adds the module to the nodes of a cluster: `module` is the one for their kernel, of which QEMU
/// nodes have the payload's.
#[must_use]
pub fn with_module(spec: ClusterSpec, module: impl Into<std::path::PathBuf>) -> ClusterSpec {
    match spec.kind {
        Kind::Qemu => spec,
        Kind::Uml => spec.with_file(module, UML_MODULE),
    }
}

impl Bench {
    /// Loads the module.
    pub async fn load(node: &Node) -> Result<Self> {
        let path = match node.kind() {
            Kind::Qemu => QEMU_MODULE,
            Kind::Uml => UML_MODULE,
        };
        node.exec(&["insmod", path]).await?.ok()?;
        Ok(Bench { node: node.clone() })
    }

    /// Unloads it; fails while a lockspace exists that it made.
    pub async fn unload(self) -> Result<()> {
        self.node.exec(&["rmmod", "dlmbench"]).await?.ok()?;
        Ok(())
    }

    /// The node whose lock manager is measured.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Carries out a command within `limit`, after which its task is killed.
    pub async fn run<C: Command>(&self, command: &C, limit: Duration) -> Result<C::Answer> {
        self.ask(&["sh", "-c", ASK], command, limit).await
    }

    /// The same, on one processor (from 0).
    pub async fn run_on<C: Command>(
        &self,
        cpu: u32,
        command: &C,
        limit: Duration,
    ) -> Result<C::Answer> {
        let cpu = cpu.to_string();
        self.ask(&["sh", "-c", ON_CPU, "sh", ASK, &cpu], command, limit)
            .await
    }

    async fn ask<C: Command>(
        &self,
        argv: &[&str],
        command: &C,
        limit: Duration,
    ) -> Result<C::Answer> {
        let line = command.line();
        let program = Program {
            stdin: Some(guest_init::protocol::Bytes(
                format!("{line}\n").into_bytes(),
            )),
            ..program_of(argv)
        };
        let what = || format!("{}: {line}", self.node.name());
        let output = self.node.run(program, limit).await.with_context(what)?;
        let values = Values::parse(&output.text());
        if !output.is_ok() {
            let why = values.map_or_else(|error| format!("{error:#}"), |_| String::new());
            bail!(
                "{}: {why} ({})",
                what(),
                crate::node::program::describe(&output.exit)
            );
        }
        values
            .and_then(|values| C::parse(&values))
            .with_context(what)
    }
}

/// A command line and what it is answered.
pub trait Command {
    /// The answer.
    type Answer;
    /// The line.
    fn line(&self) -> String;
    /// Reads the answer.
    fn parse(values: &Values) -> Result<Self::Answer>;
}

/// The lines `name value` of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values(BTreeMap<String, u64>);

impl Values {
    fn parse(text: &str) -> Result<Self> {
        let mut values = BTreeMap::new();
        for line in text.lines() {
            if let Some(why) = line.strip_prefix("error ") {
                bail!("{why}");
            }
            let pair = line.split_once(' ');
            let (name, value) = pair.with_context(|| format!("no value in {line:?}"))?;
            let value = value.parse().with_context(|| format!("in {line:?}"))?;
            ensure!(
                values.insert(name.to_owned(), value).is_none(),
                "{name} twice"
            );
        }
        Ok(Values(values))
    }

    fn get(&self, name: &str) -> Result<u64> {
        let value = self.0.get(name).copied();
        value.with_context(|| format!("no {name} in the answer"))
    }

    fn times(&self, name: &str) -> Result<Times> {
        let get = |what| self.get(&format!("{name}_{what}"));
        Ok(Times {
            count: get("count")?,
            min: get("min")?,
            p50: get("p50")?,
            p90: get("p90")?,
            p99: get("p99")?,
            max: get("max")?,
            mean: get("mean")?,
        })
    }

    fn span(&self) -> Result<Span> {
        Ok(Span {
            begin_ns: self.get("begin_ns")?,
            end_ns: self.get("end_ns")?,
        })
    }
}

/// How long operations took, ns. Percentiles are off by 0.2 % at most, the others are exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// How many operations.
    pub count: u64,
    /// The shortest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// Nine in ten were not longer.
    pub p90: u64,
    /// Ninety-nine in a hundred were not longer.
    pub p99: u64,
    /// The longest.
    pub max: u64,
    /// The mean.
    pub mean: u64,
}

/// When the measured part of a command began and ended, ns of the node's monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its begin.
    pub begin_ns: u64,
    /// Its end.
    pub end_ns: u64,
}

impl Span {
    /// How long it took, ns.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.begin_ns)
    }

    /// From the first begin to the last end of commands that ran side by side on one node.
    #[must_use]
    pub fn around(spans: &[Span]) -> Option<Span> {
        Some(Span {
            begin_ns: spans.iter().map(|span| span.begin_ns).min()?,
            end_ns: spans.iter().map(|span| span.end_ns).max()?,
        })
    }
}

fn nothing(values: &Values) -> Result<()> {
    ensure!(values.0.is_empty(), "an answer where none was expected");
    Ok(())
}

/// Joins a lockspace: returns when its controller has let the node in ([`super::drive`] does).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    /// Name of the lockspace.
    pub lockspace: String,
    /// Whether callbacks may come in softirq.
    pub softirq: bool,
    /// Length of value blocks.
    pub lvb_len: u32,
}

impl Command for Create {
    type Answer = ();

    fn line(&self) -> String {
        let Create {
            lockspace,
            softirq,
            lvb_len,
        } = self;
        let softirq = u8::from(*softirq);
        format!("create ls={lockspace} softirq={softirq} lvblen={lvb_len}")
    }

    fn parse(values: &Values) -> Result<()> {
        nothing(values)
    }
}

/// Leaves a lockspace; locks kept in it are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// Name of the lockspace.
    pub lockspace: String,
}

impl Command for Release {
    type Answer = ();

    fn line(&self) -> String {
        format!("release ls={}", self.lockspace)
    }

    fn parse(values: &Values) -> Result<()> {
        nothing(values)
    }
}

/// Ends [`Probe`]s and [`Handover`]s of a lockspace on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// Name of the lockspace it works in.
    pub lockspace: String,
}

impl Command for Stop {
    type Answer = ();

    fn line(&self) -> String {
        format!("stop ls={}", self.lockspace)
    }

    fn parse(values: &Values) -> Result<()> {
        nothing(values)
    }
}

/// Reads the clock `count` times; the answer is the time of all, ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// How often.
    pub count: u64,
}

impl Command for Clock {
    type Answer = u64;

    fn line(&self) -> String {
        format!("clock n={}", self.count)
    }

    fn parse(values: &Values) -> Result<u64> {
        values.get("total_ns")
    }
}

/// Where loops work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name of the lockspace it works in.
    pub lockspace: String,
    /// Begin of the names, one to eight bytes.
    pub tag: String,
    /// Number of the first name.
    pub first: u64,
    /// Whether an NL lock is held on each name that is used again and again, so that its resource
    /// exists all the time.
    pub keep: bool,
    /// How many commands of this lockspace on this node wait for each other and begin together; 0
    /// or 1: this one alone.
    pub meet: u32,
}

impl Place {
    /// The first name of a tag, whose resource is kept.
    #[must_use]
    pub fn new(lockspace: &str, tag: &str) -> Self {
        Place {
            lockspace: lockspace.to_owned(),
            tag: tag.to_owned(),
            first: 0,
            keep: true,
            meet: 0,
        }
    }

    fn keys(&self) -> String {
        let Place {
            lockspace,
            tag,
            first,
            keep,
            meet,
        } = self;
        let keep = u8::from(*keep);
        format!("ls={lockspace} tag={tag} first={first} keep={keep} meet={meet}")
    }
}

/// Lock and unlock in EX on one name, or a conversion from NL to EX and back, one at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// In which lockspace and on which resources it works.
    pub place: Place,
    /// How often.
    pub count: u64,
    /// Whether it is a conversion.
    pub is_conversion: bool,
}

/// The same without a look at the clock between begin and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarePair(pub Pair);

/// Answer to [`Pair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pairs {
    /// How many pairs were made.
    pub count: u64,
    /// From when to when it measured, on the node's clock.
    pub span: Span,
    /// The lock, or the conversion up.
    pub up: Times,
    /// The unlock, or the conversion down.
    pub down: Times,
    /// Both.
    pub pair: Times,
}

impl Pair {
    fn with_stamps(&self, has_stamps: bool) -> String {
        let verb = if self.is_conversion {
            "convert"
        } else {
            "pair"
        };
        let (keys, count) = (self.place.keys(), self.count);
        format!("{verb} {keys} n={count} stamps={}", u8::from(has_stamps))
    }
}

impl Command for Pair {
    type Answer = Pairs;

    fn line(&self) -> String {
        self.with_stamps(true)
    }

    fn parse(values: &Values) -> Result<Pairs> {
        let is_conversion = values.get("up_count").is_ok();
        let [up, down] = if is_conversion {
            ["up", "down"]
        } else {
            ["lock", "unlock"]
        };
        Ok(Pairs {
            count: values.get("count")?,
            span: values.span()?,
            up: values.times(up)?,
            down: values.times(down)?,
            pair: values.times("pair")?,
        })
    }
}

/// Answer to [`BarePair`]: how many pairs, and when.
impl Command for BarePair {
    type Answer = (u64, Span);

    fn line(&self) -> String {
        self.0.with_stamps(false)
    }

    fn parse(values: &Values) -> Result<(u64, Span)> {
        Ok((values.get("count")?, values.span()?))
    }
}

/// Lock and unlock in EX, many at a time, each on a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// In which lockspace and on which resources it works.
    pub place: Place,
    /// How many pairs.
    pub count: u64,
    /// How many at a time.
    pub depth: u32,
    /// Whether each pair has a new name; else there are `depth` names.
    pub is_new: bool,
}

/// Answer to [`Flight`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flown {
    /// How many pairs were made.
    pub count: u64,
    /// How many requests were made.
    pub asked: u64,
    /// How many of them were granted.
    pub granted: u64,
    /// From when to when it measured, on the node's clock.
    pub span: Span,
    /// From a request to its grant.
    pub lock: Times,
    /// From a request to the end of its unlock.
    pub pair: Times,
}

impl Command for Flight {
    type Answer = Flown;

    fn line(&self) -> String {
        let Flight {
            place,
            count,
            depth,
            is_new,
        } = self;
        let (keys, is_new) = (place.keys(), u8::from(*is_new));
        format!("flight {keys} n={count} depth={depth} new={is_new}")
    }

    fn parse(values: &Values) -> Result<Flown> {
        Ok(Flown {
            count: values.get("count")?,
            asked: values.get("asked")?,
            granted: values.get("granted")?,
            span: values.span()?,
            lock: values.times("lock")?,
            pair: values.times("pair")?,
        })
    }
}

/// Memory of the bench itself for locks that will be taken: memory that is missing afterwards is
/// the lock manager's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Name of the lockspace it works in.
    pub lockspace: String,
    /// Begin of the names, one to eight bytes.
    pub tag: String,
    /// How many locks.
    pub count: u64,
}

impl Command for Reserve {
    type Answer = ();

    fn line(&self) -> String {
        let Reserve {
            lockspace,
            tag,
            count,
        } = self;
        format!("reserve ls={lockspace} tag={tag} n={count}")
    }

    fn parse(values: &Values) -> Result<()> {
        nothing(values)
    }
}

/// A mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Null.
    Nl,
    /// Protected read: others may read, too.
    Pr,
    /// Exclusive.
    Ex,
}

/// Locks new names and keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Take {
    /// Name of the lockspace it works in.
    pub lockspace: String,
    /// Begin of the names, one to eight bytes; [`DropAll`] needs it.
    pub tag: String,
    /// How many.
    pub count: u64,
    /// Number of the first name.
    pub first: u64,
    /// In which mode.
    pub mode: Mode,
    /// How many at a time.
    pub depth: u32,
}

/// Answer to [`Take`] and [`DropAll`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// How many locks were taken or dropped.
    pub count: u64,
    /// From when to when it measured, on the node's clock.
    pub span: Span,
    /// From a call to its completion.
    pub each: Times,
}

impl Command for Take {
    type Answer = Taken;

    fn line(&self) -> String {
        let Take {
            lockspace,
            tag,
            count,
            first,
            mode,
            depth,
        } = self;
        let mode = match mode {
            Mode::Nl => "nl",
            Mode::Pr => "pr",
            Mode::Ex => "ex",
        };
        format!("take ls={lockspace} tag={tag} n={count} first={first} mode={mode} depth={depth}")
    }

    fn parse(values: &Values) -> Result<Taken> {
        Ok(Taken {
            count: values.get("count")?,
            span: values.span()?,
            each: values.times("lock")?,
        })
    }
}

/// Unlocks what was taken under a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropAll {
    /// Name of the lockspace it works in.
    pub lockspace: String,
    /// The tag.
    pub tag: String,
    /// How many at a time.
    pub depth: u32,
}

impl Command for DropAll {
    type Answer = Taken;

    fn line(&self) -> String {
        let DropAll {
            lockspace,
            tag,
            depth,
        } = self;
        format!("drop ls={lockspace} tag={tag} depth={depth}")
    }

    fn parse(values: &Values) -> Result<Taken> {
        Ok(Taken {
            count: values.get("count")?,
            span: values.span()?,
            each: values.times("unlock")?,
        })
    }
}

/// Takes one name in EX and gives it up when somebody is blocked, over and over; it is run on
/// several nodes at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Where; its `keep` has no meaning.
    pub place: Place,
    /// Ends after so many grants.
    pub grants: Option<u64>,
    /// Ends after so long.
    pub time: Duration,
    /// Whether each grant adds one to a number in the value block.
    pub counts: bool,
}

/// Answer to [`Handover`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// How often EX was granted.
    pub grants: u64,
    /// How often it was given up because somebody was blocked.
    pub handovers: u64,
    /// How often the value block was not valid; 0 without counting.
    pub invalid: u64,
    /// The number that was written last; 0 without counting.
    pub value: u64,
    /// From when to when it measured, on the node's clock.
    pub span: Span,
    /// From the conversion to its grant.
    pub wait: Times,
}

impl Command for Handover {
    type Answer = Handed;

    fn line(&self) -> String {
        let Handover {
            place,
            grants,
            time,
            counts,
        } = self;
        let grants = grants.map_or_else(String::new, |grants| format!(" n={grants}"));
        let (keys, counts) = (place.keys(), u8::from(*counts));
        format!(
            "handover {keys} ms={} lvb={counts}{grants}",
            time.as_millis()
        )
    }

    fn parse(values: &Values) -> Result<Handed> {
        Ok(Handed {
            grants: values.get("grants")?,
            handovers: values.get("handovers")?,
            invalid: values.get("invalid")?,
            value: values.get("value")?,
            span: values.span()?,
            wait: values.times("wait")?,
        })
    }
}

/// One [`Pair`] after the other with a pause between, until [`Stop`] or for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// In which lockspace and on which resources it works.
    pub place: Place,
    /// For how long at most.
    pub time: Duration,
    /// The pause.
    pub pause: Duration,
    /// Whether it is a conversion.
    pub is_conversion: bool,
}

/// Answer to [`Probe`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probed {
    /// From when to when it measured, on the node's clock.
    pub span: Span,
    /// When the longest pair began.
    pub worst_begin_ns: u64,
    /// Pairs.
    pub wait: Times,
}

impl Command for Probe {
    type Answer = Probed;

    fn line(&self) -> String {
        let Probe {
            place,
            time,
            pause,
            is_conversion,
        } = self;
        let (keys, convert) = (place.keys(), u8::from(*is_conversion));
        let (ms, us) = (time.as_millis(), pause.as_micros());
        format!("probe {keys} ms={ms} every_us={us} convert={convert}")
    }

    fn parse(values: &Values) -> Result<Probed> {
        Ok(Probed {
            span: values.span()?,
            worst_begin_ns: values.get("worst_begin_ns")?,
            wait: values.times("wait")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_a_refusal_is_told() {
        let values = Values::parse("count 3\nbegin_ns 5\nend_ns 9\n").unwrap();
        assert_eq!(values.get("count").unwrap(), 3);
        assert_eq!(values.span().unwrap().total_ns(), 4);
        let error = |text| format!("{:#}", Values::parse(text).unwrap_err());
        assert_eq!(error("error \"x\": no verb\n"), "\"x\": no verb");
        assert_eq!(error("count 3\ncount 4\n"), "count twice");
        assert!(error("count three\n").contains("count three"));
        assert!(values.get("none").is_err());
    }

    #[test]
    fn lines_are_those_of_the_module() {
        let place = Place::new("a", "t");
        let pair = Pair {
            place: place.clone(),
            count: 7,
            is_conversion: false,
        };
        let keys = "ls=a tag=t first=0 keep=1 meet=0";
        assert_eq!(pair.line(), format!("pair {keys} n=7 stamps=1"));
        let convert = Pair {
            is_conversion: true,
            ..pair
        };
        assert_eq!(
            BarePair(convert).line(),
            format!("convert {keys} n=7 stamps=0")
        );
        let handover = Handover {
            place,
            grants: Some(3),
            time: Duration::from_secs(1),
            counts: true,
        };
        assert_eq!(
            handover.line(),
            format!("handover {keys} ms=1000 lvb=1 n=3")
        );
    }

    #[test]
    fn spans_side_by_side_are_one() {
        let span = |begin_ns, end_ns| Span { begin_ns, end_ns };
        assert_eq!(Span::around(&[span(3, 5), span(2, 4)]), Some(span(2, 5)));
        assert_eq!(Span::around(&[]), None);
    }
}
