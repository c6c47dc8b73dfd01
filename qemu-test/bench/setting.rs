// SPDX-License-Identifier: GPL-2.0-only
//! What the families of verbs have in common: their keys, names, clock and loops.

use kernel::{
    current,
    prelude::*,
    sync::Arc,
    time::{
        ClockSource,
        Monotonic, //
    }, //
};

use crate::command::{
    Bad,
    Line, //
};
use crate::dlm::{
    Lease,
    Locks,
    Mode,
    Tag,
    NAME_LEN, //
};
use crate::report::{
    Fault,
    Report, //
};
use crate::spaces::{
    self,
    Space, //
};

/// What a verb comes to.
pub(crate) type Outcome<'a> = Result<(), Fault<'a>>;

/// Most locks of a batch: 48 bytes each are reserved for them.
pub(crate) const LOCKS_MAX: u64 = 4_000_000;

/// Most operations under way at once.
pub(crate) const DEPTH_MAX: u64 = 4096;

/// The clock of all figures, ns.
#[inline]
pub(crate) fn now() -> u64 {
    Monotonic::ktime_get() as u64
}

/// Says what failed.
pub(crate) fn failed<'a>(what: &'static str) -> impl Fn(Error) -> Fault<'a> {
    move |error| Fault::Failed(what, error)
}

/// [`EINTR`] once the task has a signal: it wants to end.
pub(crate) fn check_signal() -> Result {
    if current!().signal_pending() {
        Err(EINTR)
    } else {
        Ok(())
    }
}

/// The lockspace of a command.
pub(crate) fn space<'a>(line: &Line<'a>) -> Result<Arc<Space>, Fault<'a>> {
    spaces::find(line.text("ls")?).map_err(failed("finding the lockspace"))
}

/// A name that can be counted up, digit by digit: cheaper than writing each anew.
#[derive(Clone, Copy)]
pub(crate) struct Name([u8; NAME_LEN]);

impl Name {
    /// Number `number` under a tag.
    pub(crate) fn new(tag: Tag, number: u64) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bytes = [b' '; NAME_LEN];
        bytes[..tag.len()].copy_from_slice(&tag);
        for (at, byte) in bytes[tag.len()..].iter_mut().rev().enumerate() {
            *byte = DIGITS[(number >> (4 * at)) as usize & 15];
        }
        Self(bytes)
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8; NAME_LEN] {
        &self.0
    }

    /// Makes it the next one.
    pub(crate) fn advance(&mut self) {
        for byte in self.0[size_of::<Tag>()..].iter_mut().rev() {
            *byte = match *byte {
                b'9' => b'a',
                b'f' => {
                    *byte = b'0';
                    continue;
                }
                digit => digit + 1,
            };
            return;
        }
    }
}

/// The tag of a command: one to eight bytes.
pub(crate) fn tag<'a>(line: &Line<'a>) -> Result<Tag, Fault<'a>> {
    let text = line.text("tag")?.as_bytes();
    let mut tag = [b' '; size_of::<Tag>()];
    let Some(begin) = tag.get_mut(..text.len()) else {
        return Err(Fault::Line(Bad {
            word: "tag",
            why: "longer than eight bytes",
        }));
    };
    begin.copy_from_slice(text);
    Ok(tag)
}

/// The mode of a command.
pub(crate) fn mode<'a>(line: &Line<'a>, without: Mode) -> Result<Mode, Fault<'a>> {
    Ok(match line.text_or("mode", "") {
        "" => without,
        "nl" => Mode::Null,
        "pr" => Mode::Read,
        "ex" => Mode::Exclusive,
        word => {
            return Err(Fault::Line(Bad {
                word,
                why: "no mode; there are nl, pr and ex",
            }))
        }
    })
}

/// What the loops that measure begin with: the lockspace, the first name, and locks in NL that
/// keep their resources.
pub(crate) struct Setting {
    pub(crate) space: Arc<Space>,
    pub(crate) lease: Lease,
    pub(crate) tag: Tag,
    pub(crate) first: u64,
    is_kept: bool,
    meet: u64,
}

impl Setting {
    /// The keys it takes from a line, which a verb adds to its own.
    pub(crate) const KEYS: [&'static str; 5] = ["ls", "tag", "first", "keep", "meet"];

    /// Reads them.
    pub(crate) fn of<'a>(line: &Line<'a>) -> Result<Self, Fault<'a>> {
        let space = space(line)?;
        Ok(Self {
            lease: space.enter().map_err(failed("entering the lockspace"))?,
            space,
            tag: tag(line)?,
            first: line.number_or("first", 0)?,
            is_kept: line.switch("keep", true)?,
            meet: line.number_within("meet", Some(0), (0, 64))?,
        })
    }

    /// The first name.
    pub(crate) fn name(&self) -> Name {
        Name::new(self.tag, self.first)
    }

    /// Locks in NL on the first `count` names, if resources are to be kept.
    pub(crate) fn keepers<'a>(&self, count: usize) -> Result<Option<Locks<'_>>, Fault<'a>> {
        if !self.is_kept {
            return Ok(None);
        }
        let locks = self.lease.locks(count, false)?;
        let mut name = self.name();
        for index in 0..count {
            locks
                .request(index, Mode::Null, name.bytes(), false)
                .and_then(|()| locks.next())
                .map_err(failed("keeping the resource"))?;
            name.advance();
        }
        Ok(Some(locks))
    }

    /// Waits for those that begin together with this command.
    pub(crate) fn meet<'a>(&self) -> Outcome<'a> {
        self.space
            .meet(self.meet)
            .map_err(failed("waiting for the other commands"))
    }
}

/// When a loop began and ended: two of them that ran side by side can be laid over each other.
pub(crate) struct Span {
    begin: u64,
    end: u64,
}

impl Span {
    /// From then to now.
    pub(crate) fn since(begin: u64) -> Self {
        Self { begin, end: now() }
    }

    /// Adds `begin_ns`, `end_ns` and `total_ns`.
    pub(crate) fn tell(&self, report: &mut Report) -> Result {
        report.number("begin_ns", self.begin)?;
        report.number("end_ns", self.end)?;
        report.number("total_ns", self.end.saturating_sub(self.begin))
    }
}
