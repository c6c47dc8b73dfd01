// SPDX-License-Identifier: GPL-2.0-only
//! The story: a program linked to Debian's libdlm takes locks of our `dlm.ko` across three nodes;
//! one node dies, is fenced, its locks are recovered, and it comes back; then every node is alone.
//!
//! The demo runs this scenario with its words printed as things happen. Two more runs of it have
//! the distribution's `dlm.ko` on some of the nodes: the same story but for
//! its cut links, told over the wire to a lock manager that nobody here wrote.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::power::Action;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::scenarios::lock_client::Client;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::Module;
use crate::stack::STEP_LIMIT;
use crate::stack::Stack;

pub(super) const OURS: Scenario = Scenario {
    name: "main-job",
    about: "locks of our dlm.ko across three nodes survive the failure and return of a node",
    rungs: &[Kind::Qemu, Kind::Uml],
    limit: Duration::from_secs(300),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx, |_| Module::Ours)),
};

pub(super) const MIXED: Scenario = Scenario {
    name: "main-job-mixed",
    about: "the same with the stock dlm.ko on the node that fails: ours recovers from it",
    rungs: &[Kind::Qemu],
    limit: Duration::from_secs(300),
    expect: Expect::Success,
    run: |ctx| {
        Box::pin(run(ctx, |id| {
            if id == 2 {
                Module::InTree
            } else {
                Module::Ours
            }
        }))
    },
};

pub(super) const MIXED_INTREE: Scenario = Scenario {
    name: "main-job-mixed-intree",
    about: "the same with the stock dlm.ko on the nodes that stay: it recovers from ours",
    rungs: &[Kind::Qemu],
    limit: Duration::from_secs(300),
    expect: Expect::Success,
    run: |ctx| {
        Box::pin(run(ctx, |id| {
            if id == 2 {
                Module::Ours
            } else {
                Module::InTree
            }
        }))
    },
};

async fn run(ctx: Ctx, module: fn(u32) -> Module) -> Result<()> {
    let cluster = ctx
        .boot(&ClusterSpec::new(ctx.kind(), 3).with_image())
        .await?;
    ctx.tell("three machines are up, with Debian's stock kernel and our dlm.ko");
    let stack = Stack::new(&cluster, module);
    ctx.timed("view", stack.start()).await?;
    ctx.tell("n1, n2 and n3 have found each other and agree: 3 of 3 votes, quorate");
    let mut clients = join(&ctx, &cluster).await?;
    hand_over(&ctx, &clients).await?;
    quiet_value(&clients).await?;
    fail(&ctx, &cluster, &stack, &clients).await?;
    clients[1] = come_back(&ctx, &cluster, &stack).await?;
    if is_ours_everywhere(&cluster, module) {
        minority(&ctx, &cluster, &stack, &clients).await?;
    }
    if ctx.is_kept() {
        ctx.tell("the cluster is left at work");
        return Ok(());
    }
    for client in &clients {
        client.release("story").await?;
    }
    ctx.phase("silence", stack.longest_silence().await?);
    stack.stop().await?;
    ctx.tell("all programs and daemons have ended in good order; the module is unloaded");
    Ok(())
}

/// The in-tree module repeats what a broken connection has lost only when the connection breaks
/// with an error, and may lose the repetition too (`lowcomms_error_report` puts it on the broken
/// socket, `close_connection` drops it): cut links are for clusters of ours alone.
fn is_ours_everywhere(cluster: &Cluster, module: fn(u32) -> Module) -> bool {
    let mut ids = cluster.nodes().iter().map(crate::node::Node::id);
    ids.all(|id| module(id) == Module::Ours)
}

/// All three create the lockspace, one after the other.
async fn join(ctx: &Ctx, cluster: &Cluster) -> Result<Vec<Client>> {
    let start = Instant::now();
    let mut clients = Vec::new();
    for node in cluster.nodes() {
        let client = Client::start(node)?;
        client.create("story").await?;
        clients.push(client);
    }
    ctx.phase("join", start.elapsed());
    ctx.tell("a program linked to Debian's libdlm has joined lockspace \"story\" on every node");
    Ok(clients)
}

