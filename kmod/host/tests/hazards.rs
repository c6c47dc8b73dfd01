// SPDX-License-Identifier: GPL-2.0-only
//! What other implementations are known to get wrong, one test each; and the value block through
//! failures.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/cluster.rs"]
mod nodes;
mod support;

use dlm_core::lockcore::flags::*;
use dlm_core::lockcore::mode::Mode;
use dlm_core::lockcore::shard::Status;
use nodes::{Cluster, Told, LVB_LEN};

type Bytes = Option<Vec<u8>>;

/// The last completion of a lock among the news, after everything has been delivered.
fn outcome(c: &mut Cluster, lock: u32) -> (Status, StatusFlags, Option<Mode>, Bytes) {
    c.settle();
    let done = c.news.iter().rev().find_map(|(l, told)| match told {
        Told::Done {
            status,
            sb_flags,
            mode,
            lvb,
        } if *l == lock => Some((*status, *sb_flags, *mode, lvb.clone())),
        Told::Done { .. } | Told::Blocking(_) | Told::Released => None,
    });
    let done = done.unwrap_or_else(|| panic!("{lock} was told nothing"));
    c.news.clear();
    done
}

const ZERO: [u8; LVB_LEN] = [0; LVB_LEN];

fn value(n: u8) -> [u8; LVB_LEN] {
    [n; LVB_LEN]
}

fn granted(c: &mut Cluster, node: u32, resource: usize, mode: Mode, flags: LockFlags) -> u32 {
    let lock = c.request(node, resource, mode, flags, &ZERO).unwrap();
    let (status, _, held, _) = outcome(c, lock);
    assert_eq!((status, held), (Status::Granted, Some(mode)));
    lock
}

fn converted(
    c: &mut Cluster,
    lock: u32,
    mode: Mode,
    flags: LockFlags,
    n: u8,
) -> (StatusFlags, Bytes) {
    assert!(c.convert(lock, mode, flags, &value(n)));
    let (status, sb_flags, held, lvb) = outcome(c, lock);
    assert_eq!((status, held), (Status::Granted, Some(mode)));
    (sb_flags, lvb)
}

/// A resource whose directory node is one of three, and that is mastered by `master`.
fn mastered_by(c: &mut Cluster, master: u32, resource: usize) -> u32 {
    granted(c, master, resource, Mode::Nl, VALBLK)
}

/// Writes `n` through a lock and leaves it at NL.
fn write(c: &mut Cluster, lock: u32, n: u8) {
    converted(c, lock, Mode::Ex, VALBLK, 0);
    converted(c, lock, Mode::Nl, VALBLK, n);
}

#[test]
fn a_value_reaches_every_reader_whoever_wrote_it() {
    for resource in 0..6 {
        let mut c = Cluster::new(1, 3);
        let locks: Vec<u32> = (1..=3)
            .map(|node| granted(&mut c, node, resource, Mode::Nl, VALBLK))
            .collect();
        for (n, writer) in locks.iter().enumerate() {
            write(&mut c, *writer, n as u8 + 1);
            for reader in &locks {
                let (sb_flags, lvb) = converted(&mut c, *reader, Mode::Pr, VALBLK, 0);
                assert_eq!(
                    (sb_flags, lvb),
                    (StatusFlags::NONE, Some(value(n as u8 + 1).to_vec()))
                );
                converted(&mut c, *reader, Mode::Nl, VALBLK, 0);
            }
        }
        c.finish();
    }
}

#[test]
fn a_first_read_leaves_the_buffer_alone_on_every_node() {
    for node in 1..=3 {
        let mut c = Cluster::new(2, 3);
        mastered_by(&mut c, 1, 0);
        let lock = c.request(node, 0, Mode::Pr, VALBLK, &value(9)).unwrap();
        assert_eq!(
            outcome(&mut c, lock),
            (Status::Granted, StatusFlags::NONE, Some(Mode::Pr), None)
        );
        let (sb_flags, lvb) = converted(&mut c, lock, Mode::Ex, VALBLK, 9);
        assert_eq!((sb_flags, lvb), (StatusFlags::NONE, None));
        c.finish();
    }
}

