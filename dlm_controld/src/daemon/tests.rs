// SPDX-License-Identifier: GPL-2.0-only
//! The whole daemon between sockets: a cmand and a fenced that the test plays,
//! a kernel that writes down its calls, a client that asks.

use std::path::PathBuf;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use cluster_rt::server::ClientId;
use cluster_rt::signals::Signals;
use cmand_client::Event;
use cmand_client::NodeId;
use dlm_controld_core::FenceState;
use dlm_controld_core::Start;
use dlm_controld_core::lockspace_group;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;
use tracing::Level;

use super::*;
use crate::kernel::Answered;
use crate::kernel::Found;
use crate::kernel::Identity;
use crate::kernel::KernelError;
use crate::kernel::Members;

/// No step takes as long.
const LIMIT: Duration = Duration::from_secs(20);

/// Writes down calls; stops and looks block while `shut`.
#[derive(Default)]
struct FakeKernel {
    calls: Mutex<Vec<String>>,
    called: Condvar,
    there: Mutex<Vec<String>>,
    /// Answers find nobody.
    is_deaf: AtomicBool,
    shut: Mutex<bool>,
    opened: Condvar,
}

impl FakeKernel {
    fn note(&self, call: String) {
        self.calls.lock().unwrap().push(call);
        self.called.notify_all();
    }

    /// Waits for a call and forgets it and those before it.
    fn wait_for(&self, call: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        let absent = |calls: &mut Vec<String>| !calls.iter().any(|other| other == call);
        let (mut calls, timeout) = self
            .called
            .wait_timeout_while(calls, LIMIT, absent)
            .unwrap();
        assert!(!timeout.timed_out(), "no {call:?} in {calls:?}");
        let at = calls.iter().position(|other| other == call).unwrap();
        calls.drain(..=at).collect()
    }

    /// Waits until it is not shut.
    fn pass(&self) {
        let shut = self.shut.lock().unwrap();
        drop(self.opened.wait_while(shut, |shut| *shut).unwrap());
    }

    fn shut(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }
}

impl Kernel for FakeKernel {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn reports_recovery(&self) -> bool {
        true
    }

    fn lockspaces(&self) -> Result<Vec<Found>, KernelError> {
        let found = |name: &String| Found {
            name: name.clone(),
            request: Pending::Unknown,
        };
        self.pass();
        Ok(self.there.lock().unwrap().iter().map(found).collect())
    }

    fn begin(&self) -> Result<(), KernelError> {
        self.note("begin".into());
        Ok(())
    }

    fn set_members(&self, members: &Members) -> Result<(), KernelError> {
        self.note(format!("members {:?}", members.keys().collect::<Vec<_>>()));
        Ok(())
    }

    fn stop(&self, lockspace: &str) -> Result<(), KernelError> {
        self.note(format!("stop {lockspace}"));
        self.pass();
        self.note(format!("stopped {lockspace}"));
        Ok(())
    }

    fn start(&self, start: &Start) -> Result<(), KernelError> {
        let members = list(&start.members);
        let failed = list(&start.failed);
        self.note(format!(
            "start {} {members} failed {failed}",
            start.lockspace
        ));
        Ok(())
    }

    fn answer(&self, lockspace: &str, result: i32) -> Result<Answered, KernelError> {
        self.note(format!("answer {lockspace} {result}"));
        if self.is_deaf.load(Ordering::Relaxed) {
            return Ok(Answered::NobodyWaits);
        }
        Ok(Answered::Taken)
    }

    fn forget(&self, lockspace: &str) -> Result<(), KernelError> {
        self.note(format!("forget {lockspace}"));
        Ok(())
    }

    fn end(&self) -> Result<(), KernelError> {
        self.note("end".into());
        Ok(())
    }
}

/// The daemon and everything around it.
struct World {
    sockets: Sockets,
    kernel: Arc<FakeKernel>,
    events: UnboundedSender<KernelEvent>,
    cmand: Server<cmand_client::Request>,
    cmand_client: ClientId,
    fenced: Server<fenced_client::Request>,
    fenced_client: ClientId,
    daemon: JoinHandle<Result<(), DaemonError>>,
}

fn sockets() -> Sockets {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("dlm_controld-test-{}-{number}", std::process::id());
    let directory: PathBuf = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str| directory.join(name);
    Sockets {
        own: path("own.sock"),
        cmand: path("cmand.sock"),
        fenced: path("fenced.sock"),
    }
}

