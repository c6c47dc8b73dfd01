// SPDX-License-Identifier: GPL-2.0-only
//! The real-time thread that runs the core and does nothing else.
//!
//! Its loop: wait, read the clock once, feed the core, carry out the effects. It
//! never waits for a client, the log or the kernel's lock manager: what concerns
//! them goes into queues, and what comes from them through a [`mailbox`].

use std::net::SocketAddr;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::mpsc;

use cluster_rt::realtime;
use cluster_rt::server::ClientId;
use cmand_core::BootId;
use cmand_core::Core;
use cmand_core::Effect;
use cmand_core::GroupView;
use cmand_core::Incarnation;
use cmand_core::Instant;
use cmand_core::Level;
use cmand_core::NodeId;
use cmand_core::RememberedConfig;
use cmand_core::RequestError;
use cmand_core::Sink;
use cmand_core::Status;
use cmand_core::View;
use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::time::ClockId;
use nix::time::clock_gettime;
use tokio::sync::mpsc::UnboundedSender;

use crate::Error;
use crate::address;
use crate::address::Address;
use crate::kernel;
use crate::mailbox;

/// Datagrams taken before the timers are looked at again.
const BATCH: usize = 256;

/// Longer than any packet; what is cut here is dropped by its length.
const DATAGRAM: usize = 2048;

/// Longest wait, so that a clock that jumps does no harm.
const WAIT_MS_MAX: u64 = 1000;

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) client: ClientId,
    pub(crate) id: u64,
}

/// What the service wants of the core.
#[derive(Debug)]
pub(crate) enum Command {
    Join {
        caller: Caller,
        group: String,
    },
    LeaveGroup {
        caller: Caller,
        group: String,
    },
    /// The client that was a member is gone.
    FailGroup {
        group: String,
    },
    Send {
        caller: Caller,
        group: String,
        payload: Vec<u8>,
    },
    Leave {
        caller: Option<Caller>,
        force: bool,
    },
    AcceptConfig {
        caller: Caller,
    },
    /// Whether a node lives, in this boot or in any.
    Probe {
        token: u64,
        node: NodeId,
        boot: Option<BootId>,
    },
    /// These boots were fenced.
    WatchEnded {
        ended: Vec<(NodeId, BootId)>,
    },
    /// These nodes are kept out.
    KeepOut {
        nodes: Vec<(NodeId, Option<BootId>)>,
    },
    Status {
        caller: Caller,
        nodes: bool,
    },
    /// Whether the thread turns.
    Turn,
}

impl Command {
    /// The group it is about.
    pub(crate) fn group(&self) -> Option<&str> {
        match self {
            Self::Join { group, .. }
            | Self::LeaveGroup { group, .. }
            | Self::FailGroup { group }
            | Self::Send { group, .. } => Some(group),
            Self::Leave { .. }
            | Self::AcceptConfig { .. }
            | Self::Probe { .. }
            | Self::Status { .. }
            | Self::WatchEnded { .. }
            | Self::KeepOut { .. }
            | Self::Turn => None,
        }
    }
}

/// What the core tells, in order.
#[derive(Debug)]
pub(crate) enum Notice {
    /// The thread turns.
    Turned,
    /// No core runs yet, for this reason.
    Waiting {
        reason: String,
    },
    /// The thread ended.
    Failed(Error),
    /// A request was accepted, or not.
    Answer {
        caller: Caller,
        result: Result<(), RequestError>,
    },
    /// The leave that a signal asked for is not possible.
    CannotLeave(RequestError),
    Status {
        caller: Caller,
        nodes: bool,
        status: Box<Status>,
    },
    View(View),
    Quorum {
        quorate: bool,
        reason: String,
    },
    Group(GroupView),
    Message {
        group: String,
        from: NodeId,
        payload: Vec<u8>,
    },
    Expelled {
        reason: String,
    },
    Rejoining,
    Refused {
        reason: String,
    },
    Left,
    Remember {
        view_floor: u64,
        config: RememberedConfig,
    },
    /// The configuration is accepted, although these nodes have another one.
    Accepted {
        caller: Caller,
        beside: Vec<String>,
    },
    Probed {
        token: u64,
        alive: bool,
    },
    /// A boot that was fenced is heard.
    Returned {
        node: NodeId,
        incarnation: Incarnation,
        boot: BootId,
    },
    /// A question was not taken.
    NotProbed {
        token: u64,
        error: RequestError,
    },
}

/// The service's end of the engine.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    commands: mailbox::Sender<Command>,
}

