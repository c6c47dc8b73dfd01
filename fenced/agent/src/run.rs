// SPDX-License-Identifier: GPL-2.0-only
//! One run of an agent, from its start to its end or its time limit.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::group;
use crate::group::ControlGroup;
use crate::metadata::Metadata;
use crate::metadata::MetadataError;
use cluster_rt::config::Action;
use cluster_rt::config::Options;
use cluster_rt::config::is_secret;

/// How much of an agent's output is kept, bytes of each stream.
const OUTPUT_LIMIT: usize = 4096;

/// How much of an agent's metadata is read, bytes. The longest of the stock agents has 30,000.
const METADATA_LIMIT: usize = 1 << 20;

/// How long the output of an agent that has ended, with all it started, may still take to be read.
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

/// How long an agent may take to say what it knows: it asks no device for that. A stock agent
/// takes half a second, and several of them start with the cluster on a busy machine.
const METADATA_TIMEOUT: Duration = Duration::from_secs(15);

/// Where agents that are named without a directory are looked for when the daemon itself was
/// started without `PATH`.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Exit status of `status` for a node that is off.
const EXIT_OFF: i32 = 2;

/// Variables of a service's environment that belong to the service alone: its manager's sockets
/// and its credentials.
const OWN_VARIABLES: [&str; 8] = [
    "CREDENTIALS_DIRECTORY",
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    "MEMORY_PRESSURE_WATCH",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// How to call an agent about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Name of the device, for messages.
    pub device: String,
    /// The agent: a name on `PATH`, or an absolute path.
    pub agent: String,
    /// What it is told, but for the action.
    pub options: Options,
    /// How long one run may take.
    pub timeout: Duration,
}

/// How one run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit status 0; of [`Action::Status`]: the node is on.
    Success,
    /// Exit status 2 of [`Action::Status`]: the node is off.
    Off,
    /// Anything else, in words without secrets.
    Failure(String),
}

/// The program of an agent. `None`: there is none that could be started.
#[must_use]
pub fn find(agent: &str) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        let is_executable = nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok();
        path.is_file() && is_executable
    };
    if agent.contains('/') {
        return Some(PathBuf::from(agent)).filter(is_program);
    }
    std::env::split_paths(&search_path())
        .map(|dir| dir.join(agent))
        .find(is_program)
}

/// Runs one agent to its end or its time limit. Dropping the future ends the run: its processes
/// are killed.
pub async fn run(call: &Call, action: Action) -> Outcome {
    let mut options = call.options.clone();
    options.set("action", action.name(), false);
    let mut command = match command(&call.agent) {
        Ok(command) => command,
        Err(error) => return Outcome::Failure(error),
    };
    let room = OUTPUT_LIMIT + options.longest_secret();
    let mut running = match Running::start(&mut command, room).await {
        Ok(running) => running,
        Err(error) => return Outcome::Failure(format!("cannot be started: {error}")),
    };
    let input = options.lines();
    let ended = tokio::time::timeout(call.timeout, running.converse(&input)).await;
    let said = running.end().await;
    match ended {
        Err(_) => Outcome::Failure(format!("no result in {} s, killed", call.timeout.as_secs())),
        Ok(Err(error)) => Outcome::Failure(format!("waiting for it: {error}")),
        Ok(Ok(status)) if status.success() => Outcome::Success,
        Ok(Ok(status)) if action == Action::Status && status.code() == Some(EXIT_OFF) => {
            Outcome::Off
        }
        Ok(Ok(status)) => Outcome::Failure(failure(status, &said, &options)),
    }
}

/// Asks an agent what it knows.
///
/// # Errors
/// It cannot be started or does not end in time, or what it printed is no metadata.
pub async fn metadata(agent: &str) -> Result<Metadata, MetadataError> {
    let mut command = command(agent).map_err(MetadataError::Start)?;
    command.args(["-o", "metadata"]);
    let mut running = Running::start(&mut command, METADATA_LIMIT)
        .await
        .map_err(|error| MetadataError::Start(error.to_string()))?;
    let ended = tokio::time::timeout(METADATA_TIMEOUT, running.converse("")).await;
    let said = running.end().await;
    match ended {
        Err(_) => Err(MetadataError::Time(METADATA_TIMEOUT)),
        Ok(Err(error)) => Err(MetadataError::Start(error.to_string())),
        Ok(Ok(status)) if status.success() => Metadata::parse(&said.stdout),
        Ok(Ok(status)) => Err(MetadataError::Status(status)),
    }
}

