// SPDX-License-Identifier: GPL-2.0-only
//! How a lockspace is created and released: the handshake with the controller, and what comes up
//! and goes down in which order.
//!
//! Who creates sleeps until the controller has answered and the first recovery has ended; who
//! releases the last use sleeps until the controller has answered. Both waits end when the task is
//! killed or the controller goes away. What has been started is taken down by
//! `Lockspace::go_down` in one order, however far a creation came.

use kernel::{
    new_mutex,
    prelude::*,
    sync::{
        atomic::{
            ordering,
            Atomic, //
        },
        Arc, //
    }, //
};

use super::{
    files::Files,
    handshake::Handshake,
    hooks::hooks,
    index,
    recoverd::Recoverd,
    registry::{
        self,
        Found,
        Left, //
    },
    Lockspace,
    Name,
    Progress,
    Recovery,
    ShardCell,
    LVB_MAX,
    SHARDS,
    SHARD_BITS, //
};
use crate::callback::Callbacks;
use crate::ffi::caller::Ops;
use crate::ffi::completion::Gate;
use crate::ffi::errno;
use crate::ffi::global::global_mutex;
use crate::ffi::memory;
use crate::ffi::workqueue::WorkQueue;
use crate::lockcore::members::{
    Members,
    NodeId, //
};
use crate::lockcore::shard::{
    Config,
    Shard, //
};
use crate::transport;
use crate::uapi::lock::{
    LsFlags,
    Release,
    LSFL_NEWEXCL, //
};

/// How long a resource that nobody has a lock on is remembered, in milliseconds. As long as
/// other nodes of the cluster remember theirs.
const TOSS_MS: u32 = 10_000;

/// A request to create a lockspace.
pub(crate) struct CreateArgs<'a> {
    /// Its name.
    pub(crate) name: &'a [u8],
    /// Name of the cluster it must be in, if the user cares.
    pub(crate) cluster: Option<&'a [u8]>,
    /// What its creator asks for.
    pub(crate) flags: LsFlags,
    /// Bytes of a value block.
    pub(crate) lvblen: u32,
    /// Recovery callbacks.
    pub(crate) ops: Option<Ops>,
    /// It is for programs and gets a device.
    pub(crate) device: bool,
}

/// A lockspace that can be used.
pub(crate) struct Created {
    /// The lockspace.
    pub(crate) lockspace: Arc<Lockspace>,
    /// Whether the recovery callbacks given will be called; a second user's are not.
    pub(crate) ops_used: bool,
}

global_mutex! {
    /// Held while the transport starts or stops, so that the last lockspace that goes does not
    /// stop it under the first one that comes.
    static TRANSPORT: () = ();
    /// Makes it usable; when the module is loaded, before everything else.
    fn init_transport;
}

fn start_transport() -> Result {
    let _held = TRANSPORT.lock();
    transport::start()
}

/// Stops it if it runs, unless some lockspace is left, which is on the list before it starts it.
/// Also for a lockspace that could not start it: another one that could may have gone meanwhile,
/// and left it to the last on the list.
fn stop_transport() {
    let _held = TRANSPORT.lock();
    if registry::count() == 0 {
        transport::stop();
    }
}

/// Joins a lockspace, or counts one more use of one this node is in.
pub(crate) fn create(args: CreateArgs<'_>) -> Result<Created> {
    let exclusive = args.flags.has(LSFL_NEWEXCL);
    if args.lvblen % 8 != 0 || args.lvblen as usize > LVB_MAX {
        return Err(EINVAL);
    }
    let local = (hooks().local)().ok_or(errno::ENOTCONN)?;
    if !(hooks().has_controller)() {
        return Err(errno::EUNATCH.into());
    }
    // Whoever cares must not be let into a cluster of which nobody knows the name.
    let is_in = |wanted: &[u8]| local.cluster.is_some_and(|cluster| &cluster[..] == wanted);
    if args.cluster.is_some_and(|wanted| !is_in(wanted)) {
        return Err(errno::EBADR.into());
    }
    let new = Lockspace::new(args, local.node)?;
    loop {
        match registry::enter(&new, exclusive)? {
            Found::Nothing => break,
            Found::Ready(lockspace) => {
                return Ok(Created {
                    lockspace,
                    ops_used: false,
                })
            }
            Found::Busy(other) => other.settled.wait_killable()?,
        }
    }
    new.heed_quorum();
    let joined = new.come_up();
    match joined {
        Ok(()) => registry::ready(&new),
        Err(_) => new.go_down(),
    }
    new.settled.open();
    joined.map(|()| Created {
        lockspace: new,
        ops_used: true,
    })
}