/// n1 holds EX, n2 waits, n3 does not want to wait; n1 steps down and n2 reads what it wrote.
async fn hand_over(ctx: &Ctx, clients: &[Client]) -> Result<()> {
    let [n1, n2, n3] = clients else {
        unreachable!("three clients")
    };
    let start = Instant::now();
    n1.say("lock a door EX valblk").await?;
    n1.expect("ast a status=0 mode=EX").await?;
    ctx.tell("n1 holds \"door\" exclusively");
    n2.say("lock b door EX valblk").await?;
    n1.expect_any("bast a").await?;
    n3.say("lock c door EX noqueue").await?;
    n3.expect("ast c status=EAGAIN").await?;
    ctx.tell("n2 waits for it, n3 would not wait and is refused; n1 hears that it is in the way");
    ensure!(!n2.has("ast b "), "n2 was granted EX while n1 held it");
    n1.say("convert a NL valblk lvb written-by-n1").await?;
    n1.expect("ast a status=0 mode=NL").await?;
    let granted = n2.expect_any("ast b status=0 mode=EX").await?;
    ensure!(
        granted.contains("lvb=written-by-n1"),
        "n2 reads another value: {granted}"
    );
    ctx.tell("n1 writes \"written-by-n1\" and steps down; n2 gets the lock and reads it");
    ctx.phase("locks", start.elapsed());
    Ok(())
}

/// A resource whose value must outlive n2, because n2 may only read it.
async fn quiet_value(clients: &[Client]) -> Result<()> {
    let [n1, n2, n3] = clients else {
        unreachable!("three clients")
    };
    n1.say("lock q1 window EX valblk").await?;
    n1.expect("ast q1 status=0 mode=EX").await?;
    n1.say("convert q1 PR valblk lvb stays").await?;
    n1.expect("ast q1 status=0 mode=PR").await?;
    for (client, handle) in [(n2, "q2"), (n3, "q3")] {
        client
            .say(&format!("lock {handle} window PR valblk"))
            .await?;
        let granted = client
            .expect(&format!("ast {handle} status=0 mode=PR"))
            .await?;
        ensure!(granted.contains("lvb=stays"), "{granted}");
    }
    Ok(())
}

/// n2 dies holding EX while n3 waits.
async fn fail(ctx: &Ctx, cluster: &Cluster, stack: &Stack, clients: &[Client]) -> Result<()> {
    let [_, _, n3] = clients else {
        unreachable!("three clients")
    };
    n3.say("lock d door EX valblk").await?;
    clients[1].expect_any("bast b").await?;
    ctx.tell("n2 holds \"door\", n3 waits for it; n2 loses its power now");
    let fenced = stack.daemons(1)?.fenced;
    let since = fenced.position();
    let dead = Instant::now();
    cluster.node(2).power_off().await?;
    let accused = |line: &str| line.contains("must be fenced node=2");
    fenced
        .wait_for_line_after(since, STEP_LIMIT, accused)
        .await?;
    ctx.phase("detected", dead.elapsed());
    ctx.tell("n1 and n3 agree on a view without n2: it must be fenced before anybody recovers");
    let cleared = |line: &str| line.contains("fenced node=2") && line.contains("how=agent");
    fenced
        .wait_for_line_after(since, STEP_LIMIT, cleared)
        .await?;
    ctx.phase("fenced", dead.elapsed());
    ctx.tell("the agent has reset n2, and both know it: recovery may begin");
    let granted = n3.expect_any("ast d status=0 mode=EX").await?;
    ctx.phase("granted", dead.elapsed());
    ensure!(
        granted.contains("VALNOTVALID"),
        "the value n2 may have changed passes: {granted}"
    );
    ctx.tell("n3 holds \"door\"; its value is marked invalid, as n2 may have changed it");
    n3.say("convert q3 PR valblk").await?;
    let kept = n3.expect("ast q3 status=0 mode=PR").await?;
    let is_kept = kept.contains("flags=- ") && kept.contains("lvb=stays");
    ensure!(is_kept, "a value that n2 only read is lost: {kept}");
    check_fencing(cluster)
}

