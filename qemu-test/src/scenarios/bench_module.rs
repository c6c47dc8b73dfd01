// SPDX-License-Identifier: GPL-2.0-only
//! The ruler is measured: every command of the benchmark module, small, on one node and on two.
//! What it says is compared with what must be so and with what the lock manager shows. Then a
//! death, a return and a leave without any daemon.

use std::time::Duration;

use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;

use crate::bench::drive::Driver;
use crate::bench::drive::Recovery;
use crate::bench::drive::STEP_LIMIT;
use crate::bench::drive::SpaceSpec;
use crate::bench::load;
use crate::bench::load::BarePair;
use crate::bench::load::Bench;
use crate::bench::load::Clock;
use crate::bench::load::DropAll;
use crate::bench::load::Flight;
use crate::bench::load::Handover;
use crate::bench::load::Mode;
use crate::bench::load::Pair;
use crate::bench::load::Place;
use crate::bench::load::Probe;
use crate::bench::load::Reserve;
use crate::bench::load::Span;
use crate::bench::load::Stop;
use crate::bench::load::Take;
use crate::bench::load::Times;
use crate::cluster::Cluster;
use crate::node::Node;
use crate::scenario::Ctx;
use crate::scenario::Expect;
use crate::scenario::Scenario;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::stack::Module;

pub(super) const OURS: Scenario = Scenario {
    name: "bench-module",
    about: "what the benchmark module says of our lock manager makes sense",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(400),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx, Module::Ours)),
};

pub(super) const INTREE: Scenario = Scenario {
    name: "bench-module-intree",
    about: "what it says of the distribution's lock manager makes sense",
    rungs: &[Kind::Uml, Kind::Qemu],
    limit: Duration::from_secs(400),
    expect: Expect::Success,
    run: |ctx| Box::pin(run(ctx, Module::InTree)),
};

/// The lockspaces, both of all nodes: callbacks in a queue, and in softirq.
const SPACES: [(&str, bool); 2] = [("queued", false), ("soft", true)];

/// Locks that are taken and kept.
const KEPT: u64 = 300;

/// Pairs of each loop.
const PAIRS: u64 = 200;

async fn run(ctx: Ctx, module: Module) -> Result<()> {
    let mut spec = ClusterSpec::new(ctx.kind(), 2).with_image();
    if ctx.kind() == Kind::Uml {
        let module = ctx.host().assets.uml_bench_module(spec.uml_kernel)?;
        spec = load::with_module(spec, module);
    }
    let cluster = ctx.boot(&spec).await?;
    let mut driver = ctx.timed("start", Driver::start(&cluster, module)).await?;
    for (name, softirq) in SPACES {
        driver.form(&SpaceSpec::new(name, softirq), &[1]).await?;
        ctx.timed(name, on_one_node(&driver.bench(1)?, name))
            .await?;
    }
    ctx.timed("refuse", refusals(&driver.bench(1)?)).await?;
    for (name, _) in SPACES {
        let joined = driver.join(name, 2).await?;
        recovery_makes_sense(&joined, &[1, 2])?;
        ctx.timed("two", on_two_nodes(&driver, name)).await?;
    }
    // A node dies out of one lockspace.
    driver.leave("soft", 2).await?;
    ctx.timed("death", death_and_return(&cluster, &mut driver))
        .await?;
    driver.end().await?;
    for node in cluster.nodes() {
        nothing_is_left(node).await?;
    }
    Ok(())
}

/// How many locks the lock manager shows.
async fn locks_of(node: &Node, lockspace: &str) -> Result<u64> {
    let script = format!("sed 1d /sys/kernel/debug/dlm/{lockspace}_locks | wc -l");
    Ok(node.sh(&script).await?.ok()?.text().parse()?)
}

async fn expect_locks(node: &Node, lockspace: &str, count: u64) -> Result<()> {
    let found = locks_of(node, lockspace).await?;
    ensure!(
        found == count,
        "{}: {found} locks in {lockspace}, not {count}",
        node.name()
    );
    Ok(())
}

