// SPDX-License-Identifier: GPL-2.0-only
//! The daemon around the core: one loop that waits for cmand, fenced, the
//! kernel, its threads, clients and signals, feeds the core, and carries out its
//! effects afterwards, never inside.
//!
//! Whatever ends the loop with an error leaves lockspaces stopped: they are
//! stopped here as far as the kernel lets, and the kernel stops the rest when
//! this process is gone.

mod parts;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use cluster_rt::client::ServerFrame;
use cluster_rt::log::Log;
use cluster_rt::notify::Manager;
use cluster_rt::notify::State;
use cluster_rt::server::Input;
use cluster_rt::server::Server;
use cluster_rt::signals::Signals;
use dlm_controld_client::Reply;
use dlm_controld_client::Request;
use dlm_controld_client::Status;
use dlm_controld_core::Controld;
use dlm_controld_core::Effect;
use dlm_controld_core::GROUP_PREFIX;
use dlm_controld_core::OWN_GROUP;
use dlm_controld_core::wire;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::history::History;
use crate::kernel::Kernel;
use crate::kernel::Request as Pending;
use crate::kernel::choice;
use crate::kernel::event::KernelEvent;
use crate::kernel::events::KernelEvents;
use crate::plock::Plocks;
use crate::report;
use crate::settings::DaemonError;
use crate::settings::Settings;
use crate::settings::Sockets;
use crate::workers::Done;
use crate::workers::Job;
use crate::workers::Workers;

use parts::list;
use parts::moment;
use parts::notice_to_log;
use parts::open_plocks;
use parts::refuse_leftovers;

/// How long cmand may take to let this node leave: many times an agreement.
const LEAVE_LIMIT: Duration = Duration::from_secs(10);

/// How long lockspaces may take to stop when the daemon ends with an error.
const HALT_LIMIT: Duration = Duration::from_secs(5);

type CmandFrame = ServerFrame<cmand_client::Reply, cmand_client::Event>;
type FencedFrame = ServerFrame<fenced_client::Reply, fenced_client::Event>;

/// dlm_controld at work.
pub(crate) struct Daemon {
    settings: Settings,
    core: Controld,
    server: Server<Request>,
    cmand: cmand_client::Connection,
    fenced: fenced_client::Connection,
    kernel: Arc<dyn Kernel>,
    events: KernelEvents,
    workers: Workers,
    done: UnboundedReceiver<Done>,
    plocks: Option<Plocks>,
    log: Log,
    history: History,
    /// Requests to cmand to join a lockspace's group, by their ids.
    joining: BTreeMap<u64, String>,
    /// Lockspaces that were started in the kernel and not left.
    started: BTreeSet<String>,
    /// Whether fenced was told that this daemon may not end.
    is_needed: bool,
    fence_master: u32,
    fencing: u32,
    begun: Instant,
}

/// What happened next.
enum Next {
    Kernel(KernelEvent),
    Done(Done),
    Cmand(CmandFrame),
    Fenced(FencedFrame),
    Client(Input<Request>),
    Timer,
    Terminate,
}

impl Daemon {
    /// Opens the control socket, connects to the other daemons, takes the module.
    pub(crate) async fn start(
        settings: Settings,
        sockets: &Sockets,
        log: Log,
    ) -> Result<Self, DaemonError> {
        let server = Server::bind(&sockets.own)?;
        let chosen = choice::choose(&settings.identity, settings.load)?;
        Self::with_kernel(settings, sockets, log, server, chosen).await
    }

    /// The same with a backend that was chosen.
    async fn with_kernel(
        settings: Settings,
        sockets: &Sockets,
        log: Log,
        server: Server<Request>,
        (kernel, events): choice::Chosen,
    ) -> Result<Self, DaemonError> {
        refuse_leftovers(&*kernel, &settings, sockets).await?;
        let mut cmand = cmand_client::connect(&sockets.cmand).await?;
        let mut fenced = fenced_client::connect(&sockets.fenced).await?;
        kernel.begin()?;
        tracing::info!(kernel = kernel.name(), "lock manager taken");
        let client = || "dlm_controld".to_owned();
        cmand
            .0
            .send(&cmand_client::Request::Subscribe { client: client() })
            .await?;
        fenced
            .0
            .send(&fenced_client::Request::Subscribe { client: client() })
            .await?;
        let (workers, done) = Workers::new(kernel.clone())?;
        let plocks = open_plocks();
        let config = dlm_controld_core::Config {
            node: settings.node,
            protocol: wire::PROTOCOL_RANGE,
        };
        Ok(Self {
            core: Controld::new(config),
            history: History::new(&settings.nodes),
            settings,
            server,
            cmand,
            fenced,
            kernel,
            events,
            workers,
            done,
            plocks,
            log,
            joining: BTreeMap::new(),
            started: BTreeSet::new(),
            is_needed: false,
            fence_master: 0,
            fencing: 0,
            begun: Instant::now(),
        })
    }

