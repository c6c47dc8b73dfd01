// SPDX-License-Identifier: GPL-2.0-only
//! A queue into the real-time thread, at which that thread never waits.
//!
//! It must not wait for an ordinary thread that it has itself preempted. The queues of the
//! standard library have the receiver spin while a sender is between two steps: on one processor
//! that sender never gets to its second step, and the real-time thread stands still until the
//! kernel lets ordinary threads run again, about a second later. That is a detection time, and a
//! healthy node is fenced. Here the receiver takes nothing while somebody else holds the lock; who
//! held it rings when it has let go.

use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::TryLockError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sys::eventfd::EfdFlags;
use nix::sys::eventfd::EventFd;

#[derive(Debug)]
struct Shared<T> {
    items: Mutex<Vec<T>>,
    bell: EventFd,
    senders: AtomicUsize,
}

impl<T> Shared<T> {
    fn ring(&self) -> nix::Result<()> {
        // Full means that it rings already.
        match self.bell.write(1) {
            Ok(_) | Err(Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// Puts things in, from ordinary threads; clones put into the same queue.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Shared<T>>);

impl<T> Sender<T> {
    /// Puts one in, and wakes who waits for the receiver's bell.
    pub(crate) fn send(&self, item: T) -> nix::Result<()> {
        {
            let items = self.0.items.lock();
            items.unwrap_or_else(PoisonError::into_inner).push(item);
        }
        self.0.ring()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.senders.fetch_sub(1, Ordering::Release);
        // The receiver may have to end; a bell that cannot be rung is gone itself.
        let _ = self.0.ring();
    }
}

/// Takes things out.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Shared<T>>);

impl<T> Receiver<T> {
    /// What came since the last time, in order, and without waiting. None: it is empty, and
    /// nobody can send any more.
    pub(crate) fn take(&self) -> Option<Vec<T>> {
        // Before the queue: what comes after this rings again. Empty is no error.
        let _ = self.0.bell.read();
        let is_last = self.0.senders.load(Ordering::Acquire) == 0;
        let items = match self.0.items.try_lock() {
            Ok(mut items) => std::mem::take(&mut *items),
            Err(TryLockError::Poisoned(poisoned)) => std::mem::take(&mut *poisoned.into_inner()),
            // Its holder rings afterwards.
            Err(TryLockError::WouldBlock) => return Some(Vec::new()),
        };
        if is_last && !items.is_empty() {
            // For the end, which is told the next time. A bell that cannot be rung is gone itself.
            let _ = self.0.ring();
        }
        (!is_last || !items.is_empty()).then_some(items)
    }
}

impl<T> AsFd for Receiver<T> {
    /// Readable when there is something to take.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

/// A queue with one sender.
pub(crate) fn channel<T>() -> nix::Result<(Sender<T>, Receiver<T>)> {
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let shared = Arc::new(Shared {
        items: Mutex::default(),
        bell: EventFd::from_flags(flags)?,
        senders: AtomicUsize::new(1),
    });
    Ok((Sender(Arc::clone(&shared)), Receiver(shared)))
}

#[cfg(test)]
mod tests {
    use super::*;

    use nix::poll::PollFd;
    use nix::poll::PollFlags;
    use nix::poll::PollTimeout;
    use nix::poll::poll;

    fn rings(receiver: &Receiver<u32>) -> bool {
        let mut files = [PollFd::new(receiver.as_fd(), PollFlags::POLLIN)];
        poll(&mut files, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn what_is_sent_is_taken_in_order_and_the_end_comes_last() {
        let (sender, receiver) = channel().unwrap();
        assert!(!rings(&receiver));
        let other = sender.clone();
        sender.send(1).unwrap();
        other.send(2).unwrap();
        assert!(rings(&receiver));
        assert_eq!(receiver.take(), Some(vec![1, 2]));
        assert!(!rings(&receiver));
        assert_eq!(receiver.take(), Some(vec![]));
        drop(sender);
        assert_eq!(receiver.take(), Some(vec![]));
        other.send(3).unwrap();
        drop(other);
        assert!(rings(&receiver));
        assert_eq!(receiver.take(), Some(vec![3]));
        assert!(rings(&receiver));
        assert_eq!(receiver.take(), None);
    }

    #[test]
    fn a_sender_that_was_preempted_is_not_waited_for() {
        let (sender, receiver) = channel().unwrap();
        let mut items = sender.0.items.lock().unwrap();
        items.push(1);
        // This thread holds the lock: waiting for it would never end.
        assert_eq!(receiver.take(), Some(vec![]));
        assert!(!rings(&receiver));
        drop(items);
        sender.send(2).unwrap();
        assert!(rings(&receiver));
        assert_eq!(receiver.take(), Some(vec![1, 2]));
    }
}
