// SPDX-License-Identifier: GPL-2.0-only
//! TCP sockets of the initial network namespace (`include/linux/net.h`, `include/net/sock.h`).
//!
//! Nothing here waits: connecting, accepting, sending and receiving do what they can at once. When
//! there is more to do, the [`Events`] that watch the socket are told, from a context that must not
//! sleep.

use core::{
    mem::ManuallyDrop,
    ptr, //
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc,
        ArcBorrow, //
    }, //
};

use super::own;

/// Connections that may wait to be accepted.
const BACKLOG: c_int = 128;

/// An internet address without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// IPv4, in network order.
    V4([u8; 4]),
    /// IPv6, in network order.
    V6([u8; 16]),
}

impl Address {
    /// From 4 or 16 bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        match bytes.len() {
            4 => bytes.try_into().ok().map(Self::V4),
            16 => bytes.try_into().ok().map(Self::V6),
            _ => None,
        }
    }

    /// Its 4 or 16 bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::V4(bytes) => bytes,
            Self::V6(bytes) => bytes,
        }
    }

    /// An IPv4 address that came in the IPv6 form is the IPv4 address.
    fn plain(self) -> Self {
        match self {
            Self::V6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]) => {
                Self::V4([a, b, c, d])
            }
            Self::V4(_) | Self::V6(_) => self,
        }
    }

    fn family(&self) -> u32 {
        match self {
            Self::V4(_) => bindings::AF_INET,
            Self::V6(_) => bindings::AF_INET6,
        }
    }
}

impl kernel::fmt::Display for Address {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        match self {
            Self::V4([a, b, c, d]) => write!(f, "{a}.{b}.{c}.{d}"),
            Self::V6(bytes) => {
                for (i, pair) in bytes.chunks_exact(2).enumerate() {
                    let colon = if i == 0 { "" } else { ":" };
                    let value = u16::from(pair[0]) << 8 | u16::from(pair[1]);
                    write!(f, "{colon}{value:x}")?;
                }
                Ok(())
            }
        }
    }
}

/// A socket address as C has it, with room for every family.
struct Raw(bindings::__kernel_sockaddr_storage);

impl Raw {
    fn empty() -> Self {
        Self(Default::default())
    }

    fn new(address: &Address, port: u16) -> (Self, c_int) {
        let mut raw = Self::empty();
        let len = match address {
            Address::V4(bytes) => {
                let mut v4 = own::sockaddr_in {
                    sin_family: bindings::AF_INET as u16,
                    sin_port: port.to_be(),
                    ..Default::default()
                };
                v4.sin_addr.s_addr = u32::from_ne_bytes(*bytes);
                // SAFETY: the storage is large and aligned enough for every address.
                unsafe {
                    ptr::addr_of_mut!(raw.0)
                        .cast::<own::sockaddr_in>()
                        .write(v4)
                };
                size_of::<own::sockaddr_in>()
            }
            Address::V6(bytes) => {
                let mut v6 = own::sockaddr_in6 {
                    sin6_family: bindings::AF_INET6 as u16,
                    sin6_port: port.to_be(),
                    ..Default::default()
                };
                v6.sin6_addr.in6_u.u6_addr8 = *bytes;
                // SAFETY: as above.
                unsafe {
                    ptr::addr_of_mut!(raw.0)
                        .cast::<own::sockaddr_in6>()
                        .write(v6)
                };
                size_of::<own::sockaddr_in6>()
            }
        };
        (raw, len as c_int)
    }

    fn address(&self) -> Result<Address> {
        let raw = ptr::addr_of!(self.0);
        // SAFETY: both forms begin with the family.
        let family = u32::from(unsafe { (*raw.cast::<own::sockaddr_in>()).sin_family });
        if family == bindings::AF_INET {
            // SAFETY: it is of this family, and the storage has the alignment.
            let s_addr = unsafe { (*raw.cast::<own::sockaddr_in>()).sin_addr.s_addr };
            Ok(Address::V4(s_addr.to_ne_bytes()))
        } else if family == bindings::AF_INET6 {
            // SAFETY: it is of this family; every byte pattern is an address.
            let bytes = unsafe { (*raw.cast::<own::sockaddr_in6>()).sin6_addr.in6_u.u6_addr8 };
            Ok(Address::V6(bytes).plain())
        } else {
            Err(EINVAL)
        }
    }