    /// Works until told to end.
    pub(crate) async fn run(
        mut self,
        mut signals: Signals,
        mut manager: Manager,
    ) -> Result<(), DaemonError> {
        let mut effects = Vec::new();
        self.core.handle_begin(&mut effects);
        self.carry_out(effects).await?;
        manager.tell(State::Ready);
        let end = loop {
            manager.turned();
            let step = tokio::select! {
                input = self.next() => input,
                _ = signals.told_to_end() => Ok(Next::Terminate),
                () = manager.due() => continue,
            };
            let step = match step {
                Ok(Next::Terminate) if self.core.has_lockspaces() => {
                    let lockspaces = self.core.report();
                    let names: Vec<&str> = lockspaces.iter().map(|one| &*one.name).collect();
                    let lockspaces = names.join(", ");
                    tracing::warn!(
                        lockspaces,
                        "told to end, but there are lockspaces; staying: unmount or release them"
                    );
                    Ok(())
                }
                Ok(Next::Terminate) => break Ok(()),
                Ok(input) => self.handle(input).await,
                Err(error) => Err(error),
            };
            if let Err(error) = step {
                break Err(error);
            }
        };
        manager.tell(State::Stopping);
        match &end {
            Ok(()) => self.leave().await?,
            Err(error) => {
                tracing::error!(%error, "ending; lockspaces are stopped and stay so");
                self.halt().await;
            }
        }
        self.server.shutdown().await;
        end
    }

    /// The next thing that happens. Safe to cancel.
    async fn next(&mut self) -> Result<Next, DaemonError> {
        let timer = self.timer();
        let plocks = async {
            match &mut self.plocks {
                Some(plocks) => plocks.refuse().await,
                None => std::future::pending().await,
            }
        };
        Ok(tokio::select! {
            // What the kernel said before a job was done comes before that.
            biased;
            event = self.events.next() => Next::Kernel(event?),
            Some(done) = self.done.recv() => Next::Done(done),
            frame = self.fenced.1.next() => Next::Fenced(frame?),
            frame = self.cmand.1.next() => Next::Cmand(frame?),
            input = self.server.next() => Next::Client(input),
            error = plocks => return Err(error.into()),
            () = tokio::time::sleep(timer) => Next::Timer,
        })
    }

    async fn handle(&mut self, input: Next) -> Result<(), DaemonError> {
        match input {
            Next::Kernel(event) => self.handle_kernel(event).await,
            Next::Done(done) => self.handle_done(done).await,
            Next::Cmand(frame) => self.handle_cmand(frame).await,
            Next::Fenced(frame) => self.handle_fenced(frame).await,
            Next::Client(Input::Request {
                client,
                peer,
                id,
                request,
            }) => {
                let allowed = match request.is_public() {
                    true => Ok(()),
                    false => peer.require_privileged(),
                };
                let reply = allowed.map(|()| match request {
                    Request::Status => Reply::Status(Box::new(self.status())),
                    Request::Lockspaces => Reply::Lockspaces(self.lockspaces()),
                    Request::Dump => Reply::Dump(self.log.dump()),
                });
                self.server.reply(client, id, reply);
                Ok(())
            }
            Next::Client(Input::Gone { .. }) | Next::Terminate => Ok(()),
            Next::Timer => {
                let now = self.now();
                self.step(|core, fx| core.handle_timeout(now, fx)).await
            }
        }
    }

