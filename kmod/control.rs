// SPDX-License-Identifier: GPL-2.0-only
//! The netlink front end: how cluster daemons steer the module (`uapi/dlm.yaml`).
//!
//! Two roles, each bound to the socket that claimed it: membership says who the nodes are,
//! lockspaces steers lockspaces. When the socket of a role closes, however that came, every
//! lockspace is stopped and nobody is left waiting for an answer. Nothing is decided here: commands
//! are checked ([`commands`]) and handed to the transport or a lockspace; state is read out
//! ([`entries`]); events are sent ([`notices`]).
//!
//! Lock: `STATE`, a leaf; nothing is called while it is held, work is queued at most.

mod commands;
mod entries;
mod notices;

use kernel::{
    impl_has_work,
    new_work,
    prelude::*,
    sync::Arc,
    workqueue::{
        Work,
        WorkItem, //
    }, //
};

use crate::ffi::errno;
use crate::ffi::global::global_mutex;
use crate::ffi::netlink::{
    Entry,
    Family,
    Handler,
    Refusal,
    Request, //
};
use crate::ffi::socket::Address;
use crate::ffi::workqueue::WorkQueue;
use crate::lockcore::members::NodeId;
use crate::lockspace::{
    self,
    ClusterName, //
};
use crate::uapi::netlink::attributes::Writer;
use crate::uapi::netlink::{
    self,
    Command,
    Role, //
};

pub(crate) use notices::{
    ask_join,
    ask_leave,
    notify_peer,
    notify_recovered, //
};

/// What membership told of this node.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Local {
    /// Its id.
    node: NodeId,
    /// Its present life.
    incarnation: u64,
    /// Where it listens.
    address: Address,
    /// The cluster it is in.
    cluster: ClusterName,
}

/// Who holds a role.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// Nobody.
    None,
    /// The socket of this port.
    Port(u32),
    /// A socket that was closed; the cleaner is queued or runs, and nobody gets a role before it is
    /// done.
    Closed,
}

#[derive(Clone, Copy)]
struct Holders {
    membership: Holder,
    lockspaces: Holder,
}

impl Holders {
    fn of(&mut self, role: Role) -> Option<&mut Holder> {
        match role {
            Role::None => None,
            Role::Membership => Some(&mut self.membership),
            Role::Lockspaces => Some(&mut self.lockspaces),
        }
    }

    fn is_any_closed(&self) -> bool {
        [self.membership, self.lockspaces].contains(&Holder::Closed)
    }

    fn claim(&mut self, role: Role, port: u32) -> Result<(), Refusal> {
        let holder = self.of(role).ok_or(Refusal {
            error: EINVAL,
            text: c"this is no role that can be claimed",
            attribute: Some(netlink::Attr::Role),
        })?;
        if ![Holder::None, Holder::Port(port)].contains(holder) {
            return Err(Refusal {
                error: EBUSY,
                text: c"another socket holds this role; end the daemon that has it first",
                attribute: Some(netlink::Attr::Role),
            });
        }
        *holder = Holder::Port(port);
        Ok(())
    }
}

struct State {
    holders: Holders,
    local: Option<Local>,
    quorate: bool,
    cleaner: Option<Arc<Cleaner>>,
}

global_mutex! {
    /// See the head of this file.
    static STATE: State = State {
        holders: Holders { membership: Holder::None, lockspaces: Holder::None },
        local: None,
        quorate: false,
        cleaner: None,
    };
    /// Makes the questions of this file possible.
    fn init_state;
}

/// Does what has to be done when a role ended: a socket that is being closed must not wait for it.
#[pin_data]
struct Cleaner {
    queue: WorkQueue,
    #[pin]
    work: Work<Cleaner>,
}

impl_has_work! {
    impl HasWork<Self> for Cleaner { self.work }
}

impl WorkItem for Cleaner {
    type Pointer = Arc<Cleaner>;

    fn run(_this: Arc<Cleaner>) {
        let before = STATE.lock().holders;
        if before.lockspaces == Holder::Closed {
            lockspace::stop_all("the lockspaces daemon has gone");
            lockspace::role_closed();
        }
        if before.membership == Holder::Closed {
            STATE.lock().quorate = false;
            lockspace::set_quorate(false);
            lockspace::stop_all("the membership daemon has gone");
        }
        // What was closed meanwhile has queued this work again.
        let mut state = STATE.lock();
        if before.lockspaces == Holder::Closed {
            state.holders.lockspaces = Holder::None;
        }
        if before.membership == Holder::Closed {
            state.holders.membership = Holder::None;
        }
    }
}

