// SPDX-License-Identifier: GPL-2.0-only
//! Runs of agents that are shell scripts, well-behaved and not.

use std::time::Instant;

use super::*;

fn script(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fence-agent-{}-{name}", std::process::id()));
    // Written by another process: a descriptor open for writing here could be inherited by an
    // agent another test starts, and the file be "busy".
    let written = std::process::Command::new("sh")
        .args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"",
        ])
        .arg(&path)
        .arg(text)
        .status();
    assert!(written.unwrap().success());
    path
}

fn call(name: &str, text: &str) -> Call {
    let mut options = Options::default();
    options.set("plug", "a=b c", false);
    options.set("password", "hunter2", false);
    Call {
        device: "test".into(),
        agent: script(name, text).to_str().unwrap().into(),
        options,
        timeout: Duration::from_secs(20),
    }
}

fn why(outcome: Outcome) -> String {
    match outcome {
        Outcome::Failure(why) => why,
        Outcome::Success | Outcome::Off => panic!("not a failure: {outcome:?}"),
    }
}

async fn reboot(call: &Call) -> Outcome {
    run(call, Action::Reboot).await
}

#[tokio::test]
async fn options_arrive_one_a_line_and_the_command_line_is_empty() {
    let text = "test $# = 0 && \
                test \"$(cat)\" = \"$(printf 'action=reboot\\npassword=hunter2\\nplug=a=b c')\"";
    assert_eq!(reboot(&call("lines", text)).await, Outcome::Success);
}

#[tokio::test]
async fn any_other_exit_status_is_a_failure_that_quotes_the_agent() {
    let why = why(reboot(&call("exit", "echo no power >&2; exit 2")).await);
    assert!(
        why.contains("exit status: 2") && why.contains("no power"),
        "{why}"
    );
}

#[tokio::test]
async fn only_status_tells_off_by_its_exit_status() {
    let call = call("off", "exit 2");
    assert_eq!(run(&call, Action::Status).await, Outcome::Off);
    why(run(&call, Action::Off).await);
}

#[tokio::test]
async fn an_agent_that_floods_its_output_does_not_block() {
    let text = "yes | head -c 3000000; yes | head -c 3000000 >&2; exit 0";
    assert_eq!(reboot(&call("flood", text)).await, Outcome::Success);
}

/// Whether a process of this number is there and is no zombie.
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| state != Some('Z'))
}

async fn written_pid(path: &Path) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if let Ok(pid) = text.trim().parse() {
            return pid;
        }
        assert!(
            Instant::now() < deadline,
            "{} was not written",
            path.display()
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn dies(pid: i32) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while lives(pid) {
        assert!(Instant::now() < deadline, "process {pid} lives on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn pid_file(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("fence-agent-{}-{name}.pid", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

#[tokio::test]
async fn a_hanging_agent_is_killed_with_its_children() {
    let file = pid_file("hang");
    let text = format!("sleep 1000 & echo $! > {}; wait", file.display());
    let call = Call {
        timeout: Duration::from_millis(700),
        ..call("hang", &text)
    };
    let why = why(reboot(&call).await);
    assert!(why.contains("no result in"), "{why}");
    dies(written_pid(&file).await).await;
}

#[tokio::test]
async fn an_agent_that_ignores_term_is_ended_all_the_same() {
    let call = Call {
        timeout: Duration::from_millis(700),
        ..call("term", "trap '' TERM INT HUP; while :; do sleep 1; done")
    };
    let begun = Instant::now();
    why(reboot(&call).await);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_child_that_keeps_the_output_open_costs_nothing_and_does_not_outlive_the_run() {
    let file = pid_file("child");
    let text = format!("sleep 1000 & echo $! > {}; exit 0", file.display());
    let begun = Instant::now();
    assert_eq!(reboot(&call("child", &text)).await, Outcome::Success);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    dies(written_pid(&file).await).await;
}

#[tokio::test]
async fn a_process_that_left_the_group_costs_nothing_either() {
    let file = pid_file("away");
    let text = format!("setsid sleep 600 & echo $! > {}; exit 0", file.display());
    let begun = Instant::now();
    assert_eq!(reboot(&call("away", &text)).await, Outcome::Success);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let pid = written_pid(&file).await;
    if ControlGroup::new().is_ok() {
        dies(pid).await;
    } else {
        nix::sys::signal::kill(Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    }
}

#[tokio::test]
async fn a_run_that_nobody_waits_for_any_more_is_ended() {
    let file = pid_file("late");
    let pressed = pid_file("pressed");
    let text = format!(
        "echo $$ > {}; sleep 1000; echo 1 > {}",
        file.display(),
        pressed.display()
    );
    let call = call("late", &text);
    let task = tokio::spawn(async move { reboot(&call).await });
    let pid = written_pid(&file).await;
    task.abort();
    dies(pid).await;
    assert!(!pressed.exists());
}

#[tokio::test]
async fn what_an_agent_prints_is_scrubbed_also_where_it_is_cut_off() {
    let why_short = why(reboot(&call("leak", "echo \"options read: $(cat)\" >&2; exit 1")).await);
    assert!(why_short.contains("password=***"), "{why_short}");
    assert!(!why_short.contains("hunter2"), "{why_short}");
    // The secret stands across the end of what is kept.
    let text = format!(
        "head -c {} /dev/zero | tr '\\0' x; printf hunter2; exit 1",
        OUTPUT_LIMIT - 3
    );
    let why_long = why(reboot(&call("edge", &text)).await);
    assert!(
        !why_long.contains("hun"),
        "{}",
        &why_long[why_long.len() - 40..]
    );
}

#[tokio::test]
async fn a_missing_agent_is_a_failure_that_names_it() {
    let missing = Call {
        agent: "no_such_agent".into(),
        ..call("none", "exit 0")
    };
    let why = why(reboot(&missing).await);
    assert!(why.contains("no program \"no_such_agent\""), "{why}");
    assert_eq!(find("no_such_agent"), None);
    assert!(find("sh").is_some());
}

#[tokio::test]
async fn metadata_is_asked_for_and_what_does_not_know_it_is_told() {
    let good = "test \"$*\" = '-o metadata' && echo '<resource-agent name=\"x\"><actions>\
                <action name=\"off\"/></actions></resource-agent>'";
    let agent = call("metadata", good).agent;
    assert!(metadata(&agent).await.unwrap().knows(Action::Off));
    for (name, text) in [
        ("silent", "exit 0"),
        ("failing", "exit 1"),
        ("chatty", "echo hello"),
    ] {
        assert!(metadata(&call(name, text).agent).await.is_err(), "{name}");
    }
    assert!(metadata("no_such_agent").await.is_err());
}

#[tokio::test]
async fn the_environment_is_the_services_without_what_is_its_own() {
    for name in [
        "NOTIFY_SOCKET",
        "CREDENTIALS_DIRECTORY",
        "DB_PASSWORD",
        "API_TOKEN",
    ] {
        assert!(!is_for_agents(name), "{name}");
    }
    for name in ["PATH", "HOME", "LANG", "http_proxy", "PYTHONPATH"] {
        assert!(is_for_agents(name), "{name}");
    }
    let text = "test -n \"$PATH\" && test -n \"$HOME\"";
    assert_eq!(reboot(&call("environment", text)).await, Outcome::Success);
}
