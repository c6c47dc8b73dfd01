// SPDX-License-Identifier: GPL-2.0-only
//! Whether a node's clock goes about as fast as the host's.
//!
//! On a loaded host a machine now and then calibrates its clock wrongly when it boots, and stays
//! wrong: its timers then end far too early or too late, and its figures mean nothing. Two looks
//! at the clock give the rate between limits, as each look takes a time of its own; the second is
//! repeated until the limits leave no doubt.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use tokio::time::Instant;

/// Rates at which a node is used, seconds of its clock in a second of the host's. Wide, because a
/// busy host also stops machines for a moment.
pub const GOOD_RATES: RangeInclusive<f64> = 0.6..=1.6;

/// Between two looks. The clock is read in steps of [`STEP`], so this gives 4 %.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// After so long the middle of the limits decides.
const DOUBT_MAX: Duration = Duration::from_secs(10);

/// Resolution of `/proc/uptime`.
const STEP: Duration = Duration::from_millis(10);

/// A look at a node's clock.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// When it was asked for, on the host.
    asked: Instant,
    /// What the clock showed.
    shown: Duration,
    /// When the answer was there, on the host.
    answered: Instant,
}

/// The least and greatest rate that two looks allow.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limits {
    least: f64,
    most: f64,
}

impl Limits {
    fn between(first: Look, second: Look) -> Self {
        let passed = second.shown.saturating_sub(first.shown);
        let longest = second.answered - first.asked;
        let shortest = second.asked.saturating_duration_since(first.answered);
        let ratio = |guest: Duration, host: Duration| guest.as_secs_f64() / host.as_secs_f64();
        Limits {
            least: ratio(passed.saturating_sub(STEP), longest),
            most: ratio(passed + STEP, shortest),
        }
    }

    fn middle(self) -> f64 {
        f64::midpoint(self.least, self.most)
    }

    /// The rate, unless it may as well be good as bad.
    fn decided(self) -> Option<f64> {
        let (low, high) = (*GOOD_RATES.start(), *GOOD_RATES.end());
        let is_good = low <= self.least && self.most <= high;
        let is_bad = self.most < low || high < self.least;
        (is_good || is_bad).then(|| self.middle())
    }
}

/// Measures the rate of a node's clock. `uptime` reads its `/proc/uptime`.
///
/// # Errors
/// The node does not answer, or not with a time.
pub(crate) async fn rate<F>(uptime: impl Fn() -> F) -> Result<f64>
where
    F: Future<Output = Result<String>>,
{
    let first = look(&uptime).await?;
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let second = look(&uptime).await?;
        if let Some(rate) = verdict(first, second) {
            return Ok(rate);
        }
    }
}

/// The rate, unless another look is needed.
fn verdict(first: Look, second: Look) -> Option<f64> {
    let limits = Limits::between(first, second);
    let is_late = second.answered - first.asked >= DOUBT_MAX;
    limits
        .decided()
        .or_else(|| is_late.then(|| limits.middle()))
}

async fn look<F>(uptime: &impl Fn() -> F) -> Result<Look>
where
    F: Future<Output = Result<String>>,
{
    let asked = Instant::now();
    let text = uptime().await?;
    let answered = Instant::now();
    Ok(Look {
        asked,
        shown: parse(&text).with_context(|| format!("no time in /proc/uptime: {text:?}"))?,
        answered,
    })
}

fn parse(text: &str) -> Option<Duration> {
    let seconds = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(at: Instant, asked_ms: u64, shown_ms: u64, answered_ms: u64) -> Look {
        Look {
            asked: at + Duration::from_millis(asked_ms),
            shown: Duration::from_millis(shown_ms),
            answered: at + Duration::from_millis(answered_ms),
        }
    }

    #[test]
    fn a_rate_is_decided_only_without_doubt() {
        let at = Instant::now();
        let first = look(at, 0, 5000, 10);
        let decided = |asked, shown, answered| {
            Limits::between(first, look(at, asked, shown, answered)).decided()
        };
        let good = decided(300, 5300, 310).unwrap();
        assert!((0.9..1.1).contains(&good), "{good}");
        let fast = decided(300, 5000 + 28 * 300, 310).unwrap();
        assert!((25.0..31.0).contains(&fast), "{fast}");
        let slow = decided(300, 5060, 310).unwrap();
        assert!(slow < 0.3, "{slow}");
        // Right at the border, and an answer that took so long that nothing follows from it.
        assert_eq!(decided(300, 5480, 310), None);
        assert_eq!(decided(100, 5700, 1200), None);
        // Both looks at one moment say nothing.
        assert_eq!(decided(10, 5000, 20), None);
    }

    #[test]
    fn a_clock_is_read() {
        assert_eq!(parse("12.34 20.00\n"), Some(Duration::from_millis(12_340)));
        assert_eq!(parse("x"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn doubt_ends() {
        let at = Instant::now();
        let first = look(at, 0, 5000, 10);
        assert_eq!(verdict(first, look(at, 9000, 19_400, 9010)), None);
        let rate = verdict(first, look(at, 10_000, 21_000, 10_010)).unwrap();
        assert!((1.5..1.7).contains(&rate), "{rate}");
    }
}