#[test]
fn an_unlock_without_bytes_does_not_write() {
    for node in 1..=3 {
        let mut c = Cluster::new(3, 3);
        let keeper = mastered_by(&mut c, 1, 0);
        write(&mut c, keeper, 5);
        // Taken without a value block, given up with the flag but without a buffer.
        let lock = granted(&mut c, node, 0, Mode::Ex, LockFlags::NONE);
        assert!(c.unlock_without_buffer(lock, VALBLK));
        c.settle();
        let (sb_flags, lvb) = converted(&mut c, keeper, Mode::Pr, VALBLK, 0);
        assert_eq!(
            (sb_flags, lvb),
            (StatusFlags::NONE, Some(value(5).to_vec())),
            "node {node}"
        );
        c.finish();
    }
}

#[test]
fn a_forced_unlock_does_not_write_what_nobody_meant_to() {
    for node in 1..=3 {
        let mut c = Cluster::new(4, 3);
        let keeper = mastered_by(&mut c, 1, 0);
        write(&mut c, keeper, 5);
        // Granted, then abandoned.
        let lock = granted(&mut c, node, 0, Mode::Ex, VALBLK);
        assert!(c.unlock(lock, FORCEUNLOCK, &value(6)));
        c.settle();
        // Waiting, abandoned just as it is granted.
        converted(&mut c, keeper, Mode::Pr, VALBLK, 0);
        let lock = c.request(node, 0, Mode::Ex, VALBLK, &value(7)).unwrap();
        c.settle();
        assert!(c.convert(keeper, Mode::Nl, LockFlags::NONE, &ZERO));
        if c.locks.contains_key(&lock) {
            assert!(c.unlock(lock, FORCEUNLOCK | VALBLK, &value(7)) || node == 1);
        }
        c.settle();
        let (sb_flags, lvb) = converted(&mut c, keeper, Mode::Pr, VALBLK, 0);
        let expected = if node == 1 { 7 } else { 5 };
        // A lock of the master's own node is granted at once: its owner knows that it holds EX.
        assert_eq!(
            (sb_flags, lvb),
            (StatusFlags::NONE, Some(value(expected).to_vec())),
            "node {node}"
        );
        c.finish();
    }
}

#[test]
fn an_alternative_mode_is_known_on_both_sides() {
    for node in 1..=3 {
        let mut c = Cluster::new(5, 3);
        let reader = granted(&mut c, 1, 0, Mode::Pr, LockFlags::NONE);
        let lock = granted(&mut c, node, 0, Mode::Nl, LockFlags::NONE);
        assert!(c.convert(lock, Mode::Cw, ALTPR, &ZERO));
        let done = outcome(&mut c, lock);
        assert_eq!(
            done,
            (Status::Granted, SBF_ALTMODE, Some(Mode::Pr), None),
            "node {node}"
        );
        // Both hold PR: neither may write, and the master knows.
        assert!(c.convert(reader, Mode::Ex, NOQUEUE, &ZERO));
        assert_eq!(outcome(&mut c, reader).0, Status::Again);
        c.finish();
    }
}

#[test]
fn names_of_different_length_are_different_resources() {
    let mut c = Cluster::new(6, 2);
    c.names = vec![b"a".to_vec(), b"a\0".to_vec()];
    granted(&mut c, 1, 0, Mode::Ex, LockFlags::NONE);
    granted(&mut c, 1, 1, Mode::Ex, LockFlags::NONE);
    let lock = c.request(2, 1, Mode::Ex, NOQUEUE, &ZERO).unwrap();
    assert_eq!(outcome(&mut c, lock).0, Status::Again);
    c.finish();
}

#[test]
fn a_cancel_that_lost_its_race_is_not_taken_for_the_next_one() {
    for node in 2..=3 {
        let mut c = Cluster::new(7, 3);
        let reader = granted(&mut c, 1, 0, Mode::Pr, LockFlags::NONE);
        let lock = granted(&mut c, node, 0, Mode::Nl, LockFlags::NONE);
        // Granted while the cancel is on its way.
        assert!(c.convert(lock, Mode::Cr, LockFlags::NONE, &ZERO));
        assert!(c.unlock(lock, CANCEL, &ZERO));
        while c.news.is_empty() {
            c.deliver();
        }
        assert_eq!(c.locks[&lock].holds, Some(Mode::Cr));
        // The answer to that cancel may still come; the lock is free for the next operation.
        assert!(c.convert(lock, Mode::Ex, LockFlags::NONE, &ZERO));
        assert!(c.unlock(lock, CANCEL, &ZERO));
        assert_eq!(
            outcome(&mut c, lock),
            (Status::Cancelled, StatusFlags::NONE, Some(Mode::Cr), None)
        );
        assert!(c.unlock(reader, LockFlags::NONE, &ZERO));
        c.finish();
    }
}

