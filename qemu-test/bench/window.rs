// SPDX-License-Identifier: GPL-2.0-only
//! Many operations under way at once: `flight`, `reserve`, `take`, `drop`.
//!
//! One task submits all of them: completions only say which lock is done. That is the one way that
//! is allowed in both kinds of lockspace, as a callback of a SOFTIRQ lockspace may not call the
//! lock manager; and it costs a wake-up only when nothing is done yet.

use kernel::prelude::*;

use crate::command::Line;
use crate::dlm::{
    Locks,
    Mode, //
};
use crate::report::{
    times,
    Fault,
    Report, //
};
use crate::setting::{
    check_signal,
    failed,
    mode,
    now,
    space,
    tag,
    Name,
    Outcome,
    Setting,
    Span,
    DEPTH_MAX,
    LOCKS_MAX, //
};

/// Names of a flight: one for each lock over and over, or another one each time.
enum Names {
    Fixed(KVVec<Name>),
    New(Name),
}

impl Names {
    fn new(setting: &Setting, depth: usize, is_new: bool) -> Result<Self> {
        let mut name = setting.name();
        if is_new {
            return Ok(Names::New(name));
        }
        let mut fixed = KVVec::with_capacity(depth, GFP_KERNEL)?;
        for _ in 0..depth {
            fixed.push(name, GFP_KERNEL)?;
            name.advance();
        }
        Ok(Names::Fixed(fixed))
    }

    fn next(&mut self, index: usize) -> Result<Name> {
        match self {
            Names::Fixed(names) => names.get(index).copied().ok_or(EINVAL),
            Names::New(name) => {
                let this = *name;
                name.advance();
                Ok(this)
            }
        }
    }
}

/// `flight`: `n` pairs of lock and unlock, `depth` at a time: `lock_*` and `pair_*` are times from
/// the request on, as seen by the submitting task.
pub(crate) fn flight<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    let [a, b, c, d, e] = Setting::KEYS;
    line.check_keys(&[a, b, c, d, e, "n", "depth", "new"])?;
    let count = line.number_within("n", None, (1, u64::from(u32::MAX)))?;
    let depth = line.number_within("depth", None, (1, DEPTH_MAX))? as usize;
    let is_new = line.switch("new", false)?;
    let setting = Setting::of(line)?;
    let (mut lock_times, mut pair_times) = (times()?, times()?);
    let mut names = Names::new(&setting, depth, is_new)?;
    let keepers = if is_new {
        None
    } else {
        setting.keepers(depth)?
    };
    let locks = setting.lease.locks(depth, false)?;
    setting.meet()?;
    let (mut asked, mut granted, mut done) = (0u64, 0u64, 0u64);
    let begin = now();
    let mut ask = |index| {
        asked += 1;
        let name = names.next(index)?;
        locks.set_since(index, now());
        locks.request(index, Mode::Exclusive, name.bytes(), false)
    };
    for index in 0..count.min(depth as u64) as usize {
        ask(index).map_err(failed("lock"))?;
    }
    let mut left = count - count.min(depth as u64);
    while done < count {
        check_signal()?;
        let index = locks.next().map_err(failed("a completion"))?;
        let since = now().saturating_sub(locks.since(index));
        if locks.is_held(index) {
            granted += 1;
            lock_times.add(since);
            locks.unlock(index).map_err(failed("unlock"))?;
            continue;
        }
        done += 1;
        pair_times.add(since);
        if left > 0 {
            left -= 1;
            ask(index).map_err(failed("lock"))?;
        }
    }
    let span = Span::since(begin);
    drop(locks);
    drop(keepers);
    report.number("count", done)?;
    report.number("asked", asked)?;
    report.number("granted", granted)?;
    span.tell(report)?;
    report.times("lock", &lock_times)?;
    report.times("pair", &pair_times)?;
    Ok(())
}

/// `reserve`: memory of the bench for `n` locks under a tag.
pub(crate) fn reserve<'a>(line: &Line<'a>) -> Outcome<'a> {
    line.check_keys(&["ls", "tag", "n"])?;
    let count = line.number_within("n", None, (1, LOCKS_MAX))?;
    let lease = space(line)?.enter()?;
    let mut locks = lease
        .reserve(tag(line)?, count as usize)
        .map_err(failed("reserving"))?;
    locks.keep(true);
    Ok(())
}

/// `take`: locks `n` names in a mode and keeps them under the tag.
pub(crate) fn take<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    line.check_keys(&["ls", "tag", "n", "first", "depth", "mode"])?;
    let count = line.number_within("n", None, (1, LOCKS_MAX))? as usize;
    let depth = line.number_within("depth", Some(64), (1, DEPTH_MAX))? as usize;
    let (mode, tag) = (mode(line, Mode::Exclusive)?, tag(line)?);
    let mut name = Name::new(tag, line.number_or("first", 0)?);
    let lease = space(line)?.enter()?;
    let mut locks = match lease.find(tag) {
        Err(error) if error == ENOENT => lease.reserve(tag, count),
        found => found,
    }
    .map_err(failed("finding the tag"))?;
    if locks.held() > 0 || locks.outstanding() > 0 || locks.len() < count {
        return Err(Fault::Failed("a tag with too few free locks", EBUSY));
    }
    // What was taken goes again if this fails.
    locks.keep(false);
    let mut waits = times()?;
    let begin = now();
    window(
        &locks,
        0..count,
        depth,
        |locks, index| {
            locks.set_since(index, now());
            let asked = locks.request(index, mode, name.bytes(), false);
            name.advance();
            asked
        },
        |since| waits.add(since),
    )?;
    let span = Span::since(begin);
    report.number("count", locks.held() as u64)?;
    span.tell(report)?;
    report.times("lock", &waits)?;
    locks.keep(true);
    Ok(())
}

/// `drop`: unlocks all locks of a tag and frees what was reserved for them.
pub(crate) fn drop_all<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    line.check_keys(&["ls", "tag", "depth"])?;
    let depth = line.number_within("depth", Some(64), (1, DEPTH_MAX))? as usize;
    let lease = space(line)?.enter()?;
    let mut locks = lease.find(tag(line)?).map_err(failed("finding the tag"))?;
    let held = locks.held();
    let mut waits = times()?;
    let begin = now();
    window(
        &locks,
        0..locks.len(),
        depth,
        |locks, index| {
            locks.set_since(index, now());
            if locks.is_held(index) {
                locks.unlock(index)
            } else {
                Ok(())
            }
        },
        |since| waits.add(since),
    )?;
    let span = Span::since(begin);
    report.number("count", (held - locks.held()) as u64)?;
    span.tell(report)?;
    report.times("unlock", &waits)?;
    locks.keep(false);
    Ok(())
}

/// Makes a call for each lock, at most `depth` under way at once, and waits for all.
fn window<'a>(
    locks: &Locks<'_>,
    indices: core::ops::Range<usize>,
    depth: usize,
    mut call: impl FnMut(&Locks<'_>, usize) -> Result,
    mut done: impl FnMut(u64),
) -> Outcome<'a> {
    let mut next = || {
        let index = locks.next().map_err(failed("a completion"))?;
        done(now().saturating_sub(locks.since(index)));
        Ok::<(), Fault<'a>>(())
    };
    for index in indices {
        check_signal()?;
        while locks.outstanding() >= depth {
            next()?;
        }
        call(locks, index).map_err(failed("a call"))?;
    }
    while locks.outstanding() > 0 {
        next()?;
    }
    Ok(())
}
