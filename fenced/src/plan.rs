// SPDX-License-Identifier: GPL-2.0-only
//! From the configuration to what is run against each node: the methods of a
//! node, with the options every caller of an agent adds.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_rt::config::Config;
use cluster_rt::config::FenceDevice;
use cluster_rt::config::FenceUse;
use cluster_rt::config::Node;
use fenced_core::NodeId;

use crate::agent::Call;
use crate::agent::Method;

/// What the agents are asked to do unless the configuration says otherwise: a
/// node that comes back by itself is worth more than one that stays off.
const ACTION: &str = "reboot";

/// Methods by node.
pub(crate) fn methods(config: &Config) -> BTreeMap<NodeId, Vec<Method>> {
    config
        .nodes
        .iter()
        .map(|node| (NodeId(node.id), node_methods(config, node)))
        .collect()
}

fn node_methods(config: &Config, node: &Node) -> Vec<Method> {
    let call = |used: &FenceUse| Some(call(config.fence_device(&used.device)?, used, node));
    let methods = node.fence.iter();
    methods
        .map(|method| Method {
            name: method.name.clone(),
            calls: method.devices.iter().filter_map(call).collect(),
        })
        .collect()
}

/// Options of the device, those of its use, then what is added unless given.
fn call(device: &FenceDevice, used: &FenceUse, node: &Node) -> Call {
    let mut options = device.options.clone();
    options.extend(used.options.clone());
    let added = [
        ("action", ACTION.to_owned()),
        ("nodename", node.name.clone()),
        ("node", node.id.to_string()),
        ("agent", device.agent.clone()),
    ];
    for (name, value) in added {
        options.entry(name.to_owned()).or_insert(value);
    }
    Call {
        device: device.name.clone(),
        agent: device.agent.clone(),
        options: options.into_iter().collect(),
        timeout: Duration::from_secs(u64::from(device.timeout_s)),
    }
}

#[cfg(test)]
mod tests {
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
        options = { monitor = "/m", plug = "default" }
        [[fence_device]]
        name = "san"
        agent = "fence_san"
    "#;

    #[test]
    fn options_of_the_use_win_over_the_device_and_both_over_what_is_added() {
        let config = cluster_rt::config::parse(TEXT).unwrap();
        let methods = &methods(&config)[&NodeId(1)];
        assert_eq!(methods.len(), 1);
        let [vm, san] = &methods[0].calls[..] else {
            panic!("two devices")
        };
        let option = |call: &Call, name: &str| {
            call.options
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, value)| value.clone())
                .unwrap()
        };
        assert_eq!(
            (option(vm, "plug"), option(vm, "monitor")),
            ("one".into(), "/m".into())
        );
        assert_eq!(
            (option(vm, "action"), option(vm, "nodename")),
            ("reboot".into(), "n1".into())
        );
        assert_eq!(vm.timeout, Duration::from_secs(9));
        assert_eq!(option(san, "action"), "off");
    }
}
