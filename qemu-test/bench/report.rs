// SPDX-License-Identifier: GPL-2.0-only
//! What a command answers: lines `name value`, or one line that says why it failed.

use kernel::{
    fmt,
    prelude::*, //
};

use crate::command::Bad;
use crate::histogram::{
    Histogram,
    BUCKETS, //
};

/// Times, with room that was reserved when it was made.
pub(crate) type Times = Histogram<KVVec<u32>>;

/// An empty histogram.
pub(crate) fn times() -> Result<Times> {
    Ok(Times::new(KVVec::from_elem(0, BUCKETS, GFP_KERNEL)?))
}

/// Why a command did not do what it says.
pub(crate) enum Fault<'a> {
    /// The line is wrong; nothing was done.
    Line(Bad<'a>),
    /// This failed.
    Failed(&'static str, Error),
}

impl<'a> From<Bad<'a>> for Fault<'a> {
    fn from(bad: Bad<'a>) -> Self {
        Fault::Line(bad)
    }
}

impl From<Error> for Fault<'_> {
    fn from(error: Error) -> Self {
        Fault::Failed("the command", error)
    }
}

impl From<kernel::alloc::AllocError> for Fault<'_> {
    fn from(_: kernel::alloc::AllocError) -> Self {
        Fault::Failed("memory", ENOMEM)
    }
}

impl Fault<'_> {
    /// What the write of the line returns.
    pub(crate) fn error(&self) -> Error {
        match self {
            Fault::Line(_) => EINVAL,
            Fault::Failed(_, error) => *error,
        }
    }
}

/// The text of an answer.
pub(crate) struct Report {
    text: KVVec<u8>,
}

impl Report {
    /// An empty answer.
    pub(crate) fn new() -> Self {
        Self { text: KVVec::new() }
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.text
    }

    /// Adds a line with a number.
    pub(crate) fn number(&mut self, name: &str, value: u64) -> Result {
        self.line(fmt!("{name} {value}\n"))
    }

    /// Adds seven lines about times, in ns: `NAME_count` and so on.
    pub(crate) fn times(&mut self, name: &str, times: &Times) -> Result {
        for (what, value) in [
            ("count", times.count()),
            ("min", times.min()),
            ("p50", times.percentile(50)),
            ("p90", times.percentile(90)),
            ("p99", times.percentile(99)),
            ("max", times.max()),
            ("mean", times.mean()),
        ] {
            self.line(fmt!("{name}_{what} {value}\n"))?;
        }
        Ok(())
    }

    /// Has the line say why the command failed, and nothing else.
    pub(crate) fn fail(&mut self, fault: &Fault<'_>) {
        self.text.clear();
        let line = match fault {
            Fault::Line(bad) => self.line(fmt!("error {:?}: {}\n", bad.word, bad.why)),
            Fault::Failed(what, error) => {
                self.line(fmt!("error {what}: errno {}\n", error.to_errno()))
            }
        };
        // Without memory for the words there is still the error number of the write.
        let _ = line;
    }

    fn line(&mut self, line: fmt::Arguments<'_>) -> Result {
        fmt::Write::write_fmt(self, line).map_err(|_| ENOMEM)
    }
}

impl fmt::Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.text
            .extend_from_slice(text.as_bytes(), GFP_KERNEL)
            .map_err(|_| fmt::Error)
    }
}
