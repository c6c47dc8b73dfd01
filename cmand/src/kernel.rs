// SPDX-License-Identifier: GPL-2.0-only
//! Tells the kernel's lock manager about nodes and quorum, the moment they are
//! known.
//!
//! A thread of its own, because the kernel may be slow and the module may come
//! and go: it keeps what the kernel should know and tells all of it whenever the
//! module appears.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use std::time::Instant;

use cluster_rt::config::Config;
use cluster_rt::config::Node;
use dlm_client::Client;
use dlm_client::NodeUpdate;
use dlm_client::Role;

use crate::Error;
use crate::KernelUse;

/// There while any module of this name is loaded, ours or the distribution's.
const MODULE: &str = "/sys/module/dlm";

/// One directory per lockspace of the kernel.
const LOCKSPACES: &str = "/sys/kernel/dlm";

/// How often is looked whether the module is there.
const LOOK: Duration = Duration::from_millis(250);

/// Pause after a module did not take us as its controller: it may be the
/// distribution's, or have another one.
const RETRY: Duration = Duration::from_secs(5);

/// Something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Update {
    Node {
        node: u32,
        incarnation: u64,
        up: bool,
    },
    Quorum(bool),
    /// This node is another life now, which knows no nodes yet.
    Rejoin(u64),
}

/// Refuses to start over lockspaces that an earlier life of the cluster software
/// left in the kernel: what they lock, the cluster has recovered since.
pub(crate) fn refuse_earlier_life() -> Result<(), Error> {
    let mut lockspaces = left_over(Path::new(LOCKSPACES));
    if Path::new(MODULE).exists()
        && let Ok(mut client) = Client::open()
        && let Ok(known) = client.lockspaces()
    {
        lockspaces.extend(known.into_iter().map(|lockspace| lockspace.name));
    }
    lockspaces.sort();
    lockspaces.dedup();
    if lockspaces.is_empty() {
        Ok(())
    } else {
        Err(Error::EarlierLife { lockspaces })
    }
}

