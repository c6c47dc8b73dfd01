// SPDX-License-Identifier: GPL-2.0-only
//! A stock GFS2 driven by our daemons, through the failure and return of a node: on the
//! distribution's own lock manager, and on ours.
//!
//! Kernel, `gfs2.ko` and gfs2-utils are Debian's, and in one of the two `dlm.ko` as well: nothing
//! is ours there but the three daemons and the fence agent.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::node::Running;
use crate::power::Action;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::Module;
use crate::stack::STEP_LIMIT;
use crate::stack::Stack;
use crate::stack::json;

pub(super) const INTREE: Scenario = Scenario {
    name: "gfs2-intree",
    about: "stock GFS2 on the stock dlm.ko and our daemons survives the failure of a node",
    rungs: &[Kind::Qemu],
    limit: Duration::from_secs(420),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx, Module::InTree)),
};

pub(super) const OURS: Scenario = Scenario {
    name: "gfs2",
    about: "stock GFS2 on our dlm.ko and our daemons survives the failure of a node",
    rungs: &[Kind::Qemu],
    limit: Duration::from_secs(420),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx, Module::Ours)),
};

/// Room for three journals of 32 MiB and some files.
const DISK_MIB: u64 = 768;

/// The node that dies.
const VICTIM: u32 = 3;

/// Where the file system is mounted.
const MOUNT: &str = "/mnt/shared";

/// Finds the shared disk by its serial.
const FIND_DISK: &str = "for d in /sys/block/vd*; do test \"$(cat $d/serial)\" = shared && \
                         disk=/dev/${d##*/}; done; test -b \"$disk\"";

/// Writes a file of its own over and over, each time to the disk, and says so.
const LOAD: &str = "i=0; while i=$((i+1)); printf '%8d\\n' $i | \
                    dd of=/mnt/shared/load.$(hostname) conv=notrunc,fsync status=none; \
                    do echo wrote $i; done";

/// GFS2 counts free blocks per node and adds up the counts now and then. When it replays a journal
/// it adds what the dead node had not, but without the lock of the sum, so that another node may
/// write an older sum over it: fsck would report that. Here the sum is made every second, and no
/// node dies before it is complete; the load allocates nothing.
const MOUNT_OPTIONS: &str = "statfs_quantum=1";

async fn run(ctx: Ctx, module: Module) -> Result<()> {
    let spec = ClusterSpec::new(ctx.kind(), 3).with_shared_disk(DISK_MIB);
    let cluster = ctx.boot(&spec).await?;
    let stack = Stack::new(&cluster, |_| module);
    ctx.timed("view", stack.start()).await?;
    ctx.timed("mkfs", make_file_system(cluster.node(1))).await?;
    ctx.timed("mount", mount_all(&cluster)).await?;
    ctx.timed("files", write_and_compare(&cluster, &[1, 2, 3], "first"))
        .await?;
    let load = fail_under_load(&ctx, &cluster, &stack).await?;
    ctx.timed("rejoin", rejoin(&cluster, &stack)).await?;
    for writer in load {
        writer
            .kill(nix::sys::signal::Signal::SIGKILL as i32)
            .await?;
        writer.wait(STEP_LIMIT).await?;
    }
    write_and_compare(&cluster, &[1, 2, 3], "second").await?;
    if ctx.is_kept() {
        return Ok(());
    }
    ctx.timed("umount", unmount_all(&cluster)).await?;
    ctx.timed("fsck", check_file_system(cluster.node(1)))
        .await?;
    ctx.phase("silence", stack.longest_silence().await?);
    stack.stop().await
}

async fn make_file_system(node: &Node) -> Result<()> {
    let script =
        format!("{FIND_DISK}; mkfs.gfs2 -O -p lock_dlm -t conclave:shared -j 3 -J 32 $disk");
    node.run(shell(&script), STEP_LIMIT).await?.ok().map(drop)
}

async fn mount(node: Node) -> Result<()> {
    let script =
        format!("{FIND_DISK}; mkdir -p {MOUNT} && mount -t gfs2 -o {MOUNT_OPTIONS} $disk {MOUNT}");
    node.run(shell(&script), STEP_LIMIT).await?.ok().map(drop)
}

async fn mount_all(cluster: &Cluster) -> Result<()> {
    let [n1, n2, n3] = [1, 2, 3].map(|id| cluster.node(id).clone());
    tokio::try_join!(mount(n1), mount(n2), mount(n3)).map(drop)
}

/// Each node writes a file; all others read the same bytes.
async fn write_and_compare(cluster: &Cluster, nodes: &[u32], name: &str) -> Result<()> {
    for writer in nodes {
        let file = format!("{MOUNT}/{name}.n{writer}");
        let write = format!("head -c 1500000 /dev/urandom >{file} && sha256sum <{file}");
        let written = cluster.node(*writer).sh(&write).await?.ok()?.text();
        for reader in nodes {
            let read = cluster
                .node(*reader)
                .sh(&format!("sha256sum <{file}"))
                .await?
                .ok()?;
            ensure!(
                read.text() == written,
                "n{reader} reads {file} otherwise than n{writer}"
            );
        }
    }
    Ok(())
}

