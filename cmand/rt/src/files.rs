// SPDX-License-Identifier: GPL-2.0-only
//! Files and directories of the daemons: each with a mode that is decided here
//! and not by the caller's umask, and none through a name that somebody else
//! prepared.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Mode of a directory that everybody may look into: what is in it has modes of its own.
pub const PUBLIC_DIRECTORY: u32 = 0o755;

/// Mode of what concerns only the user the daemon runs as.
pub const PRIVATE_FILE: u32 = 0o600;

/// Makes a directory with this mode, and those above it that are missing. A
/// directory that exists is the operator's and stays as it is.
///
/// # Errors
/// The system's reason; also when the name is something else than a directory.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
        make_directory(parent, PUBLIC_DIRECTORY)?;
    }
    // Never wider than asked for, not even for a moment; the umask may have made it narrower.
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => std::fs::set_permissions(path, Permissions::from_mode(mode)),
    }
}

/// Opens a file for a lock of this daemon, made if it is missing. Nobody else can
/// open it, and so nobody else can hold the lock.
///
/// # Errors
/// The system's reason; a symbolic link, something that is no file, and a file of
/// another user are refused.
pub fn open_lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(PRIVATE_FILE)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.uid() != nix::unistd::geteuid().as_raw() {
        let text = "it is not a file of this user; remove it";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    if found.mode() & 0o7777 != PRIVATE_FILE {
        file.set_permissions(Permissions::from_mode(PRIVATE_FILE))?;
    }
    Ok(file)
}

/// Puts a file with this mode in the place of another, whole or not at all, also
/// over a loss of power.
///
/// # Errors
/// The system's reason; the old file is then still there.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = Path::new(&name);
    // Of an earlier attempt, or prepared by somebody else: it is not written to.
    match std::fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(new)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(new, path)?;
    match path.parent().filter(|parent| *parent != Path::new("")) {
        Some(directory) => File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn place(name: &str) -> PathBuf {
        let directory = format!("cluster-rt-files-{}-{name}", std::process::id());
        let place = std::env::temp_dir().join(directory);
        let _ = std::fs::remove_dir_all(&place);
        place
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn directories_get_their_mode_and_existing_ones_keep_theirs() {
        let place = place("directories");
        make_directory(&place.join("a/b"), 0o700).unwrap();
        assert_eq!(mode(&place.join("a")), PUBLIC_DIRECTORY);
        assert_eq!(mode(&place.join("a/b")), 0o700);
        make_directory(&place.join("a/b"), PUBLIC_DIRECTORY).unwrap();
        assert_eq!(mode(&place.join("a/b")), 0o700);
        std::fs::write(place.join("file"), "").unwrap();
        assert!(make_directory(&place.join("file"), 0o700).is_err());
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn a_lock_file_is_private_whatever_was_there() {
        let place = place("lock");
        make_directory(&place, PUBLIC_DIRECTORY).unwrap();
        let lock = place.join("daemon.lock");
        open_lock(&lock).unwrap();
        assert_eq!(mode(&lock), PRIVATE_FILE);
        // Of a version that let everybody open it.
        std::fs::set_permissions(&lock, Permissions::from_mode(0o644)).unwrap();
        open_lock(&lock).unwrap();
        assert_eq!(mode(&lock), PRIVATE_FILE);
        let target = place.join("target");
        std::fs::write(&target, "kept").unwrap();
        std::fs::remove_file(&lock).unwrap();
        std::os::unix::fs::symlink(&target, &lock).unwrap();
        assert!(open_lock(&lock).is_err());
        std::fs::remove_file(&lock).unwrap();
        nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open_lock(&lock).is_err());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn a_file_is_replaced_and_a_prepared_name_is_not_followed() {
        let place = place("replace");
        make_directory(&place, PUBLIC_DIRECTORY).unwrap();
        let (path, target) = (place.join("state"), place.join("target"));
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, place.join("state.new")).unwrap();
        for text in ["one", "two"] {
            replace(&path, text.as_bytes(), PRIVATE_FILE).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
            assert_eq!(mode(&path), PRIVATE_FILE);
        }
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
        std::fs::remove_dir_all(place).unwrap();
    }
}
