// SPDX-License-Identifier: GPL-2.0-only
//! A generic netlink family (`include/net/genetlink.h`) of the initial network namespace.
//!
//! [`Family`] registers the commands of a [`Handler`] and tells it when a socket of generic netlink
//! is closed. A handler sees requests as attribute lists and answers with one; what is wrong with a
//! request goes back as text with the attribute it is about ([`Refusal`]).

use core::{
    marker::PhantomData,
    ptr, //
};

use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    str::CStr,
    types::Opaque, //
};

use super::global::global_mutex;
use super::own;
use crate::uapi::netlink::attributes::{
    Attributes,
    Writer, //
};
use crate::uapi::netlink::{
    Attr,
    Command,
    Kind,
    MemberAttr,
    Policy, //
};

/// Room for the attributes of one reply or notification.
const REPLY_MAX: usize = 7 * 1024;

const ATTR_COUNT: usize = Attr::ALL.len() + 1;
const MEMBER_COUNT: usize = MemberAttr::ALL.len() + 1;
const COMMAND_COUNT: usize = Command::ALL.len();

/// A request as a handler sees it.
pub(crate) struct Request<'a> {
    /// The socket it came from, as long as that is open.
    pub(crate) port: u32,
    /// What it asks for.
    pub(crate) command: Command,
    /// Its attributes, of which the lengths were checked.
    pub(crate) attributes: Attributes<'a>,
}

/// Why a request is refused.
#[derive(Clone, Copy)]
pub(crate) struct Refusal {
    /// The errno of the answer.
    pub(crate) error: Error,
    /// What is wrong, for people.
    pub(crate) text: &'static CStr,
    /// The attribute it is about, present or missing.
    pub(crate) attribute: Option<Attr>,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self {
            error,
            text: c"",
            attribute: None,
        }
    }
}

/// What a dump has at an index.
pub(crate) enum Entry {
    /// An entry was written.
    Written,
    /// There are no more.
    End,
}

/// Who answers the commands of a family.
pub(crate) trait Handler: 'static {
    /// Answers a request. True: what was written to `reply` is sent.
    fn request(request: &Request<'_>, reply: &mut Writer<'_>) -> Result<bool, Refusal>;

    /// Writes the entry number `index` of a dump.
    fn dump(command: Command, index: usize, entry: &mut Writer<'_>) -> Result<Entry>;

    /// The socket behind `port` was closed. May not wait for requests.
    fn closed(port: u32);
}

/// Tables that the family points to.
struct Tables {
    members: [own::nla_policy; MEMBER_COUNT],
    attributes: [own::nla_policy; ATTR_COUNT],
    operations: [own::genl_ops; COMMAND_COUNT],
    groups: [own::genl_multicast_group; 1],
}

/// A registered family; dropping it waits for requests on their way and unregisters it.
///
/// # Invariants
///
/// `family` is registered and points into `tables`; `notifier` is registered.
pub(crate) struct Family<H: Handler> {
    family: KBox<Opaque<own::genl_family>>,
    notifier: KBox<Opaque<bindings::notifier_block>>,
    _tables: KBox<Opaque<Tables>>,
    handler: PhantomData<H>,
}

// SAFETY: after registration only the netlink core touches what is behind the boxes.
unsafe impl<H: Handler> Send for Family<H> {}
// SAFETY: as above.
unsafe impl<H: Handler> Sync for Family<H> {}

/// The registered family, for notifications.
struct Registered(*const own::genl_family);
// SAFETY: the netlink core may be given the pointer from any task.
unsafe impl Send for Registered {}

global_mutex! {
    /// The family that notifications are of; held while one is sent, so that the family stays.
    static REGISTERED: Option<Registered> = None;
    /// Makes notifications possible.
    fn init;
}

