// SPDX-License-Identifier: GPL-2.0-only
//! The daemons on the nodes of a cluster: configured, started in their order, asked through their
//! tools. Not what they should do: that is each scenario's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use guest_init::protocol::Run as Program;
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::node::Node;
use crate::node::Running;
use crate::node::program_of;
use crate::spec::Kind;
use crate::spec::UML_INTREE_MODULE;
use crate::spec::UML_MODULE;

/// Where our programs are on a node.
pub const BIN: &str = "/opt/conclave/bin";

/// More time than any step of a cluster takes on a busy host.
pub const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Between two looks at a state.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Which lock manager the nodes load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// Our `dlm.ko`.
    Ours,
    /// The one of the distribution's kernel.
    InTree,
}

impl Module {
    /// The command that loads it on a kind of node.
    #[must_use]
    pub fn load(self, kind: Kind) -> String {
        match (self, kind) {
            (Module::Ours, Kind::Qemu) => "insmod /opt/conclave/kmod/dlm.ko".to_owned(),
            (Module::Ours, Kind::Uml) => format!("insmod {UML_MODULE}"),
            (Module::InTree, Kind::Qemu) => "modprobe dlm".to_owned(),
            (Module::InTree, Kind::Uml) => format!("insmod {UML_INTREE_MODULE}"),
        }
    }

    /// The command that unloads it, and with it what used it.
    const UNLOAD: &str = "! grep -q ^gfs2 /proc/modules || rmmod gfs2; rmmod dlm";
}

/// The daemons of one node.
#[derive(Clone, Debug)]
pub struct Daemons {
    /// Membership.
    pub cmand: Running,
    /// Fencing.
    pub fenced: Running,
    /// Lockspaces.
    pub dlm_controld: Running,
}

/// The stack on all nodes of a cluster.
#[derive(Debug)]
pub struct Stack {
    cluster: Arc<Cluster>,
    modules: BTreeMap<u32, Module>,
    config: String,
    daemons: Mutex<BTreeMap<u32, Daemons>>,
}

impl Stack {
    /// The stack with its default settings and a lock manager for each node; nothing runs yet.
    #[must_use]
    pub fn new(cluster: &Arc<Cluster>, module: impl Fn(u32) -> Module) -> Self {
        let ids = cluster.nodes().iter().map(Node::id);
        Stack {
            cluster: Arc::clone(cluster),
            modules: ids.map(|id| (id, module(id))).collect(),
            config: config(cluster),
            daemons: Mutex::default(),
        }
    }

