// SPDX-License-Identifier: GPL-2.0-only
//! The C interface for file systems: the eight exported symbols of `include/linux/dlm.h` and
//! `include/linux/dlm_plock.h`. The only `#[no_mangle]` functions of the module.
//!
//! Nothing is decided here. A function checks its pointers, turns them into types that can be
//! used without `unsafe` (`ffi/caller.rs` has the rule behind those that are kept), and calls
//! `lockspace.rs`.
//!
//! A lockspace created with `DLM_LSFL_SOFTIRQ` promises that its callbacks do not sleep; here they
//! run in process context like all others, which such callbacks must bear anyway.

use core::ffi::{
    c_int,
    c_uint,
    c_void, //
};

use kernel::{
    bindings,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

use crate::ffi::caller::{
    Ast,
    Bast,
    Caller,
    LockspaceOps,
    Ops, //
};
use crate::ffi::errno;
use crate::lockcore::flags::{
    LockFlags,
    CONVERT, //
};
use crate::lockspace::{
    self,
    CreateArgs,
    Lockspace, //
};
use crate::uapi::lock::{
    Lksb,
    LsFlags,
    Release,
    LOCKSPACE_NAME_MAX,
    LSFL_FS, //
};

/// `EXPORT_SYMBOL_GPL()`: what `___EXPORT_SYMBOL()` of `include/linux/export.h` emits.
///
/// modpost finds the label, takes the licence and the (empty) name space that follow it, and the
/// relocation of the `.quad` as the exported symbol.
macro_rules! export_symbol_gpl {
    ($($symbol:ident),+ $(,)?) => { $(
        // A misspelt name fails here and not in modpost.
        const _: *const () = $symbol as *const ();
        ::core::arch::global_asm!(concat!(
            ".section \".export_symbol\",\"a\"\n",
            "__export_symbol_", stringify!($symbol), ":\n",
            "    .asciz \"GPL\"\n",
            "    .asciz \"\"\n",
            "    .balign 8\n",
            "    .quad ", stringify!($symbol), "\n",
            ".previous\n",
        ));
    )+ };
}

export_symbol_gpl!(
    dlm_new_lockspace,
    dlm_release_lockspace,
    dlm_lock,
    dlm_unlock,
    dlm_posix_lock,
    dlm_posix_unlock,
    dlm_posix_cancel,
    dlm_posix_get,
);

fn returned(result: Result<c_int>) -> c_int {
    match result {
        Ok(value) => value,
        Err(e) => e.to_errno(),
    }
}

/// A string of C, at most `max` bytes long.
///
/// # Safety
///
/// `string` must be null or end with a zero byte.
unsafe fn bytes_of<'a>(string: *const kernel::ffi::c_char, max: usize) -> Result<&'a [u8]> {
    if string.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: by the rule of this function.
    let bytes = unsafe { CStr::from_char_ptr(string) }.to_bytes();
    if bytes.len() > max {
        return Err(EINVAL);
    }
    Ok(bytes)
}

/// The lockspace behind a handle.
///
/// # Safety
///
/// `handle` must be null or from `dlm_new_lockspace()` and not released before `'a` ends.
unsafe fn lockspace_of<'a>(handle: *mut c_void) -> Result<ArcBorrow<'a, Lockspace>> {
    if handle.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: every handle is an `Arc::into_raw()`, whose reference goes with the release.
    Ok(unsafe { ArcBorrow::from_raw(handle.cast::<Lockspace>().cast_const()) })
}

/// Joins a lockspace; see `dlm_new_lockspace()` in `include/linux/dlm.h`.
///
/// # Safety
///
/// `name` and `cluster` are strings or null, `ops` with `ops_arg` may be called until the release
/// of the lockspace, `ops_result` may be written or is null, `lockspace` may be written.
#[no_mangle]
pub(crate) unsafe extern "C" fn dlm_new_lockspace(
    name: *const kernel::ffi::c_char,
    cluster: *const kernel::ffi::c_char,
    flags: u32,
    lvblen: c_int,
    ops: *const LockspaceOps,
    ops_arg: *mut c_void,
    ops_result: *mut c_int,
    lockspace: *mut *mut c_void,
) -> c_int {
    let create = || -> Result<c_int> {
        if lockspace.is_null() {
            return Err(EINVAL);
        }
        // SAFETY: the caller's strings, used during this call only.
        let name = unsafe { bytes_of(name, LOCKSPACE_NAME_MAX) }?;
        let cluster = if cluster.is_null() {
            None
        } else {
            // SAFETY: as above.
            Some(unsafe { bytes_of(cluster, usize::MAX) }?)
        };
        let ops = if ops.is_null() || ops_result.is_null() {
            None
        } else {
            // SAFETY: the caller passes a table to read.
            let table = unsafe { *ops };
            // SAFETY: the caller promises what `Ops` wants.
            Some(unsafe { Ops::new(table, ops_arg) })
        };
        if !ops_result.is_null() {
            // SAFETY: the caller passes a place to write to.
            unsafe { *ops_result = 0 };
        }
        let created = lockspace::create(CreateArgs {
            name,
            cluster,
            flags: LsFlags::from_raw(flags).with(LSFL_FS),
            lvblen: u32::try_from(lvblen).map_err(|_| EINVAL)?,
            ops,
            device: false,
        })?;
        if !created.ops_used && !ops_result.is_null() {
            // The first creator's are used. Saying so makes the second one do without.
            // SAFETY: as above.
            unsafe { *ops_result = errno::EOPNOTSUPP.to_errno() };
        }
        // SAFETY: not null.
        unsafe { *lockspace = Arc::into_raw(created.lockspace).cast_mut().cast() };
        Ok(0)
    };
    returned(create())
}

/// Leaves a lockspace; see `dlm_release_lockspace()` in `include/linux/dlm.h`.
///
/// # Safety
///
/// `lockspace` must be from `dlm_new_lockspace()`. If 0 is returned it must not be used any more.
#[no_mangle]
pub(crate) unsafe extern "C" fn dlm_release_lockspace(
    lockspace: *mut c_void,
    release_option: c_uint,
) -> c_int {
    let release = || -> Result<c_int> {
        let option = Release::from_raw(release_option).ok_or(EINVAL)?;
        // SAFETY: by the rule of this function.
        let borrowed: Arc<Lockspace> = unsafe { lockspace_of(lockspace) }?.into();
        let left = borrowed.release(option)?;
        // The reference of one dlm_new_lockspace() goes.
        // SAFETY: from `Arc::into_raw()` there; each successful release drops one.
        drop(unsafe { Arc::from_raw(lockspace.cast::<Lockspace>().cast_const()) });
        Ok(left as c_int)
    };
    returned(release())
}

/// Requests or converts a lock; see `dlm_lock()` in `include/linux/dlm.h`.
///
/// # Safety
///
/// `lockspace` is from `dlm_new_lockspace()`, `name` has `namelen` bytes, and `lksb` with the value
/// block it points to, `ast`, `bast` and `astarg` are as [`Caller`] wants them.
#[no_mangle]
pub(crate) unsafe extern "C" fn dlm_lock(
    lockspace: *mut c_void,
    mode: c_int,
    lksb: *mut Lksb,
    flags: u32,
    name: *const c_void,
    namelen: c_uint,
    _parent_lkid: u32,
    ast: Option<Ast>,
    astarg: *mut c_void,
    bast: Option<Bast>,
) -> c_int {
    let lock = || -> Result<c_int> {
        // SAFETY: by the rule of this function.
        let ls = unsafe { lockspace_of(lockspace) }?;
        let (Some(ast), false) = (ast, lksb.is_null()) else {
            return Err(EINVAL);
        };
        // SAFETY: not null, and the caller lets us read it.
        let (lkid, lvb) = unsafe { ((*lksb).sb_lkid, (*lksb).sb_lvbptr) };
        // SAFETY: the caller promises what `Caller` wants.
        let caller = unsafe { Caller::new(lksb, lvb, ast, bast, astarg) };
        let flags = LockFlags::from_raw(flags);
        if flags.has(CONVERT) {
            ls.convert(lkid, mode, flags, caller)?;
        } else {
            let name = if name.is_null() {
                &[]
            } else {
                // SAFETY: the caller passes a name of this length.
                unsafe { core::slice::from_raw_parts(name.cast::<u8>(), namelen as usize) }
            };
            ls.request(name, mode, flags, caller)?;
        }
        Ok(0)
    };
    returned(lock())
}

/// Unlocks or cancels; see `dlm_unlock()` in `include/linux/dlm.h`. `lksb` is not used.
///
/// # Safety
///
/// `lockspace` is from `dlm_new_lockspace()`, and the callbacks of the lock's last `dlm_lock()` may
/// be called with `astarg`.
#[no_mangle]
pub(crate) unsafe extern "C" fn dlm_unlock(
    lockspace: *mut c_void,
    lkid: u32,
    flags: u32,
    _lksb: *mut Lksb,
    astarg: *mut c_void,
) -> c_int {
    let unlock = || -> Result<c_int> {
        // SAFETY: by the rule of this function.
        let ls = unsafe { lockspace_of(lockspace) }?;
        ls.unlock(lkid, LockFlags::from_raw(flags), astarg)?;
        Ok(0)
    };
    returned(unlock())
}

macro_rules! posix {
    ($($(#[doc = $doc:literal])+ fn $name:ident($($arg:ident: $type:ty),*);)+) => { $(
        $(#[doc = $doc])+
        ///
        /// POSIX locks are not implemented yet: `-EOPNOTSUPP`, always, which a file system hands
        /// to the program; mounted with `localflocks` it never calls here.
        ///
        /// # Safety
        ///
        /// None of the pointers is used.
        #[no_mangle]
        pub(crate) unsafe extern "C" fn $name(
            _lockspace: *mut c_void,
            _number: u64,
            _file: *mut bindings::file,
            $($arg: $type),*
        ) -> c_int {
            errno::EOPNOTSUPP.to_errno()
        }
    )+ };
}

posix! {
    /// `dlm_posix_lock()` of `include/linux/dlm_plock.h`.
    fn dlm_posix_lock(_cmd: c_int, _fl: *mut bindings::file_lock);
    /// `dlm_posix_unlock()` of `include/linux/dlm_plock.h`.
    fn dlm_posix_unlock(_fl: *mut bindings::file_lock);
    /// `dlm_posix_cancel()` of `include/linux/dlm_plock.h`.
    fn dlm_posix_cancel(_fl: *mut bindings::file_lock);
    /// `dlm_posix_get()` of `include/linux/dlm_plock.h`.
    fn dlm_posix_get(_fl: *mut bindings::file_lock);
}
