// SPDX-License-Identifier: GPL-2.0-only
//! dlm_controld is killed on a node that is in a lockspace: the node is alive and quorate, its
//! lockspace can never go on, so it must be fenced before the others recover. And what leads
//! there: lockspaces joined and left by `dlm_tool`, a daemon that stays while there are some.
//!
//! The same on both modules: who decides is the daemon. At the end the last daemon of the cluster
//! is killed.

use std::time::Duration;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use nix::sys::signal::Signal;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::power::Action;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::BIN;
use crate::stack::Module;
use crate::stack::STEP_LIMIT;
use crate::stack::Stack;
use crate::stack::json;

pub(super) const OURS: Scenario = Scenario {
    name: "daemon-death",
    about: "a node whose dlm_controld dies with a lockspace is fenced, the others recover",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(240),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx, Module::Ours)),
};

pub(super) const INTREE: Scenario = Scenario {
    name: "daemon-death-intree",
    about: "the same on the distribution's dlm.ko, by configfs",
    rungs: &[Kind::Qemu],
    limit: Duration::from_secs(240),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx, Module::InTree)),
};

/// The node whose daemon dies.
const VICTIM: u32 = 3;

async fn run(ctx: Ctx, module: Module) -> Result<()> {
    let cluster = ctx
        .boot(&ClusterSpec::new(ctx.kind(), 3).with_image())
        .await?;
    let stack = Stack::new(&cluster, |_| module);
    ctx.timed("view", stack.start()).await?;
    ctx.timed("join", join_all(&cluster)).await?;
    stays(&cluster, &stack).await?;
    ctx.timed("recovered", die(&cluster, &stack)).await?;
    ctx.timed("return", come_back(&cluster, &stack)).await?;
    ctx.timed("leave", leave_all(&cluster)).await?;
    ctx.timed("alone", die_alone(&cluster, &stack)).await?;
    ctx.phase("silence", stack.longest_silence().await?);
    stack.stop().await
}

async fn tool(node: &Node, arguments: &str) -> Result<String> {
    let program = crate::node::program_of(&["sh", "-c", &format!("{BIN}/dlm_tool {arguments}")]);
    let output = node.run(program, STEP_LIMIT).await?.ok()?;
    Ok(output.text())
}

async fn join(node: &Node) -> Result<()> {
    let said = tool(node, "join web -m 0640").await?;
    ensure!(
        said == "Joining lockspace \"web\" permission 640\ndone",
        "{}: {said:?}",
        node.name()
    );
    let mode = node.sh("stat -c %a /dev/dlm_web").await?.ok()?.text();
    ensure!(mode == "640", "{}: mode {mode}", node.name());
    Ok(())
}

async fn join_all(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        join(node).await?;
    }
    for node in cluster.nodes() {
        wait_for_members(node, &[1, 2, 3]).await?;
        let locks = json(node, "dlm_tool lockdump web --json").await?;
        ensure!(locks.as_array().is_some_and(Vec::is_empty), "{locks}");
    }
    Ok(())
}

/// Waits until the lockspace runs on a node with exactly these members.
async fn wait_for_members(node: &Node, members: &[u64]) -> Result<()> {
    let start = Instant::now();
    loop {
        let all = json(node, "dlm_tool ls web --json").await?;
        let web = &all[0];
        let now: Vec<u64> = web["change"]["members"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(serde_json::Value::as_u64)
            .collect();
        let is_running = web["stopped"] == false && web["new_change"].is_null();
        if is_running && now == members {
            return Ok(());
        }
        if start.elapsed() >= STEP_LIMIT {
            bail!("{} without {members:?} in time: {web}", node.name());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Told to end, the daemon stays, because its lockspace could not go on without it.
async fn stays(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let daemon = stack.daemons(1)?.dlm_controld;
    let since = daemon.position();
    daemon.kill(Signal::SIGTERM as i32).await?;
    let refuses = |line: &str| line.contains("there are lockspaces; staying");
    daemon
        .wait_for_line_after(since, STEP_LIMIT, refuses)
        .await?;
    let status = json(cluster.node(1), "dlm_tool status --json").await?;
    ensure!(status["lockspaces"] == 1, "{status}");
    Ok(())
}

/// The daemon of one node is killed. The node is fenced, and only then the others go on.
async fn die(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let survivor = stack.daemons(1)?.dlm_controld;
    let since = survivor.position();
    let victim = stack.daemons(VICTIM)?.dlm_controld;
    victim.kill(Signal::SIGKILL as i32).await?;
    let waits = |line: &str| line.contains("waiting") && line.contains("fencing of 3");
    survivor
        .wait_for_line_after(since, STEP_LIMIT, waits)
        .await?;
    let starts = |line: &str| line.contains("starting") && line.contains("failed=3");
    survivor
        .wait_for_line_after(since, STEP_LIMIT, starts)
        .await?;
    let events = cluster.power_log().events();
    ensure!(
        resets_of_victim(cluster) == 1,
        "recovered without exactly one reset of n3: {events:?}"
    );
    for id in [1, 2] {
        wait_for_members(cluster.node(id), &[1, 2]).await?;
    }
    Ok(())
}

fn resets_of_victim(cluster: &Cluster) -> usize {
    let events = cluster.power_log().events();
    let resets = events
        .iter()
        .filter(|event| event.request.action == Action::Reboot && event.reply.ok)
        .filter(|event| event.request.plug.as_deref() == Some("n3"));
    resets.count()
}

/// The last daemon of the cluster is killed: no other one notices, and whoever starts one later
/// would know nothing of what this node holds. Its own fenced has it fenced.
async fn die_alone(cluster: &Cluster, stack: &Stack) -> Result<()> {
    for id in [1, 2] {
        stack.daemons(id)?.dlm_controld.stop(STEP_LIMIT).await?;
    }
    join(cluster.node(VICTIM)).await?;
    let before = resets_of_victim(cluster);
    let fenced = stack.daemons(1)?.fenced;
    let since = fenced.position();
    let last = stack.daemons(VICTIM)?.dlm_controld;
    last.kill(Signal::SIGKILL as i32).await?;
    let cleared = |line: &str| line.contains("fenced node=3") && line.contains("how=agent");
    fenced
        .wait_for_line_after(since, STEP_LIMIT, cleared)
        .await?;
    ensure!(
        resets_of_victim(cluster) == before + 1,
        "not reset once more: {:?}",
        cluster.power_log().events()
    );
    cluster.node(VICTIM).wait_until_up().await?;
    stack.start_on(VICTIM).await?;
    for id in [1, 2] {
        stack.start_dlm_controld(id).await?;
    }
    stack.wait_for_view(1, &[1, 2, 3], STEP_LIMIT).await
}

async fn come_back(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let node = cluster.node(VICTIM);
    node.wait_until_up().await?;
    stack.start_on(VICTIM).await?;
    join(node).await?;
    for node in cluster.nodes() {
        wait_for_members(node, &[1, 2, 3]).await?;
    }
    Ok(())
}

async fn leave_all(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        tool(node, "leave web").await?;
        let gone = node.sh(&format!("{BIN}/dlm_tool ls web")).await?;
        ensure!(gone.exit.code == Some(2), "{}: {gone:?}", node.name());
    }
    Ok(())
}
