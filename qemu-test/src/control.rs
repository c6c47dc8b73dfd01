// SPDX-License-Identifier: GPL-2.0-only
//! The runner's end of a node's control channel (see [`guest_init::protocol`]).
//!
//! One [`Control`] per node, for all its boots: every start of the machine brings a new stream,
//! every boot a new greeting. Whatever was asked of an earlier boot ends with an error that says
//! so; nothing waits for a machine that is gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::bail;
use guest_init::protocol::Event;
use guest_init::protocol::Hello;
use guest_init::protocol::Op;
use guest_init::protocol::Reply;
use guest_init::protocol::Request;
use guest_init::protocol::Splitter;
use guest_init::protocol::encode;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::sync::watch;

/// A boot of a node: its id and greeting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// The kernel's boot id.
    pub id: String,
    /// What init said.
    pub hello: Hello,
}

#[derive(Debug, Default)]
struct State {
    /// Which machine's stream counts; bytes from earlier ones are ignored.
    epoch: u64,
    outgoing: Option<mpsc::UnboundedSender<Vec<u8>>>,
    pending: HashMap<u64, mpsc::UnboundedSender<Event>>,
    next_id: u64,
    /// How much of what was sent the node has read; serial lines only.
    consumed: Option<watch::Sender<u64>>,
    /// Why the last boot is over.
    end: String,
}

/// The control channel of one node.
#[derive(Clone, Debug)]
pub struct Control {
    name: String,
    state: Arc<Mutex<State>>,
    boot: watch::Sender<Option<Boot>>,
}

/// A request under way; its replies come here.
#[derive(Debug)]
pub struct Replies {
    node: String,
    id: u64,
    events: mpsc::UnboundedReceiver<Event>,
    state: Arc<Mutex<State>>,
}

impl Replies {
    /// The request's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The next reply.
    ///
    /// # Errors
    /// The node was reset or powered off, or its init refused the request.
    pub async fn next(&mut self) -> Result<Event> {
        match self.events.recv().await {
            Some(Event::Failed { error }) => bail!("{}: {error}", self.node),
            Some(event) => Ok(event),
            None => {
                let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                bail!("{} did not answer: {}", self.node, state.end)
            }
        }
    }
}

impl Control {
    /// The channel of a node that does not run yet.
    pub fn new(name: &str) -> Self {
        Control {
            name: name.to_owned(),
            state: Arc::default(),
            boot: watch::Sender::new(None),
        }
    }

    /// A machine was started; this is its stream. With a `window`, no more bytes than that are on
    /// their way to the node at any time.
    pub fn attach(&self, stream: UnixStream, window: Option<u64>) {
        let (reader, writer) = stream.into_split();
        let (outgoing, frames) = mpsc::unbounded_channel();
        let (consumed, progress) = watch::channel(0);
        let epoch = {
            let mut state = self.lock();
            state.epoch += 1;
            state.outgoing = Some(outgoing);
            state.consumed = Some(consumed);
            state.epoch
        };
        self.forget_boot("its machine was started anew");
        match window {
            Some(window) => drop(tokio::spawn(write_in(writer, frames, window, progress))),
            None => drop(tokio::spawn(write(writer, frames))),
        }
        tokio::spawn(read(self.clone(), epoch, reader));
    }

    /// The machine was ended, or is being reset (`why`): nothing asked so far will be answered.
    pub fn forget_boot(&self, why: &str) {
        // Under the lock: a request is either made before, and ended here, or finds no boot.
        let mut state = self.lock();
        self.boot.send_replace(None);
        why.clone_into(&mut state.end);
        state.pending.clear();
    }

    /// The boot the node is in, once it has greeted.
    pub fn boot(&self) -> Option<Boot> {
        self.boot.borrow().clone()
    }

    /// Waits for a boot other than `before`.
    pub async fn wait_for_boot(&self, before: Option<&str>, limit: Duration) -> Result<Boot> {
        let mut watch = self.boot.subscribe();
        let is_new = |boot: &Option<Boot>| boot.as_ref().is_some_and(|b| before != Some(&b.id));
        let result = match tokio::time::timeout(limit, watch.wait_for(is_new)).await {
            Ok(Ok(boot)) => Ok(boot.clone()),
            Ok(Err(_)) | Err(_) => Err(()),
        };
        result.ok().flatten().with_context(|| {
            format!(
                "{} did not greet within {limit:?}; its console log says how far it came",
                self.name
            )
        })
    }

    /// Sends a request to the present boot.
    pub fn request(&self, op: Op) -> Result<Replies> {
        let mut state = self.lock();
        let boot = match self.boot() {
            Some(boot) => boot.id,
            None => bail!("{} is not up", self.name),
        };
        state.next_id += 1;
        let id = state.next_id;
        let frame = encode(&Request { id, boot, op })?;
        let (sender, events) = mpsc::unbounded_channel();
        state.pending.insert(id, sender);
        let outgoing = state.outgoing.as_ref().context("no machine")?;
        outgoing.send(frame).context("the machine has ended")?;
        drop(state);
        let node = self.name.clone();
        let state = Arc::clone(&self.state);
        Ok(Replies {
            node,
            id,
            events,
            state,
        })
    }