#[test]
fn a_lost_writer_makes_the_value_invalid_until_somebody_writes() {
    let mut c = Cluster::new(8, 3);
    let keeper = mastered_by(&mut c, 1, 0);
    write(&mut c, keeper, 5);
    granted(&mut c, 2, 0, Mode::Ex, VALBLK);
    c.crash(2);
    c.recover(false);
    let reader = c.request(3, 0, Mode::Pr, VALBLK, &ZERO).unwrap();
    let (status, sb_flags, _, lvb) = outcome(&mut c, reader);
    assert_eq!(status, Status::Granted);
    assert_eq!((sb_flags, lvb), (SBF_VALNOTVALID, Some(value(5).to_vec())));
    converted(&mut c, reader, Mode::Nl, LockFlags::NONE, 0);
    write(&mut c, keeper, 6);
    let (sb_flags, lvb) = converted(&mut c, reader, Mode::Pr, VALBLK, 0);
    assert_eq!(
        (sb_flags, lvb),
        (StatusFlags::NONE, Some(value(6).to_vec()))
    );
    c.finish();
}

/// Node 1 is master and dies; `prepare` gives nodes 2 and 3 their locks.
fn after_loss_of_master(prepare: impl Fn(&mut Cluster)) -> (StatusFlags, Bytes) {
    let mut c = Cluster::new(9, 3);
    let keeper = mastered_by(&mut c, 1, 0);
    write(&mut c, keeper, 5);
    prepare(&mut c);
    c.crash(1);
    c.recover(true);
    let reader = c.request(3, 0, Mode::Cr, VALBLK, &ZERO).unwrap();
    let (status, sb_flags, _, lvb) = outcome(&mut c, reader);
    assert_eq!(status, Status::Granted);
    c.finish();
    (sb_flags, lvb)
}

#[test]
fn a_reader_saves_the_value_when_the_master_is_lost() {
    let got = after_loss_of_master(|c| {
        granted(c, 2, 0, Mode::Pr, VALBLK);
    });
    assert_eq!(got, (StatusFlags::NONE, Some(value(5).to_vec())));
}

#[test]
fn the_latest_copy_survives_but_is_not_trusted() {
    let got = after_loss_of_master(|c| {
        let old = granted(c, 2, 0, Mode::Pr, VALBLK);
        converted(c, old, Mode::Nl, VALBLK, 5);
        let new = granted(c, 3, 0, Mode::Nl, VALBLK);
        write(c, new, 6);
    });
    assert_eq!(got, (SBF_VALNOTVALID, Some(value(6).to_vec())));
}

#[test]
fn a_copy_of_a_lock_that_does_not_carry_it_is_better_than_none() {
    let got = after_loss_of_master(|c| {
        let lock = granted(c, 2, 0, Mode::Pr, VALBLK);
        converted(c, lock, Mode::Nl, LockFlags::NONE, 0);
    });
    assert_eq!(got, (SBF_VALNOTVALID, Some(value(5).to_vec())));
}

#[test]
fn a_value_that_is_lost_altogether_is_reported() {
    let got = after_loss_of_master(|c| {
        granted(c, 2, 0, Mode::Nl, LockFlags::NONE);
    });
    assert_eq!(got, (SBF_VALNOTVALID, None));
}

#[test]
fn a_waiting_lock_is_granted_when_the_holder_is_lost() {
    for (holder, waiter) in [(1, 2), (1, 3), (2, 3), (2, 1), (3, 1)] {
        let mut c = Cluster::new(10, 3);
        mastered_by(&mut c, 1, 0);
        granted(&mut c, holder, 0, Mode::Ex, LockFlags::NONE);
        let lock = c
            .request(waiter, 0, Mode::Ex, LockFlags::NONE, &ZERO)
            .unwrap();
        c.settle();
        assert!(c.locks[&lock].pending.is_some());
        c.crash(holder);
        c.recover(false);
        assert_eq!(
            outcome(&mut c, lock).0,
            Status::Granted,
            "{holder} {waiter}"
        );
        c.finish();
    }
}

