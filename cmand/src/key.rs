// SPDX-License-Identifier: GPL-2.0-only
//! Reads the key file: the secret that all nodes of a cluster share.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

/// Fewest bytes of a key: the strength of the cipher.
const KEY_MIN: usize = 32;

/// Most bytes of a key file; more is some other file.
const KEY_MAX: u64 = 4096;

/// The key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It could not be read.
    #[error("reading the key file {path}: {source}{}", hint(source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Others may read or write it.
    #[error("the key file {path} has mode {mode:04o}; run `chmod 0600 {path}`")]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is too short or too long.
    #[error(
        "the key file {path} has {length} bytes; a key has 32 to 4096: make one with \
         `cman_tool keygen`"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        length: u64,
    },
}

fn hint(source: &std::io::Error) -> &'static str {
    if source.kind() == std::io::ErrorKind::NotFound {
        "; make one with `cman_tool keygen` and copy it to all nodes"
    } else {
        ""
    }
}

/// The key in a file that nobody else may read.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, KeyError> {
    let failed = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
    if mode & 0o177 != 0 {
        let path = path.to_owned();
        return Err(KeyError::Mode { path, mode });
    }
    let mut key = Vec::new();
    let length = file.take(KEY_MAX + 1).read_to_end(&mut key);
    let length = length.map_err(failed)?;
    if length < KEY_MIN || length as u64 > KEY_MAX {
        return Err(KeyError::Length {
            path: path.to_owned(),
            length: length as u64,
        });
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn with(length: usize, mode: u32) -> Result<Vec<u8>, String> {
        let name = format!("cmand-key-{}-{length}-{mode}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, vec![1; length]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let key = read(&path).map_err(|error| error.to_string());
        std::fs::remove_file(&path).unwrap();
        key
    }

    #[test]
    fn a_key_must_be_secret_and_long_enough() {
        assert_eq!(with(32, 0o600).unwrap().len(), 32);
        assert_eq!(with(4096, 0o400).unwrap().len(), 4096);
        for (length, mode, expected) in [
            (32, 0o640, "chmod 0600"),
            (32, 0o604, "mode 0604"),
            (31, 0o600, "has 31 bytes"),
            (5000, 0o600, "32 to 4096"),
        ] {
            let error = with(length, mode).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let missing = read(Path::new("/nonexistent/key")).unwrap_err().to_string();
        assert!(missing.contains("cman_tool keygen"), "{missing}");
    }
}
