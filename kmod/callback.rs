// SPDX-License-Identifier: GPL-2.0-only
//! Completions and blocking callbacks on their way to who owns a lock.
//!
//! An [`Owner`] is what the shell keeps with every lock of this node: whom to tell, and a queue of
//! what has not been told ([`fifo`]). A [`Line`] is a row of owners that have something to be
//! told: one per lockspace for kernel users, emptied by a work item of the lockspace's ordered
//! queue ([`Callbacks`]), and one per open file for programs, emptied by their reads.
//!
//! Rules: per lock everything is told in the order it happened; across locks who was queued first
//! is served first. Nothing is allocated when something happens, so no completion is ever lost.
//! Between the beginning and the end of a recovery a line of kernel users is held back, and then
//! goes on in the same order. Locks: the line's, then the owner's; both are spinlocks, taken for a
//! few instructions, under a shard's mutex or none.

// Mounted in user space, too, for its tests.
#[allow(unreachable_pub)]
pub(crate) mod fifo;
mod open_file;

use kernel::{
    alloc::Flags,
    impl_has_work,
    list::{
        impl_list_arc_safe,
        impl_list_item,
        AtomicTracker,
        List,
        ListArc,
        ListLinks,
        TryNewListArc, //
    },
    new_spinlock,
    new_work,
    pr_err_once,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        poll::PollCondVar,
        Arc,
        SpinLock, //
    },
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

use crate::ffi::caller::Caller;
use crate::ffi::time::cond_resched;
use crate::lockcore::flags::StatusFlags;
use crate::lockcore::lvb;
use crate::lockcore::mode::Mode;
use crate::lockcore::shard::{
    Completion,
    Status, //
};
use crate::uapi::device::{
    LockResult,
    UserPointers,
    LVB_LEN, //
};
use fifo::{
    Event,
    Fifo,
    Room, //
};

pub(crate) use open_file::{
    Note,
    OpenFile, //
};

/// A completion for a kernel user.
pub(crate) struct KernelDone {
    caller: Caller,
    status: i32,
    sb_flags: StatusFlags,
}

/// A completion for a program: the result as it was when it was queued.
pub(crate) struct UserDone {
    result: LockResult,
    lvb: Option<[u8; LVB_LEN]>,
}

/// What a program reads next.
pub(crate) struct UserResult {
    /// The fixed part.
    pub(crate) result: LockResult,
    /// The value block to hand over with it.
    pub(crate) lvb: Option<[u8; LVB_LEN]>,
}

struct KernelState {
    caller: Caller,
    /// Whether a completion was queued for the lock.
    completed: bool,
    fifo: Fifo<KernelDone, Caller>,
}

/// What is kept for a program.
pub(crate) struct UserState {
    /// As its last accepted operation gave them.
    pub(crate) pointers: UserPointers,
    /// The value block, if it ever asked for it.
    pub(crate) lvb: Option<[u8; LVB_LEN]>,
    /// The lock outlives its open file.
    pub(crate) persistent: bool,
    /// A cancel is to complete as a deadlock.
    pub(crate) is_deadlock: bool,
    /// Mode of the previous completion.
    mode: Option<Mode>,
    /// What blocking callbacks say; the status part is of the last completion.
    told: LockResult,
    /// Nobody reads any more: closed, or an orphan.
    dead: bool,
    fifo: Fifo<UserDone, LockResult>,
}

enum State {
    Kernel(KernelState),
    User(KBox<UserState>),
}

impl State {
    fn has_events(&self) -> bool {
        match self {
            State::Kernel(kernel) => !kernel.fifo.is_empty(),
            State::User(user) => !user.fifo.is_empty(),
        }
    }
}

/// What the shell keeps with a lock of this node.
///
/// `state` is guarded by its own lock, which nests inside the one of the line the owner stands in.
#[pin_data]
pub(crate) struct Owner {
    #[pin]
    links: ListLinks,
    #[pin]
    tracker: AtomicTracker,
    #[pin]
    state: SpinLock<State>,
    file: Option<Arc<OpenFile>>,
    xid: u64,
    lkid: Atomic<u32>,
}

