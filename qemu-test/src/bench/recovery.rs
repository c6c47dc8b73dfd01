// SPDX-License-Identifier: GPL-2.0-only
//! What a change of members costs, and whom it keeps waiting.
//!
//! | Case | Before | What happens |
//! | --- | --- | --- |
//! | `f1` | two nodes, all locks on the first | the second dies |
//! | `f2` | two nodes, all locks on the second | the second dies |
//! | `f3` | three nodes, the third is master of all, the others hold each | the third dies |
//! | `f4` | three nodes, the first two have half of the locks each | the third dies |
//! | `join` | two nodes, all locks on the first | a third joins |
//!
//! While it happens the first node locks and unlocks a name that nobody shares, over and over; it
//! did the same for a while before.

use std::time::Duration;

use anyhow::Result;
use anyhow::ensure;

use super::beside::beside_probe;
use super::beside::probe;
use super::drive::Driver;
use super::drive::RECOVERY_LIMIT;
use super::drive::STEP_LIMIT;
use super::drive::SpaceSpec;
use super::figure::Figure;
use super::load::Mode;
use super::load::Take;
use super::remote::sent;
use super::sample::Sample;
use crate::node::Node;

/// Memory that a node needs for the locks.
pub(super) const MEMORY_MIB: u32 = 512;

/// How long the probe runs when nothing happens.
const CALM: Duration = Duration::from_secs(1);

/// Its pause.
const PAUSE: Duration = Duration::from_millis(1);

/// Name of the lockspace that this bench makes.
const SPACE: &str = "recovery";

/// The names of a case's figures.
#[derive(Clone, Copy, Debug)]
struct Names {
    case: &'static str,
    kernel: &'static str,
    wall: &'static str,
    cpu: &'static str,
    bytes: &'static str,
    stall: &'static str,
    calm: &'static str,
}

macro_rules! names {
    ($case:literal) => {
        Names {
            case: $case,
            kernel: concat!($case, " kernel"),
            wall: concat!($case, " wall"),
            cpu: concat!($case, " cpu"),
            bytes: concat!($case, " bytes"),
            stall: concat!($case, " stall"),
            calm: concat!($case, " calm"),
        }
    };
}

/// Where the locks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Locks {
    /// All on this node.
    On(u32),
    /// The third node is master of all, the first two hold each.
    Shared,
    /// Half on each of the first two.
    Halves,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The last node dies.
    Death,
    /// The last node joins.
    Join,
}

/// A case of this bench; each sample of it wants a cluster that has just booted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    names: Names,
    /// How many nodes it needs.
    pub(super) nodes: u32,
    locks: Locks,
    change: Change,
}

const fn case(names: Names, nodes: u32, locks: Locks, change: Change) -> Case {
    Case {
        names,
        nodes,
        locks,
        change,
    }
}

/// All cases.
pub(super) const CASES: [Case; 5] = [
    case(names!("f1"), 2, Locks::On(1), Change::Death),
    case(names!("f2"), 2, Locks::On(2), Change::Death),
    case(names!("f3"), 3, Locks::Shared, Change::Death),
    case(names!("f4"), 3, Locks::Halves, Change::Death),
    case(names!("join"), 3, Locks::On(1), Change::Join),
];

/// Figures of a case.
const OF_CASE: usize = 6;

/// The figures of all cases.
pub(super) const FIGURES: &[Figure] = &figures();

const fn figures() -> [Figure; CASES.len() * OF_CASE] {
    let mut all = [Figure::cost("", ""); CASES.len() * OF_CASE];
    let mut at = 0;
    while at < CASES.len() {
        let names = CASES[at].names;
        let first = at * OF_CASE;
        all[first] = Figure::cost(names.kernel, "ms");
        all[first + 1] = Figure::cost(names.wall, "ms");
        all[first + 2] = Figure::cost(names.cpu, "ms");
        all[first + 3] = Figure::cost(names.bytes, "B");
        all[first + 4] = Figure::cost(names.stall, "ms");
        all[first + 5] = Figure::cost(names.calm, "ms");
        at += 1;
    }
    all
}

