// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask check` and `cargo xtask test`: everything that can say no.
//!
//! Parts run one after the other, and all of them even if one fails; what they counted is summed in
//! the last line, `N passed, N failed`. Rule: a part that could not run has failed.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::fuzz;
use crate::image::cargo;
use crate::kmod;
use crate::kmod::Kind;
use crate::kmod::Request;
use crate::manpages;
use crate::paths::Layout;
use crate::payload;
use crate::rules;
use crate::run;
use crate::setup;
use crate::setup::Options;
use crate::setup::Prepared;
use crate::step::seconds;

/// Seeds of the simulator that a test runs.
const SEEDS: &str = "2000";

/// Cores with a simulation of their own among their tests: which tests, and the variable that says
/// how many seeds.
const CORES: [(&str, &[&str], &str); 2] = [
    ("cmand-core", &["seeds"], "CORE_TEST_SEEDS"),
    ("dlm_controld-core", &["--test", "sim"], "SEEDS"),
];

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
}

/// The parts that ran so far.
#[derive(Debug, Default)]
struct Report {
    total: Tally,
    failures: Vec<String>,
}

impl Report {
    /// Runs a part that counts its own tests; one that counts nothing is one test.
    fn part(&mut self, name: &str, work: impl FnOnce(&mut Tally) -> Result<()>) {
        eprintln!("== {name}");
        let begin = Instant::now();
        let mut tally = Tally::default();
        let result = work(&mut tally);
        if tally == Tally::default() {
            tally.passed = u64::from(result.is_ok());
        }
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            tally.failed = tally.failed.max(1);
            self.failures.push(name.to_owned());
        }
        eprintln!(
            "== {name}: {} passed, {} failed ({})",
            tally.passed,
            tally.failed,
            seconds(begin.elapsed())
        );
        self.total.passed += tally.passed;
        self.total.failed += tally.failed;
    }

    /// Prints the last line and fails if anything did.
    fn close(self) -> Result<()> {
        let Tally { passed, failed } = self.total;
        println!("{passed} passed, {failed} failed");
        if !self.failures.is_empty() {
            bail!("failed: {}", self.failures.join(", "));
        }
        Ok(())
    }
}

/// Formatting, rules and lints; changes no file. `quick` leaves out the lints.
pub(crate) fn check(layout: &Layout, quick: bool) -> Result<()> {
    let mut report = Report::default();
    form(layout, &mut report);
    if !quick {
        let prepared = prepare(layout, &mut report, Options::default());
        lints(layout, prepared.as_ref(), &mut report);
    }
    report.close()
}

/// All checks and all tests; `quick` leaves out those that boot machines.
pub(crate) fn test(layout: &Layout, quick: bool) -> Result<()> {
    let mut report = Report::default();
    let options = Options {
        image: !quick,
        uml: !quick,
        ..Options::default()
    };
    let prepared = prepare(layout, &mut report, options);
    form(layout, &mut report);
    lints(layout, prepared.as_ref(), &mut report);
    report.part("cargo test", |tally| {
        let mut command = cargo(layout.workspace());
        command.args(["test", "--workspace", "--no-fail-fast"]);
        counted(&mut command, tally)
    });
    report.part("manual pages", |_| none_of(manpages::violations(layout)?));
    report.part("simulation", |_| {
        run::visible("sim", &mut sim(layout, &["--seeds", SEEDS]))
    });
    for (core, filter, variable) in CORES {
        report.part(&format!("simulation of {core}"), |tally| {
            let mut command = cargo(layout.workspace());
            command.args(["test", "--release", "--package", core]);
            command.args(filter).env(variable, SEEDS);
            counted(&mut command, tally)
        });
    }
    report.part("fuzzing", |tally| {
        for (passed, failed) in [
            fuzz::run(layout, &[], fuzz::RUNS)?,
            fuzz::run_planted(layout, &[])?,
        ] {
            tally.passed += passed;
            tally.failed += failed;
        }
        if tally.failed > 0 {
            bail!("{} targets", tally.failed);
        }
        Ok(())
    });
    if quick {
        report.part("module for Debian's kernel", |_| {
            let source = layout.workspace().join("kmod");
            let request = Request {
                kind: Kind::X86,
                source,
                clippy: false,
            };
            kmod::build(layout, needed(prepared.as_ref())?, &request)
        });
        return report.close();
    }
    report.part("modules for User Mode Linux", |_| {
        kmod::build_for_uml(layout, needed(prepared.as_ref())?)
    });
    report.part("payload", |_| {
        payload::build(layout, needed(prepared.as_ref())?, true)
    });
    report.part("scenarios", |tally| {
        let mut command = vm(layout);
        command.args(["vm", "run"]);
        counted(&mut command, tally)
    });
    // That every figure is produced; how large it is says nothing here.
    report.part("benches", |_| {
        run::visible("bench", vm(layout).args(["bench", "--quick"]))
    });
    report.close()
}

