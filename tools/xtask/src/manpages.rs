// SPDX-License-Identifier: GPL-2.0-only
//! The manual page of every program names the commands and options that `--help` does, and no
//! others: both are asked, so neither can be forgotten when the other changes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;

use crate::image::cargo;
use crate::paths::Layout;
use crate::run;

/// Programs, and where their pages are.
const PAGES: [(&str, &str); 7] = [
    ("cmand", "cmand/man/cmand.8"),
    ("fenced", "fenced/man/fenced.8"),
    ("fence_vm", "fenced/fence_vm/man/fence_vm.8"),
    ("dlm_controld", "dlm_controld/man/dlm_controld.8"),
    ("cman_tool", "tools/cman_tool/man/cman_tool.8"),
    ("fence_tool", "tools/fence_tool/man/fence_tool.8"),
    ("dlm_tool", "tools/dlm_tool/man/dlm_tool.8"),
];

/// What a program or a page knows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    options: BTreeSet<String>,
    commands: BTreeSet<String>,
}

/// What pages and programs say differently.
pub(crate) fn violations(layout: &Layout) -> Result<Vec<String>> {
    let mut build = cargo(layout.workspace());
    build.args(["build", "--quiet", "--workspace", "--bins"]);
    run::visible("cargo build", &mut build)?;
    let mut found = Vec::new();
    for (program, page) in PAGES {
        let path = layout.workspace().join(page);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let program = layout.target().join("debug").join(program);
        found.extend(compare(page, &text, &ask(&program)?));
    }
    Ok(found)
}

/// Asks a program for its help, and for that of each of its commands and of theirs.
fn ask(program: &Path) -> Result<Known> {
    let mut known = of_help(&help(program, &[])?);
    for command in known.commands.clone() {
        let of_command = of_help(&help(program, &[&command])?);
        for below in &of_command.commands {
            let of_below = of_help(&help(program, &[&command, below])?);
            known.options.extend(of_below.options);
        }
        known.options.extend(of_command.options);
        known.commands.extend(of_command.commands);
    }
    Ok(known)
}

fn help(program: &Path, command: &[&str]) -> Result<String> {
    let output = Command::new(program).args(command).arg("--help").output();
    let output = output.with_context(|| format!("starting {}", program.display()))?;
    ensure!(
        output.status.success(),
        "{} {command:?} --help: {}",
        program.display(),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn of_help(text: &str) -> Known {
    let first_word = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let commands = text
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(first_word)
        .filter(|command| command != "help");
    let options = text
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    Known {
        commands: commands.collect(),
        options: options.flat_map(long_options).collect(),
    }
}

/// Words after `--`.
fn long_options(text: &str) -> Vec<String> {
    let is_part = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let words = text.split("--").skip(1);
    let words = words.map(|word| word.chars().take_while(is_part).collect::<String>());
    words.filter(|word| !word.is_empty()).collect()
}

fn compare(page: &str, text: &str, known: &Known) -> Vec<String> {
    let plain = text.replace("\\-", "-");
    let described: BTreeSet<String> = long_options(&plain).into_iter().collect();
    let missing = known.options.difference(&described);
    let missing = missing.map(|option| format!("{page}: nothing about --{option}"));
    let unknown = described.difference(&known.options);
    let unknown = unknown.map(|option| format!("{page}: the program does not know --{option}"));
    let commands = known.commands.iter().filter(|command| {
        let heads = [format!("\\fB{command}\\fR"), format!("\n.B {command}\n")];
        !heads.iter().any(|head| plain.contains(head.as_str()))
    });
    let commands = commands.map(|command| format!("{page}: nothing about the command {command}"));
    missing.chain(unknown).chain(commands).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "Asks\n\nUsage: x [OPTIONS] <COMMAND>\n\nCommands:\n  ls     Show\n  \
                        leave  Go\n  help   Print\n\nOptions:\n  -n, --no-load <X>  Not --here\n";

    #[test]
    fn a_page_with_a_gap_or_a_ghost_is_named() {
        let known = of_help(HELP);
        let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>().join(" ");
        assert_eq!(names(&known.commands), "leave ls");
        assert_eq!(names(&known.options), "here no-load");
        let page = "\\fBls\\fR\n.TP\n.B leave\n\\-\\-no\\-load\n\\-\\-here\n";
        assert!(compare("x.8", page, &known).is_empty());
        let page = "\\fBls\\fR\n\\-\\-no\\-load\n\\-\\-ghost\n";
        assert_eq!(
            compare("x.8", page, &known),
            [
                "x.8: nothing about --here",
                "x.8: the program does not know --ghost",
                "x.8: nothing about the command leave",
            ]
        );
    }
}
