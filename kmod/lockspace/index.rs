// SPDX-License-Identifier: GPL-2.0-only
//! Lockspaces by the id that all their members know them by: how a packet finds its lockspace.
//!
//! Looked up for every packet, changed when a lockspace is started under a new id and when one is
//! released. So readers have a sorted copy of their own that they take no lock for. An entry is a
//! hint: the lockspace itself says which id it has, and an entry that is not true (yet, or any
//! more) is passed over.

use kernel::{
    prelude::*,
    sync::Arc, //
};

use super::Lockspace;
use crate::ffi::global::global_mutex;
use crate::ffi::memory::{
    patiently,
    NoReclaim, //
};
use crate::ffi::rcu::{
    Published,
    Replaced, //
};

#[derive(Clone)]
struct Entry {
    id: u32,
    ls: Arc<Lockspace>,
}

impl Entry {
    fn is_of(&self, ls: &Lockspace) -> bool {
        core::ptr::eq(&*self.ls, ls)
    }

    fn is_true(&self) -> bool {
        self.ls.id() == self.id
    }
}

global_mutex! {
    /// What readers have a copy of, in ascending order of ids.
    static INDEX: KVec<Entry> = KVec::new();
    /// Makes the index usable; when the module is loaded, before everything else.
    fn init;
}

/// The copy; none while there is no entry.
static PUBLISHED: Published<KVec<Entry>> = Published::new();

/// Gives readers what `index` has now. The answer is to be dropped without locks.
fn publish(index: &KVec<Entry>) -> Result<Option<Replaced<KVec<Entry>>>> {
    if index.is_empty() {
        return Ok(PUBLISHED.replace(None));
    }
    let mut copy = KVec::new();
    copy.extend_from_slice(index, GFP_KERNEL)?;
    Ok(PUBLISHED.replace(Some(KBox::new(copy, GFP_KERNEL)?)))
}

/// Calls `accept`, which gives `ls` this id or fails; from then on packets find it. [`ENOENT`]: it
/// was released.
pub(super) fn start(ls: &Arc<Lockspace>, id: u32, accept: impl FnOnce() -> Result) -> Result {
    // Who waits for the mutex may be in the way of who frees memory.
    let _memory = NoReclaim::enter();
    let mut index = INDEX.lock();
    if ls.is_gone() {
        // Nobody would take it off again.
        return Err(ENOENT);
    }
    let mut replaced = None;
    if !index.iter().any(|entry| entry.is_of(ls) && entry.id == id) {
        // Entries of ids that lockspaces had before, or were refused.
        index.retain(|entry| entry.is_true());
        let at = index.partition_point(|entry| entry.id < id);
        index.reserve(1, GFP_KERNEL)?;
        index.insert_within_capacity(at, Entry { id, ls: ls.clone() })?;
        replaced = publish(&index)?;
    }
    // Under the mutex: until it is over, nobody else must find the entry to be untrue.
    let accepted = accept();
    drop(index);
    // Waits for readers.
    drop(replaced);
    accepted
}

/// Packets do not find `ls` any more.
pub(super) fn remove(ls: &Lockspace) {
    let _memory = NoReclaim::enter();
    let replaced = patiently(|| {
        let mut index = INDEX.lock();
        index.retain(|entry| !entry.is_of(ls));
        publish(&index)
    });
    drop(replaced);
}

/// The lockspace of this id.
pub(crate) fn find_by_id(id: u32) -> Option<Arc<Lockspace>> {
    let find = |entries: &KVec<Entry>| {
        let first = entries.partition_point(|entry| entry.id < id);
        let same = entries.get(first..).unwrap_or(&[]).iter();
        let mut same = same.take_while(|entry| entry.id == id);
        same.find(|entry| entry.is_true())
            .map(|entry| entry.ls.clone())
    };
    PUBLISHED.read(find).flatten().filter(|_| id != 0)
}
