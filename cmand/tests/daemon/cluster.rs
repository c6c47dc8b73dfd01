// SPDX-License-Identifier: GPL-2.0-only
//! Starts daemons of a cluster on loopback addresses of their own, and ends them.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use cmand_client::Node;
use cmand_client::Reply;
use cmand_client::Request;
use cmand_client::Status;
use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;

/// Everything happens within this time, also on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// The program.
pub(crate) const CMAND: &str = env!("CARGO_BIN_EXE_cmand");

pub(crate) const PORT: u16 = 15405;

/// Waits for a condition.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A directory and a loopback network of a test's own.
pub(crate) struct Place {
    pub(crate) directory: PathBuf,
    subnet: [u8; 2],
}

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let directory = std::env::temp_dir().join(format!("cmand-{pid}-{number}"));
        std::fs::create_dir_all(&directory).unwrap();
        let place = Self {
            directory,
            subnet: [1 + (pid % 200) as u8, number],
        };
        place.write_key("key", &[7; 32]);
        place
    }

    /// An address of this network; 127.0.0.0/8 is all ours without privilege.
    pub(crate) fn address(&self, host: u8) -> IpAddr {
        IpAddr::from([127, self.subnet[0], self.subnet[1], host])
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn write_key(&self, name: &str, key: &[u8]) {
        let path = self.file(name);
        std::fs::write(&path, key).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// A configuration of nodes with these ids and last parts of addresses.
    pub(crate) fn config(&self, cluster: &str, key: &str, nodes: &[(u32, u8)]) -> String {
        let key = self.file(key);
        let mut text = format!(
            "[cluster]\nname = {cluster:?}\nkey_file = {key:?}\nport = {PORT}\n\
             detection_ms = 1000\n"
        );
        for (id, host) in nodes {
            let address = self.address(*host);
            text += &format!("[[node]]\nid = {id}\nname = \"n{id}\"\naddress = \"{address}\"\n");
        }
        text
    }

    /// Starts a daemon with a configuration of its own.
    pub(crate) fn start(&self, label: &str, node: &str, config: &str) -> Daemon {
        self.start_with(label, node, config, Command::new(CMAND))
    }

    /// The same with the beginning of a command: the program, perhaps behind another.
    pub(crate) fn start_with(
        &self,
        label: &str,
        node: &str,
        config: &str,
        mut command: Command,
    ) -> Daemon {
        let path = self.file(&format!("{label}.toml"));
        std::fs::write(&path, config).unwrap();
        let log = self.file(&format!("{label}.log"));
        let socket = self.file(&format!("{label}.sock"));
        command
            .args(["--node", node, "--kernel", "off", "--debug"])
            .arg("--config")
            .arg(&path)
            .arg("--socket")
            .arg(&socket)
            .arg("--state")
            .arg(self.file(&format!("{label}.state")))
            .stdin(Stdio::null())
            .stderr(
                std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(&log)
                    .unwrap(),
            );
        let child = command.spawn().unwrap();
        Daemon { child, socket, log }
    }

    /// Starts nodes 1 to 3, in one view once this returns.
    pub(crate) fn three(&self) -> [Daemon; 3] {
        let config = self.three_config();
        let daemons = [1, 2, 3].map(|id| {
            let name = format!("n{id}");
            self.start(&name, &name, &config)
        });
        for daemon in &daemons {
            daemon.wait_for_members(3);
        }
        daemons
    }

    pub(crate) fn three_config(&self) -> String {
        self.config("alpha", "key", &[(1, 1), (2, 2), (3, 3)])
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("logs are kept in {}", self.directory.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

/// A running daemon; killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn try_status(&self) -> Option<Status> {
        match cmand_client::call(&self.socket, &Request::Status) {
            Ok(Reply::Status(status)) => Some(*status),
            Ok(_) => panic!("not a status"),
            Err(_) => None,
        }
    }

    pub(crate) fn status(&self) -> Status {
        wait_for("an answer", || self.try_status())
    }

    pub(crate) fn nodes(&self) -> Vec<Node> {
        match cmand_client::call(&self.socket, &Request::Nodes).unwrap() {
            Reply::Nodes(nodes) => nodes,
            _ => panic!("not nodes"),
        }
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.status().counters[name]
    }

    /// Waits for a quorate view of so many members.
    pub(crate) fn wait_for_members(&self, members: usize) -> Status {
        wait_for(&format!("{members} members at {:?}", self.socket), || {
            let status = self.try_status()?;
            (status.members == members && status.quorate).then_some(status)
        })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32);
        kill(pid, signal).unwrap();
    }

    /// Waits for the end: the exit status, and what was logged.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let status = wait_for("the end of a daemon", || self.child.try_wait().unwrap());
        (status, self.log())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let status = self.child.wait();
            assert!(status.is_ok_and(|status| status.signal().is_some()));
        }
    }
}
