// SPDX-License-Identifier: GPL-2.0-only
//! Instructions of one pair of lock and unlock by function: where the figure of `local` comes from.
//!
//! QEMU writes down each instruction that the kernel of a machine executes, for a while out of a
//! long row of pairs. How many pairs these were is in the trace as well: each begins with one call
//! of `dlm_lock`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::ensure;
use tokio::time::Instant;

use super::beside::beside_probe;
use super::drive::Driver;
use super::drive::SpaceSpec;
use super::load::Pair;
use super::load::Place;
use super::local;
use super::suite;
use crate::cluster::Host;
use crate::node::Node;
use crate::spec::ClusterSpec;
use crate::stack::Module;

/// Length of the trace: more than fifty pairs of a lock manager that needs 30,000 instructions.
const TRACE_LEN: u64 = 200 << 20;

/// With which each pair begins.
const ENTRY: &str = "dlm_lock [dlm]";

/// Functions that are listed; the rest is summed up.
const SHOWN: usize = 40;

/// More time than such a trace takes.
const TRACE_LIMIT: Duration = Duration::from_secs(240);

/// Between two looks at how long it is.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Instructions by address.
type Counts = BTreeMap<u64, u64>;

/// Takes the profile of a lock manager.
pub(super) async fn take(host: &Host, module: Module) -> Result<Profile> {
    let spec = ClusterSpec {
        is_traced: true,
        ..suite::counting_spec()
    };
    let name = format!("profile-{}", suite::whose(module));
    suite::on_cluster(host, &name, &spec, async |cluster| {
        let mut driver = Driver::start(&cluster, module).await?;
        let space = SpaceSpec::new(local::SOFTIRQ, true);
        driver.form(&space, &[1]).await?;
        let bench = driver.bench(1)?;
        let symbols = Symbols::of(bench.node()).await?;
        let figure = local::instructions_of(&bench, &command(1000), 3).await?;
        let file = cluster.dir().join("trace");
        let trace = trace(bench.node(), &file);
        beside_probe(&bench, local::SOFTIRQ, Duration::ZERO, trace).await?;
        // Written to its end only when the machine has ended.
        bench.node().power_off().await?;
        let counts = count(&file)?;
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        Profile::new(&symbols, &counts, figure)
    })
    .await
}

fn command(count: u64) -> Pair {
    Pair {
        place: Place::new(local::SOFTIRQ, "single"),
        count,
        is_conversion: false,
    }
}

/// Writes a trace of what happens on the node meanwhile.
async fn trace(node: &Node, file: &Path) -> Result<()> {
    node.begin_trace(file).await?;
    let begin = Instant::now();
    let len = || fs::metadata(file).map_or(0, |file| file.len());
    while len() < TRACE_LEN {
        ensure!(
            begin.elapsed() < TRACE_LIMIT,
            "only {} bytes of trace within {TRACE_LIMIT:?}",
            len()
        );
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    node.end_trace().await
}

fn count(file: &Path) -> Result<Counts> {
    let what = || format!("reading {}", file.display());
    let file = File::open(file).with_context(what)?;
    count_lines(BufReader::new(file)).with_context(what)
}

/// Counts executions by address: a line for each instruction, as `Trace 0: HOST [BASE/ADDRESS/…]`.
fn count_lines(mut trace: impl BufRead) -> Result<Counts> {
    let mut counts = Counts::new();
    let mut line = Vec::new();
    while trace.read_until(b'\n', &mut line)? > 0 {
        if let Some(address) = address_of(&line) {
            *counts.entry(address).or_insert(0) += 1;
        }
        line.clear();
    }
    ensure!(!counts.is_empty(), "the trace is empty");
    Ok(counts)
}

fn address_of(line: &[u8]) -> Option<u64> {
    let line = std::str::from_utf8(line).ok()?;
    let (_, inner) = line.strip_prefix("Trace ")?.split_once('[')?;
    u64::from_str_radix(inner.split('/').nth(1)?, 16).ok()
}

/// The functions of a kernel and its modules, by address.
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    async fn of(node: &Node) -> Result<Self> {
        let lines = node.sh("grep -i ' [tw] ' /proc/kallsyms").await?.ok()?;
        Symbols::parse(&lines.text())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut symbols = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let address = words.next().map(|word| u64::from_str_radix(word, 16));
            let name = words.nth(1);
            let (Some(Ok(address)), Some(name)) = (address, name) else {
                anyhow::bail!("in {line:?}");
            };
            let name = format!("{:#}", rustc_demangle::demangle(name));
            let module = words.next().map(|module| format!(" {module}"));
            symbols.insert(address, name + &module.unwrap_or_default());
        }
        let is_hidden = symbols.keys().all(|address| *address == 0);
        ensure!(!is_hidden, "/proc/kallsyms shows no addresses");
        Ok(Symbols(symbols))
    }

    fn address(&self, name: &str) -> Result<u64> {
        let symbol = self.0.iter().find(|(_, symbol)| *symbol == name);
        let symbol = symbol.with_context(|| format!("/proc/kallsyms has no {name}"))?;
        Ok(*symbol.0)
    }

    fn name(&self, address: u64) -> &str {
        let symbol = self.0.range(..=address).next_back();
        symbol.map_or("?", |(_, name)| name)
    }
}

