// SPDX-License-Identifier: GPL-2.0-only
//! What tells this life of the daemon from every other one.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::PathBuf;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use cmand_core::BootId;
use cmand_core::Incarnation;

use crate::Error;

/// Where the kernel tells which boot this is.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Bits of an incarnation that are random; the others are the time, so that a
/// reader of logs sees which life is the later one.
const RANDOM_BITS: u32 = 20;

/// What tells this life from every other one.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) incarnation: Incarnation,
    pub(crate) boot: BootId,
    pub(crate) seed: u64,
}

impl Identity {
    pub(crate) fn new() -> Result<Self, Error> {
        let failed = |path: &str| {
            let path = PathBuf::from(path);
            move |source| Error::File {
                what: "reading",
                path,
                source,
            }
        };
        let mut random = [0; 16];
        File::open("/dev/urandom")
            .and_then(|mut file| file.read_exact(&mut random))
            .map_err(failed("/dev/urandom"))?;
        let random = u128::from_le_bytes(random);
        let text = std::fs::read_to_string(BOOT_ID).map_err(failed(BOOT_ID))?;
        let boot = text.trim().parse().map_err(io::Error::other);
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let ms = since.map_or(0, |since| since.as_millis() as u64);
        Ok(Self {
            incarnation: Incarnation(
                (ms << RANDOM_BITS) | (random as u64 & ((1 << RANDOM_BITS) - 1)),
            ),
            boot: boot.map_err(failed(BOOT_ID))?,
            seed: (random >> 64) as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lives_differ_on_one_boot() {
        let (a, b) = (Identity::new().unwrap(), Identity::new().unwrap());
        assert_ne!((a.incarnation, a.seed), (b.incarnation, b.seed));
        assert_eq!(a.boot, b.boot);
    }
}