/// Fuzzing alone.
pub(crate) fn fuzz(layout: &Layout, names: &[String], long: bool, planted: bool) -> Result<()> {
    let runs = if long { fuzz::RUNS_LONG } else { fuzz::RUNS };
    let (passed, failed) = if planted {
        fuzz::run_planted(layout, names)?
    } else {
        fuzz::run(layout, names, runs)?
    };
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} targets found something, or not what was planted");
    }
    Ok(())
}

fn prepare(layout: &Layout, report: &mut Report, options: Options) -> Option<Prepared> {
    let mut prepared = None;
    report.part("setup", |_| {
        prepared = Some(setup::run(layout, options)?);
        Ok(())
    });
    prepared
}

fn needed(prepared: Option<&Prepared>) -> Result<&Prepared> {
    prepared.context("setup failed")
}

fn form(layout: &Layout, report: &mut Report) {
    report.part("formatting", |_| formatting(layout));
    report.part("rules", |_| none_of(rules::violations(layout)?));
}

/// Fails if there are any, and prints them.
fn none_of(violations: Vec<String>) -> Result<()> {
    violations.iter().for_each(|line| eprintln!("{line}"));
    if !violations.is_empty() {
        bail!("{} violations", violations.len());
    }
    Ok(())
}

fn lints(layout: &Layout, prepared: Option<&Prepared>, report: &mut Report) {
    report.part("clippy", |_| {
        let mut command = cargo(layout.workspace());
        command.args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]);
        run::visible("clippy", &mut command)
    });
    for source in ["kmod", kmod::BENCH] {
        report.part(&format!("clippy of {source}"), |_| {
            let source = layout.workspace().join(source);
            let request = Request {
                kind: Kind::X86,
                source,
                clippy: true,
            };
            kmod::build(layout, needed(prepared)?, &request)
        });
    }
}

fn formatting(layout: &Layout) -> Result<()> {
    let mut command = cargo(layout.workspace());
    // Names only: the remedy is the same for every difference.
    command.args(["fmt", "--all", "--", "--check", "-l"]);
    run::visible("cargo fmt", &mut command).context("remedy: cargo fmt --all")?;
    for root in rules::kernel_roots(layout) {
        let mut command = Command::new("rustfmt");
        command
            .args(["--check", "-l", "--edition", "2021"])
            .arg(&root);
        run::visible("rustfmt of a module", &mut command)
            .with_context(|| format!("remedy: rustfmt --edition 2021 {}", root.display()))?;
    }
    Ok(())
}

/// The simulator with these arguments.
pub(crate) fn sim<S: AsRef<std::ffi::OsStr>>(layout: &Layout, args: &[S]) -> Command {
    let mut command = cargo(layout.workspace());
    command
        .args(["run", "--quiet", "--release", "--package", "sim", "--"])
        .args(args);
    command
}

/// The runner of virtual machines.
pub(crate) fn vm(layout: &Layout) -> Command {
    let mut command = cargo(layout.workspace());
    command.args(["run", "--quiet", "--package", "qemu-test", "--"]);
    command
}

/// Runs a command whose output is shown and counted.
fn counted(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let name = Path::new(command.get_program()).display().to_string();
    run::each_line(&name, command, |line| {
        println!("{line}");
        count(line, tally);
    })
}

/// Adds what a line of `cargo test` or a scenario's verdict says.
fn count(line: &str, tally: &mut Tally) {
    if line.starts_with("PASS ") {
        tally.passed += 1;
    } else if line.starts_with("FAIL ") {
        tally.failed += 1;
    } else if let Some(rest) = line.strip_prefix("test result: ") {
        let words: Vec<&str> = rest.split_whitespace().collect();
        for pair in words.windows(2) {
            match (pair[0].parse::<u64>(), pair[1]) {
                (Ok(number), "passed;") => tally.passed += number,
                (Ok(number), "failed;") => tally.failed += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_both_kinds_are_counted() {
        let mut tally = Tally::default();
        for line in [
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out",
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
            "PASS boot@uml 3.4s (boot 1.2)",
            "FAIL boot@qemu 12.0s: n1",
            "a line that says PASS somewhere",
        ] {
            count(line, &mut tally);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 16,
                failed: 3
            }
        );
    }

    #[test]
    fn part_without_a_count_is_one_test() {
        let mut report = Report::default();
        report.part("good", |_| Ok(()));
        report.part("bad", |_| bail!("no"));
        report.part("counted", |tally| {
            tally.passed = 5;
            bail!("ended badly")
        });
        assert_eq!(
            report.total,
            Tally {
                passed: 6,
                failed: 2
            }
        );
        assert_eq!(report.failures, ["bad", "counted"]);
        assert!(report.close().is_err());
    }
}
