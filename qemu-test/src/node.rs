// SPDX-License-Identifier: GPL-2.0-only
//! A node of a cluster, whatever it is made of: power, links, programs, files.
//!
//! A [`Node`] outlives its machines: it can be powered off and on again, and a program started
//! before does not exist afterwards. Clones are the same node.

pub mod program;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use guest_init::protocol::Bytes;
use guest_init::protocol::CHUNK;
use guest_init::protocol::Event;
use guest_init::protocol::LINE_WINDOW;
use guest_init::protocol::Op;
use guest_init::protocol::Run as Program;
use guest_init::protocol::Stream;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cables::Cables;
use crate::clock;
use crate::console::Watchdog;
use crate::control::Boot;
use crate::control::Control;
use crate::machine::Machine;
use crate::machine::MachineSpec;
use crate::power;
use crate::power::Plugs;
use crate::power::PowerLog;
use crate::power::PowerState;
use crate::run::Run;
use crate::spec::Kind;
use crate::switch::Switch;

pub use program::Output;
pub use program::Running;

/// From power-on to the greeting of init. A boot takes seconds; the limit is for a host that does
/// ten other things.
pub const BOOT_LIMIT: Duration = Duration::from_secs(180);

/// Boots of a machine before a wrong clock is an error. One wrong boot is rare.
const BOOTS_MAX: u32 = 4;

/// How long a command may take if the caller does not say.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// How much later than its own limit a command's end may be heard of.
const ANSWER_MARGIN: Duration = Duration::from_secs(30);

/// Most output of a command that is kept.
const OUTPUT_LEN_MAX: u64 = 16 << 20;

/// Pause between two looks at a condition that has no event of its own.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) spec: MachineSpec,
    pub(crate) run: Arc<Run>,
    pub(crate) switch: Switch,
    /// In place of the switch, if the cluster is wired so.
    pub(crate) cables: Option<Arc<Cables>>,
    pub(crate) watchdog: Watchdog,
    pub(crate) power_log: PowerLog,
    pub(crate) control: Control,
    pub(crate) machine: Mutex<Option<Machine>>,
    /// The last boot whose clock was found right.
    pub(crate) right_clock: Mutex<Option<String>>,
    /// Set when the cluster is being ended: a fence agent must not start a machine any more.
    pub(crate) is_closed: Arc<AtomicBool>,
    /// All nodes of the cluster, for the power switch; weak, as they hold each other.
    pub(crate) peers: OnceLock<Vec<Weak<Inner>>>,
}

/// A node; clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

impl Node {
    /// Its number, from 1.
    pub fn id(&self) -> u32 {
        self.inner.id
    }

    /// Its name: `n1` for number 1.
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// What it is made of.
    pub fn kind(&self) -> Kind {
        self.inner.spec.kind
    }

    /// Its address on the cluster's network.
    pub fn address(&self) -> Ipv4Addr {
        self.inner.address
    }

    /// Where its console is logged, over all boots.
    pub fn console_log(&self) -> PathBuf {
        let name = format!("{}.console.log", self.name());
        self.inner.spec.dir.join(name)
    }

    /// The boot it is in, if it is up.
    pub fn boot(&self) -> Option<Boot> {
        self.inner.control.boot()
    }

    /// Whether a machine of it exists.
    pub async fn is_on(&self) -> bool {
        let machine = self.inner.machine.lock().await;
        machine.as_ref().is_some_and(Machine::is_on)
    }

    /// Starts a machine, if there is none, and does not wait for its boot.
    pub async fn power_on(&self) -> Result<()> {
        let mut machine = self.inner.machine.lock().await;
        if !machine.as_ref().is_some_and(Machine::is_on) {
            *machine = Some(self.start().await?);
        }
        Ok(())
    }

    /// Ends the machine, as if its plug had been pulled; returns when nothing of it runs.
    pub async fn power_off(&self) -> Result<()> {
        let mut machine = self.inner.machine.lock().await;
        if let Some(machine) = machine.take() {
            machine.power_off().await?;
        }
        self.inner.switch.detach(self.id());
        Ok(())
    }

    /// Resets the machine, or starts one if there is none; returns when the reset is certain and
    /// does not wait for the boot.
    pub async fn reset(&self) -> Result<()> {
        let mut slot = self.inner.machine.lock().await;
        match slot.as_ref().filter(|machine| machine.is_on()) {
            Some(machine) if self.inner.spec.kind == Kind::Qemu => {
                // First: the next greeting must not be taken for one that comes before the reset.
                self.inner.control.forget_boot("it was reset from outside");
                machine.reset().await
            }
            Some(machine) => {
                machine.power_off().await?;
                *slot = Some(self.start().await?);
                Ok(())
            }
            None => {
                *slot = Some(self.start().await?);
                Ok(())
            }
        }
    }