fn left_over(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

/// Starts the thread. It ends when the sender is dropped.
pub(crate) fn start(
    usage: KernelUse,
    config: &Config,
    node: &Node,
    incarnation: u64,
) -> Option<mpsc::Sender<Update>> {
    if usage == KernelUse::Off {
        return None;
    }
    let (updates, queue) = mpsc::channel();
    let mut keeper = Keeper {
        known: Known {
            cluster: config.cluster.name.clone(),
            node: node.id,
            incarnation,
            quorate: false,
            addresses: config
                .nodes
                .iter()
                .map(|node| (node.id, node.address))
                .collect(),
            nodes: BTreeMap::new(),
        },
        client: None,
        retry_at: None,
        is_behind: false,
        complaint: String::new(),
    };
    let spawned = std::thread::Builder::new()
        .name("kernel".to_owned())
        .spawn(move || keeper.run(&queue));
    if let Err(error) = spawned {
        tracing::error!(%error, "starting the kernel thread; the lock manager is told nothing");
        return None;
    }
    Some(updates)
}

/// What the kernel should know.
#[derive(Debug)]
struct Known {
    cluster: String,
    node: u32,
    incarnation: u64,
    quorate: bool,
    addresses: BTreeMap<u32, IpAddr>,
    /// Life and state of every node that was ever up.
    nodes: BTreeMap<u32, (u64, bool)>,
}

struct Keeper {
    known: Known,
    client: Option<Client>,
    retry_at: Option<Instant>,
    /// The kernel may have missed something: it must be told all again.
    is_behind: bool,
    /// The last error logged, to log each once.
    complaint: String,
}

impl Known {
    fn note(&mut self, update: Update) {
        match update {
            Update::Node {
                node,
                incarnation,
                up,
            } => {
                self.nodes.insert(node, (incarnation, up));
            }
            Update::Quorum(quorate) => self.quorate = quorate,
            Update::Rejoin(incarnation) => {
                self.incarnation = incarnation;
                self.nodes.clear();
            }
        }
    }

    fn node_update(&self, node: u32) -> Option<NodeUpdate> {
        let (incarnation, up) = *self.nodes.get(&node)?;
        Some(NodeUpdate {
            node,
            incarnation,
            address: *self.addresses.get(&node)?,
            up,
        })
    }

    fn tell_cluster(&self, client: &mut Client) -> Result<(), dlm_client::Error> {
        let address = self.addresses.get(&self.node).copied();
        let address = address.expect("the configuration contains this node");
        client.cluster_set(&self.cluster, self.node, self.incarnation, address)
    }

    fn tell_all(&self, client: &mut Client) -> Result<(), dlm_client::Error> {
        self.tell_cluster(client)?;
        for node in self.nodes.keys() {
            if let Some(update) = self.node_update(*node) {
                client.node_set(&update)?;
            }
        }
        client.quorum_set(self.quorate)
    }

    fn tell(&self, client: &mut Client, update: Update) -> Result<(), dlm_client::Error> {
        match update {
            Update::Node { node, .. } => match self.node_update(node) {
                Some(update) => client.node_set(&update),
                None => Ok(()),
            },
            Update::Quorum(quorate) => client.quorum_set(quorate),
            Update::Rejoin(_) => self.tell_cluster(client),
        }
    }
}

impl Keeper {
    fn run(&mut self, queue: &mpsc::Receiver<Update>) {
        loop {
            let update = match queue.recv_timeout(LOOK) {
                Ok(update) => Some(update),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if let Some(update) = update {
                self.known.note(update);
            }
            match (&mut self.client, update) {
                (Some(client), _) if self.is_behind => {
                    let told = self.known.tell_all(client);
                    self.judge(told);
                }
                (Some(client), Some(update)) => {
                    let told = self.known.tell(client, update);
                    self.judge(told);
                }
                (Some(_), None) => self.look_whether_gone(),
                (None, _) => self.connect(),
            }
        }
    }

    fn connect(&mut self) {
        if !Path::new(MODULE).exists() {
            self.retry_at = None;
            return;
        }
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let told = Client::open().and_then(|mut client| {
            client.claim(Role::Membership)?;
            self.known.tell_all(&mut client)?;
            Ok(client)
        });
        match told {
            Ok(client) => {
                tracing::info!("the kernel's lock manager is told about nodes and quorum");
                self.complaint.clear();
                self.client = Some(client);
            }
            // The distribution's module: dlm_controld deals with it.
            Err(dlm_client::Error::NotLoaded(_)) => self.retry_at = Some(Instant::now() + RETRY),
            Err(error) => {
                self.complain(&error);
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn look_whether_gone(&mut self) {
        if !Path::new(MODULE).exists() {
            tracing::warn!("the kernel's lock manager was unloaded");
            self.client = None;
        }
    }

    /// After an error that is no answer the kernel may have missed something: it is told all
    /// again, from the beginning, and on the same socket, whose end would stop its lockspaces.
    fn judge(&mut self, told: Result<(), dlm_client::Error>) {
        match told {
            Ok(()) => self.is_behind = false,
            Err(error) => {
                self.is_behind = error.errno().is_none();
                self.complain(&error);
                self.look_whether_gone();
            }
        }
    }

    fn complain(&mut self, error: &dlm_client::Error) {
        let text = error.to_string();
        if text != self.complaint {
            tracing::error!(error = text, "telling the kernel's lock manager");
            self.complaint = text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            cluster: "alpha".to_owned(),
            node: 1,
            incarnation: 7,
            quorate: false,
            addresses: BTreeMap::from([(2, IpAddr::from([10, 0, 0, 2]))]),
            nodes: BTreeMap::new(),
        }
    }

    #[test]
    fn the_last_state_of_each_node_is_kept_until_a_new_life() {
        let mut known = known();
        let (node, incarnation) = (2, 9);
        for up in [true, false] {
            known.note(Update::Node {
                node,
                incarnation,
                up,
            });
        }
        known.note(Update::Quorum(true));
        let update = known.node_update(2).unwrap();
        assert_eq!((update.incarnation, update.up), (9, false));
        assert_eq!(update.address, IpAddr::from([10, 0, 0, 2]));
        assert!(known.quorate && known.node_update(3).is_none());
        known.note(Update::Rejoin(8));
        assert!(known.node_update(2).is_none());
        assert_eq!(known.incarnation, 8);
    }

    #[test]
    fn lockspaces_of_an_earlier_life_are_directories() {
        let place = std::env::temp_dir().join(format!("cmand-kernel-{}", std::process::id()));
        assert!(left_over(&place).is_empty());
        std::fs::create_dir_all(place.join("lvm_global")).unwrap();
        assert_eq!(left_over(&place), ["lvm_global"]);
        std::fs::remove_dir_all(&place).unwrap();
    }
}
