// SPDX-License-Identifier: GPL-2.0-only
//! The block of names that a NAMES_REPLY carries.
//!
//! Entries of `{u16 length, big-endian; name}`. Length 0 ends the block: ask again with the last
//! name. Length 0xffff ends the names. An entry goes in only if an end fits behind it.

use super::bytes_at;
use super::rcom::RCOM_LEN;
use super::INNER_MAX;
use crate::lockcore::name::{ResourceName, NAME_MAX};
use crate::platform::{KVec, Result, GFP};

/// Bytes of a block; packets with one are always of maximum size.
pub const BLOCK_LEN: usize = INNER_MAX - RCOM_LEN;

/// End of the block.
const MORE: u16 = 0;
/// End of the names.
const ALL: u16 = 0xffff;

/// What stands behind the last name of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Ask again with the last name.
    More,
    /// These were all.
    All,
}

/// Writes a block.
pub struct Writer {
    block: KVec<u8>,
}

impl Writer {
    /// An empty block.
    pub fn new() -> Result<Self> {
        Ok(Self {
            block: KVec::with_capacity(BLOCK_LEN, GFP)?,
        })
    }

    /// Writes one name; `false` if it does not fit.
    pub fn push(&mut self, name: &ResourceName) -> bool {
        let name = name.as_bytes();
        if self.block.len() + 2 + name.len() + 2 > BLOCK_LEN {
            return false;
        }
        let length = (name.len() as u16).to_be_bytes();
        self.append(&length);
        self.append(name);
        true
    }

    /// The whole block, zeroes behind its end.
    pub fn finish(mut self, end: End) -> KVec<u8> {
        let end = match end {
            End::More => MORE,
            End::All => ALL,
        };
        self.append(&end.to_be_bytes());
        while self.block.push_within_capacity(0).is_ok() && self.block.len() < BLOCK_LEN {}
        self.block.truncate(BLOCK_LEN);
        self.block
    }

    /// There is room: capacity was taken at the start.
    fn append(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.block.push_within_capacity(*byte).is_err() {
                return;
            }
        }
    }
}

/// Reads a block: its names, then how it ended. A block that is cut short or holds an impossible
/// length ends with `None`.
pub struct Reader<'a> {
    rest: &'a [u8],
    end: Option<End>,
}

impl<'a> Reader<'a> {
    /// Of the payload of a NAMES_REPLY.
    pub fn new(block: &'a [u8]) -> Self {
        Self {
            rest: block,
            end: None,
        }
    }

    /// How the block ended, once all names were read.
    pub fn end(&self) -> Option<End> {
        self.end
    }
}

impl Iterator for Reader<'_> {
    type Item = ResourceName;

    fn next(&mut self) -> Option<ResourceName> {
        let length = u16::from_be_bytes(bytes_at(self.rest, 0)?);
        let end = match length {
            MORE => Some(End::More),
            ALL => Some(End::All),
            _name => None,
        };
        if end.is_some() {
            self.end = end;
            self.rest = &[];
            return None;
        }
        let length = usize::from(length);
        let name = self.rest.get(2..2 + length).filter(|_| length <= NAME_MAX);
        let name = name.and_then(ResourceName::new);
        self.rest = match name {
            Some(_) => self.rest.get(2 + length..).unwrap_or(&[]),
            None => &[],
        };
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ResourceName {
        ResourceName::new(format!("{n:024}").as_bytes()).unwrap()
    }

    #[test]
    fn a_block_holds_what_fits_and_says_how_it_ended() {
        for end in [End::More, End::All] {
            let mut writer = Writer::new().unwrap();
            let mut count = 0;
            while writer.push(&name(count)) {
                count += 1;
            }
            assert_eq!(count, (BLOCK_LEN - 2) / 26);
            let block = writer.finish(end);
            assert_eq!(block.len(), BLOCK_LEN);
            let mut reader = Reader::new(&block);
            for n in 0..count {
                assert_eq!(reader.next(), Some(name(n)));
            }
            assert_eq!(reader.next(), None);
            assert_eq!(reader.end(), Some(end));
        }
    }

    #[test]
    fn broken_blocks_have_no_end() {
        for block in [&[][..], &[0], &[0, 5, 1], &[0, 65], &[0xff, 0xfe]] {
            let mut reader = Reader::new(block);
            assert_eq!(reader.by_ref().count(), 0);
            assert_eq!(reader.end(), None);
        }
        let long = [&[0, 65][..], &[7; 65], &[0xff, 0xff]].concat();
        let mut reader = Reader::new(&long);
        assert_eq!(
            (reader.next(), reader.next(), reader.end()),
            (None, None, None)
        );
    }
}
