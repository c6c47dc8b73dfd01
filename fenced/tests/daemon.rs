// SPDX-License-Identifier: GPL-2.0-only
//! The daemon as a process: a cmand of the test's own on one side, a real agent
//! (a shell script) on the other, and clients of its control socket.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use cluster_rt::server::ClientId;
use cluster_rt::server::Input;
use cluster_rt::server::Server;
use cmand_client::BootId;
use cmand_client::Departed;
use cmand_client::Departure;
use cmand_client::Event;
use cmand_client::GroupView;
use cmand_client::Incarnation;
use cmand_client::Member;
use cmand_client::NodeId;
use cmand_client::View;
use fenced_client::State;
use nix::sys::ptrace;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(30);

/// Directory of one test, with a configuration and an agent that writes what it
/// was told into `agent.log` and ends as `agent.exit` says.
fn place(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("fenced-test-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let d = dir.display();
    let nodes: String = (1..=3)
        .map(|id| {
            format!(
                "[[node]]\nid = {id}\nname = \"n{id}\"\naddress = \"127.0.0.{id}\"\n\
                 [[node.fence]]\nname = \"power\"\n\
                 devices = [ {{ device = \"d\", plug = \"n{id}\" }} ]\n"
            )
        })
        .collect();
    let config = format!(
        "[cluster]\nname = \"alpha\"\n{nodes}\n[fence]\nclean_start = true\n\
         [[fence_device]]\nname = \"d\"\nagent = \"{d}/agent\"\ntimeout_s = 20\n"
    );
    std::fs::write(dir.join("cluster.toml"), config).unwrap();
    let script = format!("cat >>{d}/agent.log; exit $(cat {d}/agent.exit)");
    agent(&dir, &script);
    std::fs::write(dir.join("agent.exit"), "0").unwrap();
    dir
}

/// Makes the agent of the test's configuration do something else.
fn agent(dir: &Path, script: &str) {
    let written = std::process::Command::new("sh")
        .args([
            "-c",
            "printf '#!/bin/sh\\n%s\\n' \"$1\" >\"$0\" && chmod 755 \"$0\"",
        ])
        .arg(dir.join("agent"))
        .arg(script)
        .status();
    assert!(written.unwrap().success());
}

/// The configuration with other words in it.
fn reconfigure(dir: &Path, from: &str, to: &str) {
    let path = dir.join("cluster.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&path, mode).unwrap();
}

/// Waits until a file that the agent writes has this in it.
async fn until_written(path: &Path, wanted: &str) -> String {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        if text.contains(wanted) {
            return text;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "{wanted} not in {text}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn fenced(dir: &Path, node: &str) -> Child {
    fenced_command(dir, node).spawn().unwrap()
}

fn fenced_command(dir: &Path, node: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fenced"));
    command
        .args(["--debug", "--node", node, "--config"])
        .arg(dir.join("cluster.toml"))
        .arg("--socket")
        .arg(dir.join("fenced.sock"))
        .arg("--cmand")
        .arg(dir.join("cmand.sock"))
        .kill_on_drop(true);
    command
}

fn member(id: u32) -> Member {
    Member {
        node: NodeId(id),
        incarnation: Incarnation(u64::from(id) * 10),
        boot: BootId(u128::from(id).to_be_bytes()),
    }
}

fn view(number: u64, ids: &[u32], failed: &[u32]) -> Event {
    let departed = |id: &u32| Departed {
        member: member(*id),
        why: Departure::NodeFailed,
    };
    Event::View(View {
        number,
        tag: 0,
        members: ids.iter().map(|id| member(*id)).collect(),
        joined: Vec::new(),
        departed: failed.iter().map(departed).collect(),
        quorate: true,
    })
}

/// A cmand with one client, that delivers what it is asked to send.
struct Cmand {
    server: Server<cmand_client::Request>,
    client: Option<ClientId>,
    /// How often it says that a node lives that was said to be fenced.
    lives: u32,
}

impl Cmand {
    fn bind(dir: &Path) -> Self {
        Self {
            server: Server::bind(&dir.join("cmand.sock")).unwrap(),
            client: None,
            lives: 0,
        }
    }

    fn say(&self, event: Event) {
        self.server.event(self.client.unwrap(), event);
    }

    /// Serves until the daemon has joined its group, then gives it a view.
    async fn admit(&mut self) {
        loop {
            let (client, request) = self.request().await;
            self.client = Some(client);
            if let cmand_client::Request::GroupJoin { group } = request {
                assert_eq!(group, "fence:default");
                break;
            }
        }
        self.say(view(1, &[1, 2, 3], &[]));
        self.say(Event::Quorum {
            quorate: true,
            reason: String::new(),
        });
        self.say(Event::Group(GroupView {
            group: "fence:default".into(),
            number: 1,
            view: 1,
            members: vec![NodeId(1)],
            joined: vec![NodeId(1)],
            departed: Vec::new(),
            lost: Vec::new(),
        }));
    }

    /// The next request that says something, but for questions whether a node lives.
    async fn request(&mut self) -> (ClientId, cmand_client::Request) {
        loop {
            match tokio::time::timeout(LIMIT, self.server.next())
                .await
                .unwrap()
            {
                Input::Request {
                    client,
                    id,
                    request,
                    ..
                } => {
                    if let cmand_client::Request::Probe { node, boot_id } = &request {
                        let boot = member(node.0).boot;
                        assert!(boot_id.is_none_or(|asked| asked == boot));
                        let alive = self.lives > 0;
                        self.lives = self.lives.saturating_sub(1);
                        self.server
                            .reply(client, id, Ok(cmand_client::Reply::Alive(alive)));
                        continue;
                    }
                    self.server.reply(client, id, Ok(cmand_client::Reply::Done));
                    let nobody_ended = matches!(&request,
                        cmand_client::Request::WatchEnded { ended } if ended.is_empty());
                    let nobody_kept = matches!(&request,
                        cmand_client::Request::KeepOut { nodes } if nodes.is_empty());
                    if nobody_ended || nobody_kept {
                        continue;
                    }
                    return (client, request);
                }
                Input::Gone { .. } => {}
            }
        }
    }

    /// Which nodes it is told next to keep out.
    async fn kept_out(&mut self) -> Vec<(NodeId, Option<BootId>)> {
        loop {
            if let (_, cmand_client::Request::KeepOut { nodes }) = self.request().await {
                let nodes = nodes.iter().map(|kept| (kept.node, kept.boot_id));
                return nodes.collect();
            }
        }
    }

    /// Delivers the next group message back and returns it.
    async fn relay(&mut self) -> String {
        loop {
            if let (_, cmand_client::Request::GroupSend { group, payload }) = self.request().await {
                let text = String::from_utf8(payload.clone()).unwrap();
                self.say(Event::Message {
                    group,
                    from: NodeId(1),
                    payload,
                });
                return text;
            }
        }
    }
}

async fn subscribe(dir: &Path) -> fenced_client::Connection {
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Ok(mut connection) = fenced_client::connect(&dir.join("fenced.sock")).await {
            let request = fenced_client::Request::Subscribe {
                client: "test".into(),
            };
            connection.0.send(&request).await.unwrap();
            return connection;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "fenced does not listen"
        );
        tokio::task::yield_now().await;
    }
}

async fn until(connection: &mut fenced_client::Connection, wanted: &State) {
    loop {
        let frame = tokio::time::timeout(LIMIT, connection.1.next())
            .await
            .unwrap()
            .unwrap();
        if let cluster_rt::client::ServerFrame::Event(fenced_client::Event::State(state)) = frame
            && state == *wanted
        {
            return;
        }
    }
}

/// What the daemon tells of itself, as text.
async fn status(dir: &Path) -> String {
    let socket = dir.join("fenced.sock");
    let ask = move || fenced_client::call(&socket, &fenced_client::Request::Status);
    let reply = tokio::task::spawn_blocking(ask).await.unwrap().unwrap();
    serde_json::to_string(&reply).unwrap()
}

/// The text of the next refusal.
async fn refused(connection: &mut fenced_client::Connection) -> String {
    loop {
        let frame = tokio::time::timeout(LIMIT, connection.1.next())
            .await
            .unwrap()
            .unwrap();
        if let cluster_rt::client::ServerFrame::Reply {
            reply: Err(refusal),
            ..
        } = frame
        {
            return refusal.message;
        }
    }
}

fn state(view: u64, victims: &[u32]) -> State {
    State {
        view,
        victims: victims.iter().map(|id| NodeId(*id)).collect(),
    }
}

#[tokio::test]
async fn a_failed_node_is_fenced_by_the_agent_and_then_only_called_safe() {
    let dir = place("fence");
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    until(&mut client, &state(1, &[])).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    let done = cmand.relay().await;
    assert!(done.contains("\"done\""), "{done}");
    until(&mut client, &state(2, &[])).await;
    let log = std::fs::read_to_string(dir.join("agent.log")).unwrap();
    for line in ["action=reboot", "plug=n2", "nodename=n2"] {
        assert!(log.lines().any(|l| l == line), "{line} in {log}");
    }
}

#[tokio::test]
async fn a_node_that_lives_is_a_victim_still_whatever_its_agent_says() {
    let dir = place("lives");
    let mut cmand = Cmand::bind(&dir);
    cmand.lives = 1;
    let mut daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    until(&mut client, &state(1, &[])).await;
    cmand.say(view(2, &[1, 2], &[3]));
    until(&mut client, &state(2, &[3])).await;
    // The second run, after the pause, is the first that is believed.
    let done = cmand.relay().await;
    assert!(done.contains(r#""done":{"node":3"#), "{done}");
    let asked = std::fs::read_to_string(dir.join("agent.log")).unwrap();
    assert_eq!(asked.matches("plug=n3").count(), 2, "{asked}");
    until(&mut client, &state(2, &[])).await;
    daemon.kill().await.unwrap();
}

#[tokio::test]
async fn a_failing_agent_keeps_the_victim_until_an_operator_speaks() {
    let dir = place("fail");
    std::fs::write(dir.join("agent.exit"), "1").unwrap();
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    let acknowledge = fenced_client::Request::Acknowledge {
        node: NodeId(2),
        alive: None,
    };
    client.0.send(&acknowledge).await.unwrap();
    let message = cmand.relay().await;
    assert!(message.contains("acknowledge"), "not done: {message}");
    until(&mut client, &state(2, &[])).await;
}

#[tokio::test]
async fn a_victim_that_runs_is_acknowledged_only_by_its_name() {
    let dir = place("alive");
    std::fs::write(dir.join("agent.exit"), "1").unwrap();
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    until(&mut client, &state(1, &[])).await;
    let accuse = fenced_client::Request::Fence {
        node: NodeId(2),
        boot_id: None,
        reason: "test".into(),
    };
    client.0.send(&accuse).await.unwrap();
    cmand.relay().await;
    until(&mut client, &state(1, &[2])).await;
    let acknowledge = |alive: Option<&str>| fenced_client::Request::Acknowledge {
        node: NodeId(2),
        alive: alive.map(str::to_owned),
    };
    for alive in [None, Some(""), Some("n3"), Some("absolutely")] {
        client.0.send(&acknowledge(alive)).await.unwrap();
        let refusal = refused(&mut client).await;
        assert!(
            refusal.contains("(n2) is a member of the cluster and runs"),
            "{refusal}"
        );
    }
    client.0.send(&acknowledge(Some("n2"))).await.unwrap();
    let message = cmand.relay().await;
    assert!(message.contains("acknowledge"), "{message}");
    until(&mut client, &state(1, &[])).await;
}

#[tokio::test]
async fn a_victim_in_no_view_that_answers_heartbeats_is_acknowledged_only_by_its_name() {
    let dir = place("heard");
    std::fs::write(dir.join("agent.exit"), "1").unwrap();
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    let acknowledge = |alive: Option<&str>| fenced_client::Request::Acknowledge {
        node: NodeId(2),
        alive: alive.map(str::to_owned),
    };
    cmand.lives = 2;
    for alive in [None, Some("n3")] {
        client.0.send(&acknowledge(alive)).await.unwrap();
        let refusal = tokio::select! {
            refusal = refused(&mut client) => refusal,
            (_, request) = cmand.request() => panic!("{request:?}"),
        };
        assert!(
            refusal.contains("(n2) answers heartbeats and runs"),
            "{refusal}"
        );
    }
    assert_eq!(cmand.lives, 0, "it was asked each time");
    client.0.send(&acknowledge(None)).await.unwrap();
    let message = cmand.relay().await;
    assert!(message.contains("acknowledge"), "{message}");
    until(&mut client, &state(2, &[])).await;
}

#[tokio::test]
async fn a_client_that_must_not_end_takes_its_node_with_it() {
    let dir = place("needed");
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut watcher = subscribe(&dir).await;
    until(&mut watcher, &state(1, &[])).await;
    let needed = |reason: Option<&str>| fenced_client::Request::FenceWhenGone {
        reason: reason.map(str::to_owned),
    };
    let mut first = subscribe(&dir).await;
    first.0.send(&needed(Some("first"))).await.unwrap();
    first.0.send(&needed(None)).await.unwrap();
    let mut second = subscribe(&dir).await;
    second.0.send(&needed(Some("second"))).await.unwrap();
    drop(first);
    drop(second);
    let accusation = cmand.relay().await;
    assert!(
        accusation.contains(r#""accuse":{"node":1,"boot_id":null,"reason":"second""#),
        "{accusation}"
    );
    until(&mut watcher, &state(1, &[1])).await;
}

#[tokio::test]
async fn garbage_on_the_socket_and_unknown_nodes_leave_the_daemon_at_work() {
    let dir = place("garbage");
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    let mut raw = UnixStream::connect(dir.join("fenced.sock")).await.unwrap();
    raw.write_all(b"\xff\xff\xff\xffgarbage").await.unwrap();
    let mut rest = Vec::new();
    tokio::time::timeout(LIMIT, raw.read_to_end(&mut rest))
        .await
        .unwrap()
        .unwrap();
    let unknown = fenced_client::Request::Fence {
        node: NodeId(9),
        boot_id: None,
        reason: "test".into(),
    };
    client.0.send(&unknown).await.unwrap();
    let refusal = refused(&mut client).await;
    assert_eq!(refusal, "node 9 is not in cluster.toml");
    cmand.say(Event::Message {
        group: "fence:default".into(),
        from: NodeId(3),
        payload: b"not a message".to_vec(),
    });
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
}

#[tokio::test]
async fn the_daemon_says_what_is_wrong_and_ends_with_a_status_of_its_own() {
    let dir = place("exit");
    let mut stranger = fenced(&dir, "nowhere");
    let status = tokio::time::timeout(LIMIT, stranger.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(i32::from(cluster_rt::exit::CONFIG)));
    let mut lonely = fenced(&dir, "n1");
    let status = tokio::time::timeout(LIMIT, lonely.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        status.code(),
        Some(i32::from(cluster_rt::exit::FAILED)),
        "no cmand"
    );
    let mut cmand = Cmand::bind(&dir);
    let mut expelled = fenced(&dir, "n1");
    cmand.admit().await;
    cmand.say(Event::Expelled {
        reason: "view 7 was made without n1".into(),
    });
    let status = tokio::time::timeout(LIMIT, expelled.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(i32::from(cluster_rt::exit::RESET)));
}

#[tokio::test]
async fn it_leaves_the_domain_before_it_ends() {
    let dir = place("leave");
    let mut cmand = Cmand::bind(&dir);
    let mut daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    until(&mut client, &state(1, &[])).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id().unwrap()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let (_, request) = cmand.request().await;
    assert!(matches!(request, cmand_client::Request::GroupLeave { .. }));
    assert!(
        daemon.try_wait().unwrap().is_none(),
        "it waits until the others know"
    );
    cmand.say(Event::Group(GroupView {
        group: "fence:default".into(),
        number: 2,
        view: 1,
        members: Vec::new(),
        joined: Vec::new(),
        departed: vec![(NodeId(1), Departure::Left)],
        lost: Vec::new(),
    }));
    let status = tokio::time::timeout(LIMIT, daemon.wait())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_node_with_two_feeds_is_off_in_both_before_one_is_on_again() {
    let dir = place("feeds");
    let d = dir.display();
    reconfigure(
        &dir,
        "plug = \"n2\" }",
        "plug = \"n2\" }, { device = \"e\", plug = \"n2\" }",
    );
    reconfigure(
        &dir,
        "[[fence_device]]\nname = \"d\"",
        &format!(
            "[[fence_device]]\nname = \"e\"\nagent = \"{d}/agent\"\noptions = {{ feed = \"e\" }}\n\
             [[fence_device]]\nname = \"d\"\noptions = {{ feed = \"d\" }}"
        ),
    );
    let script = format!(
        "case \"$*\" in *metadata) echo '<resource-agent name=\"x\"><parameters><parameter name=\"feed\"/>\
         <parameter name=\"plug\"/></parameters><actions><action name=\"off\"/><action name=\"on\"/>\
         <action name=\"reboot\"/><action name=\"status\"/></actions></resource-agent>'; exit 0;; esac; \
         o=$(cat); a=$(echo \"$o\" | sed -n 's/^action=//p'); f=$(echo \"$o\" | sed -n 's/^feed=//p'); \
         echo \"$a $f\" >>{d}/agent.log; test $a != status || exit 2"
    );
    agent(&dir, &script);
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    cmand.relay().await;
    until(&mut client, &state(2, &[])).await;
    let log = std::fs::read_to_string(dir.join("agent.log")).unwrap();
    assert_eq!(log, "off d\noff e\nstatus d\nstatus e\non d\non e\n");
}

#[tokio::test]
async fn a_run_against_a_node_that_is_back_is_ended_before_it_hits_the_healthy_one() {
    let dir = place("late");
    // So long that only the node's return can be what ends it.
    reconfigure(&dir, "timeout_s = 20", "timeout_s = 3600");
    let d = dir.display();
    let script = format!(
        "o=$(cat); test -n \"$o\" || exit 1; echo begun >>{d}/agent.log; \
         sleep 600; echo pressed >>{d}/agent.log"
    );
    agent(&dir, &script);
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    until_written(&dir.join("agent.log"), "begun").await;
    let Event::View(mut back) = view(3, &[1, 2, 3], &[]) else {
        panic!("a view")
    };
    back.members[1].incarnation = Incarnation(21);
    back.members[1].boot = BootId([2; 16]);
    cmand.say(Event::View(back));
    until(&mut client, &state(3, &[])).await;
    // A shell that waits for a program ends with it: none of the run is left.
    let deadline = tokio::time::Instant::now() + LIMIT;
    let runs = || {
        let mut pgrep = std::process::Command::new("pgrep");
        let found = pgrep.args(["-f", &format!("{d}/agent")]).output().unwrap();
        !found.stdout.is_empty()
    };
    while runs() {
        assert!(tokio::time::Instant::now() < deadline, "the agent runs on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let log = std::fs::read_to_string(dir.join("agent.log")).unwrap();
    assert!(!log.contains("pressed"), "{log}");
    let status = status(&dir).await;
    assert!(status.contains(r#""doing":"","#), "{status}");
}

#[tokio::test]
async fn a_password_is_told_to_the_agent_and_to_nobody_else() {
    let dir = place("secret");
    reconfigure(
        &dir,
        "timeout_s = 20",
        "timeout_s = 20\noptions = { password = \"hunter2\" }",
    );
    agent(&dir, "o=$(cat); echo \"options read: $o\" >&2; exit 1");
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    let deadline = tokio::time::Instant::now() + LIMIT;
    let shown = loop {
        let text = status(&dir).await;
        if text.contains("options read") {
            break text;
        }
        assert!(tokio::time::Instant::now() < deadline, "{text}");
    };
    assert!(
        shown.contains("password=***") && !shown.contains("hunter2"),
        "{shown}"
    );
    let dump = tokio::task::spawn_blocking(move || {
        fenced_client::call(&dir.join("fenced.sock"), &fenced_client::Request::Dump)
    });
    let dump = serde_json::to_string(&dump.await.unwrap().unwrap()).unwrap();
    assert!(
        dump.contains("options read") && !dump.contains("hunter2"),
        "{dump}"
    );
}

/// An agent that cannot be told to end would outlive its time.
#[tokio::test]
async fn it_ignores_what_does_not_end_it_and_its_agents_do_not() {
    let dir = place("signals");
    let file = |name: &str| dir.join(name).display().to_string();
    let script = format!(
        "[ $# = 0 ] || exit 1; cat >{}; grep -E 'Sig(Blk|Ign)' /proc/self/status >{}; echo done >>{1}",
        file("agent.log"),
        file("masks")
    );
    agent(&dir, &script);
    let mut cmand = Cmand::bind(&dir);
    let daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    until(&mut client, &state(1, &[])).await;
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon.id().unwrap()).unwrap());
    for signal in nix::sys::signal::Signal::iterator() {
        use nix::sys::signal::Signal;
        let ends = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL];
        let faults = [
            Signal::SIGILL,
            Signal::SIGTRAP,
            Signal::SIGABRT,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGSEGV,
            Signal::SIGSYS,
        ];
        if !ends.contains(&signal) && !faults.contains(&signal) && signal != Signal::SIGSTOP {
            nix::sys::signal::kill(pid, signal).unwrap();
        }
    }
    cmand.say(view(2, &[1, 2], &[3]));
    let masks = until_written(&dir.join("masks"), "done").await;
    let masks: Vec<&str> = masks.split_whitespace().collect();
    assert_eq!(masks.len(), 5, "{masks:?}");
    // The C library keeps 32 and 33 for itself; a parent of this test may have them ignored.
    let own = 3 << 31;
    for (name, value) in [(masks[0], masks[1]), (masks[2], masks[3])] {
        let value = u64::from_str_radix(value, 16).unwrap();
        assert_eq!(value & !own, 0, "{name} {value:x}");
    }
}

/// The service manager ends a daemon that is silent, whatever its other threads do.
#[tokio::test]
async fn a_loop_that_is_stuck_keeps_nothing_alive() {
    let dir = place("watchdog");
    let limit = Duration::from_millis(600);
    let manager = tokio::net::UnixDatagram::bind(dir.join("notify")).unwrap();
    let hear = async |time: Duration| {
        let mut line = [0; 64];
        let heard = tokio::time::timeout(time, manager.recv(&mut line)).await;
        heard.ok().map(|length| line[..length.unwrap()].to_vec())
    };
    let mut cmand = Cmand::bind(&dir);
    let daemon = fenced_command(&dir, "n1")
        .env("NOTIFY_SOCKET", dir.join("notify"))
        .env("WATCHDOG_USEC", limit.as_micros().to_string())
        .spawn()
        .unwrap();
    cmand.admit().await;
    assert_eq!(hear(LIMIT).await.unwrap(), b"READY=1\n");
    for _ in 0..3 {
        assert_eq!(hear(LIMIT).await.unwrap(), b"WATCHDOG=1\n");
    }
    // Its first thread alone, which runs the loop.
    let thread = Pid::from_raw(daemon.id().unwrap().cast_signed());
    ptrace::seize(thread, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(thread).unwrap();
    waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    // What was on its way.
    while hear(limit / 10).await.is_some() {}
    assert_eq!(hear(2 * limit).await, None);
    ptrace::detach(thread, None).unwrap();
    assert_eq!(hear(LIMIT).await.unwrap(), b"WATCHDOG=1\n");
}

#[tokio::test]
async fn a_node_heard_in_the_boot_that_was_fenced_is_fenced_again() {
    let dir = place("returns");
    let mut cmand = Cmand::bind(&dir);
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    until(&mut client, &state(1, &[])).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    cmand.relay().await;
    until(&mut client, &state(2, &[])).await;
    // cmand is told which boot must be over, and hears it all the same.
    let life = member(2);
    let ended = loop {
        if let (_, cmand_client::Request::WatchEnded { ended }) = cmand.request().await {
            break ended;
        }
    };
    let (node, boot_id) = (life.node, life.boot);
    assert_eq!(ended, [cmand_client::Ended { node, boot_id }]);
    cmand.say(Event::Returned {
        node,
        incarnation: life.incarnation,
        boot_id,
    });
    let returned = cmand.relay().await;
    assert!(returned.contains(r#""returned":{"node":2"#), "{returned}");
    until(&mut client, &state(2, &[2])).await;
    let told = status(&dir).await;
    assert!(told.contains("the agent or the plug lied"), "{told}");
    cmand.relay().await;
    until(&mut client, &state(2, &[])).await;
}

#[tokio::test]
async fn a_node_cut_off_from_storage_is_kept_out_until_an_operator_unfences_it() {
    let dir = place("fabric");
    // It knows off and on, and no reboot: it does not touch the power.
    agent(
        &dir,
        "test \"$2\" = metadata && echo '<resource-agent><actions><action name=\"off\"/>\
         <action name=\"on\"/></actions></resource-agent>'; exit 0",
    );
    let mut cmand = Cmand::bind(&dir);
    // Heard as it is, it was fenced all the same.
    cmand.lives = 100;
    let _daemon = fenced(&dir, "n1");
    cmand.admit().await;
    let mut client = subscribe(&dir).await;
    until(&mut client, &state(1, &[])).await;
    cmand.say(view(2, &[1, 3], &[2]));
    until(&mut client, &state(2, &[2])).await;
    let done = cmand.relay().await;
    assert!(done.contains(r#""cut_off":"fenced""#), "{done}");
    until(&mut client, &state(2, &[])).await;
    let (node, boot) = (NodeId(2), member(2).boot);
    assert_eq!(cmand.kept_out().await, [(node, None)]);
    assert!(status(&dir).await.contains(r#""cut_off":true"#));
    let unfence = fenced_client::Request::Unfence { node };
    client.0.send(&unfence).await.unwrap();
    cmand.relay().await;
    assert_eq!(cmand.kept_out().await, [(node, Some(boot))]);
    assert!(!status(&dir).await.contains(r#""cut_off":true"#));
    client.0.send(&unfence).await.unwrap();
    let why = refused(&mut client).await;
    assert!(why.contains("is not cut off from storage"), "{why}");
}
