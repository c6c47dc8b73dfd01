// SPDX-License-Identifier: GPL-2.0-only
//! The distribution's module, by configfs and sysfs, as its own daemon does it.
//!
//! ```text
//! /sys/kernel/config/dlm/cluster/           cluster-wide attributes
//!   comms/NODE/    nodeid, addr, local      one per member; removed when it is down
//!   spaces/LS/nodes/NODE/  nodeid, weight   members of a lockspace
//! /sys/kernel/dlm/LS/  control, event_done, id
//! ```
//!
//! What the kernel was told is remembered here and only differences are
//! written. The module keeps the monitor device's open count as a sign of life:
//! when this process ends, however, it stops every lockspace.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use dlm_controld_core::NodeId;
use dlm_controld_core::Start;

use super::Answered;
use super::Found;
use super::Identity;
use super::Kernel;
use super::KernelError;
use super::Members;
use super::Request;
use super::files::Files;

/// Where the module's directories are.
pub(crate) const CONFIGFS: &str = "/sys/kernel/config/dlm";
const SYSFS: &str = "/sys/kernel/dlm";

/// The directory of the cluster; the name is the stock daemon's.
const CLUSTER: &str = "cluster";

/// `sizeof(struct sockaddr_storage)`: the only length that `addr` takes.
const ADDRESS_LENGTH: usize = 128;

/// `control`: stop.
const STOP: &[u8] = b"0";
/// `control`: start.
const START: &[u8] = b"1";

/// What the kernel was told.
#[derive(Default)]
struct Told {
    /// Members with a `comms` entry, and which life it is for.
    comms: Members,
    /// Nodes of each lockspace.
    spaces: BTreeMap<String, BTreeSet<NodeId>>,
    /// Held open for as long as this process steers the module.
    monitor: Option<File>,
}

/// The module.
pub(crate) struct Configfs<F> {
    files: F,
    identity: Identity,
    configfs: PathBuf,
    sysfs: PathBuf,
    told: Mutex<Told>,
}

impl<F: Files> Configfs<F> {
    pub(crate) fn new(files: F, identity: Identity) -> Self {
        Self {
            files,
            identity,
            configfs: CONFIGFS.into(),
            sysfs: SYSFS.into(),
            told: Mutex::default(),
        }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        // Each change of it follows a completed file operation.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster(&self) -> PathBuf {
        self.configfs.join(CLUSTER)
    }

    fn comms(&self) -> PathBuf {
        self.cluster().join("comms")
    }

    fn space(&self, lockspace: &str) -> PathBuf {
        self.cluster().join("spaces").join(lockspace)
    }

    fn control(&self, lockspace: &str, file: &str) -> PathBuf {
        self.sysfs.join(lockspace).join(file)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), KernelError> {
        self.files
            .write(path, bytes)
            .map_err(failed("writing", path))
    }

    fn make(&self, path: &Path) -> Result<(), KernelError> {
        match self.files.make_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.map_err(failed("making", path)),
        }
    }

    fn remove(&self, path: &Path) -> Result<(), KernelError> {
        match self.files.remove_directory(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("removing", path)),
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, KernelError> {
        self.files
            .directories(path)
            .map_err(failed("listing", path))
    }

    /// Removes whatever an earlier controller left, the cluster included.
    fn wipe(&self) -> Result<(), KernelError> {
        for cluster in self.list(&self.configfs)? {
            let cluster = self.configfs.join(cluster);
            for node in self.list(&cluster.join("comms"))? {
                self.remove(&cluster.join("comms").join(node))?;
            }
            for space in self.list(&cluster.join("spaces"))? {
                let space = cluster.join("spaces").join(space);
                for node in self.list(&space.join("nodes"))? {
                    self.remove(&space.join("nodes").join(node))?;
                }
                self.remove(&space)?;
            }
            self.remove(&cluster)?;
        }
        Ok(())
    }

    fn add_comms(&self, node: u32) -> Result<(), KernelError> {
        let address = self
            .identity
            .addresses
            .get(&node)
            .ok_or(KernelError::UnknownNode(node))?;
        let entry = self.comms().join(node.to_string());
        self.make(&entry)?;
        self.write(&entry.join("nodeid"), node.to_string().as_bytes())?;
        self.write(&entry.join("addr"), &socket_address(*address))?;
        if node == self.identity.node {
            self.write(&entry.join("local"), b"1")?;
        }
        Ok(())
    }

    fn add_node(&self, lockspace: &str, node: NodeId) -> Result<(), KernelError> {
        let entry = self.space(lockspace).join("nodes").join(node.to_string());
        self.make(&entry)?;
        self.write(&entry.join("nodeid"), node.to_string().as_bytes())?;
        self.write(&entry.join("weight"), b"1")
    }

    fn remove_node(&self, start: &Start, node: NodeId) -> Result<(), KernelError> {
        let entry = self
            .space(&start.lockspace)
            .join("nodes")
            .join(node.to_string());
        if start.released.contains(&node) {
            self.write(&entry.join("release_recover"), b"1")?;
        }
        self.remove(&entry)
    }

    /// Makes the lockspace's directory say what the change says. Departed ones
    /// go first; one that is back is another member than before.
    fn set_nodes(&self, start: &Start) -> Result<(), KernelError> {
        let mut told = self.told();
        if !told.spaces.contains_key(&start.lockspace) {
            self.make(&self.space(&start.lockspace))?;
            self.write(
                &self.control(&start.lockspace, "id"),
                start.id.to_string().as_bytes(),
            )?;
        }
        let nodes = told.spaces.entry(start.lockspace.clone()).or_default();
        let stays = |node: &NodeId| start.members.contains(node) && !start.renewed.contains(node);
        let gone: Vec<NodeId> = nodes.iter().copied().filter(|node| !stays(node)).collect();
        for node in gone {
            self.remove_node(start, node)?;
            nodes.remove(&node);
        }
        for node in &start.members {
            if !nodes.contains(node) {
                self.add_node(&start.lockspace, *node)?;
                nodes.insert(*node);
            }
        }
        Ok(())
    }
}