#[test]
fn operations_in_flight_to_a_lost_master_are_done() {
    for give_up in [false, true] {
        let mut c = Cluster::new(11, 3);
        mastered_by(&mut c, 1, 0);
        let [converting, unlocking, cancelling] =
            [Mode::Nl, Mode::Cr, Mode::Nl].map(|mode| granted(&mut c, 2, 0, mode, LockFlags::NONE));
        let reader = granted(&mut c, 3, 0, Mode::Pr, LockFlags::NONE);
        assert!(c.convert(cancelling, Mode::Ex, LockFlags::NONE, &ZERO));
        c.settle();
        assert!(c.unlock(cancelling, CANCEL, &ZERO));
        assert!(c.convert(converting, Mode::Pr, LockFlags::NONE, &ZERO));
        assert!(c.unlock(unlocking, LockFlags::NONE, &ZERO));
        let new = c.request(3, 0, Mode::Pr, LockFlags::NONE, &ZERO).unwrap();
        c.crash(1);
        c.recover(give_up);
        c.settle();
        assert_eq!(c.locks[&converting].holds, Some(Mode::Pr));
        assert_eq!(c.locks[&cancelling].holds, Some(Mode::Nl));
        assert_eq!(c.locks[&new].holds, Some(Mode::Pr));
        assert_eq!(c.locks[&reader].holds, Some(Mode::Pr));
        assert!(!c.locks.contains_key(&unlocking));
        c.finish();
    }
}

/// Node 1 is master. Nodes 2 and 3 have locks in these modes; 2 converts first, and does not hear
/// what became of it before node 1 is lost.
fn unheard(resource: usize, modes: [(Mode, Mode, LockFlags); 2]) -> (Cluster, [u32; 2]) {
    let mut c = Cluster::new(12, 3);
    mastered_by(&mut c, 1, resource);
    let locks = [2, 3].map(|node| {
        granted(
            &mut c,
            node,
            resource,
            modes[node as usize - 2].0,
            LockFlags::NONE,
        )
    });
    c.settle();
    c.news.clear();
    for (at, node) in [(1, 3), (0, 2)] {
        let (_, mode, flags) = modes[at];
        assert!(c.convert(locks[at], mode, flags, &ZERO));
        while c.deliver_between(node, 1) {}
        while c.deliver_between(1, 3) {}
    }
    c.crash(1);
    (c, locks)
}

#[test]
fn a_conversion_between_readers_and_writers_whose_grant_was_lost() {
    for resource in 0..8 {
        // Node 3 waits for CW; node 2 gives up PR for CW, which lets both have it.
        let modes = [
            (Mode::Pr, Mode::Cw, LockFlags::NONE),
            (Mode::Nl, Mode::Cw, LockFlags::NONE),
        ];
        let (mut c, locks) = unheard(resource, modes);
        assert_eq!(c.locks[&locks[1]].holds, Some(Mode::Cw));
        c.recover(false);
        c.settle();
        assert_eq!(locks.map(|lock| c.locks[&lock].holds), [Some(Mode::Cw); 2]);
        c.finish();
    }
}

#[test]
fn a_mode_given_up_unheard_stays_given_up() {
    for resource in 0..8 {
        // Both have PR and want EX; node 2 gives way, and node 3 gets it.
        let modes = [
            (Mode::Pr, Mode::Ex, CONVDEADLK),
            (Mode::Pr, Mode::Ex, LockFlags::NONE),
        ];
        let (mut c, locks) = unheard(resource, modes);
        assert_eq!(c.locks[&locks[1]].holds, Some(Mode::Ex));
        c.recover(false);
        c.settle();
        assert!(c.unlock(locks[0], CANCEL, &ZERO));
        let (status, sb_flags, mode, _) = outcome(&mut c, locks[0]);
        assert_eq!(status, Status::Cancelled);
        assert_eq!(
            (sb_flags, mode),
            (SBF_DEMOTED, Some(Mode::Nl)),
            "{resource}"
        );
        c.finish();
    }
}

