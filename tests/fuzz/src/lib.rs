// SPDX-License-Identifier: GPL-2.0-only
//! What strangers, peers, programs and operators can say to the cluster stack, with any content.
//!
//! Each module is one target: `run` takes the bytes of one input and panics when it has found a
//! fault; `seeds` makes inputs that reach far, which lie in `corpus/NAME`. Here is no libFuzzer:
//! `targets/NAME.rs` ties a target to it (feature `libfuzzer`; `cargo xtask fuzz` builds and runs
//! them, and `cargo fuzz run NAME --fuzz-dir tests/fuzz -F libfuzzer` works too). The ordinary
//! tests run each file of the corpus once.

pub mod config;
pub mod control;
pub mod device;
pub mod input;
pub mod insider;
pub mod lock_wire;
pub mod metadata;
pub mod netlink;
pub mod packets;

use std::sync::OnceLock;

/// A target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, of the folder of its corpus too.
    pub name: &'static str,
    /// Runs one input.
    pub run: fn(&[u8]),
    /// Makes inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target {
        name: "lock_wire",
        run: lock_wire::run,
        seeds: lock_wire::seeds,
    },
    Target {
        name: "device",
        run: device::run,
        seeds: device::seeds,
    },
    Target {
        name: "netlink",
        run: netlink::run,
        seeds: netlink::seeds,
    },
    Target {
        name: "packets",
        run: packets::run,
        seeds: packets::seeds,
    },
    Target {
        name: "insider",
        run: insider::run,
        seeds: insider::seeds,
    },
    Target {
        name: "control",
        run: control::run,
        seeds: control::seeds,
    },
    Target {
        name: "config",
        run: config::run,
        seeds: config::seeds,
    },
    Target {
        name: "metadata",
        run: metadata::run,
        seeds: metadata::seeds,
    },
];

/// Whether each target is to have a mistake, far inside, that must be found: `FUZZ_PLANT=1`.
#[must_use]
pub fn is_planted() -> bool {
    static PLANTED: OnceLock<bool> = OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var_os("FUZZ_PLANT").is_some())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    fn corpus(target: &Target) -> Vec<Vec<u8>> {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let dir = fs::read_dir(dir.join(target.name)).unwrap();
        dir.map(|file| fs::read(file.unwrap().path()).unwrap())
            .collect()
    }

    #[test]
    fn every_input_of_the_corpus_is_stood() {
        for target in TARGETS {
            let inputs = corpus(&target);
            assert!(inputs.len() >= 3, "{}: {}", target.name, inputs.len());
            for input in inputs {
                (target.run)(&input);
            }
        }
    }

    #[test]
    fn the_corpus_has_the_seeds_that_are_made_today() {
        for target in TARGETS {
            let inputs = corpus(&target);
            for seed in (target.seeds)() {
                assert!(
                    inputs.contains(&seed),
                    "{}: `cargo run -p fuzz` writes the seeds anew",
                    target.name
                );
            }
        }
    }
}
