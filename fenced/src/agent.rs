// SPDX-License-Identifier: GPL-2.0-only
//! The runs of fence agents that the daemon has under way: one against a victim, and one for each
//! device that is watched. They report to the daemon's loop; dropping a run ends its agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use cluster_rt::client::CallError;
use cluster_rt::client::ServerFrame;
use cluster_rt::config::Action;
use cluster_rt::server::ClientId;
use fence_agent::Device;
use fence_agent::Metadata;
use fence_agent::Method;
use fence_agent::Outcome;
use fence_agent::Progress;
use fenced_core::BootId;
use fenced_core::NodeId;
use fenced_core::Success;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Reports that may wait for the daemon's loop. Agents wait when it is full.
const REPORTS: usize = 64;

/// What the daemon's loop hears of agents.
#[derive(Debug)]
pub(crate) enum Report {
    /// A run against a node begins something.
    Progress {
        node: NodeId,
        run: u64,
        progress: Progress,
    },
    /// A run against a node has ended: the method that succeeded, or why none did.
    Ended {
        node: NodeId,
        run: u64,
        result: Result<Done, String>,
    },
    /// A device was asked whether it answers.
    Device {
        device: String,
        /// Seconds since the epoch.
        at: u64,
        result: Result<(), String>,
    },
    /// It was asked whether a victim lives that somebody says has stopped.
    Looked {
        node: NodeId,
        /// Who said so, and the number of the request.
        asker: (ClientId, u64),
        /// Or why nobody can tell.
        lives: Result<bool, String>,
    },
}

/// The method that fenced a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// Its name.
    pub(crate) name: String,
    /// What the domain must know.
    pub(crate) success: Success,
}

/// Whom to ask whether a victim still lives.
#[derive(Debug, Clone)]
struct Witness {
    cmand: PathBuf,
    node: NodeId,
    /// The boot that must have ended; any, if the node was never seen.
    boot_id: Option<BootId>,
}

/// The runs under way.
#[derive(Debug)]
pub(crate) struct Agents {
    sender: mpsc::Sender<Report>,
    receiver: mpsc::Receiver<Report>,
    known: Arc<BTreeMap<String, Metadata>>,
    cmand: PathBuf,
    /// The run against a victim, until its end is heard of.
    against: Option<(NodeId, u64, AbortHandle)>,
    /// Runs that ask devices.
    watches: Vec<AbortHandle>,
}

impl Agents {
    /// None under way. `known`: what the agents say of themselves.
    /// `cmand`: its socket, where to ask whether a victim lives.
    pub(crate) fn new(known: BTreeMap<String, Metadata>, cmand: &Path) -> Self {
        let (sender, receiver) = mpsc::channel(REPORTS);
        Self {
            sender,
            receiver,
            known: Arc::new(known),
            cmand: cmand.to_owned(),
            against: None,
            watches: Vec::new(),
        }
    }

    /// Waits for the next report.
    pub(crate) async fn next(&mut self) -> Option<Report> {
        let report = self.receiver.recv().await;
        if let Some(Report::Ended { node, run, .. }) = &report
            && self.is_against(*node, *run)
        {
            self.against = None;
        }
        report
    }

    /// Begins a run against a node; `first`: the method it begins with. One that is under way is
    /// ended first: the domain begins another only when it no longer counts.
    pub(crate) fn fence(
        &mut self,
        (node, boot_id): (NodeId, Option<BootId>),
        name: String,
        run: u64,
        (first, methods): (u32, Vec<Method>),
    ) {
        self.stop();
        let witness = Witness {
            cmand: self.cmand.clone(),
            node,
            boot_id,
        };
        let (sender, known) = (self.sender.clone(), Arc::clone(&self.known));
        let task = tokio::spawn(async move {
            let tell = |progress| {
                // One that is lost shows an older state for a moment.
                let _ = sender.try_send(Report::Progress {
                    node,
                    run,
                    progress,
                });
            };
            let result = fence(&name, (first, &methods), &known, &witness, tell).await;
            // The daemon is gone when nobody receives this.
            let _ = sender.send(Report::Ended { node, run, result }).await;
        });
        self.against = Some((node, run, task.abort_handle()));
    }

