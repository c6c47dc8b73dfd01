// SPDX-License-Identifier: GPL-2.0-only
//! Our module comes and goes: its devices are where programs look for them, the distribution's
//! GFS2 finds all its symbols in it, and nothing is left behind.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;

use crate::node::Node;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::Module;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "module-load",
    about: "our dlm.ko loads, shows its devices, carries GFS2's symbols and unloads",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(240),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

const ROUNDS: u32 = 5;

/// Devices that exist from load to unload, and the modes udev gives them.
const DEVICES: [(&str, &str); 3] = [
    ("dlm-control", "666"),
    ("dlm-monitor", "666"),
    ("dlm_plock", "660"),
];

/// Where User Mode Linux nodes have a GFS2 to load.
const UML_GFS2: &str = "/opt/gfs2.ko";

/// A device's link is made by the node's init, a moment after the device.
const LINK_LIMIT: Duration = Duration::from_secs(20);

async fn run(ctx: Ctx) -> Result<()> {
    let mut spec = ClusterSpec::new(ctx.kind(), 1).with_image();
    let load_gfs2 = match ctx.kind() {
        Kind::Qemu => "modprobe gfs2".to_owned(),
        Kind::Uml => {
            spec = spec.with_file(ctx.host().assets.uml_gfs2()?, UML_GFS2);
            format!("insmod {UML_GFS2}")
        }
    };
    let cluster = ctx.boot(&spec).await?;
    let node = cluster.node(1);
    let load = Module::Ours.load(ctx.kind());
    for _ in 0..ROUNDS {
        node.sh(&load).await?.ok()?;
        check_devices(node).await?;
        node.sh(&load_gfs2).await?.ok()?;
        let used = node.sh("rmmod dlm").await?;
        ensure!(!used.is_ok(), "dlm was unloaded though GFS2 uses it");
        node.sh("rmmod gfs2 && rmmod dlm").await?.ok()?;
        check_nothing_left(node).await?;
    }
    Ok(())
}

async fn check_devices(node: &Node) -> Result<()> {
    for (name, mode) in DEVICES {
        let script = format!(
            "grep -qw {name} /proc/misc && test -c /dev/misc/{name} && \
             test $(stat -L -c %a /dev/misc/{name}) = {mode}"
        );
        node.wait_for_sh(&script, LINK_LIMIT).await?;
    }
    Ok(())
}

async fn check_nothing_left(node: &Node) -> Result<()> {
    let left = node
        .sh("grep dlm /proc/misc /proc/modules /proc/slabinfo; ls -d /sys/kernel/dlm; true")
        .await?
        .ok()?;
    ensure!(left.text().is_empty(), "left behind: {}", left.text());
    node.wait_for_sh("! ls /dev/misc/dlm*", LINK_LIMIT).await?;
    Ok(())
}