impl_list_arc_safe! {
    impl ListArcSafe<0> for Owner { tracked_by tracker: AtomicTracker; }
}
impl_list_item! {
    impl ListItem<0> for Owner { using ListLinks { self.links }; }
}

impl Owner {
    /// An owner in the kernel.
    pub(crate) fn kernel(caller: Caller) -> Result<Arc<Self>> {
        let state = State::Kernel(KernelState {
            caller,
            completed: false,
            fifo: Fifo::default(),
        });
        Self::new(state, None, 0)
    }

    /// A program, by its open file. `lvb`: it asked for the value block.
    pub(crate) fn user(
        file: Arc<OpenFile>,
        pointers: UserPointers,
        xid: u64,
        lvb: bool,
    ) -> Result<Arc<Self>> {
        let state = UserState {
            pointers,
            lvb: lvb.then_some([0; LVB_LEN]),
            persistent: false,
            is_deadlock: false,
            mode: None,
            told: LockResult::default(),
            dead: false,
            fifo: Fifo::default(),
        };
        let state = State::User(KBox::new(state, GFP_KERNEL)?);
        Self::new(state, Some(file), xid)
    }

    fn new(state: State, file: Option<Arc<OpenFile>>, xid: u64) -> Result<Arc<Self>> {
        Arc::pin_init(
            try_pin_init!(Self {
                links <- ListLinks::new(),
                tracker <- AtomicTracker::new(),
                state <- new_spinlock!(state, "dlm_owner"),
                file,
                xid,
                lkid: Atomic::new(0),
            }),
            GFP_KERNEL,
        )
    }

    /// The open file of a program; `None` for a kernel user.
    pub(crate) fn file(&self) -> Option<&Arc<OpenFile>> {
        self.file.as_ref()
    }

    /// Transaction number of a program.
    pub(crate) fn xid(&self) -> u64 {
        self.xid
    }

    /// Makes room for the completion of one more operation. Call before it is accepted; under a
    /// mutex with flags that do not wait.
    pub(crate) fn reserve(&self, flags: Flags) -> Result {
        loop {
            let wanted = match &*self.state.lock() {
                State::Kernel(kernel) => kernel.fifo.wanted().map(|n| (n, true)),
                State::User(user) => user.fifo.wanted().map(|n| (n, false)),
            };
            match wanted {
                None => return Ok(()),
                Some((n, true)) => self.grow_kernel(n, flags)?,
                Some((n, false)) => self.grow_user(n, flags)?,
            }
        }
    }

    // The memory is got before and given back after the lock is held, as it must.
    fn grow_kernel(&self, entries: usize, flags: Flags) -> Result {
        let room = Room::new(entries, flags)?;
        let old = match &mut *self.state.lock() {
            State::Kernel(kernel) => kernel.fifo.grow(room),
            State::User(_) => room,
        };
        drop(old);
        Ok(())
    }

    fn grow_user(&self, entries: usize, flags: Flags) -> Result {
        let room = Room::new(entries, flags)?;
        let old = match &mut *self.state.lock() {
            State::User(user) => user.fifo.grow(room),
            State::Kernel(_) => room,
        };
        drop(old);
        Ok(())
    }

    /// Counts the completion of the operation that is about to be accepted.
    pub(crate) fn expect(&self) {
        match &mut *self.state.lock() {
            State::Kernel(kernel) => kernel.fifo.expect(),
            State::User(user) => user.fifo.expect(),
        }
    }

    /// Replaces whom a kernel user is told by. Call when the operation is accepted.
    pub(crate) fn set_caller(&self, f: impl FnOnce(&Caller) -> Caller) {
        match &mut *self.state.lock() {
            State::Kernel(kernel) => kernel.caller = f(&kernel.caller),
            State::User(_) => {}
        }
    }

