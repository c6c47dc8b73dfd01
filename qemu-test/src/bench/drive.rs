// SPDX-License-Identifier: GPL-2.0-only
//! Forms lockspaces over nodes without any daemon, and takes them through joins, leaves and deaths,
//! in the order that the daemons keep: all members stop, then all are told the new members, then
//! all start. Both lock managers are driven the same way; [`hand`] knows how each is told.
//!
//! Nothing is agreed between nodes here, as one task tells all of them: what is measured is the
//! lock manager alone.

pub mod hand;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use anyhow::ensure;
use tokio::time::Instant;

use super::load::Bench;
use super::load::Create;
use super::load::Release;
use crate::cluster::Cluster;
use crate::node::Node;
use crate::stack::Module;
use hand::Hand;
use hand::Identity;

/// More time than any step takes that is not measured.
pub const STEP_LIMIT: Duration = Duration::from_secs(60);

/// More time than a recovery takes, of a million locks on a busy host.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(300);

/// What all members of a lockspace agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpaceSpec {
    /// Name of the lockspace.
    pub name: String,
    /// Whether callbacks may come in softirq.
    pub softirq: bool,
    /// Length of value blocks.
    pub lvb_len: u32,
}

impl SpaceSpec {
    /// A lockspace with value blocks of 32 bytes, as GFS2's.
    #[must_use]
    pub fn new(name: &str, softirq: bool) -> Self {
        SpaceSpec {
            name: name.to_owned(),
            softirq,
            lvb_len: 32,
        }
    }
}

/// How a change of members went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    /// From the word to stop until all members had stopped.
    pub stop: Duration,
    /// From the word to start until all members had reported the end of their recovery, as seen
    /// from here.
    pub total: Duration,
    /// What each member's kernel says.
    pub nodes: BTreeMap<u32, Recovered>,
}

impl Recovery {
    /// The longest of the members' recoveries, as their kernels tell it.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let all = self.nodes.values().map(|node| node.took);
        all.max().unwrap_or_default()
    }
}

/// A recovery as a member's kernel tells it in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// When it began, since boot. As exact as the log: on User Mode Linux, to a tick.
    pub begin: Duration,
    /// When it ended, since boot.
    pub end: Duration,
    /// How long it took, in whole ms; the in-tree lock manager counts ticks.
    pub took: Duration,
}

/// A lockspace and its members.
#[derive(Debug)]
struct Space {
    spec: SpaceSpec,
    id: u32,
    members: BTreeSet<u32>,
}

/// A node with a lock manager that is steered from here.
#[derive(Debug)]
struct Driven {
    hand: Hand,
    bench: Bench,
}

/// Drives one lock manager on all nodes of a cluster.
#[derive(Debug)]
pub struct Driver {
    cluster: Arc<Cluster>,
    module: Module,
    nodes: BTreeMap<u32, Driven>,
    spaces: BTreeMap<String, Space>,
    /// How often each node was started.
    lives: BTreeMap<u32, u64>,
    ids: u32,
}

impl Driver {
    /// Loads the lock manager and the benchmark module on all nodes, which are up, and tells each
    /// about the others.
    pub async fn start(cluster: &Arc<Cluster>, module: Module) -> Result<Self> {
        let mut driver = Driver {
            cluster: Arc::clone(cluster),
            module,
            nodes: BTreeMap::new(),
            spaces: BTreeMap::new(),
            lives: BTreeMap::new(),
            ids: 0,
        };
        for node in cluster.nodes() {
            driver.start_on(node.id()).await?;
        }
        Ok(driver)
    }

    /// The same on one node that has just booted (again).
    pub async fn start_on(&mut self, id: u32) -> Result<()> {
        ensure!(!self.nodes.contains_key(&id), "n{id} is driven already");
        let node = self.cluster.node(id);
        node.sh(&self.module.load(node.kind())).await?.ok()?;
        let bench = Bench::load(node).await?;
        let life = self.lives.entry(id).or_insert(0);
        *life += 1;
        let own = self.identity(node);
        let hand = Hand::start(node, self.module, own).await?;
        for (peer, driven) in &self.nodes {
            hand.peer_up(self.identity(self.cluster.node(*peer)))
                .await?;
            driven.hand.peer_up(own).await?;
        }
        self.nodes.insert(id, Driven { hand, bench });
        Ok(())
    }

    fn identity(&self, node: &Node) -> Identity {
        Identity {
            id: node.id(),
            address: node.address(),
            life: self.lives.get(&node.id()).copied().unwrap_or(1),
        }
    }

    /// Which lock manager it is.
    #[must_use]
    pub fn module(&self) -> Module {
        self.module
    }

