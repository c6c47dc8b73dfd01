// SPDX-License-Identifier: GPL-2.0-only
//! What the sections of `cluster.toml` mean, and which values go together.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use toml::de::DeTable;

use super::Action;
use super::Cluster;
use super::Config;
use super::ConfigError;
use super::DELAY_MS_MAX;
use super::DETECTION_MS;
use super::DETECTION_MS_MAX;
use super::DETECTION_MS_MIN;
use super::Dlm;
use super::FENCE_TIMEOUT_S;
use super::Fence;
use super::FenceDevice;
use super::FenceMethod;
use super::FenceUse;
use super::KEY_FILE;
use super::MONITOR_S_MAX;
use super::MONITOR_S_MIN;
use super::NAME_LIMIT;
use super::NODE_ID_MAX;
use super::NODE_LIMIT;
use super::Node;
use super::Options;
use super::PORT;
use super::POST_JOIN_DELAY_MS;
use super::VOTES_MAX;
use super::reader::At;
use super::reader::Mistakes;
use super::reader::Section;
use super::reader::within;

/// Fence devices by name, and whether all options of one are secret.
type Devices = BTreeMap<String, (FenceDevice, bool)>;

/// Longest time limit of an agent, an hour.
const FENCE_TIMEOUT_S_MAX: u32 = 3600;

pub(super) fn config(text: &str) -> Result<Config, Vec<ConfigError>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    let mut mistakes = Mistakes::new(text);
    for error in &errors {
        mistakes.syntax(error);
    }
    let mut root = Section::new("the file", 0..0, document.get_ref());
    let config = read(&mut root, &mut mistakes);
    root.finish(&mut mistakes);
    match config {
        Some(config) if mistakes.is_empty() => Ok(config),
        Some(_) | None => Err(mistakes.into_vec()),
    }
}

fn read(root: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<Config> {
    let fence_devices = fence_devices(root, mistakes);
    let nodes = nodes(root, &fence_devices, mistakes);
    let fence = fence(root, mistakes);
    let dlm = dlm(root, mistakes);
    let Some(section) = root.table("cluster", "[cluster]", mistakes) else {
        mistakes.add(&(0..0), "there is no section [cluster]");
        return None;
    };
    let cluster = cluster(section, &nodes, mistakes)?;
    Some(Config {
        cluster,
        nodes,
        fence_devices: fence_devices
            .into_values()
            .map(|(device, _)| device)
            .collect(),
        fence,
        dlm,
    })
}

fn cluster(
    mut section: Section<'_, '_>,
    nodes: &[Node],
    mistakes: &mut Mistakes<'_>,
) -> Option<Cluster> {
    let name = name("name", &mut section, mistakes);
    let key_file = absolute("key_file", &mut section, mistakes);
    let limits = DETECTION_MS_MIN..=DETECTION_MS_MAX;
    let detection_ms = section.number("detection_ms", limits, DETECTION_MS, mistakes);
    let ports = 1..=u32::from(u16::MAX);
    let port = section.number("port", ports, u32::from(PORT), mistakes);
    let expected_votes = expected_votes(&mut section, nodes, mistakes);
    section.finish(mistakes);
    Some(Cluster {
        name: name?.value,
        key_file: key_file.unwrap_or_else(|| KEY_FILE.into()),
        detection_ms,
        port: u16::try_from(port).unwrap_or(PORT),
        expected_votes,
    })
}

/// The votes of all nodes, or what the operator says they will be one day. Less
/// than there are would let two halves of the cluster both reach a majority.
fn expected_votes(
    section: &mut Section<'_, '_>,
    nodes: &[Node],
    mistakes: &mut Mistakes<'_>,
) -> u32 {
    let sum = nodes.iter().map(|node| node.votes).sum();
    let Some(expected) = section.optional::<i64>("expected_votes", mistakes) else {
        if sum == 0 && !nodes.is_empty() {
            mistakes.add(&section.at, "no node has votes; nobody could ever act");
        }
        return sum;
    };
    let most = 1..=VOTES_MAX * 64;
    let Some(value) = within("expected_votes", &expected, most, mistakes) else {
        return sum;
    };
    if value < sum {
        let message = format!(
            "expected_votes is {value}, but the nodes have {sum} votes; \
             two parts of the cluster could both act"
        );
        mistakes.add(&expected.at, message);
    } else if value / 2 + 1 > sum {
        let message = format!(
            "expected_votes is {value}, so {} votes are needed, \
             but the nodes have only {sum}; nobody could ever act",
            value / 2 + 1
        );
        mistakes.add(&expected.at, message);
    }
    value
}

fn name(
    key: &'static str,
    section: &mut Section<'_, '_>,
    mistakes: &mut Mistakes<'_>,
) -> Option<At<String>> {
    let name = section.required::<String>(key, mistakes)?;
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.value.is_empty() || name.value.len() > NAME_LIMIT || !name.value.chars().all(legal) {
        let message = format!(
            "{key} {:?} must have 1 to {NAME_LIMIT} letters, digits, dots, dashes or underscores",
            name.value
        );
        mistakes.add(&name.at, message);
    }
    Some(name)
}

/// Finds values that two sections must not share.
struct Unique<T> {
    what: &'static str,
    seen: BTreeSet<T>,
}

impl<T: Ord + Clone + std::fmt::Display> Unique<T> {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            seen: BTreeSet::new(),
        }
    }

    fn check(&mut self, value: Option<&At<T>>, mistakes: &mut Mistakes<'_>) {
        if let Some(At { value, at }) = value
            && !self.seen.insert(value.clone())
        {
            mistakes.add(at, format!("{} {value} is used twice", self.what));
        }
    }
}

