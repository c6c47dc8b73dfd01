// SPDX-License-Identifier: GPL-2.0-only
//! The power switch of a cluster: what a fence agent on a node talks to.
//!
//! Transport: a byte stream; on a node the device `/dev/virtio-ports/conclave.power`, whose other
//! end is [`serve`] here. One JSON object a line, at most [`LINE_LEN_MAX`] bytes, both directions.
//!
//! ```text
//! {"id":u64, "action":"list"|"status"|"off"|"on"|"reboot", "plug":"n2"}   no plug for list
//! {"id":u64, "ok":true}                                  off, on, reboot
//! {"id":u64, "ok":true, "state":"on"|"off"|"unknown"}    status
//! {"id":u64, "ok":true, "plugs":["n1","n2"]}             list
//! {"id":u64, "ok":false, "error":"plain words"}
//! ```
//!
//! Exactly one reply per request, not always in the order of the requests; id 0 answers a line
//! that has no readable id. What an `ok` promises:
//! - off: the machine's process has ended, nothing of the old instance runs (also if it was off);
//! - reboot: the machine confirmed the reset (QEMU: its RESET event), the old instance runs no
//!   longer; one that was off is started, one that was paused runs. It does not wait for the boot;
//! - on: the machine's process runs (also if it did).
//!
//! What a client must know: the stream is the node's, not the client's. It can hold replies to an
//! earlier client or boot (choose random ids, skip all others) and an unfinished request (begin
//! with a newline; empty lines are ignored). The device can be open once at a time (EBUSY: retry).
//! No reply in time means failure. A node that resets itself gets no reply.
//!
//! The switch knows nothing of clusters: like any power switch it does what it is told.

use std::future::Future;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::Result;
use guest_init::protocol::Splitter;
use serde::Deserialize;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Longest line the switch reads.
pub const LINE_LEN_MAX: usize = guest_init::protocol::FRAME_LEN_MAX;

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Names of all plugs.
    List,
    /// Whether a plug is on.
    Status,
    /// Power off.
    Off,
    /// Power on.
    On,
    /// Reset.
    Reboot,
}

/// A request line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client.
    pub id: u64,
    /// What to do.
    pub action: Action,
    /// To which node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plug: Option<String>,
}

/// A reply line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub id: u64,
    /// Whether it was done.
    pub ok: bool,
    /// Answer to status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PowerState>,
    /// Answer to list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugs: Option<Vec<String>>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether a machine is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// Its process exists, whatever the guest does.
    On,
    /// There is no process.
    Off,
    /// It is being started or ended.
    Unknown,
}

/// What the switch is connected to.
pub trait Plugs: Clone + Send + Sync + 'static {
    /// Names of all.
    fn names(&self) -> Vec<String>;
    /// Whether one is on.
    fn state(&self, plug: &str) -> impl Future<Output = Result<PowerState>> + Send;
    /// Ends one for good.
    fn off(&self, plug: &str) -> impl Future<Output = Result<()>> + Send;
    /// Starts one.
    fn on(&self, plug: &str) -> impl Future<Output = Result<()>> + Send;
    /// Resets one, or starts it.
    fn reboot(&self, plug: &str) -> impl Future<Output = Result<()>> + Send;
}

/// One action that was carried out or refused.
#[derive(Clone, Debug)]
pub struct PowerEvent {
    /// When it was answered.
    pub at: Instant,
    /// The node that asked for it.
    pub by: String,
    /// What was asked.
    pub request: Request,
    /// What was answered.
    pub reply: Reply,
}

/// All actions of a cluster's switch; clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct PowerLog {
    events: Arc<Mutex<Vec<PowerEvent>>>,
}

impl PowerLog {
    /// The actions so far, in order of their answers.
    pub fn events(&self) -> Vec<PowerEvent> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.clone()
    }

    fn add(&self, event: PowerEvent) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event);
    }
}

/// Serves the switch to the node `by`, until its machine ends.
pub async fn serve(plugs: impl Plugs, stream: UnixStream, by: String, log: PowerLog) {
    let (mut reader, writer) = stream.into_split();
    let (replies, outgoing) = mpsc::unbounded_channel();
    tokio::spawn(write(writer, outgoing));
    let mut splitter = Splitter::default();
    let mut buffer = vec![0; 4096];
    while let Ok(len) = reader.read(&mut buffer).await {
        if len == 0 {
            return;
        }
        for line in splitter.push(&buffer[..len]) {
            match serde_json::from_slice::<Request>(&line) {
                Ok(request) => {
                    // At once and side by side: a slow power-off must not delay another one.
                    let task = carry_out(plugs.clone(), request, by.clone(), log.clone());
                    let replies = replies.clone();
                    tokio::spawn(async move { replies.send(task.await) });
                }
                Err(error) => {
                    let reply = refusal(0, format!("request not understood: {error}"));
                    // The machine may have ended meanwhile.
                    let _ = replies.send(reply);
                }
            }
        }
    }
}