    /// The benchmark module of a node.
    pub fn bench(&self, id: u32) -> Result<Bench> {
        Ok(self.driven(id)?.bench.clone())
    }

    /// Members of a lockspace.
    pub fn members(&self, name: &str) -> Result<Vec<u32>> {
        Ok(self.space(name)?.members.iter().copied().collect())
    }

    fn driven(&self, id: u32) -> Result<&Driven> {
        let driven = self.nodes.get(&id);
        driven.with_context(|| format!("n{id} is not driven"))
    }

    fn space(&self, name: &str) -> Result<&Space> {
        let space = self.spaces.get(name);
        space.with_context(|| format!("there is no lockspace {name}"))
    }

    /// Makes a lockspace; its members join one after the other, in this order.
    pub async fn form(&mut self, spec: &SpaceSpec, members: &[u32]) -> Result<()> {
        ensure!(
            !self.spaces.contains_key(&spec.name),
            "lockspace {} exists",
            spec.name
        );
        self.ids += 1;
        let space = Space {
            spec: spec.clone(),
            id: self.ids,
            members: BTreeSet::new(),
        };
        self.spaces.insert(spec.name.clone(), space);
        for id in members {
            self.join(&spec.name, *id).await?;
        }
        Ok(())
    }

    /// One more node joins.
    pub async fn join(&mut self, name: &str, id: u32) -> Result<Recovery> {
        let space = self.space(name)?;
        ensure!(!space.members.contains(&id), "n{id} is in {name} already");
        let driven = self.driven(id)?;
        let create = Create {
            lockspace: name.to_owned(),
            softirq: space.spec.softirq,
            lvb_len: space.spec.lvb_len,
        };
        let asked = driven.hand.watch_requests();
        let change = async {
            driven.hand.wait_for_join(name, asked).await?;
            let stop = self.stop(name, &space.members).await?;
            let mut members = space.members.clone();
            members.insert(id);
            let (total, nodes) = self.restart(space, &members, &[], Some(id)).await?;
            anyhow::Ok(Recovery { stop, total, nodes })
        };
        let created = driven.bench.run(&create, RECOVERY_LIMIT);
        let ((), recovery) =
            tokio::try_join!(created, change).with_context(|| format!("n{id} joining {name}"))?;
        if let Some(space) = self.spaces.get_mut(name) {
            space.members.insert(id);
        }
        Ok(recovery)
    }

    /// A node leaves; returns the recovery of those who stay, if there are any.
    pub async fn leave(&mut self, name: &str, id: u32) -> Result<Option<Recovery>> {
        let space = self.space(name)?;
        ensure!(space.members.contains(&id), "n{id} is not in {name}");
        let driven = self.driven(id)?;
        let release = Release {
            lockspace: name.to_owned(),
        };
        let mut members = space.members.clone();
        members.remove(&id);
        let asked = driven.hand.watch_requests();
        let change = async {
            driven.hand.wait_for_leave(name, asked).await?;
            // The others only now: whoever stops them first has the leaver wait for ever.
            let stop = self.stop(name, &members).await?;
            driven.hand.let_go(name).await?;
            if members.is_empty() {
                return Ok(None);
            }
            let (total, nodes) = self.restart(space, &members, &[], None).await?;
            anyhow::Ok(Some(Recovery { stop, total, nodes }))
        };
        let released = driven.bench.run(&release, RECOVERY_LIMIT);
        let ((), recovery) =
            tokio::try_join!(released, change).with_context(|| format!("n{id} leaving {name}"))?;
        self.set_members(name, members);
        Ok(recovery)
    }

    fn set_members(&mut self, name: &str, members: BTreeSet<u32>) {
        if members.is_empty() {
            self.spaces.remove(name);
        } else if let Some(space) = self.spaces.get_mut(name) {
            space.members = members;
        }
    }

    /// A node's power goes, and the members of its only lockspace recover from that. The node may
    /// be switched on afterwards and started again with [`Driver::start_on`].
    pub async fn die(&mut self, name: &str, id: u32) -> Result<Recovery> {
        let space = self.space(name)?;
        ensure!(space.members.contains(&id), "n{id} is not in {name}");
        for other in self.spaces.values() {
            let is_shared = other.members.contains(&id) && other.spec.name != name;
            ensure!(!is_shared, "n{id} is in {} too", other.spec.name);
        }
        let mut members = space.members.clone();
        members.remove(&id);
        ensure!(!members.is_empty(), "nobody survives n{id}");
        self.cluster.node(id).power_off().await?;
        let gone = self.identity(self.cluster.node(id));
        let at = Instant::now();
        for peer in self.nodes.keys().filter(|peer| **peer != id) {
            self.driven(*peer)?.hand.peer_down(gone).await?;
        }
        self.stop(name, &members).await?;
        let stop = at.elapsed();
        for peer in self.nodes.keys().filter(|peer| **peer != id) {
            self.driven(*peer)?.hand.peer_gone(name, gone).await?;
        }
        let (total, nodes) = self.restart(space, &members, &[id], None).await?;
        self.nodes.remove(&id);
        self.set_members(name, members);
        Ok(Recovery { stop, total, nodes })
    }

