// SPDX-License-Identifier: GPL-2.0-only
//! Misc devices (`include/linux/miscdevice.h`) with names made at run time.
//!
//! `kernel::miscdevice` has neither `poll` nor run-time names, and its `file_operations` have no
//! owner, so that a module can be unloaded under an open file. Here a type that implements
//! [`FileOps`] is one open file; [`Misc`] is the registered device. An open file keeps working
//! after its device is gone: it holds whatever it took in [`FileOps::open`].

use core::marker::PhantomData;
use core::ptr;

use kernel::{
    bindings,
    error::to_result,
    fs::File,
    prelude::*,
    str::CString,
    sync::{
        poll::PollTable,
        Arc,
        ArcBorrow, //
    },
    types::Opaque,
    uaccess::{
        UserPtr,
        UserSlice,
        UserSliceReader,
        UserSliceWriter, //
    }, //
};

/// One open file of a device.
pub(crate) trait FileOps: Sized + Send + Sync + 'static {
    /// What the device is registered with.
    type Device: Send + Sync + 'static;

    /// A program opens the device.
    fn open(device: &Self::Device) -> Result<Arc<Self>>;

    /// The last descriptor of the file is closed.
    fn release(this: Arc<Self>) {
        drop(this);
    }

    /// The program reads with a buffer of `len` bytes.
    fn read(
        _this: ArcBorrow<'_, Self>,
        _file: &File,
        _to: &mut UserSliceWriter,
        _len: usize,
    ) -> Result<usize> {
        Err(EINVAL)
    }

    /// The program writes `len` bytes.
    fn write(_this: ArcBorrow<'_, Self>, _from: UserSliceReader, _len: usize) -> Result<usize> {
        Err(EINVAL)
    }

    /// Whether `poll` does anything; without, a file counts as always ready.
    const POLLS: bool = false;

    /// The program asks what it could do without waiting.
    fn poll(_this: ArcBorrow<'_, Self>, _file: &File, _table: PollTable<'_>) -> u32 {
        0
    }
}

/// A registered device; dropping it takes the device away, open files stay.
pub(crate) struct Misc<T: FileOps>(Pin<KBox<Inner<T>>>);

/// # Invariants
///
/// `misc` is registered from the end of [`Misc::register`] to `drop`, with `name` and the
/// operations of `T`.
#[pin_data]
struct Inner<T: FileOps> {
    #[pin]
    misc: Opaque<bindings::miscdevice>,
    name: CString,
    device: T::Device,
    file: PhantomData<T>,
}

// SAFETY: `misc` is only touched by misc_register(), misc_deregister() and at open, which the misc
// core serialises; everything else is Send.
unsafe impl<T: FileOps> Send for Inner<T> {}
// SAFETY: as for `Send`.
unsafe impl<T: FileOps> Sync for Inner<T> {}

impl<T: FileOps> Misc<T> {
    /// Registers `/dev/<name>`.
    pub(crate) fn register(name: CString, device: T::Device) -> Result<Self> {
        let inner = KBox::pin_init(
            pin_init!(Inner {
                misc: Opaque::zeroed(),
                name,
                device,
                file: PhantomData,
            }),
            GFP_KERNEL,
        )?;
        let misc = inner.misc.get();
        // SAFETY: nobody else knows `misc` before it is registered. `name` and `misc` live until
        // `drop` has taken the device away.
        to_result(unsafe {
            (*misc).minor = bindings::MISC_DYNAMIC_MINOR as c_int;
            (*misc).name = inner.name.as_char_ptr();
            (*misc).fops = &Table::<T>::FOPS;
            bindings::misc_register(misc)
        })?;
        Ok(Self(inner))
    }

    /// Minor number the device got.
    pub(crate) fn minor(&self) -> u32 {
        // SAFETY: set by misc_register() and not changed afterwards.
        (unsafe { (*self.0.misc.get()).minor }) as u32
    }
}

impl<T: FileOps> Drop for Misc<T> {
    fn drop(&mut self) {
        // SAFETY: registered by `register`. After this no open() of the device begins.
        unsafe { bindings::misc_deregister(self.0.misc.get()) };
    }
}

struct Table<T: FileOps>(PhantomData<T>);

impl<T: FileOps> Table<T> {
    #[allow(clippy::needless_update)] // Which fields there are is up to the configuration.
    const FOPS: bindings::file_operations = bindings::file_operations {
        owner: ptr::addr_of!(bindings::__this_module).cast_mut(),
        open: Some(open::<T>),
        release: Some(release::<T>),
        read: Some(read::<T>),
        write: Some(write::<T>),
        poll: if T::POLLS { Some(poll::<T>) } else { None },
        llseek: Some(bindings::noop_llseek),
        ..pin_init::zeroed()
    };
}

/// Result of a read or write as the VFS wants it.
fn count(result: Result<usize>) -> isize {
    match result {
        Ok(n) => n as isize,
        Err(e) => e.to_errno() as isize,
    }
}

/// The open file behind `file`.
///
/// # Safety
///
/// `file` must be an open file of a device of `T`, for as long as `'a`.
unsafe fn opened<'a, T: FileOps>(file: *mut bindings::file) -> ArcBorrow<'a, T> {
    // SAFETY: `private_data` is what `open` stored; the reference is dropped only in `release`.
    unsafe { ArcBorrow::from_raw((*file).private_data.cast::<T>().cast_const()) }
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn open<T: FileOps>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: misc_open() put the `struct miscdevice` into `private_data` and holds misc_mtx, so
    // the device is registered, and so the `Inner` around it is alive.
    let inner = unsafe {
        let misc: *mut Opaque<bindings::miscdevice> = (*file).private_data.cast();
        &*kernel::container_of!(misc, Inner<T>, misc)
    };
    match T::open(&inner.device) {
        Ok(this) => {
            // SAFETY: the file is ours until it is released.
            unsafe { (*file).private_data = Arc::into_raw(this).cast_mut().cast() };
            0
        }
        Err(e) => e.to_errno(),
    }
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn release<T: FileOps>(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: the reference of `open`; nobody uses the file any more.
    T::release(unsafe { Arc::from_raw((*file).private_data.cast::<T>().cast_const()) });
    0
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn read<T: FileOps>(
    file: *mut bindings::file,
    buf: *mut c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    let mut to = UserSlice::new(UserPtr::from_ptr(buf.cast()), len).writer();
    // SAFETY: the VFS calls with an open file of `T` for the time of the call.
    let this = unsafe { opened::<T>(file) };
    // SAFETY: as above, and no fdget_pos region is open here.
    let file = unsafe { File::from_raw_file(file) };
    count(T::read(this, file, &mut to, len))
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn write<T: FileOps>(
    file: *mut bindings::file,
    buf: *const c_char,
    len: usize,
    _pos: *mut bindings::loff_t,
) -> isize {
    let from = UserSlice::new(UserPtr::from_ptr(buf.cast_mut().cast()), len).reader();
    // SAFETY: the VFS calls with an open file of `T` for the time of the call.
    let this = unsafe { opened::<T>(file) };
    count(T::write(this, from, len))
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn poll<T: FileOps>(
    file: *mut bindings::file,
    table: *mut bindings::poll_table_struct,
) -> bindings::__poll_t {
    // SAFETY: the VFS passes a valid or null table.
    let table = unsafe { PollTable::from_raw(table) };
    // SAFETY: the VFS calls with an open file of `T` for the time of the call.
    let this = unsafe { opened::<T>(file) };
    // SAFETY: as above, and no fdget_pos region is open here.
    let file = unsafe { File::from_raw_file(file) };
    T::poll(this, file, table)
}
