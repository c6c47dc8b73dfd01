// SPDX-License-Identifier: GPL-2.0-only
//! A program on one node switches another one off, on, and resets it.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::power::Action;
use crate::power::PowerState;
use crate::power::Reply;
use crate::power::Request;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "power",
    about: "a program on one node switches another one off, on, and resets it",
    rungs: &[Kind::Qemu],
    limit: Duration::from_secs(300),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

async fn run(ctx: Ctx) -> Result<()> {
    let cluster = ctx.boot(&ClusterSpec::new(ctx.kind(), 2)).await?;
    let [n1, n2] = [1, 2].map(|id| cluster.node(id));
    let reply = ask(n1, 1, Action::List, None).await?;
    ensure!(reply.plugs == Some(vec!["n1".into(), "n2".into()]));
    ensure!(status(n1, 2).await? == PowerState::On);
    ctx.timed("reboot", reboot(n1, n2)).await?;
    ctx.timed("hung", reboot_paused(n1, n2)).await?;
    ctx.timed("off", off_and_on(n1, n2)).await?;
    let refused = ask(n1, 6, Action::Off, Some("n9")).await?;
    ensure!(refused.error.is_some_and(|error| error.contains("n9")));
    check_log(&cluster)
}

async fn reboot(n1: &Node, n2: &Node) -> Result<()> {
    let before = n2.wait_until_up().await?.id;
    let reply = ask(n1, 3, Action::Reboot, Some("n2")).await?;
    ensure!(reply.ok, "{reply:?}");
    let after = n2.wait_until_up().await?.id;
    ensure!(before != after, "n2 was not reset");
    Ok(())
}

/// A node that does not run at all can be reset, and runs afterwards.
async fn reboot_paused(n1: &Node, n2: &Node) -> Result<()> {
    n2.pause().await?;
    let reply = ask(n1, 7, Action::Reboot, Some("n2")).await?;
    ensure!(reply.ok, "{reply:?}");
    n2.wait_until_up().await?;
    Ok(())
}

async fn off_and_on(n1: &Node, n2: &Node) -> Result<()> {
    let reply = ask(n1, 4, Action::Off, Some("n2")).await?;
    ensure!(reply.ok, "{reply:?}");
    ensure!(!n2.is_on().await, "n2 is on though the switch said ok");
    ensure!(status(n1, 8).await? == PowerState::Off);
    let reply = ask(n1, 5, Action::On, Some("n2")).await?;
    ensure!(reply.ok, "{reply:?}");
    n2.wait_until_up().await.map(drop)
}

fn check_log(cluster: &Cluster) -> Result<()> {
    let events = cluster.power_log().events();
    ensure!(events.iter().all(|event| event.by == "n1"), "{events:?}");
    let resets = events
        .iter()
        .filter(|event| event.request.action == Action::Reboot && event.reply.ok);
    ensure!(resets.count() == 2, "{events:?}");
    Ok(())
}

async fn status(from: &Node, id: u64) -> Result<PowerState> {
    let reply = ask(from, id, Action::Status, Some("n2")).await?;
    reply
        .state
        .with_context(|| format!("no state in {reply:?}"))
}

/// What a fence agent does, in shell.
async fn ask(from: &Node, id: u64, action: Action, plug: Option<&str>) -> Result<Reply> {
    let plug = plug.map(str::to_owned);
    let request = serde_json::to_string(&Request { id, action, plug })?;
    let script = format!(
        "exec 3<>/dev/virtio-ports/conclave.power; printf '\\n%s\\n' '{request}' >&3; \
         read -r reply <&3; printf '%s' \"$reply\""
    );
    let output = from.sh(&script).await?.ok()?;
    let reply: Reply = serde_json::from_str(&output.text())
        .with_context(|| format!("reply {:?}", output.text()))?;
    ensure!(reply.id == id, "{reply:?} answers another request");
    Ok(reply)
}
