// SPDX-License-Identifier: GPL-2.0-only
//! The agent `fence_vm` on a node really resets another one, by the protocol fenced uses.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use guest_init::protocol::Bytes;
use guest_init::protocol::Run;

use crate::node::Node;
use crate::node::Output;
use crate::node::program_of;
use crate::power::Action;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "fence-agent",
    about: "fence_vm on a node shows, switches and resets the others",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(300),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

const AGENT_LIMIT: Duration = Duration::from_secs(60);

/// The agent's exit status for a machine that is off.
const OFF: i32 = 2;

async fn run(ctx: Ctx) -> Result<()> {
    let cluster = ctx
        .boot(&ClusterSpec::new(ctx.kind(), 3).with_image())
        .await?;
    let [n1, n2, n3] = [1, 2, 3].map(|id| cluster.node(id));
    let list = agent(n1, "action=list\n").await?.ok()?;
    for name in ["n1", "n2", "n3"] {
        ensure!(list.text().contains(name), "{list:?}");
    }
    agent(n1, "action=status\nplug=n2\n").await?.ok()?;
    let before = [n2.wait_until_up().await?.id, n3.wait_until_up().await?.id];
    // Two victims at once: the agents take turns on the one port.
    let (second, third) = tokio::join!(
        agent(n1, "action=reboot\nplug=n2\n"),
        agent(n1, "action=reboot\nplug=n3\n")
    );
    second?.ok()?;
    third?.ok()?;
    let after = [n2.wait_until_up().await?.id, n3.wait_until_up().await?.id];
    ensure!(before[0] != after[0] && before[1] != after[1], "not reset");
    agent(n1, "action=off\nplug=n2\n").await?.ok()?;
    ensure!(!n2.is_on().await, "the agent said that n2 is off");
    let off = agent(n1, "action=status\nplug=n2\n").await?;
    ensure!(off.exit.code == Some(OFF), "{off:?}");
    agent(n1, "action=on\nplug=n2\n").await?.ok()?;
    n2.wait_until_up().await?;
    let unknown = agent(n1, "action=reboot\nplug=n9\n").await?;
    ensure!(unknown.exit.code == Some(1), "{unknown:?}");
    let resets = cluster.power_log().events();
    let resets = resets.iter().filter(|event| {
        event.by == "n1" && event.reply.ok && event.request.action == Action::Reboot
    });
    ensure!(resets.count() == 2, "the switch saw other resets");
    Ok(())
}

/// Runs the agent as fenced does: everything on standard input.
async fn agent(from: &Node, input: &str) -> Result<Output> {
    let program = Run {
        stdin: Some(Bytes(input.as_bytes().to_vec())),
        ..program_of(&["fence_vm"])
    };
    from.run(program, AGENT_LIMIT).await
}