/// The registered front end. Fields are dropped in this order: no request comes any more, then
/// what requests left to do is done.
pub(crate) struct Control {
    _family: Family<Commands>,
    _cleaner: RunningCleaner,
}

/// The cleaner, until it is dropped.
struct RunningCleaner;

impl RunningCleaner {
    fn start() -> Result<Self> {
        let queue = WorkQueue::ordered(c"dlm_control")?;
        let cleaner = Arc::pin_init(
            pin_init!(Cleaner {
                queue,
                work <- new_work!("dlm_control"),
            }),
            GFP_KERNEL,
        )?;
        STATE.lock().cleaner = Some(cleaner);
        Ok(Self)
    }
}

impl Drop for RunningCleaner {
    fn drop(&mut self) {
        let cleaner = STATE.lock().cleaner.take();
        if let Some(cleaner) = cleaner {
            // So that the work does not drop the last reference, and with it its own queue.
            cleaner.queue.flush();
        }
    }
}

impl Control {
    /// Registers the family.
    pub(crate) fn register() -> Result<Self> {
        let cleaner = RunningCleaner::start()?;
        let family = Family::register(netlink::FAMILY, netlink::ABI_VERSION, netlink::GROUP)?;
        Ok(Self {
            _family: family,
            _cleaner: cleaner,
        })
    }
}

/// Makes this module usable; call first when the module is loaded.
pub(crate) fn init() {
    init_state();
}

/// This node, if membership has said who it is.
fn local() -> Option<Local> {
    STATE.lock().local
}

/// What lockspaces want to know of it.
pub(crate) fn identity() -> Option<lockspace::Local> {
    local().map(|local| lockspace::Local {
        node: local.node,
        cluster: Some(local.cluster),
    })
}

/// Whether a living daemon steers lockspaces.
pub(crate) fn lockspaces_role() -> bool {
    matches!(STATE.lock().holders.lockspaces, Holder::Port(_))
}

/// Takes `role` for `port`. What holders of before left is cleaned up first, of either role: both
/// ends stop lockspaces.
fn claim(role: Role, port: u32) -> Result<(), Refusal> {
    loop {
        let mut state = STATE.lock();
        if !state.holders.is_any_closed() {
            return state.holders.claim(role, port);
        }
        let cleaner = state.cleaner.clone().ok_or(ENODEV)?;
        drop(state);
        // It was queued in the moment the role was closed, so this waits until it is done.
        cleaner.queue.flush();
    }
}

/// [`EPERM`] unless `port` holds `role`.
fn check(role: Role, port: u32) -> Result<(), Refusal> {
    if STATE
        .lock()
        .holders
        .of(role)
        .is_some_and(|holder| *holder == Holder::Port(port))
    {
        return Ok(());
    }
    let text = match role {
        Role::Membership => c"only the socket that claimed the membership role may do this",
        Role::Lockspaces | Role::None => {
            c"only the socket that claimed the lockspaces role may do this"
        }
    };
    Err(Refusal {
        error: EPERM,
        text,
        attribute: None,
    })
}

/// The commands of the family.
struct Commands;

impl Handler for Commands {
    fn request(request: &Request<'_>, reply: &mut Writer<'_>) -> Result<bool, Refusal> {
        commands::run(request, reply)
    }

    fn dump(command: Command, index: usize, entry: &mut Writer<'_>) -> Result<Entry> {
        entries::dump(command, index, entry)
    }

    fn closed(port: u32) {
        let mut state = STATE.lock();
        let mut is_closed = false;
        for role in [Role::Membership, Role::Lockspaces] {
            if let Some(holder) = state.holders.of(role) {
                if *holder == Holder::Port(port) {
                    *holder = Holder::Closed;
                    is_closed = true;
                }
            }
        }
        if let Some(cleaner) = state.cleaner.as_ref().filter(|_| is_closed) {
            // With the mutex held, for whoever sees the role closed waits for this work. That it
            // is queued already is fine: it will see what was noted.
            let _ = cleaner.queue.enqueue(cleaner.clone());
        }
    }
}

/// [`errno::ENOTCONN`]: membership has not named this node.
fn require_local() -> Result<Local, Refusal> {
    local().ok_or(Refusal {
        error: errno::ENOTCONN.into(),
        text: c"this node has no name yet: cluster-set comes first",
        attribute: None,
    })
}