fn settings() -> Settings {
    let addresses = [(1, "192.0.2.1"), (2, "192.0.2.2")];
    Settings {
        node: NodeId(1),
        nodes: vec![NodeId(1), NodeId(2)],
        identity: Identity {
            cluster: "alpha".into(),
            node: 1,
            addresses: addresses
                .iter()
                .map(|(n, a)| (*n, a.parse().unwrap()))
                .collect(),
            log_debug: false,
        },
        load: false,
    }
}

/// A service manager that nobody is.
fn no_manager() -> Manager {
    Manager::new(std::sync::mpsc::sync_channel(0).0, None)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, what).await.expect("in time")
}

/// The next request to a played daemon, answered.
async fn asked<Q, R>(server: &mut Server<Q>, reply: R) -> (ClientId, Q)
where
    Q: serde::de::DeserializeOwned + Send + 'static,
    R: serde::Serialize,
{
    loop {
        if let Input::Request {
            client,
            id,
            request,
            ..
        } = within(server.next()).await
        {
            server.reply(client, id, Ok(reply));
            return (client, request);
        }
    }
}

impl World {
    /// A daemon that has agreed with itself on a protocol, in a view of nodes 1
    /// and 2.
    async fn new(kernel: FakeKernel) -> Self {
        Self::watched(kernel, no_manager()).await
    }

    /// The same with a service manager that watches it.
    async fn watched(kernel: FakeKernel, manager: Manager) -> Self {
        let sockets = sockets();
        let mut cmand = Server::bind(&sockets.cmand).unwrap();
        let mut fenced = Server::bind(&sockets.fenced).unwrap();
        let (events, receiver) = unbounded_channel();
        let kernel = Arc::new(kernel);
        let daemon = tokio::spawn(start(
            &sockets,
            kernel.clone(),
            KernelEvents::Channel(receiver),
            manager,
        ));
        let (cmand_client, subscribe) = asked(&mut cmand, cmand_client::Reply::Done).await;
        assert!(matches!(subscribe, cmand_client::Request::Subscribe { .. }));
        let (fenced_client, _) = asked(&mut fenced, fenced_client::Reply::Done).await;
        let mut world = Self {
            sockets,
            kernel,
            events,
            cmand,
            cmand_client,
            fenced,
            fenced_client,
            daemon,
        };
        world.agree().await;
        world
    }

    async fn agree(&mut self) {
        assert_eq!(self.join_request().await, OWN_GROUP);
        self.tell(view(1, &[1, 2]));
        self.tell(Event::Quorum {
            quorate: true,
            reason: String::new(),
        });
        self.tell_fence(1, &[]);
        self.tell(group(OWN_GROUP, 1, &[1], &[1], &[]));
        self.echo().await;
    }

    fn tell(&self, event: Event) {
        self.cmand.event(self.cmand_client, event);
    }

    fn tell_fence(&self, view: u64, victims: &[u32]) {
        let victims = victims.iter().map(|node| NodeId(*node)).collect();
        let state = fenced_client::State { view, victims };
        self.fenced
            .event(self.fenced_client, fenced_client::Event::State(state));
    }

    /// What fenced is told next about the end of the daemon.
    async fn when_gone(&mut self) -> Option<String> {
        loop {
            let request = asked(&mut self.fenced, fenced_client::Reply::Done).await.1;
            if let fenced_client::Request::FenceWhenGone { reason } = request {
                return reason;
            }
        }
    }

    async fn join_request(&mut self) -> String {
        let request = asked(&mut self.cmand, cmand_client::Reply::Done).await.1;
        let cmand_client::Request::GroupJoin { group } = request else {
            panic!("{request:?}");
        };
        group
    }

    /// Gives a message of the daemon back to it, as groups do.
    async fn echo(&mut self) {
        let request = asked(&mut self.cmand, cmand_client::Reply::Done).await.1;
        let cmand_client::Request::GroupSend { group, payload } = request else {
            panic!("{request:?}");
        };
        let from = NodeId(1);
        self.tell(Event::Message {
            group,
            from,
            payload,
        });
    }

