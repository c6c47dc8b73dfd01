// SPDX-License-Identifier: GPL-2.0-only
//! The benches by name, and how samples of one are taken.
//!
//! A bench has parts. A sample of a part is a cluster that has just booted, on which one lock
//! manager is measured; samples of ours and of the distribution's alternate, and which of both goes
//! first alternates too: what changes on the host in the meantime meets both.
//!
//! Rule: a kernel that shows any sign of trouble gives no figure, and neither does a sample that
//! ended early: its bench fails.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use tokio::time::Instant;

use super::drive::Driver;
use super::figure::Figure;
use super::figure::Row;
use super::figure::Sheet;
use super::load;
use super::local;
use super::memory;
use super::recovery;
use super::remote;
use super::sample::Sample;
use super::sample::Size;
use super::table::Conditions;
use crate::assets::Assets;
use crate::cluster::Cluster;
use crate::cluster::Host;
use crate::console::Watchdog;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::spec::Wiring;
use crate::stack::Module;

/// More time than a sample of any part takes on a busy host.
const SAMPLE_LIMIT: Duration = Duration::from_secs(900);

/// A bench.
#[derive(Clone, Copy, Debug)]
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line about it.
    pub about: &'static str,
    /// What it measures.
    pub figures: &'static [Figure],
    parts: &'static [Part],
}

/// All benches.
pub const ALL: &[Suite] = &[
    Suite {
        name: "local",
        about: "operations on one node",
        figures: local::FIGURES,
        parts: &[Part::Local, Part::TwoProcessors, Part::Instructions],
    },
    Suite {
        name: "remote",
        about: "operations on resources that another node is the master of",
        figures: remote::FIGURES,
        parts: &[Part::Remote],
    },
    Suite {
        name: "memory",
        about: "memory of a lock on a resource of its own",
        figures: memory::FIGURES,
        parts: &[
            Part::Memory(memory::SIZES[0]),
            Part::Memory(memory::SIZES[1]),
        ],
    },
    Suite {
        name: "recovery",
        about: "what changes of members cost, and whom they keep waiting",
        figures: recovery::FIGURES,
        parts: &[
            Part::Recovery(recovery::CASES[0]),
            Part::Recovery(recovery::CASES[1]),
            Part::Recovery(recovery::CASES[2]),
            Part::Recovery(recovery::CASES[3]),
            Part::Recovery(recovery::CASES[4]),
        ],
    },
];

/// The bench of that name.
///
/// # Errors
/// There is none.
pub fn find(name: &str) -> Result<&'static Suite> {
    let suite = ALL.iter().find(|suite| suite.name == name);
    suite.with_context(|| {
        let names: Vec<&str> = ALL.iter().map(|suite| suite.name).collect();
        format!("no bench {name:?}; there are {}", names.join(", "))
    })
}

/// What is measured in one boot.
#[derive(Clone, Copy, Debug)]
enum Part {
    Local,
    TwoProcessors,
    Instructions,
    Remote,
    Memory(memory::Locks),
    Recovery(recovery::Case),
}

impl Part {
    fn name(self) -> String {
        match self {
            Part::Local => "times".to_owned(),
            Part::TwoProcessors => "two processors".to_owned(),
            Part::Instructions => "instructions".to_owned(),
            Part::Remote => "two nodes".to_owned(),
            Part::Memory(locks) => locks.name(),
            Part::Recovery(case) => case.name().to_owned(),
        }
    }

    fn spec(self, assets: &Assets, size: Size) -> Result<ClusterSpec> {
        let (nodes, memory_mib) = match self {
            Part::Instructions => return Ok(counting_spec()),
            Part::Local | Part::TwoProcessors => (1, local::MEMORY_MIB),
            Part::Remote => (2, remote::MEMORY_MIB),
            Part::Memory(_) => (1, memory::MEMORY_MIB),
            Part::Recovery(case) => (case.nodes, recovery::MEMORY_MIB),
        };
        let kernel = size.kernel();
        // One processor for each node, unless two are what is measured: a host with fewer
        // processors than its nodes stops them in the middle of a lock that others spin on.
        let cpus = if matches!(self, Part::TwoProcessors) {
            2
        } else {
            1
        };
        let wiring = if nodes == 1 {
            Wiring::Switch
        } else {
            Wiring::Cables
        };
        let spec = ClusterSpec {
            memory_mib,
            cpus,
            wiring,
            uml_kernel: kernel,
            ..ClusterSpec::new(Kind::Uml, nodes).with_image()
        };
        Ok(load::with_module(spec, assets.uml_bench_module(kernel)?))
    }

    async fn measure(self, sample: &mut Sample<'_>) -> Result<()> {
        match self {
            Part::Local => local::times(sample).await,
            Part::TwoProcessors => local::two_processors(sample).await,
            Part::Instructions => local::instructions(sample).await,
            Part::Remote => remote::measure(sample).await,
            Part::Memory(locks) => locks.measure(sample).await,
            Part::Recovery(case) => case.measure(sample).await,
        }
    }
}

