// SPDX-License-Identifier: GPL-2.0-only
//! Our units under a real systemd, on the distribution's kernel: booted enabled, killed, hung,
//! stopped and started, with and without a lockspace.
//!
//! Rules: no node is reset but the one whose manual page says so, a stop ends in a clean leave or
//! in a refusal that names what is in use, and a daemon that hangs is found by its unit's watchdog.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use guest_init::handover;

use super::lock_client::Client;
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

pub(super) const SCENARIO: Scenario = Scenario {
    name: "systemd",
    about: "our units boot, stop, die and hang under systemd; nobody is reset who need not be",
    rungs: &[Kind::Qemu],
    limit: Duration::from_secs(420),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

/// The units, in the order in which they start, as they are in the tree.
const UNITS: [(&str, &str); 3] = [
    (
        "cmand",
        include_str!("../../../cmand/systemd/cmand.service"),
    ),
    (
        "fenced",
        include_str!("../../../fenced/systemd/fenced.service"),
    ),
    (
        "dlm_controld",
        include_str!("../../../dlm_controld/systemd/dlm_controld.service"),
    ),
];

/// Where the distribution's packages would have them.
const UNIT_DIR: &str = "/usr/lib/systemd/system";

/// What of the distribution is pulled in and has nothing to do with us: an emulated machine takes
/// minutes for it. The journal stays, by its sockets.
const PRUNE: &str = "cd /usr/lib/systemd/system
    rm -rf /etc/systemd/system/*.wants sysinit.target.wants local-fs.target.wants
    rm -rf multi-user.target.wants timers.target.wants
    for wanted in sockets.target.wants/*; do
        case $wanted in (*journald*) ;; (*) rm $wanted ;; esac
    done";

/// A node whose daemon hangs with a lockspace.
const VICTIM: u32 = 3;

async fn run(ctx: Ctx) -> Result<()> {
    let mut spec = ClusterSpec::new(ctx.kind(), 3);
    // Networkd and its like are not here: nothing would ever say that the network is online.
    spec.append = "node.init=systemd systemd.unit=multi-user.target".to_owned();
    let cluster = ctx.boot(&spec).await?;
    let stack = Stack::new(&cluster, |_| Module::Ours);
    ctx.timed("units", boot_all(&cluster, &stack)).await?;
    ctx.timed("kill", kill_each(&cluster, &stack)).await?;
    ctx.timed("stop", stop(&cluster, &stack)).await?;
    let clients = ctx.timed("join", join_all(&cluster)).await?;
    ctx.timed("refuse", refuse(&cluster, &stack)).await?;
    clients[0].release("web").await?;
    ctx.timed("end", end_refused(&cluster, &stack)).await?;
    ctx.timed("hang", hang(&cluster, &stack)).await
}

async fn sh(node: &Node, script: &str) -> Result<String> {
    let output = node.sh(script).await?.ok();
    let output = output.with_context(|| format!("{}: {script}", node.name()))?;
    Ok(output.text())
}

/// Puts our units on a node as a package would, enables them, and lets systemd be PID 1.
async fn begin(node: &Node, stack: &Stack) -> Result<()> {
    stack.prepare(node.id()).await?;
    for (name, text) in UNITS {
        let path = format!("{UNIT_DIR}/{name}.service");
        node.write_file(&path, text.as_bytes(), 0o644).await?;
    }
    let names = UNITS.map(|(name, _)| name).join(" ");
    let script = format!(
        "set -e; echo {:032x} >/etc/machine-id; echo {} >/etc/hostname; ln -sf {BIN}/* /usr/sbin/
         {PRUNE}
         systemctl --root=/ enable --quiet {names}
         touch {}",
        node.id(),
        node.name(),
        handover::GO
    );
    sh(node, &script).await.map(drop)
}

async fn boot_all(cluster: &Cluster, stack: &Stack) -> Result<()> {
    for node in cluster.nodes() {
        begin(node, stack).await?;
    }
    for node in cluster.nodes() {
        stack
            .wait_for_view(node.id(), &[1, 2, 3], STEP_LIMIT)
            .await?;
        are_active(node).await?;
    }
    // By the name that the distribution's mounts and units use.
    let node = cluster.node(1);
    let id = sh(node, "systemctl show -P Id dlm.service").await?;
    ensure!(id == "dlm_controld.service", "dlm.service is {id}");
    let before = sh(node, "systemctl show -P Before dlm_controld").await?;
    ensure!(before.contains("remote-fs-pre.target"), "before: {before}");
    Ok(())
}

/// Waits until all units of a node are active.
async fn are_active(node: &Node) -> Result<()> {
    let names = UNITS.map(|(name, _)| name).join(" ");
    let active = format!("test \"$(systemctl is-active {names} | sort -u)\" = active");
    let waited = node.wait_for_sh(&active, STEP_LIMIT).await;
    let Err(error) = waited else {
        return Ok(());
    };
    let log = node
        .sh("journalctl -b --no-pager -n 80; systemctl --failed --no-pager")
        .await?;
    Err(error.context(format!("{}: {}", node.name(), log.text())))
}

async fn journal_has(node: &Node, unit: &str, text: &str) -> Result<()> {
    let look = format!("journalctl -b --no-pager -u {unit} | grep -q '{text}'");
    let found = node.wait_for_sh(&look, STEP_LIMIT).await;
    let found = found.map(drop);
    found.with_context(|| format!("{}: {unit} does not say {text:?}", node.name()))
}

fn resets(cluster: &Cluster) -> usize {
    let events = cluster.power_log().events();
    events
        .iter()
        .filter(|event| event.request.action == Action::Reboot)
        .count()
}

/// Without a lockspace fenced and dlm_controld come back when they are killed; their node stays.
/// cmand that is killed is a failure of its node, which is reset; other scenarios have that.
async fn kill_each(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let node = cluster.node(2);
    for name in ["dlm_controld", "fenced"] {
        let before = sh(node, &format!("systemctl show -P MainPID {name}")).await?;
        sh(node, &format!("systemctl kill -s KILL {name}")).await?;
        let again =
            format!("now=$(systemctl show -P MainPID {name}); test $now != 0 -a $now != {before}");
        node.wait_for_sh(&again, STEP_LIMIT).await?;
        are_active(node).await?;
        stack
            .wait_for_view(node.id(), &[1, 2, 3], STEP_LIMIT)
            .await?;
        stack.wait_for_no_victims(1).await?;
    }
    ensure!(resets(cluster) == 0, "{:?}", cluster.power_log().events());
    Ok(())
}

/// A lockspace in use on all nodes.
async fn join_all(cluster: &Cluster) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        let client = Client::start(node)?;
        client.create("web").await?;
        clients.push(client);
    }
    Ok(clients)
}

/// A stop of everything with the lockspace in use: each daemon says why it stays, and works on.
async fn refuse(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let node = cluster.node(1);
    for (name, _) in UNITS {
        let drop_in = format!("/run/systemd/system/{name}.service.d/stop.conf");
        sh(node, &format!("mkdir -p $(dirname {drop_in})")).await?;
        node.write_file(&drop_in, b"[Service]\nTimeoutStopSec=3\n", 0o644)
            .await?;
    }
    sh(node, "systemctl daemon-reload; systemctl stop cmand").await?;
    journal_has(node, "dlm_controld", "lockspaces=web").await?;
    journal_has(node, "fenced", "but watching a client").await?;
    journal_has(node, "cmand", "client=dlm_controld").await?;
    stack
        .wait_for_view(node.id(), &[1, 2, 3], STEP_LIMIT)
        .await?;
    let web = json(node, "dlm_tool ls web --json").await?;
    ensure!(web[0]["stopped"] == false, "{web}");
    ensure!(resets(cluster) == 0, "{:?}", cluster.power_log().events());
    Ok(())
}

/// What refused to stop works on without its unit. With nothing in use any more it leaves when it
/// is told to once more, and the unit can start again.
async fn end_refused(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let node = cluster.node(1);
    let names = ["dlm_controld", "fenced", "cmand"];
    for name in names {
        let script = format!("kill -TERM $(pidof {name}); while pidof {name}; do sleep 0.1; done");
        sh(node, &script).await?;
    }
    stack.wait_for_view(2, &[2, 3], STEP_LIMIT).await?;
    sh(node, &format!("systemctl start {}", names.join(" "))).await?;
    are_active(node).await?;
    stack.wait_for_view(2, &[1, 2, 3], STEP_LIMIT).await?;
    ensure!(resets(cluster) == 0, "{:?}", cluster.power_log().events());
    Ok(())
}

/// Without a lockspace a node leaves cleanly, and comes back.
async fn stop(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let node = cluster.node(2);
    sh(node, "systemctl stop cmand").await?;
    stack.wait_for_view(1, &[1, 3], STEP_LIMIT).await?;
    stack.wait_for_no_victims(1).await?;
    sh(node, "systemctl start cmand fenced dlm_controld").await?;
    are_active(node).await?;
    stack.wait_for_view(1, &[1, 2, 3], STEP_LIMIT).await?;
    ensure!(resets(cluster) == 0, "{:?}", cluster.power_log().events());
    Ok(())
}

/// A daemon that hangs is killed by its watchdog, and with a lockspace its node is reset, once; the
/// others go on.
async fn hang(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let node = cluster.node(VICTIM);
    sh(node, "systemctl kill -s STOP dlm_controld").await?;
    stack
        .wait("a reset of the node that hangs", STEP_LIMIT, || async {
            Ok(resets(cluster) == 1)
        })
        .await?;
    for id in [1, 2] {
        stack.wait_for_view(id, &[1, 2], STEP_LIMIT).await?;
        stack.wait_for_no_victims(id).await?;
    }
    stack
        .wait("the lockspace of the others", STEP_LIMIT, || async {
            let web = json(cluster.node(2), "dlm_tool ls web --json").await?;
            let members = &web[0]["change"]["members"];
            Ok(*members == serde_json::json!([2]) && web[0]["stopped"] == false)
        })
        .await?;
    ensure!(resets(cluster) == 1, "{:?}", cluster.power_log().events());
    Ok(())
}
