// SPDX-License-Identifier: GPL-2.0-only
//! What outlives the daemon: the largest number of a view this node accepted, and
//! the configuration that was in force in its last quorate view. With the first a
//! node that started again can tell others that their view is not the latest; with
//! the second a node whose file was changed does not found a cluster of its own.
//!
//! A file that makes no sense is said so: its number is not counted on, and no view
//! is founded until one takes the node in or an operator accepts its configuration.
//! A file that cannot be written is said so at every change.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use cluster_rt::files;
use cmand_core::RememberedConfig;

/// How much of a file that makes no sense is shown, characters.
const SHOWN: usize = 40;

/// `NUMBER`, or `NUMBER DIGEST` with sixteen hexadecimal digits.
fn parse(text: &str) -> Option<(u64, RememberedConfig)> {
    let mut words = text.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let config = match words.next() {
        None => RememberedConfig::Nothing,
        Some(digits) if digits.len() == 16 => {
            RememberedConfig::Digest(u64::from_str_radix(digits, 16).ok()?)
        }
        Some(_) => return None,
    };
    let is_whole = words.next().is_none() && number <= cmand_core::wire::NUMBER_LIMIT;
    is_whole.then_some((number, config))
}

/// Where it is kept.
#[derive(Debug)]
pub(crate) struct Memory {
    directory: PathBuf,
    view_floor: u64,
    config: RememberedConfig,
}

impl Memory {
    /// Reads what the life before kept.
    pub(crate) fn open(directory: &Path) -> Self {
        let mut memory = Self {
            directory: directory.to_owned(),
            view_floor: 0,
            config: RememberedConfig::Nothing,
        };
        let path = memory.file("cmand.view");
        let unreadable = (0, RememberedConfig::Unreadable);
        (memory.view_floor, memory.config) = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).unwrap_or_else(|| {
                let said: String = text.chars().take(SHOWN).collect();
                tracing::error!(
                    path = %path.display(),
                    ?said,
                    "this is not what cmand keeps there; this node founds no view until \
                     `cman_tool config accept`, or until a view takes it in"
                );
                unreadable
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (0, RememberedConfig::Nothing),
            Err(error) => {
                tracing::error!(
                    path = %path.display(),
                    %error,
                    "not readable; this node founds no view until `cman_tool config accept`, or \
                     until a view takes it in"
                );
                unreadable
            }
        };
        memory
    }

    pub(crate) fn view_floor(&self) -> u64 {
        self.view_floor
    }

    pub(crate) fn config(&self) -> RememberedConfig {
        self.config
    }

    /// Keeps what the core told.
    pub(crate) fn keep(&mut self, view_floor: u64, config: RememberedConfig) {
        (self.view_floor, self.config) = (view_floor, config);
        if let Err(error) = self.write() {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "keeping the view number and the configuration");
        }
    }

    fn write(&self) -> io::Result<()> {
        files::make_directory(&self.directory, files::PUBLIC_DIRECTORY)?;
        let text = match self.config {
            RememberedConfig::Nothing => format!("{}\n", self.view_floor),
            RememberedConfig::Digest(digest) => format!("{} {digest:016x}\n", self.view_floor),
            // Stays what it is for the next life.
            RememberedConfig::Unreadable => format!("{} unknown\n", self.view_floor),
        };
        files::replace(
            &self.file("cmand.view"),
            text.as_bytes(),
            files::PRIVATE_FILE,
        )
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(directory: &Path) -> (u64, RememberedConfig) {
        let memory = Memory::open(directory);
        (memory.view_floor(), memory.config())
    }

    #[test]
    fn what_is_kept_comes_back_and_nonsense_founds_nothing() {
        let directory = std::env::temp_dir().join(format!("cmand-memory-{}", std::process::id()));
        let path = directory.join("cmand.view");
        let nothing = RememberedConfig::Nothing;
        assert_eq!(kept(&directory), (0, nothing));
        let digest = RememberedConfig::Digest(0x00ab);
        for config in [nothing, digest] {
            Memory::open(&directory).keep(41, config);
            assert_eq!(kept(&directory), (41, config));
        }
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "41 00000000000000ab\n"
        );
        for nonsense in [
            "x",
            "",
            "-1",
            "18446744073709551615",
            "281474976710657",
            "4 1",
            "4 00000000000000ag",
            "4 00000000000000ab 1",
        ] {
            std::fs::write(&path, nonsense).unwrap();
            let unreadable = (0, RememberedConfig::Unreadable);
            assert_eq!(kept(&directory), unreadable, "{nonsense:?}");
        }
        Memory::open(&directory).keep(42, RememberedConfig::Unreadable);
        assert_eq!(kept(&directory).1, RememberedConfig::Unreadable);
        Memory::open(&directory).keep(42, digest);
        assert_eq!(kept(&directory), (42, digest));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