/// n1 reset n2, once, and nobody else was touched.
fn check_fencing(cluster: &Cluster) -> Result<()> {
    let events = cluster.power_log().events();
    let acts = events.iter().filter(|event| {
        matches!(
            event.request.action,
            Action::Reboot | Action::Off | Action::On
        )
    });
    let acts: Vec<_> = acts.collect();
    ensure!(
        matches!(acts[..], [event] if event.by == "n1"
            && event.request.plug.as_deref() == Some("n2") && event.reply.ok),
        "not fenced exactly once, n2 by n1: {acts:?}"
    );
    Ok(())
}

/// The reset has started n2 again; it joins and takes a lock.
async fn come_back(ctx: &Ctx, cluster: &Cluster, stack: &Stack) -> Result<Client> {
    let start = Instant::now();
    let node = cluster.node(2);
    node.wait_until_up().await?;
    stack.start_on(2).await?;
    for id in [1, 2, 3] {
        stack.wait_for_view(id, &[1, 2, 3], STEP_LIMIT).await?;
    }
    ctx.tell("n2 has booted and is a member again");
    let client = Client::start(node)?;
    client.create("story").await?;
    client.say("lock e door NL valblk").await?;
    client.expect("ast e status=0 mode=NL").await?;
    client.say("lock f attic EX").await?;
    client.expect("ast f status=0 mode=EX").await?;
    ctx.phase("return", start.elapsed());
    ctx.tell("n2 takes locks in \"story\" again");
    Ok(client)
}

/// All links are cut: nobody has a majority, so nobody grants what it cannot know, and nobody is
/// fenced. When they are healed everything goes on.
async fn minority(
    ctx: &Ctx,
    cluster: &Arc<Cluster>,
    stack: &Stack,
    clients: &[Client],
) -> Result<()> {
    let [n1, n2, _] = clients else {
        unreachable!("three clients")
    };
    let power = cluster.power_log().events().len();
    // n1 masters this one: alone it could grant itself anything there.
    n1.say("lock h cellar NL").await?;
    n1.expect("ast h status=0 mode=NL").await?;
    let start = Instant::now();
    for (a, b) in [(1, 2), (1, 3), (2, 3)] {
        cluster.switch().cut(a, b);
    }
    let status = stack.wait_for_quorate(1, false).await?;
    ctx.phase("inquorate", start.elapsed());
    let reason = status["reason"].as_str().unwrap_or_default();
    ensure!(
        reason.contains("n2") && reason.contains("n3"),
        "the reason names nobody: {status}"
    );
    ctx.tell(&format!("all links are cut; n1 stops: {reason}"));
    n1.say("convert h EX").await?;
    n1.say("lock g attic EX").await?;
    stack.wait_for_quorate(2, false).await?;
    stack.wait_for_quorate(3, false).await?;
    ensure!(!n1.has("ast g "), "n1 was granted what n2 holds");
    ensure!(
        !n1.has("ast h status=0 mode=EX"),
        "n1 granted itself a lock without quorum"
    );
    cluster.switch().heal_all();
    for id in [1, 2, 3] {
        stack.wait_for_quorate(id, true).await?;
    }
    ctx.tell("the links are healed; all three go on in the view they had, nobody was fenced");
    n1.expect_any("ast h status=0 mode=EX").await?;
    n2.expect_any("bast f").await?;
    ensure!(!n1.has("ast g "), "n1 was granted what n2 holds");
    n2.say("unlock f").await?;
    n1.expect_any("ast g status=0 mode=EX").await?;
    ctx.tell("n1, which had asked while it was alone, now gets its lock from n2");
    let events = cluster.power_log().events();
    ensure!(
        events.len() == power,
        "somebody was fenced: {:?}",
        &events[power..]
    );
    Ok(())
}
