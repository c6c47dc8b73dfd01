// SPDX-License-Identifier: GPL-2.0-only
//! Signals to a daemon.

use cmand_client::Request;
use nix::sys::signal::Signal;

use super::cluster::Place;
use super::cluster::wait_for;
use super::groups::Client;

#[test]
fn other_signals_than_those_to_end_do_nothing() {
    let place = Place::new();
    let mut n1 = place.start("n1", "n1", &place.three_config());
    n1.status();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGPIPE,
        Signal::SIGQUIT,
        Signal::SIGTSTP,
        Signal::SIGXCPU,
        Signal::SIGXFSZ,
        Signal::SIGSTKFLT,
        Signal::SIGPWR,
    ] {
        n1.signal(signal);
    }
    wait_for("the line of SIGHUP", || {
        n1.log().contains("SIGHUP is ignored").then_some(())
    });
    n1.signal(Signal::SIGTERM);
    let (status, log) = n1.wait();
    // It was alone, and so there was nobody to leave.
    assert!(status.code().is_some(), "{status}: {log}");
}

#[test]
fn a_daemon_with_members_of_groups_says_who_they_are_and_stays() {
    let place = Place::new();
    let [_n1, _n2, mut n3] = place.three();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut client = Client::subscribe(&n3, "lockd");
        let group = "locks".to_owned();
        client.ask(&Request::GroupJoin { group }).unwrap();
        n3.signal(signal);
        let line = format!("signal={signal} group=locks client=lockd");
        wait_for("the refusal", || {
            let log = n3.log();
            let refused = log.lines().find(|line| line.contains("staying"))?;
            log.contains(&line).then(|| refused.to_owned())
        });
        assert_eq!(n3.wait_for_members(3).groups, ["locks"]);
        drop(client);
        wait_for("the end of the group", || {
            n3.status().groups.is_empty().then_some(())
        });
    }
    n3.signal(Signal::SIGINT);
    let (status, log) = n3.wait();
    assert_eq!(status.code(), Some(0), "{log}");
}

/// A signal that a handler takes in the real-time thread makes that one late.
#[test]
fn only_the_first_thread_takes_signals() {
    let place = Place::new();
    let n1 = place.start("n1", "n1", &place.three_config());
    n1.status();
    let threads = std::fs::read_dir(format!("/proc/{}/task", n1.id())).unwrap();
    let mut blocking = Vec::new();
    for thread in threads {
        let thread = thread.unwrap();
        let text = std::fs::read_to_string(thread.path().join("status")).unwrap();
        let blocked = text.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        let blocked = u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap();
        let terminate = 1 << (Signal::SIGTERM as u64 - 1);
        let is_first = thread.file_name() == *n1.id().to_string();
        assert_eq!(blocked & terminate == 0, is_first, "{text}");
        blocking.push(blocked);
    }
    assert!(blocking.len() > 3, "{blocking:?}");
}
