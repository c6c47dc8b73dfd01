// SPDX-License-Identifier: GPL-2.0-only
//! Makes the key that all nodes of a cluster share.

use std::fs::File;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use anyhow::bail;
use cluster_rt::files;

/// Bytes of a new key: twice the strength of the cipher, since it is stretched
/// into one key per node and life.
const KEY_LEN: usize = 64;

/// Writes a new key into a file that does not exist yet.
pub(crate) fn write(path: &Path) -> anyhow::Result<()> {
    let mut key = [0; KEY_LEN];
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut key));
    random.context("reading /dev/urandom")?;
    if let Some(parent) = path.parent() {
        let made = files::make_directory(parent, files::PUBLIC_DIRECTORY);
        made.with_context(|| format!("making {}", parent.display()))?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => bail!(
            "{} exists; a cluster whose nodes have different keys does not form. Remove it if you \
             mean to make a new one",
            path.display()
        ),
        other => other.with_context(|| format!("making {}", path.display()))?,
    };
    let written = file.write_all(&key).and_then(|()| file.sync_all());
    written.with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_secret_fresh_and_never_overwritten() {
        let dir = std::env::temp_dir().join(format!("cman_tool-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let [one, two] = ["one", "two"].map(|name| dir.join(name));
        write(&one).unwrap();
        write(&two).unwrap();
        let first = std::fs::read(&one).unwrap();
        assert_eq!(first.len(), KEY_LEN);
        assert_ne!(first, std::fs::read(&two).unwrap());
        let mode = std::fs::metadata(&one).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let error = format!("{:#}", write(&one).unwrap_err());
        assert!(error.contains("one exists"), "{error}");
        assert_eq!(std::fs::read(&one).unwrap(), first);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
