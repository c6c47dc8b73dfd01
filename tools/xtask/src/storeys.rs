// SPDX-License-Identifier: GPL-2.0-only
//! The storeys of the kernel module: no import runs up, and no files import each other in a circle.
//!
//! Pure: from the texts of the files to what is wrong with them. An import is every path that
//! begins with `crate::` or `super::`, in a `use` or not. A file may use what its parent module
//! has, as Rust means it; that counts neither as a way up nor towards a circle. What stands above
//! reaches down by names, what stands below reaches up by a table of hooks.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

/// The root of the module, which names everything.
const MAIN: &str = "kmod/dlm_main.rs";

/// Whose imports among themselves are not looked at here: it is a crate of its own in user space.
const CORE: &str = "kmod/lockcore/";

/// Parts of `kmod/` that are no part of the module.
const OTHER_CRATES: [&str; 2] = ["kmod/host/", "kmod/client/"];

/// A storey and the modules in it, without `kmod/` and `.rs`. From the bottom up.
const STOREYS: [(&str, &[&str]); 5] = [
    (
        "ground",
        &["lockcore", "ffi", "uapi", "platform", "doorbell"],
    ),
    ("transport and callback", &["transport", "callback"]),
    ("lockspace", &["lockspace"]),
    (
        "doors",
        &["capi", "control", "configfs", "device", "debugfs", "plock"],
    ),
    ("module", &["dlm_main"]),
];

/// Path of a module from the root of the crate.
type Module = Vec<String>;

/// One import.
#[derive(Debug, PartialEq, Eq)]
struct Import {
    line: usize,
    /// As it is written, groups resolved.
    path: Vec<String>,
}

/// What is wrong with the imports of these files, given by path and text.
pub(crate) fn violations(files: &BTreeMap<String, String>) -> Vec<String> {
    let modules = modules(files);
    let mut found = Vec::new();
    let mut graph: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (module, path) in &modules {
        let Some(own) = storey(path) else {
            found.push(format!("{path}: stands in no storey of {}", file!()));
            continue;
        };
        let text = files.get(*path).map_or("", String::as_str);
        for import in imports(text) {
            let Some(target) = resolve(module, &import.path, &modules) else {
                continue;
            };
            if storey(target).is_some_and(|other| other > own) {
                found.push(runs_up(path, &import, own, target));
            }
            // A circle over several storeys has a way up.
            let is_core = path.starts_with(CORE) || target.starts_with(CORE);
            if storey(target) == Some(own) && !is_core {
                graph.entry(path).or_default().insert(target);
            }
        }
    }
    found.extend(circles(&graph));
    found
}

fn runs_up(path: &str, import: &Import, own: usize, target: &str) -> String {
    let name = |storey: usize| STOREYS.get(storey).map_or("", |(name, _)| name);
    let other = storey(target).map_or("", name);
    format!(
        "{path}:{}: {} runs up, from storey \"{}\" to storey \"{other}\"",
        import.line,
        import.path.join("::"),
        name(own),
    )
}

/// The files of the module by their modules.
fn modules(files: &BTreeMap<String, String>) -> BTreeMap<Module, &str> {
    files
        .keys()
        .filter(|path| !OTHER_CRATES.iter().any(|other| path.starts_with(other)))
        .filter_map(|path| {
            let inner = path.strip_prefix("kmod/")?.strip_suffix(".rs")?;
            let inner = inner.strip_suffix("/mod").unwrap_or(inner);
            let module = match path.as_str() {
                MAIN => Vec::new(),
                _other => inner.split('/').map(str::to_owned).collect(),
            };
            Some((module, path.as_str()))
        })
        .collect()
}

/// Which storey a file stands in, counted from the ground.
fn storey(path: &str) -> Option<usize> {
    let inner = path.strip_prefix("kmod/")?.strip_suffix(".rs")?;
    let first = inner.split('/').next()?;
    STOREYS
        .iter()
        .position(|(_, modules)| modules.contains(&first))
}

