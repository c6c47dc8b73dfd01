// SPDX-License-Identifier: GPL-2.0-only
//! A client of QEMU's machine protocol (QMP), as far as power control needs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use anyhow::bail;
use serde_json::Value;
use serde_json::json;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::broadcast;
use tokio::sync::oneshot;

/// How long QEMU may take for one command. It answers at once unless the host is overloaded.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// Events kept for a slow reader. Only resets, stops and the like come.
const EVENT_QUEUE_LEN: usize = 256;

/// An event of our own: the connection has ended.
const ENDED: &str = "conclave-ended";

type Pending = HashMap<u64, oneshot::Sender<Result<Value>>>;

/// A connection to one QEMU.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: Arc<Mutex<Pending>>,
    events: broadcast::Sender<Value>,
    next_id: AtomicU64,
}

impl Qmp {
    /// Negotiates capabilities; QEMU need not have started to read yet.
    pub(crate) async fn connect(stream: UnixStream) -> Result<Self> {
        let (reader, writer) = stream.into_split();
        let pending = Arc::<Mutex<Pending>>::default();
        let (events, _) = broadcast::channel(EVENT_QUEUE_LEN);
        tokio::spawn(read(reader, Arc::clone(&pending), events.clone()));
        let qmp = Qmp {
            writer: tokio::sync::Mutex::new(writer),
            pending,
            events,
            next_id: AtomicU64::new(1),
        };
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// Carries out a command without arguments.
    pub(crate) async fn execute(&self, command: &str) -> Result<Value> {
        self.execute_with(command, json!({})).await
    }

    /// Carries out a command of the monitor for people, of those that answer nothing: what they
    /// answer is a complaint.
    pub(crate) async fn execute_human(&self, line: &str) -> Result<()> {
        let arguments = json!({ "command-line": line });
        let answer = self
            .execute_with("human-monitor-command", arguments)
            .await?;
        match answer.as_str().map(str::trim) {
            Some("") => Ok(()),
            _ => bail!("QEMU's monitor: {line:?} was answered {answer}"),
        }
    }

    async fn execute_with(&self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.pending).insert(id, sender);
        let request = json!({"execute": command, "arguments": arguments, "id": id});
        let line = format!("{request}\n");
        let what = || format!("QMP command {command}");
        let sent = self.writer.lock().await.write_all(line.as_bytes()).await;
        sent.with_context(what)?;
        match tokio::time::timeout(COMMAND_LIMIT, receiver).await {
            Ok(Ok(result)) => result.with_context(what),
            Ok(Err(_)) => bail!("{}: QEMU has ended", what()),
            Err(_) => bail!("{}: no answer in {COMMAND_LIMIT:?}", what()),
        }
    }

    /// Events from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Value> {
        self.events.subscribe()
    }

    /// Whether the virtual machine runs (and is not paused, panicked or the like).
    pub(crate) async fn is_running(&self) -> Result<bool> {
        let status = self.execute("query-status").await?;
        status["running"]
            .as_bool()
            .context("query-status without running")
    }
}

/// Waits for the event `name` on a receiver made before what causes it.
pub(crate) async fn wait_for_event(
    events: &mut broadcast::Receiver<Value>,
    name: &str,
) -> Result<Value> {
    loop {
        match events.recv().await {
            Ok(event) if event["event"] == name => return Ok(event),
            Ok(event) if event["event"] == ENDED => bail!("QEMU ended before event {name}"),
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => bail!("QEMU ended before event {name}"),
        }
    }
}

async fn read(
    reader: OwnedReadHalf,
    pending: Arc<Mutex<Pending>>,
    events: broadcast::Sender<Value>,
) {
    let mut lines = BufReader::new(reader).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if message.get("event").is_some() {
            // Nobody has to listen.
            let _ = events.send(message);
        } else if let Some(id) = message["id"].as_u64()
            && let Some(waiter) = lock(&pending).remove(&id)
        {
            let _ = waiter.send(result_of(&message));
        }
    }
    // Dropping the senders tells all who wait.
    lock(&pending).clear();
    let _ = events.send(json!({"event": ENDED}));
}

fn result_of(message: &Value) -> Result<Value> {
    match message.get("return") {
        Some(value) => Ok(value.clone()),
        None => {
            let text = message["error"]["desc"].as_str().unwrap_or("no reason");
            Err(anyhow!("refused: {text}"))
        }
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers like QEMU: greeting, then one answer a request, an event in front of it.
    async fn fake_qemu(stream: UnixStream) {
        let (reader, mut writer) = stream.into_split();
        writer.write_all(b"{\"QMP\": {}}\r\n").await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            let request: Value = serde_json::from_str(&line).unwrap();
            let id = &request["id"];
            let text = match request["execute"].as_str().unwrap() {
                "qmp_capabilities" => json!({"return": {}, "id": id}).to_string(),
                "query-status" => json!({"return": {"running": false}, "id": id}).to_string(),
                "system_reset" => format!(
                    "{}\r\n{}",
                    json!({"event": "RESET", "data": {"guest": false}}),
                    json!({"return": {}, "id": id})
                ),
                "quit" => return,
                other => {
                    json!({"error": {"desc": format!("unknown {other}")}, "id": id}).to_string()
                }
            };
            writer
                .write_all(format!("{text}\r\n").as_bytes())
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn answers_refusals_events_and_the_end_are_told_apart() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(fake_qemu(theirs));
        let qmp = Qmp::connect(ours).await.unwrap();
        assert!(!qmp.is_running().await.unwrap());
        let error = qmp.execute("dance").await.unwrap_err();
        assert!(format!("{error:#}").contains("unknown dance"), "{error:#}");
        let mut events = qmp.events();
        qmp.execute("system_reset").await.unwrap();
        let event = wait_for_event(&mut events, "RESET").await.unwrap();
        assert_eq!(event["data"]["guest"], false);
        let error = qmp.execute("quit").await.unwrap_err();
        assert!(format!("{error:#}").contains("has ended"), "{error:#}");
    }
}
