// SPDX-License-Identifier: GPL-2.0-only
//! What clients can make a daemon keep, in all and by class of caller.
//!
//! A daemon of a cluster has locked memory and is not killed when memory runs
//! out: what others can make it keep must have a bound that is known, and root's
//! share must be out of everybody else's reach.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use super::Peer;

/// Most clients at once. A node has a handful of daemons and tools.
pub const CLIENT_LIMIT: usize = 64;

/// Most of them that are not privileged, so that others cannot keep root out.
pub const OTHERS_LIMIT: usize = 32;

/// Most of one user that is not privileged, so that one cannot keep the others out.
pub const USER_LIMIT: usize = 8;

/// Most bytes waiting for one privileged client: two of the largest replies, or a
/// hundred of the largest group messages. Who is behind by more has stopped.
pub const OUTBOX_LIMIT: usize = 16 * 1024 * 1024;

/// Most bytes waiting for all privileged clients together.
pub const PRIVILEGED_LIMIT: usize = 64 * 1024 * 1024;

/// Most bytes waiting for all other clients together: each has one request under
/// way, and what they may ask has short answers.
pub const OTHERS_BYTES_LIMIT: usize = 8 * 1024 * 1024;

/// Why a client or bytes for it find no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    Clients,
    Others,
    User(u32),
    Outbox,
    Privileged,
    OthersBytes,
}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Clients => write!(f, "too many clients: {CLIENT_LIMIT} are connected"),
            Self::Others => write!(
                f,
                "too many clients: {OTHERS_LIMIT} that are not root are connected"
            ),
            Self::User(uid) => write!(
                f,
                "too many clients: {USER_LIMIT} of user {uid} are connected; close one"
            ),
            Self::Outbox => write!(
                f,
                "it does not read what it asked for: {OUTBOX_LIMIT} bytes wait"
            ),
            Self::Privileged => write!(
                f,
                "clients do not read what they asked for: {PRIVILEGED_LIMIT} bytes wait"
            ),
            Self::OthersBytes => write!(
                f,
                "clients that are not root do not read what they asked for: \
                 {OTHERS_BYTES_LIMIT} bytes wait"
            ),
        }
    }
}

#[derive(Debug, Default)]
struct Used {
    privileged: usize,
    /// Of users that are not privileged.
    users: BTreeMap<u32, usize>,
    privileged_bytes: usize,
    others_bytes: usize,
}

/// Room for clients and for what waits for them.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<Mutex<Used>>);

impl Budget {
    fn used(&self) -> MutexGuard<'_, Used> {
        // A panic between two operations leaves the sums whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a client, until the last clone of it is dropped.
    pub(super) fn admit(&self, peer: &Peer) -> Result<Arc<Place>, NoRoom> {
        let mut used = self.used();
        let others: usize = used.users.values().sum();
        if used.privileged + others >= CLIENT_LIMIT {
            return Err(NoRoom::Clients);
        }
        if peer.is_privileged() {
            used.privileged += 1;
        } else {
            if others >= OTHERS_LIMIT {
                return Err(NoRoom::Others);
            }
            let user = used.users.entry(peer.uid).or_default();
            if *user >= USER_LIMIT {
                return Err(NoRoom::User(peer.uid));
            }
            *user += 1;
        }
        Ok(Arc::new(Place {
            budget: self.clone(),
            user: (!peer.is_privileged()).then_some(peer.uid),
            waiting: Mutex::default(),
        }))
    }

    /// Bytes that wait for clients: privileged ones, and others.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> (usize, usize) {
        let used = self.used();
        (used.privileged_bytes, used.others_bytes)
    }
}

/// A client's place. It is taken for as long as anything of the client is kept.
#[derive(Debug)]
pub(super) struct Place {
    budget: Budget,
    /// None: privileged.
    user: Option<u32>,
    waiting: Mutex<usize>,
}

impl Place {
    pub(super) fn is_privileged(&self) -> bool {
        self.user.is_none()
    }