fn times_make_sense(times: &Times, count: u64, span: Span) -> Result<()> {
    let Times {
        min,
        p50,
        p90,
        p99,
        max,
        mean,
        ..
    } = *times;
    ensure!(times.count == count, "{count} were made: {times:?}");
    ensure!(
        0 < min && min <= p50 && p50 <= p90 && p90 <= p99 && p99 <= max,
        "not in order: {times:?}"
    );
    ensure!(min <= mean && mean <= max, "{times:?}");
    ensure!(max <= span.total_ns(), "{times:?} in {span:?}");
    Ok(())
}

async fn on_one_node(bench: &Bench, name: &str) -> Result<()> {
    let node = bench.node();
    ensure!(bench.run(&Clock { count: 1000 }, STEP_LIMIT).await? > 0);
    for is_conversion in [false, true] {
        one_at_a_time(bench, name, is_conversion).await?;
        expect_locks(node, name, 0).await?;
    }
    for is_new in [false, true] {
        many_at_a_time(bench, name, is_new).await?;
        expect_locks(node, name, 0).await?;
    }
    side_by_side(bench, name).await?;
    keep_and_drop(bench, name).await?;
    probe_until_stopped(bench, name).await?;
    killed_in_the_middle(bench, name).await?;
    expect_locks(node, name, 0).await
}

fn pair(name: &str, tag: &str, is_conversion: bool) -> Pair {
    Pair {
        place: Place::new(name, tag),
        count: PAIRS,
        is_conversion,
    }
}

async fn one_at_a_time(bench: &Bench, name: &str, is_conversion: bool) -> Result<()> {
    let command = pair(name, "p", is_conversion);
    let pairs = bench.run(&command, STEP_LIMIT).await?;
    ensure!(pairs.count == PAIRS, "{pairs:?}");
    for times in [&pairs.up, &pairs.down, &pairs.pair] {
        times_make_sense(times, PAIRS, pairs.span)?;
    }
    // Means are rounded down, each by less than one.
    let halves = pairs.up.mean + pairs.down.mean;
    ensure!(
        (halves..=halves + 1).contains(&pairs.pair.mean),
        "the halves do not make the whole: {pairs:?}"
    );
    ensure!(
        pairs.pair.mean * PAIRS <= pairs.span.total_ns(),
        "{pairs:?}"
    );
    let (count, span) = bench.run(&BarePair(command), STEP_LIMIT).await?;
    ensure!(count == PAIRS && span.total_ns() > 0, "{count} {span:?}");
    Ok(())
}

async fn many_at_a_time(bench: &Bench, name: &str, is_new: bool) -> Result<()> {
    let flight = Flight {
        place: Place::new(name, "f"),
        count: PAIRS,
        depth: 16,
        is_new,
    };
    let flown = bench.run(&flight, STEP_LIMIT).await?;
    ensure!(
        [flown.count, flown.asked, flown.granted] == [PAIRS; 3],
        "{flown:?}"
    );
    times_make_sense(&flown.lock, PAIRS, flown.span)?;
    times_make_sense(&flown.pair, PAIRS, flown.span)?;
    ensure!(flown.lock.mean < flown.pair.mean, "{flown:?}");
    // Fewer than are under way at once.
    let few = Flight { count: 3, ..flight };
    let flown = bench.run(&few, STEP_LIMIT).await?;
    ensure!(
        [flown.count, flown.asked, flown.granted] == [3; 3],
        "{flown:?}"
    );
    Ok(())
}

