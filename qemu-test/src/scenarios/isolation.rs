// SPDX-License-Identifier: GPL-2.0-only
//! Two clusters side by side on one host do not see each other.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;

use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "isolation",
    about: "two clusters side by side do not see each other",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(300),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

/// An address that exists in both clusters.
const COMMON: &str = "192.0.2.2";

const REACH_LIMIT: Duration = Duration::from_secs(30);

async fn run(ctx: Ctx) -> Result<()> {
    let spec = ClusterSpec::new(ctx.kind(), 2);
    let (first, second) = tokio::try_join!(ctx.boot(&spec), ctx.boot(&spec))?;
    for cluster in [&first, &second] {
        let [n1, n2] = [1, 2].map(|id| cluster.node(id));
        n1.sh("ip addr add 192.0.2.1/24 dev $(ls /sys/class/net | grep -v lo | head -n 1)")
            .await?
            .ok()?;
        if std::sync::Arc::ptr_eq(cluster, &first) {
            // Only the first cluster has somebody at the common address.
            n2.sh("ip addr add 192.0.2.2/24 dev $(ls /sys/class/net | grep -v lo | head -n 1)")
                .await?
                .ok()?;
        }
    }
    let ping = format!("ping -c 1 -W 1 {COMMON}");
    first.node(1).wait_for_sh(&ping, REACH_LIMIT).await?;
    let foreign = second.node(1).sh(&ping).await?;
    ensure!(
        foreign.exit.code == Some(1),
        "the second cluster reaches the first: {foreign:?}"
    );
    first.node(2).power_off().await?;
    ensure!(second.node(2).is_on().await, "the wrong n2 was powered off");
    second.node(2).exec(&["true"]).await?.ok()?;
    Ok(())
}
