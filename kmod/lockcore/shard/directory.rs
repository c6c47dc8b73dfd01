// SPDX-License-Identifier: GPL-2.0-only
//! The directory records of this shard's names: which other node masters a name whose directory
//! node this is.
//!
//! What this node masters itself needs no record: the resource is one. So for a name whose
//! directory node this is: a record means another master; a resource in use that is mastered
//! elsewhere has its record here too.

use crate::lockcore::arena::{Arena, Key, RecordIndex};
use crate::lockcore::members::NodeId;
use crate::lockcore::name::{ResourceName, StoredName};
use crate::lockcore::table::{Named, Table};
use crate::platform::Result;

/// Who masters one name.
pub(super) struct Record {
    name: StoredName,
    hash: u32,
    chain: RecordIndex,
    master: NodeId,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            name: StoredName::default(),
            hash: 0,
            chain: RecordIndex::NONE,
            master: NodeId(0),
        }
    }
}

impl Named<RecordIndex> for Record {
    fn hash(&self) -> u32 {
        self.hash
    }
    fn name(&self) -> &[u8] {
        self.name.as_bytes()
    }
    fn chain(&mut self) -> &mut RecordIndex {
        &mut self.chain
    }
    fn chained(&self) -> RecordIndex {
        self.chain
    }
}

/// All records of a shard.
pub(super) struct Directory {
    records: Arena<RecordIndex, Record>,
    names: Table<RecordIndex>,
}

impl Directory {
    pub(super) fn new(shard_bits: u32) -> Result<Self> {
        Ok(Self {
            records: Arena::new(u32::MAX),
            names: Table::new(shard_bits)?,
        })
    }

    pub(super) fn len(&self) -> u32 {
        self.records.len()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.records.has_strayed()
    }

    /// The master of a name, if it is known to be another node.
    pub(super) fn master(&self, hash: u32, name: &[u8]) -> Option<NodeId> {
        let at = self.names.find(&self.records, hash, name);
        (!at.is_none()).then(|| self.records.get(at).master)
    }

    /// Says who masters a name.
    pub(super) fn set(&mut self, hash: u32, name: &ResourceName, master: NodeId) -> Result {
        let at = self.names.find(&self.records, hash, name.as_bytes());
        if !at.is_none() {
            self.records.get_mut(at).master = master;
            return Ok(());
        }
        let name = StoredName::new(name)?;
        let at = self.records.reserve()?;
        let record = Record {
            name,
            hash,
            master,
            ..Record::default()
        };
        self.records.put(at, record);
        self.names.add(&mut self.records, at);
        Ok(())
    }

    /// Forgets a name.
    pub(super) fn remove(&mut self, hash: u32, name: &[u8]) {
        let at = self.names.find(&self.records, hash, name);
        if !at.is_none() {
            self.names.remove(&mut self.records, at);
            self.records.take(at);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        let mut walk = self.records.walk();
        while let Some((at, _)) = walk.next(&self.records) {
            self.names.remove(&mut self.records, at);
            self.records.take(at);
        }
    }

    /// All records.
    pub(super) fn iter(&self) -> impl Iterator<Item = (RecordIndex, &[u8], NodeId)> {
        let mut walk = self.records.walk();
        core::iter::from_fn(move || {
            let (at, record) = walk.next(&self.records)?;
            Some((at, record.name.as_bytes(), record.master))
        })
    }
}
