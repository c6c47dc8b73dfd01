// SPDX-License-Identifier: GPL-2.0-only
//! The daemon around the fence domain: one loop that waits for cmand, clients,
//! agents' reports, signals and the domain's timer, feeds the domain, and carries out
//! its effects afterwards, never inside.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use cluster_rt::client::CallError;
use cluster_rt::client::ServerFrame;
use cluster_rt::config::Config;
use cluster_rt::config::IdentityError;
use cluster_rt::exit;
use cluster_rt::log::Log;
use cluster_rt::notify::Manager;
use cluster_rt::notify::State;
use cluster_rt::server::BindError;
use cluster_rt::server::ClientId;
use cluster_rt::server::Input;
use cluster_rt::server::Peer;
use cluster_rt::server::Server;
use cluster_rt::signals::Signals;
use fence_agent::Plan;
use fence_agent::PlanError;
use fenced_client::Reply;
use fenced_client::Request;
use fenced_core::Domain;
use fenced_core::Effect;
use fenced_core::NodeId;
use fenced_core::victim::Record;
use fenced_core::wire::Message;

use crate::agent::Agents;
use crate::agent::Done;
use crate::agent::Report;
use crate::report;

/// The group all fence daemons of a cluster join.
const GROUP: &str = "fence:default";

/// How long the end waits for the others to agree that this node has left.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// What the daemon takes from the configuration.
#[derive(Debug)]
pub(crate) struct Settings {
    domain: fenced_core::Config,
    names: BTreeMap<NodeId, String>,
    plan: Plan,
}

impl Settings {
    /// `credentials`: the directory in which the service manager leaves secrets.
    ///
    /// # Errors
    /// When this machine is none of the configured nodes, or secrets of a device cannot be had.
    pub(crate) fn new(
        config: &Config,
        name: Option<&str>,
        credentials: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let node = NodeId(config.local_node(name)?.id);
        Ok(Self {
            domain: fenced_core::Config {
                node,
                nodes: config.nodes.iter().map(|node| NodeId(node.id)).collect(),
                post_fail_delay_ms: config.fence.post_fail_delay_ms.into(),
                post_join_delay_ms: config.fence.post_join_delay_ms.into(),
                clean_start: config.fence.clean_start,
                limits: fenced_core::domain::LIMITS,
            },
            names: config
                .nodes
                .iter()
                .map(|n| (NodeId(n.id), n.name.clone()))
                .collect(),
            plan: Plan::new(config, credentials)?,
        })
    }
}

/// The configuration does not do for this machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// Why the daemon ended although nobody asked it to.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("connection to cmand: {0}")]
    Cmand(#[from] CallError),
    #[error("cmand refused: {0}")]
    Refused(cmand_client::Refusal),
    #[error("the cluster went on without this node: {0}; reset it")]
    Expelled(String),
    #[error("setting up signals: {0}")]
    Signals(std::io::Error),
}

impl DaemonError {
    /// The exit status that tells a service manager what to do.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Bind(BindError::Running { .. }) => exit::RUNNING,
            Self::Bind(BindError::System { .. })
            | Self::Cmand(_)
            | Self::Refused(_)
            | Self::Signals(_) => exit::FAILED,
            Self::Expelled(_) => exit::RESET,
        }
    }
}

/// fenced at work.
pub(crate) struct Daemon {
    settings: Settings,
    domain: Domain,
    server: Server<Request>,
    cmand: cmand_client::Connection,
    log: Log,
    begun: Instant,
    agents: Agents,
    /// What watched devices said last.
    devices: BTreeMap<String, fenced_client::Device>,
    /// What the run under way is doing.
    doing: String,
    subscribers: BTreeSet<ClientId>,
    /// Clients that must not end, and why this node is fenced when one does.
    needed: BTreeMap<ClientId, String>,
    /// Clients' requests that wait for the domain, by the number in the message.
    waiting: BTreeMap<u64, (ClientId, u64)>,
    next_request: u64,
    last_failure: String,
    /// Whether the attempt under way is worth lines in the log.
    verbose: bool,
    /// What subscribers were told last.
    told: fenced_client::State,
    /// What cmand was told of boots that have ended, and of nodes that are kept out.
    told_cmand: Option<(Vec<cmand_client::Ended>, Vec<cmand_client::Kept>)>,
}

