// SPDX-License-Identifier: GPL-2.0-only
//! Shards of several nodes with each other, without recovery: random operations under a checker,
//! and the few properties that users build on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/cluster.rs"]
mod nodes;
mod support;

use dlm_core::lockcore::flags::*;
use dlm_core::lockcore::mode::Mode;
use dlm_core::lockcore::shard::Status;
use nodes::{Cluster, Told, LVB_LEN};

const FLAGS: [LockFlags; 9] = [
    NOQUEUE,
    NOQUEUEBAST,
    HEADQUE,
    NOORDER,
    ALTPR,
    ALTCW,
    VALBLK,
    IVVALBLK,
    NODLCKWT,
];

fn some_flags(c: &mut Cluster, more: &[LockFlags]) -> LockFlags {
    let mut flags = LockFlags::NONE;
    for flag in FLAGS.iter().chain(more) {
        if c.random.one_in(6) {
            flags |= *flag;
        }
    }
    flags
}

fn random_step(c: &mut Cluster, nodes: u32) {
    let lvb = c.random.next().to_le_bytes();
    let known: Vec<u32> = c.locks.keys().copied().collect();
    match c.random.below(20) {
        0..=2 if known.len() < 30 && nodes > 0 => {
            let node = 1 + c.random.below(nodes as usize) as u32;
            let (resource, mode) = (c.random.below(4), c.random.mode());
            let flags = some_flags(c, &[]);
            c.request(node, resource, mode, flags, &lvb);
        }
        3..=6 if !known.is_empty() => {
            let lock = c.random.pick(&known);
            let mode = c.random.mode();
            let flags = some_flags(c, &[QUECVT, CONVDEADLK]);
            c.convert(lock, mode, flags, &lvb);
        }
        7 if !known.is_empty() => {
            let lock = c.random.pick(&known);
            c.unlock(lock, CANCEL, &lvb);
        }
        8 if !known.is_empty() => {
            let lock = c.random.pick(&known);
            c.unlock(lock, FORCEUNLOCK, &lvb);
        }
        9 if !known.is_empty() => {
            let lock = c.random.pick(&known);
            c.unlock(lock, VALBLK, &lvb);
        }
        10 => {
            let ms = c.random.below(600) as u64;
            c.pass(ms);
        }
        _ => {
            c.deliver();
        }
    }
    c.news.clear();
}

fn run(seed: u64, nodes: u32, steps: usize, failing: bool) -> (u64, u64) {
    let mut c = Cluster::new(seed, nodes);
    c.failing = failing;
    for _ in 0..steps {
        random_step(&mut c, nodes);
    }
    let figures = (c.messages, c.no_memory);
    c.finish();
    figures
}

#[test]
fn two_nodes_never_grant_what_does_not_go_together() {
    let messages: u64 = (0..60).map(|seed| run(seed, 2, 1500, false).0).sum();
    assert!(messages > 10_000, "{messages}");
}

#[test]
fn three_nodes_never_grant_what_does_not_go_together() {
    let messages: u64 = (100..160).map(|seed| run(seed, 3, 1500, false).0).sum();
    assert!(messages > 10_000, "{messages}");
}

#[test]
fn nothing_is_lost_when_memory_is_short() {
    let no_memory: u64 = (200..230).map(|seed| run(seed, 3, 1500, true).1).sum();
    assert!(no_memory > 100, "{no_memory}");
}

/// Nodes are lost and come back, also during the recovery from that.
fn run_with_crashes(seed: u64, steps: usize) {
    let mut c = Cluster::new(seed, 4);
    for step in 0..steps {
        let nodes = c.nodes();
        let node = c.random.pick(&nodes);
        let (lvb, resource, mode) = (step.to_le_bytes(), c.random.below(4), c.random.mode());
        match c.random.below(120) {
            0 if nodes.len() > 2 => {
                c.crash(node);
                // The others do not know yet.
                for _ in 0..c.random.below(20) {
                    c.deliver();
                }
                c.recover(true);
            }
            1 if nodes.len() < 4 => {
                let back = (1..=4).find(|n| !nodes.contains(n)).unwrap();
                c.join(back);
                c.recover(true);
            }
            2 => c.recover(false),
            3..=25 if c.locks.len() < 30 => {
                let flags = some_flags(&mut c, &[]);
                c.request(node, resource, mode, flags, &lvb);
            }
            _ => random_step(&mut c, 0),
        }
        c.news.clear();
    }
    c.finish();
}

