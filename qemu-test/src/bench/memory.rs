// SPDX-License-Identifier: GPL-2.0-only
//! What a lock on a resource of its own costs in memory: as slab objects, and as memory that is
//! missing afterwards, in which slabs' holes and everything beside them count.
//!
//! What the bench itself needs for a lock is reserved before, so that it is in neither.

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use super::drive::Driver;
use super::drive::RECOVERY_LIMIT;
use super::drive::STEP_LIMIT;
use super::drive::SpaceSpec;
use super::figure::Figure;
use super::load::Mode;
use super::load::Reserve;
use super::load::Take;
use super::sample::Sample;
use crate::node::Node;

/// The figures of memory, in the order of the table.
pub(super) const FIGURES: &[Figure] = &[
    Figure::cost("slab at 100,000", "B/lock"),
    Figure::cost("memory at 100,000", "B/lock"),
    Figure::cost("slab at 1,000,000", "B/lock"),
    Figure::cost("memory at 1,000,000", "B/lock"),
];

/// How many locks, and the figures that come of them. Each wants a boot of its own: a lock manager
/// may keep resources for a while that nobody locks any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Locks {
    full: u64,
    quick: u64,
    slab: &'static str,
    memory: &'static str,
}

/// All sizes.
pub(super) const SIZES: [Locks; 2] = [
    Locks {
        full: 100_000,
        quick: 5_000,
        slab: "slab at 100,000",
        memory: "memory at 100,000",
    },
    Locks {
        full: 1_000_000,
        quick: 10_000,
        slab: "slab at 1,000,000",
        memory: "memory at 1,000,000",
    },
];

/// Memory of a node: enough for the greatest size. User Mode Linux puts modules behind it, and
/// calls from there reach the kernel no further than 2 GiB away.
pub(super) const MEMORY_MIB: u32 = 1536;

/// Name of the lockspace that this bench makes.
const SPACE: &str = "memory";

impl Locks {
    pub(super) fn name(self) -> String {
        format!("{} locks", self.full)
    }

    /// Takes a sample, on a node that has just booted.
    pub(super) async fn measure(self, sample: &mut Sample<'_>) -> Result<()> {
        let space = SpaceSpec::new(SPACE, true);
        sample.driver.form(&space, &[1]).await?;
        let count = sample.size.pick(self.full, self.quick);
        let cost = cost_of(&sample.driver, count).await?;
        sample.add(self.slab, cost.slab)?;
        sample.add(self.memory, cost.memory)
    }
}

/// Bytes for each lock with its resource.
struct Cost {
    slab: f64,
    memory: f64,
}

async fn cost_of(driver: &Driver, count: u64) -> Result<Cost> {
    let bench = driver.bench(1)?;
    let [lockspace, tag] = [SPACE, "memory"].map(str::to_owned);
    let reserve = Reserve {
        lockspace: lockspace.clone(),
        tag: tag.clone(),
        count,
    };
    bench.run(&reserve, STEP_LIMIT).await?;
    let before = Used::of(bench.node()).await?;
    let take = Take {
        lockspace: lockspace.clone(),
        tag: tag.clone(),
        count,
        first: 0,
        mode: Mode::Ex,
        depth: 64,
    };
    let taken = bench.run(&take, RECOVERY_LIMIT).await?;
    ensure!(taken.count == count, "{} of {count} taken", taken.count);
    let after = Used::of(bench.node()).await?;
    let each = |before: u64, after: u64| (after as f64 - before as f64) / count as f64;
    Ok(Cost {
        slab: each(before.slab, after.slab),
        // The other way round: it is what is left.
        memory: each(after.available, before.available),
    })
}

/// Memory of a node, bytes.
struct Used {
    /// Of all objects in slabs that are in use.
    slab: u64,
    /// That programs could have.
    available: u64,
}

impl Used {
    async fn of(node: &Node) -> Result<Self> {
        // Caches that the kernel would give back are not used.
        node.sh("sync; echo 3 >/proc/sys/vm/drop_caches")
            .await?
            .ok()?;
        let slabs = node.read_text("/proc/slabinfo").await?;
        let memory = node.read_text("/proc/meminfo").await?;
        Ok(Used {
            slab: slab_bytes(&slabs)?,
            available: available_bytes(&memory)?,
        })
    }
}

/// Active objects times their size, over all caches: which of them a lock manager has for itself
/// does not matter, as caches of one size may be one.
fn slab_bytes(slabinfo: &str) -> Result<u64> {
    let mut bytes = 0;
    let caches = slabinfo
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with('#'));
    for line in caches {
        let mut fields = line.split_whitespace().skip(1);
        let active = fields.next().and_then(|field| field.parse::<u64>().ok());
        let size = fields.nth(1).and_then(|field| field.parse::<u64>().ok());
        let (active, size) = active.zip(size).with_context(|| format!("in {line:?}"))?;
        bytes += active * size;
    }
    ensure!(bytes > 0, "/proc/slabinfo lists nothing");
    Ok(bytes)
}

fn available_bytes(meminfo: &str) -> Result<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.and_then(|rest| rest.split_whitespace().next());
    let kib: u64 = number
        .and_then(|number| number.parse().ok())
        .context("no MemAvailable in /proc/meminfo")?;
    Ok(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        let slabs = "slabinfo - version: 2.1\n\
            # name <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables\n\
            dlm_rsb 10 24 328 12 1 : tunables 0 0 0 : slabdata 2 2 0\n\
            dlm_lkb 3 17 232 17 1 : tunables 0 0 0 : slabdata 1 1 0\n";
        assert_eq!(slab_bytes(slabs).unwrap(), 10 * 328 + 3 * 232);
        assert!(slab_bytes("slabinfo - version: 2.1\n").is_err());
        assert!(slab_bytes("slabinfo - version: 2.1\nx y\n").is_err());
        let memory = "MemTotal: 10 kB\nMemAvailable:     4 kB\n";
        assert_eq!(available_bytes(memory).unwrap(), 4096);
        assert!(available_bytes("MemTotal: 10 kB\n").is_err());
    }
}
