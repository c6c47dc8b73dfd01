// SPDX-License-Identifier: GPL-2.0-only
//! A cluster: nodes, the switch between them, their disk and their power switch.

use std::fs;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use guest_init::boot::FILES_DIR;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::assets::Assets;
use crate::cables::Cables;
use crate::console::Watchdog;
use crate::control::Control;
use crate::initramfs::Archive;
use crate::machine::Disk;
use crate::machine::MachineSpec;
use crate::node::Inner;
use crate::node::Node;
use crate::power::PowerLog;
use crate::run::Run;
use crate::spec::ClusterSpec;
use crate::spec::Kind;
use crate::spec::UML_INTREE_MODULE;
use crate::spec::UML_MODULE;
use crate::spec::Wiring;
use crate::switch::Mac;
use crate::switch::Switch;

/// Most nodes of a cluster: the last octet of an address, with room.
pub const NODES_MAX: u32 = 64;

/// Serial of the disk that init makes the root.
const ROOT_DISK: &str = "root";

/// Networks are told apart by the third octet, only so that logs of two clusters differ.
static NEXT_NETWORK: AtomicU32 = AtomicU32::new(0);

/// Where clusters come from: the built files and the run they belong to.
#[derive(Clone, Debug)]
pub struct Host {
    /// The built files.
    pub assets: Assets,
    /// The run.
    pub run: Arc<Run>,
}

/// A cluster. Dropping it ends its machines; [`Cluster::shutdown`] also waits for that.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    switch: Switch,
    power_log: PowerLog,
    is_closed: Arc<AtomicBool>,
    dir: PathBuf,
    shared_disk: Option<PathBuf>,
}

impl Cluster {
    /// Makes a cluster, starts all nodes side by side and waits until they are up. Its consoles
    /// are watched by `watchdog`, its logs go to a directory named `name`.
    pub async fn boot(
        host: &Host,
        watchdog: &Watchdog,
        name: &str,
        spec: &ClusterSpec,
    ) -> Result<Self> {
        let cluster = Self::prepare(host, watchdog, name, spec)?;
        cluster.power_on_all().await?;
        Ok(cluster)
    }

    /// Starts all nodes that are off, side by side, and waits until all are up.
    pub async fn power_on_all(&self) -> Result<()> {
        let mut starts = JoinSet::new();
        for node in self.nodes.clone() {
            starts.spawn(async move {
                node.power_on().await?;
                node.wait_until_up().await.map(drop)
            });
        }
        while let Some(start) = starts.join_next().await {
            start.context("starting a node")??;
        }
        Ok(())
    }

    /// Makes a cluster whose nodes are all off.
    pub fn prepare(
        host: &Host,
        watchdog: &Watchdog,
        name: &str,
        spec: &ClusterSpec,
    ) -> Result<Self> {
        if !(1..=NODES_MAX).contains(&spec.nodes) {
            bail!("{} nodes: a cluster has 1 to {NODES_MAX}", spec.nodes);
        }
        let dir = host.run.subdirectory(name)?;
        let files = Files::make(&host.assets, &dir, spec)?;
        let network = NEXT_NETWORK.fetch_add(1, Ordering::Relaxed) % 250 + 1;
        let switch = Switch::new(spec.seed);
        let cables = match spec.wiring {
            Wiring::Switch => None,
            Wiring::Cables if spec.kind == Kind::Uml => {
                Some(Arc::new(Cables::new(spec.nodes).context("making cables")?))
            }
            Wiring::Cables => bail!("only User Mode Linux nodes can be connected by cables"),
        };
        let power_log = PowerLog::default();
        let is_closed = Arc::new(AtomicBool::new(false));
        let nodes: Vec<Node> = (1..=spec.nodes)
            .map(|id| {
                let inner = Arc::new(Inner {
                    id,
                    address: address(network, id),
                    spec: machine_spec(spec, &files, &dir, network, id),
                    run: Arc::clone(&host.run),
                    switch: switch.clone(),
                    cables: cables.clone(),
                    watchdog: watchdog.clone(),
                    power_log: power_log.clone(),
                    control: Control::new(&format!("n{id}")),
                    machine: Mutex::new(None),
                    right_clock: Mutex::new(None),
                    is_closed: Arc::clone(&is_closed),
                    peers: OnceLock::new(),
                });
                Node { inner }
            })
            .collect();
        for node in &nodes {
            let all = nodes.iter().map(|peer| Arc::downgrade(&peer.inner));
            // The only place that sets it.
            let _ = node.inner.peers.set(all.collect());
        }
        Ok(Cluster {
            nodes,
            switch,
            power_log,
            is_closed,
            dir,
            shared_disk: files.shared_disk,
        })
    }

    /// Node number `id`, from 1.
    ///
    /// # Panics
    /// There is no such node.
    pub fn node(&self, id: u32) -> &Node {
        let node = self.nodes.iter().find(|node| node.id() == id);
        node.unwrap_or_else(|| panic!("no node {id} of {}", self.nodes.len()))
    }

    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Result<&Node> {
        let node = self.nodes.iter().find(|node| node.name() == name);
        node.with_context(|| {
            let names: Vec<_> = self.nodes.iter().map(Node::name).collect();
            format!("no node {name}; there are {}", names.join(", "))
        })
    }

    /// All nodes, by number.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The network.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// What the power switch was asked by nodes.
    pub fn power_log(&self) -> &PowerLog {
        &self.power_log
    }

