// SPDX-License-Identifier: GPL-2.0-only
//! From the configuration to what is run against each node: the methods of a node, with the options
//! every caller of an agent adds, and what the agents say of themselves.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use cluster_rt::config::Config;
use cluster_rt::config::FenceDevice;
use cluster_rt::config::FenceUse;
use cluster_rt::config::Node;
use cluster_rt::config::Options;
use cluster_rt::config::OptionsError;
use cmand_view::NodeId;

use crate::Call;
use crate::Metadata;
use crate::Method;

/// Permission bits that let anybody but the owner read a file of secrets.
const FOR_OTHERS: u32 = 0o077;

/// Largest file of options, bytes.
const OPTIONS_LIMIT: u64 = 64 * 1024;

/// What is run against each node.
#[derive(Debug, Default)]
pub struct Plan {
    /// Methods by node, in their order.
    pub methods: BTreeMap<NodeId, Vec<Method>>,
    /// Devices in the order of their names: how each is asked whether it answers, and how often.
    pub devices: Vec<Device>,
    /// What agents say of themselves, by name.
    pub known: BTreeMap<String, Metadata>,
    /// What is wrong.
    pub complaints: Vec<Complaint>,
    /// Where each method begins in the file.
    lines: BTreeMap<NodeId, Vec<usize>>,
}

/// Something wrong with how nodes are fenced, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Line of the configuration file, from 1; 0 if it is about no line.
    pub line: usize,
    /// The rest of the sentence.
    pub message: String,
}

impl std::fmt::Display for Complaint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { line, message } = self;
        match line {
            0 => write!(f, "{message}"),
            line => write!(f, "line {line}: {message}"),
        }
    }
}

/// Where credentials are that the service manager hands over.
#[derive(Debug, Clone, Copy)]
enum Credentials<'a> {
    /// In this directory, if it hands any over.
    Here(Option<&'a Path>),
    /// They are the daemon's, and this is another program.
    Elsewhere,
}

/// A device and how it is watched.
#[derive(Debug, Clone)]
pub struct Device {
    /// Asks it, with the options of the device alone.
    pub call: Call,
    /// `None`: never asked.
    pub interval: Option<Duration>,
    /// Line of the configuration file where it begins.
    pub line: usize,
}

/// Secret options of a device could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file cannot be read.
    #[error("fence device {device}: reading {path}: {source}")]
    Read {
        /// The device.
        device: String,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Others may read a file.
    #[error(
        "fence device {device}: {path} has mode {mode:04o}, so others may read its secrets; \
         `chmod 0600 {path}`"
    )]
    Open {
        /// The device.
        device: String,
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold options.
    #[error("fence device {device}: {path}: {source}")]
    Form {
        /// The device.
        device: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: OptionsError,
    },
    /// Nobody hands credentials over.
    #[error(
        "fence device {device}: credential {name:?} cannot be had, as the service manager has \
         given none; add LoadCredential={name}:PATH to the service, or use options_file"
    )]
    NoCredentials {
        /// The device.
        device: String,
        /// The credential.
        name: String,
    },
}

