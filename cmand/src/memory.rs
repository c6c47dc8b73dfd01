// SPDX-License-Identifier: GPL-2.0-only
//! The one number that outlives the daemon: the largest number of a view this
//! node accepted. With it a node that started again can tell others that their
//! view is not the latest.
//!
//! Best effort: without it views are still agreed safely among nodes that did
//! not start again meanwhile. A file that makes no sense is said so and not
//! counted on; one that cannot be written is said so at every number.

use std::io;
use std::path::Path;
use std::path::PathBuf;

use cluster_rt::files;

/// How much of a file that makes no sense is shown, characters.
const SHOWN: usize = 40;

fn parse(text: &str) -> Option<u64> {
    let number = text.trim().parse().ok()?;
    (number <= cmand_core::wire::NUMBER_LIMIT).then_some(number)
}

/// Where the number is kept.
#[derive(Debug)]
pub(crate) struct Memory {
    directory: PathBuf,
    view_floor: u64,
}

impl Memory {
    /// Reads the number of the life before; 0 without one.
    pub(crate) fn open(directory: &Path) -> Self {
        let memory = Self {
            directory: directory.to_owned(),
            view_floor: 0,
        };
        let path = memory.file("cmand.view");
        let view_floor = match std::fs::read_to_string(&path) {
            Ok(text) => parse(&text).unwrap_or_else(|| {
                let said: String = text.chars().take(SHOWN).collect();
                tracing::error!(
                    path = %path.display(),
                    ?said,
                    "this is no number of a view and is ignored; another one is written soon"
                );
                0
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "not readable; ignored");
                0
            }
        };
        Self {
            view_floor,
            ..memory
        }
    }

    pub(crate) fn view_floor(&self) -> u64 {
        self.view_floor
    }

    /// Keeps a larger number.
    pub(crate) fn keep(&mut self, view_floor: u64) {
        self.view_floor = view_floor;
        if let Err(error) = self.write() {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "keeping the view number");
        }
    }

    fn write(&self) -> io::Result<()> {
        files::make_directory(&self.directory, files::PUBLIC_DIRECTORY)?;
        let text = format!("{}\n", self.view_floor);
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

    #[test]
    fn the_number_comes_back_and_nonsense_is_zero() {
        let directory = std::env::temp_dir().join(format!("cmand-memory-{}", std::process::id()));
        assert_eq!(Memory::open(&directory).view_floor(), 0);
        Memory::open(&directory).keep(41);
        assert_eq!(Memory::open(&directory).view_floor(), 41);
        for nonsense in [
            "x",
            "",
            "-1",
            "18446744073709551615",
            "281474976710657",
            "4 1",
        ] {
            std::fs::write(directory.join("cmand.view"), nonsense).unwrap();
            assert_eq!(Memory::open(&directory).view_floor(), 0, "{nonsense:?}");
        }
        Memory::open(&directory).keep(42);
        assert_eq!(Memory::open(&directory).view_floor(), 42);
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