    fn receive(&self, epoch: u64, line: &[u8]) {
        // A cut frame of an earlier boot is no news.
        let Ok(reply) = serde_json::from_slice::<Reply>(line) else {
            return;
        };
        if self.lock().epoch != epoch {
            return;
        }
        if let Event::Consumed { bytes } = reply.event {
            if let Some(consumed) = &self.lock().consumed {
                consumed.send_replace(bytes);
            }
            return;
        }
        if let Event::Hello(hello) = reply.event {
            self.forget_boot("it booted again");
            let id = reply.boot;
            self.boot.send_replace(Some(Boot { id, hello }));
            return;
        }
        if self.boot().is_none_or(|boot| boot.id != reply.boot) {
            return;
        }
        let mut state = self.lock();
        let is_last = reply.event.is_last();
        let waiter = state.pending.get(&reply.id);
        // Nobody may be waiting any more: a command whose limit has passed.
        let is_gone = waiter.is_none_or(|waiter| waiter.send(reply.event).is_err());
        if is_last || is_gone {
            state.pending.remove(&reply.id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(control: Control, epoch: u64, mut reader: OwnedReadHalf) {
    let mut splitter = Splitter::default();
    let mut buffer = vec![0; 64 << 10];
    // The end of the stream is the end of the machine; whoever waits for that watches the process.
    while let Ok(len) = reader.read(&mut buffer).await {
        if len == 0 {
            return;
        }
        for line in splitter.push(&buffer[..len]) {
            control.receive(epoch, &line);
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut frames: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if writer.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// As [`write`], and waits for the node to read what was sent before.
async fn write_in(
    mut writer: OwnedWriteHalf,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    window: u64,
    mut progress: watch::Receiver<u64>,
) {
    let mut sent = 0;
    while let Some(frame) = frames.recv().await {
        for piece in frame.chunks(usize::try_from(window / 2).unwrap_or(1)) {
            sent += piece.len() as u64;
            let has_room = progress.wait_for(|consumed| sent <= consumed + window);
            // The channel ends with the machine.
            if has_room.await.is_err() || writer.write_all(piece).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn say(guest: &mut UnixStream, boot: &str, id: u64, event: Event) {
        let boot = boot.to_owned();
        let frame = encode(&Reply { id, boot, event }).unwrap();
        guest.write_all(&frame).await.unwrap();
    }

    async fn greeted(control: &Control, boot: &str) -> UnixStream {
        let (ours, mut guest) = UnixStream::pair().unwrap();
        control.attach(ours, None);
        say(&mut guest, boot, 0, Event::Hello(Hello::default())).await;
        let up = control.wait_for_boot(None, LIMIT).await.unwrap();
        assert_eq!(up.id, boot);
        guest
    }

    #[tokio::test]
    async fn answers_find_their_requests() {
        let control = Control::new("n1");
        let mut guest = greeted(&control, "b1").await;
        let mut first = control
            .request(Op::Halt(guest_init::protocol::Halt::Restart))
            .unwrap();
        let mut second = control
            .request(Op::Kill {
                target: 1,
                signal: 9,
            })
            .unwrap();
        say(&mut guest, "b1", second.id(), Event::Done).await;
        let error = "no".to_owned();
        say(&mut guest, "b1", first.id(), Event::Failed { error }).await;
        assert_eq!(second.next().await.unwrap(), Event::Done);
        assert!(
            first
                .next()
                .await
                .unwrap_err()
                .to_string()
                .contains("n1: no")
        );
    }

    #[tokio::test]
    async fn a_second_boot_ends_what_was_asked_of_the_first() {
        let control = Control::new("n1");
        let mut guest = greeted(&control, "b1").await;
        let op = Op::Kill {
            target: 1,
            signal: 9,
        };
        let mut old = control.request(op.clone()).unwrap();
        // The tail of a frame that the reset cut, then the greeting of the next boot.
        guest.write_all(b"{\"id\":1,\"boo\n").await.unwrap();
        say(&mut guest, "b2", 0, Event::Hello(Hello::default())).await;
        let boot = control.wait_for_boot(Some("b1"), LIMIT).await.unwrap();
        assert_eq!(boot.id, "b2");
        let error = old.next().await.unwrap_err().to_string();
        assert_eq!(error, "n1 did not answer: it booted again");
        // A late answer of the first boot must not be taken for one of the second.
        let mut new = control.request(op).unwrap();
        say(&mut guest, "b1", new.id(), Event::Done).await;
        let error = "b2 speaks".to_owned();
        say(&mut guest, "b2", new.id(), Event::Failed { error }).await;
        assert!(
            new.next()
                .await
                .unwrap_err()
                .to_string()
                .contains("b2 speaks")
        );
    }

    #[tokio::test]
    async fn a_window_is_never_exceeded_and_opens_again() {
        let control = Control::new("n1");
        let (ours, mut guest) = UnixStream::pair().unwrap();
        control.attach(ours, Some(64));
        say(&mut guest, "b1", 0, Event::Hello(Hello::default())).await;
        control.wait_for_boot(None, LIMIT).await.unwrap();
        let run = guest_init::protocol::Run {
            argv: vec!["x".repeat(1000)],
            ..Default::default()
        };
        let _replies = control.request(Op::Run(run)).unwrap();
        let mut bytes = 0;
        let mut buffer = vec![0; 4096];
        while !buffer[..].contains(&b'\n') {
            let len = guest.read(&mut buffer).await.unwrap();
            assert!(len <= 64, "{len} bytes at once");
            bytes += len as u64;
            say(&mut guest, "b1", 0, Event::Consumed { bytes }).await;
        }
        assert!(bytes > 1000);
    }

    #[tokio::test]
    async fn a_node_that_is_off_is_told_apart_from_one_that_does_not_greet() {
        let control = Control::new("n1");
        let op = Op::Kill {
            target: 1,
            signal: 9,
        };
        assert!(
            control
                .request(op)
                .unwrap_err()
                .to_string()
                .contains("not up")
        );
        let limit = Duration::from_millis(20);
        let error = control.wait_for_boot(None, limit).await.unwrap_err();
        assert!(error.to_string().contains("did not greet"));
    }
}
