// SPDX-License-Identifier: GPL-2.0-only
//! Operations on one node that needs nobody else: times and rates, and instructions.
//!
//! Lockspaces are of two kinds: callbacks come in softirq, or from a queue of their own.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use super::drive::Driver;
use super::drive::SpaceSpec;
use super::figure::Figure;
use super::figure::median;
use super::load::BarePair;
use super::load::Bench;
use super::load::DropAll;
use super::load::Flight;
use super::load::Mode;
use super::load::Pair;
use super::load::Place;
use super::load::Span;
use super::load::Take;
use super::sample::Sample;

/// The figures of one node, in the order of the table.
pub(super) const FIGURES: &[Figure] = &[
    Figure::cost("lock+unlock softirq", "µs"),
    Figure::cost("NL-EX-NL softirq", "µs"),
    Figure::cost("lock+unlock queued", "µs"),
    Figure::cost("NL-EX-NL queued", "µs"),
    Figure::cost("lock+unlock softirq instructions", "instr"),
    Figure::cost("NL-EX-NL softirq instructions", "instr"),
    Figure::cost("lock+unlock queued instructions", "instr"),
    Figure::cost("NL-EX-NL queued instructions", "instr"),
    Figure::rate("64 in flight", "pairs/s"),
    Figure::rate("1 thread", "pairs/s"),
    Figure::rate("2 threads", "pairs/s"),
    Figure::rate("new names", "pairs/s"),
    Figure::rate("take", "locks/s"),
    Figure::rate("drop", "locks/s"),
];

/// An operation on an existing resource, in a kind of lockspace, with the names of its figures.
struct Single {
    lockspace: &'static str,
    is_conversion: bool,
    time: &'static str,
    instructions: &'static str,
}

const SINGLES: [Single; 4] = [
    Single {
        lockspace: SOFTIRQ,
        is_conversion: false,
        time: "lock+unlock softirq",
        instructions: "lock+unlock softirq instructions",
    },
    Single {
        lockspace: SOFTIRQ,
        is_conversion: true,
        time: "NL-EX-NL softirq",
        instructions: "NL-EX-NL softirq instructions",
    },
    Single {
        lockspace: QUEUED,
        is_conversion: false,
        time: "lock+unlock queued",
        instructions: "lock+unlock queued instructions",
    },
    Single {
        lockspace: QUEUED,
        is_conversion: true,
        time: "NL-EX-NL queued",
        instructions: "NL-EX-NL queued instructions",
    },
];

/// The lockspace whose callbacks come in softirq; also the one of all rates.
pub(super) const SOFTIRQ: &str = "softirq";

/// The other one.
const QUEUED: &str = "queued";

/// More time than a row of operations takes: a host that does other things may take a processor
/// from a node whenever two of its own meet.
pub(super) const LIMIT: Duration = Duration::from_secs(300);

/// Memory of the node.
pub(super) const MEMORY_MIB: u32 = 512;

/// How many operations are made before those that count: caches and branch predictors know them
/// then.
const WARM: u64 = 200;

impl Single {
    fn command(&self, count: u64) -> Pair {
        Pair {
            place: Place::new(self.lockspace, "single"),
            count,
            is_conversion: self.is_conversion,
        }
    }
}

async fn form(driver: &mut Driver) -> Result<()> {
    for (name, softirq) in [(SOFTIRQ, true), (QUEUED, false)] {
        driver.form(&SpaceSpec::new(name, softirq), &[1]).await?;
    }
    Ok(())
}

/// Times and rates of one task, on a node with one processor: on two, tasks that wake each other
/// would be as fast as the host lets its processors meet.
pub(super) async fn times(sample: &mut Sample<'_>) -> Result<()> {
    form(&mut sample.driver).await?;
    let bench = sample.driver.bench(1)?;
    let count = sample.size.pick(30_000, 500);
    for single in &SINGLES {
        bench.run(&single.command(WARM), LIMIT).await?;
        let pairs = bench.run(&single.command(count), LIMIT).await?;
        sample.add(single.time, pairs.pair.p50 as f64 / 1e3)?;
    }
    let count = sample.size.pick(100_000, 500);
    let in_flight = flight(&bench, "flight", count, false).await?;
    sample.add("64 in flight", in_flight)?;
    sample.add("new names", flight(&bench, "new", count, true).await?)?;
    let (taken, dropped) = take_and_drop(&bench, count).await?;
    sample.add("take", taken)?;
    sample.add("drop", dropped)
}

