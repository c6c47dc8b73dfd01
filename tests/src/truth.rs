// SPDX-License-Identifier: GPL-2.0-only
//! What clients may rely on, seen from above: the checkers.
//!
//! Knows nothing of how locks are managed: only what clients asked for, what they were told, and
//! which machines have power. A lock counts as held from the moment its grant was decided until its
//! client has given it up, or its machine has lost power. Written from the rules of the interface,
//! with a table of its own.

use std::collections::BTreeMap;

use dlm_core::lockcore::lkb::LockId;
use dlm_core::lockcore::mode::Mode;
use dlm_core::lockcore::shard::Status;

/// A rule was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// A new lock.
    Request,
    /// Another mode.
    Convert(Mode),
    /// A weaker mode; the client relies on it already.
    Down(Mode),
    /// The end.
    Unlock,
    /// The end, whatever else is under way.
    Forced,
}

/// A lock of a client.
#[derive(Debug, Clone)]
pub struct Lock {
    /// The machine.
    pub node: u32,
    /// What is locked.
    pub resource: u64,
    /// Its id, once it has one.
    pub id: Option<LockId>,
    /// What it holds, as far as the client knows.
    pub granted: Option<Mode>,
    /// What it waits for.
    pub pending: Option<Pending>,
    /// It carries a value block.
    pub has_lvb: bool,
    /// The client's copy of it.
    pub buffer: u64,
    /// The client was told that it is in the way.
    pub blocks: bool,
    /// Accepted operations since the last completion.
    pub since_ms: u64,
}

/// The value block of a resource.
#[derive(Debug, Clone, Copy, Default)]
struct Value {
    /// The last that was written.
    latest: u64,
    /// Something failed since: it may be stale.
    disturbed: bool,
    /// Nobody held a lock since: it may be gone.
    forgotten: bool,
    /// Somebody was told that it is stale. It stays so until the next write, but a master that
    /// takes over does not know: who read it holds a copy like any other. Stock nodes have the same
    /// gap, and no way to say it.
    told_stale: bool,
}

/// Together or not, `NL` to `EX`.
const TOGETHER: [&[u8; 6]; 6] = [
    b"111111", b"111110", b"111000", b"110100", b"110000", b"100000",
];

fn go_together(a: Mode, b: Mode) -> bool {
    TOGETHER[a as usize][b as usize] == b'1'
}

/// All locks of all clients, by handle.
#[derive(Debug, Default)]
pub struct Truth {
    locks: BTreeMap<u64, Lock>,
    values: BTreeMap<u64, Value>,
    next_handle: u64,
    next_value: u64,
    /// Grants checked.
    pub grants: u64,
    /// Operations completed.
    pub completions: u64,
    /// Value blocks checked.
    pub reads: u64,
}

impl Lock {
    /// The mode that others must not be in conflict with.
    #[must_use]
    pub fn held(&self) -> Option<Mode> {
        match (self.pending, self.granted) {
            (Some(Pending::Unlock | Pending::Forced | Pending::Request), _) => None,
            // What it holds meanwhile is not defined.
            (Some(Pending::Convert(Mode::Pr)), Some(Mode::Cw))
            | (Some(Pending::Convert(Mode::Cw)), Some(Mode::Pr)) => Some(Mode::Nl),
            (Some(Pending::Down(mode)), _) => Some(mode),
            (Some(Pending::Convert(_)) | None, granted) => granted,
        }
    }
}

impl Truth {
    /// A lock of a client.
    #[must_use]
    pub fn lock(&self, handle: u64) -> Option<&Lock> {
        self.locks.get(&handle)
    }

    /// A lock of a client.
    pub fn lock_mut(&mut self, handle: u64) -> Option<&mut Lock> {
        self.locks.get_mut(&handle)
    }

    /// The locks of a node.
    pub fn of_node(&self, node: u32) -> impl Iterator<Item = (u64, &Lock)> {
        let locks = self.locks.iter().filter(move |(_, lock)| lock.node == node);
        locks.map(|(handle, lock)| (*handle, lock))
    }