#[test]
fn a_queued_conversion_that_gave_up_its_mode_cannot_be_cancelled_into_it() {
    for master in 1..=3 {
        let mut c = Cluster::new(13, 3);
        mastered_by(&mut c, master, 0);
        let locks = [1, 2, 3].map(|node| granted(&mut c, node, 0, Mode::Pr, LockFlags::NONE));
        // Neither is deadlocked when it comes; both are once the third is out of the way.
        assert!(c.convert(locks[1], Mode::Ex, CONVDEADLK, &ZERO));
        c.settle();
        assert!(c.convert(locks[0], Mode::Ex, NODLCKWT, &ZERO));
        c.settle();
        assert!(c.unlock(locks[2], LockFlags::NONE, &ZERO));
        c.settle();
        c.news.clear();
        assert!(c.unlock(locks[1], CANCEL, &ZERO));
        let told = outcome(&mut c, locks[1]);
        let expected = (Status::Cancelled, SBF_DEMOTED, Some(Mode::Nl), None);
        assert_eq!(told, expected, "{master}");
        assert_eq!(c.locks[&locks[0]].holds, Some(Mode::Ex));
        c.finish();
    }
}

#[test]
fn conversions_that_a_recovery_took_in_out_of_order_do_not_wait_for_each_other() {
    // Who becomes the new master is up to chance.
    for seed in 0..16 {
        let (first, second) = (1 + seed as u32 % 2, 2 - seed as u32 % 2);
        let mut c = Cluster::new(seed, 3);
        mastered_by(&mut c, 3, 0);
        let [one, other, third] =
            [first, second, 2].map(|node| granted(&mut c, node, 0, Mode::Pr, LockFlags::NONE));
        // The first in the queue is in the way of the second; both wait for the third.
        assert!(c.convert(one, Mode::Cw, LockFlags::NONE, &ZERO));
        assert!(c.convert(other, Mode::Nl, LockFlags::NONE, &ZERO));
        c.settle();
        assert!(c.convert(other, Mode::Cw, LockFlags::NONE, &ZERO));
        c.settle();
        c.crash(3);
        c.recover(false);
        c.settle();
        assert!(c.unlock(third, LockFlags::NONE, &ZERO));
        c.settle();
        for lock in [one, other] {
            assert_eq!(c.locks[&lock].holds, Some(Mode::Cw), "seed {seed}");
        }
        c.finish();
    }
}

#[test]
fn a_value_that_was_found_is_kept_when_locks_are_made_known_again() {
    // Who becomes the new master is up to chance.
    for seed in 0..16 {
        let mut c = Cluster::new(seed, 3);
        mastered_by(&mut c, 3, 0);
        let holder = granted(&mut c, 1, 0, Mode::Nl, VALBLK);
        write(&mut c, holder, 57);
        converted(&mut c, holder, Mode::Pr, VALBLK, 0);
        let waiter = c.request(2, 0, Mode::Ex, VALBLK, &ZERO).unwrap();
        c.settle();
        c.crash(3);
        c.give_up_behind(1 + seed as u32 % 2);
        c.recover(false);
        c.settle();
        c.news.clear();
        assert!(c.unlock(holder, LockFlags::NONE, &ZERO));
        let told = outcome(&mut c, waiter);
        let expected = (
            Status::Granted,
            StatusFlags::NONE,
            Some(Mode::Ex),
            Some(value(57).to_vec()),
        );
        assert_eq!(told, expected, "seed {seed}");
        c.finish();
    }
}

#[test]
fn who_is_in_the_way_of_conversions_out_of_order_is_told() {
    // Who becomes the new master is up to chance.
    for seed in 0..16 {
        let (first, second) = (1 + seed as u32 % 2, 2 - seed as u32 % 2);
        let mut c = Cluster::new(seed, 4);
        mastered_by(&mut c, 3, 0);
        let one = granted(&mut c, first, 0, Mode::Pw, LockFlags::NONE);
        let other = granted(&mut c, second, 0, Mode::Nl, LockFlags::NONE);
        let third = granted(&mut c, 4, 0, Mode::Cr, LockFlags::NONE);
        c.news.clear();
        // What the master tells the third is lost with it.
        for (node, lock, mode) in [(first, one, Mode::Ex), (second, other, Mode::Pr)] {
            assert!(c.convert(lock, mode, LockFlags::NONE, &ZERO));
            while c.deliver_between(node, 3) || c.deliver_between(3, node) {}
        }
        c.crash(3);
        c.recover(false);
        c.settle();
        let is_told =
            |(lock, told): &(u32, Told)| *lock == third && matches!(told, Told::Blocking(_));
        assert!(c.news.iter().any(is_told), "seed {seed}");
        assert!(c.unlock(third, LockFlags::NONE, &ZERO));
        c.settle();
        assert_eq!(c.locks[&one].holds, Some(Mode::Ex), "seed {seed}");
        c.finish();
    }
}