impl Daemon {
    /// Opens the control socket, connects to cmand and asks to join the domain.
    pub(crate) async fn start(
        settings: Settings,
        socket: &Path,
        cmand: &Path,
        log: Log,
    ) -> Result<Self, DaemonError> {
        let mut settings = settings;
        let server = Server::bind(socket)?;
        settings.plan.ask_agents().await;
        for complaint in &settings.plan.complaints {
            tracing::error!(%complaint, "fencing may fail; mend cluster.toml or install the agent");
        }
        let mut agents = Agents::new(std::mem::take(&mut settings.plan.known), cmand);
        let devices = &settings.plan.devices;
        devices.iter().for_each(|device| agents.watch(device));
        let devices = devices
            .iter()
            .map(|device| (device.call.device.clone(), report::device(device)))
            .collect();
        let mut cmand = cmand_client::connect(cmand).await?;
        let client = "fenced".to_owned();
        cmand
            .0
            .send(&cmand_client::Request::Subscribe { client })
            .await?;
        cmand
            .0
            .send(&cmand_client::Request::GroupJoin {
                group: GROUP.into(),
            })
            .await?;
        Ok(Self {
            domain: Domain::new(settings.domain.clone()),
            settings,
            server,
            cmand,
            log,
            begun: Instant::now(),
            agents,
            devices,
            doing: String::new(),
            subscribers: BTreeSet::new(),
            needed: BTreeMap::new(),
            waiting: BTreeMap::new(),
            next_request: 1,
            last_failure: String::new(),
            verbose: true,
            told: fenced_client::State::default(),
            told_cmand: None,
        })
    }

    /// Works until told to end.
    pub(crate) async fn run(
        mut self,
        mut signals: Signals,
        mut manager: Manager,
    ) -> Result<(), DaemonError> {
        manager.tell(State::Ready);
        let end = loop {
            manager.turned();
            let timer = self.timer();
            let mut is_told_to_end = false;
            let step = tokio::select! {
                frame = self.cmand.1.next() => match frame {
                    Ok(frame) => self.handle_cmand(frame).await,
                    Err(error) => Err(error.into()),
                },
                input = self.server.next() => self.handle_client(input).await,
                Some(report) = self.agents.next() => self.handle_report(report).await,
                () = tokio::time::sleep(timer) => {
                    let now = self.now();
                    self.domain_step(|domain, fx| domain.handle_timeout(now, fx)).await
                }
                _ = signals.told_to_end() => { is_told_to_end = true; Ok(()) }
                () = manager.due() => Ok(()),
            };
            if let Err(error) = step {
                break Err(error);
            }
            match self.needed.values().next() {
                None if is_told_to_end => break Ok(()),
                Some(reason) if is_told_to_end => {
                    // Nobody else would have this node fenced should that come true.
                    tracing::warn!(unless = %reason, "told to end, but watching a client; staying");
                }
                None | Some(_) => {}
            }
        };
        manager.tell(State::Stopping);
        if end.is_ok() {
            self.leave().await?;
        }
        self.server.shutdown().await;
        end
    }

