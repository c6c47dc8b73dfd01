// SPDX-License-Identifier: GPL-2.0-only
//! `handover`: one lock that goes to and fro, as a file system's does between nodes that write.
//!
//! A node converts NL to EX, keeps that until it is told to be in the way of somebody, converts
//! back, and begins again. It ends after `n` grants or `ms`, whichever comes first, or when it is
//! stopped. With `lvb=1` each grant adds one to a number in the value block: when all nodes have
//! ended, the last number is the sum of their grants, or one was given to two at once.

use kernel::bindings;

use crate::command::Line;
use crate::dlm::Mode;
use crate::report::{
    times,
    Report, //
};
use crate::setting::{
    check_signal,
    failed,
    now,
    Outcome,
    Setting,
    Span, //
};

/// Between two looks at whether it should end, while nobody is blocked: a 50th of a second.
const LOOK_JIFFIES: u64 = bindings::HZ as u64 / 50 + 1;

/// Carries it out.
pub(crate) fn run<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    let [a, b, c, d, e] = Setting::KEYS;
    line.check_keys(&[a, b, c, d, e, "n", "ms", "lvb"])?;
    let most = line.number_within("n", Some(u64::MAX), (1, u64::MAX))?;
    let ms = line.number_within("ms", None, (1, 3_600_000))?;
    let has_value = line.switch("lvb", false)?;
    let setting = Setting::of(line)?;
    let stops = setting.space.stops();
    let mut waits = times()?;
    let locks = setting.lease.locks(1, has_value)?;
    locks
        .request(0, Mode::Null, setting.name().bytes(), true)
        .and_then(|()| locks.next())
        .map_err(failed("the lock"))?;
    setting.meet()?;
    let (mut grants, mut handovers, mut invalid, mut value) = (0u64, 0u64, 0u64, 0u64);
    let begin = now();
    let until = begin.saturating_add(ms * 1_000_000);
    let is_over = || now() >= until || setting.space.stops() != stops;
    while grants < most && !is_over() {
        check_signal()?;
        locks.forget_blocking();
        let asked = now();
        locks
            .convert(0, Mode::Exclusive, true)
            .and_then(|()| locks.next())
            .map_err(failed("the conversion to EX"))?;
        waits.add(now().saturating_sub(asked));
        grants += 1;
        if has_value {
            let found = locks.value(0)?;
            invalid += u64::from(found.is_none());
            value = found.unwrap_or(0).wrapping_add(1);
            locks.set_value(0, value)?;
        }
        while grants < most && !is_over() {
            if locks.is_blocking_within(LOOK_JIFFIES)? {
                handovers += 1;
                break;
            }
        }
        locks
            .convert(0, Mode::Null, true)
            .and_then(|()| locks.next())
            .map_err(failed("the conversion to NL"))?;
    }
    let span = Span::since(begin);
    drop(locks);
    report.number("grants", grants)?;
    report.number("handovers", handovers)?;
    report.number("invalid", invalid)?;
    report.number("value", value)?;
    span.tell(report)?;
    report.times("wait", &waits)?;
    Ok(())
}