fn nodes(root: &mut Section<'_, '_>, devices: &Devices, mistakes: &mut Mistakes<'_>) -> Vec<Node> {
    let sections = root.tables("node", "[[node]]", mistakes);
    match sections.get(NODE_LIMIT) {
        Some(first) => {
            let message = format!("more than {NODE_LIMIT} nodes");
            mistakes.add(&first.at, message);
        }
        None if sections.is_empty() => mistakes.add(&(0..0), "there is no section [[node]]"),
        None => {}
    }
    let mut ids = Unique::new("node id");
    let mut names = Unique::new("node name");
    let mut addresses = Unique::new("address");
    let mut nodes = Vec::new();
    for mut section in sections {
        let id = node_id(&mut section, mistakes);
        let name = name("name", &mut section, mistakes);
        let address = address(&mut section, mistakes);
        let votes = section.number("votes", 0..=VOTES_MAX, 1, mistakes);
        let fence = methods(&mut section, devices, mistakes);
        section.finish(mistakes);
        ids.check(id.as_ref(), mistakes);
        names.check(name.as_ref(), mistakes);
        addresses.check(address.as_ref(), mistakes);
        if let (Some(id), Some(name), Some(address)) = (id, name, address) {
            nodes.push(Node {
                id: id.value,
                name: name.value,
                address: address.value,
                votes,
                fence,
            });
        }
    }
    nodes.sort_by_key(|node| node.id);
    one_family(&nodes, mistakes);
    nodes
}

/// One socket serves all nodes, so their addresses must be of one family.
fn one_family(nodes: &[Node], mistakes: &mut Mistakes<'_>) {
    let v4 = nodes.iter().filter(|node| node.address.is_ipv4()).count();
    if v4 != 0 && v4 != nodes.len() {
        mistakes.add(
            &(0..0),
            "some nodes have IPv4 addresses and some IPv6; use one",
        );
    }
}

