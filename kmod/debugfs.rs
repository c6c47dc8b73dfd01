// SPDX-License-Identifier: GPL-2.0-only
//! `/sys/kernel/debug/dlm`: what `dlm_tool lockdump` and `lockdebug`, and people, look at.
//!
//! | File | Shows |
//! |---|---|
//! | `<ls>` | resources with their queues, for people |
//! | `<ls>_locks` | one line per lock |
//! | `<ls>_all` | resources and locks with all their state |
//! | `<ls>_toss` | resources that are idle |
//! | `<ls>_waiters` | operations that wait for another node |
//! | `comms/<node>/` | `state`, `flags`, `send_queue_count`, `version` of a connection |
//!
//! The text is made by lockcore, shard by shard, each under its mutex; a listing is therefore true
//! of each shard at one moment, not of all. A file is gone, and nobody reads it any more, when what
//! made it is dropped.
//!
//! Lock: `TREE`, a leaf; files come and go outside it, for that waits for who reads them.

use kernel::{
    debugfs::{
        Dir,
        File,
        Writer, //
    },
    fmt,
    prelude::*,
    str::CString,
    sync::Arc, //
};

use crate::ffi::global::global_mutex;
use crate::lockcore::members::NodeId;
use crate::lockcore::shard::dump::Format;
use crate::lockspace::Lockspace;
use crate::transport::{
    self,
    PeerInfo, //
};

/// The directories.
struct Tree {
    root: Dir,
    comms: Dir,
    lockspaces: KVec<LockspaceFiles>,
    peers: KVec<PeerFiles>,
}

global_mutex! {
    /// `None` before the module is up and after it went down.
    static TREE: Option<Tree> = None;
    /// Makes the tree usable.
    fn init_tree;
}

/// The whole tree; dropping it removes what is left.
pub(crate) struct Root(());

impl Root {
    /// Makes the directories; when the module is loaded.
    pub(crate) fn new() -> Result<Self> {
        init_tree();
        let root = Dir::new(c"dlm");
        let comms = root.subdir(c"comms");
        *TREE.lock() = Some(Tree {
            root,
            comms,
            lockspaces: KVec::new(),
            peers: KVec::new(),
        });
        Ok(Self(()))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let tree = TREE.lock().take();
        drop(tree);
    }
}

/// A file that is there as long as this.
type Shown<T> = Pin<KBox<File<T>>>;

fn show<T: Writer + Send + Sync + 'static>(dir: &Dir, name: &CStr, data: T) -> Result<Shown<T>> {
    KBox::pin_init(dir.read_only_file(name, data), GFP_KERNEL)
}

/// One listing of a lockspace.
struct Listing {
    ls: Arc<Lockspace>,
    format: Format,
}

impl Writer for Listing {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ls.dump(self.format, f)
    }
}

/// The files of one lockspace.
struct LockspaceFiles {
    ls: Arc<Lockspace>,
    _files: KVec<Shown<Listing>>,
}

impl LockspaceFiles {
    /// Makes them.
    fn new(ls: &Arc<Lockspace>) -> Result<Self> {
        let root = match &*TREE.lock() {
            Some(tree) => tree.root.clone(),
            None => return Err(ENODEV),
        };
        let listings = [
            ("", Format::Resources),
            ("_locks", Format::Locks),
            ("_all", Format::All),
            ("_toss", Format::Idle),
            ("_waiters", Format::Waiters),
        ];
        let mut files = KVec::with_capacity(listings.len(), GFP_KERNEL)?;
        for (suffix, format) in listings {
            let name = CString::try_from_fmt(fmt!("{}{}", ls.display_name(), suffix))?;
            let ls = ls.clone();
            files.push(show(&root, &name, Listing { ls, format })?, GFP_KERNEL)?;
        }
        Ok(Self {
            ls: ls.clone(),
            _files: files,
        })
    }
}

/// Makes the files of a lockspace.
pub(crate) fn lockspace_added(ls: &Arc<Lockspace>) -> Result {
    let files = LockspaceFiles::new(ls)?;
    match &mut *TREE.lock() {
        Some(tree) => Ok(tree.lockspaces.push(files, GFP_KERNEL)?),
        None => Err(ENODEV),
    }
}

/// Takes the files of a lockspace away, if there are any.
pub(crate) fn lockspace_removed(ls: &Lockspace) {
    let files = match &mut *TREE.lock() {
        Some(tree) => {
            let mut lockspaces = tree.lockspaces.iter();
            let at = lockspaces.position(|files| core::ptr::eq(&*files.ls, ls));
            at.and_then(|at| tree.lockspaces.remove(at).ok())
        }
        None => None,
    };
    // Waits for who reads at the moment, hence not under the mutex.
    drop(files);
}

/// What a file of a peer shows.
#[derive(Clone, Copy)]
enum Item {
    State,
    Flags,
    Unacked,
    Version,
}

struct PeerItem {
    node: NodeId,
    item: Item,
}

impl Writer for PeerItem {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut result = Ok(());
        transport::for_each_peer(&mut |peer: &PeerInfo| {
            if peer.node == self.node {
                result = match self.item {
                    Item::State => writeln!(f, "{}", peer.state.name()),
                    Item::Flags => writeln!(f, "{}", peer.flags),
                    Item::Unacked => writeln!(f, "{}", peer.unacked),
                    Item::Version => writeln!(f, "0x{:08x}", peer.version),
                };
            }
        });
        result
    }
}

struct PeerFiles {
    node: NodeId,
    _files: KVec<Shown<PeerItem>>,
    _dir: Dir,
}

/// The transport knows this peer now.
pub(crate) fn peer_added(node: NodeId) -> Result {
    let comms = match &*TREE.lock() {
        Some(tree) if tree.peers.iter().all(|peer| peer.node != node) => tree.comms.clone(),
        Some(_) | None => return Ok(()),
    };
    let name = CString::try_from_fmt(fmt!("{}", node.0))?;
    let dir = comms.subdir(&name);
    let items = [
        (c"state", Item::State),
        (c"flags", Item::Flags),
        (c"send_queue_count", Item::Unacked),
        (c"version", Item::Version),
    ];
    let mut files = KVec::with_capacity(items.len(), GFP_KERNEL)?;
    for (name, item) in items {
        files.push(show(&dir, name, PeerItem { node, item })?, GFP_KERNEL)?;
    }
    let peer = PeerFiles {
        node,
        _files: files,
        _dir: dir,
    };
    if let Some(tree) = &mut *TREE.lock() {
        tree.peers.push(peer, GFP_KERNEL)?;
    }
    Ok(())
}

/// The transport forgets this peer.
pub(crate) fn peer_removed(node: NodeId) {
    let peer = match &mut *TREE.lock() {
        Some(tree) => {
            let at = tree.peers.iter().position(|peer| peer.node == node);
            at.and_then(|at| tree.peers.remove(at).ok())
        }
        None => None,
    };
    // Waits for who reads at the moment, hence not under the mutex.
    drop(peer);
}
