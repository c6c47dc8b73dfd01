// SPDX-License-Identifier: GPL-2.0-only
//! One question to the controller at a time, and the wait for its answer.
//!
//! The answer may come before anybody waits. The wait ends when the asking task is killed, and when
//! the controller goes away: a dead daemon leaves no task waiting for ever.

use kernel::{
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

use crate::ffi::completion::Gate;

#[derive(Clone, Copy)]
enum Question {
    /// Nothing was asked.
    None,
    /// The controller is to answer.
    Asked,
    /// It did.
    Answered(i32),
}

/// See the head of this file. `question` is guarded by its mutex, which is a leaf.
#[pin_data]
pub(super) struct Handshake {
    #[pin]
    question: Mutex<Question>,
    #[pin]
    answered: Gate,
}

impl Handshake {
    /// Nothing asked.
    pub(super) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            question <- new_mutex!(Question::None, "dlm_handshake"),
            answered <- Gate::new(),
        })
    }

    /// Asks by `tell` and waits. `Ok` is what the controller answered.
    pub(super) fn ask(&self, tell: impl FnOnce() -> Result) -> Result<i32> {
        self.answered.close();
        *self.question.lock() = Question::Asked;
        let waited = tell().and_then(|()| self.answered.wait_killable());
        let last = core::mem::replace(&mut *self.question.lock(), Question::None);
        match (waited, last) {
            (_, Question::Answered(result)) => Ok(result),
            (Err(e), Question::None | Question::Asked) => Err(e),
            (Ok(()), Question::None | Question::Asked) => Err(EINTR),
        }
    }

    /// The controller answers; [`ENOENT`] if nothing was asked.
    pub(super) fn answer(&self, result: i32) -> Result {
        let mut question = self.question.lock();
        match *question {
            Question::Asked => {
                *question = Question::Answered(result);
                self.answered.open();
                Ok(())
            }
            Question::None | Question::Answered(_) => Err(ENOENT),
        }
    }
}