fn node_id(section: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<At<u32>> {
    let id = section.required::<i64>("id", mistakes)?;
    let value = within("id", &id, 1..=NODE_ID_MAX, mistakes)?;
    Some(At { value, at: id.at })
}

fn address(section: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<At<IpAddr>> {
    let text = section.required::<String>("address", mistakes)?;
    let usable = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    let address = text.value.parse().ok().filter(usable);
    if address.is_none() {
        let message = format!("address {:?} must be the node's own IP address", text.value);
        mistakes.add(&text.at, message);
    }
    Some(At {
        value: address?,
        at: text.at,
    })
}

fn methods(
    section: &mut Section<'_, '_>,
    known: &Devices,
    mistakes: &mut Mistakes<'_>,
) -> Vec<FenceMethod> {
    let mut methods = Vec::new();
    let mut names = Unique::new("fence method");
    for mut section in section.tables("fence", "[[node.fence]]", mistakes) {
        let name = name("name", &mut section, mistakes);
        names.check(name.as_ref(), mistakes);
        let entry = "{ device = \"NAME\", ... }";
        let uses = section.tables("devices", entry, mistakes);
        if uses.is_empty() {
            mistakes.add(&section.at, "[[node.fence]] has no devices");
        }
        let uses = uses.into_iter();
        let devices = uses.filter_map(|section| usage(section, known, mistakes));
        let devices: Vec<FenceUse> = devices.collect();
        let does = |used: &FenceUse| {
            let device = known.get(&used.device).map(|(device, _)| device);
            used.action.or(device.and_then(|device| device.action))
        };
        if !devices.is_empty() && devices.iter().all(|used| does(used) == Some(Action::On)) {
            let message = "a method that only switches on fences nobody; one of its devices must \
                           have the action reboot or off";
            mistakes.add(&section.at, message);
        }
        let line = mistakes.line(section.at.start);
        section.finish(mistakes);
        if let Some(name) = name {
            methods.push(FenceMethod {
                name: name.value,
                devices,
                line,
            });
        }
    }
    methods
}

fn usage(
    mut section: Section<'_, '_>,
    known: &Devices,
    mistakes: &mut Mistakes<'_>,
) -> Option<FenceUse> {
    let device = section.required::<String>("device", mistakes);
    let action = action(&mut section, mistakes);
    let rest = section.rest(mistakes);
    let device = device?;
    let is_secret = known
        .get(&device.value)
        .is_some_and(|(_, is_secret)| *is_secret);
    let options = options(rest, is_secret);
    if !known.contains_key(&device.value) {
        let message = format!("there is no [[fence_device]] called {:?}", device.value);
        mistakes.add(&device.at, message);
    }
    Some(FenceUse {
        device: device.value,
        action,
        options,
    })
}

/// What a device is to do to a node: something after which it is known to be fenced.
fn action(section: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<Action> {
    let text = section.optional::<String>("action", mistakes)?;
    let action = Action::of_method(&text.value);
    if action.is_none() {
        let message = format!(
            "action {:?} does nothing to the node, so it would be called fenced while it runs; \
             it must be reboot, off or on (or their names of old, disable and enable)",
            text.value
        );
        mistakes.add(&text.at, message);
    }
    action
}

fn options(texts: BTreeMap<String, String>, is_secret: bool) -> Options {
    let mut options = Options::default();
    for (name, text) in texts {
        options.set(&name, &text, is_secret);
    }
    options
}

fn fence_devices(root: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Devices {
    let mut devices = BTreeMap::new();
    let mut names = Unique::new("fence device");
    for mut section in root.tables("fence_device", "[[fence_device]]", mistakes) {
        let name = name("name", &mut section, mistakes);
        names.check(name.as_ref(), mistakes);
        let agent = section.required::<String>("agent", mistakes);
        if let Some(agent) = agent.as_ref().filter(|agent| !is_program(&agent.value)) {
            let message = format!(
                "agent {:?} must be a program name or an absolute path",
                agent.value
            );
            mistakes.add(&agent.at, message);
        }
        let limits = 1..=FENCE_TIMEOUT_S_MAX;
        let timeout_s = section.number("timeout_s", limits, FENCE_TIMEOUT_S, mistakes);
        let monitor_s = section.optional::<i64>("monitor_s", mistakes);
        let monitor_s = monitor_s.filter(|monitor| monitor.value != 0);
        let limits = MONITOR_S_MIN..=MONITOR_S_MAX;
        let monitor_s =
            monitor_s.and_then(|monitor| within("monitor_s", &monitor, limits, mistakes));
        let is_secret = section.optional::<bool>("secret", mistakes);
        let is_secret = is_secret.is_some_and(|secret| secret.value);
        let options_file = absolute("options_file", &mut section, mistakes);
        let credential = credential(&mut section, mistakes);
        let (action, texts) = section
            .table("options", "options = { name = value }", mistakes)
            .map(|mut options| (action(&mut options, mistakes), options.rest(mistakes)))
            .unwrap_or_default();
        let line = mistakes.line(section.at.start);
        section.finish(mistakes);
        if let (Some(name), Some(agent)) = (name, agent) {
            let device = FenceDevice {
                name: name.value.clone(),
                agent: agent.value,
                timeout_s,
                monitor_s: monitor_s.unwrap_or(0),
                action,
                options: options(texts, is_secret),
                options_file,
                credential,
                line,
            };
            devices.insert(name.value, (device, is_secret));
        }
    }
    devices
}

fn absolute(
    key: &'static str,
    section: &mut Section<'_, '_>,
    mistakes: &mut Mistakes<'_>,
) -> Option<PathBuf> {
    let path = section.optional::<String>(key, mistakes)?;
    if !path.value.starts_with('/') {
        mistakes.add(&path.at, format!("{key} must be an absolute path"));
    }
    Some(path.value.into())
}

/// The name of a file in the directory of credentials, so no path.
fn credential(section: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Option<String> {
    let name = section.optional::<String>("credential", mistakes)?;
    if name.value.is_empty() || name.value.contains('/') || name.value.starts_with('.') {
        let message = format!(
            "credential {:?} must be a name as LoadCredential= of the service has it",
            name.value
        );
        mistakes.add(&name.at, message);
    }
    Some(name.value)
}

fn is_program(name: &str) -> bool {
    !name.is_empty() && !name.contains('\0') && (name.starts_with('/') || !name.contains('/'))
}

fn fence(root: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Fence {
    let mut fence = Fence {
        post_fail_delay_ms: 0,
        post_join_delay_ms: POST_JOIN_DELAY_MS,
        clean_start: false,
    };
    if let Some(mut section) = root.table("fence", "[fence]", mistakes) {
        let limits = 0..=DELAY_MS_MAX;
        fence.post_fail_delay_ms =
            section.number("post_fail_delay_ms", limits.clone(), 0, mistakes);
        fence.post_join_delay_ms =
            section.number("post_join_delay_ms", limits, POST_JOIN_DELAY_MS, mistakes);
        let clean_start = section.optional::<bool>("clean_start", mistakes);
        fence.clean_start = clean_start.is_some_and(|yes| yes.value);
        section.finish(mistakes);
    }
    fence
}

fn dlm(root: &mut Section<'_, '_>, mistakes: &mut Mistakes<'_>) -> Dlm {
    let mut dlm = Dlm { log_debug: false };
    if let Some(mut section) = root.table("dlm", "[dlm]", mistakes) {
        let log_debug = section.optional::<bool>("log_debug", mistakes);
        dlm.log_debug = log_debug.is_some_and(|yes| yes.value);
        section.finish(mistakes);
    }
    dlm
}
