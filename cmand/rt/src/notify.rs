// SPDX-License-Identifier: GPL-2.0-only
//! Tells the service manager where a daemon stands, and that it still works (sd_notify).
//!
//! A [`Manager`] belongs to the loop that does the daemon's work, and nothing else may say
//! [`Manager::turned`]: a loop that is stuck is then silent, and the manager ends the daemon after
//! the `WatchdogSec=` of its unit. Without `NOTIFY_SOCKET` nothing is sent.
//!
//! Sending waits when the manager does not read. So a thread of its own sends, and what comes
//! while its short queue is full is dropped: a manager that hangs must not stop the cluster.

use std::sync::mpsc::Receiver;
use std::sync::mpsc::SyncSender;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

/// What may wait for a manager that does not read.
const QUEUE: usize = 16;

/// Keep-alives in the time within which one must come: two may be late.
const KEEP_ALIVES: u32 = 3;

/// What there is to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Start-up is over; clients can connect.
    Ready,
    /// The daemon is ending.
    Stopping,
    /// One line for `systemctl status`.
    Status(String),
    /// The loop of the daemon has turned.
    Alive,
}

/// The service manager, as the loop of a daemon sees it.
#[derive(Debug)]
pub struct Manager {
    queue: SyncSender<State>,
    watch: Option<Watch>,
}

/// When the next keep-alive is due.
#[derive(Debug)]
struct Watch {
    period: Duration,
    next: Instant,
}

impl Manager {
    /// The manager that started this process, if any. Call it after signals are blocked: it begins
    /// a thread.
    ///
    /// # Errors
    /// What the system says of a new thread.
    pub fn of_this_process() -> std::io::Result<Self> {
        let (queue, states) = sync_channel(QUEUE);
        if std::env::var_os("NOTIFY_SOCKET").is_some() {
            std::thread::Builder::new()
                .name("notify".to_owned())
                .spawn(move || send_all(&states))?;
        }
        Ok(Self::new(queue, sd_notify::watchdog_enabled()))
    }

    /// A manager that takes states from a queue, and wants a keep-alive within `limit`.
    #[must_use]
    pub fn new(queue: SyncSender<State>, limit: Option<Duration>) -> Self {
        let watch = limit.map(|limit| Watch {
            period: limit / KEEP_ALIVES,
            next: Instant::now(),
        });
        Self { queue, watch }
    }

    /// Tells it, without waiting.
    pub fn tell(&self, state: State) {
        // Full: the manager hangs. Disconnected: there is none.
        let _ = self.queue.try_send(state);
    }

    /// The loop has turned: a keep-alive goes out if one is due.
    pub fn turned(&mut self) {
        let now = Instant::now();
        let Some(watch) = &mut self.watch else {
            return;
        };
        if watch.next <= now {
            watch.next = now + watch.period;
            self.tell(State::Alive);
        }
    }

    /// Waits until the loop must turn for the next keep-alive. Safe to cancel.
    pub async fn due(&self) {
        match &self.watch {
            Some(watch) => tokio::time::sleep_until(watch.next).await,
            None => std::future::pending().await,
        }
    }
}

fn send_all(states: &Receiver<State>) {
    for state in states {
        // A missing manager must not stop the cluster.
        if let Err(error) = send(&state) {
            tracing::warn!(%error, ?state, "telling the service manager failed");
        }
    }
}

fn send(state: &State) -> std::io::Result<()> {
    match state {
        State::Ready => sd_notify::notify(&[NotifyState::Ready]),
        State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        State::Status(text) => {
            let line = text.replace('\n', " ");
            sd_notify::notify(&[NotifyState::Status(&line)])
        }
        State::Alive => sd_notify::notify(&[NotifyState::Watchdog]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_turns_is_told_of_once_a_period() {
        let (queue, states) = sync_channel(QUEUE);
        let mut manager = Manager::new(queue, Some(LIMIT));
        for _ in 0..3 {
            for _ in 0..5 {
                manager.turned();
            }
            assert_eq!(states.try_iter().collect::<Vec<_>>(), [State::Alive]);
            let begun = Instant::now();
            manager.due().await;
            assert_eq!(begun.elapsed(), LIMIT / KEEP_ALIVES);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_stuck_is_not_told_of() {
        let (queue, states) = sync_channel(QUEUE);
        let _manager = Manager::new(queue, Some(LIMIT));
        tokio::time::sleep(LIMIT * 2).await;
        assert_eq!(states.try_iter().count(), 0);
    }

    #[test]
    fn a_manager_that_hangs_is_not_waited_for() {
        let (queue, states) = sync_channel(QUEUE);
        let manager = Manager::new(queue, None);
        for _ in 0..2 * QUEUE {
            manager.tell(State::Ready);
        }
        assert_eq!(states.try_iter().count(), QUEUE);
    }
}