    /// Takes room for bytes, until the parcel is dropped.
    pub(super) fn wrap(self: &Arc<Self>, bytes: Vec<u8>) -> Result<Parcel, NoRoom> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if *waiting + bytes.len() > OUTBOX_LIMIT {
            return Err(NoRoom::Outbox);
        }
        let mut used = self.budget.used();
        let (sum, limit, why) = if self.is_privileged() {
            let why = NoRoom::Privileged;
            (&mut used.privileged_bytes, PRIVILEGED_LIMIT, why)
        } else {
            let why = NoRoom::OthersBytes;
            (&mut used.others_bytes, OTHERS_BYTES_LIMIT, why)
        };
        if *sum + bytes.len() > limit {
            return Err(why);
        }
        *sum += bytes.len();
        *waiting += bytes.len();
        let place = Arc::clone(self);
        Ok(Parcel { bytes, place })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut used = self.budget.used();
        let Some(user) = self.user else {
            used.privileged -= 1;
            return;
        };
        if let Some(count) = used.users.get_mut(&user) {
            *count -= 1;
            if *count == 0 {
                used.users.remove(&user);
            }
        }
    }
}

/// Bytes on their way to a client.
#[derive(Debug)]
pub(super) struct Parcel {
    bytes: Vec<u8>,
    place: Arc<Place>,
}

impl Parcel {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Parcel {
    fn drop(&mut self) {
        let place = &self.place;
        *place.waiting.lock().unwrap_or_else(PoisonError::into_inner) -= self.bytes.len();
        let mut used = place.budget.used();
        if place.is_privileged() {
            used.privileged_bytes -= self.bytes.len();
        } else {
            used.others_bytes -= self.bytes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32) -> Peer {
        Peer { uid, pid: 1 }
    }

    #[test]
    fn strangers_take_no_place_of_root() {
        let budget = Budget::default();
        let mut places = Vec::new();
        let mut refused = Vec::new();
        for uid in 10_001..10_006 {
            for _ in 0..=USER_LIMIT {
                match budget.admit(&user(uid)) {
                    Ok(place) => places.push(place),
                    Err(why) => refused.push(why),
                }
            }
        }
        assert_eq!(places.len(), OTHERS_LIMIT);
        assert_eq!(refused[0], NoRoom::User(10_001));
        assert_eq!(refused[4], NoRoom::Others);
        for _ in OTHERS_LIMIT..CLIENT_LIMIT {
            places.push(budget.admit(&user(0)).unwrap());
        }
        assert_eq!(budget.admit(&user(0)).unwrap_err(), NoRoom::Clients);
        places.clear();
        assert!(budget.used().users.is_empty());
        assert!(budget.admit(&user(0)).is_ok());
    }

    #[test]
    fn bytes_are_bounded_by_client_and_by_class() {
        let budget = Budget::default();
        let part = || vec![0; 1024 * 1024];
        let fill = |place: &Arc<Place>, parcels: &mut Vec<Parcel>| loop {
            match place.wrap(part()) {
                Ok(parcel) => parcels.push(parcel),
                Err(why) => return why,
            }
        };
        let mut parcels = Vec::new();
        let strangers = [10_001, 10_002].map(|uid| budget.admit(&user(uid)).unwrap());
        for stranger in &strangers {
            assert_eq!(fill(stranger, &mut parcels), NoRoom::OthersBytes);
        }
        assert_eq!(budget.bytes(), (0, OTHERS_BYTES_LIMIT));
        let roots: Vec<_> = (0..5).map(|_| budget.admit(&user(0)).unwrap()).collect();
        for root in &roots[..4] {
            assert_eq!(fill(root, &mut parcels), NoRoom::Outbox);
        }
        assert_eq!(fill(&roots[4], &mut parcels), NoRoom::Privileged);
        assert_eq!(budget.bytes(), (PRIVILEGED_LIMIT, OTHERS_BYTES_LIMIT));
        parcels.clear();
        assert_eq!(budget.bytes(), (0, 0));
    }
}
