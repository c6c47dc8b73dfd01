// SPDX-License-Identifier: GPL-2.0-only
//! The command `bench`, for `cargo xtask` to embed: runs benches and tells what came out.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use clap::Args;

use super::profile;
use super::sample::Size;
use super::suite;
use super::suite::Options;
use super::suite::Suite;
use super::table;
use crate::cli::host;
use crate::cli::interrupted;
use crate::cluster::Host;
use crate::stack::Module;

/// Samples of each figure and lock manager, if nobody says.
const SAMPLES: u32 = 3;

/// The bench of which there is a profile.
const PROFILED: &str = "local";

/// Arguments of `bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Benches; all without any
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Samples of each figure and lock manager, each on machines that have just booted
    #[arg(long, value_name = "N", conflicts_with_all = ["quick", "profile"])]
    pub samples: Option<std::num::NonZeroU32>,
    /// One sample of each with small counts: shows that every figure is produced, not its size
    #[arg(long)]
    pub quick: bool,
    /// Instead of figures: instructions of one pair of lock and unlock by function
    #[arg(long, conflicts_with = "quick")]
    pub profile: bool,
    /// Instead of running them: list the benches
    #[arg(long, conflicts_with_all = ["names", "samples", "quick", "profile"])]
    pub list: bool,
}

/// Carries it out. `target` is the workspace's target directory.
///
/// # Errors
/// A name is unknown, or a bench failed; the others have run all the same.
pub async fn run(args: BenchArgs, target: &Path) -> Result<ExitCode> {
    if args.list {
        return list();
    }
    let suites = suites(&args.names)?;
    if args.profile {
        return interruptible(profiles(&suites, target)).await;
    }
    let options = Options {
        samples: match args.samples {
            _ if args.quick => 1,
            Some(samples) => samples.get(),
            None => SAMPLES,
        },
        size: if args.quick { Size::Quick } else { Size::Full },
    };
    interruptible(all(&suites, options, target)).await
}

fn list() -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for suite in suite::ALL {
        let figures = suite.figures.len();
        writeln!(
            out,
            "{:<10} {figures:>3} figures  {}",
            suite.name, suite.about
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

fn suites(names: &[String]) -> Result<Vec<&'static Suite>> {
    if names.is_empty() {
        return Ok(suite::ALL.iter().collect());
    }
    names.iter().map(|name| suite::find(name)).collect()
}

/// Ends early, with all machines, when interrupted.
async fn interruptible(work: impl Future<Output = Result<()>>) -> Result<ExitCode> {
    tokio::select! {
        done = work => done.map(|()| ExitCode::SUCCESS),
        () = interrupted() => Ok(ExitCode::FAILURE),
    }
}

async fn all(suites: &[&Suite], options: Options, target: &Path) -> Result<()> {
    let host = host(target)?;
    let mut failed = Vec::new();
    for suite in suites {
        if let Err(error) = one(&host, suite, options).await {
            writeln!(std::io::stderr(), "{error:#}")?;
            failed.push(suite.name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

async fn one(host: &Host, suite: &Suite, options: Options) -> Result<()> {
    let (conditions, rows) = suite::run(host, suite, options).await?;
    let text = table::table(suite.name, &conditions, &rows);
    writeln!(std::io::stdout(), "{text}")?;
    let path = host.assets.bench_result(suite.name);
    let what = || format!("writing {}", path.display());
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(what)?;
    }
    fs::write(&path, table::json(&rows)?).with_context(what)
}

async fn profiles(suites: &[&Suite], target: &Path) -> Result<()> {
    if suites.iter().all(|suite| suite.name != PROFILED) {
        bail!("there is a profile of {PROFILED} only");
    }
    let host = host(target)?;
    for module in [Module::Ours, Module::InTree] {
        let profile = profile::take(&host, module).await;
        let whose = suite::whose(module);
        let profile = profile.with_context(|| format!("profile of {whose}"))?;
        let title = format!("{PROFILED}: {whose}, lock+unlock softirq");
        writeln!(std::io::stdout(), "{}", profile.table(&title))?;
    }
    Ok(())
}
