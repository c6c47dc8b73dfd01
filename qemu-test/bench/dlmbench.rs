// SPDX-License-Identifier: GPL-2.0-only
//! dlmbench.ko: makes lock operations as a file system does and measures them.
//!
//! It knows the four calls of `include/linux/dlm.h` and nothing else, so that the very same source
//! runs on any `dlm.ko`. A program writes a command line to `/dev/dlmbench`; the write returns when
//! the command has ended, or fails. What it found is then read from the same file. Commands run in
//! the writing task, which may be killed; several files may run commands side by side.
//!
//! ```text
//! create ls=NAME [softirq=0|1] [lvblen=32]    join a lockspace; its controller has to answer
//! release ls=NAME                             leave it; kept locks go with it
//! stop ls=NAME                                end the loops that run in it
//! clock n=N                                   what reading the clock costs
//! pair ls= tag= n=N                           lock and unlock in EX, one at a time
//! convert ls= tag= n=N                        NL to EX and back, one at a time
//! flight ls= tag= n=N depth=D [new=0|1]       lock and unlock in EX, D at a time
//! reserve ls= tag= n=N                        memory of the bench itself for N kept locks
//! take ls= tag= n=N [depth=64] [mode=nl|pr|ex]  lock N names and keep them
//! drop ls= tag= [depth=64]                    unlock what was kept under the tag
//! handover ls= tag= n=N ms=T [lvb=0|1]        take EX, give it up when somebody is blocked
//! probe ls= tag= ms=T every_us=U [convert=0|1]  one operation after the other, until stopped
//! ```
//!
//! `pair`, `convert`, `flight` and `probe` also take `first=N`, the number of the first name;
//! `keep=0|1`, whether an NL lock is held so that the resource exists before and after (1); and
//! `meet=N`, how many commands of the lockspace begin together. A name is the tag, filled to eight
//! bytes, and the number in 16 hexadecimal digits. Times are in ns of the monotonic clock, which
//! counts instructions where the machine says so.

mod command;
mod dlm;
mod handover;
mod histogram;
mod report;
mod setting;
mod single;
mod spaces;
mod verbs;
mod window;

use kernel::{
    fs::{
        File,
        Kiocb, //
    },
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    miscdevice::{
        MiscDevice,
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    new_mutex,
    prelude::*,
    sync::Mutex, //
};

use crate::report::Report;

module! {
    type: Bench,
    name: "dlmbench",
    authors: ["Conclave"],
    description: "Measures a distributed lock manager",
    license: "GPL",
}

/// Longest command line.
const LINE_LEN_MAX: usize = 1024;

#[pin_data(PinnedDrop)]
struct Bench {
    #[pin]
    device: MiscDeviceRegistration<Open>,
}

impl kernel::InPlaceModule for Bench {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        dlm::init_spaces();
        try_pin_init!(Self {
            device <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: c"dlmbench",
            }),
        })
    }
}

#[pinned_drop]
impl PinnedDrop for Bench {
    fn drop(self: Pin<&mut Self>) {
        // Open files and lockspaces hold the module: there are none.
        spaces::end();
    }
}

/// An open file: the answer to its last command.
///
/// The operations that `kernel::miscdevice` makes have no owner, so an open file holds the module
/// itself. What is left of the race, the last instructions of the release, is behind the end of
/// the program, and whoever unloads a bench has waited for that.
#[pin_data]
struct Open {
    #[pin]
    answer: Mutex<Report>,
    _module: dlm::ModuleRef,
}

#[vtable]
impl MiscDevice for Open {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let module = dlm::ModuleRef::get()?;
        KBox::pin_init(
            pin_init!(Self {
                answer <- new_mutex!(Report::new(), "bench_answer"),
                _module: module,
            }),
            GFP_KERNEL,
        )
    }

    fn write_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterSource<'_>) -> Result<usize> {
        let mut line = [0; LINE_LEN_MAX];
        if iov.len() > line.len() {
            return Err(E2BIG);
        }
        let len = iov.copy_from_iter(&mut line);
        let line = line.get(..len).ok_or(EFAULT)?;
        let line = core::str::from_utf8(line).map_err(|_| EINVAL)?;
        // Another command of this file runs: its answer is wanted.
        let file = kiocb.file();
        let mut answer = file.answer.try_lock().ok_or(EBUSY)?;
        *answer = Report::new();
        if let Err(fault) = verbs::run(line, &mut answer) {
            answer.fail(&fault);
            return Err(fault.error());
        }
        drop(answer);
        // The answer is read from its begin.
        *kiocb.ki_pos_mut() = 0;
        Ok(len)
    }

    fn read_iter(mut kiocb: Kiocb<'_, Self::Ptr>, iov: &mut IovIterDest<'_>) -> Result<usize> {
        let file = kiocb.file();
        let answer = file.answer.lock();
        iov.simple_read_from_buffer(kiocb.ki_pos_mut(), answer.bytes())
    }
}
