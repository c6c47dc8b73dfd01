// SPDX-License-Identifier: GPL-2.0-only
//! What is measured: the definition of each figure with its bar, its samples, and the row that
//! comes of them.
//!
//! Rule: a figure that was not produced is an error that names it, never a row without a number.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use serde::Serialize;

use crate::stack::Module;

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Costs: time, instructions, bytes.
    Less,
    /// Rates.
    More,
}

/// What a bar is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Our figure.
    Ours,
    /// Our figure divided by the peer's.
    Ratio,
}

/// A limit that a figure has to keep: the most of a cost, the least of a rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bar {
    /// What it is put on.
    pub of: Of,
    /// The limit.
    pub limit: f64,
}

/// A figure of a bench.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Its name, for good: results of different days are compared by it.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which way it gets better.
    pub better: Better,
    /// Its bar, if it has one.
    pub bar: Option<Bar>,
}

impl Figure {
    /// A cost without a bar.
    pub(super) const fn cost(name: &'static str, unit: &'static str) -> Self {
        let better = Better::Less;
        let bar = None;
        Figure {
            name,
            unit,
            better,
            bar,
        }
    }

    /// A rate without a bar.
    pub(super) const fn rate(name: &'static str, unit: &'static str) -> Self {
        let better = Better::More;
        Figure {
            better,
            ..Figure::cost(name, unit)
        }
    }

    /// The same with a bar.
    #[must_use]
    pub const fn with_bar(self, of: Of, limit: f64) -> Self {
        let bar = Some(Bar { of, limit });
        Figure { bar, ..self }
    }

    fn bar_text(&self) -> Option<String> {
        let bar = self.bar?;
        let what = match bar.of {
            Of::Ours => "ours",
            Of::Ratio => "ratio",
        };
        let sign = match self.better {
            Better::Less => "<=",
            Better::More => ">=",
        };
        Some(format!("{what} {sign} {}", bar.limit))
    }

    /// Whether the bar holds; a ratio that does not exist keeps none.
    fn holds(&self, ours: f64, ratio: Option<f64>) -> Option<bool> {
        let bar = self.bar?;
        let value = match bar.of {
            Of::Ours => Some(ours),
            Of::Ratio => ratio,
        };
        Some(value.is_some_and(|value| match self.better {
            Better::Less => value <= bar.limit,
            Better::More => value >= bar.limit,
        }))
    }
}

/// A figure as it came out; its fields are the keys of the result, and no others.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What is measured, unique in a bench.
    pub figure: String,
    /// Its unit.
    pub unit: String,
    /// Median of the samples of our lock manager.
    pub ours: f64,
    /// The same of the distribution's.
    pub peer: f64,
    /// Ours divided by the peer's; none if that is zero.
    pub ratio: Option<f64>,
    /// Greatest sample less the least, divided by the median, of that of both which has more; none
    /// of a single sample.
    pub spread: Option<f64>,
    /// The bar in words, if there is one.
    pub bar: Option<String>,
    /// Whether it holds.
    pub holds: Option<bool>,
}

/// The samples of a bench.
#[derive(Debug)]
pub struct Sheet {
    bench: &'static str,
    figures: &'static [Figure],
    samples: BTreeMap<(&'static str, Side), Vec<f64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Ours,
    Peer,
}

impl fmt::Display for Side {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Side::Ours => "ours",
            Side::Peer => "peer",
        })
    }
}

impl Sheet {
    /// An empty sheet for the figures of a bench.
    #[must_use]
    pub fn new(bench: &'static str, figures: &'static [Figure]) -> Self {
        Sheet {
            bench,
            figures,
            samples: BTreeMap::new(),
        }
    }

    /// Adds a sample of a figure.
    ///
    /// # Errors
    /// The bench has no such figure, or the value is no number.
    pub fn add(&mut self, module: Module, name: &str, value: f64) -> Result<()> {
        let figure = self.figures.iter().find(|figure| figure.name == name);
        let figure = figure.with_context(|| format!("{}: no figure {name:?}", self.bench))?;
        ensure!(
            value.is_finite(),
            "{}: {name:?}: {value} is no figure",
            self.bench
        );
        let side = match module {
            Module::Ours => Side::Ours,
            Module::InTree => Side::Peer,
        };
        let samples = self.samples.entry((figure.name, side)).or_default();
        samples.push(value);
        Ok(())
    }

    /// The rows of all figures, in the order of their definition.
    ///
    /// # Errors
    /// Some were not produced; all of them are named.
    pub fn rows(&self) -> Result<Vec<Row>> {
        let missing: Vec<String> = self
            .figures
            .iter()
            .flat_map(|figure| [(figure.name, Side::Ours), (figure.name, Side::Peer)])
            .filter(|key| !self.samples.contains_key(key))
            .map(|(name, side)| format!("{name:?} ({side})"))
            .collect();
        if !missing.is_empty() {
            bail!("{}: not produced: {}", self.bench, missing.join(", "));
        }
        Ok(self.figures.iter().map(|figure| self.row(figure)).collect())
    }