/// One virtual machine with the distribution's kernel, whose clock counts instructions.
pub(super) fn counting_spec() -> ClusterSpec {
    ClusterSpec {
        counts_instructions: true,
        ..ClusterSpec::new(Kind::Qemu, 1)
    }
}

/// How a bench is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Samples of each figure and lock manager.
    pub samples: u32,
    /// How much is done for each.
    pub size: Size,
}

/// Takes all samples of a bench.
///
/// # Errors
/// A sample could not be taken, or a figure is missing.
pub async fn run(host: &Host, suite: &Suite, options: Options) -> Result<(Conditions, Vec<Row>)> {
    let mut sheet = Sheet::new(suite.name, suite.figures);
    let load_before = host_load()?;
    for number in 0..options.samples {
        for part in suite.parts {
            for module in order(number) {
                let begin = Instant::now();
                let taken = take(host, suite, *part, module, options.size, &mut sheet).await;
                let what = format!(
                    "{}: {} of {}, sample {} of {}",
                    suite.name,
                    part.name(),
                    whose(module),
                    number + 1,
                    options.samples
                );
                taken.with_context(|| what.clone())?;
                tell(&format!("{what}: {:.1} s", begin.elapsed().as_secs_f64()));
            }
        }
    }
    let conditions = Conditions {
        samples: options.samples,
        is_quick: options.size == Size::Quick,
        load_before,
        load_after: host_load()?,
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
    };
    Ok((conditions, sheet.rows()?))
}

fn order(sample: u32) -> [Module; 2] {
    if sample.is_multiple_of(2) {
        [Module::Ours, Module::InTree]
    } else {
        [Module::InTree, Module::Ours]
    }
}

pub(super) fn whose(module: Module) -> &'static str {
    match module {
        Module::Ours => "ours",
        Module::InTree => "peer",
    }
}

async fn take(
    host: &Host,
    suite: &Suite,
    part: Part,
    module: Module,
    size: Size,
    sheet: &mut Sheet,
) -> Result<()> {
    let spec = part.spec(&host.assets, size)?;
    let name = format!("{}-{}", suite.name, whose(module));
    on_cluster(host, &name, &spec, async |cluster| {
        let driver = Driver::start(&cluster, module).await?;
        let mut sample = Sample {
            cluster,
            driver,
            size,
            sheet,
        };
        part.measure(&mut sample).await
    })
    .await
}

/// Boots a cluster, does something with it and ends it. Any sign of trouble in a kernel's log is an
/// error, whatever came of the work.
pub(super) async fn on_cluster<T>(
    host: &Host,
    name: &str,
    spec: &ClusterSpec,
    work: impl AsyncFnOnce(Arc<Cluster>) -> Result<T>,
) -> Result<T> {
    let watchdog = Watchdog::default();
    let cluster = Arc::new(Cluster::prepare(host, &watchdog, name, spec)?);
    let result = tokio::select! {
        // The alarm first: what it has broken is then not taken for the cause.
        biased;
        alarm = watchdog.wait() => Err(anyhow!("{alarm}")),
        result = async {
            cluster.power_on_all().await?;
            work(Arc::clone(&cluster)).await
        } => result,
        () = tokio::time::sleep(SAMPLE_LIMIT) => Err(anyhow!("not at its end after {SAMPLE_LIMIT:?}")),
    };
    let ended = cluster.shutdown().await.context("ending the machines");
    // The machines have ended, so this does.
    watchdog.drained().await;
    let result = match watchdog.alarm() {
        Some(alarm) => Err(anyhow!("{alarm}")),
        None => result,
    };
    let result = result.with_context(|| format!("logs in {}", cluster.dir().display()))?;
    ended.map(|()| result)
}

/// Processes that ran or wanted to over the last minute.
fn host_load() -> Result<f64> {
    let text = fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    let Some(Ok(load)) = text.split(' ').next().map(str::parse) else {
        bail!("no load in {text:?}");
    };
    Ok(load)
}

fn tell(text: &str) {
    // Standard error may be closed; there is nowhere else to say it.
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn benches_are_found_by_name_and_name_each_figure_once() {
        for suite in ALL {
            assert_eq!(find(suite.name).unwrap().name, suite.name);
            let names: BTreeSet<&str> = suite.figures.iter().map(|figure| figure.name).collect();
            assert_eq!(names.len(), suite.figures.len(), "{}", suite.name);
            assert!(!names.contains(""), "{}", suite.name);
        }
        let error = find("speed").unwrap_err().to_string();
        assert_eq!(
            error,
            "no bench \"speed\"; there are local, remote, memory, recovery"
        );
    }

    #[test]
    fn each_goes_first_in_turn() {
        let first: Vec<Module> = (0..4).map(|sample| order(sample)[0]).collect();
        let (ours, peer) = (Module::Ours, Module::InTree);
        assert_eq!(first, [ours, peer, ours, peer]);
        assert_eq!(order(1), [peer, ours]);
    }

    #[test]
    fn load_of_this_host_is_read() {
        assert!(host_load().unwrap() >= 0.0);
    }
}
