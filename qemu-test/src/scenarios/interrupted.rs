// SPDX-License-Identifier: GPL-2.0-only
//! Joins and leaves of a lockspace that are broken off while the cluster cannot agree: by SIGINT,
//! by the time limit of the tool, one behind the other. Quorum comes back, and nothing of them is
//! left: no daemon has ended, nobody is reset, the next join and leave work.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;

use crate::cluster::Cluster;
use crate::node::Output;
use crate::node::program_of;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::BIN;
use crate::stack::Module;
use crate::stack::STEP_LIMIT;
use crate::stack::Stack;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "interrupted",
    about: "joins and leaves broken off without quorum leave nothing behind",
    rungs: &[Kind::Uml],
    limit: Duration::from_secs(180),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx)),
};

/// What `timeout` ends with when the time is over.
const TIMED_OUT: i32 = 124;

async fn run(ctx: Ctx) -> Result<()> {
    let spec = ClusterSpec::new(ctx.kind(), 3).with_image();
    let cluster = ctx.boot(&spec).await?;
    let stack = Stack::new(&cluster, |_| Module::Ours);
    ctx.timed("view", stack.start()).await?;

    ctx.timed("join", async {
        pause(&cluster, &stack, true).await?;
        let asked = tool(&cluster, "timeout -s INT 2", "join beta").await?;
        ensure!(asked.exit.code == Some(TIMED_OUT), "{asked:?}");
        pause(&cluster, &stack, false).await?;
        works(&cluster, "join").await
    })
    .await?;

    ctx.timed("leave", async {
        pause(&cluster, &stack, true).await?;
        let asked = tool(&cluster, "timeout -s INT 2", "leave beta").await?;
        ensure!(asked.exit.code == Some(TIMED_OUT), "{asked:?}");
        let asked = tool(&cluster, "", "join beta --timeout 2").await?;
        ensure!(asked.exit.code == Some(1), "{asked:?}");
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        ensure!(
            said.contains("not within 2 s (wait group); given up"),
            "{said}"
        );
        pause(&cluster, &stack, false).await?;
        works(&cluster, "join").await?;
        works(&cluster, "leave").await
    })
    .await?;

    let gone = tool(&cluster, "", "ls beta").await?;
    ensure!(gone.exit.code == Some(2), "{gone:?}");
    let events = cluster.power_log().events();
    ensure!(events.is_empty(), "{events:?}");
    stack.stop().await
}

async fn tool(cluster: &Cluster, before: &str, arguments: &str) -> Result<Output> {
    let script = format!("{before} {BIN}/dlm_tool {arguments}");
    let program = program_of(&["sh", "-c", &script]);
    cluster.node(1).run(program, STEP_LIMIT).await
}

async fn works(cluster: &Cluster, verb: &str) -> Result<()> {
    let done = tool(cluster, "", &format!("{verb} beta")).await?;
    done.ok().map(drop)
}

/// Takes the quorum from node 1, or gives it back: nobody goes on without it, so the view stays.
async fn pause(cluster: &Cluster, stack: &Stack, is_paused: bool) -> Result<()> {
    for id in [2, 3] {
        let node = cluster.node(id);
        match is_paused {
            true => node.pause().await?,
            false => node.resume().await?,
        }
    }
    stack.wait_for_quorate(1, !is_paused).await.map(drop)
}
