// SPDX-License-Identifier: GPL-2.0-only
//! The lock client `dlmtest` on a node: a program linked to the distribution's libdlm that does as
//! it is told, line by line.

use anyhow::Context;
use anyhow::Result;
use guest_init::protocol::Run as Program;
use tokio::sync::Mutex;

use crate::node::Node;
use crate::node::Running;
use crate::node::program_of;
use crate::stack::STEP_LIMIT;

/// A lock client on a node. What happens to its locks it prints as it happens, also between two
/// commands, so a line is looked for from the command on that leads to it.
pub(super) struct Client {
    program: Running,
    /// How many lines it had written at the last command.
    since: Mutex<usize>,
}

impl Client {
    /// Starts it.
    pub(super) fn start(node: &Node) -> Result<Self> {
        let program = Program {
            is_fed: true,
            ..program_of(&["/opt/conclave/clients/dlmtest"])
        };
        let program = node.spawn("dlmtest", program)?;
        Ok(Client {
            program,
            since: Mutex::new(0),
        })
    }

    /// Gives it a command; what comes of it is in its lines.
    pub(super) async fn say(&self, command: &str) -> Result<()> {
        *self.since.lock().await = self.program.position();
        self.program.send_line(command).await
    }

    /// Waits for a line with this text that it has written since the last command.
    pub(super) async fn expect(&self, text: &str) -> Result<String> {
        let since = *self.since.lock().await;
        let fits = |line: &str| line.contains(text);
        let line = self
            .program
            .wait_for_line_after(since, STEP_LIMIT, fits)
            .await;
        line.with_context(|| format!("expecting {text:?}"))
    }

    /// Waits for a line with this text, whenever it was written.
    pub(super) async fn expect_any(&self, text: &str) -> Result<String> {
        self.program
            .wait_for_line(STEP_LIMIT, |line| line.contains(text))
            .await
    }

    /// Whether it has written a line with this text.
    pub(super) fn has(&self, text: &str) -> bool {
        self.program.lines().iter().any(|line| line.contains(text))
    }

    /// Creates a lockspace.
    pub(super) async fn create(&self, lockspace: &str) -> Result<()> {
        self.say(&format!("create {lockspace}")).await?;
        self.expect(&format!("ok create {lockspace}"))
            .await
            .map(drop)
    }

    /// Releases the lockspace and ends.
    pub(super) async fn release(&self, lockspace: &str) -> Result<()> {
        self.say(&format!("release {lockspace} force")).await?;
        self.expect("ok release").await?;
        self.say("quit").await?;
        self.program.wait(STEP_LIMIT).await.map(drop)
    }
}
