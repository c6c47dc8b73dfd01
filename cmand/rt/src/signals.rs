// SPDX-License-Identifier: GPL-2.0-only
//! What signals do to a daemon, the same in all of them: SIGTERM and SIGINT tell it to end,
//! SIGHUP gets a line in the log, and every other signal that can be caught does nothing.
//!
//! All of them are blocked before any thread begins, so that every thread but the one that calls
//! [`Blocked::listen`] keeps them blocked and none of them ends the daemon before it listens.
//! They are then caught, not ignored, and let through in that thread alone: an ignored signal stays
//! ignored in the programs that a daemon starts, and those must be stoppable; a handler does not.
//!
//! Left alone are the signals of faults, which the kernel delivers in any case, and SIGCHLD, by
//! which ended children are noticed. SIGPIPE is ignored by the standard library.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use nix::libc;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use tokio::signal::unix::Signal as Stream;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;
use tokio::sync::mpsc;

use crate::log;

/// Signals that are not for the daemon to take.
const LEFT_ALONE: [Signal; 11] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGCHLD,
    Signal::SIGPIPE,
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
];

/// Wishes to end that wait to be heard; one more of them says nothing new.
const WISHES_LIMIT: usize = 8;

/// All signals are blocked in this thread and in those it begins.
#[derive(Debug)]
#[must_use = "nothing can end the daemon until it listens"]
pub struct Blocked(SigSet);

/// Blocks all signals; the first thing a daemon does.
///
/// # Errors
/// None that the kernel is known to have for this.
pub fn block() -> io::Result<Blocked> {
    let mut signals = SigSet::all();
    for signal in LEFT_ALONE {
        signals.remove(signal);
    }
    signals.thread_block()?;
    Ok(Blocked(signals))
}

impl Blocked {
    /// Begins to listen, in a runtime and in the thread that starts programs. Signals that came
    /// before are heard now.
    ///
    /// # Errors
    /// What the system says of handlers and of the pipe that they write to.
    pub fn listen(self) -> io::Result<Signals> {
        let named = Signal::iterator().filter(|signal| !LEFT_ALONE.contains(signal));
        let numbers = named.map(|signal| signal as i32);
        let numbers = numbers.chain(libc::SIGRTMIN()..=libc::SIGRTMAX());
        let streams = numbers.map(|number| {
            let stream = signal(SignalKind::from_raw(number))?;
            Ok((number, stream))
        });
        let streams = streams.collect::<io::Result<Vec<_>>>()?;
        let (wishes, ends) = mpsc::channel(WISHES_LIMIT);
        tokio::spawn(hear(streams, wishes));
        self.0.thread_unblock()?;
        Ok(Signals { ends })
    }
}

/// Tells when the daemon is told to end.
#[derive(Debug)]
pub struct Signals {
    ends: mpsc::Receiver<&'static str>,
}

impl Signals {
    /// Signals of which none ever comes, for a daemon that is a part of a test.
    #[must_use]
    pub fn none() -> Self {
        Self {
            ends: mpsc::channel(1).1,
        }
    }

    /// The next signal that tells the daemon to end, by its name. Safe to cancel.
    pub async fn told_to_end(&mut self) -> &'static str {
        match self.ends.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

async fn hear(mut streams: Vec<(i32, Stream)>, wishes: mpsc::Sender<&'static str>) {
    loop {
        let number = next(&mut streams).await;
        match Signal::try_from(number) {
            Ok(wish @ (Signal::SIGTERM | Signal::SIGINT)) => {
                // Full: it has enough to hear.
                let _ = wishes.try_send(wish.as_str());
            }
            Ok(Signal::SIGHUP) => {
                if log::is_due("SIGHUP", 0) {
                    tracing::info!(
                        "SIGHUP is ignored; the configuration is read at the start only"
                    );
                }
            }
            Ok(_) | Err(_) => tracing::debug!(number, "a signal is ignored"),
        }
    }
}

async fn next(streams: &mut [(i32, Stream)]) -> i32 {
    poll_fn(|context| {
        for (number, stream) in &mut *streams {
            if stream.poll_recv(context).is_ready() {
                return Poll::Ready(*number);
            }
        }
        Poll::Pending
    })
    .await
}