    fn as_mut_ptr(&mut self) -> *mut bindings::sockaddr_unsized {
        ptr::addr_of_mut!(self.0).cast()
    }
}

/// State of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connection {
    /// On its way.
    Connecting,
    /// Both directions work, or the peer has closed its own.
    Established,
    /// Broken or closed.
    Closed,
}

/// A TCP socket that is released when dropped.
///
/// A connection is then reset, unless it was to [`Socket::end_in_order`]. In-tree nodes take an
/// orderly end for proof that everything they sent was read, and send nothing of it again; after a
/// reset they do (`lowcomms_error_report`).
///
/// # Invariants
///
/// The pointer is a socket that nobody else releases, with its `sk`.
pub(crate) struct Socket {
    raw: *mut bindings::socket,
    ends_in_order: Atomic<bool>,
}

// SAFETY: the calls used here lock the socket themselves.
unsafe impl Send for Socket {}
// SAFETY: as above.
unsafe impl Sync for Socket {}

impl Socket {
    fn new(family: u32) -> Result<Self> {
        let mut socket = ptr::null_mut();
        // SAFETY: `init_net` always exists; `socket` is written to.
        to_result(unsafe {
            bindings::sock_create_kern(
                ptr::addr_of_mut!(bindings::init_net),
                family as c_int,
                bindings::sock_type_SOCK_STREAM as c_int,
                own::IPPROTO_TCP as c_int,
                &mut socket,
            )
        })?;
        // INVARIANT: just made.
        Ok(Self::prepared(socket))
    }

    /// What every connection needs.
    fn prepared(raw: *mut bindings::socket) -> Self {
        let this = Self {
            raw,
            ends_in_order: Atomic::new(false),
        };
        let sk = this.sk();
        // SAFETY: the socket is ours. It is used where memory must not be had by file system work,
        // also from work items, whose fragment cache is of their task: not to be used.
        unsafe {
            own::tcp_sock_set_nodelay(sk);
            (*sk).sk_allocation = own::own_gfp_noio();
            (*sk).sk_use_task_frag = false;
        }
        this
    }

    /// When it is dropped, what was sent still arrives, and then the connection ends in order: the
    /// two ends have nothing more to say to each other.
    pub(crate) fn end_in_order(&self) {
        self.ends_in_order.store(true, ordering::Relaxed);
    }

    /// Listens on `address`.
    pub(crate) fn listen(address: &Address, port: u16) -> Result<Self> {
        let this = Self::new(address.family())?;
        // SAFETY: the socket is ours.
        unsafe { own::sock_set_reuseaddr(this.sk()) };
        this.bind(address, port)?;
        // SAFETY: as above.
        to_result(unsafe { bindings::kernel_listen(this.raw, BACKLOG) })?;
        Ok(this)
    }

    /// Begins to connect; [`Events::event`] tells when that ended, [`Socket::state`] how.
    pub(crate) fn connect(from: &Address, to: &Address, port: u16) -> Result<Self> {
        let this = Self::new(to.family())?;
        this.bind(from, 0)?;
        let (mut raw, len) = Raw::new(to, port);
        let flags = bindings::O_NONBLOCK as c_int;
        // SAFETY: `raw` is an address of `len` bytes.
        let done = unsafe { bindings::kernel_connect(this.raw, raw.as_mut_ptr(), len, flags) };
        if done != -(bindings::EINPROGRESS as c_int) {
            to_result(done)?;
        }
        Ok(this)
    }

    fn bind(&self, address: &Address, port: u16) -> Result {
        let (mut raw, len) = Raw::new(address, port);
        // SAFETY: `raw` is an address of `len` bytes.
        to_result(unsafe { bindings::kernel_bind(self.raw, raw.as_mut_ptr(), len) })
    }

    /// See [`Watched::accept`].
    fn accept(&self) -> Result<Self> {
        let mut socket = ptr::null_mut();
        let flags = bindings::O_NONBLOCK as c_int;
        // SAFETY: the socket is ours; the new one is written to `socket`.
        to_result(unsafe { bindings::kernel_accept(self.raw, &mut socket, flags) })?;
        // INVARIANT: just made.
        Ok(Self::prepared(socket))
    }

    /// The other end.
    pub(crate) fn peer(&self) -> Result<Address> {
        let mut raw = Raw::empty();
        // SAFETY: the storage has room for every address.
        let len = unsafe { own::kernel_getpeername(self.raw, ptr::addr_of_mut!(raw.0).cast()) };
        if len < 0 {
            return Err(Error::from_errno(len));
        }
        raw.address()
    }

