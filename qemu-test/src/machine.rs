// SPDX-License-Identifier: GPL-2.0-only
//! One running machine: a process of QEMU or User Mode Linux with its channels.
//!
//! A machine lives from power-on to power-off and is then thrown away; the next power-on makes a
//! new one. All channels are socket pairs handed to the process, so none has a name on the host.

mod cpu_time;
mod qemu;
mod uml;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use command_fds::CommandFdExt;
use command_fds::FdMapping;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::qmp::Qmp;
use crate::qmp::wait_for_event;
use crate::spec::Kind;
use crate::switch::Mac;

/// How long a machine's process may take to end after SIGKILL, or QEMU to confirm a reset. Only a
/// host in great trouble needs more than a second.
const CONFIRM_LIMIT: Duration = Duration::from_secs(30);

/// Numbers under which a machine's process finds its channels.
mod fd {
    pub(super) const CONTROL: i32 = 11;
    pub(super) const CONSOLE: i32 = 12;
    pub(super) const POWER: i32 = 13;
    pub(super) const MONITOR: i32 = 14;
    /// The first of as many as there are interfaces.
    pub(super) const NETWORKS: i32 = 20;
}

/// What a node's machines are made from.
#[derive(Clone, Debug)]
pub(crate) struct MachineSpec {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// See [`ClusterSpec::counts_instructions`](crate::spec::ClusterSpec::counts_instructions).
    pub(crate) counts_instructions: bool,
    /// See [`ClusterSpec::is_traced`](crate::spec::ClusterSpec::is_traced).
    pub(crate) is_traced: bool,
    /// Of its first network interface; the third octet counts them.
    pub(crate) mac: Mac,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) disks: Vec<Disk>,
    /// Words for init and from the scenario.
    pub(crate) append: String,
    /// Working directory and place of the process's own output.
    pub(crate) dir: PathBuf,
}

/// A disk of a virtual machine.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    pub(crate) serial: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) is_shared: bool,
}

/// The host's ends of a machine's channels.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) control: UnixStream,
    pub(crate) console: UnixStream,
    pub(crate) power: UnixStream,
}

/// A running machine.
#[derive(Debug)]
pub(crate) struct Machine {
    process: Process,
    /// QEMU only.
    monitor: Option<Qmp>,
}

impl Machine {
    /// Starts a machine with a network interface for each of `networks`. `on_end` is called once
    /// when its process has ended, whoever ended it, with its status.
    pub(crate) async fn start(
        spec: &MachineSpec,
        networks: Vec<OwnedFd>,
        on_end: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> Result<(Self, Channels)> {
        let (control, control_end) = pair()?;
        let (console, console_end) = pair()?;
        let (power, power_end) = pair()?;
        let (monitor, monitor_end) = pair()?;
        let mut fds = vec![
            map(control_end, fd::CONTROL),
            map(console_end, fd::CONSOLE),
            map(power_end, fd::POWER),
        ];
        let links = networks.len();
        fds.extend(
            networks
                .into_iter()
                .zip(fd::NETWORKS..)
                .map(|(end, number)| map(end, number)),
        );
        let arguments = match spec.kind {
            Kind::Qemu => {
                fds.push(map(monitor_end, fd::MONITOR));
                qemu::arguments(spec)?
            }
            Kind::Uml => uml::arguments(spec, links)?,
        };
        let process = Process::start(spec, &arguments, fds, on_end)?;
        let monitor = match spec.kind {
            Kind::Qemu => Some(Qmp::connect(monitor).await.with_context(|| {
                let log = Process::log_path(spec);
                format!("starting QEMU for {}; see {}", spec.name, log.display())
            })?),
            Kind::Uml => None,
        };
        let machine = Machine { process, monitor };
        let channels = Channels {
            control,
            console,
            power,
        };
        Ok((machine, channels))
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid
    }

    /// Processor time of the process and all others of its group so far.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu_time::of_group(self.process.pid)
    }

    /// Whether the process still exists.
    pub(crate) fn is_on(&self) -> bool {
        self.process.ended.borrow().is_none()
    }

    /// Ends the machine; returns when nothing of it runs any more.
    pub(crate) async fn power_off(&self) -> Result<()> {
        if let Some(monitor) = &self.monitor {
            // Refused or unanswered: the signal below ends it all the same.
            let _ = tokio::time::timeout(Duration::from_secs(2), monitor.execute("quit")).await;
        }
        self.process.kill().await
    }

