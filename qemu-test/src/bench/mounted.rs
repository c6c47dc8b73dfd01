// SPDX-License-Identifier: GPL-2.0-only
//! The pure parts of `dlmbench.ko`, mounted here to be tested.

// Formatted with the module, by its edition's rules.
#[allow(dead_code)]
#[path = "../../bench/command.rs"]
#[rustfmt::skip]
mod command;
#[allow(dead_code)]
#[path = "../../bench/histogram.rs"]
#[rustfmt::skip]
mod histogram;

use command::Bad;
use command::Line;
use histogram::BUCKETS;
use histogram::Histogram;

fn histogram() -> Histogram<Vec<u32>> {
    Histogram::new(vec![0; BUCKETS])
}

#[test]
fn small_times_are_exact() {
    let mut times = histogram();
    (1..=100).rev().for_each(|ns| times.add(ns));
    let percentiles = [1, 50, 90, 99, 100].map(|percent| times.percentile(percent));
    assert_eq!(percentiles, [1, 50, 90, 99, 100]);
    assert_eq!((times.count(), times.min(), times.max()), (100, 1, 100));
    assert_eq!(times.mean(), 50);
    let empty = histogram();
    assert_eq!((empty.count(), empty.min(), empty.max()), (0, 0, 0));
    assert_eq!((empty.mean(), empty.percentile(50)), (0, 0));
}

#[test]
fn a_percentile_is_off_by_a_512th_at_most() {
    let powers = (0..63).flat_map(|bit| {
        let power = 1_u64 << bit;
        [power - 1, power, power + power / 3, power + power / 2 + 1]
    });
    for ns in powers.chain([u64::MAX]) {
        let mut times = histogram();
        // The outer ones keep the middle one from being exact by its being the least or greatest.
        [0, ns, u64::MAX].iter().for_each(|time| times.add(*time));
        let found = times.percentile(50);
        assert!(found.abs_diff(ns) <= ns / 512, "{ns} became {found}");
        let mut alone = histogram();
        alone.add(ns);
        assert_eq!(alone.percentile(50), ns);
    }
}

#[test]
fn half_of_the_times_are_below_the_median() {
    let mut times = histogram();
    (0..900).for_each(|_| times.add(10));
    (0..100).for_each(|_| times.add(1_000_000));
    assert_eq!(times.percentile(50), 10);
    assert_eq!(times.percentile(90), 10);
    assert!(times.percentile(91) > 990_000);
    assert_eq!(times.max(), 1_000_000);
}

#[test]
fn a_line_is_taken_apart() {
    let line = Line::new("take ls=a n=5  mode=ex\n");
    assert_eq!(line.verb(), "take");
    assert_eq!(line.check_keys(&["ls", "n", "mode"]), Ok(()));
    assert_eq!(line.text("ls"), Ok("a"));
    assert_eq!(line.number("n"), Ok(5));
    assert_eq!(line.number_or("depth", 64), Ok(64));
    assert_eq!(line.number_within("n", None, (1, 5)), Ok(5));
    assert_eq!(line.text_or("first", "0"), "0");
    assert_eq!(line.switch("keep", true), Ok(true));
}

#[test]
fn what_is_wrong_with_a_line_is_named() {
    let bad = |word, why| Err(Bad { word, why });
    let line = Line::new("take ls= n=x depth=0 keep=2 n=3 new");
    assert_eq!(
        line.check_keys(&["ls", "n"]),
        bad("depth", "no key of this verb")
    );
    let keys = ["ls", "n", "depth", "keep"];
    assert_eq!(line.check_keys(&keys), bad("n", "given twice"));
    assert_eq!(
        Line::new("take new").check_keys(&keys).unwrap_err(),
        Bad {
            word: "new",
            why: "not key=value"
        }
    );
    assert_eq!(line.text("ls").unwrap_err().why, "empty");
    assert_eq!(line.text("tag").unwrap_err().why, "missing");
    assert_eq!(
        line.number("n").unwrap_err(),
        Bad {
            word: "x",
            why: "no number"
        }
    );
    assert_eq!(
        line.number_within("depth", None, (1, 9)).unwrap_err().why,
        "too small or too great"
    );
    assert_eq!(
        line.switch("keep", true).unwrap_err().why,
        "neither 0 nor 1"
    );
}
