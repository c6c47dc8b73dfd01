// SPDX-License-Identifier: GPL-2.0-only
//! The four calls of `include/linux/dlm.h` behind safe types: the only `unsafe` of this module.
//!
//! | Type | What it is |
//! | --- | --- |
//! | [`Lockspace`] | what `dlm_new_lockspace()` gave, until its release |
//! | [`Lease`] | the right to lock and unlock: while one exists, a release is refused |
//! | [`Batch`] | locks with their status blocks, registered with the lockspace |
//! | [`Locks`] | a batch in the hands of the one task that uses it |
//!
//! What the lock manager may write to lives in batches. A batch goes when all its locks are gone
//! and every completion was taken, or when its lockspace was released: no callback comes then. A
//! command that is killed with operations under way leaves its batch to the release.
//!
//! Callbacks may come in any context, also in softirq inside of `dlm_lock()`: they push the lock on
//! a list without a lock and wake whoever waits, and nothing else.

use core::cell::{
    Cell,
    UnsafeCell, //
};
use core::ptr;
use core::sync::atomic::{
    AtomicBool,
    AtomicU32,
    Ordering, //
};

use kernel::{
    bindings,
    new_mutex,
    prelude::*,
    str::CStr,
    sync::{
        Arc,
        Mutex, //
    },
    types::Opaque, //
};

use crate::spaces::Space;

/// `DLM_LSFL_FS`, which the lock manager gives itself to every lockspace of the kernel.
pub(crate) const LSFL_FS: u32 = 0x4;
/// `DLM_LSFL_NEWEXCL`: a lockspace of this name must not exist on this node.
pub(crate) const LSFL_NEWEXCL: u32 = 0x8;
/// `DLM_LSFL_SOFTIRQ`: callbacks may come in softirq.
pub(crate) const LSFL_SOFTIRQ: u32 = 0x10;

const LKF_CONVERT: u32 = 0x4;
const LKF_VALBLK: u32 = 0x8;
/// `DLM_EUNLOCK`, negative in a completion: the lock is gone.
const EUNLOCK: c_int = 0x10002;
/// `DLM_SBF_VALNOTVALID`: the value block was lost.
const SBF_VALNOTVALID: u8 = 0x2;
/// `DLM_RELEASE_NORMAL`: locks that are left go with the lockspace.
const RELEASE_NORMAL: c_uint = 2;

/// Length of every name here, as GFS2 has them.
pub(crate) const NAME_LEN: usize = 24;

/// Longest value block of a lockspace.
pub(crate) const LVB_LEN_MAX: usize = 64;

/// No lock: the end of a list.
const NONE: u32 = u32::MAX;

/// How long the end of a command may wait for its own locks, in seconds.
const SETTLE_S: u64 = 1;

/// Modes that benches use.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Null: keeps a resource.
    Null = 0,
    /// Protected read: others may read, too.
    Read = 3,
    /// Exclusive.
    Exclusive = 5,
}

type Ast = unsafe extern "C" fn(*mut c_void);
type Bast = unsafe extern "C" fn(*mut c_void, c_int);

extern "C" {
    fn dlm_new_lockspace(
        name: *const c_char,
        cluster: *const c_char,
        flags: u32,
        lvblen: c_int,
        ops: *const c_void,
        ops_arg: *mut c_void,
        ops_result: *mut c_int,
        lockspace: *mut *mut c_void,
    ) -> c_int;

    fn dlm_release_lockspace(lockspace: *mut c_void, release_option: c_uint) -> c_int;

    fn dlm_lock(
        lockspace: *mut c_void,
        mode: c_int,
        lksb: *mut Lksb,
        flags: u32,
        name: *const c_void,
        namelen: c_uint,
        parent_lkid: u32,
        ast: Ast,
        astarg: *mut c_void,
        bast: Option<Bast>,
    ) -> c_int;

    fn dlm_unlock(
        lockspace: *mut c_void,
        lkid: u32,
        flags: u32,
        lksb: *mut Lksb,
        astarg: *mut c_void,
    ) -> c_int;
}

