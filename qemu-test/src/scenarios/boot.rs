// SPDX-License-Identifier: GPL-2.0-only
//! Three nodes boot, reach each other, lose and regain links and power.

use std::time::Duration;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "boot",
    about: "three nodes boot, reach each other, lose and regain links and power",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(400),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

/// How long a path that is open may need: address resolution on a busy host.
const REACH_LIMIT: Duration = Duration::from_secs(30);

async fn run(ctx: Ctx) -> Result<()> {
    let cluster = ctx.boot(&ClusterSpec::new(ctx.kind(), 3)).await?;
    ctx.timed("ping", all_reach_all(&cluster)).await?;
    ctx.timed("cut", cut_and_heal(&cluster)).await?;
    ctx.timed("pause", pause_and_resume(&cluster)).await?;
    ctx.timed("off", off_and_on(&cluster)).await?;
    ctx.timed("reset", reset(&cluster)).await
}

async fn all_reach_all(cluster: &Cluster) -> Result<()> {
    for from in cluster.nodes() {
        for to in cluster.nodes() {
            reaches(from, to).await?;
        }
    }
    Ok(())
}

async fn cut_and_heal(cluster: &Cluster) -> Result<()> {
    let [n1, n2, n3] = [1, 2, 3].map(|id| cluster.node(id));
    cluster.switch().cut(1, 2);
    does_not_reach(n1, n2).await?;
    reaches(n1, n3).await?;
    reaches(n2, n3).await?;
    cluster.switch().heal(1, 2);
    reaches(n1, n2).await?;
    n3.isolate();
    does_not_reach(n3, n1).await?;
    does_not_reach(n2, n3).await?;
    n3.rejoin();
    all_reach_all(cluster).await
}

async fn pause_and_resume(cluster: &Cluster) -> Result<()> {
    let [n1, n2] = [1, 2].map(|id| cluster.node(id));
    n2.pause().await?;
    does_not_reach(n1, n2).await?;
    n2.resume().await?;
    reaches(n1, n2).await
}

async fn off_and_on(cluster: &Cluster) -> Result<()> {
    let [n1, n2] = [1, 2].map(|id| cluster.node(id));
    n2.write_file("/root/mark", b"first boot", 0o600).await?;
    n2.power_off().await?;
    ensure!(!n2.is_on().await, "n2 is on after power-off");
    if n2.exec(&["true"]).await.is_ok() {
        bail!("n2 runs programs after power-off");
    }
    does_not_reach(n1, n2).await?;
    n2.power_on().await?;
    n2.wait_until_up().await?;
    ensure!(
        n2.read_file("/root/mark").await.is_err(),
        "n2 still has a file of its earlier boot"
    );
    reaches(n1, n2).await
}

async fn reset(cluster: &Cluster) -> Result<()> {
    let [n1, n2] = [1, 2].map(|id| cluster.node(id));
    let before = n2.wait_until_up().await?.id;
    n2.reset().await?;
    let after = n2.wait_until_up().await?.id;
    ensure!(before != after, "n2 has the same boot id after a reset");
    reaches(n1, n2).await
}

/// One packet, one second: fails when the path is cut.
fn ping(to: &Node) -> String {
    format!("ping -c 1 -W 1 {}", to.address())
}

async fn reaches(from: &Node, to: &Node) -> Result<()> {
    from.wait_for_sh(&ping(to), REACH_LIMIT).await.map(drop)
}

async fn does_not_reach(from: &Node, to: &Node) -> Result<()> {
    let output = from.sh(&ping(to)).await?;
    ensure!(
        output.exit.code == Some(1),
        "{} should not reach {}: {output:?}",
        from.name(),
        to.name()
    );
    Ok(())
}
