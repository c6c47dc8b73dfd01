// SPDX-License-Identifier: GPL-2.0-only
//! Something that happens while a node locks and unlocks a name over and over.

use std::time::Duration;

use anyhow::Result;

use super::drive::RECOVERY_LIMIT;
use super::drive::STEP_LIMIT;
use super::load::Bench;
use super::load::Pair;
use super::load::Place;
use super::load::Probe;
use super::load::Probed;
use super::load::Stop;

/// A probe with a pause between two pairs, on a name that no other node uses.
pub(super) fn probe(bench: &Bench, lockspace: &str, time: Duration, pause: Duration) -> Probe {
    let place = Place {
        first: u64::from(bench.node().id()),
        ..Place::new(lockspace, "probe")
    };
    Probe {
        place,
        time,
        pause,
        is_conversion: false,
    }
}

/// Runs a probe from before something happens until after it.
pub(super) async fn beside_probe<T>(
    bench: &Bench,
    lockspace: &str,
    pause: Duration,
    happens: impl Future<Output = Result<T>>,
) -> Result<(Probed, T)> {
    let mut command = probe(bench, lockspace, RECOVERY_LIMIT, pause);
    command.place.meet = 2;
    let starter = Pair {
        place: Place {
            meet: 2,
            ..Place::new(lockspace, "starter")
        },
        count: 1,
        is_conversion: false,
    };
    let stop = Stop {
        lockspace: lockspace.to_owned(),
    };
    let beside = async {
        // Both begin together: when this has ended, the probe runs.
        bench.run(&starter, STEP_LIMIT).await?;
        let happened = happens.await;
        bench.run(&stop, STEP_LIMIT).await?;
        happened
    };
    tokio::try_join!(bench.run(&command, 2 * RECOVERY_LIMIT), beside)
}