    /// Changes what a program gave. Call when the operation is accepted.
    pub(crate) fn set_user(&self, f: impl FnOnce(&mut UserState)) {
        match &mut *self.state.lock() {
            State::Kernel(_) => {}
            State::User(user) => f(user),
        }
    }

    fn user_state<R>(&self, f: impl FnOnce(&UserState) -> R) -> Option<R> {
        match &*self.state.lock() {
            State::Kernel(_) => None,
            State::User(user) => Some(f(user)),
        }
    }

    /// Whether the lock belongs to this open file.
    pub(crate) fn is_of(&self, file: &OpenFile) -> bool {
        self.file().is_some_and(|own| core::ptr::eq(&**own, file))
    }

    /// Whether the lock is to outlive its open file.
    pub(crate) fn is_persistent(&self) -> bool {
        self.user_state(|user| user.persistent).unwrap_or(false)
    }

    /// Whether a program wants blocking callbacks.
    pub(crate) fn wants_blocking(&self) -> bool {
        self.user_state(|user| user.pointers.bastaddr != 0)
            .unwrap_or(false)
    }

    /// The lock was granted in `mode` before, to somebody else.
    pub(crate) fn set_adopted(&self, mode: i32) {
        self.set_user(|user| user.mode = Mode::from_raw(mode));
    }

    /// Id of a program's lock; 0 while it is not noted with its file.
    pub(crate) fn lkid(&self) -> u32 {
        self.lkid.load(ordering::Relaxed)
    }

    /// The lock has this id.
    pub(crate) fn set_lkid(&self, lkid: u32) {
        self.lkid.store(lkid, ordering::Relaxed);
    }

    /// Whom the lock's completions go to, of a kernel user.
    pub(crate) fn caller(&self) -> Option<Caller> {
        match &*self.state.lock() {
            State::Kernel(kernel) => Some(kernel.caller),
            State::User(_) => None,
        }
    }

    /// The value block of a program as it is now.
    pub(crate) fn user_lvb(&self) -> Option<[u8; LVB_LEN]> {
        self.user_state(|user| user.lvb).flatten()
    }

    /// Stores the lock id with the caller unless a completion did, after which the caller may
    /// have freed its status block. Call under the shard's mutex.
    pub(crate) fn store_lkid(&self, lkid: u32) {
        match &*self.state.lock() {
            State::Kernel(kernel) if !kernel.completed => kernel.caller.store_lkid(lkid),
            State::Kernel(_) | State::User(_) => {}
        }
    }

    /// Says so if a completion had no room, which only a mistake of ours can cause.
    fn check_lost(&self) {
        let lost = match &*self.state.lock() {
            State::Kernel(kernel) => kernel.fifo.lost(),
            State::User(user) => user.fifo.lost(),
        };
        if lost > 0 {
            pr_err_once!("a completion was lost: somebody waits for ever\n");
        }
    }

    /// Nobody reads any more: forgets what is queued and queues nothing from now on.
    pub(crate) fn die(&self) {
        match &mut *self.state.lock() {
            State::Kernel(_) => {}
            State::User(user) => {
                user.dead = true;
                user.fifo.clear();
            }
        }
    }
}

impl KernelState {
    fn complete(&mut self, done: &Completion<'_>) {
        // The buffers belong to this module from the call to its completion.
        self.caller.store_lkid(done.id.raw());
        if let Some(bytes) = done.lvb {
            self.caller.store_lvb(bytes);
        }
        self.completed = true;
        self.fifo.complete(KernelDone {
            caller: self.caller,
            status: done.status.errno(),
            sb_flags: done.sb_flags,
        });
    }
}