/// The file that an import is about; `None` if that is the file itself or its parents.
fn resolve<'a>(
    module: &Module,
    path: &[String],
    modules: &BTreeMap<Module, &'a str>,
) -> Option<&'a str> {
    let ups = path.iter().take_while(|word| *word == "super").count();
    let is_from_root = path.first().is_some_and(|word| word == "crate");
    let (base, rest) = if is_from_root {
        (0, path.get(1..)?)
    } else {
        // More of them than parents: from inside a module within the file.
        (module.len().checked_sub(ups)?, path.get(ups..)?)
    };
    let mut target: Module = module.get(..base)?.to_vec();
    for word in rest {
        target.push(word.clone());
        if !modules.contains_key(&target) {
            target.pop();
            break;
        }
    }
    // Whoever reads from the root itself reads upwards, unless it is for all that a test uses.
    let is_parent = module.starts_with(&target);
    let is_root = target.is_empty() && rest.first().is_some_and(|word| word != "*");
    if is_parent && !(is_root && is_from_root) {
        return None;
    }
    modules.get(&target).copied()
}

/// All imports of a file.
fn imports(text: &str) -> Vec<Import> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let word = token.word.as_str();
        let is_path = tokens.get(at + 1).is_some_and(|t| t.word == "::");
        if is_path && (word == "crate" || word == "super") {
            at = tree(&tokens, at, Vec::new(), &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path with its groups from `at` on, and returns where it ends.
fn tree(tokens: &[Token], mut at: usize, mut path: Vec<String>, found: &mut Vec<Import>) -> usize {
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        if token.word == "{" {
            at += 1;
            while tokens.get(at).is_some_and(|token| token.word != "}") {
                at = match tokens.get(at).map(|token| token.word.as_str()) {
                    Some(",") => at + 1,
                    _name => tree(tokens, at, path.clone(), found).max(at + 1),
                };
            }
            return at + 1;
        }
        path.push(token.word.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token.word != "::") {
            break;
        }
        at += 1;
    }
    found.push(Import { line, path });
    at
}

#[derive(Debug)]
struct Token {
    line: usize,
    word: String,
}

/// Words, `::` and single characters; without comments and strings.
fn tokens(text: &str) -> Vec<Token> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let code = crate::source::code(line);
        let mut rest = code.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let len = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            let (word, after) = rest.split_at(len);
            found.push(Token {
                line: at + 1,
                word: word.to_owned(),
            });
            rest = after.trim_start();
        }
    }
    found
}

/// Says of every circle which files are in it. A file that only leads to one is in none.
fn circles(graph: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<String> {
    let reached: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|file| (*file, reachable(graph, file)))
        .collect();
    let reaches = |from: &str, to: &str| reached.get(from).is_some_and(|set| set.contains(to));
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for file in graph.keys().filter(|file| reaches(file, file)) {
        let circle: Vec<&str> = graph
            .keys()
            .filter(|other| reaches(file, other) && reaches(other, file))
            .copied()
            .collect();
        if circle.iter().all(|file| seen.insert(*file)) {
            found.push(format!(
                "{}: imports run in a circle: {}",
                circle.first().unwrap_or(&""),
                circle.join(", ")
            ));
        }
    }
    found
}