    /// Stops a lockspace on these nodes, side by side; returns how long that took.
    async fn stop(&self, name: &str, members: &BTreeSet<u32>) -> Result<Duration> {
        let at = Instant::now();
        let stops = members.iter().map(|id| async move {
            let driven = self.driven(*id)?;
            driven.hand.stop(name).await
        });
        all(stops).await?;
        Ok(at.elapsed())
    }

    /// Starts a lockspace that is stopped everywhere, with these members, and waits until all of
    /// them have recovered. `joiner` waits for an answer.
    async fn restart(
        &self,
        space: &Space,
        members: &BTreeSet<u32>,
        failed: &[u32],
        joiner: Option<u32>,
    ) -> Result<(Duration, BTreeMap<u32, Recovered>)> {
        let name = &space.spec.name;
        let (own_id, list): (u32, Vec<u32>) = (space.id, members.iter().copied().collect());
        let list = &list;
        let prepares = members.iter().map(|id| async move {
            let driven = self.driven(*id)?;
            driven.hand.set_members(name, own_id, list).await
        });
        all(prepares).await?;
        let mut since = BTreeMap::new();
        for id in members {
            since.insert(*id, self.driven(*id)?.hand.watch_recovery());
        }
        let at = Instant::now();
        let starts = members.iter().map(|id| async move {
            let hand = &self.driven(*id)?.hand;
            hand.start_lockspace(name, own_id, list, failed).await?;
            if joiner == Some(*id) {
                hand.answer(name).await?;
            }
            anyhow::Ok(())
        });
        all(starts).await?;
        let since = &since;
        let ends = members.iter().map(|id| async move {
            let hand = &self.driven(*id)?.hand;
            let since = since.get(id).copied().unwrap_or_default();
            let end = hand.wait_for_recovery(name, since, RECOVERY_LIMIT).await;
            Ok((
                *id,
                end.with_context(|| format!("n{id} recovering {name}"))?,
            ))
        });
        let nodes = all(ends).await?.into_iter().collect();
        Ok((at.elapsed(), nodes))
    }

    /// Has all nodes leave all lockspaces, and unloads both modules everywhere.
    pub async fn end(mut self) -> Result<()> {
        let names: Vec<String> = self.spaces.keys().cloned().collect();
        for name in names {
            for id in self.members(&name)? {
                self.leave(&name, id).await?;
            }
        }
        for (id, driven) in self.nodes {
            driven.bench.unload().await?;
            driven.hand.end().await?;
            let node = self.cluster.node(id);
            node.sh("rmmod dlm").await?.ok()?;
        }
        Ok(())
    }
}

/// Runs futures side by side; their results in order, or the first error.
async fn all<T>(
    futures: impl IntoIterator<Item = impl Future<Output = Result<T>>>,
) -> Result<Vec<T>> {
    let mut pending: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut results: Vec<Option<T>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_ready = true;
        for (future, result) in pending.iter_mut().zip(&mut results) {
            if result.is_some() {
                continue;
            }
            match future.as_mut().poll(context) {
                std::task::Poll::Ready(Ok(value)) => *result = Some(value),
                std::task::Poll::Ready(Err(error)) => return std::task::Poll::Ready(Err(error)),
                std::task::Poll::Pending => is_ready = false,
            }
        }
        if is_ready {
            std::task::Poll::Ready(Ok(()))
        } else {
            std::task::Poll::Pending
        }
    })
    .await?;
    let results: Option<Vec<T>> = results.into_iter().collect();
    match results {
        Some(results) => Ok(results),
        None => bail!("a step has no result"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn futures_run_side_by_side_and_keep_their_order() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let waits = async { Ok(receiver.await?) };
        let sends = async move {
            sender
                .send(1)
                .map_err(|_| anyhow::anyhow!("nobody waits"))?;
            Ok(2)
        };
        let boxed: [std::pin::Pin<Box<dyn Future<Output = Result<i32>>>>; 2] =
            [Box::pin(waits), Box::pin(sends)];
        assert_eq!(all(boxed).await.unwrap(), [1, 2]);
        let fails = [async { anyhow::Ok(1) }].into_iter().map(|one| async {
            one.await?;
            bail!("no")
        });
        assert!(all::<()>(fails).await.is_err());
    }
}
