// SPDX-License-Identifier: GPL-2.0-only
//! Seeded simulation: several cores, a model of cmand's ordered groups, of the
//! fence domain and of the kernels, with cuts, crashes, dead daemons and slow
//! everything. Faults first; then all heals and progress is demanded.
//!
//! `SEED=n` runs one seed; `SEEDS=n` that many. A failure prints its seed.

mod checker;
mod cluster;
mod kernel;
mod rng;

use cluster::Cluster;
use cluster::Planted;

/// Steps with faults, and steps at most to come to rest without.
const STORM: usize = 4000;
const CALM: usize = 20_000;

fn run(seed: u64, planted: Planted) -> Result<(), String> {
    let mut cluster = Cluster::new(seed, planted);
    let end = storm_and_calm(&mut cluster);
    end.map_err(|error| format!("{error}\n{}", cluster.story()))
}

fn storm_and_calm(cluster: &mut Cluster) -> Result<(), String> {
    for _ in 0..STORM {
        cluster.step(true)?;
    }
    cluster.heal();
    for _ in 0..CALM {
        cluster.step(false)?;
        if cluster.is_at_rest() {
            return cluster.check_rest();
        }
    }
    Err(format!(
        "no rest after {CALM} steps:\n{}",
        cluster.describe()
    ))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

#[test]
fn storms_break_no_rule_and_calm_makes_progress() {
    if let Some(seed) = number("SEED") {
        if let Err(error) = run(seed, Planted::None) {
            panic!("seed {seed}: {error}");
        }
        return;
    }
    for seed in 0..number("SEEDS").unwrap_or(300) {
        if let Err(error) = run(seed, Planted::None) {
            panic!("seed {seed}: {error}");
        }
    }
}

/// A checker that finds nothing proves nothing: with each of these planted
/// faults around the cores it must find a violation.
#[test]
fn planted_faults_are_found() {
    let faults = [
        (Planted::FencingLies, "unfenced"),
        (Planted::StopIgnored, "runs"),
        (Planted::StartForged, "still runs"),
        (Planted::MembersDiffer, "other members"),
        (Planted::FencedForgets, "no rest"),
    ];
    for (planted, expected) in faults {
        let found = (0..200).find_map(|seed| run(seed, planted).err());
        let found = found.unwrap_or_else(|| panic!("{planted:?} was not found"));
        assert!(found.contains(expected), "{planted:?}: {found}");
    }
}