impl Engine {
    /// Hands over a command.
    pub(crate) fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|errno| Error::System {
            what: "waking the membership thread",
            source: errno.into(),
        })
    }
}

/// Starts the thread. It ends when the last [`Engine`] is dropped.
///
/// # Errors
/// What the system says of a thread, or of an address that is there.
pub(crate) fn start(
    config: cmand_core::Config,
    address: Address,
    notices: UnboundedSender<Notice>,
    kernel: Option<mpsc::Sender<kernel::Update>>,
) -> Result<Engine, Error> {
    let system = |source| Error::System {
        what: "starting the membership thread",
        source,
    };
    let (commands, queue) = mailbox::channel().map_err(|errno| system(errno.into()))?;
    let socket = address.bind()?;
    let run = move || {
        for warning in realtime::enter() {
            tracing::warn!("{warning}");
        }
        let found = match socket {
            Some(socket) => Some((socket, Vec::new())),
            None => address::wait(&address, &config, &queue, &notices),
        };
        let Some((socket, held)) = found else {
            return;
        };
        let outputs = Outputs {
            socket,
            notices,
            kernel,
            unsent: None,
        };
        let thread = Thread {
            outputs,
            commands: queue,
        };
        thread.run(config, held);
    };
    std::thread::Builder::new()
        .name("membership".to_owned())
        .spawn(run)
        .map_err(system)?;
    Ok(Engine { commands })
}

struct Thread {
    outputs: Outputs,
    commands: mailbox::Receiver<Command>,
}

/// Carries out effects.
struct Outputs {
    socket: UdpSocket,
    notices: UnboundedSender<Notice>,
    kernel: Option<mpsc::Sender<kernel::Update>>,
    /// The error of the last send, to log each kind once.
    unsent: Option<std::io::ErrorKind>,
}

/// Now, in time that counts while the machine is suspended.
pub(crate) fn clock() -> Instant {
    // Time in suspend counts: the others waited, too.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
    let (s, ns) = (time.tv_sec() as u64, time.tv_nsec() as u64);
    Instant(s * 1000 + ns / 1_000_000)
}

impl Thread {
    /// Runs a core; `held` was commanded before it began.
    fn run(mut self, config: cmand_core::Config, held: Vec<Command>) {
        let mut core = Core::new(config, clock());
        for command in held {
            self.carry_out(&mut core, clock(), command);
        }
        let mut buffer = [0; DATAGRAM];
        loop {
            self.wait(&core);
            let now = clock();
            self.receive(&mut core, now, &mut buffer);
            if !self.take_commands(&mut core, now) {
                return;
            }
            if core.next_timeout().is_some_and(|at| at <= now) {
                core.handle_timeout(now, &mut self.outputs);
            }
        }
    }