    /// How many locks there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.locks.len()
    }

    /// A client is about to ask for a new lock.
    pub fn add(&mut self, now_ms: u64, node: u32, resource: u64, has_lvb: bool) -> u64 {
        self.next_handle += 1;
        let lock = Lock {
            node,
            resource,
            id: None,
            granted: None,
            pending: Some(Pending::Request),
            has_lvb,
            buffer: 0,
            blocks: false,
            since_ms: now_ms,
        };
        self.locks.insert(self.next_handle, lock);
        self.next_handle
    }

    /// It was not accepted.
    pub fn refused(&mut self, handle: u64) {
        self.locks.remove(&handle);
    }

    /// A number that was never written to a value block.
    pub fn fresh_value(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }

    /// A client has written a value block.
    pub fn written(&mut self, resource: u64, value: u64) {
        let known = Value {
            latest: value,
            ..Value::default()
        };
        self.values.insert(resource, known);
    }

    /// Something happened after which value blocks may be stale.
    pub fn disturb(&mut self) {
        for value in self.values.values_mut() {
            value.disturbed = true;
        }
    }

    /// A machine lost power, or has left: its locks mean nothing any more.
    pub fn forget_node(&mut self, node: u32) {
        let resources: Vec<u64> = self.of_node(node).map(|(_, lock)| lock.resource).collect();
        self.locks.retain(|_, lock| lock.node != node);
        for resource in resources {
            self.note_holders(resource);
        }
    }

    /// Value blocks live only as long as somebody has the resource locked.
    pub fn note_holders(&mut self, resource: u64) {
        let held = |lock: &Lock| lock.resource == resource && lock.held().is_some();
        if !self.locks.values().any(held)
            && let Some(value) = self.values.get_mut(&resource)
        {
            value.forgotten = true;
        }
    }

    /// A client was told how its operation ended.
    pub fn completed(
        &mut self,
        handle: u64,
        id: LockId,
        status: Status,
        stale: bool,
        mode: Option<Mode>,
        lvb: Option<&[u8]>,
    ) -> Result<(), Violation> {
        let Some(lock) = self.locks.get_mut(&handle) else {
            return broken(format!(
                "lock {handle} completes ({status:?}) and is no more"
            ));
        };
        if *lock.id.get_or_insert(id) != id {
            return broken(format!("lock {handle} changed its id to {id:?}"));
        }
        let pending = lock.pending.take();
        let before = lock.granted;
        let resource = lock.resource;
        self.completions += 1;
        if stale && let Some(value) = self.values.get_mut(&resource) {
            value.told_stale = true;
        }
        let fits = match (pending, status) {
            (None, _) => false,
            (Some(Pending::Request), Status::Unlocked | Status::Deadlock) => false,
            (Some(Pending::Convert(_)), Status::Unlocked) => false,
            (Some(Pending::Down(_)), status) => status == Status::Granted,
            (Some(Pending::Unlock), status) => status == Status::Unlocked,
            // What was under way may end first.
            (Some(Pending::Forced | Pending::Request | Pending::Convert(_)), _) => true,
        };
        if !fits {
            return broken(format!(
                "lock {handle} (node {}, resource {resource}) completes with {status:?} while it \
                 waits for {pending:?}",
                lock.node
            ));
        }
        lock.granted = mode;
        if let Some(bytes) = lvb.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()) {
            lock.buffer = u64::from_le_bytes(bytes);
        }
        if pending == Some(Pending::Forced) && status != Status::Unlocked {
            lock.pending = pending;
        }
        if matches!(status, Status::Granted) {
            lock.blocks = false;
        }
        let ended = match status {
            Status::Granted | Status::Deadlock => false,
            Status::Unlocked => true,
            Status::Cancelled | Status::Again => mode.is_none(),
        };
        if ended {
            self.locks.remove(&handle);
            self.note_holders(resource);
            return Ok(());
        }
        if status == Status::Granted {
            self.check_together(handle)?;
            let reads = matches!(pending, Some(Pending::Request | Pending::Convert(_)));
            if reads {
                self.check_value(handle, before, stale, lvb)?;
            }
        }
        Ok(())
    }

    /// No two clients hold what does not go together.
    fn check_together(&mut self, handle: u64) -> Result<(), Violation> {
        self.grants += 1;
        let Some(lock) = self.locks.get(&handle) else {
            return Ok(());
        };
        let Some(mode) = lock.held() else {
            return Ok(());
        };
        for (other_handle, other) in &self.locks {
            let (same, held) = (other.resource == lock.resource, other.held());
            if *other_handle == handle || !same {
                continue;
            }
            if let Some(held) = held.filter(|held| !go_together(mode, *held)) {
                return broken(format!(
                    "resource {}: lock {handle} on node {} has {mode:?} while lock {other_handle} \
                     on node {} has {held:?}",
                    lock.resource, lock.node, other.node
                ));
            }
        }
        Ok(())
    }

    /// Who gets a mode that excludes writers reads what the last writer wrote, or is told that it
    /// may not be that.
    fn check_value(
        &mut self,
        handle: u64,
        before: Option<Mode>,
        stale: bool,
        lvb: Option<&[u8]>,
    ) -> Result<(), Violation> {
        let Some(lock) = self.locks.get(&handle).filter(|lock| lock.has_lvb) else {
            return Ok(());
        };
        let excludes_writers = lock.granted >= Some(Mode::Cw);
        // A mode with a smaller number is handed nothing.
        if !excludes_writers || lock.granted <= before {
            return Ok(());
        }
        let resource = lock.resource;
        let Some(value) = self.values.get_mut(&resource) else {
            return Ok(());
        };
        self.reads += 1;
        if stale {
            if !value.disturbed {
                return broken(format!(
                    "resource {resource}: value block called stale for lock {handle} although \
                     nothing failed"
                ));
            }
            return Ok(());
        }
        let read = lvb.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        let read = read.map_or(0, u64::from_le_bytes);
        if read != value.latest && !(read == 0 && value.forgotten) && !value.told_stale {
            return broken(format!(
                "resource {resource}: lock {handle} on node {} reads value {read}, last written \
                 was {}",
                lock.node, value.latest
            ));
        }
        // The one that is read now is the one that lasts.
        value.latest = read;
        Ok(())
    }

    /// The shard has let a lock go.
    pub fn released(&mut self, handle: u64) -> Result<(), Violation> {
        match self.locks.get(&handle) {
            Some(lock) => broken(format!(
                "lock {handle} on node {} is gone while its client has it ({lock:?})",
                lock.node
            )),
            None => Ok(()),
        }
    }
}

