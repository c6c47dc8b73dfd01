// SPDX-License-Identifier: GPL-2.0-only
//! The seam under the lock manager core, user space side: what `kmod/platform.rs` takes from the
//! kernel, with the same names and signatures, over `std`.
//!
//! Every allocation asks [`fail`] first, so that a test can make the n-th one fail. Nothing here is
//! meant for anything but the core and its tests.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// Allocation failures on demand, per thread.
pub mod fail {
    use super::{AllocError, Error};
    use std::cell::Cell;

    #[derive(Clone, Copy)]
    enum Plan {
        Never,
        After(u32),
        OneIn { state: u64, chance: u32 },
    }

    thread_local! {
        static PLAN: Cell<Plan> = const { Cell::new(Plan::Never) };
        static FAILED: Cell<u64> = const { Cell::new(0) };
    }

    /// Lets `n` allocations of this thread succeed and every later one fail; `None`: none fails.
    pub fn after(n: Option<u32>) {
        PLAN.set(n.map_or(Plan::Never, Plan::After));
    }

    /// Makes about one allocation of this thread in `chance` fail, as `seed` says; 0: none.
    pub fn one_in(chance: u32, seed: u64) {
        PLAN.set(match chance {
            0 => Plan::Never,
            chance => Plan::OneIn {
                state: seed | 1,
                chance,
            },
        });
    }

    /// How many allocations of this thread were made to fail.
    pub fn count() -> u64 {
        FAILED.get()
    }

    pub(super) fn check() -> Result<(), AllocError> {
        let refused = match PLAN.get() {
            Plan::Never => false,
            Plan::After(0) => true,
            Plan::After(n) => {
                PLAN.set(Plan::After(n - 1));
                false
            }
            Plan::OneIn { mut state, chance } => {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                PLAN.set(Plan::OneIn { state, chance });
                (state >> 33) % u64::from(chance) == 0
            }
        };
        if refused {
            FAILED.set(FAILED.get() + 1);
            return Err(AllocError);
        }
        Ok(())
    }

    impl From<AllocError> for Error {
        fn from(_: AllocError) -> Self {
            super::code::ENOMEM
        }
    }
}

/// There was no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

/// An error number, negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(i32);

impl Error {
    /// The negative number.
    pub const fn to_errno(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", -self.0)
    }
}

impl std::error::Error for Error {}

/// What a fallible function answers.
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// Error numbers by name.
#[allow(missing_docs)]
pub mod code {
    use super::Error;
    pub const ENOENT: Error = Error(-2);
    pub const ESRCH: Error = Error(-3);
    pub const EINTR: Error = Error(-4);
    pub const E2BIG: Error = Error(-7);
    pub const EAGAIN: Error = Error(-11);
    pub const ENOMEM: Error = Error(-12);
    pub const EBUSY: Error = Error(-16);
    pub const EEXIST: Error = Error(-17);
    pub const ENODEV: Error = Error(-19);
    pub const EINVAL: Error = Error(-22);
    pub const EDEADLK: Error = Error(-35);
    pub const EPROTO: Error = Error(-71);
    pub const EMSGSIZE: Error = Error(-90);
    pub const ETIMEDOUT: Error = Error(-110);
}

/// How an allocation may behave.
#[derive(Clone, Copy, Debug)]
pub struct Flags(());

/// The one way in which the core allocates: it may sleep, but not call into a file system.
pub const GFP: Flags = Flags(());

/// Flags of an allocation that may wait, which none does here.
pub const GFP_MAY_WAIT: Flags = Flags(());

/// A growing array: derefs to a slice, grows only by fallible calls.
pub struct KVec<T>(Vec<T>);

/// [`KVec`] for what may get large: in the kernel it need not be contiguous memory.
pub type KVVec<T> = KVec<T>;

impl<T> KVec<T> {
    /// Empty, without memory.
    pub const fn new() -> Self {
        KVec(Vec::new())
    }

    /// Empty, with room for `n`.
    pub fn with_capacity(n: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut vec = Self::new();
        vec.reserve(n, flags)?;
        Ok(vec)
    }

    /// How many fit without more memory.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Makes room for `more`.
    pub fn reserve(&mut self, more: usize, _flags: Flags) -> Result<(), AllocError> {
        if self.0.capacity() - self.0.len() < more {
            fail::check()?;
            self.0.try_reserve(more).map_err(|_| AllocError)?;
        }
        Ok(())
    }

    /// Appends `value`.
    pub fn push(&mut self, value: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(1, flags)?;
        self.0.push(value);
        Ok(())
    }