    fn now(&self) -> dlm_controld_core::Instant {
        let elapsed = self.begun.elapsed().as_millis();
        dlm_controld_core::Instant(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }

    /// Time until the core wants to be woken; an hour when it does not.
    fn timer(&self) -> Duration {
        self.core
            .next_timeout()
            .map_or(Duration::from_secs(3600), |due| {
                Duration::from_millis(due.0.saturating_sub(self.now().0))
            })
    }

    /// Lets the core take one step and carries out what it wants.
    async fn step(
        &mut self,
        step: impl FnOnce(&mut Controld, &mut Vec<Effect>),
    ) -> Result<(), DaemonError> {
        let mut effects = Vec::new();
        step(&mut self.core, &mut effects);
        self.carry_out(effects).await
    }

    async fn carry_out(&mut self, effects: Vec<Effect>) -> Result<(), DaemonError> {
        for effect in effects {
            self.carry_out_one(effect).await?;
        }
        let there: BTreeSet<String> = self
            .core
            .report()
            .into_iter()
            .map(|report| report.name)
            .collect();
        self.workers.keep(|name| there.contains(name));
        self.started.retain(|name| there.contains(name));
        self.tell_need().await
    }

    /// Tells fenced whether this daemon may end: not while lockspaces run, which nobody else on
    /// this node would notice to be without it.
    async fn tell_need(&mut self) -> Result<(), DaemonError> {
        let is_needed = !self.started.is_empty();
        if std::mem::replace(&mut self.is_needed, is_needed) == is_needed {
            return Ok(());
        }
        let reason = is_needed.then(|| "dlm_controld ended with lockspaces".to_owned());
        let request = fenced_client::Request::FenceWhenGone { reason };
        self.fenced.0.send(&request).await?;
        Ok(())
    }

    async fn carry_out_one(&mut self, effect: Effect) -> Result<(), DaemonError> {
        match effect {
            Effect::GroupJoin { group } => {
                let lockspace = group.strip_prefix(GROUP_PREFIX).map(str::to_owned);
                let id = self
                    .cmand
                    .0
                    .send(&cmand_client::Request::GroupJoin { group })
                    .await?;
                if let Some(lockspace) = lockspace {
                    self.joining.insert(id, lockspace);
                }
            }
            Effect::GroupLeave { group } => {
                self.cmand
                    .0
                    .send(&cmand_client::Request::GroupLeave { group })
                    .await?;
            }
            Effect::Send { group, message } => {
                let payload = message.encode();
                let request = cmand_client::Request::GroupSend { group, payload };
                self.cmand.0.send(&request).await?;
            }
            Effect::Fence {
                node,
                boot_id,
                reason,
            } => {
                tracing::warn!(%node, %reason, "asking for fencing");
                self.history.accused(moment(), node);
                self.fenced
                    .0
                    .send(&fenced_client::Request::Fence {
                        node,
                        boot_id,
                        reason,
                    })
                    .await?;
            }
            Effect::Stop { lockspace } => {
                tracing::info!(lockspace, "stopping");
                self.workers.give(&lockspace, Job::Stop)?;
            }
            Effect::Start(start) => {
                let (lockspace, change) = (start.lockspace.clone(), start.change);
                let members = list(&start.members);
                let failed = list(&start.failed);
                tracing::info!(lockspace, change, members, failed, "starting");
                // Before it runs.
                self.started.insert(lockspace.clone());
                self.tell_need().await?;
                self.workers.give(&lockspace, Job::Start(start))?;
            }
            Effect::Answer { lockspace, result } => {
                tracing::info!(lockspace, result, "answering the kernel");
                self.workers.give(&lockspace, Job::Answer(result))?;
            }
            Effect::Forget { lockspace } => self.workers.give(&lockspace, Job::Forget)?,
            Effect::Notice(notice) => return notice_to_log(notice),
        }
        Ok(())
    }

    async fn handle_kernel(&mut self, event: KernelEvent) -> Result<(), DaemonError> {
        let now = self.now();
        match event {
            KernelEvent::Join { name, flags } => {
                tracing::info!(lockspace = name, "the kernel asks to join");
                self.step(|core, fx| core.handle_join(now, &name, flags, fx))
                    .await
            }
            KernelEvent::Leave { name, recover } => {
                tracing::info!(lockspace = name, recover, "the kernel asks to leave");
                self.step(|core, fx| core.handle_leave(now, &name, recover, fx))
                    .await
            }
            KernelEvent::Recovered {
                name,
                result: 0,
                milliseconds,
            } => {
                tracing::info!(lockspace = name, milliseconds, "recovered");
                self.core.handle_recovered(&name);
                Ok(())
            }
            KernelEvent::Recovered { name, result, .. } => {
                tracing::warn!(lockspace = name, result, "recovery ended without success");
                Ok(())
            }
            KernelEvent::Peer { node, what } => {
                tracing::info!(node, what, "the kernel doubts a peer");
                Ok(())
            }
            KernelEvent::Lost => self.catch_up().await,
        }
    }

    /// Looks at the kernel because notifications of it were lost.
    async fn catch_up(&mut self) -> Result<(), DaemonError> {
        tracing::warn!("notifications of the kernel were lost; looking at its state");
        let known: BTreeMap<String, bool> = self
            .core
            .report()
            .into_iter()
            .map(|report| (report.name, report.leaving))
            .collect();
        let now = self.now();
        for found in self.kernel.lockspaces()? {
            let name = found.name;
            match (known.get(&name), found.request) {
                (None, Pending::Join { flags }) => {
                    self.step(|core, fx| core.handle_join(now, &name, flags, fx))
                        .await?;
                }
                (None, Pending::Unknown) => {
                    self.step(|core, fx| core.handle_join(now, &name, 0, fx))
                        .await?;
                }
                (Some(false), Pending::Leave) => {
                    self.step(|core, fx| core.handle_leave(now, &name, false, fx))
                        .await?;
                }
                (None | Some(true), Pending::Leave)
                | (Some(_), Pending::Join { .. } | Pending::Unknown) => {}
            }
        }
        Ok(())
    }

    async fn handle_done(&mut self, done: Done) -> Result<(), DaemonError> {
        let now = self.now();
        match done {
            Done::Stopped { lockspace } => {
                tracing::info!(lockspace, "stopped");
                self.step(|core, fx| core.handle_stopped(now, &lockspace, fx))
                    .await
            }
            Done::Started { lockspace } => {
                self.step(|core, fx| core.handle_started(now, &lockspace, fx))
                    .await?;
                if !self.kernel.reports_recovery() {
                    // The kernel will not tell; what it was told of failures it keeps.
                    self.core.handle_recovered(&lockspace);
                }
                Ok(())
            }
            Done::StartFailed { lockspace, error } => {
                tracing::error!(lockspace, %error, "starting failed");
                let result = error.result();
                self.step(|core, fx| core.handle_start_failed(now, &lockspace, result, fx))
                    .await
            }
            Done::NobodyWaited { lockspace } => {
                tracing::warn!(lockspace, "nobody waits for the answer any more");
                self.step(|core, fx| core.handle_abandoned(now, &lockspace, fx))
                    .await
            }
            Done::Failed { error } => Err(error.into()),
        }
    }

    async fn handle_cmand(&mut self, frame: CmandFrame) -> Result<(), DaemonError> {
        let now = self.now();
        let event = match frame {
            ServerFrame::Event(event) => event,
            ServerFrame::Reply { id, reply } => return self.handle_reply(id, reply).await,
        };
        match event {
            cmand_client::Event::View(view) => {
                let members = view.members.iter().map(|member| member.node).collect();
                self.history
                    .view(moment(), &members, &report::failed(&view));
                self.workers.set_members(report::members(&view));
                self.step(|core, fx| core.handle_view(now, view, fx)).await
            }
            cmand_client::Event::Quorum { quorate, reason } => {
                tracing::debug!(quorate, %reason, "quorum");
                self.step(|core, fx| core.handle_quorum(now, quorate, fx))
                    .await
            }
            cmand_client::Event::Group(group) => {
                self.step(|core, fx| core.handle_group(now, &group, fx))
                    .await
            }
            cmand_client::Event::Message {
                group,
                from,
                payload,
            } => {
                self.step(|core, fx| core.handle_message(now, &group, from, &payload, fx))
                    .await
            }
            // What fenced makes of it comes as a victim.
            cmand_client::Event::Returned { .. } => Ok(()),
            cmand_client::Event::Expelled { reason } => Err(DaemonError::Expelled(reason)),
        }
    }

    async fn handle_reply(
        &mut self,
        id: u64,
        reply: Result<cmand_client::Reply, cmand_client::Refusal>,
    ) -> Result<(), DaemonError> {
        let lockspace = self.joining.remove(&id);
        match (reply, lockspace) {
            (Ok(_), _) => Ok(()),
            (Err(refusal), Some(lockspace)) => {
                tracing::error!(lockspace, %refusal, "cmand does not let it join");
                let now = self.now();
                self.step(|core, fx| core.handle_join_refused(now, &lockspace, fx))
                    .await
            }
            // Before the daemons agree on anything there is nothing to go on with.
            (Err(refusal), None) if self.core.protocol().is_none() => {
                Err(DaemonError::Refused(refusal))
            }
            (Err(refusal), None) => {
                tracing::error!(%refusal, "cmand refused what it was asked");
                Ok(())
            }
        }
    }

    async fn handle_fenced(&mut self, frame: FencedFrame) -> Result<(), DaemonError> {
        match frame {
            ServerFrame::Event(fenced_client::Event::State(state)) => {
                let state = report::fence_state(&state);
                tracing::debug!(view = state.view, victims = ?state.victims, "fence state");
                self.history.victims(moment(), &state.victims);
                // Who fenced whom is for people; the answer comes when it comes.
                self.fenced.0.send(&fenced_client::Request::Status).await?;
                let now = self.now();
                self.step(|core, fx| core.handle_fence(now, state, fx))
                    .await
            }
            // A device that does not answer stops nothing here yet; fenced tells the operator.
            ServerFrame::Event(fenced_client::Event::Device(_)) => Ok(()),
            ServerFrame::Reply {
                reply: Ok(fenced_client::Reply::Status(status)),
                ..
            } => {
                self.fence_master = status.master;
                self.fencing = status.victim_now;
                for node in &status.nodes {
                    self.history.fenced_by(node.node, node.by);
                }
                Ok(())
            }
            ServerFrame::Reply { reply: Ok(_), .. } => Ok(()),
            ServerFrame::Reply {
                id: 1,
                reply: Err(refusal),
            } => Err(DaemonError::FencedRefused(refusal)),
            ServerFrame::Reply {
                reply: Err(refusal),
                ..
            } => {
                // An accusation is repeated until fenced heard it.
                tracing::error!(%refusal, "fenced refused");
                Ok(())
            }
        }
    }

    fn lockspaces(&self) -> Vec<dlm_controld_client::Lockspace> {
        let reports = self.core.report();
        reports
            .iter()
            .map(|one| report::lockspace(one, &self.history))
            .collect()
    }

    fn status(&self) -> Status {
        let now = moment();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            node: self.settings.node,
            kernel: self.kernel.name().into(),
            protocol: self.core.protocol(),
            daemons: self.core.daemons().collect(),
            view: self.core.view().map_or(0, |view| view.number),
            quorate: self.core.is_quorate(),
            fence_view: self.core.fence_state().view,
            fence_master: self.fence_master,
            fencing: self.fencing,
            now: now.monotonic,
            now_wall: now.wall,
            lockspaces: self.core.report().len(),
            nodes: self.history.report(&self.core.accused()),
        }
    }