    /// Where its logs are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Ends all machines and removes the shared disk; the logs stay.
    pub async fn shutdown(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::Release);
        let mut failure = Ok(());
        for node in &self.nodes {
            failure = failure.and(node.power_off().await);
        }
        if let Some(disk) = self.shared_disk.as_ref().filter(|disk| disk.exists()) {
            let removed = fs::remove_file(disk);
            let what = || format!("removing {}", disk.display());
            failure = failure.and(removed.with_context(what));
        }
        failure
    }
}

/// The files that the nodes of one cluster share.
struct Files {
    kernel: PathBuf,
    initramfs: PathBuf,
    disks: Vec<Disk>,
    shared_disk: Option<PathBuf>,
}

impl Files {
    fn make(assets: &Assets, dir: &Path, spec: &ClusterSpec) -> Result<Self> {
        match spec.kind {
            Kind::Qemu => Self::of_qemu(assets, dir, spec),
            Kind::Uml => Self::of_uml(assets, dir, spec),
        }
    }

    fn of_qemu(assets: &Assets, dir: &Path, spec: &ClusterSpec) -> Result<Self> {
        if !spec.files.is_empty() {
            bail!("extra files are given, but QEMU nodes have the payload");
        }
        let (disks, shared_disk) = disks(assets, dir, spec)?;
        Ok(Files {
            kernel: assets.kernel()?,
            initramfs: assets.initramfs()?,
            disks,
            shared_disk,
        })
    }

    fn of_uml(assets: &Assets, dir: &Path, spec: &ClusterSpec) -> Result<Self> {
        let mut archive = Archive::of_bare_node(&assets.init()?, &assets.busybox()?)?;
        let place = if spec.has_image { FILES_DIR } else { "" };
        for file in &spec.files {
            archive.add_file(&format!("{place}{}", file.to), &file.from)?;
        }
        // As with the payload: scenarios that do not need it run without.
        if spec.has_image
            && let Ok(module) = assets.uml_module(spec.uml_kernel)
        {
            archive.add_file(&format!("{place}{UML_MODULE}"), &module)?;
        }
        if spec.has_image {
            let module = assets.uml_intree_module(spec.uml_kernel)?;
            archive.add_file(&format!("{place}{UML_INTREE_MODULE}"), &module)?;
        }
        let initramfs = dir.join("initramfs.cpio");
        fs::write(&initramfs, archive.finish())
            .with_context(|| format!("writing {}", initramfs.display()))?;
        let (disks, shared_disk) = disks(assets, dir, spec)?;
        Ok(Files {
            kernel: assets.uml(spec.uml_kernel)?,
            initramfs,
            disks,
            shared_disk,
        })
    }
}

/// All disks of every node, and the path of the shared one.
fn disks(assets: &Assets, dir: &Path, spec: &ClusterSpec) -> Result<(Vec<Disk>, Option<PathBuf>)> {
    let mut disks = Vec::new();
    if spec.has_image {
        disks.push(read_only(ROOT_DISK, assets.root_image()?));
        disks.extend(assets.payload().map(|path| read_only("payload", path)));
    }
    let Some(mib) = spec.shared_disk_mib else {
        return Ok((disks, None));
    };
    let path = make_disk(dir, mib)?;
    disks.push(Disk {
        serial: "shared",
        path: path.clone(),
        is_shared: true,
    });
    Ok((disks, Some(path)))
}

fn read_only(serial: &'static str, path: PathBuf) -> Disk {
    let is_shared = false;
    Disk {
        serial,
        path,
        is_shared,
    }
}

/// A sparse file.
fn make_disk(dir: &Path, mib: u64) -> Result<PathBuf> {
    let path = dir.join("shared.raw");
    let what = || format!("making the shared disk {}", path.display());
    let file = File::create(&path).with_context(what)?;
    file.set_len(mib << 20).with_context(what)?;
    Ok(path)
}

fn address(network: u32, id: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a4d_0000 | (network & 0xff) << 8 | (id & 0xff))
}

fn mac(network: u32, id: u32) -> Mac {
    let [.., network, id] = address(network, id).octets();
    // Locally administered, in the range QEMU uses.
    [0x52, 0x54, 0x00, 0x4d, network, id]
}

fn machine_spec(
    spec: &ClusterSpec,
    files: &Files,
    dir: &Path,
    network: u32,
    id: u32,
) -> MachineSpec {
    let name = format!("n{id}");
    let address = address(network, id);
    let base = if files.disks.iter().any(|disk| disk.serial == ROOT_DISK) {
        "node.base=overlay"
    } else {
        ""
    };
    let append = format!(
        "node.name={name} node.address={address}/24 {base} {}",
        spec.append
    );
    MachineSpec {
        kind: spec.kind,
        name,
        counts_instructions: spec.counts_instructions,
        is_traced: spec.is_traced,
        mac: mac(network, id),
        memory_mib: spec.memory_mib,
        cpus: spec.cpus,
        kernel: files.kernel.clone(),
        initramfs: files.initramfs.clone(),
        disks: files.disks.clone(),
        append,
        dir: dir.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_the_scenarios_count_on() {
        assert_eq!(address(7, 3), Ipv4Addr::new(10, 77, 7, 3));
        assert_eq!(mac(7, 3), [0x52, 0x54, 0x00, 0x4d, 7, 3]);
    }
}