    /// Appends `value`, or gives it back if there is no room.
    pub fn push_within_capacity(&mut self, value: T) -> Result<(), PushError<T>> {
        if self.0.len() == self.0.capacity() {
            return Err(PushError(value));
        }
        self.0.push(value);
        Ok(())
    }

    /// Takes the last one out.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Takes one out; later ones move down.
    pub fn remove(&mut self, index: usize) -> Result<T, RemoveError> {
        if index < self.0.len() {
            Ok(self.0.remove(index))
        } else {
            Err(RemoveError)
        }
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Drops all behind `len`.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Keeps those of which `keep` says so.
    pub fn retain(&mut self, mut keep: impl FnMut(&mut T) -> bool) {
        self.0.retain_mut(|value| keep(value));
    }
}

impl<T: Clone> KVec<T> {
    /// Appends a copy of `other`.
    pub fn extend_from_slice(&mut self, other: &[T], flags: Flags) -> Result<(), AllocError> {
        self.reserve(other.len(), flags)?;
        self.0.extend_from_slice(other);
        Ok(())
    }

    /// Appends `n` times `value`.
    pub fn extend_with(&mut self, n: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(n, flags)?;
        self.0.resize(self.0.len() + n, value);
        Ok(())
    }

    /// `n` times `value`.
    pub fn from_elem(value: T, n: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut vec = Self::new();
        vec.extend_with(n, value, flags)?;
        Ok(vec)
    }
}

/// [`KVec::push_within_capacity`] found no room; the value comes back.
#[derive(Debug)]
pub struct PushError<T>(pub T);

/// [`KVec::remove`] was given an index behind the end.
#[derive(Debug)]
pub struct RemoveError;

impl<T> Default for KVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for KVec<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for KVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for KVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for KVec<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T: Eq> Eq for KVec<T> {}

impl<T> IntoIterator for KVec<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a KVec<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut KVec<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

/// A value in memory of its own.
#[derive(Debug)]
pub struct KBox<T>(Box<T>);

impl<T> KBox<T> {
    /// Moves `value` there.
    pub fn new(value: T, _flags: Flags) -> Result<Self, AllocError> {
        fail::check()?;
        Ok(KBox(Box::new(value)))
    }

    /// Takes the value out.
    pub fn into_inner(this: Self) -> T {
        *this.0
    }
}

impl<T> Deref for KBox<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for KBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A value shared by counting.
#[derive(Debug)]
pub struct Arc<T>(std::sync::Arc<T>);

impl<T> Arc<T> {
    /// Moves `value` there.
    pub fn new(value: T, _flags: Flags) -> Result<Self, AllocError> {
        fail::check()?;
        Ok(Arc(std::sync::Arc::new(value)))
    }

    /// Whether both are one value.
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        std::sync::Arc::ptr_eq(&this.0, &other.0)
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        Arc(self.0.clone())
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// The mistake that is planted in this thread.
pub mod planted {
    use std::cell::Cell;

    thread_local!(static PLANTED: Cell<Option<u32>> = const { Cell::new(None) });

    /// Plants the mistake of this number, or takes the one that is planted out again.
    pub fn set(mistake: Option<u32>) {
        PLANTED.set(mistake);
    }

    pub(super) fn is(mistake: u32) -> bool {
        PLANTED.get() == Some(mistake)
    }
}

/// Whether the mistake of this number is planted.
pub fn is_planted(mistake: u32) -> bool {
    planted::is(mistake)
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The operator must act.
    Error,
    /// Odd but handled.
    Warn,
    /// Recovery begins, ends.
    Info,
    /// Decisions.
    Debug,
}

/// Where log lines of this thread go.
pub mod sink {
    use super::Level;
    use std::cell::RefCell;

    type Sink = Box<dyn FnMut(Level, &str)>;

    thread_local!(static SINK: RefCell<Option<Sink>> = const { RefCell::new(None) });

    /// Log lines of this thread go to `to` from now on; `None`: nowhere.
    pub fn set(to: Option<Sink>) {
        SINK.with(|sink| *sink.borrow_mut() = to);
    }

    pub(super) fn write(level: Level, args: std::fmt::Arguments<'_>) {
        SINK.with(|sink| {
            if let Some(sink) = &mut *sink.borrow_mut() {
                sink(level, &args.to_string());
            }
        });
    }
}

/// Writes a log line, without line end.
pub fn log(level: Level, args: fmt::Arguments<'_>) {
    sink::write(level, args);
}