    /// Asks whether a victim lives, for somebody who says that it has stopped.
    pub(crate) fn look(&self, node: NodeId, boot_id: Option<BootId>, asker: (ClientId, u64)) {
        let witness = Witness {
            cmand: self.cmand.clone(),
            node,
            boot_id,
        };
        let sender = self.sender.clone();
        tokio::spawn(async move {
            let lives = witness.lives().await;
            // The daemon is gone when nobody receives this.
            let _ = sender.send(Report::Looked { node, asker, lives }).await;
        });
    }

    /// Whether this run is under way.
    pub(crate) fn is_against(&self, node: NodeId, run: u64) -> bool {
        let against = self.against.as_ref();
        against.is_some_and(|(victim, known, _)| (*victim, *known) == (node, run))
    }

    /// The node is no victim any more: a run against it must do nothing further.
    pub(crate) fn spare(&mut self, node: NodeId) -> bool {
        let is_under_way = self
            .against
            .as_ref()
            .is_some_and(|(victim, ..)| *victim == node);
        if is_under_way {
            self.stop();
        }
        is_under_way
    }

    fn stop(&mut self) {
        if let Some((.., task)) = self.against.take() {
            task.abort();
        }
    }

    /// Asks a device again and again, at its interval, whether it answers.
    pub(crate) fn watch(&mut self, device: &Device) {
        let Some(interval) = device.interval else {
            return;
        };
        let (call, sender) = (device.call.clone(), self.sender.clone());
        let can_monitor = self
            .known
            .get(&call.agent)
            .is_none_or(|agent| agent.knows(Action::Monitor));
        let action = if can_monitor {
            Action::Monitor
        } else {
            Action::Status
        };
        let task = tokio::spawn(async move {
            loop {
                let result = match fence_agent::run(&call, action).await {
                    // That something is off is an answer.
                    Outcome::Success | Outcome::Off => Ok(()),
                    Outcome::Failure(why) => Err(why),
                };
                let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
                let report = Report::Device {
                    device: call.device.clone(),
                    at: at.map_or(0, |since| since.as_secs()),
                    result,
                };
                if sender.send(report).await.is_err() {
                    return;
                }
                tokio::time::sleep(interval).await;
            }
        });
        self.watches.push(task.abort_handle());
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.stop();
        self.watches.iter().for_each(AbortHandle::abort);
    }
}

/// How long cmand may take to say whether a node is silent: some heartbeats of the longest kind.
const WITNESS_LIMIT: Duration = Duration::from_secs(10);

impl Witness {
    /// Whether the victim is silent now. An agent that says it has switched off what still answers
    /// has switched off something else, or nothing.
    ///
    /// # Errors
    /// It lives, or nobody can tell.
    async fn has_stopped(&self) -> Result<(), String> {
        if self.lives().await? {
            return Err(
                "the agent says that it is done, and the node still answers heartbeats; is the \
                 plug the node's?"
                    .to_owned(),
            );
        }
        Ok(())
    }

    /// Whether the victim answers a heartbeat sent after this question.
    ///
    /// # Errors
    /// Nobody can tell.
    async fn lives(&self) -> Result<bool, String> {
        let (node, boot_id) = (self.node, self.boot_id);
        let ask = async {
            let mut cmand = cmand_client::connect(&self.cmand).await?;
            let request = cmand_client::Request::Probe { node, boot_id };
            cmand.0.send(&request).await?;
            loop {
                if let ServerFrame::Reply { reply, .. } = cmand.1.next().await? {
                    return Ok::<_, CallError>(reply);
                }
            }
        };
        match tokio::time::timeout(WITNESS_LIMIT, ask).await {
            Ok(Ok(Ok(cmand_client::Reply::Alive(alive)))) => Ok(alive),
            Ok(Ok(Ok(_))) => Err("cmand answered something else; is it of another version?".into()),
            Ok(Ok(Err(refusal))) => {
                Err(format!("cmand does not say whether it stopped: {refusal}"))
            }
            Ok(Err(error)) => Err(format!("cmand does not say whether it stopped: {error}")),
            Err(_) => Err("cmand does not say whether it stopped within 10 s".to_owned()),
        }
    }
}

