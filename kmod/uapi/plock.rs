// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! `struct dlm_plock_info`: what the daemon reads from and writes to `dlm_plock` (version 1.2.0).
//!
//! Decoding and encoding only; the requests live in `plock.rs` of the module. Byte offsets, host
//! byte order, the same for programs of 32 and 64 bits:
//!
//! | Field | Off | | Field | Off |
//! |---|---|---|---|---|
//! | version `[u32; 3]` | 0 | | rv i32 | 24 |
//! | optype u8 | 12 | | fsid u32 | 28 |
//! | ex u8 | 13 | | number u64 | 32 |
//! | wait u8 | 14 | | start u64 | 40 |
//! | flags u8 | 15 | | end u64 | 48 |
//! | pid u32 | 16 | | owner u64 | 56 |
//! | nodeid i32 | 20 | | | |

/// Version of the interface: major must be equal, minor must not be larger.
pub const VERSION: [u32; 3] = [1, 2, 0];
/// Size of one record; a write has exactly this length.
pub const RECORD_LEN: usize = 64;

/// Why a record is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Not exactly [`RECORD_LEN`] bytes.
    Length,
    /// Made for another version of the interface.
    Version([u32; 3]),
}

/// One request of the kernel, or its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// LOCK 1, UNLOCK 2, GET 3, CANCEL 4.
    pub optype: u8,
    /// Exclusive?
    pub ex: u8,
    /// May wait?
    pub wait: u8,
    /// 1: the file was closed, no answer wanted.
    pub flags: u8,
    /// Process.
    pub pid: u32,
    /// Node, set by the daemon.
    pub nodeid: i32,
    /// Result, set by the daemon.
    pub rv: i32,
    /// Global lockspace id.
    pub fsid: u32,
    /// Inode.
    pub number: u64,
    /// First byte.
    pub start: u64,
    /// Last byte.
    pub end: u64,
    /// Owner of the lock, opaque.
    pub owner: u64,
}

impl Record {
    /// Decodes one write of the daemon.
    pub fn decode(buf: &[u8]) -> Result<Self, RecordError> {
        let buf: &[u8; RECORD_LEN] = buf.try_into().map_err(|_| RecordError::Length)?;
        let version = [word(buf, 0), word(buf, 4), word(buf, 8)];
        if version[0] != VERSION[0] || version[1] > VERSION[1] {
            return Err(RecordError::Version(version));
        }
        Ok(Self {
            optype: buf[12],
            ex: buf[13],
            wait: buf[14],
            flags: buf[15],
            pid: word(buf, 16),
            nodeid: word(buf, 20) as i32,
            rv: word(buf, 24) as i32,
            fsid: word(buf, 28),
            number: double(buf, 32),
            start: double(buf, 40),
            end: double(buf, 48),
            owner: double(buf, 56),
        })
    }

    /// Encodes for a read of the daemon.
    pub fn encode(&self) -> [u8; RECORD_LEN] {
        let mut out = [0; RECORD_LEN];
        for (i, version) in VERSION.iter().enumerate() {
            put(&mut out, 4 * i, &version.to_ne_bytes());
        }
        out[12..16].copy_from_slice(&[self.optype, self.ex, self.wait, self.flags]);
        put(&mut out, 16, &self.pid.to_ne_bytes());
        put(&mut out, 20, &self.nodeid.to_ne_bytes());
        put(&mut out, 24, &self.rv.to_ne_bytes());
        put(&mut out, 28, &self.fsid.to_ne_bytes());
        put(&mut out, 32, &self.number.to_ne_bytes());
        put(&mut out, 40, &self.start.to_ne_bytes());
        put(&mut out, 48, &self.end.to_ne_bytes());
        put(&mut out, 56, &self.owner.to_ne_bytes());
        out
    }
}

fn put(out: &mut [u8; RECORD_LEN], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn word(buf: &[u8; RECORD_LEN], at: usize) -> u32 {
    u32::from_ne_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]])
}

fn double(buf: &[u8; RECORD_LEN], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&buf[at..at + 8]);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: Record = Record {
        optype: 1,
        ex: 2,
        wait: 3,
        flags: 4,
        pid: 5,
        nodeid: -6,
        rv: -7,
        fsid: 8,
        number: 9,
        start: 10,
        end: u64::MAX,
        owner: 12,
    };

    #[test]
    fn record_has_its_golden_layout() {
        let bytes = RECORD.encode();
        let words: Vec<u32> = (0..16).map(|i| word(&bytes, 4 * i)).collect();
        let first = u32::from_ne_bytes([1, 2, 3, 4]);
        assert_eq!(words[..5], [1, 2, 0, first, 5]);
        assert_eq!(words[5..8], [-6i32 as u32, -7i32 as u32, 8]);
        assert_eq!(double(&bytes, 32), 9);
        assert_eq!(double(&bytes, 40), 10);
        assert_eq!(double(&bytes, 48), u64::MAX);
        assert_eq!(double(&bytes, 56), 12);
        assert_eq!(Record::decode(&bytes), Ok(RECORD));
    }

    #[test]
    fn wrong_lengths_and_versions_are_refused() {
        for len in (0..300).filter(|&len| len != RECORD_LEN) {
            assert_eq!(Record::decode(&vec![1; len]), Err(RecordError::Length));
        }
        let mut bytes = RECORD.encode();
        put(&mut bytes, 4, &3u32.to_ne_bytes());
        let version = RecordError::Version([1, 3, 0]);
        assert_eq!(Record::decode(&bytes), Err(version));
        put(&mut bytes, 4, &1u32.to_ne_bytes());
        assert!(Record::decode(&bytes).is_ok());
        put(&mut bytes, 0, &2u32.to_ne_bytes());
        assert!(Record::decode(&bytes).is_err());
    }
}