    /// Leaves the domain and waits until the others know: a connection that ends before that looks
    /// like a daemon that died.
    async fn leave(&mut self) -> Result<(), DaemonError> {
        tracing::info!("leaving the fence domain");
        let leave = cmand_client::Request::GroupLeave {
            group: GROUP.into(),
        };
        self.cmand.0.send(&leave).await?;
        let own = self.settings.domain.node;
        let is_out =
            |group: &cmand_client::GroupView| group.group == GROUP && !group.members.contains(&own);
        let heard = async {
            loop {
                match self.cmand.1.next().await? {
                    ServerFrame::Event(cmand_client::Event::Group(group)) if is_out(&group) => {
                        return Ok(());
                    }
                    ServerFrame::Event(_) | ServerFrame::Reply { .. } => {}
                }
            }
        };
        match tokio::time::timeout(LEAVE_LIMIT, heard).await {
            Ok(result) => result,
            // Without a majority nothing is agreed on; the end of the connection must do.
            Err(_) => Ok(()),
        }
    }

    fn now(&self) -> fenced_core::Instant {
        fenced_core::Instant(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Time until the domain wants to be woken; an hour when it does not.
    fn timer(&self) -> Duration {
        let due = self.domain.next_timeout();
        due.map_or(Duration::from_secs(3600), |due| {
            Duration::from_millis(due.0.saturating_sub(self.now().0))
        })
    }

    fn name(&self, node: NodeId) -> &str {
        self.settings.names.get(&node).map_or("?", String::as_str)
    }

    /// Lets the domain take one step and carries out what it wants.
    async fn domain_step(
        &mut self,
        step: impl FnOnce(&mut Domain, &mut Vec<Effect>),
    ) -> Result<(), DaemonError> {
        let mut effects = Vec::new();
        step(&mut self.domain, &mut effects);
        for effect in effects {
            self.carry_out(effect).await?;
        }
        self.tell_cmand().await
    }

    /// Tells cmand which boots must not be heard and which nodes must be in no view, when they are
    /// others than it was told. Until the domain's state is known it goes by what it was told
    /// before.
    async fn tell_cmand(&mut self) -> Result<(), DaemonError> {
        if !self.domain.is_known() {
            return Ok(());
        }
        let ended = self.domain.ended();
        let ended = ended.map(|(node, boot_id)| cmand_client::Ended { node, boot_id });
        let ended: Vec<_> = ended.collect();
        let nodes = self.domain.kept_out();
        let nodes = nodes.map(|(node, boot_id)| cmand_client::Kept { node, boot_id });
        let nodes: Vec<_> = nodes.collect();
        let told = self.told_cmand.replace((ended.clone(), nodes.clone()));
        let (told_ended, told_nodes) = told.unzip();
        if told_ended.as_ref() != Some(&ended) {
            let request = cmand_client::Request::WatchEnded { ended };
            self.cmand.0.send(&request).await?;
        }
        if told_nodes.as_ref() != Some(&nodes) {
            let request = cmand_client::Request::KeepOut { nodes };
            self.cmand.0.send(&request).await?;
        }
        Ok(())
    }

    async fn carry_out(&mut self, effect: Effect) -> Result<(), DaemonError> {
        match effect {
            Effect::Send(message) => self.send(&message).await?,
            Effect::Fence {
                node,
                run,
                attempt,
                first,
                verbose,
            } => {
                if verbose {
                    tracing::info!(%node, name = self.name(node), attempt, "fencing");
                }
                self.verbose = verbose;
                self.fence(node, run, first);
            }
            Effect::Changed => self.tell(),
            Effect::Answered { request } => {
                self.tell();
                if let Some((client, id)) = self.waiting.remove(&request) {
                    self.server.reply(client, id, Ok(Reply::Done));
                }
            }
            Effect::Accused { node, reason } => {
                tracing::info!(%node, name = self.name(node), %reason, "must be fenced");
            }
            Effect::Returned { node, record } => self.log_lie(node, &record),
            Effect::Cleared { node, record } => {
                let how = report::how(record.how);
                let by = record.by;
                tracing::info!(%node, name = self.name(node), %how, %by, "fenced");
                self.last_failure.clear();
                if self.agents.spare(node) {
                    self.doing.clear();
                    tracing::info!(%node, name = self.name(node), "the agent's run was ended");
                }
            }
            Effect::Known => {
                let members = self.domain.members().len();
                tracing::info!(members, "the fence domain's state is known");
            }
            Effect::GaveUp { heard, bytes } => {
                let why = "too much was said before the fence domain's state arrived";
                tracing::warn!(heard, bytes, why, "asking for the state anew");
            }
            Effect::Unsent(large) => {
                let remedy = "fence_tool ack victims that are off";
                tracing::error!(%large, remedy, "nodes that joined cannot be told of victims");
            }
        }
        Ok(())
    }

    async fn send(&mut self, message: &Message) -> Result<(), DaemonError> {
        match message.encode() {
            Ok(payload) => {
                let group = GROUP.to_owned();
                let request = cmand_client::Request::GroupSend { group, payload };
                self.cmand.0.send(&request).await?;
            }
            Err(error) => tracing::error!(%error, "a message could not be encoded"),
        }
        Ok(())
    }

    fn fence(&mut self, node: NodeId, run: u64, first: u32) {
        let name = self.name(node).to_owned();
        let methods = self.settings.plan.methods.get(&node);
        let methods = methods.cloned().unwrap_or_default();
        let mut victims = self.domain.victims();
        let victim = victims.find(|(victim, _)| *victim == node);
        let boot_id = victim.and_then(|(_, victim)| victim.boot_id);
        drop(victims);
        self.agents
            .fence((node, boot_id), name, run, (first, methods));
    }

    /// What was done and said of a node was wrong, and whatever it held was given to others.
    fn log_lie(&self, node: NodeId, record: &Record) {
        let methods = self.settings.plan.methods.get(&node);
        let index = record.method.and_then(|index| usize::try_from(index).ok());
        let method = methods.and_then(|methods| methods.get(index?));
        let method = method.map_or("", |method| method.name.as_str());
        let (how, by) = (report::how(record.how), record.by);
        let remedy = "check that the plug is the node's, and what it wrote to shared storage since";
        tracing::error!(
            %node, name = self.name(node), method, %how, %by, remedy,
            "node is heard in the boot that was fenced: the agent or the plug lied"
        );
    }

    async fn handle_report(&mut self, report: Report) -> Result<(), DaemonError> {
        match report {
            Report::Ended { node, run, result } => {
                self.doing.clear();
                self.handle_agent(node, run, result).await
            }
            Report::Progress {
                node,
                run,
                progress,
            } => {
                let (method, device, action) =
                    (&progress.method, &progress.device, progress.action);
                let limit_s = progress.limit.as_secs();
                let name = self.name(node);
                tracing::debug!(%node, name, run, method, device, %action, limit_s, "agent begins");
                // A word of a run that was ended meanwhile is old.
                if self.agents.is_against(node, run) {
                    self.doing = format!("{name}: method {method}: device {device}: {action}");
                }
                Ok(())
            }
            Report::Device { device, at, result } => {
                self.handle_device(device, at, result);
                Ok(())
            }
            Report::Looked { node, asker, lives } => self.acknowledge(node, asker, &lives).await,
        }
    }

    /// An operator says that a victim has stopped, and cmand whether it was heard.
    async fn acknowledge(
        &mut self,
        node: NodeId,
        (client, id): (ClientId, u64),
        lives: &Result<bool, String>,
    ) -> Result<(), DaemonError> {
        let stopped = report::victim(node, &self.domain)
            .and_then(|node| report::stopped(node, self.name(node), lives));
        match stopped {
            Ok(node) => {
                let message = self.acknowledgement(node);
                self.send_for(client, id, &message).await
            }
            Err(refusal) => {
                self.server.reply(client, id, Err::<Reply, _>(refusal));
                Ok(())
            }
        }
    }

    fn acknowledgement(&self, node: NodeId) -> Message {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Message::Acknowledge {
            node,
            at: at.map_or(0, |since| since.as_secs()),
            request: self.next_request,
        }
    }

    /// Says something to the domain that a client waits for.
    async fn send_for(
        &mut self,
        client: ClientId,
        id: u64,
        message: &Message,
    ) -> Result<(), DaemonError> {
        self.waiting.insert(self.next_request, (client, id));
        self.next_request += 1;
        self.send(message).await
    }

    /// A watched device answered, or did not. Only what is new is worth a line and an event.
    fn handle_device(&mut self, name: String, at: u64, result: Result<(), String>) {
        let Some(known) = self.devices.get_mut(&name) else {
            return;
        };
        let was = (known.answers, known.at != 0);
        known.at = at;
        known.answers = result.is_ok();
        known.failure = result.err().unwrap_or_default();
        if was == (known.answers, true) {
            return;
        }
        if known.answers {
            tracing::info!(device = name, "fence device answers");
        } else {
            tracing::error!(
                device = name,
                why = known.failure,
                "fence device does not answer"
            );
        }
        let event = fenced_client::Event::Device(known.clone());
        for client in &self.subscribers {
            self.server.event(*client, event.clone());
        }
    }

    async fn handle_agent(
        &mut self,
        node: NodeId,
        run: u64,
        result: Result<Done, String>,
    ) -> Result<(), DaemonError> {
        let name = self.name(node).to_owned();
        match &result {
            Ok(done) => {
                let method = &done.name;
                tracing::info!(%node, name, method, "agent reports success");
            }
            Err(why) => {
                if self.verbose {
                    tracing::error!(%node, name, %why, "fencing failed, will be tried again");
                }
                self.last_failure = format!("{name}: {why}");
            }
        }
        let now = self.now();
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let at = at.map_or(0, |since| since.as_secs());
        let success = result.ok().map(|done| done.success);
        self.domain_step(|domain, fx| domain.handle_agent(now, node, run, success, at, fx))
            .await
    }

    async fn handle_cmand(
        &mut self,
        frame: ServerFrame<cmand_client::Reply, cmand_client::Event>,
    ) -> Result<(), DaemonError> {
        let event = match frame {
            ServerFrame::Event(event) => event,
            ServerFrame::Reply { reply: Ok(_), .. } => return Ok(()),
            ServerFrame::Reply {
                reply: Err(refusal),
                ..
            } => {
                return Err(DaemonError::Refused(refusal));
            }
        };
        let now = self.now();
        match event {
            cmand_client::Event::View(view) => {
                self.domain_step(|domain, fx| domain.handle_view(now, view, fx))
                    .await
            }
            cmand_client::Event::Quorum { quorate, reason } => {
                tracing::debug!(quorate, %reason, "quorum");
                self.domain_step(|domain, fx| domain.handle_quorum(now, quorate, fx))
                    .await
            }
            cmand_client::Event::Group(group) if group.group == GROUP => {
                self.domain_step(|domain, fx| domain.handle_group(now, &group, fx))
                    .await
            }
            cmand_client::Event::Message {
                group,
                from,
                payload,
            } if group == GROUP => match Message::decode(&payload) {
                Ok(message) => {
                    let step = |domain: &mut Domain, fx: &mut Vec<Effect>| {
                        domain.handle_message(now, from, message, fx);
                    };
                    self.domain_step(step).await
                }
                Err(error) => {
                    tracing::warn!(%from, %error, "message dropped");
                    Ok(())
                }
            },
            cmand_client::Event::Group(_) | cmand_client::Event::Message { .. } => Ok(()),
            cmand_client::Event::Returned {
                node,
                incarnation,
                boot_id,
            } => {
                let step = |domain: &mut Domain, fx: &mut Vec<Effect>| {
                    domain.handle_returned(now, node, incarnation, boot_id, fx);
                };
                self.domain_step(step).await
            }
            cmand_client::Event::Expelled { reason } => Err(DaemonError::Expelled(reason)),
        }
    }

    async fn handle_client(&mut self, input: Input<Request>) -> Result<(), DaemonError> {
        match input {
            Input::Request {
                client,
                peer,
                id,
                request,
            } => self.handle_request(client, peer, id, request).await,
            Input::Gone { client } => {
                self.subscribers.remove(&client);
                self.waiting.retain(|_, (waiter, _)| *waiter != client);
                match self.needed.remove(&client) {
                    Some(reason) => self.accuse_own(reason).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// A client is gone whose end only a reset of this node mends.
    async fn accuse_own(&mut self, reason: String) -> Result<(), DaemonError> {
        tracing::error!(%reason, "this node must be fenced");
        let request = self.next_request;
        self.next_request += 1;
        let accuse = Message::Accuse {
            node: self.settings.domain.node,
            boot_id: None,
            reason,
            request,
        };
        self.send(&accuse).await
    }

    async fn handle_request(
        &mut self,
        client: ClientId,
        peer: Peer,
        id: u64,
        request: Request,
    ) -> Result<(), DaemonError> {
        if !request.is_public()
            && let Err(refusal) = peer.require_privileged()
        {
            self.server.reply(client, id, Err::<Reply, _>(refusal));
            return Ok(());
        }
        let message = match request {
            Request::Status => {
                let names = &self.settings.names;
                let mut status = report::status(&self.domain, names, &self.last_failure);
                status.doing.clone_from(&self.doing);
                status.devices = self.devices.values().cloned().collect();
                let complaints = self.settings.plan.complaints.iter();
                status.complaints = complaints.map(ToString::to_string).collect();
                self.server
                    .reply(client, id, Ok(Reply::Status(Box::new(status))));
                return Ok(());
            }
            Request::Dump => {
                let reply = Ok(Reply::Dump(self.log.dump()));
                self.server.reply(client, id, reply);
                return Ok(());
            }
            Request::Subscribe { client: name } => {
                tracing::debug!(%client, name, "subscribed");
                self.server.reply(client, id, Ok(Reply::Done));
                self.subscribers.insert(client);
                self.server
                    .event(client, fenced_client::Event::State(self.told.clone()));
                return Ok(());
            }
            Request::FenceWhenGone { reason } => {
                tracing::debug!(%client, ?reason, "fence when gone");
                match reason {
                    Some(reason) => self.needed.insert(client, reason),
                    None => self.needed.remove(&client),
                };
                self.server.reply(client, id, Ok(Reply::Done));
                return Ok(());
            }
            Request::Fence {
                node,
                boot_id,
                reason,
            } => {
                let request = self.next_request;
                report::known(node, &self.settings.names).map(|node| Message::Accuse {
                    node,
                    boot_id,
                    reason,
                    request,
                })
            }
            Request::Unfence { node } => {
                let request = self.next_request;
                report::cut_off(node, &self.domain).map(|node| Message::Unfence { node, request })
            }
            Request::Acknowledge { node, alive } => {
                let victim = report::victim(node, &self.domain);
                if alive.as_deref() == Some(self.name(node)) {
                    // He knows what he does.
                    victim.map(|node| self.acknowledgement(node))
                } else {
                    let silent =
                        victim.and_then(|node| report::silent(node, self.name(node), &self.domain));
                    if let Ok(node) = silent {
                        let mut victims = self.domain.victims();
                        let victim = victims.find(|(victim, _)| *victim == node);
                        let boot_id = victim.and_then(|(_, victim)| victim.boot_id);
                        self.agents.look(node, boot_id, (client, id));
                        return Ok(());
                    }
                    silent.map(|node| self.acknowledgement(node))
                }
            }
        };
        match message {
            Ok(message) => self.send_for(client, id, &message).await,
            Err(refusal) => {
                self.server.reply(client, id, Err::<Reply, _>(refusal));
                Ok(())
            }
        }
    }

    /// Tells subscribers the state when it is another than they were told.
    fn tell(&mut self) {
        let state = report::state(&self.domain.state());
        if state == self.told {
            return;
        }
        self.told = state;
        for client in &self.subscribers {
            self.server
                .event(*client, fenced_client::Event::State(self.told.clone()));
        }
    }
}
