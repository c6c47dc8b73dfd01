// SPDX-License-Identifier: GPL-2.0-only
//! The verbs by name; each family has a file, those about lockspaces and the clock are here.

use crate::command::{
    Bad,
    Line, //
};
use crate::dlm::{
    LSFL_FS,
    LSFL_NEWEXCL,
    LSFL_SOFTIRQ,
    LVB_LEN_MAX, //
};
use crate::handover;
use crate::report::{
    Fault,
    Report, //
};
use crate::setting::{
    failed,
    now,
    space,
    Outcome, //
};
use crate::single;
use crate::spaces;
use crate::window;

/// Carries out a command line.
pub(crate) fn run<'a>(text: &'a str, report: &mut Report) -> Outcome<'a> {
    let line = Line::new(text);
    match line.verb() {
        "create" => create(&line),
        "release" => release(&line),
        "stop" => stop(&line),
        "clock" => clock(&line, report),
        "pair" => single::pair(&line, report),
        "convert" => single::convert(&line, report),
        "probe" => single::probe(&line, report),
        "flight" => window::flight(&line, report),
        "reserve" => window::reserve(&line),
        "take" => window::take(&line, report),
        "drop" => window::drop_all(&line, report),
        "handover" => handover::run(&line, report),
        word => Err(Fault::Line(Bad {
            word,
            why: "no verb",
        })),
    }
}

fn create<'a>(line: &Line<'a>) -> Outcome<'a> {
    line.check_keys(&["ls", "softirq", "lvblen"])?;
    let softirq = line.switch("softirq", false)?;
    let lvb_len = line.number_within("lvblen", Some(32), (0, LVB_LEN_MAX as u64))?;
    let flags = LSFL_FS | LSFL_NEWEXCL | if softirq { LSFL_SOFTIRQ } else { 0 };
    spaces::create(line.text("ls")?, flags, lvb_len as usize).map_err(failed("creating"))
}

fn release<'a>(line: &Line<'a>) -> Outcome<'a> {
    line.check_keys(&["ls"])?;
    spaces::release(line.text("ls")?).map_err(failed("releasing"))
}

fn stop<'a>(line: &Line<'a>) -> Outcome<'a> {
    line.check_keys(&["ls"])?;
    space(line)?.stop();
    Ok(())
}

fn clock<'a>(line: &Line<'a>, report: &mut Report) -> Outcome<'a> {
    line.check_keys(&["n"])?;
    let count = line.number_within("n", None, (1, 100_000_000))?;
    let begin = now();
    for _ in 0..count {
        core::hint::black_box(now());
    }
    report.number("total_ns", now().saturating_sub(begin))?;
    report.number("count", count)?;
    Ok(())
}
