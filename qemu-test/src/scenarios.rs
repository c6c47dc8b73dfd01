// SPDX-License-Identifier: GPL-2.0-only
//! The registry of scenarios. One file per scenario or family; the order here is that of a run.

mod bench_module;
mod boot;
mod control;
mod daemon_death;
mod devices;
mod fence_agent;
mod gfs2;
mod interrupted;
mod isolation;
mod load;
mod lock_client;
mod main_job;
mod module_load;
mod network;
mod planted;
mod power;
mod systemd;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use clap::ValueEnum;

use crate::scenario::Case;
use crate::scenario::Scenario;
use crate::spec::Kind;

/// All scenarios.
pub static ALL: &[Scenario] = &[
    boot::SCENARIO,
    control::SCENARIO,
    isolation::SCENARIO,
    network::SCENARIO,
    planted::REPORT,
    planted::LOCK_ORDER,
    planted::SLEEP,
    power::SCENARIO,
    fence_agent::SCENARIO,
    module_load::SCENARIO,
    daemon_death::OURS,
    interrupted::SCENARIO,
    devices::SCENARIO,
    bench_module::OURS,
    bench_module::INTREE,
    load::SCENARIO,
    main_job::OURS,
    main_job::MIXED,
    main_job::MIXED_INTREE,
    daemon_death::INTREE,
    gfs2::OURS,
    gfs2::INTREE,
    systemd::SCENARIO,
];

/// Finds a case by `NAME` (on its cheapest rung) or `NAME@KIND`.
pub fn find(word: &str) -> Result<Case> {
    let (name, kind) = match word.split_once('@') {
        Some((name, kind)) => {
            let kind = Kind::from_str(kind, true).map_err(anyhow::Error::msg);
            (name, Some(kind.with_context(|| format!("in {word:?}"))?))
        }
        None => (word, None),
    };
    let scenario = ALL.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.with_context(|| {
        let names: Vec<_> = ALL.iter().map(|scenario| scenario.name).collect();
        format!("no scenario {name:?}; there are {}", names.join(", "))
    })?;
    let kind = match kind {
        Some(kind) => kind,
        None => *scenario.rungs.first().context("a scenario without rungs")?,
    };
    if !scenario.rungs.contains(&kind) {
        bail!("scenario {name} cannot run on {kind}");
    }
    Ok(Case { scenario, kind })
}

/// All cases: every scenario on every rung it can run on, one kind after the other.
pub fn all_cases(kinds: &[Kind]) -> Vec<Case> {
    let of_kind = |kind: Kind| {
        let able = ALL.iter().filter(move |s| s.rungs.contains(&kind));
        able.map(move |scenario| Case { scenario, kind })
    };
    kinds.iter().copied().flat_map(of_kind).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_scenario_has_a_rung() {
        for (index, scenario) in ALL.iter().enumerate() {
            assert!(!scenario.rungs.is_empty(), "{}", scenario.name);
            let again = ALL[index + 1..].iter().any(|s| s.name == scenario.name);
            assert!(!again, "{} twice", scenario.name);
            assert_eq!(find(scenario.name).unwrap().scenario.name, scenario.name);
        }
    }

    #[test]
    fn a_case_is_found_by_name_and_kind() {
        assert_eq!(find("boot").unwrap().kind, Kind::Uml);
        assert_eq!(find("boot@qemu").unwrap().kind, Kind::Qemu);
        for (word, part) in [
            ("bot", "no scenario \"bot\"; there are boot,"),
            ("power@uml", "cannot run on uml"),
            ("boot@vax", "vax"),
        ] {
            let error = format!("{:#}", find(word).unwrap_err());
            assert!(error.contains(part), "{error}");
        }
    }
}