impl UserState {
    fn complete(&mut self, done: &Completion<'_>) {
        if let (Some(buffer), Some(bytes)) = (&mut self.lvb, done.lvb) {
            let len = bytes.len().min(LVB_LEN);
            buffer[..len].copy_from_slice(&bytes[..len]);
        }
        let status = match done.status {
            Status::Cancelled if core::mem::take(&mut self.is_deadlock) => Status::Deadlock,
            status => status,
        };
        let result = LockResult {
            astaddr: self.pointers.castaddr,
            astparam: self.pointers.castparam,
            user_lksb: self.pointers.lksb,
            status: status.errno(),
            lkid: done.id.raw(),
            sb_flags: done.sb_flags.raw(),
            bast_mode: 0,
        };
        let hand_over = status == Status::Granted && !self.writes_lvb(done.mode);
        self.mode = done.mode;
        self.told = result;
        if !self.dead {
            let lvb = self.lvb.filter(|_| hand_over);
            self.fifo.complete(UserDone { result, lvb });
        }
    }

    /// Whether the step to `mode` carried the value block away from the program.
    fn writes_lvb(&self, mode: Option<Mode>) -> bool {
        mode.is_some_and(|to| lvb::direction(self.mode, to) == lvb::Direction::Write)
    }

    fn blocking(&mut self, mode: Mode) {
        if self.dead || self.pointers.bastaddr == 0 {
            return;
        }
        let told = LockResult {
            astaddr: self.pointers.bastaddr,
            astparam: self.pointers.bastparam,
            user_lksb: self.pointers.lksb,
            ..self.told
        };
        self.fifo.blocking(&told, mode);
    }

    fn take(&mut self) -> Option<UserResult> {
        Some(match self.fifo.take()? {
            Event::Completion(UserDone { result, lvb }) => UserResult { result, lvb },
            Event::Blocking(told, mode) => UserResult {
                result: LockResult {
                    bast_mode: mode as u8,
                    ..told
                },
                lvb: None,
            },
        })
    }
}

/// Something taken out of a line.
enum Taken {
    Kernel(Event<KernelDone, Caller>),
    User(UserResult),
}

/// A row of owners that have something to be told.
#[pin_data]
pub(crate) struct Line {
    #[pin]
    row: SpinLock<Row>,
}

struct Row {
    ready: List<Owner>,
    held: bool,
    closed: bool,
}

impl Line {
    /// An empty line.
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            row <- new_spinlock!(Row {
                ready: List::new(),
                held: false,
                closed: false,
            }, "dlm_line"),
        })
    }

    /// Queues what `f` adds to `owner`. Returns whether somebody should come and take it.
    fn post(&self, owner: &Arc<Owner>, f: impl FnOnce(&mut State)) -> bool {
        let mut row = self.row.lock();
        if row.closed {
            return false;
        }
        let any = {
            let mut state = owner.state.lock();
            f(&mut state);
            state.has_events()
        };
        if any {
            // An error says that it stands in the row already.
            if let Ok(item) = ListArc::try_from_arc(owner.clone()) {
                row.ready.push_back(item);
            }
        }
        any && !row.held
    }

    /// Takes what is to be told next, and whom it is of.
    fn take(&self) -> Option<(Arc<Owner>, Taken)> {
        let mut row = self.row.lock();
        if row.held {
            return None;
        }
        loop {
            let item = row.ready.pop_front()?;
            let owner = item.clone_arc();
            let (taken, more) = {
                let mut state = owner.state.lock();
                let taken = match &mut *state {
                    State::Kernel(kernel) => kernel.fifo.take().map(Taken::Kernel),
                    State::User(user) => user.take().map(Taken::User),
                };
                (taken, state.has_events())
            };
            if more {
                row.ready.push_back(item);
            } else {
                drop(item);
            }
            match taken {
                Some(taken) => return Some((owner, taken)),
                // Died while it stood in the row. Its last reference must not go under the lock.
                None => {
                    drop(row);
                    drop(owner);
                    row = self.row.lock();
                }
            }
        }
    }

    /// Takes the next result for a program.
    pub(crate) fn take_result(&self) -> Option<UserResult> {
        match self.take()? {
            (owner, Taken::User(result)) => {
                owner.check_lost();
                Some(result)
            }
            (_owner, Taken::Kernel(_)) => None,
        }
    }

    /// Waits until something is to be told or `is_over`, which whoever makes it so must announce
    /// by `changed`. Returns whether a signal came first.
    pub(crate) fn wait(&self, changed: &PollCondVar, is_over: impl Fn() -> bool) -> bool {
        let mut row = self.row.lock();
        while row.ready.is_empty() && !is_over() {
            if changed.wait_interruptible(&mut row) {
                return true;
            }
        }
        false
    }

    /// Whoever has seen in [`Line::wait`] that it is not over waits by now, and can be woken.
    pub(crate) fn let_waiters_settle(&self) {
        drop(self.row.lock());
    }

    /// Whether nothing is to be told.
    pub(crate) fn is_empty(&self) -> bool {
        self.row.lock().ready.is_empty()
    }

    /// Nothing is taken and nothing is queued any more.
    pub(crate) fn close(&self) {
        self.row.lock().closed = true;
        loop {
            // One at a time: an owner may be freed here, and that not under the lock.
            let item = self.row.lock().ready.pop_front();
            match item {
                Some(item) => drop(item),
                None => return,
            }
        }
    }
}