/// Two tasks begin together, on a processor each where there are two.
async fn side_by_side(bench: &Bench, name: &str) -> Result<()> {
    let of = |first| {
        let place = Place {
            first,
            meet: 2,
            ..Place::new(name, "t")
        };
        Pair {
            place,
            ..pair(name, "t", false)
        }
    };
    let last = match bench.node().kind() {
        Kind::Uml => 1,
        Kind::Qemu => 0,
    };
    let (one, two) = (of(1), of(2));
    let (one, two) = tokio::try_join!(
        bench.run_on(0, &one, STEP_LIMIT),
        bench.run_on(last, &two, STEP_LIMIT)
    )?;
    ensure!(one.count == PAIRS && two.count == PAIRS, "{one:?} {two:?}");
    let both = Span::around(&[one.span, two.span]);
    let apart = one.span.total_ns() + two.span.total_ns();
    ensure!(
        both.is_some_and(|both| both.total_ns() < apart),
        "they did not run side by side: {:?} {:?}",
        one.span,
        two.span
    );
    Ok(())
}

fn take(name: &str, tag: &str, count: u64, mode: Mode) -> Take {
    Take {
        lockspace: name.to_owned(),
        tag: tag.to_owned(),
        count,
        first: 0,
        mode,
        depth: 64,
    }
}

fn drop_all(name: &str, tag: &str) -> DropAll {
    DropAll {
        lockspace: name.to_owned(),
        tag: tag.to_owned(),
        depth: 64,
    }
}

async fn keep_and_drop(bench: &Bench, name: &str) -> Result<()> {
    let reserve = Reserve {
        lockspace: name.to_owned(),
        tag: "kept".to_owned(),
        count: KEPT,
    };
    bench.run(&reserve, STEP_LIMIT).await?;
    expect_locks(bench.node(), name, 0).await?;
    for (tag, mode) in [("kept", Mode::Ex), ("more", Mode::Nl)] {
        let taken = bench.run(&take(name, tag, KEPT, mode), STEP_LIMIT).await?;
        ensure!(taken.count == KEPT, "{taken:?}");
        times_make_sense(&taken.each, KEPT, taken.span)?;
    }
    expect_locks(bench.node(), name, 2 * KEPT).await?;
    let again = bench
        .run(&take(name, "kept", 1, Mode::Ex), STEP_LIMIT)
        .await;
    ensure!(again.is_err(), "names that are kept were taken again");
    for tag in ["kept", "more"] {
        let dropped = bench.run(&drop_all(name, tag), STEP_LIMIT).await?;
        ensure!(dropped.count == KEPT, "{dropped:?}");
        times_make_sense(&dropped.each, KEPT, dropped.span)?;
    }
    let again = bench.run(&drop_all(name, "kept"), STEP_LIMIT).await;
    ensure!(again.is_err(), "what was dropped is still there");
    expect_locks(bench.node(), name, 0).await
}

fn probe(name: &str) -> Probe {
    Probe {
        place: Place::new(name, "probe"),
        time: STEP_LIMIT,
        pause: Duration::from_millis(1),
        is_conversion: false,
    }
}

/// Runs a probe beside something else and stops it then.
async fn probed<T>(
    bench: &Bench,
    name: &str,
    beside: impl Future<Output = Result<T>>,
) -> Result<(load::Probed, T)> {
    let command = probe(name);
    let stop = Stop {
        lockspace: name.to_owned(),
    };
    let beside = async {
        wait_for_locks(bench.node(), name).await?;
        let result = beside.await;
        bench.run(&stop, STEP_LIMIT).await?;
        result
    };
    tokio::try_join!(bench.run(&command, 2 * STEP_LIMIT), beside)
}

/// Waits until there is a lock: a command that is started beside this one runs then.
async fn wait_for_locks(node: &Node, name: &str) -> Result<()> {
    let script = format!("test $(wc -l </sys/kernel/debug/dlm/{name}_locks) -gt 1");
    node.wait_for_sh(&script, STEP_LIMIT).await.map(drop)
}

