// SPDX-License-Identifier: GPL-2.0-only
//! The control socket and the signals: translates between clients and the core.
//!
//! The order of what a client gets is the order in which the core told it:
//! answers and events come from one queue.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use cluster_rt::config;
use cluster_rt::config::Config;
use cluster_rt::log::Log;
use cluster_rt::notify::Manager;
use cluster_rt::notify::State;
use cluster_rt::server::ClientId;
use cluster_rt::server::Input;
use cluster_rt::server::Peer;
use cluster_rt::server::Server;
use cluster_rt::signals::Blocked;
use cluster_rt::signals::Signals;
use cmand_client::Event;
use cmand_client::Refusal;
use cmand_client::RefusalKind;
use cmand_client::Reply;
use cmand_client::Request;
use cmand_core::BootId;
use cmand_core::GroupView;
use cmand_core::NodeId;
use cmand_core::RequestError;
use cmand_core::Status;
use cmand_core::View;
use tokio::sync::mpsc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::mpsc::UnboundedSender;

use crate::Args;
use crate::Error;
use crate::convert;
use crate::engine::Caller;
use crate::engine::Command;
use crate::engine::Engine;
use crate::engine::Notice;
use crate::memory::Memory;

/// The others must agree to a leave within this many detection times.
const LEAVE_DETECTIONS: u32 = 5;

/// What the service needs.
pub(crate) struct Setup<'a> {
    pub(crate) args: &'a Args,
    pub(crate) config: &'a Config,
    pub(crate) node: &'a config::Node,
    pub(crate) log: &'a Log,
    pub(crate) memory: Memory,
    pub(crate) manager: Manager,
}

struct Service<'a> {
    setup: Setup<'a>,
    server: Server<Request>,
    engine: Engine,
    /// Subscribers and their names.
    subscribers: BTreeMap<ClientId, String>,
    /// Which client is this node's member of a group.
    owners: BTreeMap<String, ClientId>,
    /// Questions whether a node lives, until the core has answered.
    probes: BTreeMap<u64, Caller>,
    next_probe: u64,
    /// Who hears of boots that were fenced and are heard.
    watcher: Option<ClientId>,
    /// Joins that the core has not answered.
    joins: BTreeMap<(ClientId, u64), String>,
    view: Option<View>,
    quorum: Option<(bool, String)>,
    expelled: Option<String>,
    /// When each member of the view joined: its life, and seconds since the epoch.
    joined_at: BTreeMap<u32, (u64, u64)>,
    leaving: bool,
    /// The leave that a client asked for, until the core has answered.
    leave_asked: Option<Caller>,
    /// The membership thread was asked whether it turns, and has not answered.
    is_turning: bool,
}

/// Whether to go on.
enum Flow {
    On,
    End,
}

/// Serves until the node has left.
pub(crate) async fn run(
    setup: Setup<'_>,
    blocked: Blocked,
    start: impl FnOnce(UnboundedSender<Notice>) -> Result<Engine, Error>,
) -> Result<(), Error> {
    let system = |source| Error::System {
        what: "waiting for signals",
        source,
    };
    let server = Server::bind(&setup.args.socket)?;
    let (sender, mut notices) = mpsc::unbounded_channel();
    let engine = start(sender)?;
    // After the last thread has begun.
    let mut signals = blocked.listen().map_err(system)?;
    // Also without an address to wait for: clients are served, and a time limit of starts would end
    // a daemon that has nothing to do but to wait.
    setup.manager.tell(State::Ready);
    let mut service = Service {
        setup,
        server,
        engine,
        subscribers: BTreeMap::new(),
        owners: BTreeMap::new(),
        probes: BTreeMap::new(),
        next_probe: 0,
        watcher: None,
        joins: BTreeMap::new(),
        view: None,
        quorum: None,
        expelled: None,
        joined_at: BTreeMap::new(),
        leaving: false,
        leave_asked: None,
        is_turning: false,
    };
    let result = service.serve(&mut notices, &mut signals).await;
    service.setup.manager.tell(State::Stopping);
    service.server.shutdown().await;
    result
}