    fn start_of_two(&self, change: u64) {
        let payload = wire::Message::Start {
            change,
            fresh: false,
        }
        .encode();
        let group = lockspace_group("web");
        self.tell(Event::Message {
            group,
            from: NodeId(2),
            payload,
        });
    }

    /// The kernel asks to join `web`, and the daemon starts it with node 2.
    async fn join(&mut self) {
        self.events
            .send(KernelEvent::Join {
                name: "web".into(),
                flags: 0,
            })
            .unwrap();
        self.echo().await;
        assert_eq!(self.join_request().await, "dlm:ls:web");
        self.tell(group("dlm:ls:web", 1, &[1, 2], &[1], &[]));
        self.echo().await;
        self.start_of_two(1);
    }

    async fn call(&self, request: Request) -> Reply {
        let path = self.sockets.own.clone();
        let call = move || dlm_controld_client::call(&path, &request).unwrap();
        within(tokio::task::spawn_blocking(call)).await.unwrap()
    }

    async fn lockspaces(&self) -> Vec<dlm_controld_client::Lockspace> {
        let reply = self.call(Request::Lockspaces).await;
        let Reply::Lockspaces(all) = reply else {
            panic!("{reply:?}");
        };
        all
    }

    async fn wait_for(&self, call: &'static str) -> Vec<String> {
        let kernel = self.kernel.clone();
        tokio::task::spawn_blocking(move || kernel.wait_for(call))
            .await
            .unwrap()
    }

    async fn end(self) -> DaemonError {
        within(self.daemon).await.unwrap().unwrap_err()
    }
}

fn start(
    sockets: &Sockets,
    kernel: Arc<FakeKernel>,
    events: KernelEvents,
    manager: Manager,
) -> impl Future<Output = Result<(), DaemonError>> + Send + 'static {
    let sockets = Sockets {
        own: sockets.own.clone(),
        cmand: sockets.cmand.clone(),
        fenced: sockets.fenced.clone(),
    };
    async move {
        let log = cluster_rt::log::init(Level::ERROR);
        let server = Server::bind(&sockets.own)?;
        let daemon =
            Daemon::with_kernel(settings(), &sockets, log, server, (kernel, events)).await?;
        daemon.run(Signals::none(), manager).await
    }
}

fn view(number: u64, nodes: &[u32]) -> Event {
    let member = |node: &u32| cmand_client::Member {
        node: NodeId(*node),
        incarnation: cmand_client::Incarnation(7),
        boot: cmand_client::BootId([0xb; 16]),
    };
    Event::View(cmand_client::View {
        number,
        tag: 0,
        members: nodes.iter().map(member).collect(),
        joined: vec![],
        departed: vec![],
        quorate: true,
    })
}

fn group(name: &str, number: u64, nodes: &[u32], joined: &[u32], failed: &[u32]) -> Event {
    let ids = |list: &[u32]| list.iter().map(|node| NodeId(*node)).collect();
    let why = cmand_client::Departure::NodeFailed;
    Event::Group(cmand_client::GroupView {
        group: name.into(),
        number,
        view: number,
        members: ids(nodes),
        joined: ids(joined),
        departed: failed.iter().map(|node| (NodeId(*node), why)).collect(),
        lost: vec![],
    })
}

#[tokio::test]
async fn a_lockspace_is_joined_recovered_and_left() {
    let mut world = World::new(FakeKernel::default()).await;
    world.join().await;
    let calls = world.wait_for("answer web 0").await;
    assert_eq!(
        calls,
        [
            "begin",
            "members [1, 2]",
            "start web 1,2 failed ",
            "answer web 0"
        ]
    );
    world.events.send(recovered()).unwrap();

    world.tell(view(2, &[1]));
    world.tell(group("dlm:ls:web", 2, &[1], &[], &[2]));
    let calls = world.wait_for("stopped web").await;
    assert_eq!(
        calls,
        ["members [1]", "stop web", "stopped web"],
        "the dead node goes first"
    );
    world.tell_fence(2, &[2]);
    world.tell_fence(2, &[]);
    world.echo().await;
    let calls = world.wait_for("start web 1 failed 2").await;
    assert_eq!(calls, ["start web 1 failed 2"]);

    world
        .events
        .send(KernelEvent::Leave {
            name: "web".into(),
            recover: false,
        })
        .unwrap();
    let leave = asked(&mut world.cmand, cmand_client::Reply::Done).await.1;
    assert!(matches!(leave, cmand_client::Request::GroupLeave { .. }));
    world.tell(group("dlm:ls:web", 3, &[], &[], &[]));
    let calls = world.wait_for("answer web 0").await;
    assert_eq!(
        calls,
        ["stop web", "stopped web", "forget web", "answer web 0"]
    );
    assert!(world.lockspaces().await.is_empty());
}

