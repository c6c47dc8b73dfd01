// SPDX-License-Identifier: GPL-2.0-only
//! The control channel does what all other scenarios rely on.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use guest_init::protocol::Bytes;
use guest_init::protocol::Run;
use nix::sys::signal::Signal;

use crate::node::Node;
use crate::node::program_of;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "control",
    about: "programs, files, limits and signals over the control channel",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(240),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

const LIMIT: Duration = Duration::from_secs(60);

async fn run(ctx: Ctx) -> Result<()> {
    let cluster = ctx.boot(&ClusterSpec::new(ctx.kind(), 1)).await?;
    let node = cluster.node(1);
    ctx.timed("status", status_and_output(node)).await?;
    ctx.timed("files", files(node)).await?;
    ctx.timed("limits", limits(node)).await?;
    ctx.timed("side", side_by_side(node)).await?;
    ctx.timed("talk", conversation(node)).await?;
    ctx.timed("spawn", background(node)).await
}

async fn status_and_output(node: &Node) -> Result<()> {
    let output = node.sh("echo out; echo err >&2; hostname; exit 7").await?;
    ensure!(output.exit.code == Some(7), "{output:?}");
    ensure!(
        output.text() == format!("out\n{}", node.name()),
        "{output:?}"
    );
    ensure!(output.stderr == b"err\n", "{output:?}");
    ensure!(output.ok().is_err(), "exit code 7 is no success");
    let killed = node.sh("kill -9 $$").await?;
    ensure!(killed.exit.signal == Some(9), "{killed:?}");
    let missing = node.exec(&["/nonexistent/program"]).await;
    let error = format!(
        "{:#}",
        missing.err().unwrap_or_else(|| anyhow::anyhow!("ran"))
    );
    ensure!(error.contains("/nonexistent/program"), "{error}");
    let program = Run {
        stdin: Some(Bytes(b"from here".to_vec())),
        env: vec![("WORD".into(), "a b".into())],
        cwd: Some("/tmp".into()),
        ..program_of(&["sh", "-c", "cat; echo; echo \"$WORD\"; pwd"])
    };
    let output = node.run(program, LIMIT).await?.ok()?;
    ensure!(output.text() == "from here\na b\n/tmp", "{output:?}");
    Ok(())
}

async fn files(node: &Node) -> Result<()> {
    // Longer than several frames, with every byte.
    let content: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    node.write_file("/tmp/deep/er/file", &content, 0o640)
        .await?;
    ensure!(node.read_file("/tmp/deep/er/file").await? == content);
    let mode = node.sh("stat -c %a /tmp/deep/er/file").await?.ok()?;
    ensure!(mode.text() == "640", "{mode:?}");
    node.write_file("/tmp/deep/er/file", b"short", 0o640)
        .await?;
    ensure!(node.read_text("/tmp/deep/er/file").await? == "short");
    let error = node.read_file("/tmp/none").await;
    ensure!(format!("{error:?}").contains("/tmp/none"));
    Ok(())
}

async fn limits(node: &Node) -> Result<()> {
    let slow = program_of(&["sh", "-c", "echo begun; sleep 1000 & sleep 1000"]);
    let output = node.run(slow, Duration::from_millis(300)).await?;
    ensure!(
        output.exit.timed_out && output.text() == "begun",
        "{output:?}"
    );
    let left = node.sh("ps | grep -c '[s]leep 1000'; true").await?.ok()?;
    ensure!(left.text() == "0", "the group was not killed: {left:?}");
    let loud = Run {
        output_limit: Some(1000),
        ..program_of(&["sh", "-c", "seq 100000; exit 3"])
    };
    let output = node.run(loud, LIMIT).await?;
    ensure!(output.exit.truncated && output.stdout.len() == 1000);
    ensure!(output.exit.code == Some(3), "{:?}", output.exit);
    Ok(())
}

async fn side_by_side(node: &Node) -> Result<()> {
    node.sh("mkfifo /tmp/fifo || busybox mkfifo /tmp/fifo")
        .await?
        .ok()?;
    // Each waits for the other: run one after the other they would never end.
    let (reader, writer) = tokio::join!(
        node.sh("cat /tmp/fifo"),
        node.sh("echo through > /tmp/fifo")
    );
    writer?.ok()?;
    ensure!(reader?.ok()?.text() == "through");
    Ok(())
}

async fn conversation(node: &Node) -> Result<()> {
    let program = Run {
        is_fed: true,
        ..program_of(&[
            "sh",
            "-c",
            "while read -r line; do echo \"got $line\"; done; exit 4",
        ])
    };
    let running = node.spawn("echo", program)?;
    for word in ["one", "two", "one"] {
        let answer = format!("got {word}");
        running.ask(word, LIMIT, |line| line == answer).await?;
    }
    ensure!(running.lines() == ["got one", "got two", "got one"]);
    running.end_input().await?;
    ensure!(running.wait(LIMIT).await?.code == Some(4));
    Ok(())
}

async fn background(node: &Node) -> Result<()> {
    let script = "trap 'echo bye; exit 5' TERM; echo one; echo two >&2; \
        while :; do sleep 0.1; done";
    let running = node.spawn_argv("waiter", &["sh", "-c", script])?;
    running.wait_for_line(LIMIT, |line| line == "one").await?;
    running.wait_for_line(LIMIT, |line| line == "two").await?;
    ensure!(running.end().is_none(), "it should run");
    let exit = running.stop(LIMIT).await?;
    ensure!(exit.code == Some(5), "{exit:?}");
    ensure!(running.lines().contains(&"bye".to_owned()));
    let again = running.kill(Signal::SIGTERM as i32).await;
    ensure!(again.is_err(), "a signal to what has ended is an error");
    Ok(())
}
