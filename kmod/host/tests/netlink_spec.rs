// SPDX-License-Identifier: GPL-2.0-only
//! The numbers of the control family against `uapi/dlm.yaml`, in both directions: what the module
//! knows is described, and what is described the module knows.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use dlm_core::uapi::netlink::{
    self, Attr, Command, Kind, LsState, MemberAttr, PeerState, Policy, Role, Suspicion,
};
use serde_yaml_ng::Value;

fn spec() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../uapi/dlm.yaml");
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn named<'a>(list: &'a Value, name: &str) -> &'a Value {
    let mut found = list.as_sequence().unwrap().iter();
    found
        .find(|entry| entry["name"] == name)
        .unwrap_or_else(|| panic!("{name} is not in the spec"))
}

/// Names and numbers of a list that counts from `first`, as netlink specs do.
fn numbered(list: &[Value], first: u64) -> Vec<(String, u64)> {
    list.iter()
        .zip(first..)
        .map(|(entry, n)| {
            (
                text(if entry.is_string() {
                    entry
                } else {
                    &entry["name"]
                }),
                n,
            )
        })
        .collect()
}

fn definition(spec: &Value, name: &str) -> Vec<(String, u64)> {
    let found = named(&spec["definitions"], name);
    let first = found["value-start"].as_u64().unwrap_or(0);
    numbered(found["entries"].as_sequence().unwrap(), first)
}

fn attributes<'a>(spec: &'a Value, set: &str) -> &'a [Value] {
    let set = named(&spec["attribute-sets"], set);
    set["attributes"].as_sequence().unwrap()
}

fn operations(spec: &Value) -> &[Value] {
    spec["operations"]["list"].as_sequence().unwrap()
}

macro_rules! ours {
    ($type:ty) => {
        <$type>::ALL
            .iter()
            .map(|x| (x.name().to_owned(), u64::from(x.raw())))
            .collect::<Vec<_>>()
    };
}

#[test]
fn family_group_and_enums_are_those_of_the_spec() {
    let spec = spec();
    assert_eq!(spec["name"], netlink::FAMILY);
    named(&spec["mcast-groups"]["list"], netlink::GROUP);
    assert_eq!(ours!(Role), definition(&spec, "role"));
    assert_eq!(ours!(LsState), definition(&spec, "ls-state"));
    assert_eq!(ours!(PeerState), definition(&spec, "peer-state"));
    assert_eq!(ours!(Suspicion), definition(&spec, "peer-suspicion"));
    // The core has numbers and names of its own for what it decides.
    use dlm_core::lockcore::connection::Suspicion as Decided;
    let decided = [
        Decided::None,
        Decided::Reset,
        Decided::SendStuck,
        Decided::ConnectFailed,
    ];
    let decided = decided.map(|s| (s.name().to_owned(), s as u64));
    assert_eq!(ours!(Suspicion), decided);
}

#[test]
fn commands_are_those_of_the_spec() {
    let spec = spec();
    assert_eq!(ours!(Command), numbered(operations(&spec), 1));
    for (command, operation) in Command::ALL.iter().zip(operations(&spec)) {
        let name = command.name();
        let needs_rights = operation["flags"]
            .as_sequence()
            .is_some_and(|flags| flags.iter().any(|flag| flag == "admin-perm"));
        assert_eq!(command.is_write(), needs_rights, "{name}");
        assert_eq!(command.has_dump(), !operation["dump"].is_null(), "{name}");
        assert_eq!(
            command.is_notification(),
            !operation["event"].is_null(),
            "{name}"
        );
    }
}

#[test]
fn attributes_are_those_of_the_spec() {
    let spec = spec();
    assert_eq!(ours!(Attr), numbered(attributes(&spec, "dlm"), 1));
    assert_eq!(ours!(MemberAttr), numbered(attributes(&spec, "member"), 1));
    for (attr, described) in Attr::ALL.iter().zip(attributes(&spec, "dlm")) {
        assert_eq!(attr.policy(), policy(described), "{}", attr.name());
    }
    for (attr, described) in MemberAttr::ALL.iter().zip(attributes(&spec, "member")) {
        assert_eq!(attr.policy(), policy(described), "{}", attr.name());
    }
}

fn policy(described: &Value) -> Policy {
    let checks = &described["checks"];
    let max = || u16::try_from(checks["max-len"].as_u64().unwrap()).unwrap();
    let kind = match described["type"].as_str().unwrap() {
        "u8" => Kind::U8,
        "u32" => Kind::U32,
        "u64" => Kind::U64,
        "s32" => Kind::S32,
        "string" => Kind::Text(max()),
        "binary" => Kind::Bytes(max()),
        "nest" => {
            assert_eq!(described["nested-attributes"], "member");
            Kind::Member
        }
        "pad" => Kind::Pad,
        other => panic!("type {other} is unknown here"),
    };
    Policy {
        kind,
        nonzero: checks["min"] == 1,
    }
}
