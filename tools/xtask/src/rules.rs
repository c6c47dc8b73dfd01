// SPDX-License-Identifier: GPL-2.0-only
//! Rules of the house that no compiler checks.
//!
//! Pure functions from a file's path and text to what is wrong with it. Rule: a message says which
//! line breaks which rule, so that nobody has to look for it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;

use crate::hazards;
use crate::paths::Layout;
use crate::run;
use crate::source::code;
use crate::storeys;

/// Columns of a line of source.
const COLUMNS: usize = 100;

/// Lines of a file of source, beyond which it has to be split.
const LINES: usize = 1500;

/// The places of kernel modules that may be unsafe: those of ours, and the file of the bench that
/// calls C.
const UNSAFE_PLACES: [&str; 4] = [
    "kmod/ffi/",
    "kmod/capi.rs",
    "kmod/uapi/",
    "qemu-test/bench/dlm.rs",
];

/// Every violation in the files of the repository.
pub(crate) fn violations(layout: &Layout) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut texts = BTreeMap::new();
    for path in files(layout)? {
        let full = layout.workspace().join(&path);
        let Ok(bytes) = fs::read(&full) else {
            // Listed but removed since: nothing to look at.
            continue;
        };
        if let Ok(text) = String::from_utf8(bytes) {
            found.extend(check(&path, &text));
            texts.insert(path, text);
        }
    }
    found.extend(hazards::violations(&texts));
    texts.retain(|path, _| path.starts_with("kmod/"));
    found.extend(storeys::violations(&texts));
    Ok(found)
}

/// Files under version control and those that could be added.
fn files(layout: &Layout) -> Result<BTreeSet<String>> {
    let mut command = std::process::Command::new("git");
    command.arg("-C").arg(layout.workspace());
    command.args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let list = run::output("listing the files of the repository", &mut command)
        .context("the rules are checked on a git checkout")?;
    Ok(list.lines().map(str::to_owned).collect())
}

/// What is wrong with one file.
fn check(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Some(kind) = Kind::of(path) else {
        return found;
    };
    found.extend(check_head(path, text, kind));
    if kind != Kind::Data {
        found.extend(check_size(path, text));
    }
    if kind == Kind::Rust && !UNSAFE_PLACES.iter().any(|place| path.starts_with(place)) {
        found.extend(check_unsafe(path, text));
    }
    if path.starts_with("kmod/") && path.ends_with(".c") {
        found.push(format!("{path}: C source; the kernel module is Rust"));
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rust,
    Other,
    Data,
}

impl Kind {
    /// Which rules apply; none to documents, test data and files others write.
    fn of(path: &str) -> Option<Kind> {
        let name = path.rsplit('/').next().unwrap_or(path);
        if path.contains("/fixtures/") || path.contains("/transcripts/") || name == "Cargo.lock" {
            return None;
        }
        match name.rsplit_once('.').map(|(_, kind)| kind) {
            Some("rs") => Some(Kind::Rust),
            Some("c" | "h" | "sh" | "mk") => Some(Kind::Other),
            Some("toml" | "yaml" | "config" | "params") => Some(Kind::Data),
            _ if matches!(name, "Kbuild" | "Makefile") => Some(Kind::Other),
            _ => None,
        }
    }
}

fn check_head(path: &str, text: &str, kind: Kind) -> Vec<String> {
    let mut found = Vec::new();
    let first: Vec<&str> = text.lines().take(3).collect();
    // Small settings files of tools have no head to speak of.
    let is_exempt = kind == Kind::Data && !path.contains('/') && path != "Cargo.toml";
    if !is_exempt
        && !first
            .iter()
            .any(|line| line.contains("SPDX-License-Identifier:") && line.contains("GPL-2.0"))
    {
        found.push(format!("{path}:1: no SPDX-License-Identifier line"));
    }
    if kind == Kind::Rust && !text.lines().any(|line| line.starts_with("//!")) {
        found.push(format!("{path}:2: no //! head saying what the file is"));
    }
    found
}

/// Whether a line is wide because of a string, which no formatter breaks: the text a person reads
/// is worth more in one piece.
fn is_text(line: &str) -> bool {
    let begin = line.find('"').unwrap_or(line.len());
    let is_comment = line.trim_start().starts_with("//");
    !is_comment
        && line
            .get(..begin)
            .is_some_and(|code| code.chars().count() < COLUMNS)
        && line.rfind('"').is_some_and(|end| end > begin)
}

fn check_size(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS && !is_text(line) {
            found.push(format!(
                "{path}:{}: {columns} columns, {COLUMNS} allowed",
                at + 1
            ));
        }
    }
    let lines = text.lines().count();
    if lines > LINES {
        found.push(format!("{path}: {lines} lines, {LINES} allowed; split it"));
    }
    found
}

