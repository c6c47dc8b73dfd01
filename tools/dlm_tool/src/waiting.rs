// SPDX-License-Identifier: GPL-2.0-only
//! Waits no longer than the user wants for what the kernel does when the cluster agrees.
//!
//! The kernel's wait ends only when the task is killed. So a thread waits in the kernel, and when
//! the time is over the end of the process kills it: the kernel then takes back what was asked.

use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// The result of `work`, or none if it takes longer than `limit`; its thread then goes on until the
/// process ends.
pub(crate) fn within<T: Send + 'static>(
    limit: Option<Duration>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let Some(limit) = limit else {
        return Some(work());
    };
    let (sender, done) = sync_channel(1);
    std::thread::spawn(move || {
        // Nobody listens when the time is over.
        let _ = sender.send(work());
    });
    done.recv_timeout(limit).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_given_up() {
        let (_open, shut) = sync_channel::<()>(0);
        let late = within(Some(Duration::from_millis(20)), move || {
            shut.recv().is_err()
        });
        assert_eq!(late, None);
        assert_eq!(within(Some(Duration::from_secs(60)), || 1), Some(1));
        assert_eq!(within(None, || 2), Some(2));
    }
}