async fn probe_until_stopped(bench: &Bench, name: &str) -> Result<()> {
    let (probed, ()) = probed(bench, name, async { Ok(()) }).await?;
    ensure!(probed.wait.count > 0, "{probed:?}");
    times_make_sense(&probed.wait, probed.wait.count, probed.span)?;
    let worst = probed.worst_begin_ns;
    let Span { begin_ns, end_ns } = probed.span;
    ensure!(
        begin_ns <= worst && worst + probed.wait.max <= end_ns,
        "the longest one is outside of the probe: {probed:?}"
    );
    // For a time.
    let short = Probe {
        time: Duration::from_millis(50),
        is_conversion: true,
        ..probe(name)
    };
    let ended = bench.run(&short, STEP_LIMIT).await?;
    ensure!(ended.span.total_ns() >= 50_000_000, "{ended:?}");
    Ok(())
}

/// A command that is killed takes its locks with it.
async fn killed_in_the_middle(bench: &Bench, name: &str) -> Result<()> {
    let long = Handover {
        place: Place::new(name, "killed"),
        grants: None,
        time: Duration::from_secs(600),
        counts: false,
    };
    let killed = bench.run(&long, Duration::from_millis(700)).await;
    ensure!(killed.is_err(), "a killed command answered {killed:?}");
    let script = format!("test $(sed 1d /sys/kernel/debug/dlm/{name}_locks | wc -l) = 0");
    bench.node().wait_for_sh(&script, STEP_LIMIT).await?;
    Ok(())
}

async fn refusals(bench: &Bench) -> Result<()> {
    let ask = |line: &str| {
        let script = format!("exec 3<>/dev/dlmbench; ! echo '{line}' >&3 && cat <&3");
        let node = bench.node().clone();
        async move { anyhow::Ok(node.sh(&script).await?.ok()?.text()) }
    };
    for (line, why) in [
        ("", "error \"\": no verb"),
        ("dance", "error \"dance\": no verb"),
        ("pair ls=queued tag=a", "error \"n\": missing"),
        (
            "pair ls=queued tag=a n=1 m=1",
            "error \"m\": no key of this verb",
        ),
        (
            "pair ls=queued tag=a n=0",
            "error \"n\": too small or too great",
        ),
        (
            "pair ls=queued tag=123456789 n=1",
            "error \"tag\": longer than eight bytes",
        ),
        (
            "pair ls=none tag=a n=1",
            "error finding the lockspace: errno -2",
        ),
        (
            "take ls=queued tag=a n=1 mode=xx",
            "error \"xx\": no mode; there are nl, pr and ex",
        ),
        ("drop ls=queued tag=none", "error finding the tag: errno -2"),
        ("create ls=queued", "error creating: errno -17"),
        ("release ls=none", "error releasing: errno -2"),
    ] {
        let answer = ask(line).await?;
        ensure!(
            answer == why,
            "{line:?} was answered {answer:?}, not {why:?}"
        );
    }
    let unloaded = bench.node().exec(&["rmmod", "dlmbench"]).await?;
    ensure!(!unloaded.is_ok(), "unloaded with lockspaces");
    Ok(())
}

async fn on_two_nodes(driver: &Driver, name: &str) -> Result<()> {
    let (first, second) = (driver.bench(1)?, driver.bench(2)?);
    // The first node is the master of these; the keeper keeps the number in the value block.
    let keeper = take(name, "master", 32, Mode::Nl);
    first.run(&keeper, STEP_LIMIT).await?;
    for is_conversion in [false, true] {
        let remote = second
            .run(&pair(name, "master", is_conversion), STEP_LIMIT)
            .await?;
        ensure!(remote.count == PAIRS, "{remote:?}");
        times_make_sense(&remote.up, PAIRS, remote.span)?;
    }
    let flight = Flight {
        place: Place::new(name, "master"),
        count: PAIRS,
        depth: 32,
        is_new: false,
    };
    let flown = second.run(&flight, STEP_LIMIT).await?;
    ensure!(
        [flown.count, flown.asked, flown.granted] == [PAIRS; 3],
        "{flown:?}"
    );
    hand_over(&first, &second, name).await?;
    first.run(&drop_all(name, "master"), STEP_LIMIT).await?;
    for bench in [&first, &second] {
        expect_locks(bench.node(), name, 0).await?;
    }
    Ok(())
}