/// How a join ended.
enum Joined {
    /// This node is a member, locking goes on.
    Member,
    /// The controller did not let it in.
    Refused(Error),
    /// It was let in or may have been, and must be taken out again.
    Failed(Error),
}

impl Lockspace {
    fn new(args: CreateArgs<'_>, own: NodeId) -> Result<Arc<Self>> {
        let name = Name::new(args.name)?;
        let mut shards = KVec::with_capacity(SHARDS, GFP_KERNEL)?;
        let lvblen = u16::try_from(args.lvblen).map_err(|_| EINVAL)?;
        let members = memory::persist(|| Members::new(own, &[]))?;
        let members = Arc::new(members, GFP_KERNEL)?;
        for index in 0..SHARDS {
            let shard = memory::persist(|| ShardCell::new(&members, lvblen, index))?;
            shards.push(shard, GFP_KERNEL)?;
        }
        let callbacks = Callbacks::new()?;
        let recovery = Recovery::new(own, args.lvblen, args.flags.shared());
        Arc::pin_init(
            try_pin_init!(Self {
                name,
                flags: args.flags,
                lvblen: args.lvblen,
                own,
                for_programs: args.device,
                ops: args.ops,
                id: Atomic::new(0),
                is_leaving: Atomic::new(false),
                is_broken: Atomic::new(false),
                gone: Atomic::new(false),
                shards,
                callbacks,
                recovery <- new_mutex!(recovery, "dlm_recovery"),
                gate <- Gate::new(),
                settled <- Gate::new(),
                first_recovery <- Gate::new(),
                first_result: Atomic::new(0),
                progress <- new_mutex!(Progress {
                    generation: 0,
                    slots: KVec::new(),
                    seq: 0,
                    duration_ms: 0,
                }, "dlm_progress"),
                handshake <- Handshake::new(),
                recoverd <- new_mutex!(None, "dlm_recoverd"),
                files <- new_mutex!(Files::new(), "dlm_files"),
                planned: Atomic::new(0),
                callback_queue: WorkQueue::ordered(c"dlm_callback")?,
            }),
            GFP_KERNEL,
        )
    }

    /// From an entry in the registry to a member that can be used.
    fn come_up(self: &Arc<Self>) -> Result {
        start_transport()?;
        let recoverd = Recoverd::spawn(self.clone())?;
        *self.recoverd.lock() = Some(recoverd);
        // What came before the thread was to be found could not wake it.
        self.wake_recoverd();
        pr_info!("{}: joining the lockspace group...\n", self.display_name());
        match self.join() {
            Joined::Refused(error) => return Err(error),
            Joined::Failed(error) => {
                self.leave(false);
                return Err(error);
            }
            Joined::Member => {}
        }
        if let Err(error) = self.open_outlets() {
            self.leave(false);
            return Err(error);
        }
        pr_info!("{}: join complete\n", self.display_name());
        Ok(())
    }

    /// Asks the controller, and waits for the first recovery.
    fn join(&self) -> Joined {
        let name = self.name();
        let told = || (hooks().ask_join)(name, self.flags.raw());
        match self.handshake.ask(told) {
            Ok(0..) => pr_info!("{}: group event done 0\n", self.display_name()),
            Ok(error) => {
                pr_info!("{}: group event done {}\n", self.display_name(), error);
                return Joined::Refused(Error::from_errno(error));
            }
            Err(error) => return Joined::Failed(error),
        }
        if let Err(error) = self.first_recovery.wait_killable() {
            return Joined::Failed(error);
        }
        match self.first_result.load(ordering::Relaxed) {
            0 => Joined::Member,
            error => Joined::Failed(Error::from_errno(error)),
        }
    }