fn recovered() -> KernelEvent {
    KernelEvent::Recovered {
        name: "web".into(),
        result: 0,
        milliseconds: 1,
    }
}

#[tokio::test]
async fn it_answers_while_the_kernel_takes_its_time_to_stop() {
    let mut world = World::new(FakeKernel::default()).await;
    world.join().await;
    world.wait_for("answer web 0").await;
    world.kernel.shut(true);
    world.tell(view(2, &[1, 2]));
    world.tell(group("dlm:ls:web", 2, &[1, 2], &[2], &[]));
    world.wait_for("stop web").await;
    let all = world.lockspaces().await;
    assert_eq!(all[0].wait, dlm_controld_client::Wait::Stop);
    assert!(all[0].stopped && all[0].new_change.is_some());
    world.kernel.shut(false);
    world.echo().await;
    world.start_of_two(2);
    world.wait_for("start web 1,2 failed ").await;
}

#[tokio::test]
async fn without_cmand_lockspaces_stop_and_it_ends() {
    let mut world = World::new(FakeKernel::default()).await;
    world.join().await;
    world.wait_for("answer web 0").await;
    world.cmand.close(world.cmand_client);
    world.wait_for("stopped web").await;
    let error = world.end().await;
    assert!(matches!(error, DaemonError::Connection(_)), "{error}");
    assert_eq!(error.status(), cluster_rt::exit::FAILED);
}

#[tokio::test]
async fn without_fenced_lockspaces_stop_and_it_ends() {
    let mut world = World::new(FakeKernel::default()).await;
    world.join().await;
    world.wait_for("answer web 0").await;
    world.fenced.close(world.fenced_client);
    world.wait_for("stopped web").await;
    assert!(matches!(world.end().await, DaemonError::Connection(_)));
}

#[tokio::test]
async fn an_expelled_node_stops_and_asks_for_a_reset() {
    let mut world = World::new(FakeKernel::default()).await;
    world.join().await;
    world.wait_for("answer web 0").await;
    world.tell(Event::Expelled {
        reason: "too slow".into(),
    });
    world.wait_for("stopped web").await;
    let error = world.end().await;
    assert_eq!(error.status(), cluster_rt::exit::RESET, "{error}");
}

#[tokio::test]
async fn it_may_not_end_unnoticed_while_there_are_lockspaces() {
    let mut world = World::new(FakeKernel::default()).await;
    world.join().await;
    world.wait_for("answer web 0").await;
    let why = world.when_gone().await;
    assert_eq!(why.as_deref(), Some("dlm_controld ended with lockspaces"));
    let leave = KernelEvent::Leave {
        name: "web".into(),
        recover: false,
    };
    world.events.send(leave).unwrap();
    let leave = asked(&mut world.cmand, cmand_client::Reply::Done).await.1;
    assert!(matches!(leave, cmand_client::Request::GroupLeave { .. }));
    world.tell(group("dlm:ls:web", 2, &[2], &[], &[]));
    world.wait_for("answer web 0").await;
    assert_eq!(world.when_gone().await, None);
}

#[tokio::test]
async fn a_node_with_leftovers_has_itself_fenced() {
    let kernel = FakeKernel {
        there: Mutex::new(vec!["old".into()]),
        ..FakeKernel::default()
    };
    let sockets = sockets();
    let mut fenced = Server::<fenced_client::Request>::bind(&sockets.fenced).unwrap();
    let (_events, receiver) = unbounded_channel();
    let daemon = tokio::spawn(start(
        &sockets,
        Arc::new(kernel),
        KernelEvents::Channel(receiver),
        no_manager(),
    ));
    let (_, request) = asked(&mut fenced, fenced_client::Reply::Done).await;
    let node = NodeId(1);
    assert!(matches!(request, fenced_client::Request::Fence { node: n, .. } if n == node));
    let error = within(daemon).await.unwrap().unwrap_err();
    assert_eq!(error.status(), cluster_rt::exit::RESET);
    assert!(error.to_string().contains("old"), "{error}");
}