/// Instructions of one pair by function.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Profile {
    /// The most first.
    functions: Vec<(String, f64)>,
    /// Instructions of one pair as the clock counts them, without a trace.
    figure: f64,
}

impl Profile {
    fn new(symbols: &Symbols, counts: &Counts, figure: f64) -> Result<Self> {
        let entry = symbols.address(ENTRY)?;
        let pairs = counts.get(&entry).copied().unwrap_or(0);
        ensure!(pairs > 1, "the trace has {pairs} calls of {ENTRY}");
        let mut of_name = BTreeMap::<&str, u64>::new();
        for (address, count) in counts {
            *of_name.entry(symbols.name(*address)).or_insert(0) += count;
        }
        let mut functions: Vec<(String, f64)> = of_name
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count as f64 / pairs as f64))
            .collect();
        functions.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Ok(Profile { functions, figure })
    }

    fn total(&self) -> f64 {
        self.functions.iter().map(|(_, count)| count).sum()
    }

    /// As text: the functions with the most instructions, and the rest as one line.
    pub(super) fn table(&self, title: &str) -> String {
        let (total, figure) = (self.total(), self.figure);
        let mut text = format!(
            "{title}: {total:.0} instructions of a pair by trace, {figure:.0} by the clock\n"
        );
        let (shown, others) = self.functions.split_at(SHOWN.min(self.functions.len()));
        let rest: f64 = others.iter().map(|(_, count)| count).sum();
        let rest = (!others.is_empty()).then(|| (format!("({} others)", others.len()), rest));
        for (name, count) in shown.iter().chain(&rest) {
            let percent = 100.0 * count / total;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{count:8.1} {percent:5.1} %  {name}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "Trace 0: 0x7f8a [0000000000000000/ffffffff81000010/00c0/ff000201] a\n\
        Trace 0: 0x7f8b [0000000000000000/ffffffff81000014/00c0/ff000201] a\n\
        Stopped execution of TB chain before 0x7f [ffffffff81000014]\n\
        Trace 0: 0x7f8b [0000000000000000/ffffffff81000014/00c0/ff000201] a\n";

    fn symbols() -> Symbols {
        Symbols::parse(
            "ffffffff81000000 T one\nffffffff81000014 t two\n\
             ffffffffc0000000 t _RNvCs1_3dlm4lock\t[dlm]\n\
             ffffffffc0001000 T dlm_lock\t[dlm]\n",
        )
        .unwrap()
    }

    #[test]
    fn instructions_are_counted_by_address() {
        let counts = count_lines(TRACE.as_bytes()).unwrap();
        let wanted = [(0xffff_ffff_8100_0010, 1), (0xffff_ffff_8100_0014, 2)];
        assert_eq!(counts, Counts::from(wanted));
        assert!(count_lines(&b"log\n"[..]).is_err());
    }

    #[test]
    fn addresses_have_names() {
        let symbols = symbols();
        for (address, name) in [
            (0x1000, "?"),
            (0xffff_ffff_8100_0010, "one"),
            (0xffff_ffff_8100_0014, "two"),
            (0xffff_ffff_c000_0100, "dlm::lock [dlm]"),
        ] {
            assert_eq!(symbols.name(address), name);
        }
        assert!(Symbols::parse("0 T hidden\n0 t all\n").is_err());
        assert!(Symbols::parse("x\n").is_err());
    }

    #[test]
    fn a_pair_is_what_follows_a_call_of_dlm_lock() {
        let counts = Counts::from([
            (0xffff_ffff_8100_0014, 40),
            (0xffff_ffff_8100_0018, 20),
            (0xffff_ffff_c000_0000, 100),
            (0xffff_ffff_c000_1000, 10),
            (0xffff_ffff_c000_1008, 10),
        ]);
        let profile = Profile::new(&symbols(), &counts, 17.0).unwrap();
        let wanted = [("dlm::lock [dlm]", 10.0), ("two", 6.0), (ENTRY, 2.0)];
        assert_eq!(
            profile.functions,
            wanted.map(|(name, count)| (name.to_owned(), count))
        );
        assert_eq!(
            profile.table("ours"),
            "ours: 18 instructions of a pair by trace, 17 by the clock\n    \
             10.0  55.6 %  dlm::lock [dlm]\n     6.0  33.3 %  two\n     \
             2.0  11.1 %  dlm_lock [dlm]\n"
        );
        let none = Counts::from([(0xffff_ffff_8100_0014, 40)]);
        assert!(Profile::new(&symbols(), &none, 17.0).is_err());
    }
}