/// `struct dlm_lksb`.
#[repr(C)]
struct Lksb {
    sb_status: c_int,
    sb_lkid: u32,
    sb_flags: u8,
    sb_lvbptr: *mut u8,
}

const _: () = assert!(size_of::<Lksb>() == 24);

/// A reference to this module: it stays loaded.
pub(crate) struct ModuleRef(());

impl ModuleRef {
    /// [`ENODEV`] if the module is being unloaded.
    pub(crate) fn get() -> Result<Self> {
        let this = ptr::addr_of!(bindings::__this_module).cast_mut();
        // SAFETY: `__this_module` is this module.
        if unsafe { bindings::try_module_get(this) } {
            Ok(Self(()))
        } else {
            Err(ENODEV)
        }
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        let this = ptr::addr_of!(bindings::__this_module).cast_mut();
        // SAFETY: taken in `get`.
        unsafe { bindings::module_put(this) };
    }
}

kernel::sync::global_lock! {
    /// The lockspaces of this node that were created here.
    // SAFETY: `init` is called once, by `init_spaces`, which the module calls first.
    pub(crate) unsafe(uninit) static SPACES: Mutex<KVec<Arc<Space>>> = KVec::new();
}

/// Makes [`SPACES`] usable. Called when the module is loaded; a second call does nothing.
pub(crate) fn init_spaces() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if !DONE.swap(true, Ordering::AcqRel) {
        // SAFETY: not called before, see `DONE`.
        unsafe { SPACES.init() };
    }
}

/// `struct completion`: each [`Event::tell`] lets one wait pass.
///
/// # Invariants
///
/// `inner` is initialised.
#[pin_data]
struct Event {
    #[pin]
    inner: Opaque<bindings::completion>,
}

impl Event {
    fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            inner <- Opaque::ffi_init(|slot: *mut bindings::completion| {
                // SAFETY: `slot` is valid for writes.
                unsafe { bindings::init_completion(slot) };
            }),
        })
    }

    /// May be called in any context. After the wait that it lets pass has returned, `self` is not
    /// touched any more.
    fn tell(&self) {
        // SAFETY: initialised by the invariant.
        unsafe { bindings::complete(self.inner.get()) };
    }

    /// [`EINTR`] if the task is killed before.
    fn wait_killable(&self) -> Result {
        // SAFETY: initialised by the invariant; callers may sleep.
        match unsafe { bindings::wait_for_completion_killable(self.inner.get()) } {
            0 => Ok(()),
            _ => Err(EINTR),
        }
    }

    /// Whether it came within so many jiffies; [`EINTR`] if the task is killed before.
    fn wait_killable_for(&self, jiffies: u64) -> Result<bool> {
        // SAFETY: initialised by the invariant; callers may sleep.
        let left = unsafe {
            bindings::wait_for_completion_killable_timeout(self.inner.get(), jiffies as c_ulong)
        };
        match left {
            ..=-1 => Err(EINTR),
            0 => Ok(false),
            1.. => Ok(true),
        }
    }

    /// Whether it came within so many jiffies, whatever signals come.
    fn wait_for(&self, jiffies: u64) -> bool {
        // SAFETY: initialised by the invariant; callers may sleep.
        unsafe { bindings::wait_for_completion_timeout(self.inner.get(), jiffies as c_ulong) != 0 }
    }

    /// Takes one without waiting.
    fn take(&self) -> bool {
        // SAFETY: initialised by the invariant.
        unsafe { bindings::try_wait_for_completion(self.inner.get()) }
    }
}

/// What the user of a lock asked for last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// There is no lock.
    Free,
    /// A request is under way.
    Requested,
    /// Granted.
    Held,
    /// A conversion is under way.
    Converting,
    /// An unlock is under way.
    Unlocking,
}

/// A lock's status block and what is known of the lock.
///
/// # Invariants
///
/// `lksb` belongs to the lock manager from an accepted call to the completion of it, else to the
/// batch's user, as do all cells always.
struct Slot {
    lksb: UnsafeCell<Lksb>,
    batch: Cell<*const Batch>,
    since: Cell<u64>,
    /// The lock that completed before, in the batch's list.
    next: AtomicU32,
    stage: Cell<Stage>,
}

