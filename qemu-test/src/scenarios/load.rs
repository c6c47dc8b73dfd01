// SPDX-License-Identifier: GPL-2.0-only
//! Many threads on three nodes add to counters in value blocks: no update is lost. Then the same
//! while a node dies: the survivors' operations all end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::node::Running;
use crate::node::program_of;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::scenarios::lock_client::Client;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::Module;
use crate::stack::STEP_LIMIT;
use crate::stack::Stack;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "load",
    about: "threads on three nodes lose no update, and survive the death of a node",
    rungs: &[Kind::Uml],
    limit: Duration::from_secs(240),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

const DLMLOAD: &str = "/opt/conclave/clients/dlmload";

/// Threads per node, rounds per thread, names they share.
const LOAD: [&str; 3] = ["4", "100", "8"];

/// More than a load takes under lockdep on a busy host.
const LOAD_LIMIT: Duration = Duration::from_secs(100);

async fn run(ctx: Ctx) -> Result<()> {
    let cluster = ctx
        .boot(&ClusterSpec::new(ctx.kind(), 3).with_image())
        .await?;
    let stack = Stack::new(&cluster, |_| Module::Ours);
    stack.start().await?;
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        let client = Client::start(node)?;
        client.create("load").await?;
        clients.push(client);
    }
    ctx.timed("sum", no_update_is_lost(&cluster)).await?;
    for node in cluster.nodes() {
        rests(node).await?;
    }
    ctx.timed("death", a_node_dies(&cluster, &stack)).await
}

fn load(cluster: &Cluster, id: u32) -> Result<Running> {
    let [threads, rounds, names] = LOAD;
    let seed = id.to_string();
    let argv = [DLMLOAD, "load", threads, rounds, names, &seed];
    cluster.node(id).spawn("dlmload", program_of(&argv))
}

/// The number behind a word in what a load said.
fn count(lines: &[String], word: &str) -> Result<u64> {
    let words: Vec<&str> = lines
        .iter()
        .flat_map(|line| line.split_whitespace())
        .collect();
    let at = words.iter().position(|other| *other == word);
    let number = at.and_then(|at| words.get(at + 1));
    let number = number.with_context(|| format!("no {word:?} in {lines:?}"))?;
    number.parse().with_context(|| format!("{word} {number:?}"))
}

async fn no_update_is_lost(cluster: &Arc<Cluster>) -> Result<()> {
    // Keeps the value blocks while no load runs.
    let names = LOAD[2];
    let keeper = crate::node::program_of(&[DLMLOAD, "load", "0", "1", names]);
    let keeper = guest_init::protocol::Run {
        is_fed: true,
        ..keeper
    };
    let keeper = cluster.node(1).spawn("keeper", keeper)?;
    let mut added = 0;
    let loads = [load(cluster, 1)?, load(cluster, 2)?, load(cluster, 3)?];
    for running in &loads {
        let end = running.wait(LOAD_LIMIT).await?;
        ensure!(end.code == Some(0), "{end:?}: {:?}", running.lines());
        added += count(&running.lines(), "added")?;
    }
    let sum = cluster
        .node(2)
        .exec(&[DLMLOAD, "load", "0", "0", names])
        .await?
        .ok()?;
    let counters = count(&[sum.text()], "counters")?;
    keeper.end_input().await?;
    keeper.wait(STEP_LIMIT).await?;
    ensure!(
        added > 0 && counters == added,
        "{added} were added and {counters} are there"
    );
    Ok(())
}

/// While nothing is asked of a lockspace, its recovery thread sleeps, also where resources are
/// idle and will be freed at some later time.
async fn rests(node: &Node) -> Result<()> {
    const LOOKS: usize = 20;
    let script = format!(
        "for p in /proc/[0-9]*; do test \"$(cat $p/comm 2>/dev/null)\" = dlm_recoverd || continue; \
         for i in $(seq {LOOKS}); do cut -d' ' -f3 $p/stat; done; done"
    );
    let states = node.sh(&script).await?.ok()?.text();
    let looks = states.lines().count();
    let asleep = states.lines().filter(|state| *state == "S").count();
    ensure!(
        looks == LOOKS && asleep > LOOKS / 2,
        "{}: dlm_recoverd was asleep in {asleep} of {looks} looks",
        node.name()
    );
    Ok(())
}

async fn a_node_dies(cluster: &Arc<Cluster>, stack: &Stack) -> Result<()> {
    let fenced = stack.daemons(1)?.fenced;
    let since = fenced.position();
    let loads = [load(cluster, 1)?, load(cluster, 2)?];
    let _dies = load(cluster, 3)?;
    cluster.node(3).power_off().await?;
    let cleared = |line: &str| line.contains("fenced node=3") && line.contains("how=agent");
    fenced
        .wait_for_line_after(since, STEP_LIMIT, cleared)
        .await?;
    for running in &loads {
        let end = running.wait(LOAD_LIMIT).await?;
        ensure!(end.code == Some(0), "{end:?}: {:?}", running.lines());
    }
    Ok(())
}