impl Case {
    /// Its name, as the figures begin with it.
    pub(super) fn name(&self) -> &'static str {
        self.names.case
    }

    /// Takes a sample of each figure of the case, on nodes that have just booted.
    pub(super) async fn measure(&self, sample: &mut Sample<'_>) -> Result<()> {
        let last = self.nodes;
        let before = match self.change {
            Change::Death => last,
            Change::Join => last - 1,
        };
        let members: Vec<u32> = (1..=before).collect();
        let space = SpaceSpec::new(SPACE, true);
        sample.driver.form(&space, &members).await?;
        let locks = sample.size.pick(100_000, 2000);
        self.take_locks(&sample.driver, locks).await?;
        let bench = sample.driver.bench(1)?;
        let calm = probe(&bench, SPACE, CALM, PAUSE);
        let calm = bench.run(&calm, STEP_LIMIT).await?;
        // Whose processor time and bytes can be read before and after: a dead one works no more.
        let counted = match self.change {
            Change::Death => 1..=last - 1,
            Change::Join => 1..=last,
        };
        let cluster = std::sync::Arc::clone(&sample.cluster);
        let counted: Vec<&Node> = counted.map(|id| cluster.node(id)).collect();
        let used = Used::of(&counted).await?;
        let driver = &mut sample.driver;
        let change = async {
            match self.change {
                Change::Death => driver.die(SPACE, last).await,
                Change::Join => driver.join(SPACE, last).await,
            }
        };
        let (stall, recovery) = beside_probe(&bench, SPACE, PAUSE, change).await?;
        ensure!(
            u128::from(stall.span.total_ns()) > recovery.total.as_nanos(),
            "the probe did not run all the time: {stall:?} {recovery:?}"
        );
        let used = Used::of(&counted).await?.since(&used);
        let names = self.names;
        sample.add(names.kernel, ms(recovery.longest()))?;
        sample.add(names.wall, ms(recovery.total))?;
        sample.add(names.cpu, ms(used.cpu))?;
        sample.add(names.bytes, used.bytes as f64)?;
        sample.add(names.stall, stall.wait.max as f64 / 1e6)?;
        sample.add(names.calm, calm.wait.max as f64 / 1e6)
    }

    async fn take_locks(&self, driver: &Driver, count: u64) -> Result<()> {
        match self.locks {
            Locks::On(id) => take(driver, id, 0, count, Mode::Ex).await,
            Locks::Shared => {
                // Who asks first is the master.
                take(driver, 3, 0, count, Mode::Nl).await?;
                take(driver, 1, 0, count, Mode::Pr).await?;
                take(driver, 2, 0, count, Mode::Pr).await
            }
            Locks::Halves => {
                let half = count / 2;
                take(driver, 1, 0, half, Mode::Ex).await?;
                take(driver, 2, half, count - half, Mode::Ex).await
            }
        }
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

async fn take(driver: &Driver, id: u32, first: u64, count: u64, mode: Mode) -> Result<()> {
    let take = Take {
        lockspace: SPACE.to_owned(),
        tag: "data".to_owned(),
        count,
        first,
        mode,
        depth: 64,
    };
    let taken = driver.bench(id)?.run(&take, RECOVERY_LIMIT).await?;
    ensure!(
        taken.count == count,
        "n{id} has {} of {count} locks",
        taken.count
    );
    Ok(())
}

/// What nodes have used so far.
struct Used {
    cpu: Duration,
    bytes: u64,
}

impl Used {
    async fn of(nodes: &[&Node]) -> Result<Self> {
        let mut used = Used {
            cpu: Duration::ZERO,
            bytes: 0,
        };
        for node in nodes {
            used.bytes += sent(node, "tx_bytes").await?;
            used.cpu += node.cpu_time().await?;
        }
        Ok(used)
    }

    fn since(&self, before: &Used) -> Used {
        Used {
            cpu: self.cpu.saturating_sub(before.cpu),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_figure_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), CASES.len() * OF_CASE);
        assert!(!names.contains(""));
    }
}