#[test]
fn recovery_keeps_what_owners_rely_on() {
    for seed in 0..150 {
        run_with_crashes(seed, 1500);
    }
}

/// Everybody wants EX, keeps it until told that it blocks somebody, and counts in the value block:
/// no count is lost, and everybody gets its turns.
#[test]
fn a_counter_in_the_value_block_loses_nothing() {
    for seed in 0..20 {
        let mut c = Cluster::new(seed, 3);
        let zero = [0; LVB_LEN];
        let mut turns = std::collections::BTreeMap::new();
        for n in 0..12u32 {
            let lock = c.request(1 + n % 3, 0, Mode::Nl, VALBLK, &zero).unwrap();
            turns.insert(lock, 0u64);
        }
        c.settle();
        c.news.clear();
        let locks: Vec<u32> = turns.keys().copied().collect();
        for lock in &locks {
            assert!(c.convert(*lock, Mode::Ex, VALBLK | QUECVT, &zero));
        }
        let (mut counted, mut steps) = (0u64, 0);
        while turns.values().any(|n| *n < 10) {
            steps += 1;
            assert!(steps < 200_000, "somebody waits for ever: {turns:?}");
            if !c.deliver() && c.news.is_empty() {
                c.pass(10);
            }
            let Some((lock, told)) = c.news.pop_front() else {
                continue;
            };
            match told {
                Told::Done {
                    status: Status::Granted,
                    mode: Some(Mode::Ex),
                    lvb,
                    sb_flags,
                } => {
                    let seen = lvb.map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap()));
                    assert_eq!(seen, counted);
                    assert_eq!(sb_flags, StatusFlags::NONE);
                    counted += 1;
                    *turns.get_mut(&lock).unwrap() += 1;
                }
                Told::Blocking(Mode::Ex) => {
                    if c.locks[&lock].holds == Some(Mode::Ex) {
                        assert!(c.convert(lock, Mode::Nl, VALBLK, &counted.to_le_bytes()));
                    }
                }
                Told::Done {
                    status: Status::Granted,
                    mode: Some(Mode::Nl),
                    ..
                } => {
                    assert!(c.convert(lock, Mode::Ex, VALBLK | QUECVT, &zero));
                }
                other @ (Told::Done { .. } | Told::Blocking(_) | Told::Released) => {
                    panic!("{lock}: {other:?}")
                }
            }
        }
        c.finish();
    }
}

/// The messages of an operation in the steady state.
#[test]
fn message_counts_are_those_of_the_protocol() {
    let mut c = Cluster::new(1, 2);
    let zero = [0; LVB_LEN];
    // Node 1 becomes master of some resource whose directory node is either.
    let master = c.request(1, 0, Mode::Pr, LockFlags::NONE, &zero).unwrap();
    c.settle();
    let first = c.messages;
    assert!(first == 0 || first == 2, "{first}");
    let cost = |c: &mut Cluster, what: &str, expected: &[u64], f: &mut dyn FnMut(&mut Cluster)| {
        let before = c.messages;
        f(c);
        while c.deliver() {}
        let sent = c.messages - before;
        assert!(expected.contains(&sent), "{what}: {sent}");
    };
    let mut lock = 0;
    cost(&mut c, "first request", &[2, 4], &mut |c| {
        lock = c.request(2, 0, Mode::Cr, LockFlags::NONE, &zero).unwrap();
    });
    cost(&mut c, "request, master known", &[2], &mut |c| {
        c.request(2, 0, Mode::Cr, LockFlags::NONE, &zero).unwrap();
    });
    cost(&mut c, "up", &[2], &mut |c| {
        assert!(c.convert(lock, Mode::Pr, LockFlags::NONE, &zero));
    });
    cost(&mut c, "down", &[1], &mut |c| {
        assert!(c.convert(lock, Mode::Nl, LockFlags::NONE, &zero));
    });
    cost(&mut c, "up that waits", &[3], &mut |c| {
        assert!(c.convert(lock, Mode::Cw, LockFlags::NONE, &zero));
        while c.deliver() {}
        assert!(c.unlock(master, LockFlags::NONE, &zero));
    });
    cost(&mut c, "unlock", &[2], &mut |c| {
        assert!(c.unlock(lock, LockFlags::NONE, &zero));
    });
    c.finish();
}
