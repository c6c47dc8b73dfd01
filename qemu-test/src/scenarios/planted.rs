// SPDX-License-Identifier: GPL-2.0-only
//! The watchdog barks: a scenario whose kernel log says that something is wrong fails at once.
//!
//! One report is only text; the others come from a module that breaks a rule of locking, so they
//! also prove that the kernel of these nodes checks the rules.

use std::time::Duration;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

pub(super) const REPORT: Scenario = Scenario {
    name: "planted-bug",
    about: "a kernel log with a planted report ends the scenario at once",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(240),
    expect: Expect::Alarm("planted by the scenario"),
    run: |ctx| Box::pin(plant_report(ctx)),
};

pub(super) const LOCK_ORDER: Scenario = Scenario {
    name: "planted-order",
    about: "a module that takes two mutexes in both orders is found out",
    rungs: &[Kind::Uml],
    limit: Duration::from_secs(240),
    expect: Expect::Alarm("possible circular locking dependency"),
    run: |ctx| Box::pin(plant_fault(ctx, 1)),
};

pub(super) const SLEEP: Scenario = Scenario {
    name: "planted-sleep",
    about: "a module that may sleep under a spinlock is found out",
    rungs: &[Kind::Uml],
    limit: Duration::from_secs(240),
    expect: Expect::Alarm("sleeping function called from invalid context"),
    run: |ctx| Box::pin(plant_fault(ctx, 2)),
};

/// Far beyond what the alarm needs to end this.
const PATIENCE: Duration = Duration::from_secs(60);

async fn plant_report(ctx: Ctx) -> Result<()> {
    let cluster = ctx.boot(&ClusterSpec::new(ctx.kind(), 1)).await?;
    let report = "echo '<1>BUG: planted by the scenario' > /dev/kmsg";
    cluster.node(1).sh(report).await?.ok()?;
    wait_for_alarm().await
}

async fn plant_fault(ctx: Ctx, fault: u8) -> Result<()> {
    let module = ctx.host().assets.uml_planted_module()?;
    let spec = ClusterSpec::new(ctx.kind(), 1).with_file(module, "/planted.ko");
    let cluster = ctx.boot(&spec).await?;
    let node = cluster.node(1);
    // Without a fault nothing is said.
    node.sh("insmod /planted.ko && rmmod planted").await?.ok()?;
    ensure!(ctx.watchdog().alarm().is_none(), "an alarm without a fault");
    node.sh(&format!("insmod /planted.ko fault={fault}"))
        .await?
        .ok()?;
    wait_for_alarm().await
}

async fn wait_for_alarm() -> Result<()> {
    tokio::time::sleep(PATIENCE).await;
    bail!("the scenario went on for {PATIENCE:?}")
}