impl<H: Handler> Family<H> {
    /// Registers the family with its commands and its multicast group.
    pub(crate) fn register(name: &str, version: u32, group: &str) -> Result<Self> {
        init();
        // SAFETY: zero is a valid value of all fields: numbers, NULL and None.
        let tables = KBox::new(Opaque::new(unsafe { core::mem::zeroed() }), GFP_KERNEL)?;
        // SAFETY: nobody else knows the tables yet.
        fill_tables::<H>(unsafe { &mut *tables.get() }, group);
        // SAFETY: zero is a valid value of all fields.
        let family = KBox::new(Opaque::new(unsafe { core::mem::zeroed() }), GFP_KERNEL)?;
        // SAFETY: nobody else knows the family or the tables yet; the tables outlive the family.
        fill_family(unsafe { &mut *family.get() }, tables.get(), name, version);
        let block = bindings::notifier_block {
            notifier_call: Some(notified::<H>),
            ..pin_init::zeroed()
        };
        let notifier = KBox::new(Opaque::new(block), GFP_KERNEL)?;
        // First, so that of no socket that made a request the end is missed.
        // SAFETY: filled in above; lives until it is unregistered.
        to_result(unsafe { own::netlink_register_notifier(notifier.get()) })?;
        // SAFETY: as above.
        let registered = to_result(unsafe { own::genl_register_family(family.get()) });
        if let Err(e) = registered {
            // SAFETY: registered above. Waits for calls that run.
            unsafe { own::netlink_unregister_notifier(notifier.get()) };
            return Err(e);
        }
        *REGISTERED.lock() = Some(Registered(family.get()));
        // INVARIANT: both are registered.
        Ok(Self {
            family,
            notifier,
            _tables: tables,
            handler: PhantomData,
        })
    }
}

impl<H: Handler> Drop for Family<H> {
    fn drop(&mut self) {
        *REGISTERED.lock() = None;
        // SAFETY: registered, by the invariants. Waits for requests that run.
        unsafe { own::genl_unregister_family(self.family.get()) };
        // SAFETY: registered, by the invariants. Waits for calls that run.
        unsafe { own::netlink_unregister_notifier(self.notifier.get()) };
    }
}

fn nla_policy(policy: Policy, members: *const own::nla_policy) -> own::nla_policy {
    let mut raw = own::nla_policy::default();
    let (kind, len) = match policy.kind {
        Kind::U8 => (own::NLA_U8, 0),
        Kind::U32 => (own::NLA_U32, 0),
        Kind::U64 => (own::NLA_U64, 0),
        Kind::S32 => (own::NLA_S32, 0),
        Kind::Text(max) => (own::NLA_NUL_STRING, max),
        Kind::Bytes(max) => (own::NLA_BINARY, max),
        Kind::Member => (own::NLA_NESTED, MemberAttr::ALL.len() as u16),
        Kind::Pad => (own::NLA_REJECT, 0),
    };
    raw.type_ = kind as u8;
    raw.len = len;
    // A union of plain fields. bindgen shows it in other ways on other kernels, so it is written
    // to through a pointer.
    let more = ptr::addr_of_mut!(raw.__bindgen_anon_1);
    if policy.kind == Kind::Member {
        // SAFETY: `nested_policy` is this pointer, and counts for an attribute with others inside.
        unsafe { more.cast::<*const own::nla_policy>().write(members) };
    } else if policy.nonzero {
        raw.validation_type = own::nla_policy_validation_NLA_VALIDATE_MIN as u8;
        // SAFETY: `min` is the first field of what counts with this kind of validation.
        unsafe { more.cast::<i16>().write(1) };
    }
    raw
}

fn fill_tables<H: Handler>(tables: &mut Tables, group: &str) {
    for attr in MemberAttr::ALL {
        if let Some(entry) = tables.members.get_mut(usize::from(attr.raw())) {
            *entry = nla_policy(attr.policy(), ptr::null());
        }
    }
    let members = tables.members.as_ptr();
    for attr in Attr::ALL {
        if let Some(entry) = tables.attributes.get_mut(usize::from(attr.raw())) {
            *entry = nla_policy(attr.policy(), members);
        }
    }
    let requests = Command::ALL.iter().filter(|c| !c.is_notification());
    for (operation, command) in tables.operations.iter_mut().zip(requests) {
        operation.cmd = command.raw();
        operation.doit = Some(run::<H>);
        if command.is_write() {
            operation.flags = own::GENL_ADMIN_PERM as u8;
        }
        if command.has_dump() {
            operation.start = Some(dump_start);
            operation.dumpit = Some(dump::<H>);
        }
    }
    copy_name(&mut tables.groups[0].name, group);
}