    /// Stops its processors; its clock stands still on QEMU and goes on on User Mode Linux.
    pub async fn pause(&self) -> Result<()> {
        self.set_paused(true).await
    }

    /// Lets it go on.
    pub async fn resume(&self) -> Result<()> {
        self.set_paused(false).await
    }

    async fn set_paused(&self, is_paused: bool) -> Result<()> {
        let machine = self.inner.machine.lock().await;
        match machine.as_ref().filter(|machine| machine.is_on()) {
            Some(machine) => machine.set_paused(is_paused).await,
            None => bail!("{} is off", self.name()),
        }
    }

    /// Waits until init has greeted and the clock is known to be right, and fails if init
    /// complains. A machine whose clock is wrong is booted again, and that is logged.
    pub async fn wait_until_up(&self) -> Result<Boot> {
        let mut rate = None;
        for _ in 0..BOOTS_MAX {
            let boot = self.wait_for_greeting().await?;
            rate = match self.wrong_rate(&boot).await {
                Ok(rate) => rate,
                // Somebody else has reset it.
                Err(_) if self.boot().as_ref() != Some(&boot) => continue,
                Err(error) => return Err(error.context("measuring the clock's rate")),
            };
            let Some(rate) = rate else {
                self.lay_routes().await?;
                return Ok(boot);
            };
            self.tell_clock(rate)?;
            self.reset().await?;
        }
        bail!(
            "{}: its clock went {:.2} times as fast as the host's in the last of {BOOTS_MAX} \
             boots; is the host overloaded?",
            self.name(),
            rate.unwrap_or_default()
        )
    }

    async fn wait_for_greeting(&self) -> Result<Boot> {
        let boot = self.inner.control.wait_for_boot(None, BOOT_LIMIT).await?;
        if boot.hello.complaints.is_empty() {
            return Ok(boot);
        }
        let complaints = boot.hello.complaints.join("; ");
        bail!("{} booted with complaints: {complaints}", self.name())
    }

    /// The rate of this boot's clock if nobody should go by it. It is measured once for each boot.
    async fn wrong_rate(&self, boot: &Boot) -> Result<Option<f64>> {
        let mut measured = self.inner.right_clock.lock().await;
        if self.inner.spec.counts_instructions || measured.as_ref() == Some(&boot.id) {
            return Ok(None);
        }
        let rate = clock::rate(|| self.read_text("/proc/uptime")).await?;
        if clock::GOOD_RATES.contains(&rate) {
            *measured = Some(boot.id.clone());
            return Ok(None);
        }
        Ok(Some(rate))
    }

    fn tell_clock(&self, rate: f64) -> Result<()> {
        let name = self.name();
        let text =
            format!("{name}: its clock went {rate:.2} times as fast as the host's; it boots again");
        // Standard error may be closed; the log says it as well.
        let _ = writeln!(std::io::stderr(), "{text}");
        let path = self.inner.spec.dir.join(format!("{name}.clock.log"));
        let log = File::options().create(true).append(true).open(&path);
        let what = || format!("writing {}", path.display());
        writeln!(log.with_context(what)?, "{text}").with_context(what)
    }

    async fn start(&self) -> Result<Machine> {
        let inner = &self.inner;
        if inner.is_closed.load(Ordering::Acquire) {
            bail!("{}: its cluster is being ended", self.name());
        }
        let networks = match &inner.cables {
            Some(cables) => cables.ends(inner.id),
            None => inner
                .switch
                .attach(inner.id, inner.spec.mac)
                .map(|end| vec![end]),
        };
        let networks = networks.context("plugging a node into the network")?;
        let control = inner.control.clone();
        let on_end = move |status| control.forget_boot(&format!("its machine ended: {status}"));
        let (machine, channels) = Machine::start(&inner.spec, networks, on_end).await?;
        inner.run.note_process(machine.pid(), self.name())?;
        let window = match inner.spec.kind {
            Kind::Qemu => None,
            Kind::Uml => Some(LINE_WINDOW),
        };
        inner.control.attach(channels.control, window);
        inner
            .watchdog
            .watch(self.name(), &self.console_log(), channels.console)?;
        let plugs = NodePlugs {
            nodes: inner.peers.get().cloned().unwrap_or_default(),
        };
        let log = inner.power_log.clone();
        let name = self.name().to_owned();
        tokio::spawn(power::serve(plugs, channels.power, name, log));
        Ok(machine)
    }