/// Room for a value block; see [`Slot`] for whom it belongs to.
struct Lvb(UnsafeCell<[u8; LVB_LEN_MAX]>);

/// Locks of one command, or the kept ones of a tag.
///
/// # Invariants
///
/// `slots` and `lvbs` neither move nor change their length; the `batch` of each slot is this one.
/// Cells here and in the slots are used by the task only that has set `is_used`.
#[pin_data]
pub(crate) struct Batch {
    tag: Option<Tag>,
    is_used: AtomicBool,
    slots: KVVec<Slot>,
    lvbs: KVVec<Lvb>,
    /// One for each completion.
    #[pin]
    done: Event,
    /// One for each blocking callback.
    #[pin]
    blocked: Event,
    /// Completed locks, the last first; callbacks push, the user takes all.
    completed: AtomicU32,
    /// Completed locks that the user has taken but not looked at.
    taken: Cell<u32>,
    /// Calls whose completion the user has not looked at.
    outstanding: Cell<u32>,
    /// Locks that are granted in some mode, whatever is under way for them.
    held: Cell<u32>,
}

/// What a batch of kept locks is known by; the first part of the names in it.
pub(crate) type Tag = [u8; 8];

// SAFETY: by the invariants cells and status blocks are used by one task at a time; `is_used`, with
// acquire and release, hands them over.
unsafe impl Send for Batch {}
// SAFETY: as for `Send`; callbacks touch atomics and events only.
unsafe impl Sync for Batch {}

impl Batch {
    fn new(tag: Option<Tag>, len: usize, has_lvbs: bool) -> Result<Arc<Self>> {
        if len == 0 || len >= NONE as usize {
            return Err(EINVAL);
        }
        let mut slots = KVVec::with_capacity(len, GFP_KERNEL)?;
        let mut lvbs = KVVec::with_capacity(if has_lvbs { len } else { 0 }, GFP_KERNEL)?;
        for _ in 0..len {
            slots.push(Slot::free(), GFP_KERNEL)?;
            if has_lvbs {
                lvbs.push(Lvb(UnsafeCell::new([0; LVB_LEN_MAX])), GFP_KERNEL)?;
            }
        }
        let batch = Arc::pin_init(
            pin_init!(Self {
                tag,
                is_used: AtomicBool::new(true),
                slots,
                lvbs,
                done <- Event::new(),
                blocked <- Event::new(),
                completed: AtomicU32::new(NONE),
                taken: Cell::new(NONE),
                outstanding: Cell::new(0),
                held: Cell::new(0),
            }),
            GFP_KERNEL,
        )?;
        for (index, slot) in batch.slots.iter().enumerate() {
            slot.batch.set(&*batch);
            if let Some(lvb) = batch.lvbs.get(index) {
                // SAFETY: nobody else knows the slot yet.
                unsafe { (*slot.lksb.get()).sb_lvbptr = lvb.0.get().cast() };
            }
        }
        Ok(batch)
    }

    /// Nothing of it is known to the lock manager, and no callback touches it any more.
    fn is_idle(&self) -> bool {
        self.outstanding.get() == 0 && self.held.get() == 0
    }
}

impl Slot {
    fn free() -> Self {
        Self {
            lksb: UnsafeCell::new(Lksb {
                sb_status: 0,
                sb_lkid: 0,
                sb_flags: 0,
                sb_lvbptr: ptr::null_mut(),
            }),
            batch: Cell::new(ptr::null()),
            since: Cell::new(0),
            next: AtomicU32::new(NONE),
            stage: Cell::new(Stage::Free),
        }
    }

    fn argument(&self) -> *mut c_void {
        ptr::from_ref(self).cast_mut().cast()
    }
}

