// SPDX-License-Identifier: GPL-2.0-only
//! Runs fence agents by their stock protocol: `name=value` lines on standard
//! input, the action among them, nothing on the command line; exit status 0 is
//! success and everything else is not.
//!
//! An agent gets a time limit and a process group of its own, so that one that
//! hangs is ended with all it started. Its output is read to the end, so that
//! it never blocks on a full pipe, and its first part is kept for the log.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::process::Child;
use tokio::process::Command;

/// How much of an agent's output is kept, bytes of each stream.
const OUTPUT_LIMIT: usize = 4096;

/// Where agents that are named without a directory are looked for when the
/// daemon itself was started without `PATH`.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A way to fence a node: every call must succeed, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Method {
    pub(crate) name: String,
    pub(crate) calls: Vec<Call>,
}

/// One run of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) device: String,
    pub(crate) agent: String,
    pub(crate) options: Vec<(String, String)>,
    pub(crate) timeout: Duration,
}

/// How one run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure(String),
}

/// Tries the methods in order until one succeeds. The error says what each of
/// them said.
pub(crate) async fn fence(node: &str, methods: &[Method]) -> Result<String, String> {
    if methods.is_empty() {
        return Err(format!(
            "no fence method is configured for {node}; add [[node.fence]] to cluster.toml, or make \
             sure that it is off and run `fence_tool ack {node}`"
        ));
    }
    let mut failures = Vec::new();
    for method in methods {
        match run_method(node, method).await {
            Ok(()) => return Ok(method.name.clone()),
            Err(failure) => failures.push(format!("method {}: {failure}", method.name)),
        }
    }
    Err(failures.join("; "))
}

async fn run_method(node: &str, method: &Method) -> Result<(), String> {
    for call in &method.calls {
        let begun = Instant::now();
        let outcome = run(call).await;
        let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (device, agent) = (&call.device, &call.agent);
        tracing::debug!(%node, device, agent, ms, ?outcome, "agent ended");
        if let Outcome::Failure(why) = outcome {
            return Err(format!(
                "device {}: agent {}: {why}",
                call.device, call.agent
            ));
        }
    }
    Ok(())
}

/// Runs one agent to its end or its time limit.
pub(crate) async fn run(call: &Call) -> Outcome {
    let mut command = Command::new(&call.agent);
    command
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| SEARCH_PATH.into()),
        )
        .current_dir(Path::new("/"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::Failure(format!("cannot be started: {error}")),
    };
    let group = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .map(Pid::from_raw);
    let outcome = tokio::time::timeout(call.timeout, converse(&mut child, call)).await;
    outcome.unwrap_or_else(|_| {
        if let Some(Err(error)) = group.map(|group| killpg(group, Signal::SIGKILL)) {
            tracing::warn!(agent = call.agent, %error, "agent could not be killed");
        }
        Outcome::Failure(format!("no result in {} s, killed", call.timeout.as_secs()))
    })
}

async fn converse(child: &mut Child, call: &Call) -> Outcome {
    let stdin = child.stdin.take();
    let input = input(call);
    let feed = async move {
        if let Some(mut stdin) = stdin {
            // An agent that does not read all of its options may still succeed.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
    };
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let ((), stdout, stderr, status) = tokio::join!(feed, stdout, stderr, child.wait());
    let said = if stderr.trim().is_empty() {
        stdout
    } else {
        stderr
    };
    let said = said.trim().replace('\n', " / ");
    match status {
        Ok(status) if status.success() => Outcome::Success,
        Ok(status) => Outcome::Failure(format!("{status}, said: {said:?}")),
        Err(error) => Outcome::Failure(format!("waiting for it: {error}")),
    }
}

/// What the agent reads: one option a line.
fn input(call: &Call) -> String {
    call.options
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

/// Reads a stream to its end and keeps the beginning.
async fn collect<R: AsyncRead + Unpin>(stream: Option<R>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut chunk).await {
        let room = OUTPUT_LIMIT.saturating_sub(kept.len());
        kept.extend_from_slice(&chunk[..n.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Call {
        let path = std::env::temp_dir().join(format!("fenced-{}-{name}", std::process::id()));
        // Written by another process: a descriptor open for writing here could be
        // inherited by an agent another test starts, and the file be "busy".
        let written = std::process::Command::new("sh")
            .args([
                "-c",
                "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"",
            ])
            .arg(&path)
            .arg(script)
            .status();
        assert!(written.unwrap().success());
        Call {
            device: "test".into(),
            agent: path.to_str().unwrap().into(),
            options: vec![
                ("action".into(), "reboot".into()),
                ("plug".into(), "a=b c".into()),
            ],
            timeout: Duration::from_secs(20),
        }
    }

    fn method(calls: Vec<Call>) -> Method {
        Method {
            name: "m".into(),
            calls,
        }
    }

    #[tokio::test]
    async fn options_arrive_one_a_line_and_the_command_line_is_empty() {
        let script = "test $# = 0 && test \"$(cat)\" = \"$(printf 'action=reboot\\nplug=a=b c')\"";
        assert_eq!(run(&shell("lines", script)).await, Outcome::Success);
    }

    #[tokio::test]
    async fn any_other_exit_status_is_a_failure_that_quotes_the_agent() {
        let Outcome::Failure(why) = run(&shell("exit", "echo no power >&2; exit 2")).await else {
            panic!("exit status 2 must not be success");
        };
        assert!(
            why.contains("exit status: 2") && why.contains("no power"),
            "{why}"
        );
    }

    #[tokio::test]
    async fn an_agent_that_floods_its_output_does_not_block() {
        let call = shell(
            "flood",
            "yes | head -c 3000000; yes | head -c 3000000 >&2; exit 0",
        );
        assert_eq!(run(&call).await, Outcome::Success);
    }

    #[tokio::test]
    async fn a_hanging_agent_is_killed_with_its_children() {
        let pid_file = std::env::temp_dir().join(format!("fenced-{}-pid", std::process::id()));
        let script = format!("sleep 1000 & echo $! > {}; wait", pid_file.display());
        let call = Call {
            timeout: Duration::from_millis(700),
            ..shell("hang", &script)
        };
        let Outcome::Failure(why) = run(&call).await else {
            panic!("a time-out is never success")
        };
        assert!(why.contains("no result in"), "{why}");
        let child: i32 = std::fs::read_to_string(pid_file)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while nix::sys::signal::kill(Pid::from_raw(child), None).is_ok() {
            assert!(Instant::now() < deadline, "the agent's child lives on");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn every_device_of_a_method_must_succeed_and_the_next_method_is_tried() {
        let good = shell("good", "exit 0");
        let bad = shell("bad", "exit 1");
        let half = method(vec![good.clone(), bad.clone()]);
        let whole = Method {
            name: "second".into(),
            calls: vec![good],
        };
        assert_eq!(
            fence("n2", &[half.clone(), whole]).await,
            Ok("second".into())
        );
        let error = fence("n2", &[half]).await.unwrap_err();
        assert!(error.contains("method m: device test"), "{error}");
        assert!(
            fence("n2", &[])
                .await
                .unwrap_err()
                .contains("no fence method")
        );
    }

    #[tokio::test]
    async fn a_missing_agent_is_a_failure() {
        let call = Call {
            agent: "no_such_agent".into(),
            ..shell("none", "exit 0")
        };
        let Outcome::Failure(why) = run(&call).await else {
            panic!("no agent, no success")
        };
        assert!(why.contains("cannot be started"), "{why}");
    }
}