fn check_unsafe(path: &str, text: &str) -> Vec<String> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| words(&code(line)).any(|word| word == "unsafe"))
        .map(|(at, _)| {
            format!(
                "{path}:{}: unsafe outside {}",
                at + 1,
                UNSAFE_PLACES.join(", ")
            )
        })
        .collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
}

/// The kernel modules' sources, for the formatter: all but what cargo formats.
pub(crate) fn kernel_roots(layout: &Layout) -> Vec<std::path::PathBuf> {
    ["kmod/dlm_main.rs", "qemu-test/bench/dlmbench.rs"]
        .into_iter()
        .map(|path| layout.workspace().join(path))
        .filter(|path| Path::exists(path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "// SPDX-License-Identifier: GPL-2.0-only\n//! A file.\n";

    #[test]
    fn proper_file_passes() {
        let text = format!("{HEAD}// unsafe in a comment\nlet s = \"unsafe {{ }}\"; // unsafe\n");
        assert_eq!(check("cmand/src/main.rs", &text), Vec::<String>::new());
        assert!(check("README.md", "no head").is_empty());
    }

    #[test]
    fn missing_heads_are_found() {
        let found = check("cmand/src/main.rs", "fn main() {}\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(check("kmod/Kbuild", "obj-m := dlm.o\n").len(), 1);
        assert_eq!(check("cmand/Cargo.toml", "[package]\n").len(), 1);
        assert!(check("rustfmt.toml", "edition = \"2024\"\n").is_empty());
    }

    #[test]
    fn unsafe_is_allowed_only_in_its_places() {
        let text = format!("{HEAD}let x = unsafe {{ *p }};\n");
        let found = check("kmod/lockspace.rs", &text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("kmod/lockspace.rs:3: unsafe"),
            "{found:?}"
        );
        assert!(check("kmod/ffi/socket.rs", &text).is_empty());
        let lint = format!("{HEAD}#![forbid(unsafe_code)]\n");
        assert!(check("kmod/lockcore/mod.rs", &lint).is_empty());
    }

    #[test]
    fn wide_lines_and_long_files_are_found() {
        let wide = format!("{HEAD}// {}\n", "é".repeat(98));
        assert_eq!(check("a.rs", &wide), ["a.rs:3: 101 columns, 100 allowed"]);
        let fits = format!("{HEAD}// {}\n", "é".repeat(97));
        assert!(check("a.rs", &fits).is_empty());
        let text = format!("{HEAD}let x = \"{}\";\n", "é".repeat(98));
        assert!(check("a.rs", &text).is_empty(), "a string is not broken");
        let code = format!("{HEAD}let {} = x;\n", "é".repeat(98));
        assert_eq!(check("a.rs", &code).len(), 1);
        let long = format!("{HEAD}{}", "//\n".repeat(LINES));
        assert!(check("a.rs", &long)[0].contains("split it"));
    }

    #[test]
    fn c_in_the_module_is_found() {
        let text = "// SPDX-License-Identifier: GPL-2.0-only\n";
        assert_eq!(check("kmod/ffi/wrap.c", text).len(), 1);
        assert!(check("tests/clients/lock.c", text).is_empty());
    }
}