/// # Safety
///
/// Only for the lock manager, with a [`Slot`] as argument whose batch is alive.
unsafe extern "C" fn completed(argument: *mut c_void) {
    // SAFETY: by the rule of this function; callbacks touch nothing that is not shared.
    let slot = unsafe { &*argument.cast::<Slot>() };
    // SAFETY: a slot lies in the `slots` of its batch.
    let batch = unsafe { &*slot.batch.get() };
    let index = (ptr::from_ref(slot).addr() - batch.slots.as_ptr().addr()) / size_of::<Slot>();
    let mut last = batch.completed.load(Ordering::Relaxed);
    loop {
        slot.next.store(last, Ordering::Relaxed);
        // Release: who takes the list sees the status block and `next`.
        match batch.completed.compare_exchange_weak(
            last,
            index as u32,
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            Ok(_) => break,
            Err(newer) => last = newer,
        }
    }
    batch.done.tell();
}

/// # Safety
///
/// As for [`completed`].
unsafe extern "C" fn blocking(argument: *mut c_void, _mode: c_int) {
    // SAFETY: by the rule of this function.
    let slot = unsafe { &*argument.cast::<Slot>() };
    // SAFETY: as above.
    let batch = unsafe { &*slot.batch.get() };
    batch.blocked.tell();
}

/// Set in [`Lockspace::users`]: released, or about to be.
const CLOSED: u32 = 1 << 31;

/// A lockspace of this node.
///
/// # Invariants
///
/// `handle` is from `dlm_new_lockspace()`, and not released unless `users` is [`CLOSED`].
#[pin_data]
pub(crate) struct Lockspace {
    handle: *mut c_void,
    /// Leases, or [`CLOSED`].
    users: AtomicU32,
    #[pin]
    batches: Mutex<KVec<Arc<Batch>>>,
}

// SAFETY: the handle may be used by any task.
unsafe impl Send for Lockspace {}
// SAFETY: the four calls may be made by many tasks at once.
unsafe impl Sync for Lockspace {}

impl Lockspace {
    /// Joins a lockspace; returns when its controller has let this node in. Errors are those of
    /// `dlm_new_lockspace()`.
    pub(crate) fn join(name: &CStr, flags: u32, lvb_len: usize) -> Result<Arc<Self>> {
        let mut handle = ptr::null_mut();
        // SAFETY: `name` is a string; there are neither a cluster's name nor recovery callbacks;
        // `handle` may be written.
        let result = unsafe {
            dlm_new_lockspace(
                name.as_char_ptr(),
                ptr::null(),
                flags,
                lvb_len as c_int,
                ptr::null(),
                ptr::null_mut(),
                ptr::null_mut(),
                &mut handle,
            )
        };
        kernel::error::to_result(result)?;
        // INVARIANT: just made.
        let made = Arc::pin_init(
            pin_init!(Self {
                handle,
                users: AtomicU32::new(0),
                batches <- new_mutex!(KVec::new(), "bench_batches"),
            }),
            GFP_KERNEL,
        );
        if made.is_err() {
            // SAFETY: just made, and nobody else knows it.
            unsafe { dlm_release_lockspace(handle, RELEASE_NORMAL) };
        }
        made
    }

    /// Leaves the lockspace and frees all that commands have left in it. [`EBUSY`] while a command
    /// uses it, [`ENOENT`] if it was left already; else as `dlm_release_lockspace()`.
    pub(crate) fn leave(&self) -> Result {
        let free = self
            .users
            .compare_exchange(0, CLOSED, Ordering::AcqRel, Ordering::Relaxed);
        match free {
            Ok(_) => {}
            Err(users) if users & CLOSED != 0 => return Err(ENOENT),
            Err(_) => return Err(EBUSY),
        }
        // SAFETY: by the invariant it was not released, and nobody but us does it now: `users` was
        // not closed.
        let result = unsafe { dlm_release_lockspace(self.handle, RELEASE_NORMAL) };
        if result > 0 {
            // Somebody else has it too, against what we asked for: callbacks may still come.
            return Err(EBUSY);
        }
        if let Err(error) = kernel::error::to_result(result) {
            self.users.store(0, Ordering::Release);
            return Err(error);
        }
        // No callback comes any more.
        let batches = core::mem::take(&mut *self.batches.lock());
        drop(batches);
        Ok(())
    }