/// Rates of one task and of two, on a node with two processors.
pub(super) async fn two_processors(sample: &mut Sample<'_>) -> Result<()> {
    form(&mut sample.driver).await?;
    let bench = sample.driver.bench(1)?;
    let (rounds, count) = sample.size.pick((9, 5000), (2, 250));
    threads(&bench, 1, WARM).await?;
    for (name, tasks) in [("1 thread", 1), ("2 threads", 2)] {
        // The median of some rounds: in one of them the host may give a processor to others.
        let mut rates = Vec::new();
        for _ in 0..rounds {
            rates.push(threads(&bench, tasks, count).await?);
        }
        sample.add(name, median(&rates))?;
    }
    Ok(())
}

/// Instructions of each operation, on a machine whose clock counts them.
pub(super) async fn instructions(sample: &mut Sample<'_>) -> Result<()> {
    form(&mut sample.driver).await?;
    let bench = sample.driver.bench(1)?;
    let (rounds, count) = sample.size.pick((9, 1000), (3, 100));
    for single in &SINGLES {
        let each = instructions_of(&bench, &single.command(count), rounds).await?;
        sample.add(single.instructions, each)?;
    }
    Ok(())
}

/// Instructions of one pair, the median of some rounds: what the kernel does for itself now and
/// then is in few of them. A nanosecond of the clock is an instruction.
pub(super) async fn instructions_of(bench: &Bench, command: &Pair, rounds: u32) -> Result<f64> {
    let warm = Pair {
        count: WARM,
        ..command.clone()
    };
    bench.run(&BarePair(warm), LIMIT).await?;
    let bare = BarePair(command.clone());
    let mut each = Vec::new();
    for _ in 0..rounds {
        let (count, span) = bench.run(&bare, LIMIT).await?;
        each.push(span.total_ns() as f64 / count as f64);
    }
    Ok(median(&each))
}

/// Pairs a second with 64 of them under way.
async fn flight(bench: &Bench, tag: &str, count: u64, is_new: bool) -> Result<f64> {
    let command = Flight {
        place: Place::new(SOFTIRQ, tag),
        count,
        depth: 64,
        is_new,
    };
    let flown = bench.run(&command, LIMIT).await?;
    ensure!(flown.granted == count, "{} granted", flown.granted);
    per_second(count, flown.span)
}

/// Pairs a second of tasks that each have a name and a processor of their own.
async fn threads(bench: &Bench, threads: u32, count: u64) -> Result<f64> {
    let command = |first: u32| Pair {
        place: Place {
            first: u64::from(first),
            meet: threads,
            ..Place::new(SOFTIRQ, "thread")
        },
        count,
        is_conversion: false,
    };
    let (one, two) = (command(0), command(1));
    let one = bench.run_on(0, &one, LIMIT);
    if threads == 1 {
        let one = one.await?;
        return per_second(one.count, one.span);
    }
    let (one, two) = tokio::try_join!(one, bench.run_on(1, &two, LIMIT))?;
    let both = Span::around(&[one.span, two.span]).context("two spans")?;
    per_second(one.count + two.count, both)
}

/// Locks a second that are taken and kept on new names, and then dropped.
async fn take_and_drop(bench: &Bench, count: u64) -> Result<(f64, f64)> {
    let (lockspace, tag) = (SOFTIRQ.to_owned(), "taken".to_owned());
    let take = Take {
        lockspace: lockspace.clone(),
        tag: tag.clone(),
        count,
        first: 0,
        mode: Mode::Ex,
        depth: 64,
    };
    let drop = DropAll {
        lockspace,
        tag,
        depth: 64,
    };
    let taken = bench.run(&take, LIMIT).await?;
    let dropped = bench.run(&drop, LIMIT).await?;
    ensure!(
        [taken.count, dropped.count] == [count; 2],
        "{taken:?} {dropped:?}"
    );
    Ok((
        per_second(taken.count, taken.span)?,
        per_second(dropped.count, dropped.span)?,
    ))
}

/// How many a second.
pub(super) fn per_second(count: u64, span: Span) -> Result<f64> {
    let ns = span.total_ns();
    ensure!(ns > 0, "{count} in no time");
    Ok(count as f64 * 1e9 / ns as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_count_over_its_time() {
        let span = Span {
            begin_ns: 500,
            end_ns: 2_000_000_500,
        };
        assert_eq!(per_second(6, span).unwrap(), 3.0);
        let nothing = Span {
            begin_ns: 5,
            end_ns: 5,
        };
        assert!(per_second(6, nothing).is_err());
    }

    #[test]
    fn every_operation_has_its_figures() {
        for single in SINGLES {
            for (name, unit) in [(single.time, "µs"), (single.instructions, "instr")] {
                let figure = FIGURES.iter().find(|figure| figure.name == name).unwrap();
                assert_eq!(figure.unit, unit);
                let kind = if single.is_conversion {
                    "NL-EX-NL"
                } else {
                    "lock+unlock"
                };
                assert!(
                    name.starts_with(&format!("{kind} {}", single.lockspace)),
                    "{name}"
                );
            }
        }
    }
}