fn failure(status: ExitStatus, said: &Said, options: &Options) -> String {
    let said = if said.stderr.trim().is_empty() {
        &said.stdout
    } else {
        &said.stderr
    };
    let mut clean = options.scrub(said).trim().replace('\n', " / ");
    clean.truncate(clean.floor_char_boundary(OUTPUT_LIMIT));
    format!("{status}, said: {clean:?}")
}

fn search_path() -> OsString {
    std::env::var_os("PATH").unwrap_or_else(|| SEARCH_PATH.into())
}

/// The agent as a command, in the environment that this service has, less what is its own.
fn command(agent: &str) -> Result<Command, String> {
    let program = find(agent).ok_or_else(|| {
        format!("cannot be started: there is no program {agent:?} on PATH that may be run")
    })?;
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if !is_for_agents(&name.to_string_lossy()) {
            command.env_remove(&name);
        }
    }
    command.env("PATH", search_path());
    Ok(command)
}

/// Whether a variable of this service's environment may reach an agent.
fn is_for_agents(name: &str) -> bool {
    !OWN_VARIABLES.contains(&name) && !is_secret(name)
}

/// An agent that was started. Dropping it kills the agent with all it started.
struct Running {
    child: Child,
    process_group: Option<Pid>,
    control_group: Option<ControlGroup>,
    stdout: Reader,
    stderr: Reader,
}

/// What an agent printed.
struct Said {
    stdout: String,
    stderr: String,
}

impl Running {
    /// Starts it. At most `room` bytes of each of its streams are kept.
    async fn start(command: &mut Command, room: usize) -> std::io::Result<Self> {
        command
            .current_dir(Path::new("/"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let control_group = ControlGroup::new()
            .inspect_err(|error| tracing::debug!(%error, "no control group for an agent"))
            .ok();
        let mut child = match &control_group {
            Some(group) => inside(command, group).spawn()?,
            None => command.spawn()?,
        };
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            process_group: id.map(Pid::from_raw),
            control_group,
            stdout: Reader::new(child.stdout.take(), room),
            stderr: Reader::new(child.stderr.take(), room),
            child,
        })
    }

    /// Feeds it and waits until its own process has ended.
    async fn converse(&mut self, input: &str) -> std::io::Result<ExitStatus> {
        let stdin = self.child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // An agent that does not read all of its options may still succeed.
                let _ = stdin.write_all(input.as_bytes()).await;
                drop(stdin);
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            status = self.child.wait() => status,
            () = feed => unreachable!("feeding never returns"),
        }
    }

    /// Ends all that is left of it and returns what it said.
    async fn end(mut self) -> Said {
        if let Some(group) = self.process_group.take() {
            group::kill_process_group(group);
        }
        if let Some(group) = self.control_group.take() {
            group.end().await;
        }
        // It is no zombie afterwards, whatever ended it.
        let _ = self.child.wait().await;
        let (stdout, stderr) = tokio::join!(self.stdout.text(), self.stderr.text());
        Said { stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.process_group {
            group::kill_process_group(group);
        }
    }
}

/// The same command, that enters a control group before it becomes the agent: what the agent starts
/// first is then in it as well.
fn inside(command: &Command, group: &ControlGroup) -> Command {
    let command = command.as_std();
    let mut outer = Command::new("/bin/sh");
    outer
        .args(["-c", "echo 0 >\"$0\" && exec \"$@\""])
        .arg(group.entrance())
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(Path::new("/"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// Reads a stream to its end, so that the agent never blocks on a full pipe, and keeps the
/// beginning.
struct Reader {
    kept: Arc<Mutex<Vec<u8>>>,
    task: Option<JoinHandle<()>>,
}

impl Reader {
    fn new<R: AsyncRead + Unpin + Send + 'static>(stream: Option<R>, room: usize) -> Self {
        let kept = Arc::new(Mutex::new(Vec::new()));
        let task = stream.map(|stream| tokio::spawn(collect(stream, Arc::clone(&kept), room)));
        Self { kept, task }
    }

    /// What was read. A process that got away and keeps the stream open is not waited for.
    async fn text(&mut self) -> String {
        if let Some(task) = self.task.take()
            && tokio::time::timeout(DRAIN_LIMIT, task).await.is_err()
        {
            tracing::debug!("a process keeps the output of an agent open");
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&kept).into_owned()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

async fn collect<R: AsyncRead + Unpin>(mut stream: R, kept: Arc<Mutex<Vec<u8>>>, room: usize) {
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let left = room.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..n.min(left)]);
    }
}

#[cfg(test)]
mod tests;
