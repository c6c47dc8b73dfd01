// SPDX-License-Identifier: GPL-2.0-only
//! Operations on resources that another node is the master of: the first of two nodes holds a lock
//! in NL on each name before the second one comes.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use super::drive::SpaceSpec;
use super::figure::Figure;
use super::load::Bench;
use super::load::DropAll;
use super::load::Flight;
use super::load::Handover;
use super::load::Mode;
use super::load::Pair;
use super::load::Place;
use super::load::Take;
use super::load::Taken;
use super::local::LIMIT;
use super::local::per_second;
use super::sample::Sample;
use crate::node::Node;

/// The figures of two nodes, in the order of the table.
pub(super) const FIGURES: &[Figure] = &[
    Figure::cost("round trip", "µs"),
    Figure::cost("lock", "µs"),
    Figure::cost("lock over round trip", "x"),
    Figure::cost("lock+unlock", "µs"),
    Figure::rate("64 in flight", "pairs/s"),
    Figure::cost("64 in flight packets", "1/pair"),
    Figure::cost("64 in flight switches", "1/pair"),
    Figure::rate("256 in flight", "pairs/s"),
    Figure::cost("256 in flight packets", "1/pair"),
    Figure::cost("256 in flight switches", "1/pair"),
    Figure::rate("EX hand-overs", "1/s"),
    Figure::rate("100,000 names take", "locks/s"),
    Figure::rate("100,000 names drop", "locks/s"),
];

/// How many are under way at once, and the figures that come of it.
const FLIGHTS: [(u32, &str, &str, &str); 2] = [
    (
        64,
        "64 in flight",
        "64 in flight packets",
        "64 in flight switches",
    ),
    (
        256,
        "256 in flight",
        "256 in flight packets",
        "256 in flight switches",
    ),
];

/// Names that the first node is the master of, as many as are under way at most.
const NAMES: u64 = 256;

/// Memory of each node.
pub(super) const MEMORY_MIB: u32 = 512;

/// Name of the lockspace that this bench makes.
const SPACE: &str = "remote";

/// Takes a sample of each figure, on two nodes that have just booted.
pub(super) async fn measure(sample: &mut Sample<'_>) -> Result<()> {
    let size = sample.size;
    let space = SpaceSpec::new(SPACE, true);
    sample.driver.form(&space, &[1, 2]).await?;
    let benches = [sample.driver.bench(1)?, sample.driver.bench(2)?];
    let [master, holder] = &benches;
    take(master, "names", NAMES, Mode::Nl).await?;

    let trip = round_trip(holder.node(), master.node(), size.pick(2000, 50)).await?;
    let count = size.pick(10_000, 200);
    let pairs = holder.run(&pair(count), LIMIT).await?;
    let lock = pairs.up.p50 as f64 / 1e3;
    sample.add("round trip", trip)?;
    sample.add("lock", lock)?;
    sample.add("lock over round trip", lock / trip)?;
    sample.add("lock+unlock", pairs.pair.p50 as f64 / 1e3)?;

    for (depth, rate, packets, switches) in FLIGHTS {
        let flown = fly(&benches, depth, size.pick(60_000, 1000)).await?;
        sample.add(rate, flown.rate)?;
        sample.add(packets, flown.packets)?;
        sample.add(switches, flown.switches)?;
    }
    let time = Duration::from_millis(size.pick(4000, 300));
    sample.add("EX hand-overs", hand_overs(&benches, time).await?)?;

    let count = size.pick(100_000, 2000);
    take(master, "many", count, Mode::Nl).await?;
    let taken = take(holder, "many", count, Mode::Ex).await?;
    let drop = DropAll {
        lockspace: SPACE.to_owned(),
        tag: "many".to_owned(),
        depth: 64,
    };
    let dropped = holder.run(&drop, LIMIT).await?;
    ensure!(dropped.count == count, "{dropped:?}");
    sample.add("100,000 names take", per_second(count, taken.span)?)?;
    sample.add("100,000 names drop", per_second(count, dropped.span)?)
}

fn pair(count: u64) -> Pair {
    Pair {
        place: Place::new(SPACE, "names"),
        count,
        is_conversion: false,
    }
}

async fn take(bench: &Bench, tag: &str, count: u64, mode: Mode) -> Result<Taken> {
    let command = Take {
        lockspace: SPACE.to_owned(),
        tag: tag.to_owned(),
        count,
        first: 0,
        mode,
        depth: 64,
    };
    let taken = bench.run(&command, LIMIT).await?;
    ensure!(taken.count == count, "{taken:?}");
    Ok(taken)
}

