// SPDX-License-Identifier: GPL-2.0-only
//! The switch carries bulk traffic, and TCP gets through a slow and lossy link.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::node::program_of;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::switch::Link;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "network",
    about: "bulk traffic through the switch, and TCP over a slow and lossy link",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(400),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

const TRANSFER_LIMIT: Duration = Duration::from_secs(120);

/// A lock manager's traffic is far below this even under emulation; less means a broken switch.
const RATE_MIN_MIB: f64 = 1.0;

const DELAY: Duration = Duration::from_millis(5);
const LOSS_PER_MILLE: u32 = 20;

async fn run(ctx: Ctx) -> Result<()> {
    let cluster = ctx.boot(&ClusterSpec::new(ctx.kind(), 2)).await?;
    let busybox = ctx.host().assets.busybox()?;
    let program = std::fs::read(&busybox).with_context(|| format!("{}", busybox.display()))?;
    for node in cluster.nodes() {
        node.write_file("/tmp/busybox", &program, 0o755).await?;
    }
    let mib = match ctx.kind() {
        Kind::Uml => 8,
        Kind::Qemu => 16,
    };
    let rate = ctx.timed("bulk", transfer(&cluster, mib)).await?;
    ensure!(rate >= RATE_MIN_MIB, "{rate:.1} MiB/s");
    for (from, to) in [(1, 2), (2, 1)] {
        let link = Link {
            delay: DELAY,
            loss_per_mille: LOSS_PER_MILLE,
            ..Link::default()
        };
        cluster.switch().set_link(from, to, link);
    }
    ctx.timed("lossy", transfer(&cluster, 1)).await?;
    ensure!(cluster.switch().counters().lost > 0, "no frame was lost");
    Ok(())
}

/// Sends so much from n1 to n2 and returns the rate in MiB/s.
async fn transfer(cluster: &Cluster, mib: u32) -> Result<f64> {
    let [n1, n2] = [1, 2].map(|id| cluster.node(id));
    let fill = format!("dd if=/dev/urandom of=/tmp/data bs=1M count={mib} 2>/dev/null");
    n1.sh(&fill).await?.ok()?;
    // Its input never ends: it would close its side, and the sender stop at once.
    let listen = "rm -f /tmp/got /tmp/silence; /tmp/busybox mkfifo /tmp/silence; \
        exec /tmp/busybox nc -l -p 5001 <>/tmp/silence >/tmp/got";
    let server = n2.spawn_argv("listen", &["sh", "-c", listen])?;
    // Port 5001 is 0x1389; state 0A is listening.
    n2.wait_for_sh("grep -q ':1389 .* 0A ' /proc/net/tcp*", TRANSFER_LIMIT)
        .await?;
    let send = format!("/tmp/busybox nc {} 5001 < /tmp/data", n2.address());
    let start = Instant::now();
    let client = program_of(&["sh", "-c", &send]);
    n1.run(client, TRANSFER_LIMIT).await?.ok()?;
    let exit = server.wait(TRANSFER_LIMIT).await?;
    ensure!(exit.code == Some(0), "{exit:?}");
    let rate = f64::from(mib) / start.elapsed().as_secs_f64();
    let sent = n1.sh("/tmp/busybox md5sum < /tmp/data").await?.ok()?;
    let got = n2.sh("/tmp/busybox md5sum < /tmp/got").await?.ok()?;
    ensure!(
        sent.text() == got.text(),
        "{} became {}",
        sent.text(),
        got.text()
    );
    Ok(rate)
}