    /// Asks the controller to take this node out. Whatever comes of it, the node goes.
    fn leave(&self, release_recover: bool) {
        if !(hooks().has_controller)() {
            return;
        }
        let name = self.name();
        pr_info!("{}: leaving the lockspace group...\n", self.display_name());
        let told = || (hooks().ask_leave)(name, release_recover);
        match self.handshake.ask(told) {
            Ok(result) => pr_info!("{}: group event done {}\n", self.display_name(), result),
            Err(e) => pr_warn!(
                "{}: left without the controller's answer: {}\n",
                self.display_name(),
                e.to_errno()
            ),
        }
    }

    fn open_outlets(self: &Arc<Self>) -> Result {
        (hooks().listings.open)(self)?;
        if self.for_programs {
            (hooks().device.open)(self)?;
        }
        Ok(())
    }

    /// Whether a release with `option` must be refused.
    pub(super) fn is_busy(&self, option: Release) -> bool {
        match option {
            Release::NoLocks => self.any_shard(|shard| shard.counts().locks > 0),
            Release::Unused => self.any_shard(|shard| shard.has_own_granted_here()),
            Release::Normal | Release::NoEvent | Release::Recover => false,
        }
    }

    fn any_shard(&self, test: impl Fn(&Shard<Arc<crate::callback::Owner>>) -> bool) -> bool {
        self.shards.iter().any(|cell| test(&cell.shard.lock()))
    }

    /// Ends one use. Returns how many are left; 0: the lockspace is gone, and no callback of it
    /// runs any more.
    pub(crate) fn release(self: &Arc<Self>, option: Release) -> Result<u32> {
        match registry::end_use(self, option)? {
            Left::Uses(uses) => return Ok(uses),
            Left::Last => self.settled.close(),
        }
        (hooks().device.close)(self);
        self.is_leaving.store(true, ordering::Relaxed);
        match option {
            Release::NoEvent => {}
            Release::Recover => self.leave(true),
            Release::NoLocks | Release::Unused | Release::Normal => self.leave(false),
        }
        self.go_down();
        self.settled.open();
        Ok(0)
    }

    /// Takes everything down that came up, and gives the name free.
    fn go_down(self: &Arc<Self>) {
        (hooks().device.close)(self);
        self.gone.store(true, ordering::Release);
        // Packets do not find it any more.
        self.id.store(0, ordering::Relaxed);
        index::remove(self);
        {
            // Who waited for a recovery finds the lockspace gone.
            let _stopped = self.recovery.lock();
            self.gate.open();
        }
        self.wake_files();
        let recoverd = self.recoverd.lock().take();
        // Waits for the thread; nothing recovers from here on.
        drop(recoverd);
        self.forget_members();
        (hooks().listings.close)(self);
        // Calls what is queued; then nothing new is, and what still runs is waited for.
        self.callback_queue.flush();
        self.callbacks.close();
        self.callback_queue.flush();
        self.drop_locks();
        let module = registry::remove(self);
        stop_transport();
        drop(module);
    }

    /// Frees all locks and resources, without telling anybody.
    fn drop_locks(&self) {
        for index in 0..self.shards.len() {
            self.with_shard(index, |shard, fx| shard.clear(fx));
        }
        self.forget_closed();
    }
}

impl ShardCell {
    fn new(members: &Arc<Members>, lvblen: u16, index: usize) -> Result<Pin<KBox<Self>>> {
        let config = Config {
            shard: index as u32,
            shard_bits: SHARD_BITS,
            lvb_len: lvblen,
            toss_ms: TOSS_MS,
        };
        let shard = Shard::new(config, members.clone())?;
        KBox::pin_init(
            pin_init!(Self {
                shard <- new_mutex!(shard, "dlm_shard"),
            }),
            GFP_KERNEL,
        )
    }
}
