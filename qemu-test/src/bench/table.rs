// SPDX-License-Identifier: GPL-2.0-only
//! The result of a bench as text: a table for people, JSON for programs. Pure.

use std::fmt::Write;

use anyhow::Context;
use anyhow::Result;

use super::figure::Row;

/// Names of the columns.
const HEAD: [&str; 8] = [
    "figure", "unit", "ours", "peer", "ratio", "spread", "bar", "holds",
];

/// Columns of words; the others are numbers and stand to the right.
const WORDS: [usize; 4] = [0, 1, 6, 7];

/// How a result came about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conditions {
    /// Samples of each figure and lock manager.
    pub samples: u32,
    /// Whether the counts were small, so that the sizes mean nothing.
    pub is_quick: bool,
    /// Load of the host over the last minute, before the first sample.
    pub load_before: f64,
    /// The same after the last one; it holds the bench itself.
    pub load_after: f64,
    /// Processors of the host.
    pub cpus: usize,
}

/// The table of a bench: a line about the conditions, then one for each figure.
#[must_use]
pub fn table(bench: &str, conditions: &Conditions, rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    lines.extend(rows.iter().map(cells));
    let width = |column: usize| {
        let widths = lines.iter().map(|line| line[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = head(bench, conditions);
    for line in &lines {
        let mut out = String::new();
        for (column, (cell, width)) in line.iter().zip(&widths).enumerate() {
            let width = *width;
            // Writing to a string does not fail.
            let _ = if WORDS.contains(&column) {
                write!(out, "{cell:<width$}  ")
            } else {
                write!(out, "{cell:>width$}  ")
            };
        }
        text += out.trim_end();
        text.push('\n');
    }
    text
}

fn head(bench: &str, conditions: &Conditions) -> String {
    let Conditions {
        samples,
        is_quick,
        load_before,
        load_after,
        cpus,
    } = conditions;
    let plural = if *samples == 1 { "" } else { "s" };
    let quick = if *is_quick {
        "; quick: small counts, the sizes mean nothing"
    } else {
        ""
    };
    format!(
        "{bench}: {samples} sample{plural} of each; host load {load_before:.2} before, \
         {load_after:.2} after, {cpus} processors{quick}\n"
    )
}

fn cells(row: &Row) -> [String; 8] {
    let dash = || "-".to_owned();
    let holds = row.holds.map(|holds| if holds { "yes" } else { "NO" });
    [
        row.figure.clone(),
        row.unit.clone(),
        number(row.ours),
        number(row.peer),
        row.ratio.map_or_else(dash, number),
        row.spread
            .map_or_else(dash, |spread| format!("{:.0} %", spread * 100.0)),
        row.bar.clone().unwrap_or_else(dash),
        holds.map_or_else(dash, str::to_owned),
    ]
}

/// Three digits that say something, or all before the point.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// The rows as a JSON list, an object a line.
pub fn json(rows: &[Row]) -> Result<String> {
    let objects: Result<Vec<String>, _> = rows.iter().map(serde_json::to_string).collect();
    let objects = objects.context("writing rows as JSON")?;
    Ok(format!("[\n{}\n]\n", objects.join(",\n")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn row(figure: &str, unit: &str, ours: f64, peer: f64) -> Row {
        Row {
            figure: figure.to_owned(),
            unit: unit.to_owned(),
            ours,
            peer,
            ratio: Some(ours / peer),
            spread: None,
            bar: None,
            holds: None,
        }
    }

    fn rows() -> Vec<Row> {
        vec![
            Row {
                spread: Some(0.0423),
                ..row("lock+unlock", "µs", 15.04, 4.4)
            },
            Row {
                bar: Some("ratio >= 0.5".to_owned()),
                holds: Some(false),
                ..row("64 in flight", "pairs/s", 10_200.0, 31_900.0)
            },
            Row {
                bar: Some("ours <= 700".to_owned()),
                holds: Some(true),
                ratio: None,
                ..row("slab", "B", 684.0, 0.0)
            },
        ]
    }

    const QUIET: Conditions = Conditions {
        samples: 3,
        is_quick: false,
        load_before: 0.04,
        load_after: 1.5,
        cpus: 2,
    };

    #[test]
    fn table_is_the_golden_one() {
        let quick = Conditions {
            samples: 1,
            is_quick: true,
            ..QUIET
        };
        let text = table("local", &QUIET, &rows()) + "\n" + &table("memory", &quick, &rows()[..1]);
        assert_eq!(text, include_str!("../../fixtures/bench.txt"));
    }

    #[test]
    fn json_is_the_golden_one_and_has_these_keys_only() {
        let text = json(&rows()).unwrap();
        assert_eq!(text, include_str!("../../fixtures/bench.json"));
        let list: Vec<Value> = serde_json::from_str(&text).unwrap();
        for object in list {
            let keys: Vec<&str> = object
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            let mut wanted = HEAD.to_vec();
            wanted.sort_unstable();
            let mut keys = keys;
            keys.sort_unstable();
            assert_eq!(keys, wanted);
        }
    }

    #[test]
    fn numbers_keep_what_says_something() {
        for (value, text) in [
            (28_047.4, "28047"),
            (99.96, "100.0"),
            (4.404, "4.40"),
            (0.0625, "0.062"),
            (0.0, "0"),
        ] {
            assert_eq!(number(value), text);
        }
    }
}
