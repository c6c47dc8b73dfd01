// SPDX-License-Identifier: GPL-2.0-only
//! Writes the initramfs of nodes that have nothing else: init, busybox and a few files.
//!
//! Format: cpio "newc", of which the kernel needs a 110-byte ASCII header, the name, the content,
//! each padded to four bytes, and a closing record named `TRAILER!!!`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const SYMLINK: u32 = 0o120_777;

/// The commands of busybox that scripts on bare nodes use by name.
const APPLETS: [&str; 54] = [
    "[", "ash", "awk", "basename", "cat", "chmod", "cmp", "cp", "cut", "date", "dd", "dirname",
    "dmesg", "echo", "env", "expr", "false", "find", "grep", "head", "hostname", "id", "insmod",
    "ip", "kill", "ln", "ls", "lsmod", "md5sum", "mkdir", "mknod", "mount", "mv", "nc", "od",
    "ping", "printf", "ps", "rm", "rmdir", "rmmod", "sed", "seq", "sh", "sleep", "sort", "stat",
    "sync", "tail", "test", "timeout", "touch", "true", "wc",
];

/// An archive being written.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    directories: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// The base of a bare node: init, busybox and its commands, mount points.
    pub(crate) fn of_bare_node(init: &Path, busybox: &Path) -> Result<Self> {
        let mut archive = Archive::default();
        archive.add_file("/init", init)?;
        archive.add_file("/bin/busybox", busybox)?;
        for applet in APPLETS {
            archive.add_link(&format!("/bin/{applet}"), "busybox")?;
        }
        for dir in ["/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/etc"] {
            archive.add_directory(dir)?;
        }
        Ok(archive)
    }

    /// Adds a file of this machine as a program.
    pub(crate) fn add_file(&mut self, name: &str, from: &Path) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.add_parents(name)?;
        self.add(name, PROGRAM, &content)
    }

    fn add_link(&mut self, name: &str, target: &str) -> Result<()> {
        self.add_parents(name)?;
        self.add(name, SYMLINK, target.as_bytes())
    }

    fn add_directory(&mut self, name: &str) -> Result<()> {
        if name.is_empty() || !self.directories.insert(name.to_owned()) {
            return Ok(());
        }
        self.add_parents(name)?;
        self.add(name, DIRECTORY, &[])
    }

    fn add_parents(&mut self, name: &str) -> Result<()> {
        match name.rsplit_once('/') {
            Some((parent, _)) => self.add_directory(parent),
            None => bail!("{name} in the initramfs is not an absolute path"),
        }
    }

    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let name = name.trim_start_matches('/');
        let size = u32::try_from(content.len()).with_context(|| format!("{name}: too long"))?;
        self.add_record(name, self.inode, mode, size);
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn add_record(&mut self, name: &str, inode: u32, mode: u32, size: u32) {
        let name_len = u32::try_from(name.len() + 1).expect("names are short");
        let links = 1;
        self.bytes.extend_from_slice(b"070701");
        // inode, mode, uid, gid, links, mtime, size, device, special device, name length, checksum
        for field in [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_len, 0] {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Closes the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.add_record("TRAILER!!!", 0, 0, 0);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads an archive back: name, mode and size of every record.
    fn records(bytes: &[u8]) -> Vec<(String, u32, usize)> {
        let mut records = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(at % 4, 0);
            let field = |n: usize| {
                let start = at + 6 + n * 8;
                let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!(&bytes[at..at + 6], b"070701");
            let name_len = field(11) as usize;
            let size = field(6) as usize;
            let name = String::from_utf8(bytes[at + 110..at + 109 + name_len].to_vec()).unwrap();
            if name == "TRAILER!!!" {
                return records;
            }
            records.push((name, field(1), size));
            at = (at + 110 + name_len).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
        }
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let me = std::env::current_exe().unwrap();
        let mut archive = Archive::default();
        archive.add_file("/a/b/one", &me).unwrap();
        archive.add_file("/a/b/two", &me).unwrap();
        archive.add_link("/a/l", "b/one").unwrap();
        let size = fs::metadata(&me).unwrap().len() as usize;
        assert_eq!(
            records(&archive.finish()),
            [
                ("a".to_owned(), DIRECTORY, 0),
                ("a/b".to_owned(), DIRECTORY, 0),
                ("a/b/one".to_owned(), PROGRAM, size),
                ("a/b/two".to_owned(), PROGRAM, size),
                ("a/l".to_owned(), SYMLINK, 5),
            ]
        );
    }

    #[test]
    fn relative_names_and_missing_files_are_refused() {
        let mut archive = Archive::default();
        let me = std::env::current_exe().unwrap();
        assert!(archive.add_file("one", &me).is_err());
        let error = archive.add_file("/x", Path::new("/nonexistent/file"));
        assert!(format!("{:#}", error.unwrap_err()).contains("/nonexistent/file"));
    }
}