    /// The right to use it; [`ENOENT`] once it is left.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<Lease> {
        self.users
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |users| {
                (users & CLOSED == 0).then(|| users.saturating_add(1))
            })
            .map_err(|_| ENOENT)?;
        Ok(Lease(self.clone()))
    }
}

/// The right to lock and unlock in a lockspace.
///
/// # Invariants
///
/// Counted in `users`, so the lockspace is not released while it exists.
pub(crate) struct Lease(Arc<Lockspace>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::Release);
    }
}

impl Lease {
    /// Makes `len` locks, all free, for this command alone; with a value block each if asked for.
    pub(crate) fn locks(&self, len: usize, has_lvbs: bool) -> Result<Locks<'_>> {
        self.make(None, len, has_lvbs)
    }

    /// Makes `len` locks to be kept under a tag. [`EEXIST`] if there are some.
    pub(crate) fn reserve(&self, tag: Tag, len: usize) -> Result<Locks<'_>> {
        self.make(Some(tag), len, false)
    }

    /// The locks of a tag. [`ENOENT`] without any, [`EBUSY`] while another command has them.
    pub(crate) fn find(&self, tag: Tag) -> Result<Locks<'_>> {
        let batches = self.0.batches.lock();
        let batch = batches.iter().find(|batch| batch.tag == Some(tag));
        let batch = batch.ok_or(ENOENT)?;
        if batch.is_used.swap(true, Ordering::Acquire) {
            return Err(EBUSY);
        }
        Ok(Locks {
            lease: self,
            batch: batch.clone(),
            is_kept: true,
        })
    }

    fn make(&self, tag: Option<Tag>, len: usize, has_lvbs: bool) -> Result<Locks<'_>> {
        let batch = Batch::new(tag, len, has_lvbs)?;
        let mut batches = self.0.batches.lock();
        if tag.is_some() && batches.iter().any(|other| other.tag == tag) {
            return Err(EEXIST);
        }
        batches.push(batch.clone(), GFP_KERNEL)?;
        Ok(Locks {
            lease: self,
            batch,
            is_kept: false,
        })
    }
}

/// A batch in the hands of the one task that uses it. When it is dropped, locks that are held are
/// unlocked, unless they are to be kept.
///
/// # Invariants
///
/// `batch` is registered with the lockspace of `lease`, and its `is_used` was set by us.
pub(crate) struct Locks<'a> {
    lease: &'a Lease,
    batch: Arc<Batch>,
    is_kept: bool,
}