/// A violation as a result.
pub fn broken<T>(what: String) -> Result<T, Violation> {
    Err(Violation(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(truth: &mut Truth, node: u32, mode: Mode, lvb: u64) -> Result<u64, Violation> {
        let handle = truth.add(0, node, 1, true);
        let id = LockId::from_raw(handle as u32);
        let bytes = lvb.to_le_bytes();
        truth.completed(handle, id, Status::Granted, false, Some(mode), Some(&bytes))?;
        Ok(handle)
    }

    #[test]
    fn two_writers_are_a_violation_and_a_reader_beside_a_reader_is_not() {
        let mut truth = Truth::default();
        granted(&mut truth, 1, Mode::Pr, 0).unwrap();
        granted(&mut truth, 2, Mode::Pr, 0).unwrap();
        assert!(granted(&mut truth, 3, Mode::Pw, 0).is_err());
    }

    #[test]
    fn a_lock_of_a_machine_without_power_does_not_count() {
        let mut truth = Truth::default();
        granted(&mut truth, 1, Mode::Ex, 0).unwrap();
        truth.forget_node(1);
        granted(&mut truth, 2, Mode::Ex, 0).unwrap();
    }

    #[test]
    fn an_old_value_is_a_violation_unless_it_is_called_stale_after_a_failure() {
        let mut truth = Truth::default();
        let keeper = granted(&mut truth, 3, Mode::Nl, 0).unwrap();
        truth.written(1, 7);
        assert!(granted(&mut truth, 1, Mode::Cw, 6).is_err());
        assert!(granted(&mut truth, 1, Mode::Cw, 7).is_ok());
        let handle = truth.add(0, 2, 1, true);
        let id = LockId::from_raw(99);
        let stale = |truth: &mut Truth| {
            truth.completed(handle, id, Status::Granted, true, Some(Mode::Cw), None)
        };
        assert!(stale(&mut truth).is_err());
        truth.disturb();
        truth.locks.get_mut(&handle).unwrap().pending = Some(Pending::Request);
        assert!(stale(&mut truth).is_ok());
        assert!(truth.released(keeper).is_err());
    }

    #[test]
    fn one_completion_for_each_operation() {
        let mut truth = Truth::default();
        let handle = granted(&mut truth, 1, Mode::Pr, 0).unwrap();
        let id = LockId::from_raw(handle as u32);
        let twice = truth.completed(handle, id, Status::Granted, false, Some(Mode::Pr), None);
        assert!(twice.is_err());
    }
}