impl Plan {
    /// Reads the secrets that are in files of their own. `credentials`: the directory of those that
    /// the service manager hands over.
    ///
    /// # Errors
    /// [`PlanError`], the first.
    pub fn new(config: &Config, credentials: Option<&Path>) -> Result<Self, PlanError> {
        let (plan, errors) = Self::read(config, Credentials::Here(credentials));
        match errors.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(plan),
        }
    }

    /// The same for who only checks a configuration: what cannot be read is a complaint, and
    /// credentials are taken to hold whatever an agent needs.
    #[must_use]
    pub fn of_checker(config: &Config) -> Self {
        let (mut plan, errors) = Self::read(config, Credentials::Elsewhere);
        let complaints = errors.into_iter().map(|(line, error)| Complaint {
            line,
            message: error.to_string(),
        });
        plan.complaints = complaints.collect();
        plan
    }

    fn read(config: &Config, credentials: Credentials<'_>) -> (Self, Vec<(usize, PlanError)>) {
        let (mut options, mut errors) = (BTreeMap::new(), Vec::new());
        for device in &config.fence_devices {
            let mut all = device.options.clone();
            if let Err(error) = add_secrets(device, credentials, &mut all) {
                // What is missing for that is no second mistake.
                all.set_partial();
                errors.push((device.line, error));
            }
            options.insert(device.name.as_str(), all);
        }
        let call = |used: &FenceUse, node: &Node| {
            let device = config.fence_device(&used.device)?;
            Some((
                device,
                call(device, options.get(device.name.as_str())?, used, node),
            ))
        };
        let methods = |node: &Node| {
            let methods = node.fence.iter().map(|method| Method {
                name: method.name.clone(),
                calls: method
                    .devices
                    .iter()
                    .filter_map(|used| {
                        let (device, call) = call(used, node)?;
                        Some((call, used.action.or(device.action)))
                    })
                    .collect(),
            });
            (NodeId(node.id), methods.collect())
        };
        let devices = config.fence_devices.iter().filter_map(|device| {
            let options = options.get(device.name.as_str())?.clone();
            let interval = u64::from(device.monitor_s);
            Some(Device {
                call: device_call(device, options),
                interval: (interval > 0).then(|| Duration::from_secs(interval)),
                line: device.line,
            })
        });
        let lines = |node: &Node| {
            let lines = node.fence.iter().map(|method| method.line);
            (NodeId(node.id), lines.collect())
        };
        let plan = Self {
            methods: config.nodes.iter().map(methods).collect(),
            devices: devices.collect(),
            lines: config.nodes.iter().map(lines).collect(),
            ..Self::default()
        };
        (plan, errors)
    }

    /// Asks all agents what they know, at the same time, and checks the methods against it. An
    /// agent that is missing or says nothing is a complaint: what it can do shows when it is
    /// needed.
    pub async fn ask_agents(&mut self) {
        let mut asked: Vec<String> = self
            .devices
            .iter()
            .map(|device| device.call.agent.clone())
            .collect();
        asked.sort();
        asked.dedup();
        let tasks: Vec<_> = asked
            .into_iter()
            .map(|agent| tokio::spawn(async move { (crate::metadata(&agent).await, agent) }))
            .collect();
        for task in tasks {
            match task.await {
                Ok((Ok(metadata), agent)) => drop(self.known.insert(agent, metadata)),
                Ok((Err(error), agent)) => {
                    let of_agent = |device: &&Device| device.call.agent == agent;
                    let first = self.devices.iter().find(of_agent);
                    self.complaints.push(Complaint {
                        line: first.map_or(0, |device| device.line),
                        message: format!(
                            "agent {agent}: {error}; install it, or correct agent of the device"
                        ),
                    });
                }
                Err(error) => self.complaints.push(Complaint {
                    line: 0,
                    message: format!("asking an agent: {error}"),
                }),
            }
        }
        for (node, methods) in &self.methods {
            let lines = self.lines.get(node).map_or(&[][..], Vec::as_slice);
            for (method, line) in methods.iter().zip(lines) {
                let complaints = method.complaints(&self.known).into_iter();
                self.complaints.extend(complaints.map(|message| Complaint {
                    line: *line,
                    message,
                }));
            }
        }
        self.complaints.sort();
        self.complaints.dedup();
    }
}

/// Adds the options of a device that are in its file and its credential.
fn add_secrets(
    device: &FenceDevice,
    credentials: Credentials<'_>,
    options: &mut Options,
) -> Result<(), PlanError> {
    if let Some(path) = &device.options_file {
        add_file(device, path, true, options)?;
    }
    match (&device.credential, credentials) {
        (None, _) => Ok(()),
        (Some(_), Credentials::Elsewhere) => {
            options.set_partial();
            Ok(())
        }
        (Some(name), Credentials::Here(directory)) => {
            let none = || PlanError::NoCredentials {
                device: device.name.clone(),
                name: name.clone(),
            };
            let path = directory.ok_or_else(none)?.join(name);
            // The service manager sees to who may read it.
            add_file(device, &path, false, options)
        }
    }
}

