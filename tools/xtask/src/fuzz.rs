// SPDX-License-Identifier: GPL-2.0-only
//! `cargo xtask fuzz`: what `tests/fuzz` throws at everything that reads what others say.
//!
//! Targets are libFuzzer's, built by the stable compiler: its coverage is asked for by flags that
//! need no nightly. There is no sanitizer, for what is fuzzed has no `unsafe`; overflows and
//! assertions panic. What was found lies in `target/fuzz/found`, and is tried first next time.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;

use crate::image::cargo;
use crate::paths::Layout;
use crate::run;

/// Inputs of each target in a test.
pub(crate) const RUNS: u64 = 50_000;

/// The same with `--long`.
pub(crate) const RUNS_LONG: u64 = 1_000_000;

/// Inputs in which a planted mistake must be found. Each is in a tenth of it; readers that hash
/// with chance make runs differ.
const RUNS_PLANTED: u64 = 500_000;

/// Where the targets are built, apart from everything else: their flags are their own.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// What `cargo fuzz` asks of the compiler, without a sanitizer.
const FLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing -Cdebug-assertions -Coverflow-checks";

/// All targets, by name.
fn targets(layout: &Layout) -> Result<Vec<String>> {
    let dir = crate_dir(layout).join("targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if let Some(name) = path.file_stem().and_then(|name| name.to_str()) {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn crate_dir(layout: &Layout) -> PathBuf {
    layout.workspace().join("tests/fuzz")
}

/// The targets of these names, or all.
fn chosen(layout: &Layout, names: &[String]) -> Result<Vec<String>> {
    let all = targets(layout)?;
    if let Some(unknown) = names.iter().find(|name| !all.contains(name)) {
        bail!("no target {unknown:?}; there are {}", all.join(", "));
    }
    Ok(if names.is_empty() {
        all
    } else {
        names.to_vec()
    })
}

/// Builds the targets.
fn build(layout: &Layout, names: &[String]) -> Result<()> {
    let mut command = cargo(layout.workspace());
    command
        .args(["build", "--quiet", "--release", "--package", "fuzz"])
        .args(["--features", "libfuzzer", "--target", TRIPLE])
        .arg("--target-dir")
        .arg(layout.target().join("fuzz"))
        .env("RUSTFLAGS", FLAGS)
        // Half of the time of the build.
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only");
    for name in names {
        command.args(["--bin", name]);
    }
    run::visible("building the fuzz targets", &mut command)
}

/// One target with these inputs at most.
fn target(layout: &Layout, name: &str, runs: u64, found: &str) -> Result<Command> {
    let base = layout.target().join("fuzz");
    let grown = base.join(found).join(name);
    fs::create_dir_all(&grown).with_context(|| format!("making {}", grown.display()))?;
    let mut command = Command::new(base.join(TRIPLE).join("release").join(name));
    command
        .arg(format!("-runs={runs}"))
        // The same in each run, so that what fails once fails again.
        .args(["-seed=1", "-max_len=16384", "-len_control=20"])
        // Longer, or more: a fault as well.
        .args(["-timeout=20", "-rss_limit_mb=2048"])
        .args(["-verbosity=0", "-print_final_stats=1"])
        .arg(format!("-artifact_prefix={}/FOUND-", grown.display()))
        .arg(&grown)
        .arg(crate_dir(layout).join("corpus").join(name));
    Ok(command)
}

/// Runs targets by name, all without one; prints a line for each and says what was counted.
pub(crate) fn run(layout: &Layout, names: &[String], runs: u64) -> Result<(u64, u64)> {
    let names = chosen(layout, names)?;
    build(layout, &names)?;
    let (mut passed, mut failed) = (0, 0);
    for name in &names {
        let output = target(layout, name, runs, "found")?
            .output()
            .with_context(|| format!("starting the target {name}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            passed += 1;
            println!("fuzz {name}: {runs} inputs{}", coverage(&text));
        } else {
            failed += 1;
            println!("fuzz {name}: FOUND; run it again with this input:");
            eprintln!("{text}");
        }
    }
    Ok((passed, failed))
}

/// Mistakes are planted in all targets: each must be found.
pub(crate) fn run_planted(layout: &Layout, names: &[String]) -> Result<(u64, u64)> {
    let names = chosen(layout, names)?;
    build(layout, &names)?;
    let (mut passed, mut failed) = (0, 0);
    for name in &names {
        let output = target(layout, name, RUNS_PLANTED, "planted")?
            .env("FUZZ_PLANT", "1")
            .output()
            .with_context(|| format!("starting the target {name}"))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let found = text.lines().find(|line| line.starts_with("planted: "));
        match found.filter(|_| !output.status.success()) {
            Some(line) => {
                passed += 1;
                println!("fuzz {name}: found what was {line}");
            }
            None => {
                failed += 1;
                println!("fuzz {name}: what was planted was not found");
                eprintln!("{text}");
            }
        }
    }
    // Inputs that fail on purpose are nothing to begin with.
    let planted = layout.target().join("fuzz/planted");
    fs::remove_dir_all(&planted).with_context(|| format!("removing {}", planted.display()))?;
    Ok((passed, failed))
}

/// What libFuzzer counted, in a few words.
fn coverage(text: &str) -> String {
    let units = text.lines().find_map(|line| {
        let count = line.strip_prefix("stat::new_units_added:")?;
        count.trim().parse::<u64>().ok()
    });
    units.map_or(String::new(), |units| format!(", {units} of them new"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_read() {
        let text = "stat::number_of_executed_units: 10\nstat::new_units_added:          7\n";
        assert_eq!(coverage(text), ", 7 of them new");
        assert_eq!(coverage("nothing"), "");
    }

    #[test]
    fn targets_are_found_by_name() {
        let layout = Layout::find();
        let all = targets(&layout).unwrap();
        assert!(all.contains(&"lock_wire".to_owned()));
        assert_eq!(chosen(&layout, &[]).unwrap(), all);
        let one = ["config".to_owned()];
        assert_eq!(chosen(&layout, &one).unwrap(), one);
        let error = chosen(&layout, &["speed".to_owned()]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("no target \"speed\"; there are config,")
        );
    }
}
