// SPDX-License-Identifier: GPL-2.0-only
//! One operation at a time: `pair`, `convert`, `probe`.

use kernel::{
    prelude::*,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::command::Line;
use crate::dlm::{
    Locks,
    Mode, //
};
use crate::report::{
    times,
    Fault,
    Report,
    Times, //
};
use crate::setting::{
    check_signal,
    failed,
    now,
    Name,
    Outcome,
    Setting,
    Span, //
};

/// Longest time of a probe, ms: an hour.
const PROBE_MS_MAX: u64 = 3_600_000;

/// Times of the two halves of an operation, and of both.
struct Halves {
    first: Times,
    second: Times,
    both: Times,
}

impl Halves {
    fn new() -> Result<Self> {
        Ok(Self {
            first: times()?,
            second: times()?,
            both: times()?,
        })
    }

    #[inline]
    fn add(&mut self, begin: u64, middle: u64, end: u64) {
        self.first.add(middle.saturating_sub(begin));
        self.second.add(end.saturating_sub(middle));
        self.both.add(end.saturating_sub(begin));
    }

    fn tell(&self, report: &mut Report, [first, second, both]: [&str; 3]) -> Result {
        report.times(first, &self.first)?;
        report.times(second, &self.second)?;
        report.times(both, &self.both)
    }
}

/// One lock and the two operations on it that make up a round.
struct Round<'a> {
    locks: Locks<'a>,
    name: Name,
    is_conversion: bool,
}

impl Round<'_> {
    /// The lock is wanted.
    #[inline]
    fn up(&self) -> Result {
        if self.is_conversion {
            self.locks.convert(0, Mode::Exclusive, false)?;
        } else {
            self.locks
                .request(0, Mode::Exclusive, self.name.bytes(), false)?;
        }
        self.locks.next().map(drop)
    }

    /// And no longer.
    #[inline]
    fn down(&self) -> Result {
        if self.is_conversion {
            self.locks.convert(0, Mode::Null, false)?;
        } else {
            self.locks.unlock(0)?;
        }
        self.locks.next().map(drop)
    }
}

fn round<'s, 'a>(setting: &'s Setting, is_conversion: bool) -> Result<Round<'s>, Fault<'a>> {
    let round = Round {
        locks: setting.lease.locks(1, false)?,
        name: setting.name(),
        is_conversion,
    };
    if is_conversion {
        round
            .locks
            .request(0, Mode::Null, round.name.bytes(), false)
            .and_then(|()| round.locks.next())
            .map_err(failed("the lock to convert"))?;
    }
    Ok(round)
}

/// `pair`: `lock_*`, `unlock_*`, `pair_*`.
pub(crate) fn pair<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    rounds(line, report, false, ["lock", "unlock", "pair"])
}

/// `convert`: `up_*`, `down_*`, `pair_*`.
pub(crate) fn convert<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    rounds(line, report, true, ["up", "down", "pair"])
}

/// `n` rounds. With `stamps=0` the clock is read at the begin and at the end only, so that nothing
/// but the operations is between.
fn rounds<'a>(
    line: &Line<'a>,
    report: &mut Report,
    is_conversion: bool,
    names: [&'static str; 3],
) -> Outcome<'a> {
    let [a, b, c, d, e] = Setting::KEYS;
    line.check_keys(&[a, b, c, d, e, "n", "stamps"])?;
    let count = line.number_within("n", None, (1, u64::from(u32::MAX)))?;
    let has_stamps = line.switch("stamps", true)?;
    let setting = Setting::of(line)?;
    let mut halves = Halves::new()?;
    let keepers = setting.keepers(1)?;
    let round = round(&setting, is_conversion)?;
    setting.meet()?;
    let mut done = 0u64;
    let begin = now();
    while done < count {
        check_signal()?;
        if has_stamps {
            let begin = now();
            round.up().map_err(failed(names[0]))?;
            let middle = now();
            round.down().map_err(failed(names[1]))?;
            halves.add(begin, middle, now());
        } else {
            round.up().map_err(failed(names[0]))?;
            round.down().map_err(failed(names[1]))?;
        }
        done += 1;
    }
    let span = Span::since(begin);
    drop(round);
    drop(keepers);
    report.number("count", done)?;
    span.tell(report)?;
    if has_stamps {
        halves.tell(report, names)?;
    }
    Ok(())
}

/// `probe`: rounds with pauses, for a time or until `stop`: `wait_*` of whole rounds, and when the
/// longest began, `worst_begin_ns`.
pub(crate) fn probe<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    let [a, b, c, d, e] = Setting::KEYS;
    line.check_keys(&[a, b, c, d, e, "ms", "every_us", "convert"])?;
    let ms = line.number_within("ms", Some(PROBE_MS_MAX), (1, PROBE_MS_MAX))?;
    let every_us = line.number_within("every_us", Some(1000), (0, 1_000_000))?;
    let is_conversion = line.switch("convert", false)?;
    let setting = Setting::of(line)?;
    let stops = setting.space.stops();
    let mut waits = times()?;
    let keepers = setting.keepers(1)?;
    let round = round(&setting, is_conversion)?;
    setting.meet()?;
    let begin = now();
    let until = begin.saturating_add(ms * 1_000_000);
    let (mut at, mut worst, mut worst_begin) = (begin, 0, begin);
    while at < until && setting.space.stops() == stops {
        check_signal()?;
        round.up().map_err(failed("the probe's lock"))?;
        round.down().map_err(failed("the probe's unlock"))?;
        let end = now();
        let wait = end.saturating_sub(at);
        waits.add(wait);
        if wait > worst {
            (worst, worst_begin) = (wait, at);
        }
        if every_us > 0 {
            fsleep(Delta::from_micros(every_us as i64));
        }
        at = now();
    }
    let span = Span::since(begin);
    drop(round);
    drop(keepers);
    report.number("count", waits.count())?;
    span.tell(report)?;
    report.number("worst_begin_ns", worst_begin)?;
    report.times("wait", &waits)?;
    Ok(())
}
