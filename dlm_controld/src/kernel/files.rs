// SPDX-License-Identifier: GPL-2.0-only
//! The few file operations that configfs and sysfs need, behind a trait: their
//! order and their bytes are the interface, and tests look at both.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::path::Path;

use dlm_client::device;

use super::KernelError;

/// Directories, attributes and devices.
pub(crate) trait Files: Send + Sync {
    /// Names of the directories in a directory, sorted; none when it does not
    /// exist. Attribute files are not listed.
    fn directories(&self, path: &Path) -> io::Result<Vec<String>>;

    fn make_directory(&self, path: &Path) -> io::Result<()>;

    fn remove_directory(&self, path: &Path) -> io::Result<()>;

    /// One write of all the bytes to an existing attribute.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;

    /// Opens a misc device, for as long as the file lives.
    fn open_device(&self, name: &str) -> Result<File, KernelError>;
}

/// The machine's.
pub(crate) struct RealFiles;

impl Files for RealFiles {
    fn directories(&self, path: &Path) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir(path)
    }

    fn remove_directory(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let written = OpenOptions::new().write(true).open(path)?.write(bytes)?;
        if written != bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }

    fn open_device(&self, name: &str) -> Result<File, KernelError> {
        Ok(device::open(name, OpenOptions::new().read(true))?)
    }
}