    /// State of the connection.
    pub(crate) fn state(&self) -> Connection {
        // SAFETY: the socket is ours.
        match unsafe { own::own_sk_state(self.sk()) } as u32 {
            own::TCP_ESTABLISHED | own::TCP_CLOSE_WAIT => Connection::Established,
            own::TCP_SYN_SENT | own::TCP_SYN_RECV => Connection::Connecting,
            _other => Connection::Closed,
        }
    }

    /// How often in a row the oldest data was repeated because the other machine is silent.
    pub(crate) fn retransmits(&self) -> u32 {
        // SAFETY: the socket is ours, and of TCP.
        unsafe { own::own_tcp_retransmits(self.sk()) }
    }

    /// Sends what fits; [`EAGAIN`] if nothing does, and [`Event::Space`] follows.
    pub(crate) fn send(&self, bytes: &[u8]) -> Result<usize> {
        let mut message = bindings::msghdr {
            msg_flags: bindings::MSG_NOSIGNAL | bindings::MSG_DONTWAIT,
            ..Default::default()
        };
        let mut vector = bindings::kvec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let len = bytes.len();
        // SAFETY: the vector covers `bytes`, which is only read.
        let sent = unsafe { bindings::kernel_sendmsg(self.raw, &mut message, &mut vector, 1, len) };
        usize::try_from(sent).map_err(|_| Error::from_errno(sent))
    }

    /// Receives what is there; 0: the peer has closed; [`EAGAIN`] if there is nothing.
    pub(crate) fn receive(&self, to: &mut [u8]) -> Result<usize> {
        let mut message = bindings::msghdr::default();
        let mut vector = bindings::kvec {
            iov_base: to.as_mut_ptr().cast(),
            iov_len: to.len(),
        };
        let flags = (bindings::MSG_DONTWAIT | bindings::MSG_NOSIGNAL) as c_int;
        // SAFETY: the vector covers `to`.
        let got = unsafe {
            bindings::kernel_recvmsg(self.raw, &mut message, &mut vector, 1, to.len(), flags)
        };
        usize::try_from(got).map_err(|_| Error::from_errno(got))
    }

    fn sk(&self) -> *mut own::sock {
        // SAFETY: by the invariants.
        unsafe { (*self.raw).sk.cast() }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !self.ends_in_order.load(ordering::Relaxed) {
            // SAFETY: the socket is ours.
            unsafe { own::sock_no_linger(self.sk()) };
        }
        // SAFETY: by the invariants.
        unsafe { bindings::sock_release(self.raw) };
    }
}

/// What happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// There is something to receive or to accept.
    Data,
    /// There is room to send.
    Space,
    /// The connection was made or broke.
    State,
}

/// Who is told what happens to a socket.
pub(crate) trait Events: Send + Sync + 'static {
    /// Something happened. Must not sleep, and must not take locks that are held where sockets are
    /// used: queue work.
    fn event(this: ArcBorrow<'_, Self>, event: Event);
}

type Callback = Option<unsafe extern "C" fn(*mut own::sock)>;

/// The callbacks a socket was made with.
#[derive(Clone, Copy)]
struct Callbacks {
    data_ready: Callback,
    write_space: Callback,
    state_change: Callback,
}

impl Callbacks {
    /// # Safety
    ///
    /// `sk` must be a socket whose callbacks nobody changes meanwhile.
    unsafe fn of(sk: *mut own::sock) -> Self {
        // SAFETY: by the rule of this function.
        unsafe {
            Self {
                data_ready: (*sk).sk_data_ready,
                write_space: (*sk).sk_write_space,
                state_change: (*sk).sk_state_change,
            }
        }
    }

    /// # Safety
    ///
    /// The caller must hold the callback lock of `sk`.
    unsafe fn install(self, sk: *mut own::sock) {
        // SAFETY: by the rule of this function.
        unsafe {
            (*sk).sk_data_ready = self.data_ready;
            (*sk).sk_write_space = self.write_space;
            (*sk).sk_state_change = self.state_change;
        }
    }
}