/// Median time of an echo from one node to another and back, µs. The next one is sent when the
/// last has come back, as with locks.
async fn round_trip(from: &Node, to: &Node, count: u32) -> Result<f64> {
    let count = count.to_string();
    let address = to.address().to_string();
    let ping = ["ping", "-n", "-A", "-c", &count, &address];
    let text = from.exec(&ping).await?.ok()?.text();
    median_echo(&text).with_context(|| format!("no times in {text:?}"))
}

/// The median of what `ping` says about each echo, µs.
fn median_echo(text: &str) -> Option<f64> {
    let times = text.lines().filter_map(|line| {
        let (_, time) = line.split_once(" time=")?;
        time.strip_suffix(" ms")?.parse::<f64>().ok()
    });
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).map(|ms| ms * 1e3)
}

/// What a flight came to.
struct Flown {
    /// Pairs a second.
    rate: f64,
    /// Packets that both nodes have sent for each pair.
    packets: f64,
    /// Context switches on both for each pair.
    switches: f64,
}

async fn fly(benches: &[Bench; 2], depth: u32, count: u64) -> Result<Flown> {
    let command = Flight {
        place: Place::new(SPACE, "names"),
        count,
        depth,
        is_new: false,
    };
    let before = Counts::of(benches).await?;
    let flown = benches[1].run(&command, LIMIT).await?;
    let after = Counts::of(benches).await?;
    ensure!(flown.granted == count, "{flown:?}");
    let each = |before: u64, after: u64| (after - before) as f64 / count as f64;
    Ok(Flown {
        rate: per_second(count, flown.span)?,
        packets: each(before.packets, after.packets),
        switches: each(before.switches, after.switches),
    })
}

/// What nodes have counted since their boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    packets: u64,
    switches: u64,
}

impl Counts {
    async fn of(benches: &[Bench]) -> Result<Self> {
        let mut counts = Counts {
            packets: 0,
            switches: 0,
        };
        for bench in benches {
            let node = bench.node();
            counts.packets += sent(node, "tx_packets").await?;
            let stat = node.read_text("/proc/stat").await?;
            counts.switches += switches(&stat)?;
        }
        Ok(counts)
    }
}

/// A sum over the interfaces to others of what each says it has sent.
pub(super) async fn sent(node: &Node, what: &str) -> Result<u64> {
    let script = format!(
        "for i in /sys/class/net/*; do test ${{i##*/}} = lo || cat $i/statistics/{what}; done"
    );
    let output = node.sh(&script).await?.ok()?.text();
    sum(&output).with_context(|| format!("{}: {what}", node.name()))
}

fn sum(lines: &str) -> Result<u64> {
    let numbers = lines.lines().map(str::parse::<u64>);
    let sum = numbers.sum::<std::result::Result<u64, _>>();
    sum.with_context(|| format!("no numbers in {lines:?}"))
}

fn switches(stat: &str) -> Result<u64> {
    let mut lines = stat.lines();
    let number = lines.find_map(|line| line.strip_prefix("ctxt "));
    let number = number.and_then(|number| number.parse().ok());
    number.context("no ctxt in /proc/stat")
}

/// How often a second EX goes from one node to the other.
async fn hand_overs(benches: &[Bench; 2], time: Duration) -> Result<f64> {
    let command = Handover {
        place: Place::new(SPACE, "names"),
        grants: None,
        time,
        counts: false,
    };
    let [one, two] = benches;
    let (one, two) = tokio::try_join!(one.run(&command, LIMIT), two.run(&command, LIMIT))?;
    ensure!(
        one.handovers > 0 && two.handovers > 0,
        "no to and fro: {one:?} {two:?}"
    );
    // Each node has a clock of its own; both ran for the same time.
    let longest = one.span.total_ns().max(two.span.total_ns());
    Ok((one.handovers + two.handovers) as f64 * 1e9 / longest as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echoes_are_read() {
        let text = "PING 10.77.1.1 (10.77.1.1) 56(84) bytes of data.\n\
            64 bytes from 10.77.1.1: icmp_seq=1 ttl=64 time=0.700 ms\n\
            64 bytes from 10.77.1.1: icmp_seq=2 ttl=64 time=0.100 ms\n\
            64 bytes from 10.77.1.1: icmp_seq=3 ttl=64 time=0.120 ms\n\n\
            3 packets transmitted, 3 received, 0% packet loss, time 402ms\n";
        assert_eq!(median_echo(text), Some(120.0));
        assert_eq!(median_echo("3 packets transmitted, 0 received"), None);
    }

    #[test]
    fn counters_are_read() {
        let stat = "cpu  1 2\nintr 12 0\nctxt 5150\nbtime 17\n";
        assert_eq!(switches(stat).unwrap(), 5150);
        assert!(switches("cpu 1\n").is_err());
        assert_eq!(sum("3\n4\n").unwrap(), 7);
        assert!(sum("3\nx\n").is_err());
    }
}