    /// Shows the way to the peers at the end of every cable but the first, whose interface has the
    /// cluster's network.
    async fn lay_routes(&self) -> Result<()> {
        let Some(cables) = &self.inner.cables else {
            return Ok(());
        };
        let peers = self.inner.peers.get().into_iter().flatten();
        let addresses: BTreeMap<u32, Ipv4Addr> = peers
            .filter_map(Weak::upgrade)
            .map(|peer| (peer.id, peer.address))
            .collect();
        for (number, peer) in cables.peers(self.id()).into_iter().enumerate().skip(1) {
            let to = addresses.get(&peer).context("a cable to nowhere")?;
            let (own, link) = (self.address(), format!("vec{number}"));
            let script =
                format!("ip link set {link} up && ip route replace {to}/32 dev {link} src {own}");
            self.sh(&script).await?.ok()?;
        }
        Ok(())
    }

    /// Processor time that its machine has had on the host so far, in all its processes.
    pub async fn cpu_time(&self) -> Result<Duration> {
        let machine = self.inner.machine.lock().await;
        let machine = machine
            .as_ref()
            .with_context(|| format!("{} is off", self.name()))?;
        machine.cpu_time()
    }

    /// Has each instruction that its kernel executes written down in `file`, until
    /// [`Node::end_trace`]. The cluster must have been made for that, and the file is whole only
    /// when the machine has ended.
    pub async fn begin_trace(&self, file: &Path) -> Result<()> {
        let machine = self.inner.machine.lock().await;
        let machine = machine.as_ref().filter(|machine| machine.is_on());
        let machine = machine.with_context(|| format!("{} is off", self.name()))?;
        machine.begin_trace(file).await
    }

    /// Ends that.
    pub async fn end_trace(&self) -> Result<()> {
        let machine = self.inner.machine.lock().await;
        let machine = machine.as_ref().filter(|machine| machine.is_on());
        let machine = machine.with_context(|| format!("{} is off", self.name()))?;
        machine.end_trace().await
    }

    /// Cuts its links to all others.
    pub fn isolate(&self) {
        self.for_each_peer(|peer| self.inner.switch.cut(self.id(), peer));
    }

    /// Heals its links to all others.
    pub fn rejoin(&self) {
        self.for_each_peer(|peer| self.inner.switch.heal(self.id(), peer));
    }

    fn for_each_peer(&self, act: impl Fn(u32)) {
        let peers = self.inner.peers.get().into_iter().flatten();
        peers
            .filter_map(Weak::upgrade)
            .map(|peer| peer.id)
            .filter(|peer| *peer != self.id())
            .for_each(act);
    }

    /// Runs a program to its end, whatever its status.
    pub async fn exec<S: AsRef<str>>(&self, argv: &[S]) -> Result<Output> {
        self.run(program_of(argv), COMMAND_LIMIT).await
    }

    /// Runs a shell script to its end, whatever its status.
    pub async fn sh(&self, script: &str) -> Result<Output> {
        self.exec(&["sh", "-c", script]).await
    }

    /// Runs a program to its end, whatever its status. After `limit` it is killed and the output
    /// says so.
    pub async fn run(&self, program: Program, limit: Duration) -> Result<Output> {
        let command = program.argv.join(" ");
        let program = Program {
            timeout_ms: Some(limit.as_millis().try_into().unwrap_or(u64::MAX)),
            output_limit: Some(program.output_limit.unwrap_or(OUTPUT_LEN_MAX)),
            ..program
        };
        let mut replies = self.inner.control.request(Op::Run(program))?;
        let mut output = Output::of(self.name(), &command);
        let collected = async {
            loop {
                match replies.next().await? {
                    Event::Output { stream, data } => output.add(stream, &data.0),
                    Event::Exited(exit) => return Ok(exit),
                    Event::Hello(_)
                    | Event::Consumed { .. }
                    | Event::Done
                    | Event::Failed { .. } => {
                        bail!("unexpected answer")
                    }
                }
            }
        };
        let what = || format!("{}: running {command:?}", self.name());
        let exit = tokio::time::timeout(limit + ANSWER_MARGIN, collected)
            .await
            .with_context(|| format!("{}: no answer", what()))?
            .with_context(what)?;
        output.exit = exit;
        Ok(output)
    }