    fn wait(&self, core: &Core) {
        let now = clock();
        let wait = core.next_timeout().map_or(WAIT_MS_MAX, |at| at.since(now));
        // Rounded up, so as not to wake before the time has come.
        let wait = u16::try_from(wait.min(WAIT_MS_MAX)).unwrap_or(u16::MAX);
        let mut files = [
            PollFd::new(self.outputs.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.commands.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut files, PollTimeout::from(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => panic!("poll on our own files fails: {errno}"),
        }
    }

    fn receive(&mut self, core: &mut Core, now: Instant, buffer: &mut [u8]) {
        for _ in 0..BATCH {
            match self.outputs.socket.recv_from(buffer) {
                Ok((length, from)) => {
                    core.handle_datagram(now, from, &buffer[..length], &mut self.outputs);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                // Answers of the network to what was sent: nobody listens there.
                Err(_) => {}
            }
        }
    }

    /// `false` when nobody is left to command.
    fn take_commands(&mut self, core: &mut Core, now: Instant) -> bool {
        let Some(commands) = self.commands.take() else {
            return false;
        };
        for command in commands {
            self.carry_out(core, now, command);
        }
        true
    }

    fn carry_out(&mut self, core: &mut Core, now: Instant, command: Command) {
        // The answer comes before what the request brings about.
        let mut fx = Vec::new();
        let (caller, result) = match command {
            Command::Join { caller, group } => {
                (Some(caller), core.join_group(now, &group, &mut fx))
            }
            Command::LeaveGroup { caller, group } => {
                (Some(caller), core.leave_group(now, &group, &mut fx))
            }
            Command::FailGroup { group } => {
                // Fails only when the membership has ended already.
                let _ = core.fail_group(now, &group, &mut fx);
                (None, Ok(()))
            }
            Command::Send {
                caller,
                group,
                payload,
            } => (Some(caller), core.send(now, &group, &payload, &mut fx)),
            Command::Leave { caller, force } => {
                let result = core.leave(now, force, &mut fx);
                if caller.is_none()
                    && let Err(error) = &result
                {
                    self.outputs.notice(Notice::CannotLeave(error.clone()));
                }
                (caller, result)
            }
            Command::Probe { token, node, boot } => {
                if let Err(error) = core.probe(now, token, node, boot, &mut fx) {
                    self.outputs.notice(Notice::NotProbed { token, error });
                }
                (None, Ok(()))
            }
            Command::WatchEnded { ended } => {
                core.watch_ended(now, &ended);
                (None, Ok(()))
            }
            Command::KeepOut { nodes } => {
                core.keep_out(now, &nodes, &mut fx);
                (None, Ok(()))
            }
            Command::AcceptConfig { caller } => {
                let beside = core.accept_config(now, &mut fx);
                self.outputs.notice(Notice::Accepted { caller, beside });
                (None, Ok(()))
            }
            Command::Turn => return self.outputs.notice(Notice::Turned),
            Command::Status { caller, nodes } => {
                let status = Box::new(core.status(now));
                return self.outputs.notice(Notice::Status {
                    caller,
                    nodes,
                    status,
                });
            }
        };
        if let Some(caller) = caller {
            self.outputs.notice(Notice::Answer { caller, result });
        }
        for effect in fx {
            self.outputs.push(effect);
        }
    }
}

impl Outputs {
    fn notice(&self, notice: Notice) {
        // Without a service the daemon is ending.
        let _ = self.notices.send(notice);
    }

    fn kernel(&self, update: kernel::Update) {
        if let Some(kernel) = &self.kernel {
            // Its thread ends with the daemon only.
            let _ = kernel.send(update);
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        let failed = self.socket.send_to(bytes, to).err();
        let kind = failed.as_ref().map(std::io::Error::kind);
        // Refused is the answer to an earlier packet: the node is there and its
        // daemon is not.
        let refused = Some(std::io::ErrorKind::ConnectionRefused);
        if kind.is_some() && kind != self.unsent && kind != refused {
            tracing::warn!(%to, error = %failed.map(|e| e.to_string()).unwrap_or_default(),
                "sending fails; the network counts as silent");
        }
        self.unsent = kind;
    }
}

impl Sink for Outputs {
    fn push(&mut self, effect: Effect) {
        match effect {
            Effect::Send { to, bytes } => self.send(to, &bytes),
            Effect::View(view) => self.notice(Notice::View(view)),
            Effect::Quorum { quorate, reason } => {
                tracing::info!(quorate, reason, "quorum");
                self.kernel(kernel::Update::Quorum(quorate));
                self.notice(Notice::Quorum { quorate, reason });
            }
            Effect::Peer {
                node,
                incarnation,
                up,
            } => self.kernel(kernel::Update::Node {
                node: node.0,
                incarnation: incarnation.0,
                up,
            }),
            Effect::Group(view) => self.notice(Notice::Group(view)),
            Effect::Message {
                group,
                from,
                payload,
            } => self.notice(Notice::Message {
                group,
                from,
                payload,
            }),
            Effect::Expelled { reason } => {
                tracing::error!(reason, "expelled: the others went on; reset this node");
                self.notice(Notice::Expelled { reason });
            }
            Effect::Rejoining {
                incarnation,
                reason,
            } => {
                tracing::warn!(%incarnation, reason, "joining again as a new life");
                self.kernel(kernel::Update::Rejoin(incarnation.0));
                self.notice(Notice::Rejoining);
            }
            Effect::Refused { reason } => self.notice(Notice::Refused { reason }),
            Effect::Left => self.notice(Notice::Left),
            Effect::Probed { token, alive } => self.notice(Notice::Probed { token, alive }),
            Effect::Returned {
                node,
                incarnation,
                boot,
            } => self.notice(Notice::Returned {
                node,
                incarnation,
                boot,
            }),
            Effect::Remember { view_floor, config } => {
                self.notice(Notice::Remember { view_floor, config });
            }
            Effect::Log { level, text } => match level {
                Level::Warn => tracing::warn!("{text}"),
                Level::Info => tracing::info!("{text}"),
                Level::Debug => tracing::debug!("{text}"),
            },
        }
    }
}