/// A socket with somebody who watches it; released when dropped, and then nobody is told any more.
///
/// # Invariants
///
/// The user data of the socket owns a reference to an `E`, and its callbacks are those of this
/// file. `before` are the callbacks it was made with.
pub(crate) struct Watched<E: Events> {
    socket: ManuallyDrop<Socket>,
    before: Callbacks,
    events: core::marker::PhantomData<Arc<E>>,
}

impl<E: Events> Watched<E> {
    /// Watches `socket`. What came before is not told: look once afterwards.
    pub(crate) fn new(socket: Socket, events: Arc<E>) -> Self {
        let sk = socket.sk();
        // SAFETY: nobody else has the socket.
        let before = unsafe { Callbacks::of(sk) };
        let callbacks = Callbacks {
            data_ready: Some(data_ready::<E>),
            write_space: Some(write_space::<E>),
            state_change: Some(state_change::<E>),
        };
        let data = Arc::into_raw(events).cast_mut();
        // SAFETY: under the lock no callback runs; the user data takes the reference over.
        unsafe {
            own::own_sk_callbacks_lock(sk);
            own::own_sk_set_user_data(sk, data.cast());
            callbacks.install(sk);
            own::own_sk_callbacks_unlock(sk);
        }
        // INVARIANT: as above.
        Self {
            socket: ManuallyDrop::new(socket),
            before,
            events: core::marker::PhantomData,
        }
    }
}

impl<E: Events> Watched<E> {
    /// A connection that waits to be accepted, watched by nobody; [`EAGAIN`] if there is none.
    pub(crate) fn accept(&self) -> Result<Socket> {
        let socket = self.socket.accept()?;
        let sk = socket.sk();
        // It began with the callbacks of its listener, which would find nobody to tell.
        // SAFETY: under the lock no callback runs.
        unsafe {
            own::own_sk_callbacks_lock(sk);
            self.before.install(sk);
            own::own_sk_callbacks_unlock(sk);
        }
        Ok(socket)
    }
}

impl<E: Events> core::ops::Deref for Watched<E> {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl<E: Events> Drop for Watched<E> {
    fn drop(&mut self) {
        let sk = self.socket.sk();
        // SAFETY: under the lock no callback runs; afterwards none of ours begins.
        let data = unsafe {
            own::own_sk_callbacks_lock(sk);
            let data = own::own_sk_user_data(sk);
            own::own_sk_set_user_data(sk, ptr::null_mut());
            self.before.install(sk);
            own::own_sk_callbacks_unlock(sk);
            data
        };
        // SAFETY: taken out once, here.
        unsafe { ManuallyDrop::drop(&mut self.socket) };
        // SAFETY: by the invariants; nobody reads the user data any more.
        drop(unsafe { Arc::from_raw(data.cast::<E>().cast_const()) });
    }
}

/// Tells who watches `sk`.
///
/// # Safety
///
/// `sk` must be a socket with the callbacks of this file for `E`, or one that it accepted.
unsafe fn tell<E: Events>(sk: *mut own::sock, event: Event) {
    // SAFETY: shared with other callbacks; who changes the user data takes it alone.
    unsafe { own::own_sk_callbacks_read_lock(sk) };
    // SAFETY: as above.
    let data = unsafe { own::own_sk_user_data(sk) };
    if !data.is_null() {
        // SAFETY: the user data owns a reference, which stays while the lock is held.
        let watcher = unsafe { ArcBorrow::from_raw(data.cast::<E>().cast_const()) };
        E::event(watcher, event);
    }
    // SAFETY: taken above.
    unsafe { own::own_sk_callbacks_read_unlock(sk) };
}

/// # Safety
///
/// Only for sockets of a `Watched<E>`.
unsafe extern "C" fn data_ready<E: Events>(sk: *mut own::sock) {
    // SAFETY: by the rule of this function.
    unsafe { tell::<E>(sk, Event::Data) };
}

/// # Safety
///
/// Only for sockets of a `Watched<E>`.
unsafe extern "C" fn write_space<E: Events>(sk: *mut own::sock) {
    // SAFETY: by the rule of this function. Before telling: who tries again sets it again.
    unsafe { own::own_sk_clear_nospace(sk) };
    // SAFETY: as above.
    unsafe { tell::<E>(sk, Event::Space) };
}

/// # Safety
///
/// Only for sockets of a `Watched<E>`.
unsafe extern "C" fn state_change<E: Events>(sk: *mut own::sock) {
    // SAFETY: by the rule of this function.
    unsafe { tell::<E>(sk, Event::State) };
}