fn fill_family(family: &mut own::genl_family, tables: *const Tables, name: &str, version: u32) {
    copy_name(&mut family.name, name);
    family.version = version;
    family.maxattr = Attr::ALL.len() as u32;
    let operations = Command::ALL.iter().filter(|c| !c.is_notification()).count();
    family.n_ops = operations as u8;
    family.n_mcgrps = 1;
    family.set_parallel_ops(1);
    family.module = ptr::addr_of!(bindings::__this_module).cast_mut();
    // SAFETY: `tables` is valid; only addresses are taken.
    unsafe {
        family.policy = ptr::addr_of!((*tables).attributes).cast();
        family.ops = ptr::addr_of!((*tables).operations).cast();
        family.mcgrps = ptr::addr_of!((*tables).groups).cast();
    }
}

/// Copies a name that must leave room for the zero byte at its end.
fn copy_name(to: &mut [c_char], name: &str) {
    let room = to.len().saturating_sub(1);
    for (to, from) in to.iter_mut().take(room).zip(name.bytes()) {
        *to = from as c_char;
    }
}

/// A message under construction; freed unless it is sent.
///
/// # Invariants
///
/// `skb` is a message of ours with the headers of `header`.
struct Message {
    skb: *mut bindings::sk_buff,
    header: *mut c_void,
}

impl Message {
    /// A message with these attributes.
    ///
    /// # Safety
    ///
    /// `family` must be registered.
    unsafe fn new(
        family: *const own::genl_family,
        port: u32,
        seq: u32,
        command: Command,
        attributes: &[u8],
    ) -> Result<Self> {
        // SAFETY: plain call.
        let skb = unsafe { own::genlmsg_new(attributes.len(), bindings::GFP_KERNEL) };
        if skb.is_null() {
            return Err(ENOMEM);
        }
        // SAFETY: a new message; the caller vouches for the family.
        let header = unsafe { own::genlmsg_put(skb, port, seq, family, 0, command.raw()) };
        let message = Self { skb, header };
        if header.is_null() {
            return Err(EMSGSIZE);
        }
        message.append(attributes)?;
        Ok(message)
    }

    fn append(&self, attributes: &[u8]) -> Result {
        put(self.skb, attributes)
    }

    /// Ends the message and gives it away.
    fn finish(self) -> *mut bindings::sk_buff {
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: by the invariants.
        unsafe { own::genlmsg_end(this.skb, this.header) };
        this.skb
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: not given away.
        unsafe { own::nlmsg_free(self.skb) };
    }
}

/// Appends attributes, all or none.
fn put(skb: *mut bindings::sk_buff, attributes: &[u8]) -> Result {
    // SAFETY: callers pass a message they own.
    let room = unsafe { own::skb_tailroom(skb) };
    if usize::try_from(room).unwrap_or(0) < attributes.len() {
        return Err(EMSGSIZE);
    }
    let len = attributes.len() as u32;
    // SAFETY: there is room.
    unsafe { own::skb_put_data(skb, attributes.as_ptr().cast(), len) };
    Ok(())
}

