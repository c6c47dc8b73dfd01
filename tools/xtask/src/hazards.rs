// SPDX-License-Identifier: GPL-2.0-only
//! The list of hazards names tests that exist.

use std::collections::BTreeMap;

/// The list.
const LIST: &str = "tests/hazards.md";

/// How many hazards there are.
const COUNT: usize = 44;

/// Where scenarios say their names.
const SCENARIOS: &str = "qemu-test/src/scenarios";

/// Names in backquotes that are neither a test nor a scenario; hazards that are missing. `files`
/// are all texts of the repository.
pub(crate) fn violations(files: &BTreeMap<String, String>) -> Vec<String> {
    let Some(list) = files.get(LIST) else {
        return vec![format!("{LIST}: is missing")];
    };
    let mut found = Vec::new();
    let mut next = 1;
    for (number, line) in (1..).zip(list.lines()) {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let Some(Ok(hazard)) = cells.next().map(str::parse::<usize>) else {
            continue;
        };
        if hazard != next {
            found.push(format!("{LIST}:{number}: hazard {next} is missing"));
        }
        next = hazard + 1;
        let here = cells.nth(1).unwrap_or_default();
        if here.is_empty() {
            found.push(format!("{LIST}:{number}: says nothing of hazard {hazard}"));
        }
        for name in here
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|name| is_name(name))
        {
            if !exists(files, name) {
                found.push(format!("{LIST}:{number}: there is no test {name}"));
            }
        }
    }
    if next != COUNT + 1 {
        found.push(format!("{LIST}: ends at {}, there are {COUNT}", next - 1));
    }
    found
}

/// Names of tests and scenarios; not types, paths and fields of messages.
fn is_name(text: &str) -> bool {
    let is_test = text.matches('_').count() >= 2;
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    text.chars().all(plain) && (is_test || !text.contains('_')) && text != "release-recover"
}

fn exists(files: &BTreeMap<String, String>, name: &str) -> bool {
    let (test, scenario) = (format!("fn {name}()"), format!("\"{name}\""));
    files.iter().any(|(path, text)| {
        path.ends_with(".rs")
            && (text.contains(&test) || path.starts_with(SCENARIOS) && text.contains(&scenario))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(list: &str) -> Vec<String> {
        let files = [
            (LIST, list),
            ("kmod/a.rs", "#[test]\nfn a_test_that_is() {}\n"),
            ("qemu-test/src/scenarios.rs", "name: \"gfs2\""),
        ];
        let files = files.map(|(path, text)| (path.to_owned(), text.to_owned()));
        violations(&files.into())
    }

    #[test]
    fn names_must_exist_and_no_hazard_be_left_out() {
        let list: String = (1..=COUNT)
            .map(|n| format!("| {n} | x | `a_test_that_is`, `gfs2`, `Option<T>` |\n"))
            .collect();
        assert!(found(&list).is_empty());
        let gone = list.replace("| 7 | x | `a_test_that_is`", "| 7 | x | `a_test_that_was`");
        assert_eq!(
            found(&gone),
            ["tests/hazards.md:7: there is no test a_test_that_was"]
        );
        let short = list.replace("| 44 |", "| end |");
        assert_eq!(
            found(&short),
            ["tests/hazards.md: ends at 43, there are 44"]
        );
        let hole = list.replace("| 9 |", "| nine |");
        assert_eq!(found(&hole), ["tests/hazards.md:10: hazard 9 is missing"]);
    }
}