/// The callbacks of a lockspace to kernel users.
#[pin_data]
pub(crate) struct Callbacks {
    #[pin]
    line: Line,
    #[pin]
    work: Work<Callbacks>,
}

impl_has_work! {
    impl HasWork<Self> for Callbacks { self.work }
}

impl WorkItem for Callbacks {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        while let Some((owner, taken)) = this.line.take() {
            match taken {
                Taken::Kernel(Event::Completion(done)) => {
                    done.caller.complete(done.status, done.sb_flags.raw());
                }
                Taken::Kernel(Event::Blocking(caller, mode)) => caller.blocking(mode as c_int),
                Taken::User(_) => {}
            }
            owner.check_lost();
            cond_resched();
        }
    }
}

impl Callbacks {
    /// Nothing to tell.
    pub(crate) fn new() -> Result<Arc<Self>> {
        Arc::pin_init(
            pin_init!(Self {
                line <- Line::new(),
                work <- new_work!("dlm_callback"),
            }),
            GFP_KERNEL,
        )
    }

    /// Holds everything back from now on. A callback that runs at the moment may end later.
    pub(crate) fn hold(&self) {
        self.line.row.lock().held = true;
    }

    /// Lets everything go that was held back. Returns whether the work must be queued.
    pub(crate) fn go_on(&self) -> bool {
        let mut row = self.line.row.lock();
        row.held = false;
        !row.ready.is_empty()
    }

    /// Nothing is queued any more.
    pub(crate) fn close(&self) {
        self.line.close();
    }
}

/// Queues a completion. Returns whether the work of `kernel` must be queued.
pub(crate) fn complete(owner: &Arc<Owner>, kernel: &Callbacks, done: &Completion<'_>) -> bool {
    match owner.file() {
        None => kernel.line.post(owner, |state| match state {
            State::Kernel(state) => state.complete(done),
            State::User(_) => {}
        }),
        Some(file) => {
            let wake = file.line().post(owner, |state| match state {
                State::User(state) => state.complete(done),
                State::Kernel(_) => {}
            });
            if wake {
                file.wake();
            }
            false
        }
    }
}

/// Queues a blocking callback. Returns whether the work of `kernel` must be queued.
pub(crate) fn blocking(owner: &Arc<Owner>, kernel: &Callbacks, mode: Mode) -> bool {
    match owner.file() {
        None => kernel.line.post(owner, |state| match state {
            State::Kernel(state) if state.caller.wants_blocking() => {
                let caller = state.caller;
                state.fifo.blocking(&caller, mode);
            }
            State::Kernel(_) | State::User(_) => {}
        }),
        Some(file) => {
            let wake = file.line().post(owner, |state| match state {
                State::User(state) => state.blocking(mode),
                State::Kernel(_) => {}
            });
            if wake {
                file.wake();
            }
            false
        }
    }
}