/// Each grant adds one to the same number, and every grant but a node's last is given up for the
/// other one.
async fn hand_over(first: &Bench, second: &Bench, name: &str) -> Result<()> {
    let command = Handover {
        place: Place::new(name, "master"),
        grants: None,
        time: Duration::from_secs(2),
        counts: true,
    };
    let (one, two) = tokio::try_join!(
        first.run(&command, STEP_LIMIT),
        second.run(&command, STEP_LIMIT)
    )?;
    let what = || format!("{one:?} {two:?}");
    ensure!(
        one.grants > 1 && two.grants > 1,
        "no to and fro: {}",
        what()
    );
    ensure!(
        one.value.max(two.value) == one.grants + two.grants,
        "the number is not the sum of all grants: {}",
        what()
    );
    // The first of all finds no number.
    ensure!(one.invalid + two.invalid <= 1, "{}", what());
    for handed in [&one, &two] {
        ensure!(
            (handed.handovers..=handed.handovers + 1).contains(&handed.grants),
            "{}",
            what()
        );
        times_make_sense(&handed.wait, handed.grants, handed.span)?;
    }
    ensure!(
        one.grants.abs_diff(two.grants) <= 2 + one.grants.max(two.grants) / 2,
        "one node had nearly all: {}",
        what()
    );
    Ok(())
}

fn recovery_makes_sense(recovery: &Recovery, members: &[u32]) -> Result<()> {
    let nodes: Vec<u32> = recovery.nodes.keys().copied().collect();
    ensure!(nodes == members, "{recovery:?}");
    ensure!(recovery.longest() <= recovery.total, "{recovery:?}");
    Ok(())
}

async fn death_and_return(cluster: &Cluster, driver: &mut Driver) -> Result<()> {
    let name = "queued";
    let (first, second) = (driver.bench(1)?, driver.bench(2)?);
    first
        .run(&take(name, "mine", KEPT, Mode::Ex), STEP_LIMIT)
        .await?;
    second
        .run(&take(name, "yours", KEPT, Mode::Ex), STEP_LIMIT)
        .await?;
    let (probed, died) = probed(&first, name, driver.die(name, 2)).await?;
    recovery_makes_sense(&died, &[1])?;
    ensure!(probed.wait.count > 0, "{probed:?}");
    // What the dead one had can be had, what the survivor has it still has.
    let again = first
        .run(&take(name, "yours", KEPT, Mode::Ex), STEP_LIMIT)
        .await?;
    ensure!(again.count == KEPT, "{again:?}");
    for tag in ["mine", "yours"] {
        let dropped = first.run(&drop_all(name, tag), STEP_LIMIT).await?;
        ensure!(dropped.count == KEPT, "{dropped:?}");
    }
    let node = cluster.node(2);
    node.power_on().await?;
    node.wait_until_up().await?;
    driver.start_on(2).await?;
    recovery_makes_sense(&driver.join(name, 2).await?, &[1, 2])?;
    let remote = driver
        .bench(2)?
        .run(&pair(name, "back", false), STEP_LIMIT)
        .await?;
    ensure!(remote.count == PAIRS, "{remote:?}");
    match driver.leave(name, 1).await? {
        Some(left) => recovery_makes_sense(&left, &[2]),
        None => bail!("nobody stayed"),
    }
}

async fn nothing_is_left(node: &Node) -> Result<()> {
    let left = node
        .sh("grep dlm /proc/misc /proc/modules; ls -d /sys/kernel/dlm; true")
        .await?
        .ok()?;
    ensure!(left.text().is_empty(), "left behind: {}", left.text());
    Ok(())
}