#[tokio::test]
async fn a_group_that_cmand_refuses_fails_the_join() {
    let mut world = World::new(FakeKernel::default()).await;
    world
        .events
        .send(KernelEvent::Join {
            name: "web".into(),
            flags: 0,
        })
        .unwrap();
    world.echo().await;
    loop {
        if let Input::Request { client, id, .. } = within(world.cmand.next()).await {
            let kind = cmand_client::RefusalKind::Invalid;
            let refusal = cmand_client::Refusal::new(kind, "no such group");
            world
                .cmand
                .reply(client, id, Err::<cmand_client::Reply, _>(refusal));
            break;
        }
    }
    world.wait_for("answer web -13").await;
}

#[tokio::test]
async fn a_daemon_that_failed_is_fenced_by_request() {
    let mut world = World::new(FakeKernel::default()).await;
    world.join().await;
    world.wait_for("answer web 0").await;
    world.tell(Event::Group(cmand_client::GroupView {
        group: "dlm:ls:web".into(),
        number: 2,
        view: 1,
        members: vec![NodeId(1)],
        joined: vec![],
        departed: vec![(NodeId(2), cmand_client::Departure::ProcessFailed)],
        lost: vec![NodeId(2)],
    }));
    loop {
        let (_, request) = asked(&mut world.fenced, fenced_client::Reply::Done).await;
        if let fenced_client::Request::Fence { node, .. } = request {
            assert_eq!(node, NodeId(2));
            break;
        }
    }
    let reply = world.call(Request::Status).await;
    let Reply::Status(status) = reply else {
        panic!("{reply:?}");
    };
    let reason = status.nodes[1].must_be_fenced;
    assert_eq!(
        reason,
        Some(dlm_controld_client::FenceReason::ProcessFailed)
    );
    assert_eq!(
        (status.view, status.quorate, status.protocol),
        (1, true, Some(1))
    );
    assert_eq!(
        report::fence_state(&fenced_client::State::default()),
        FenceState::default()
    );
}

/// The service manager ends a daemon that is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_that_is_stuck_keeps_nothing_alive() {
    let limit = Duration::from_millis(300);
    let (queue, states) = std::sync::mpsc::sync_channel(1);
    let manager = Manager::new(queue, Some(limit));
    let world = World::watched(FakeKernel::default(), manager).await;
    assert_eq!(states.recv_timeout(LIMIT), Ok(State::Ready));
    for _ in 0..3 {
        assert_eq!(states.recv_timeout(LIMIT), Ok(State::Alive));
    }
    world.kernel.shut(true);
    world.events.send(KernelEvent::Lost).unwrap();
    // One may be on its way.
    let _ = states.recv_timeout(limit);
    assert!(states.recv_timeout(3 * limit).is_err());
    world.kernel.shut(false);
    assert_eq!(states.recv_timeout(LIMIT), Ok(State::Alive));
}

/// A join that took the answer to one before it is a member all the same.
#[tokio::test]
async fn a_lockspace_that_took_its_answer_early_is_not_abandoned() {
    let mut world = World::new(FakeKernel::default()).await;
    world.kernel.is_deaf.store(true, Ordering::Relaxed);
    world.kernel.there.lock().unwrap().push("web".to_owned());
    world.join().await;
    world.wait_for("answer web 0").await;
    // What the daemon sends next to cmand is about another lockspace, not a leave of this one.
    let join = |name: &str| KernelEvent::Join {
        name: name.into(),
        flags: 0,
    };
    world.events.send(join("next")).unwrap();
    assert_eq!(world.join_request().await, "dlm:ls:next");
    assert!(!world.lockspaces().await[1].leaving);

    // Gone with its task: left.
    world.kernel.there.lock().unwrap().clear();
    let joined = group("dlm:ls:next", 1, &[1], &[1], &[]);
    world.tell(joined);
    world.echo().await;
    world.wait_for("answer next 0").await;
    let request = asked(&mut world.cmand, cmand_client::Reply::Done).await.1;
    let left = cmand_client::Request::GroupLeave {
        group: "dlm:ls:next".to_owned(),
    };
    assert_eq!(format!("{request:?}"), format!("{left:?}"));
}
