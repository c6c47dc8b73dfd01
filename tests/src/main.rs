// SPDX-License-Identifier: GPL-2.0-only
//! Runs seeds of the simulation and says which one breaks a rule, and how to see it again.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use sim::{Mistake, Summary, Violation};

/// Simulate clusters, one per seed, and check that no rule is broken.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run this seed only, and print what happened.
    #[arg(long)]
    seed: Option<u64>,
    /// How many to run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Plant a mistake, to see it found.
    #[arg(long, value_parser = by_name)]
    fault: Option<Mistake>,
}

fn by_name(name: &str) -> Result<Mistake, String> {
    let mut known = Mistake::all().into_iter();
    let found = known.find(|(other, _)| *other == name);
    found.map(|(_, mistake)| mistake).ok_or_else(|| {
        let names: Vec<&str> = Mistake::all().into_iter().map(|(name, _)| name).collect();
        format!("the mistakes are {}", names.join(", "))
    })
}

fn name_of(mistake: Mistake) -> Option<&'static str> {
    let mut known = Mistake::all().into_iter();
    known
        .find(|(_, other)| *other == mistake)
        .map(|(name, _)| name)
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, arguments.fault),
        None => many(&arguments),
    }
}

#[expect(clippy::print_stdout, reason = "the verdict is the output")]
fn one(seed: u64, fault: Option<Mistake>) -> ExitCode {
    match sim::run(seed, fault, true) {
        Ok(summary) => {
            println!("seed {seed}: good, {summary:?}");
            ExitCode::SUCCESS
        }
        Err((violation, trace)) => {
            for line in trace {
                println!("{line}");
            }
            println!("seed {seed}: VIOLATION: {violation}");
            ExitCode::FAILURE
        }
    }
}

/// The seed that broke a rule, the smallest of several.
type Worst = Mutex<Option<(u64, Violation)>>;

#[expect(clippy::print_stdout, reason = "the verdict is the output")]
fn many(arguments: &Arguments) -> ExitCode {
    let begin = Instant::now();
    let next = AtomicU64::new(arguments.first);
    let end = arguments.first.saturating_add(arguments.seeds);
    let worst = Worst::default();
    let total = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(|| work(&next, end, arguments.fault, &worst, &total));
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seconds = begin.elapsed().as_secs_f64();
    match worst.into_inner().unwrap_or_else(PoisonError::into_inner) {
        None => {
            println!(
                "{} seeds: good in {seconds:.1} s, {total:?}",
                arguments.seeds
            );
            ExitCode::SUCCESS
        }
        Some((seed, violation)) => {
            println!("seed {seed}: VIOLATION: {violation}");
            let name = arguments.fault.and_then(name_of);
            let planted = name.map_or(String::new(), |name| format!(" --fault {name}"));
            println!("again: cargo run --release -p sim -- --seed {seed}{planted}");
            ExitCode::FAILURE
        }
    }
}

/// Runs seeds until there are none left or one has failed.
fn work(next: &AtomicU64, end: u64, fault: Option<Mistake>, worst: &Worst, total: &Mutex<Summary>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        match run_caught(seed, fault) {
            Ok(summary) => {
                let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                *total = total.plus(&summary);
            }
            Err(violation) => {
                next.store(end, Ordering::Relaxed);
                let mut worst = worst.lock().unwrap_or_else(PoisonError::into_inner);
                if worst.as_ref().is_none_or(|(other, _)| seed < *other) {
                    *worst = Some((seed, violation));
                }
                return;
            }
        }
    }
}

/// A panic breaks a rule, too.
fn run_caught(seed: u64, fault: Option<Mistake>) -> Result<Summary, Violation> {
    let run = std::panic::catch_unwind(|| sim::run(seed, fault, false));
    match run {
        Ok(Ok(summary)) => Ok(summary),
        Ok(Err((violation, _))) => Err(violation),
        Err(_) => Err(Violation("a panic".into())),
    }
}