/// Sends a notification to the multicast group. Whether anybody hears it is not told: a listener
/// that was too slow learns that itself.
pub(crate) fn notify(command: Command, fill: impl FnOnce(&mut Writer<'_>) -> Result) -> Result {
    let mut bytes = KVec::from_elem(0u8, REPLY_MAX, GFP_KERNEL)?;
    let mut writer = Writer::new(&mut bytes);
    fill(&mut writer)?;
    let registered = REGISTERED.lock();
    let family = registered.as_ref().ok_or(ENODEV)?.0;
    // SAFETY: it stays registered while the lock is held.
    let message = unsafe { Message::new(family, 0, 0, command, writer.written()) }?;
    let skb = message.finish();
    // SAFETY: as above; the message is taken in every case.
    unsafe { own::genlmsg_multicast(family, skb, 0, 0, bindings::GFP_KERNEL) };
    Ok(())
}

/// The attributes of a request.
///
/// # Safety
///
/// `info` must be what the netlink core passed, and `'a` end with the call.
unsafe fn attributes<'a>(info: *const own::genl_info) -> &'a [u8] {
    // SAFETY: the core has checked that the message holds both headers.
    let (whole, first) = unsafe {
        let header = (*info).genlhdr.cast::<u8>();
        (
            (*(*info).nlhdr).nlmsg_len as usize,
            header.add(4).cast_const(),
        )
    };
    let len = whole.saturating_sub(size_of::<bindings::nlmsghdr>() + 4);
    // SAFETY: the message is as long as its header says, and stays during the call.
    unsafe { core::slice::from_raw_parts(first, len) }
}

/// Tells the sender what is wrong.
///
/// # Safety
///
/// `info` must be what the netlink core passed; `attributes` those of the request.
unsafe fn explain(info: *const own::genl_info, attributes: &[u8], refusal: &Refusal) {
    // SAFETY: by the rule of this function.
    let extack = unsafe { (*info).extack };
    if extack.is_null() {
        return;
    }
    if !refusal.text.is_empty() {
        // SAFETY: not null, and ours during the call; the text is static.
        unsafe { (*extack)._msg = refusal.text.as_char_ptr() };
    }
    let Some(attr) = refusal.attribute else {
        return;
    };
    match Attributes::new(attributes).find(attr) {
        Some(found) => {
            let bad = attributes.as_ptr().wrapping_add(found.offset);
            // SAFETY: as above; the attribute is part of the request.
            unsafe { (*extack).bad_attr = bad.cast() };
        }
        // SAFETY: as above.
        None => unsafe { (*extack).miss_type = attr.raw() },
    }
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn run<H: Handler>(
    _skb: *mut bindings::sk_buff,
    info: *mut own::genl_info,
) -> c_int {
    // SAFETY: the netlink core passes a valid info.
    let bytes = unsafe { attributes(info) };
    // SAFETY: as above.
    let (port, raw) = unsafe { ((*info).snd_portid, (*(*info).genlhdr).cmd) };
    let Some(command) = Command::from_raw(raw) else {
        return EINVAL.to_errno();
    };
    let request = Request {
        port,
        command,
        attributes: Attributes::new(bytes),
    };
    let refusal = match answer::<H>(&request, info) {
        Ok(()) => return 0,
        Err(refusal) => refusal,
    };
    // SAFETY: as above.
    unsafe { explain(info, bytes, &refusal) };
    refusal.error.to_errno()
}

fn answer<H: Handler>(request: &Request<'_>, info: *const own::genl_info) -> Result<(), Refusal> {
    let mut bytes = KVec::from_elem(0u8, REPLY_MAX, GFP_KERNEL).map_err(Error::from)?;
    let mut writer = Writer::new(&mut bytes);
    if !H::request(request, &mut writer)? {
        return Ok(());
    }
    // SAFETY: `info` is valid during the request, and its family registered.
    let (family, seq) = unsafe { ((*info).family, (*info).snd_seq) };
    let written = writer.written();
    // SAFETY: as above.
    let reply = unsafe { Message::new(family, request.port, seq, request.command, written) }?;
    let net = ptr::addr_of_mut!(bindings::init_net).cast();
    // SAFETY: the family is of the initial namespace only; the message is taken in every case.
    to_result(unsafe { own::genlmsg_unicast(net, reply.finish(), request.port) })?;
    Ok(())
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn dump_start(cb: *mut own::netlink_callback) -> c_int {
    // SAFETY: the core passes a valid dump. Every message of it gets room for the largest entry.
    unsafe { (*cb).min_dump_alloc = REPLY_MAX as u32 + 256 };
    0
}

/// # Safety
///
/// Only for the table of operations.
unsafe extern "C" fn dump<H: Handler>(
    skb: *mut bindings::sk_buff,
    cb: *mut own::netlink_callback,
) -> c_int {
    // SAFETY: the core passes its `struct genl_dumpit_info`, whose info has the request.
    let info = unsafe { ptr::addr_of!((*(*cb).data.cast::<own::genl_dumpit_info>()).info) };
    // SAFETY: as above.
    let command = match Command::from_raw(unsafe { (*(*info).genlhdr).cmd }) {
        Some(command) => command,
        None => return EINVAL.to_errno(),
    };
    // SAFETY: the room belongs to the dump; zero at its beginning.
    let index = unsafe { ptr::addr_of_mut!((*cb).__bindgen_anon_1).cast::<usize>() };
    let mut bytes = match KVec::from_elem(0u8, REPLY_MAX, GFP_KERNEL) {
        Ok(bytes) => bytes,
        Err(_) => return ENOMEM.to_errno(),
    };
    loop {
        let mut writer = Writer::new(&mut bytes);
        // SAFETY: as above; nobody else uses it during the call.
        match H::dump(command, unsafe { *index }, &mut writer) {
            Ok(Entry::Written) => {}
            Ok(Entry::End) => return 0,
            Err(e) => return e.to_errno(),
        }
        // SAFETY: skb, cb and info belong to this dump.
        if let Err(e) = unsafe { append(skb, cb, info, command, writer.written()) } {
            // SAFETY: plain question.
            let used = unsafe { (*skb).len };
            // The next call goes on here, with an empty buffer.
            return if used > 0 {
                used as c_int
            } else {
                e.to_errno()
            };
        }
        // SAFETY: as above.
        unsafe { *index = (*index).wrapping_add(1) };
    }
}

/// Appends one entry of a dump, whole or not at all.
///
/// # Safety
///
/// The arguments must be those of a dump that runs.
unsafe fn append(
    skb: *mut bindings::sk_buff,
    cb: *const own::netlink_callback,
    info: *const own::genl_info,
    command: Command,
    attributes: &[u8],
) -> Result {
    // SAFETY: `cb` is valid by the rule of this function.
    let (port, seq) = unsafe { ((*info).snd_portid, (*(*cb).nlh).nlmsg_seq) };
    let flags = bindings::NLM_F_MULTI as c_int;
    // SAFETY: as above; the family is registered while a dump runs.
    let header = unsafe { own::genlmsg_put(skb, port, seq, (*info).family, flags, command.raw()) };
    if header.is_null() {
        return Err(EMSGSIZE);
    }
    if let Err(e) = put(skb, attributes) {
        // SAFETY: the header from above.
        unsafe { own::genlmsg_cancel(skb, header) };
        return Err(e);
    }
    // SAFETY: as above.
    unsafe { own::genlmsg_end(skb, header) };
    Ok(())
}

/// # Safety
///
/// Only for the notifier chain of netlink.
unsafe extern "C" fn notified<H: Handler>(
    _block: *mut bindings::notifier_block,
    event: c_ulong,
    data: *mut c_void,
) -> c_int {
    let init_net = ptr::addr_of!(bindings::init_net);
    // SAFETY: the chain passes a `struct netlink_notify`.
    let (net, protocol, port) = unsafe {
        let notify = data.cast::<own::netlink_notify>();
        ((*notify).net, (*notify).protocol, (*notify).portid)
    };
    let closed = event as u32 == own::NETLINK_URELEASE;
    if closed && protocol == own::NETLINK_GENERIC as c_int && net.cast_const().cast() == init_net {
        H::closed(port);
    }
    0 // NOTIFY_DONE
}