    /// Starts a program that goes on running. What it writes is kept in `NODE.NAME.log`.
    pub fn spawn(&self, name: &str, program: Program) -> Result<Running> {
        let replies = self.inner.control.request(Op::Run(program))?;
        let log = format!("{}.{name}.log", self.name());
        let log = self.inner.spec.dir.join(log);
        Running::follow(self.inner.control.clone(), self.name(), name, &log, replies)
    }

    /// Starts a program without special wishes.
    pub fn spawn_argv<S: AsRef<str>>(&self, name: &str, argv: &[S]) -> Result<Running> {
        self.spawn(name, program_of(argv))
    }

    /// Writes a file, making its directories.
    pub async fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut chunks = content.chunks(CHUNK);
        let first = chunks.next().unwrap_or_default();
        self.write_chunk(path, first, mode, false).await?;
        for chunk in chunks {
            self.write_chunk(path, chunk, mode, true).await?;
        }
        Ok(())
    }

    async fn write_chunk(&self, path: &str, data: &[u8], mode: u32, append: bool) -> Result<()> {
        let mut replies = self.inner.control.request(Op::Write {
            path: path.to_owned(),
            data: Bytes(data.to_vec()),
            mode,
            append,
        })?;
        let answer = tokio::time::timeout(COMMAND_LIMIT, replies.next()).await;
        answer
            .with_context(|| format!("{}: writing {path}: no answer", self.name()))?
            .map(drop)
    }

    /// Reads a file.
    pub async fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let limit = OUTPUT_LEN_MAX;
        let path_owned = path.to_owned();
        let mut replies = self.inner.control.request(Op::Read {
            path: path_owned,
            limit,
        })?;
        let mut content = Vec::new();
        let collected = async {
            while let Event::Output { data, .. } = replies.next().await? {
                content.extend_from_slice(&data.0);
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(COMMAND_LIMIT, collected)
            .await
            .with_context(|| format!("{}: reading {path}: no answer", self.name()))??;
        Ok(content)
    }

    /// Reads a file of text.
    pub async fn read_text(&self, path: &str) -> Result<String> {
        let bytes = self.read_file(path).await?;
        String::from_utf8(bytes).with_context(|| format!("{}: {path} is not UTF-8", self.name()))
    }

    /// Runs a shell script again and again until it succeeds; returns the time that took.
    pub async fn wait_for_sh(&self, script: &str, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        loop {
            let output = self.sh(script).await?;
            if output.is_ok() {
                return Ok(start.elapsed());
            }
            if start.elapsed() >= limit {
                return output
                    .ok()
                    .map(|_| Duration::ZERO)
                    .with_context(|| format!("not within {limit:?}"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// A program without special wishes.
pub fn program_of<S: AsRef<str>>(argv: &[S]) -> Program {
    Program {
        argv: argv.iter().map(|word| word.as_ref().to_owned()).collect(),
        ..Program::default()
    }
}

impl Output {
    fn add(&mut self, stream: Stream, bytes: &[u8]) {
        match stream {
            Stream::Out => self.stdout.extend_from_slice(bytes),
            Stream::Err => self.stderr.extend_from_slice(bytes),
        }
    }
}

/// The nodes of a cluster as plugs of its power switch.
#[derive(Clone, Debug)]
struct NodePlugs {
    nodes: Vec<Weak<Inner>>,
}

impl NodePlugs {
    fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        let inner = self.nodes.iter().filter_map(Weak::upgrade);
        inner.map(|inner| Node { inner })
    }

    fn find(&self, plug: &str) -> Result<Node> {
        let node = self.nodes().find(|node| node.name() == plug);
        node.with_context(|| format!("there is no plug {plug}"))
    }
}

impl Plugs for NodePlugs {
    fn names(&self) -> Vec<String> {
        self.nodes().map(|node| node.name().to_owned()).collect()
    }

    async fn state(&self, plug: &str) -> Result<PowerState> {
        let node = self.find(plug)?;
        // Locked while somebody switches it on or off.
        Ok(match node.inner.machine.try_lock() {
            Ok(machine) if machine.as_ref().is_some_and(Machine::is_on) => PowerState::On,
            Ok(_) => PowerState::Off,
            Err(_) => PowerState::Unknown,
        })
    }

    async fn off(&self, plug: &str) -> Result<()> {
        self.find(plug)?.power_off().await
    }

    async fn on(&self, plug: &str) -> Result<()> {
        self.find(plug)?.power_on().await
    }

    async fn reboot(&self, plug: &str) -> Result<()> {
        self.find(plug)?.reset().await
    }
}