impl Service<'_> {
    async fn serve(
        &mut self,
        notices: &mut UnboundedReceiver<Notice>,
        signals: &mut Signals,
    ) -> Result<(), Error> {
        let limit = Duration::from_millis(u64::from(self.setup.config.cluster.detection_ms));
        let limit = limit * LEAVE_DETECTIONS;
        let mut deadline = None;
        loop {
            if self.leaving && deadline.is_none() {
                deadline = Some(tokio::time::Instant::now() + limit);
            }
            let expired = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let flow = tokio::select! {
                // What the core told comes before what clients ask next.
                biased;
                notice = notices.recv() => self.handle_notice(notice.ok_or(Error::EngineGone)?)?,
                signal = signals.told_to_end() => self.handle_signal(signal)?,
                () = expired => {
                    let reason = self.quorum.as_ref().map(|(_, reason)| reason.clone());
                    let reason = reason.filter(|reason| !reason.is_empty());
                    let text = reason.unwrap_or_else(|| "no agreement in time".to_owned());
                    return Err(Error::NotLeft(text));
                }
                input = self.server.next() => self.handle_input(input)?,
                () = self.setup.manager.due(), if !self.is_turning => self.turn()?,
            };
            match flow {
                Flow::On => {}
                Flow::End => return Ok(()),
            }
        }
    }

    /// Sends the membership thread a question that goes round with its work: a keep-alive says that
    /// both loops turn.
    fn turn(&mut self) -> Result<Flow, Error> {
        self.is_turning = true;
        self.engine.command(Command::Turn)?;
        Ok(Flow::On)
    }

    /// Leaves, unless a client is a member of a group here: it would fail in it, which for one that
    /// uses lockspaces means that this node is reset.
    fn handle_signal(&mut self, signal: &str) -> Result<Flow, Error> {
        if self.leaving {
            return Err(Error::NotLeft("asked to end a second time".to_owned()));
        }
        for (group, client) in &self.owners {
            let client = self.name_of(*client);
            tracing::warn!(
                signal,
                group,
                client,
                "told to end, but a client is a member of a group; staying: end it first"
            );
        }
        if !self.owners.is_empty() {
            return Ok(Flow::On);
        }
        tracing::info!(signal, "leaving the cluster");
        self.leaving = true;
        let (caller, force) = (None, true);
        self.engine.command(Command::Leave { caller, force })?;
        Ok(Flow::On)
    }

    fn name_of(&self, client: ClientId) -> &str {
        self.subscribers
            .get(&client)
            .map_or("unknown", String::as_str)
    }

    fn handle_input(&mut self, input: Input<Request>) -> Result<Flow, Error> {
        match input {
            Input::Request {
                client,
                peer,
                id,
                request,
            } => {
                let caller = Caller { client, id };
                match self.handle_request(caller, peer, request) {
                    Ok(Some(command)) => self.engine.command(command)?,
                    Ok(None) => {}
                    Err(refusal) => self.reply(caller, Err(refusal)),
                }
            }
            Input::Gone { client } => self.handle_gone(client)?,
        }
        Ok(Flow::On)
    }

    fn reply(&self, caller: Caller, reply: Result<Reply, Refusal>) {
        self.server.reply(caller.client, caller.id, reply);
    }

    /// Answers, or gives the command that will be answered.
    fn handle_request(
        &mut self,
        caller: Caller,
        peer: Peer,
        request: Request,
    ) -> Result<Option<Command>, Refusal> {
        if !request.is_public() {
            peer.require_privileged()?;
        }
        Ok(match request {
            Request::Status => Some(Command::Status {
                caller,
                nodes: false,
            }),
            Request::Nodes => Some(Command::Status {
                caller,
                nodes: true,
            }),
            Request::Dump => {
                self.reply(caller, Ok(Reply::Dump(self.setup.log.dump())));
                None
            }
            Request::Subscribe { client } => {
                self.subscribe(caller, client);
                None
            }
            Request::GroupJoin { group } => {
                self.claim(caller, &group)?;
                Some(Command::Join { caller, group })
            }
            Request::GroupLeave { group } => {
                self.check_owner(caller, &group)?;
                Some(Command::LeaveGroup { caller, group })
            }
            Request::GroupSend { group, payload } => {
                self.check_owner(caller, &group)?;
                Some(Command::Send {
                    caller,
                    group,
                    payload,
                })
            }
            Request::Probe { node, boot_id } => Some(self.probe(caller, node, boot_id)?),
            Request::WatchEnded { ended } => {
                self.watcher = Some(caller.client);
                self.reply(caller, Ok(Reply::Done));
                let ended = ended.iter().map(|ended| (ended.node, ended.boot_id));
                Some(Command::WatchEnded {
                    ended: ended.collect(),
                })
            }
            Request::KeepOut { nodes } => {
                self.reply(caller, Ok(Reply::Done));
                let nodes = nodes.iter().map(|kept| (kept.node, kept.boot_id));
                Some(Command::KeepOut {
                    nodes: nodes.collect(),
                })
            }
            Request::AcceptConfig => Some(Command::AcceptConfig { caller }),
            Request::Leave { force } => {
                self.leave_asked = Some(caller);
                let caller = Some(caller);
                Some(Command::Leave { caller, force })
            }
        })
    }

    /// The command for a question whether a node lives.
    fn probe(
        &mut self,
        caller: Caller,
        node: NodeId,
        boot: Option<BootId>,
    ) -> Result<Command, Refusal> {
        if self.setup.config.node(node.0).is_none() {
            let message = format!("no node has the id {node}");
            return Err(Refusal::new(RefusalKind::NotFound, message));
        }
        let token = self.next_probe;
        self.next_probe += 1;
        self.probes.insert(token, caller);
        Ok(Command::Probe { token, node, boot })
    }

    fn subscribe(&mut self, caller: Caller, name: String) {
        tracing::debug!(client = %caller.client, name, "subscribed");
        self.subscribers.insert(caller.client, name);
        self.reply(caller, Ok(Reply::Done));
        if let Some(reason) = &self.expelled {
            let reason = reason.clone();
            return self.server.event(caller.client, Event::Expelled { reason });
        }
        if let Some(view) = &self.view {
            let view = Event::View(view.clone());
            self.server.event(caller.client, view);
        }
        if let Some((quorate, reason)) = self.quorum.clone() {
            self.server
                .event(caller.client, Event::Quorum { quorate, reason });
        }
    }

    /// A group has one member per node: the first client that asks.
    fn claim(&mut self, caller: Caller, group: &str) -> Result<(), Refusal> {
        if !self.subscribers.contains_key(&caller.client) {
            let message = "subscribe before joining a group: its messages are events";
            return Err(Refusal::new(RefusalKind::Invalid, message));
        }
        if let Some(owner) = self.owners.get(group) {
            let message = format!(
                "client {} is this node's member of group {group:?} already",
                self.name_of(*owner)
            );
            return Err(Refusal::new(RefusalKind::Busy, message));
        }
        self.owners.insert(group.to_owned(), caller.client);
        self.joins
            .insert((caller.client, caller.id), group.to_owned());
        Ok(())
    }

    fn check_owner(&self, caller: Caller, group: &str) -> Result<(), Refusal> {
        if self.owners.get(group) == Some(&caller.client) {
            return Ok(());
        }
        let message = format!("this client is not a member of group {group:?}");
        Err(Refusal::new(RefusalKind::NotFound, message))
    }

    /// A client that is gone without leaving its groups has failed in them.
    fn handle_gone(&mut self, client: ClientId) -> Result<(), Error> {
        let name = self.subscribers.remove(&client);
        // In the order of their names, and all before the client's successor can join any: whoever
        // sees that one in the first group knows that the failure in the others was before.
        let groups = self.owners.iter().filter(|(_, owner)| **owner == client);
        let groups: Vec<String> = groups.map(|(group, _)| group.clone()).collect();
        for group in groups {
            tracing::warn!(
                group,
                client = name.as_deref(),
                "a member is gone without leaving"
            );
            self.owners.remove(&group);
            self.engine.command(Command::FailGroup { group })?;
        }
        self.joins.retain(|(owner, _), _| *owner != client);
        self.probes.retain(|_, caller| caller.client != client);
        if self.watcher == Some(client) {
            self.watcher = None;
            self.engine
                .command(Command::WatchEnded { ended: Vec::new() })?;
        }
        Ok(())
    }

    fn handle_notice(&mut self, notice: Notice) -> Result<Flow, Error> {
        match notice {
            Notice::Turned => {
                self.is_turning = false;
                self.setup.manager.turned();
            }
            Notice::Waiting { reason } => self.setup.manager.tell(State::Status(reason)),
            Notice::Failed(error) => return Err(error),
            Notice::Answer { caller, result } => self.answer(caller, result),
            Notice::CannotLeave(error) => {
                tracing::warn!(%error, "ending without a leave");
                return Ok(Flow::End);
            }
            Notice::Status {
                caller,
                nodes,
                status,
            } => self.answer_status(caller, nodes, &status),
            Notice::View(view) => self.handle_view(view),
            Notice::Quorum { quorate, reason } => {
                self.quorum = Some((quorate, reason.clone()));
                self.tell_all(&Event::Quorum { quorate, reason });
            }
            Notice::Group(view) => self.handle_group(view),
            Notice::Message {
                group,
                from,
                payload,
            } => {
                if let Some(owner) = self.owners.get(&group) {
                    let message = Event::Message {
                        group,
                        from,
                        payload,
                    };
                    self.server.event(*owner, message);
                }
            }
            Notice::Expelled { reason } => {
                self.tell_all(&Event::Expelled {
                    reason: reason.clone(),
                });
                let line = format!("expelled: {reason}");
                self.setup.manager.tell(State::Status(line));
                self.expelled = Some(reason);
            }
            Notice::Rejoining => self.view = None,
            Notice::Refused { reason } => return Err(Error::Refused(reason)),
            Notice::Left => {
                tracing::info!("left the cluster");
                return Ok(Flow::End);
            }
            Notice::Remember { view_floor, config } => self.setup.memory.keep(view_floor, config),
            Notice::Probed { token, alive } => {
                if let Some(caller) = self.probes.remove(&token) {
                    self.reply(caller, Ok(Reply::Alive(alive)));
                }
            }
            Notice::Returned {
                node,
                incarnation,
                boot,
            } => {
                if let Some(watcher) = self.watcher {
                    let event = Event::Returned {
                        node,
                        incarnation,
                        boot_id: boot,
                    };
                    self.server.event(watcher, event);
                }
            }
            Notice::NotProbed { token, error } => {
                if let Some(caller) = self.probes.remove(&token) {
                    self.reply(caller, Err(convert::refusal(&error)));
                }
            }
            Notice::Accepted { caller, beside } => self.reply(caller, Ok(Reply::Accepted(beside))),
        }
        Ok(Flow::On)
    }

    fn tell_all(&self, event: &Event) {
        for client in self.subscribers.keys() {
            self.server.event(*client, event);
        }
    }

    fn answer(&mut self, caller: Caller, result: Result<(), RequestError>) {
        if self.leave_asked == Some(caller) {
            self.leave_asked = None;
            self.leaving |= result.is_ok();
        }
        let joined = self.joins.remove(&(caller.client, caller.id));
        if let (Some(group), Err(_)) = (&joined, &result) {
            self.owners.remove(group);
        }
        let result = result.map(|()| Reply::Done);
        self.reply(caller, result.map_err(|error| convert::refusal(&error)));
    }

    fn handle_view(&mut self, view: View) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let old = std::mem::take(&mut self.joined_at);
        for member in &view.members {
            let (node, life) = (member.node.0, member.incarnation.0);
            let since = old.get(&node).filter(|(known, _)| *known == life);
            let since = since.map_or(now, |(_, since)| *since);
            self.joined_at.insert(node, (life, since));
        }
        let members = view.members.len();
        let line = format!("view {}, {members} members", view.number);
        self.setup.manager.tell(State::Status(line));
        self.tell_all(&Event::View(view.clone()));
        self.view = Some(view);
    }

    fn handle_group(&mut self, view: GroupView) {
        let group = view.group.clone();
        let me = cmand_core::NodeId(self.setup.node.id);
        let ended = !view.members.contains(&me);
        if let Some(owner) = self.owners.get(&group) {
            let event = Event::Group(view);
            self.server.event(*owner, event);
        }
        if ended {
            self.owners.remove(&group);
        }
    }

    fn answer_status(&self, caller: Caller, nodes: bool, status: &Status) {
        let reply = if nodes {
            Reply::Nodes(self.nodes(status))
        } else {
            Reply::Status(Box::new(self.status(status)))
        };
        self.reply(caller, Ok(reply));
    }

    fn status(&self, status: &Status) -> cmand_client::Status {
        let Setup { config, node, .. } = &self.setup;
        let counters = status.counters.iter();
        cmand_client::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: config.cluster.name.clone(),
            node: cmand_client::NodeId(node.id),
            name: node.name.clone(),
            address: node.address.to_string(),
            membership: convert::membership(status.standing),
            view: status.view,
            members: status.members,
            expected_votes: config.cluster.expected_votes,
            total_votes: status.votes,
            node_votes: node.votes,
            quorum: status.quorum,
            quorate: status.quorate,
            reason: self
                .expelled
                .clone()
                .unwrap_or_else(|| status.reason.clone()),
            groups: self.owners.keys().cloned().collect(),
            clients: self.subscribers.values().cloned().collect(),
            foreign: status.foreign.clone(),
            longest_pause_ms: status.longest_pause_ms,
            counters: counters.map(|(name, n)| ((*name).to_owned(), *n)).collect(),
        }
    }

    fn nodes(&self, status: &Status) -> Vec<cmand_client::Node> {
        let nodes = self.setup.config.nodes.iter();
        nodes
            .filter_map(|node| {
                let known = status.nodes.get(&cmand_core::NodeId(node.id))?;
                let joined_at = self.joined_at.get(&node.id).filter(|_| known.member);
                Some(cmand_client::Node {
                    node: cmand_client::NodeId(node.id),
                    name: node.name.clone(),
                    address: node.address.to_string(),
                    votes: node.votes,
                    member: known.member,
                    heard: known.heard,
                    silent_ms: known.silent_ms,
                    longest_silent_ms: known.longest_silent_ms,
                    incarnation: known.incarnation,
                    joined_view: known.joined_view,
                    joined_at: joined_at.map(|(_, since)| *since),
                })
            })
            .collect()
    }
}