fn reachable<'a>(graph: &BTreeMap<&'a str, BTreeSet<&'a str>>, from: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = vec![from];
    while let Some(file) = open.pop() {
        for next in graph.get(file).into_iter().flatten() {
            if found.insert(*next) {
                open.push(next);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(files: &[(&str, &str)]) -> Vec<String> {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
            .collect();
        violations(&files)
    }

    const HOUSE: [(&str, &str); 9] = [
        (MAIN, "mod capi;\nuse crate::lockspace::Hooks;\n"),
        ("kmod/capi.rs", "use crate::lockspace::create;\n"),
        (
            "kmod/lockspace.rs",
            "use crate::callback::Owner;\nmod tests {\n    use super::*;\n}\n",
        ),
        (
            "kmod/lockspace/files.rs",
            "use super::{\n    hooks::Hooks,\n    Lockspace, //\n};\n",
        ),
        ("kmod/lockspace/hooks.rs", "use super::Lockspace;\n"),
        (
            "kmod/callback.rs",
            "use crate::lockcore::mode::Mode; // crate::capi\n",
        ),
        ("kmod/transport.rs", "pub(in crate::transport) fn f() {}\n"),
        (
            "kmod/lockcore/mod.rs",
            "use crate::platform::Result;\nuse super::lockcore::mode;\n",
        ),
        ("kmod/platform.rs", "use crate::lockcore::Fault;\n"),
    ];

    fn with(path: &'static str, text: &'static str) -> Vec<String> {
        let mut files = HOUSE.to_vec();
        files.retain(|(other, _)| *other != path);
        files.push((path, text));
        check(&files)
    }

    #[test]
    fn a_house_in_order_passes() {
        assert_eq!(check(&HOUSE), Vec::<String>::new());
    }

    #[test]
    fn an_import_that_runs_up_is_found_with_its_line_and_storeys() {
        assert_eq!(
            with("kmod/callback.rs", "\nuse crate::capi::Caller;\n"),
            ["kmod/callback.rs:2: crate::capi::Caller runs up, \
              from storey \"transport and callback\" to storey \"doors\""]
        );
    }

    #[test]
    fn every_way_to_write_an_import_is_seen() {
        let ways = [
            "use crate::{\n    lockcore::mode::Mode,\n    capi::{\n        Ops, //\n    },\n};\n",
            "use super::capi;\n",
            "fn f() -> crate::capi::Ops {\n    crate::capi::new()\n}\n",
            "use crate::DOORS;\n",
        ];
        for text in ways {
            let found = with("kmod/transport.rs", text);
            assert!(
                found.first().is_some_and(|text| text.contains("runs up")),
                "{text}: {found:?}"
            );
        }
        let nested = with("kmod/lockspace/files.rs", "use super::super::capi::Ops;\n");
        assert_eq!(nested.len(), 1, "{nested:?}");
    }

    #[test]
    fn each_storey_may_look_down_only() {
        let lower = ["kmod/doorbell.rs", "kmod/transport.rs", "kmod/lockspace.rs"];
        for (at, path) in lower.into_iter().enumerate() {
            assert_eq!(
                with(path, "use crate::capi::f;\n")
                    .iter()
                    .filter(|text| text.contains("runs up"))
                    .count(),
                1,
                "{path}"
            );
            let down = with("kmod/capi.rs", "use crate::lockspace::f;\nuse crate::x;\n");
            // The root has no such name of its own to give.
            assert_eq!(down.len(), 1, "{at}: {down:?}");
        }
    }

    #[test]
    fn later_storeys_are_known() {
        let found = with(
            "kmod/lockspace/hooks.rs",
            "use crate::plock::f;\nuse crate::configfs::f;\n",
        );
        // Only what is there is imported, from the root otherwise.
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(storey("kmod/configfs/tree.rs"), storey("kmod/plock.rs"));
    }

    #[test]
    fn a_file_outside_the_storeys_is_found() {
        assert_eq!(with("kmod/common.rs", "").len(), 1);
        assert!(with("kmod/host/lib.rs", "use crate::capi::f;\n").is_empty());
    }

    #[test]
    fn a_circle_is_found_and_names_its_files_only() {
        let mut files = HOUSE.to_vec();
        files.extend([
            ("kmod/device.rs", "use crate::debugfs::f;\n"),
            ("kmod/debugfs.rs", "use crate::plock::f;\n"),
            ("kmod/plock.rs", "use crate::device::f;\n"),
            ("kmod/control.rs", "use crate::device::f;\n"),
        ]);
        assert_eq!(
            check(&files),
            ["kmod/debugfs.rs: imports run in a circle: \
              kmod/debugfs.rs, kmod/device.rs, kmod/plock.rs"]
        );
    }
}