    /// Ends cleanly: there are no lockspaces. The others must have seen that this
    /// node left: to be gone without it counts as a failure.
    async fn leave(&mut self) -> Result<(), DaemonError> {
        tracing::info!("leaving");
        let group = OWN_GROUP.to_owned();
        self.cmand
            .0
            .send(&cmand_client::Request::GroupLeave { group })
            .await?;
        match tokio::time::timeout(LEAVE_LIMIT, self.last_view()).await {
            Ok(left) => left?,
            Err(_) => tracing::warn!("cmand has not let this node leave; ending all the same"),
        }
        Ok(self.kernel.end()?)
    }

    /// Waits for the own group's view without this node.
    async fn last_view(&mut self) -> Result<(), DaemonError> {
        let own = self.settings.node;
        loop {
            if let ServerFrame::Event(cmand_client::Event::Group(group)) =
                self.cmand.1.next().await?
                && group.group == OWN_GROUP
                && !group.members.contains(&own)
            {
                return Ok(());
            }
        }
    }

    /// Stops all lockspaces, as far as the kernel does so in time.
    async fn halt(&mut self) {
        let mut effects = Vec::new();
        self.core.halt(&mut effects);
        let mut left = 0;
        for effect in effects {
            if let Effect::Stop { lockspace } = effect
                && self.workers.give(&lockspace, Job::Stop).is_ok()
            {
                left += 1;
            }
        }
        let stopped = async {
            while left > 0 {
                match self.done.recv().await {
                    Some(Done::Stopped { .. } | Done::Failed { .. }) => left -= 1,
                    Some(_) => {}
                    None => return,
                }
            }
        };
        if tokio::time::timeout(HALT_LIMIT, stopped).await.is_err() {
            tracing::error!("the kernel has not stopped all lockspaces yet");
        }
    }
}

#[cfg(test)]
mod tests;