async fn carry_out(plugs: impl Plugs, request: Request, by: String, log: PowerLog) -> Reply {
    let reply = match answer(&plugs, &request).await {
        Ok(reply) => reply,
        Err(error) => refusal(request.id, format!("{error:#}")),
    };
    log.add(PowerEvent {
        at: Instant::now(),
        by,
        request,
        reply: reply.clone(),
    });
    reply
}

async fn answer(plugs: &impl Plugs, request: &Request) -> Result<Reply> {
    let mut reply = Reply {
        id: request.id,
        ok: true,
        ..Reply::default()
    };
    let plug = match (&request.plug, request.action) {
        (Some(plug), _) => plug.as_str(),
        (None, Action::List) => "",
        (None, Action::Status | Action::Off | Action::On | Action::Reboot) => {
            return Ok(refusal(request.id, "no plug given".into()));
        }
    };
    match request.action {
        Action::List => reply.plugs = Some(plugs.names()),
        Action::Status => reply.state = Some(plugs.state(plug).await?),
        Action::Off => plugs.off(plug).await?,
        Action::On => plugs.on(plug).await?,
        Action::Reboot => plugs.reboot(plug).await?,
    }
    Ok(reply)
}

fn refusal(id: u64, error: String) -> Reply {
    Reply {
        id,
        error: Some(error),
        ..Reply::default()
    }
}

async fn write(mut writer: OwnedWriteHalf, mut replies: mpsc::UnboundedReceiver<Reply>) {
    while let Some(reply) = replies.recv().await {
        let Ok(mut line) = serde_json::to_vec(&reply) else {
            continue;
        };
        line.push(b'\n');
        if writer.write_all(&line).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use tokio::io::AsyncBufReadExt;
    use tokio::io::BufReader;

    /// n1 and n2; n1 is on, off works at once, reboot of n2 fails.
    #[derive(Clone)]
    struct Fake;

    impl Plugs for Fake {
        fn names(&self) -> Vec<String> {
            vec!["n1".into(), "n2".into()]
        }

        async fn state(&self, plug: &str) -> Result<PowerState> {
            match plug {
                "n1" => Ok(PowerState::On),
                "n2" => Ok(PowerState::Off),
                other => bail!("no plug {other}"),
            }
        }

        async fn off(&self, _: &str) -> Result<()> {
            Ok(())
        }

        async fn on(&self, _: &str) -> Result<()> {
            Ok(())
        }

        async fn reboot(&self, plug: &str) -> Result<()> {
            bail!("{plug} did not confirm")
        }
    }

    async fn ask(lines: &str) -> (Vec<String>, PowerLog) {
        let (ours, mut agent) = UnixStream::pair().unwrap();
        let log = PowerLog::default();
        let server = tokio::spawn(serve(Fake, ours, "n1".into(), log.clone()));
        let count = lines.lines().filter(|line| !line.is_empty()).count();
        agent.write_all(lines.as_bytes()).await.unwrap();
        let mut replies = BufReader::new(&mut agent).lines();
        let mut got = Vec::new();
        for _ in 0..count {
            got.push(replies.next_line().await.unwrap().unwrap());
        }
        drop(agent);
        server.await.unwrap();
        (got, log)
    }

    #[tokio::test]
    async fn the_lines_are_those_of_the_description() {
        for (request, reply) in [
            (
                r#"{"id":1,"action":"list"}"#,
                r#"{"id":1,"ok":true,"plugs":["n1","n2"]}"#,
            ),
            (
                r#"{"id":18446744073709551615,"action":"status","plug":"n2","token":"x"}"#,
                r#"{"id":18446744073709551615,"ok":true,"state":"off"}"#,
            ),
            (
                r#"{"id":3,"action":"off","plug":"n1"}"#,
                r#"{"id":3,"ok":true}"#,
            ),
            (
                r#"{"id":4,"action":"reboot","plug":"n2"}"#,
                r#"{"id":4,"ok":false,"error":"n2 did not confirm"}"#,
            ),
            (
                r#"{"id":5,"action":"status","plug":"n9"}"#,
                r#"{"id":5,"ok":false,"error":"no plug n9"}"#,
            ),
            (
                r#"{"id":6,"action":"off"}"#,
                r#"{"id":6,"ok":false,"error":"no plug given"}"#,
            ),
        ] {
            let (replies, _) = ask(&format!("\n{request}\n")).await;
            assert_eq!(replies, [reply]);
        }
    }

    #[tokio::test]
    async fn garbage_is_answered_and_does_not_end_the_service() {
        let (replies, log) = ask("garbage\n{\"id\":2,\"action\":\"on\",\"plug\":\"n1\"}\n").await;
        let mut garbage = 0;
        for line in &replies {
            let reply: Reply = serde_json::from_str(line).unwrap();
            if reply.id == 0 {
                garbage += 1;
                assert!(!reply.ok);
            } else {
                assert!(reply.ok);
            }
        }
        assert_eq!(garbage, 1);
        assert_eq!(log.events().len(), 1);
        assert_eq!(log.events()[0].by, "n1");
        assert_eq!(log.events()[0].request.action, Action::On);
    }
}