    /// Starts module and daemons on all nodes and waits until they are one quorate cluster.
    pub async fn start(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            self.start_on(node.id()).await?;
        }
        let all: Vec<u32> = self.cluster.nodes().iter().map(Node::id).collect();
        for id in &all {
            self.wait_for_view(*id, &all, STEP_LIMIT).await?;
        }
        Ok(())
    }

    /// Puts the configuration on a node that has booted, and loads its module.
    pub async fn prepare(&self, id: u32) -> Result<()> {
        let node = self.cluster.node(id);
        node.write_file("/etc/cluster/cluster.toml", self.config.as_bytes(), 0o644)
            .await?;
        // The same on every node and boot; a test cluster has no secrets.
        let key = "c0nclave".repeat(8);
        node.write_file("/etc/cluster/cluster.key", key.as_bytes(), 0o600)
            .await?;
        let module = self.modules[&id];
        node.sh(&module.load(node.kind())).await?.ok()?;
        Ok(())
    }

    /// Starts module and daemons on one node that has booted, each when the one before it
    /// listens.
    pub async fn start_on(&self, id: u32) -> Result<Daemons> {
        let node = self.cluster.node(id);
        self.prepare(id).await?;
        let cmand = daemon(node, "cmand").await?;
        let fenced = daemon(node, "fenced").await?;
        let dlm_controld = daemon(node, "dlm_controld").await?;
        let daemons = Daemons {
            cmand,
            fenced,
            dlm_controld,
        };
        let mut all = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, daemons.clone());
        Ok(daemons)
    }

    /// Starts dlm_controld again on a node where it has ended.
    pub async fn start_dlm_controld(&self, id: u32) -> Result<()> {
        let dlm_controld = daemon(self.cluster.node(id), "dlm_controld").await?;
        let mut all = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(daemons) = all.get_mut(&id) {
            daemons.dlm_controld = dlm_controld;
        }
        Ok(())
    }

    /// The daemons of a node.
    pub fn daemons(&self, id: u32) -> Result<Daemons> {
        let all = self.daemons.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id)
            .cloned()
            .with_context(|| format!("nothing was started on n{id}"))
    }

    /// The longest any node was silent and heard again in time, as the others saw it: how near
    /// the host came to failing a healthy node.
    pub async fn longest_silence(&self) -> Result<Duration> {
        let mut longest = 0;
        for node in self.cluster.nodes() {
            let tools = format!("{BIN}/cman_tool nodes --json");
            let seen = json(node, &tools).await?;
            let each = seen.as_array().into_iter().flatten();
            let each = each.filter_map(|node| node["longest_silent_ms"].as_u64());
            longest = longest.max(each.max().unwrap_or(0));
        }
        Ok(Duration::from_millis(longest))
    }

    /// Ends the daemons of all nodes in good order and unloads the module: nothing may be left.
    pub async fn stop(&self) -> Result<()> {
        for node in self.cluster.nodes() {
            let daemons = self.daemons(node.id())?;
            for daemon in [&daemons.dlm_controld, &daemons.fenced, &daemons.cmand] {
                daemon.stop(STEP_LIMIT).await?;
            }
            node.sh(Module::UNLOAD).await?.ok()?;
        }
        Ok(())
    }

    /// What `cman_tool status` says on a node.
    pub async fn status(&self, id: u32) -> Result<Value> {
        json(self.cluster.node(id), "cman_tool status --json").await
    }

    /// Waits until a node is in a quorate view of exactly these nodes.
    pub async fn wait_for_view(&self, id: u32, members: &[u32], limit: Duration) -> Result<()> {
        let what = format!("n{id} in a quorate view of {members:?}");
        let tools = format!("{BIN}/cman_tool nodes --json");
        self.wait(&what, limit, || async {
            let status = self.status(id).await?;
            let nodes = json(self.cluster.node(id), &tools).await?;
            let is_member = |node: &&Value| node["member"] == true;
            let nodes = nodes.as_array().cloned().unwrap_or_default();
            let seen: Vec<u64> = nodes
                .iter()
                .filter(is_member)
                .filter_map(|node| node["node"].as_u64())
                .collect();
            let wanted: Vec<u64> = members.iter().map(|id| u64::from(*id)).collect();
            Ok(status["quorate"] == true && seen == wanted)
        })
        .await
    }

    /// Waits until `cman_tool status` on a node says that it is (not) quorate; returns the answer.
    pub async fn wait_for_quorate(&self, id: u32, quorate: bool) -> Result<Value> {
        let what = format!("n{id} quorate={quorate}");
        self.wait(&what, STEP_LIMIT, || async {
            Ok(self.status(id).await?["quorate"] == quorate)
        })
        .await?;
        self.status(id).await
    }

    /// Waits until the fence domain has no victims, as this node sees it.
    pub async fn wait_for_no_victims(&self, id: u32) -> Result<()> {
        self.wait(&format!("n{id} without victims"), STEP_LIMIT, || async {
            let domain = json(self.cluster.node(id), "fence_tool ls --json").await?;
            Ok(domain["victim_count"] == 0 && domain["wait"] == "none")
        })
        .await
    }

    pub(crate) async fn wait<F>(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> F,
    ) -> Result<()>
    where
        F: Future<Output = Result<bool>>,
    {
        let start = Instant::now();
        loop {
            let last = look().await;
            if matches!(last, Ok(true)) {
                return Ok(());
            }
            if start.elapsed() >= limit {
                last?;
                bail!("{what}: not within {limit:?}");
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Asks a tool for JSON.
pub async fn json(node: &Node, command: &str) -> Result<Value> {
    let path = format!("PATH={BIN}:$PATH; {command}");
    let output = node.sh(&path).await?;
    // A tool that answers "no" (exit status 2) answers all the same.
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}: {command}: {}", node.name(), output.text()))
}

async fn daemon(node: &Node, name: &str) -> Result<Running> {
    let path = format!("{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    let program = Program {
        env: vec![("PATH".to_owned(), path)],
        ..program_of(&[&format!("{BIN}/{name}"), "--debug"])
    };
    let running = node.spawn(name, program)?;
    let look = format!("test -S /run/cluster/{name}.sock");
    let listens = node.wait_for_sh(&look, STEP_LIMIT);
    tokio::select! {
        listens = listens => listens.map(|_| running.clone()),
        end = running.wait(STEP_LIMIT) => {
            bail!("{name} on {} ended: {end:?}: {}", node.name(), running.lines().join("\n"))
        }
    }
}

fn config(cluster: &Cluster) -> String {
    let mut text = "[cluster]\nname = \"conclave\"\n[fence]\npost_join_delay_ms = 20000\n\
                    [[fence_device]]\nname = \"vm\"\nagent = \"fence_vm\"\n"
        .to_owned();
    for node in cluster.nodes() {
        let (id, name, address) = (node.id(), node.name(), node.address());
        text += &format!(
            "[[node]]\nid = {id}\nname = \"{name}\"\naddress = \"{address}\"\n\
             [[node.fence]]\nname = \"power\"\n\
             devices = [ {{ device = \"vm\", plug = \"{name}\" }} ]\n"
        );
    }
    text
}