    /// Resets a virtual machine and makes it run; returns when QEMU has confirmed it.
    pub(crate) async fn reset(&self) -> Result<()> {
        let Some(monitor) = &self.monitor else {
            bail!("only a virtual machine can be reset");
        };
        let mut events = monitor.events();
        monitor.execute("system_reset").await?;
        let confirmed = async {
            loop {
                // The guest's own reset, which may happen at the same time, is no confirmation.
                let event = wait_for_event(&mut events, "RESET").await?;
                if event["data"]["guest"] == false {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(CONFIRM_LIMIT, confirmed)
            .await
            .context("QEMU did not confirm the reset")??;
        if !monitor.is_running().await? {
            monitor.execute("cont").await?;
        }
        Ok(())
    }

    /// Has each instruction that the kernel executes written down in `file`, a line each, until
    /// [`Machine::end_trace`]; the file is whole when the machine has ended.
    pub(crate) async fn begin_trace(&self, file: &Path) -> Result<()> {
        let file = utf8(file)?;
        let monitor = self.monitor.as_ref();
        let monitor = monitor.context("only a virtual machine can be traced")?;
        set_single_steps(monitor, "on").await?;
        monitor.execute_human(&format!("logfile {file}")).await?;
        monitor.execute_human("log exec,nochain").await
    }

    /// Ends that.
    pub(crate) async fn end_trace(&self) -> Result<()> {
        let monitor = self.monitor.as_ref();
        let monitor = monitor.context("only a virtual machine can be traced")?;
        monitor.execute_human("log none").await?;
        set_single_steps(monitor, "off").await
    }

    /// Stops the machine's processors, or lets them go on.
    pub(crate) async fn set_paused(&self, is_paused: bool) -> Result<()> {
        match &self.monitor {
            Some(monitor) => {
                let command = if is_paused { "stop" } else { "cont" };
                monitor.execute(command).await.map(drop)
            }
            None => {
                let signal = if is_paused {
                    Signal::SIGSTOP
                } else {
                    Signal::SIGCONT
                };
                self.process.signal(signal)
            }
        }
    }
}

/// Whether each instruction is translated on its own, so that a trace names it. QEMU 8.1 has given
/// the command another name.
async fn set_single_steps(monitor: &Qmp, word: &str) -> Result<()> {
    let [now, before] = ["one-insn-per-tb", "singlestep"].map(|name| format!("{name} {word}"));
    if monitor.execute_human(&now).await.is_ok() {
        return Ok(());
    }
    monitor.execute_human(&before).await
}

/// A child process and the task that watches over it. Dropping it kills the process.
#[derive(Debug)]
struct Process {
    pid: u32,
    orders: mpsc::UnboundedSender<Signal>,
    ended: watch::Receiver<Option<ExitStatus>>,
}

impl Process {
    fn start(
        spec: &MachineSpec,
        arguments: &[String],
        fds: Vec<FdMapping>,
        on_end: impl FnOnce(ExitStatus) + Send + 'static,
    ) -> Result<Self> {
        let log = Process::log_path(spec);
        let output = File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("opening {}", log.display()))?;
        // setpriv becomes the machine: should this process die, the kernel ends the machine.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .args(arguments)
            .current_dir(&spec.dir)
            .env("HOME", &spec.dir)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("duplicating a log file")?)
            .stderr(output)
            .process_group(0)
            .kill_on_drop(true);
        command
            .fd_mappings(fds)
            .context("passing sockets to a machine")?;
        let what = || format!("starting {} for {}", arguments[0], spec.name);
        let child = command.spawn().with_context(what)?;
        let pid = child.id().with_context(what)?;
        let (orders, received) = mpsc::unbounded_channel();
        let (status, ended) = watch::channel(None);
        tokio::spawn(supervise(child, pid, received, status, on_end));
        Ok(Process { pid, orders, ended })
    }

    fn log_path(spec: &MachineSpec) -> PathBuf {
        spec.dir.join(format!("{}.{}.log", spec.name, spec.kind))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.orders
            .send(signal)
            .context("the machine's process has ended")
    }

    async fn kill(&self) -> Result<()> {
        // Failure means that it has ended already.
        let _ = self.signal(Signal::SIGKILL);
        let mut ended = self.ended.clone();
        let end = ended.wait_for(Option::is_some);
        tokio::time::timeout(CONFIRM_LIMIT, end)
            .await
            .with_context(|| format!("process {} did not end after SIGKILL", self.pid))?
            .context("the task that watches the machine's process is gone")?;
        Ok(())
    }
}

/// Carries out orders as long as the process exists: as only this task reaps it, a signal cannot
/// hit a stranger that has got its number.
async fn supervise(
    mut child: Child,
    pid: u32,
    mut orders: mpsc::UnboundedReceiver<Signal>,
    status: watch::Sender<Option<ExitStatus>>,
    on_end: impl FnOnce(ExitStatus) + Send + 'static,
) {
    let group = Pid::from_raw(pid.cast_signed());
    let mut is_dropped = false;
    let result = loop {
        tokio::select! {
            result = child.wait() => break result,
            order = orders.recv(), if !is_dropped => {
                is_dropped = order.is_none();
                // Fails only if nobody of the group is left; then wait returns.
                let _ = killpg(group, order.unwrap_or(Signal::SIGKILL));
            }
        }
    };
    let result = result.unwrap_or_default();
    on_end(result);
    status.send_replace(Some(result));
}

fn pair() -> Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = StdStream::pair().context("making a socket pair")?;
    ours.set_nonblocking(true).context("making a socket pair")?;
    let ours = UnixStream::from_std(ours).context("making a socket pair")?;
    Ok((ours, theirs.into()))
}

fn map(parent_fd: OwnedFd, child_fd: i32) -> FdMapping {
    FdMapping {
        parent_fd,
        child_fd,
    }
}

fn mac_text(mac: &Mac) -> String {
    let octets: Vec<String> = mac.iter().map(|octet| format!("{octet:02x}")).collect();
    octets.join(":")
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
