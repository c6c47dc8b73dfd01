// SPDX-License-Identifier: GPL-2.0-only
//! The order of kernel calls, with a kernel that can be made to block.

use std::sync::Mutex;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::kernel::Found;

use super::*;

/// Says what it is called for, and waits for leave to go on at each call.
struct Gated {
    calls: Sender<String>,
    go: Mutex<Receiver<()>>,
    gated: &'static str,
}

impl Gated {
    fn call(&self, what: String) {
        let gated = what.starts_with(self.gated);
        self.calls.send(what).unwrap();
        if gated {
            self.go.lock().unwrap().recv().unwrap();
        }
    }
}

impl Kernel for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn reports_recovery(&self) -> bool {
        false
    }

    fn lockspaces(&self) -> Result<Vec<Found>, KernelError> {
        Ok(Vec::new())
    }

    fn begin(&self) -> Result<(), KernelError> {
        Ok(())
    }

    fn set_members(&self, members: &Members) -> Result<(), KernelError> {
        self.call(format!("members {}", members.len()));
        Ok(())
    }

    fn stop(&self, lockspace: &str) -> Result<(), KernelError> {
        self.call(format!("stop {lockspace}"));
        Ok(())
    }

    fn start(&self, start: &Start) -> Result<(), KernelError> {
        self.call(format!("start {}", start.lockspace));
        Err(KernelError::UnknownNode(1))
    }

    fn answer(&self, lockspace: &str, result: i32) -> Result<Answered, KernelError> {
        self.call(format!("answer {lockspace} {result}"));
        Ok(Answered::NobodyWaits)
    }

    fn forget(&self, lockspace: &str) -> Result<(), KernelError> {
        self.call(format!("forget {lockspace}"));
        Ok(())
    }

    fn end(&self) -> Result<(), KernelError> {
        Ok(())
    }
}

const LIMIT: Duration = Duration::from_secs(10);

fn workers(
    gated: &'static str,
) -> (
    Workers,
    UnboundedReceiver<Done>,
    Receiver<String>,
    Sender<()>,
) {
    let (calls, seen) = channel();
    let (go, gate) = channel();
    let kernel = Arc::new(Gated {
        calls,
        go: Mutex::new(gate),
        gated,
    });
    let (workers, done) = Workers::new(kernel).unwrap();
    (workers, done, seen, go)
}

#[test]
fn a_lockspaces_job_waits_for_the_nodes_before_it_and_not_for_other_lockspaces() {
    let (mut workers, _done, seen, go) = workers("stop a");
    workers.give("a", Job::Stop).unwrap();
    assert_eq!(seen.recv_timeout(LIMIT).unwrap(), "stop a");
    workers.give("b", Job::Stop).unwrap();
    assert_eq!(
        seen.recv_timeout(LIMIT).unwrap(),
        "stop b",
        "although a blocks"
    );
    workers.give("a", Job::Forget).unwrap();
    go.send(()).unwrap();
    assert_eq!(seen.recv_timeout(LIMIT).unwrap(), "forget a");

    let (mut workers, _done, seen, go) = super::tests::workers("members");
    workers.set_members(Members::from([(1, 1)]));
    workers.give("a", Job::Stop).unwrap();
    assert_eq!(seen.recv_timeout(LIMIT).unwrap(), "members 1");
    assert!(seen.try_recv().is_err(), "the stop waits");
    go.send(()).unwrap();
    assert_eq!(seen.recv_timeout(LIMIT).unwrap(), "stop a");
}

#[test]
fn results_come_back_in_order() {
    let (mut workers, mut done, _seen, _go) = workers("never");
    let start = Start {
        lockspace: "a".into(),
        id: 1,
        change: 1,
        members: vec![],
        failed: vec![],
        released: vec![],
        renewed: vec![],
    };
    workers.give("a", Job::Stop).unwrap();
    workers.give("a", Job::Start(start)).unwrap();
    workers.give("a", Job::Answer(-5)).unwrap();
    assert!(matches!(done.blocking_recv(), Some(Done::Stopped { .. })));
    assert!(matches!(
        done.blocking_recv(),
        Some(Done::StartFailed { .. })
    ));
    assert!(matches!(
        done.blocking_recv(),
        Some(Done::NobodyWaited { .. })
    ));
}