impl Locks<'_> {
    /// How many locks there are, held or not.
    pub(crate) fn len(&self) -> usize {
        self.batch.slots.len()
    }

    /// Whether a lock is held and nothing is under way for it.
    pub(crate) fn is_held(&self, index: usize) -> bool {
        let slot = self.batch.slots.get(index);
        slot.is_some_and(|slot| slot.stage.get() == Stage::Held)
    }

    /// How many locks are held.
    pub(crate) fn held(&self) -> usize {
        self.batch.held.get() as usize
    }

    /// How many calls are not completed yet.
    pub(crate) fn outstanding(&self) -> usize {
        self.batch.outstanding.get() as usize
    }

    /// Leaves the locks as they are when this goes.
    pub(crate) fn keep(&mut self, is_kept: bool) {
        self.is_kept = is_kept;
    }

    /// Notes a time for a lock.
    pub(crate) fn set_since(&self, index: usize, ns: u64) {
        if let Some(slot) = self.batch.slots.get(index) {
            slot.since.set(ns);
        }
    }

    /// The time that was noted for a lock, or 0.
    pub(crate) fn since(&self, index: usize) -> u64 {
        self.batch
            .slots
            .get(index)
            .map_or(0, |slot| slot.since.get())
    }

    /// Requests a lock that is free. It is granted, or refused, with a completion. [`EBUSY`] if the
    /// lock is not free; else as `dlm_lock()`. With `tells` it gets blocking callbacks: the
    /// in-tree lock manager tells another node of them in a request only, so they have to be asked
    /// for here if conversions are to have them.
    pub(crate) fn request(
        &self,
        index: usize,
        mode: Mode,
        name: &[u8; NAME_LEN],
        tells: bool,
    ) -> Result {
        let slot = self.slot_in(index, Stage::Free)?;
        let bast: Option<Bast> = if tells { Some(blocking) } else { None };
        self.call(slot, Stage::Requested, || {
            // SAFETY: the lockspace lives by the lease. The slot is free, so its status block is
            // ours to give; it and the batch stay until the completion, as the batch is registered
            // and not idle.
            unsafe {
                dlm_lock(
                    self.lease.0.handle,
                    mode as c_int,
                    slot.lksb.get(),
                    0,
                    name.as_ptr().cast(),
                    NAME_LEN as c_uint,
                    0,
                    completed,
                    slot.argument(),
                    bast,
                )
            }
        })
    }

    /// Converts a lock that is held, with its value block if it has one; with blocking callbacks
    /// from the grant on if `tells` is set. [`EBUSY`] if it is not held; else as `dlm_lock()`.
    pub(crate) fn convert(&self, index: usize, mode: Mode, tells: bool) -> Result {
        let slot = self.slot_in(index, Stage::Held)?;
        let flags = if self.batch.lvbs.is_empty() {
            LKF_CONVERT
        } else {
            LKF_CONVERT | LKF_VALBLK
        };
        let bast: Option<Bast> = if tells { Some(blocking) } else { None };
        self.call(slot, Stage::Converting, || {
            // SAFETY: as in `request`; the status block names the lock, and its value block pointer
            // is either null without VALBLK or has room for any length.
            unsafe {
                dlm_lock(
                    self.lease.0.handle,
                    mode as c_int,
                    slot.lksb.get(),
                    flags,
                    ptr::null(),
                    0,
                    0,
                    completed,
                    slot.argument(),
                    bast,
                )
            }
        })
    }

    /// Unlocks a lock that is held. [`EBUSY`] if it is not; else as `dlm_unlock()`.
    pub(crate) fn unlock(&self, index: usize) -> Result {
        let slot = self.slot_in(index, Stage::Held)?;
        // SAFETY: nothing is under way for the lock, so the status block is ours.
        let lkid = unsafe { (*slot.lksb.get()).sb_lkid };
        self.call(slot, Stage::Unlocking, || {
            // SAFETY: as in `request`; the argument is that of the lock's last call.
            unsafe {
                dlm_unlock(
                    self.lease.0.handle,
                    lkid,
                    0,
                    slot.lksb.get(),
                    slot.argument(),
                )
            }
        })
    }

    /// Waits for the next completion and returns its lock. [`EINTR`] if the task is killed before;
    /// [`EIO`] if the lock manager did not do what it was asked for.
    pub(crate) fn next(&self) -> Result<usize> {
        self.batch.done.wait_killable()?;
        self.take()
    }

    /// Whether somebody is told to be blocked by a lock here within so many jiffies. [`EINTR`] if
    /// the task is killed before.
    pub(crate) fn is_blocking_within(&self, jiffies: u64) -> Result<bool> {
        self.batch.blocked.wait_killable_for(jiffies)
    }

    /// Forgets blocking callbacks that have come.
    pub(crate) fn forget_blocking(&self) {
        while self.batch.blocked.take() {}
    }

    /// The first eight bytes of a lock's value block, as a number; none if it is not valid. Only
    /// while nothing is under way for the lock.
    pub(crate) fn value(&self, index: usize) -> Result<Option<u64>> {
        let slot = self.slot_in(index, Stage::Held)?;
        let lvb = self.batch.lvbs.get(index).ok_or(EINVAL)?;
        // SAFETY: nothing is under way for the lock, so both are ours.
        let (bytes, flags) = unsafe { (*lvb.0.get(), (*slot.lksb.get()).sb_flags) };
        let number = bytes.first_chunk().map(|first| u64::from_le_bytes(*first));
        Ok(number.filter(|_| flags & SBF_VALNOTVALID == 0))
    }

    /// Sets them; the conversion down writes them.
    pub(crate) fn set_value(&self, index: usize, value: u64) -> Result {
        self.slot_in(index, Stage::Held)?;
        let lvb = self.batch.lvbs.get(index).ok_or(EINVAL)?;
        // SAFETY: nothing is under way for the lock, so its value block is ours.
        let bytes = unsafe { &mut *lvb.0.get() };
        let Some(first) = bytes.first_chunk_mut() else {
            return Err(EINVAL);
        };
        *first = value.to_le_bytes();
        Ok(())
    }

    fn slot_in(&self, index: usize, stage: Stage) -> Result<&Slot> {
        let slot = self.batch.slots.get(index).ok_or(EINVAL)?;
        if slot.stage.get() == stage {
            Ok(slot)
        } else {
            Err(EBUSY)
        }
    }

    /// Makes a call. What it changes here is changed before, as it may complete before it returns.
    fn call(&self, slot: &Slot, stage: Stage, call: impl FnOnce() -> c_int) -> Result {
        let (batch, before) = (&self.batch, slot.stage.replace(stage));
        batch.outstanding.set(batch.outstanding.get() + 1);
        let result = kernel::error::to_result(call());
        if result.is_err() {
            // Not accepted: nothing has changed and no completion comes.
            slot.stage.set(before);
            batch.outstanding.set(batch.outstanding.get() - 1);
        }
        result
    }

    /// Takes the completion that a wait let pass.
    fn take(&self) -> Result<usize> {
        let batch = &self.batch;
        if batch.taken.get() == NONE {
            // Acquire: see the status blocks.
            batch
                .taken
                .set(batch.completed.swap(NONE, Ordering::Acquire));
        }
        let index = batch.taken.get() as usize;
        // Every wait that passes was preceded by a push.
        let slot = batch.slots.get(index).ok_or(EIO)?;
        batch.taken.set(slot.next.load(Ordering::Relaxed));
        batch.outstanding.set(batch.outstanding.get() - 1);
        // SAFETY: the completion has given the status block back.
        let status = unsafe { (*slot.lksb.get()).sb_status };
        let (stage, is_well) = match slot.stage.get() {
            Stage::Requested if status == 0 => (Stage::Held, true),
            Stage::Requested => (Stage::Free, false),
            Stage::Converting => (Stage::Held, status == 0),
            Stage::Unlocking if status == -EUNLOCK => (Stage::Free, true),
            Stage::Unlocking => (Stage::Held, false),
            stage @ (Stage::Free | Stage::Held) => (stage, false),
        };
        let held = batch.held.get();
        match (slot.stage.replace(stage), stage) {
            (Stage::Requested, Stage::Held) => batch.held.set(held + 1),
            (Stage::Unlocking, Stage::Free) => batch.held.set(held - 1),
            _ => {}
        }
        if is_well {
            Ok(index)
        } else {
            Err(EIO)
        }
    }

    /// Waits for what is under way and unlocks what is held, not for ever.
    fn settle(&self) {
        let limit = SETTLE_S * u64::from(bindings::HZ);
        let drain = |count: usize| {
            while self.outstanding() > count {
                if !self.batch.done.wait_for(limit) {
                    return false;
                }
                // What did not go well is not held, or will be left to the release.
                let _ = self.take();
            }
            true
        };
        if !drain(0) {
            return;
        }
        for index in 0..self.len() {
            if self.is_held(index) && (self.unlock(index).is_err() || !drain(SETTLE_WINDOW)) {
                return;
            }
        }
        drain(0);
    }
}

/// Unlocks under way at once while a command settles.
const SETTLE_WINDOW: usize = 32;

impl Drop for Locks<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.settle();
        }
        let mut batches = self.lease.0.batches.lock();
        if !self.is_kept && self.batch.is_idle() {
            batches.retain(|other| !Arc::ptr_eq(other, &self.batch));
        }
        // Under the lock, so that nobody finds what was just taken off the list.
        self.batch.is_used.store(false, Ordering::Release);
    }
}