/// Tries the methods, in order but for the one to begin with, until one succeeds and the node has
/// stopped. The error says what each of them said.
async fn fence(
    node: &str,
    (first, methods): (u32, &[Method]),
    known: &BTreeMap<String, Metadata>,
    witness: &Witness,
    tell: impl Fn(Progress),
) -> Result<Done, String> {
    if methods.is_empty() {
        return Err(format!(
            "no fence method is configured for {node}; add [[node.fence]] to cluster.toml, or make \
             sure that it is off and run `fence_tool ack` for it"
        ));
    }
    let mut failures = Vec::new();
    for (index, method) in from(first, methods) {
        let is_power = method.is_power(known);
        let done = || Done {
            name: method.name.clone(),
            success: Success {
                method: index,
                is_power,
            },
        };
        match method.run(node, known, &tell).await {
            Ok(()) if !is_power => return Ok(done()),
            Ok(()) => match witness.has_stopped().await {
                Ok(()) => return Ok(done()),
                Err(why) => failures.push(format!("method {}: {why}", method.name)),
            },
            Err(failure) => failures.push(format!("method {}: {failure}", method.name)),
        }
    }
    Err(failures.join("; "))
}

/// All methods with their place in the configuration, this one first and those before it last.
fn from(first: u32, methods: &[Method]) -> impl Iterator<Item = (u32, &Method)> {
    let begin = usize::try_from(first).unwrap_or(0) % methods.len().max(1);
    let placed = (0..).zip(methods);
    placed.clone().skip(begin).chain(placed.take(begin))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use cluster_rt::config::Options;
    use cluster_rt::server::Input;
    use cluster_rt::server::Server;
    use fence_agent::Call;

    use super::*;

    /// A method whose only device ends as a program of the system does.
    fn method(name: &str, agent: &str) -> Method {
        let call = Call {
            device: "test".into(),
            agent: agent.into(),
            options: Options::default(),
            timeout: Duration::from_secs(20),
        };
        Method {
            name: name.into(),
            calls: vec![(call, Some(Action::Off))],
        }
    }

    fn done(name: &str, method: u32) -> Done {
        let is_power = true;
        Done {
            name: name.into(),
            success: Success { method, is_power },
        }
    }

    /// A cmand that answers questions whether a node lives, in this order, then always no.
    fn cmand(name: &str, alive: &[bool]) -> PathBuf {
        let file = format!("fenced-agent-{}-{name}.sock", std::process::id());
        let path = std::env::temp_dir().join(file);
        let _ = std::fs::remove_file(&path);
        let mut server = Server::<cmand_client::Request>::bind(&path).unwrap();
        let mut answers = VecDeque::from(alive.to_vec());
        tokio::spawn(async move {
            loop {
                if let Input::Request { client, id, .. } = server.next().await {
                    let alive = answers.pop_front().unwrap_or(false);
                    server.reply(client, id, Ok(cmand_client::Reply::Alive(alive)));
                }
            }
        });
        path
    }

    fn witness(cmand: PathBuf) -> Witness {
        Witness {
            cmand,
            node: NodeId(2),
            boot_id: None,
        }
    }

    #[tokio::test]
    async fn an_agent_is_not_believed_while_the_node_lives() {
        let known = BTreeMap::new();
        let both = [method("first", "true"), method("second", "true")];
        let one_lie = witness(cmand("one", &[true]));
        let result = fence("n2", (0, &both), &known, &one_lie, |_| {}).await;
        assert_eq!(result, Ok(done("second", 1)));
        let lies = witness(cmand("both", &[true, true]));
        let error = fence("n2", (0, &both), &known, &lies, |_| {})
            .await
            .unwrap_err();
        assert!(
            error.contains("method second: the agent says that it is done, and"),
            "{error}"
        );
        let gone = witness(PathBuf::from("/nonexistent"));
        let error = fence("n2", (0, &both), &known, &gone, |_| {})
            .await
            .unwrap_err();
        assert!(
            error.contains("cmand does not say whether it stopped"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn the_next_method_is_tried_and_every_failure_told() {
        let known = BTreeMap::new();
        let silent = witness(cmand("next", &[]));
        let (bad, good) = (method("first", "false"), method("second", "true"));
        let both = [bad.clone(), good];
        assert_eq!(
            fence("n2", (0, &both), &known, &silent, |_| {}).await,
            Ok(done("second", 1))
        );
        let error = fence("n2", (0, &[bad]), &known, &silent, |_| {})
            .await
            .unwrap_err();
        assert!(
            error.contains("method first: device test: agent false"),
            "{error}"
        );
        let error = fence("n2", (0, &[]), &known, &silent, |_| {})
            .await
            .unwrap_err();
        assert!(error.contains("no fence method"), "{error}");
    }

    #[tokio::test]
    async fn the_method_after_the_one_that_lied_comes_first_and_that_one_last() {
        let known = BTreeMap::new();
        let silent = witness(cmand("lied", &[]));
        let all = [
            method("a", "true"),
            method("b", "false"),
            method("c", "true"),
        ];
        for (first, name, index) in [(0, "a", 0), (1, "c", 2), (2, "c", 2), (3, "a", 0)] {
            let result = fence("n2", (first, &all), &known, &silent, |_| {}).await;
            assert_eq!(result, Ok(done(name, index)), "from {first}");
        }
        let only = [method("a", "true")];
        let result = fence("n2", (1, &only), &known, &silent, |_| {}).await;
        assert_eq!(result, Ok(done("a", 0)));
    }

    #[tokio::test]
    async fn a_spared_node_has_no_run_and_nothing_is_reported_of_it() {
        let mut agents = Agents::new(BTreeMap::new(), &cmand("spared", &[]));
        agents.fence(
            (NodeId(2), None),
            "n2".into(),
            1,
            (0, vec![method("m", "cat")]),
        );
        assert!(!agents.spare(NodeId(3)));
        assert!(agents.is_against(NodeId(2), 1) && !agents.is_against(NodeId(2), 2));
        assert!(agents.spare(NodeId(2)) && !agents.spare(NodeId(2)));
        assert!(!agents.is_against(NodeId(2), 1));
        agents.fence(
            (NodeId(3), None),
            "n3".into(),
            2,
            (0, vec![method("m", "true")]),
        );
        loop {
            match agents.next().await.unwrap() {
                Report::Progress { node, .. } => assert_eq!(node, NodeId(3)),
                Report::Ended { node, run, result } => {
                    assert_eq!((node, run, result), (NodeId(3), 2, Ok(done("m", 0))));
                    break;
                }
                Report::Device { .. } | Report::Looked { .. } => {
                    panic!("no device is watched, and nobody asks")
                }
            }
        }
    }

    #[tokio::test]
    async fn a_watched_device_is_reported_with_what_it_said() {
        let mut agents = Agents::new(BTreeMap::new(), Path::new("/nonexistent"));
        let mut device = Device {
            call: method("m", "false").calls.remove(0).0,
            interval: Some(Duration::from_secs(3600)),
            line: 0,
        };
        agents.watch(&device);
        let Some(Report::Device {
            device: name,
            result,
            ..
        }) = agents.next().await
        else {
            panic!("the device's answer")
        };
        assert_eq!(name, "test");
        assert!(result.unwrap_err().contains("exit status: 1"));
        device.call.agent = "true".into();
        agents.watch(&device);
        let Some(Report::Device { result: Ok(()), .. }) = agents.next().await else {
            panic!("it answers")
        };
    }
}