impl<F: Files> Kernel for Configfs<F> {
    fn name(&self) -> &'static str {
        "configfs"
    }

    fn reports_recovery(&self) -> bool {
        false
    }

    fn lockspaces(&self) -> Result<Vec<Found>, KernelError> {
        let found = |name| Found {
            name,
            request: Request::Unknown,
        };
        Ok(self.list(&self.sysfs)?.into_iter().map(found).collect())
    }

    /// The order matters to the module: the monitor is open before there is a
    /// local node, so that it never takes this for a daemon without monitor.
    fn begin(&self) -> Result<(), KernelError> {
        self.wipe()?;
        let cluster = self.cluster();
        self.make(&cluster)?;
        let log_debug: &[u8] = if self.identity.log_debug { b"1" } else { b"0" };
        self.write(&cluster.join("log_debug"), log_debug)?;
        self.write(&cluster.join("recover_callbacks"), b"1")?;
        // No newline: the module would keep it and no file system's name match.
        self.write(
            &cluster.join("cluster_name"),
            self.identity.cluster.as_bytes(),
        )?;
        let monitor = self.files.open_device("dlm-monitor")?;
        self.told().monitor = Some(monitor);
        Ok(())
    }

    /// Entries of those who are gone go first. This node's own stays: without
    /// it the module has no identity.
    fn set_members(&self, members: &Members) -> Result<(), KernelError> {
        let mut told = self.told();
        let own = self.identity.node;
        let stays = |node: &u32, life: &u64| members.get(node) == Some(life) || *node == own;
        let gone: Vec<u32> = told
            .comms
            .iter()
            .filter(|(n, life)| !stays(n, life))
            .map(|(n, _)| *n)
            .collect();
        for node in gone {
            self.remove(&self.comms().join(node.to_string()))?;
            told.comms.remove(&node);
        }
        let own_first = members.get_key_value(&own).into_iter();
        for (node, life) in own_first.chain(members.iter().filter(|(node, _)| **node != own)) {
            if !told.comms.contains_key(node) {
                self.add_comms(*node)?;
                told.comms.insert(*node, *life);
            }
        }
        Ok(())
    }

    fn stop(&self, lockspace: &str) -> Result<(), KernelError> {
        let control = self.control(lockspace, "control");
        match self.files.write(&control, STOP) {
            // Gone with its creator: nothing runs.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(failed("writing", &control)),
        }
    }

    fn start(&self, start: &Start) -> Result<(), KernelError> {
        self.set_nodes(start)?;
        self.write(&self.control(&start.lockspace, "control"), START)
    }

    fn answer(&self, lockspace: &str, result: i32) -> Result<Answered, KernelError> {
        let file = self.control(lockspace, "event_done");
        match self.files.write(&file, result.to_string().as_bytes()) {
            Ok(()) => Ok(Answered::Taken),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Answered::NobodyWaits),
            Err(error) => Err(failed("writing", &file)(error)),
        }
    }

    fn forget(&self, lockspace: &str) -> Result<(), KernelError> {
        let nodes = self.told().spaces.remove(lockspace);
        let Some(nodes) = nodes else { return Ok(()) };
        let space = self.space(lockspace);
        for node in nodes {
            self.remove(&space.join("nodes").join(node.to_string()))?;
        }
        self.remove(&space)
    }

    fn end(&self) -> Result<(), KernelError> {
        self.wipe()?;
        let mut told = self.told();
        *told = Told::default();
        Ok(())
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::File {
        action,
        path,
        source,
    }
}

/// `struct sockaddr_storage` with port 0, as `addr` takes it: family in host
/// byte order, then the fields of its kind.
fn socket_address(address: IpAddr) -> [u8; ADDRESS_LENGTH] {
    let mut bytes = [0; ADDRESS_LENGTH];
    let family = match address {
        IpAddr::V4(address) => {
            bytes[4..8].copy_from_slice(&address.octets());
            nix::libc::AF_INET
        }
        IpAddr::V6(address) => {
            bytes[8..24].copy_from_slice(&address.octets());
            nix::libc::AF_INET6
        }
    };
    // Both families' numbers are small.
    bytes[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    bytes
}
