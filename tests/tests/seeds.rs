// SPDX-License-Identifier: GPL-2.0-only
//! The simulator finds nothing in the lock manager and the daemons as they are, and every mistake
//! that is planted in them or in what they rely on.
//!
//! | Mistake | What breaks |
//! |---|---|
//! | not-resent | packets lost with a connection: the cluster never comes to rest |
//! | taken-twice | an unlock or a conversion is done again later: two incompatible grants |
//! | barrier-skipped | a node goes on before others have rebuilt: lost value blocks, lost locks |
//! | names-lost | the directory forgets masters: two for one resource, incompatible grants |
//! | images-forgotten | a new master does not know of locks: incompatible grants |
//! | gone-not-purged | locks of dead nodes stay: waiters never end |
//! | waiters-forgotten | requests to a dead master are never answered |
//! | writer-loss-ignored | an old value block is called valid |
//! | saved-lost | messages of a recovery are lost: operations never end |
//! | read-beside-write | PR beside EX |
//! | not-stopped | operations during a recovery |
//! | open-without-quorum | a node without quorum grants, while the others may do the same |
//! | everyone-master | each node that asks becomes a new master |
//! | ended-sent-on | nothing arrives any more: the cluster never comes to rest |
//! | not-repeated | the same, as with not-resent: packets lost with a connection |
//! | old-incarnation-read | a node acts on what a peer sent before it died |
//! | down-read | a node acts on what a peer says that is not in the view |
//! | never-retried | two nodes never meet again |
//! | fencing-ignored | a lockspace goes on while somebody who was lost has power and locks |
//! | minority-acts | two clusters at once |
//! | file-forgotten | a node alone in its file founds a cluster beside the other |
//! | agent-lies | the same as fencing-ignored, for all daemons believe it |
//! | return-ignored | a node that an agent lied about runs on: the cluster never comes to rest |
//! | kept-in | a view is made with a node that was cut off from storage |
//! | snapshot-short | the same, for who joins does not know whom to wait for |

use sim::{Mistake, run};

/// Seeds within which every mistake must be found. The full run of 2000 is a command of its own.
const WITHIN: u64 = 2_000;

/// Seeds that show in seconds that nothing is found where nothing is planted.
const CLEAN: u64 = 40;

/// The first seed that finds a mistake.
fn found_by(mistake: Mistake) -> Option<u64> {
    (1..=WITHIN).find(|seed| {
        let run = std::panic::catch_unwind(|| run(*seed, Some(mistake), false));
        !matches!(run, Ok(Ok(_)))
    })
}

#[test]
fn every_planted_mistake_is_found() {
    let missed = Mistake::all()
        .into_iter()
        .filter(|(_, mistake)| found_by(*mistake).is_none());
    let missed: Vec<&str> = missed.map(|(name, _)| name).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn nothing_is_found_where_nothing_is_planted() {
    for seed in 1..=CLEAN {
        if let Err((violation, _)) = run(seed, None, false) {
            panic!("seed {seed}: {violation}");
        }
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in 1..=5 {
        let first = run(seed, None, false).ok();
        assert!(first.is_some_and(|summary| summary.events > 100));
        assert_eq!(first, run(seed, None, true).ok(), "seed {seed}");
    }
}

#[test]
fn runs_are_worth_their_time() {
    // So many that what a seed begins with does not decide it.
    let mut total = sim::Summary::default();
    for seed in 1..=60 {
        if let Ok(summary) = run(seed, None, false) {
            total = total.plus(&summary);
        }
    }
    assert!(total.grants > 15_000, "{total:?}");
    assert!(total.reads > 1_500, "{total:?}");
    assert!(total.recoveries > 600, "{total:?}");
    assert!(total.crashes > 60 && total.cuts > 500, "{total:?}");
    assert!(total.views > 600 && total.kills > 30, "{total:?}");
}
