// SPDX-License-Identifier: GPL-2.0-only
//! The lockspaces that were created through the device, by name; each holds the module.

use kernel::{
    new_condvar,
    new_mutex,
    prelude::*,
    str::CString,
    sync::{
        Arc,
        CondVar,
        Mutex, //
    }, //
};

use core::sync::atomic::{
    AtomicU32,
    Ordering, //
};

use crate::dlm::{
    Lease,
    Lockspace,
    ModuleRef,
    SPACES, //
};

/// Most lockspaces at once.
const SPACES_MAX: usize = 64;

/// A lockspace and what commands in it share.
#[pin_data]
pub(crate) struct Space {
    name: CString,
    lockspace: Arc<Lockspace>,
    /// How often loops that run on and on were told to end.
    stops: AtomicU32,
    #[pin]
    meeting: Mutex<Meeting>,
    #[pin]
    met: CondVar,
    _module: ModuleRef,
}

/// Commands that wait for each other, so that they begin together.
#[derive(Default)]
struct Meeting {
    waiting: u64,
    /// How many meetings there were.
    past: u64,
}

/// Joins a lockspace. [`EEXIST`] if it was created here already.
pub(crate) fn create(name: &str, flags: u32, lvb_len: usize) -> Result {
    let module = ModuleRef::get()?;
    let name = CString::try_from_fmt(fmt!("{name}"))?;
    SPACES.lock().reserve(1, GFP_KERNEL)?;
    let lockspace = Lockspace::join(&name, flags, lvb_len)?;
    let leave = lockspace.clone();
    let space = Arc::pin_init(
        pin_init!(Space {
            name,
            lockspace,
            stops: AtomicU32::new(0),
            meeting <- new_mutex!(Meeting::default(), "bench_meeting"),
            met <- new_condvar!("bench_met"),
            _module: module,
        }),
        GFP_KERNEL,
    );
    let listed = space.and_then(|space| {
        let mut spaces = SPACES.lock();
        if spaces.len() >= SPACES_MAX {
            return Err(ENOSPC);
        }
        spaces.push(space, GFP_KERNEL).map_err(Error::from)
    });
    if listed.is_err() {
        // The first error is the one to tell.
        let _ = leave.leave();
    }
    listed
}

/// Leaves a lockspace and frees everything in it.
pub(crate) fn release(name: &str) -> Result {
    let space = find(name)?;
    space.lockspace.leave()?;
    let mut spaces = SPACES.lock();
    let at = spaces.iter().position(|other| Arc::ptr_eq(other, &space));
    let gone = at.and_then(|at| spaces.remove(at).ok());
    drop(spaces);
    drop(gone);
    Ok(())
}

/// A lockspace by name; [`ENOENT`] if there is none.
pub(crate) fn find(name: &str) -> Result<Arc<Space>> {
    let spaces = SPACES.lock();
    let space = spaces
        .iter()
        .find(|space| space.name.to_bytes() == name.as_bytes());
    space.cloned().ok_or(ENOENT)
}

/// Frees the table, which is empty as every lockspace holds the module.
pub(crate) fn end() {
    let spaces = core::mem::take(&mut *SPACES.lock());
    drop(spaces);
}

impl Space {
    /// The right to use it.
    pub(crate) fn enter(&self) -> Result<Lease> {
        self.lockspace.enter()
    }

    /// Ends the loops that run now.
    pub(crate) fn stop(&self) {
        self.stops.fetch_add(1, Ordering::Release);
    }

    /// How often that was done; a loop ends when it is another number than at its begin.
    pub(crate) fn stops(&self) -> u32 {
        self.stops.load(Ordering::Acquire)
    }

    /// Waits until `count` commands wait here. [`EINTR`] if a signal comes before.
    pub(crate) fn meet(&self, count: u64) -> Result {
        if count < 2 {
            return Ok(());
        }
        let mut meeting = self.meeting.lock();
        meeting.waiting += 1;
        if meeting.waiting == count {
            meeting.waiting = 0;
            meeting.past += 1;
            self.met.notify_all();
            return Ok(());
        }
        let past = meeting.past;
        while meeting.past == past {
            if self.met.wait_interruptible(&mut meeting) && meeting.past == past {
                meeting.waiting -= 1;
                return Err(EINTR);
            }
        }
        Ok(())
    }
}