fn add_file(
    device: &FenceDevice,
    path: &Path,
    is_checked: bool,
    options: &mut Options,
) -> Result<(), PlanError> {
    let device = || device.name.clone();
    let read = || {
        let file = fs::File::open(path)?;
        let mode = file.metadata()?.mode() & 0o7777;
        let mut text = String::new();
        file.take(OPTIONS_LIMIT).read_to_string(&mut text)?;
        Ok((text, mode))
    };
    let path = path.to_owned();
    match read() {
        Err(source) => Err(PlanError::Read {
            device: device(),
            path,
            source,
        }),
        Ok((_, mode)) if is_checked && mode & FOR_OTHERS != 0 => Err(PlanError::Open {
            device: device(),
            path,
            mode,
        }),
        Ok((text, _)) => options
            .add_secret_lines(&text)
            .map_err(|source| PlanError::Form {
                device: device(),
                path,
                source,
            }),
    }
}

fn device_call(device: &FenceDevice, options: Options) -> Call {
    Call {
        device: device.name.clone(),
        agent: device.agent.clone(),
        options,
        timeout: Duration::from_secs(u64::from(device.timeout_s)),
    }
}

/// Options of the device, those of its use, then what is added unless given.
fn call(device: &FenceDevice, options: &Options, used: &FenceUse, node: &Node) -> Call {
    let mut options = options.clone();
    options.extend(&used.options);
    options.set_default("nodename", &node.name);
    options.set_default("node", &node.id.to_string());
    options.set_default("agent", &device.agent);
    device_call(device, options)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use cluster_rt::config::Action;

    use super::*;

    const TEXT: &str = r#"
        [cluster]
        name = "alpha"
        [[node]]
        id = 1
        name = "n1"
        address = "192.0.2.1"
        [[node.fence]]
        name = "power"
        devices = [ { device = "vm", plug = "one" }, { device = "san", action = "off" } ]
        [[fence_device]]
        name = "vm"
        agent = "fence_vm"
        timeout_s = 9
        monitor_s = 60
        options = { monitor = "/m", plug = "default" }
        [[fence_device]]
        name = "san"
        agent = "fence_san"
    "#;

    #[test]
    fn options_of_the_use_win_over_the_device_and_both_over_what_is_added() {
        let config = cluster_rt::config::parse(TEXT).unwrap();
        let plan = Plan::new(&config, None).unwrap();
        let methods = &plan.methods[&NodeId(1)];
        assert_eq!(methods.len(), 1);
        let [(vm, reboot), (san, off)] = &methods[0].calls[..] else {
            panic!("two devices")
        };
        assert_eq!(vm.options.open("plug"), Some("one"));
        assert_eq!(vm.options.open("monitor"), Some("/m"));
        assert_eq!(vm.options.open("nodename"), Some("n1"));
        assert_eq!(vm.timeout, Duration::from_secs(9));
        assert_eq!((*reboot, *off), (None, Some(Action::Off)));
        assert_eq!(san.options.open("agent"), Some("fence_san"));
        let intervals: Vec<_> = plan.devices.iter().map(|device| device.interval).collect();
        assert_eq!(intervals, [None, Some(Duration::from_secs(60))]);
    }

    #[test]
    fn secrets_come_from_files_that_only_the_owner_may_read() {
        let path = std::env::temp_dir().join(format!("fenced-options-{}", std::process::id()));
        let text = TEXT.replace(
            "monitor_s = 60",
            &format!("options_file = \"{}\"", path.display()),
        );
        let config = cluster_rt::config::parse(&text).unwrap();
        let error = Plan::new(&config, None).unwrap_err();
        assert!(matches!(error, PlanError::Read { .. }), "{error}");
        fs::write(&path, "password=hunter2\n").unwrap();
        let set = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set(0o644);
        let error = Plan::new(&config, None).unwrap_err().to_string();
        assert!(
            error.contains("chmod 0600") && !error.contains("hunter2"),
            "{error}"
        );
        set(0o600);
        let plan = Plan::new(&config, None).unwrap();
        assert!(!format!("{plan:?}").contains("hunter2"));
        assert!(plan.devices[1].call.options.has_secrets());
        fs::remove_file(&path).unwrap();
    }

    /// A program of the system that prints this, whatever it is asked.
    fn agent(name: &str, metadata: &str) -> PathBuf {
        let file = format!("fenced-plan-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(file);
        let text = format!("#!/bin/sh\ncat <<'END'\n{metadata}\nEND\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_checker_complains_of_each_line_with_a_remedy() {
        let known = r#"<resource-agent><parameters>
            <parameter name="plug" required="1"/><parameter name="password" required="1"/>
            </parameters><actions><action name="off"/></actions></resource-agent>"#;
        let path = agent("check", known);
        let text = TEXT
            .replace("fence_vm", &path.display().to_string())
            .replace("monitor_s = 60", "options_file = \"/nonexistent/options\"")
            .replace(
                "agent = \"fence_san\"",
                "agent = \"/nonexistent/fence_san\"",
            );
        let config = cluster_rt::config::parse(&text).unwrap();
        let mut plan = Plan::of_checker(&config);
        plan.ask_agents().await;
        let complaints: Vec<_> = plan.complaints.iter().map(Complaint::to_string).collect();
        let [unknown, read, gone] = &complaints[..] else {
            panic!("{complaints:#?}")
        };
        assert!(
            unknown.starts_with("line 8: method power: device vm: ")
                && unknown.contains("does not know the option \"monitor\"; take it out"),
            "{unknown}"
        );
        assert!(
            read.starts_with("line 11: fence device vm: reading /nonexistent/options"),
            "{read}"
        );
        assert!(
            gone.starts_with("line 17: agent /nonexistent/fence_san: ")
                && gone.contains("install it"),
            "{gone}"
        );
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn what_a_credential_holds_is_not_missed_by_a_checker() {
        let known = r#"<resource-agent><parameters><parameter name="password" required="1"/>
            <parameter name="monitor"/><parameter name="plug"/></parameters>
            <actions><action name="reboot"/><action name="off"/><action name="on"/></actions>
            </resource-agent>"#;
        let path = agent("credential", known);
        let text = TEXT
            .replace("fence_vm", &path.display().to_string())
            .replace("fence_san", &path.display().to_string());
        let config = cluster_rt::config::parse(&text).unwrap();
        let mut plan = Plan::of_checker(&config);
        plan.ask_agents().await;
        assert_eq!(plan.complaints.len(), 2, "{:#?}", plan.complaints);
        let text = text
            .replace("monitor_s = 60", "credential = \"pdu\"")
            .replace(
                "[[fence_device]]\n        name = \"san\"",
                "[[fence_device]]\n        name = \"san\"\n        options = { password = \"x\" }",
            );
        let config = cluster_rt::config::parse(&text).unwrap();
        let mut plan = Plan::of_checker(&config);
        plan.ask_agents().await;
        assert_eq!(plan.complaints, []);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_credential_comes_from_the_service_manager() {
        let text = TEXT.replace("monitor_s = 60", "credential = \"pdu\"");
        let config = cluster_rt::config::parse(&text).unwrap();
        let error = Plan::new(&config, None).unwrap_err().to_string();
        assert!(error.contains("LoadCredential=pdu:PATH"), "{error}");
        let dir = std::env::temp_dir().join(format!("fenced-credentials-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("pdu"), "password=hunter2\n").unwrap();
        let plan = Plan::new(&config, Some(&dir)).unwrap();
        assert!(plan.devices[1].call.options.has_secrets());
        fs::remove_dir_all(&dir).unwrap();
    }
}