/// One node loses its power while all write. The survivors fence it, one of them replays its
/// journal, and their writing goes on.
async fn fail_under_load(ctx: &Ctx, cluster: &Cluster, stack: &Stack) -> Result<Vec<Running>> {
    let mut load = Vec::new();
    for node in cluster.nodes() {
        let writer = node.spawn("load", shell(LOAD))?;
        writer
            .wait_for_line(STEP_LIMIT, |line| line == "wrote 20")
            .await?;
        load.push(writer);
    }
    wait_for_sums(cluster).await?;
    let fenced = stack.daemons(1)?.fenced;
    let since = fenced.position();
    let dead = Instant::now();
    cluster.node(VICTIM).power_off().await?;
    load.truncate(2);
    let accused = |line: &str| line.contains("must be fenced node=3");
    fenced
        .wait_for_line_after(since, STEP_LIMIT, accused)
        .await?;
    ctx.phase("detected", dead.elapsed());
    let cleared = |line: &str| line.contains("fenced node=3") && line.contains("how=agent");
    fenced
        .wait_for_line_after(since, STEP_LIMIT, cleared)
        .await?;
    ctx.phase("fenced", dead.elapsed());
    let replayed = cluster.nodes()[..2].iter().map(|node| {
        let script = "dmesg | grep -q 'gfs2: .*jid=.*: Done'";
        Box::pin(node.wait_for_sh(script, STEP_LIMIT))
    });
    first_ok(replayed.collect())
        .await
        .context("no survivor replayed a journal")?;
    ctx.phase("replayed", dead.elapsed());
    for writer in &load {
        goes_on(writer).await?;
    }
    ctx.phase("writing", dead.elapsed());
    let events = cluster.power_log().events();
    let reset = |event: &&crate::power::PowerEvent| {
        event.by == "n1" && event.request.action == Action::Reboot && event.reply.ok
    };
    ensure!(
        events.iter().filter(reset).count() == 1,
        "fenced exactly once, by n1: {events:?}"
    );
    Ok(load)
}

/// All nodes know the same number of free blocks: each has added its own to the sum.
async fn wait_for_sums(cluster: &Cluster) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut free = Vec::new();
        for node in cluster.nodes() {
            free.push(
                node.sh(&format!("stat -f -c %f {MOUNT}"))
                    .await?
                    .ok()?
                    .text(),
            );
        }
        if free.iter().all(|other| *other == free[0]) {
            return Ok(());
        }
        ensure!(
            start.elapsed() < STEP_LIMIT,
            "the nodes count different free blocks: {free:?}"
        );
    }
}

/// The first success of several waits, or the last failure.
async fn first_ok<F: Future<Output = Result<Duration>> + Unpin>(mut waits: Vec<F>) -> Result<()> {
    let mut failure = Ok(());
    while !waits.is_empty() {
        let (result, index) = std::future::poll_fn(|context| {
            for (index, wait) in waits.iter_mut().enumerate() {
                if let std::task::Poll::Ready(result) = std::pin::Pin::new(wait).poll(context) {
                    return std::task::Poll::Ready((result, index));
                }
            }
            std::task::Poll::Pending
        })
        .await;
        match result {
            Ok(_) => return Ok(()),
            Err(error) => failure = Err(error),
        }
        drop(waits.remove(index));
    }
    failure
}

/// A writer writes a line it had not written when it was asked.
async fn goes_on(writer: &Running) -> Result<()> {
    let count = |line: &str| {
        line.strip_prefix("wrote ")
            .and_then(|n| n.parse::<u64>().ok())
    };
    let before = writer
        .lines()
        .iter()
        .rev()
        .find_map(|line| count(line))
        .unwrap_or(0);
    let later = |line: &str| count(line).is_some_and(|n| n > before);
    writer.wait_for_line(STEP_LIMIT, later).await.map(drop)
}

/// The fenced node has been reset: it boots, joins and mounts as if nothing had been.
async fn rejoin(cluster: &Cluster, stack: &Stack) -> Result<()> {
    let node = cluster.node(VICTIM);
    node.wait_until_up().await?;
    stack.start_on(VICTIM).await?;
    stack.wait_for_view(1, &[1, 2, 3], STEP_LIMIT).await?;
    stack.wait_for_no_victims(VICTIM).await?;
    mount(node.clone()).await
}

async fn unmount_all(cluster: &Cluster) -> Result<()> {
    for node in cluster.nodes() {
        node.run(shell(&format!("umount {MOUNT}")), STEP_LIMIT)
            .await?
            .ok()?;
        let left = json(node, "dlm_tool ls --json").await?;
        let none = left.as_array().is_some_and(Vec::is_empty);
        ensure!(none, "{}: lockspaces left: {left}", node.name());
    }
    Ok(())
}

async fn check_file_system(node: &Node) -> Result<()> {
    let script = format!("{FIND_DISK}; fsck.gfs2 -f -n $disk");
    node.run(shell(&script), STEP_LIMIT)
        .await?
        .ok()
        .context("fsck.gfs2 found damage")
        .map(drop)
}

fn shell(script: &str) -> guest_init::protocol::Run {
    crate::node::program_of(&["sh", "-c", script])
}
