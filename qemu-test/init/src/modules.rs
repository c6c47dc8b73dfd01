// SPDX-License-Identifier: GPL-2.0-only
//! Loads the kernel modules of the initramfs, in the order of its list.
//!
//! The list (`/modules.list`) has one module a line: a path (relative ones are below
//! `/lib/modules`), then its parameters; `#` begins a comment. No dependency is resolved here: the
//! list is made by who knows them. Without a list there is nothing to load.

use std::ffi::CString;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use nix::errno::Errno;
use nix::kmod::ModuleInitFlags;
use nix::kmod::finit_module;

/// Where relative paths of the list start.
const MODULE_DIR: &str = "/lib/modules";

/// A line of the list: path and parameters.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    parameters: String,
}

/// Loads all modules of `list`; returns what went wrong, one sentence each.
pub fn load_list(list: &Path) -> Vec<String> {
    match std::fs::read_to_string(list) {
        Ok(text) => parse(&text)
            .iter()
            .filter_map(|entry| load(entry).err())
            .map(|error| format!("{error:#}"))
            .collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => vec![format!("reading {}: {error}", list.display())],
    }
}

fn parse(text: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| line.split('#').next())
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let path = Path::new(MODULE_DIR).join(words.next()?);
            let parameters = words.collect::<Vec<_>>().join(" ");
            Some(Entry { path, parameters })
        })
        .collect()
}

fn load(entry: &Entry) -> Result<()> {
    let path = entry.path.display();
    let file = File::open(&entry.path).with_context(|| format!("opening module {path}"))?;
    let parameters = CString::new(entry.parameters.as_str())
        .with_context(|| format!("parameters of module {path}"))?;
    match finit_module(&file, &parameters, ModuleInitFlags::empty()) {
        // Already there, as a part of the kernel or from an earlier line.
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("loading module {path}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_parameters_are_told_from_paths() {
        let entries = parse("# all\nvirtio.ko\n\n/x/erofs.ko a=1  b=2 # why\n");
        assert_eq!(
            entries,
            [
                Entry {
                    path: "/lib/modules/virtio.ko".into(),
                    parameters: String::new()
                },
                Entry {
                    path: "/x/erofs.ko".into(),
                    parameters: "a=1 b=2".into()
                },
            ]
        );
    }

    #[test]
    fn a_missing_module_is_named_and_a_missing_list_is_fine() {
        assert!(load_list(Path::new("/nonexistent/modules.list")).is_empty());
        let error = load(&Entry {
            path: "/nonexistent/x.ko".into(),
            parameters: String::new(),
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("/nonexistent/x.ko"));
    }
}
