// SPDX-License-Identifier: GPL-2.0-only
//! The module's misc devices by name, whichever module it is: `/proc/misc`
//! knows their minors, `/dev` has the nodes (under `misc/` where udev's rule is
//! installed).

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Major number of misc devices.
const MISC_MAJOR: u64 = 10;

/// Where device nodes are looked for.
const DIRECTORIES: [&str; 2] = ["/dev", "/dev/misc"];

/// Why a device cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The kernel offers no such device.
    #[error("device {0}: not in /proc/misc; is the module loaded, does the lockspace exist?")]
    Missing(String),
    /// It has no node in `/dev`.
    #[error("device {name}: no node for it; make one with `mknod /dev/{name} c 10 {minor}`")]
    NoNode {
        /// Its name.
        name: String,
        /// Its minor number.
        minor: u64,
    },
    /// The system refused.
    #[error("{action} {path}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// The minor of a device in the text of `/proc/misc`.
fn parse_minor(text: &str, name: &str) -> Option<u64> {
    let entry = |line: &str| {
        let (minor, word) = line.trim().split_once(' ')?;
        (word.trim() == name).then(|| minor.parse().ok())?
    };
    text.lines().find_map(entry)
}

/// The minor number of a device.
///
/// # Errors
/// [`DeviceError::Missing`], or [`DeviceError::System`].
pub fn minor(name: &str) -> Result<u64, DeviceError> {
    let path = PathBuf::from("/proc/misc");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => {
            return Err(DeviceError::System {
                action: "reading",
                path,
                source,
            });
        }
    };
    parse_minor(&text, name).ok_or_else(|| DeviceError::Missing(name.to_owned()))
}

/// The node of a device in `/dev`.
///
/// # Errors
/// [`DeviceError`].
pub fn node(name: &str) -> Result<PathBuf, DeviceError> {
    let minor = minor(name)?;
    let wanted = nix::sys::stat::makedev(MISC_MAJOR, minor);
    for directory in DIRECTORIES {
        let path = PathBuf::from(directory).join(name);
        match std::fs::metadata(&path) {
            Ok(node) if node.file_type().is_char_device() && node.rdev() == wanted => {
                return Ok(path);
            }
            Ok(_) | Err(_) => {}
        }
    }
    Err(DeviceError::NoNode {
        name: name.to_owned(),
        minor,
    })
}

/// Opens a device.
///
/// # Errors
/// [`DeviceError`].
pub fn open(name: &str, options: &OpenOptions) -> Result<File, DeviceError> {
    let path = node(name)?;
    let opened = options.open(&path);
    opened.map_err(|source| DeviceError::System {
        action: "opening",
        path,
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minors_are_found_by_whole_name() {
        let text = "122 dlm_plock\n123 dlm-monitor\n124 dlm-control\n  1 psaux\n";
        assert_eq!(parse_minor(text, "dlm-monitor"), Some(123));
        assert_eq!(parse_minor(text, "psaux"), Some(1));
        assert_eq!(parse_minor(text, "dlm"), None);
        assert_eq!(parse_minor("garbage", "dlm"), None);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = open("no-such-device", OpenOptions::new().read(true)).unwrap_err();
        assert!(error.to_string().contains("no-such-device"), "{error}");
    }
}
