// SPDX-License-Identifier: GPL-2.0-only
//! A program writes to the lock manager's devices everything that is wrong, and the lock manager
//! goes on.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;

use crate::node::program_of;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::scenarios::lock_client::Client;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::Module;
use crate::stack::Stack;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "devices",
    about: "writes of every wrong size and content to the devices harm nobody",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(240),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

/// More than ten thousand checks, under emulation.
const FUZZ_LIMIT: Duration = Duration::from_secs(150);

async fn run(ctx: Ctx) -> Result<()> {
    let cluster = ctx
        .boot(&ClusterSpec::new(ctx.kind(), 1).with_image())
        .await?;
    let stack = Stack::new(&cluster, |_| Module::Ours);
    stack.start().await?;
    let node = cluster.node(1);
    let client = Client::start(node)?;
    client.create("abuse").await?;
    let fuzz = program_of(&["/opt/conclave/clients/devfuzz", "abuse"]);
    let output = ctx.timed("fuzz", node.run(fuzz, FUZZ_LIMIT)).await?.ok()?;
    let last = output.text();
    ensure!(last.ends_with(" passed, 0 failed"), "{last}");
    client.say("lock a door EX").await?;
    client.expect("ast a status=0 mode=EX").await?;
    client.release("abuse").await?;
    stack.stop().await
}