    fn row(&self, figure: &Figure) -> Row {
        let of = |side| self.samples.get(&(figure.name, side));
        let [ours, peer] =
            [Side::Ours, Side::Peer].map(|side| of(side).map_or(&[][..], Vec::as_slice));
        let spread = spread(ours).into_iter().chain(spread(peer));
        let spread = spread.reduce(f64::max);
        let [ours, peer] = [median(ours), median(peer)];
        let ratio = (peer != 0.0).then(|| ours / peer);
        Row {
            figure: figure.name.to_owned(),
            unit: figure.unit.to_owned(),
            ours,
            peer,
            ratio,
            spread,
            bar: figure.bar_text(),
            holds: figure.holds(ours, ratio),
        }
    }
}

/// The middle sample, or the mean of the two in the middle.
pub(super) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn spread(samples: &[f64]) -> Option<f64> {
    if samples.len() < 2 {
        return None;
    }
    let least = samples.iter().copied().reduce(f64::min)?;
    let greatest = samples.iter().copied().reduce(f64::max)?;
    let middle = median(samples);
    if middle == 0.0 {
        return (least == greatest).then_some(0.0);
    }
    Some((greatest - least) / middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: &[Figure] = &[
        Figure::cost("call", "µs"),
        Figure::rate("calls", "1/s").with_bar(Of::Ratio, 0.5),
        Figure::cost("size", "B").with_bar(Of::Ours, 600.0),
    ];

    fn sheet(samples: &[(Module, &str, f64)]) -> Sheet {
        let mut sheet = Sheet::new("test", FIGURES);
        for (module, name, value) in samples {
            sheet.add(*module, name, *value).unwrap();
        }
        sheet
    }

    #[test]
    fn a_figure_that_was_not_produced_is_named() {
        let whole = [
            (Module::Ours, "call", 1.0),
            (Module::InTree, "call", 1.0),
            (Module::Ours, "calls", 1.0),
            (Module::InTree, "calls", 1.0),
            (Module::Ours, "size", 1.0),
            (Module::InTree, "size", 1.0),
        ];
        assert!(sheet(&whole).rows().is_ok());
        for gone in 0..whole.len() {
            let mut rest = whole.to_vec();
            let (_, name, _) = rest.remove(gone);
            let error = sheet(&rest).rows().unwrap_err().to_string();
            let side = if gone % 2 == 0 { "ours" } else { "peer" };
            let wanted = format!("test: not produced: {name:?} ({side})");
            assert_eq!(error, wanted);
        }
        let error = sheet(&[]).add(Module::Ours, "cal", 1.0).unwrap_err();
        assert_eq!(error.to_string(), "test: no figure \"cal\"");
        assert!(sheet(&[]).add(Module::Ours, "call", f64::NAN).is_err());
    }

    #[test]
    fn rows_are_medians_with_the_greater_spread() {
        let sheet = sheet(&[
            (Module::Ours, "call", 3.0),
            (Module::Ours, "call", 2.0),
            (Module::Ours, "call", 100.0),
            (Module::InTree, "call", 1.0),
            (Module::InTree, "call", 2.0),
            (Module::Ours, "calls", 10.0),
            (Module::InTree, "calls", 40.0),
            (Module::Ours, "size", 500.0),
            (Module::InTree, "size", 0.0),
        ]);
        let rows = sheet.rows().unwrap();
        let call = &rows[0];
        assert_eq!((call.ours, call.peer, call.ratio), (3.0, 1.5, Some(2.0)));
        assert_eq!(call.spread, Some(98.0 / 3.0));
        assert_eq!((&call.bar, call.holds), (&None, None));
        let calls = &rows[1];
        assert_eq!(calls.bar.as_deref(), Some("ratio >= 0.5"));
        assert_eq!((calls.holds, calls.spread), (Some(false), None));
        let size = &rows[2];
        assert_eq!((size.ratio, size.holds), (None, Some(true)));
        assert_eq!(size.bar.as_deref(), Some("ours <= 600"));
    }

    #[test]
    fn a_bar_on_a_ratio_that_does_not_exist_does_not_hold() {
        let figure = Figure::cost("x", "B").with_bar(Of::Ratio, 2.0);
        assert_eq!(figure.holds(1.0, None), Some(false));
        assert_eq!(figure.holds(1.0, Some(2.0)), Some(true));
        assert_eq!(figure.holds(1.0, Some(2.1)), Some(false));
    }
}
