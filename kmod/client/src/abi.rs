// SPDX-License-Identifier: GPL-2.0-only
//! The numbers of the family `dlm`, as `uapi/dlm.yaml` gives them.
//!
//! Only numbers; a test reads the spec and compares every name and value, so
//! that neither side can drift.

/// Name of the family.
pub const FAMILY: &str = "dlm";

/// Version of the generic netlink header; unused by the family.
pub const HEADER_VERSION: u8 = 1;

/// Version of the family that this client speaks; sent with a claim.
pub const ABI_VERSION: u32 = 1;

/// The multicast group of all notifications.
pub const EVENTS: &str = "events";

/// Longest name of a cluster or lockspace, bytes.
pub const NAME_LIMIT: usize = 64;

macro_rules! numbers {
    ($(#[$doc:meta])* $module:ident: $type:ty { $($name:ident = $value:literal,)* }) => {
        $(#[$doc])*
        #[allow(missing_docs, reason = "the spec documents each of them")]
        pub mod $module {
            $(pub const $name: $type = $value;)*
            /// Every name in here with its number.
            pub const ALL: &[(&str, $type)] = &[$((stringify!($name), $name),)*];
        }
    };
}

numbers! {
    /// Operations.
    command: u8 {
        CLAIM = 1,
        CLUSTER_SET = 2,
        NODE_SET = 3,
        NODE_DEL = 4,
        QUORUM_SET = 5,
        LS_STOP = 6,
        LS_START = 7,
        LS_ANSWER = 8,
        LS_GET = 9,
        NODE_GET = 10,
        STATUS_GET = 11,
        LS_JOIN_NTF = 12,
        LS_LEAVE_NTF = 13,
        LS_RECOVERED_NTF = 14,
        PEER_NTF = 15,
    }
}

numbers! {
    /// Attributes of the set `dlm`.
    attribute: u16 {
        ROLE = 1,
        CLUSTER_NAME = 2,
        NODE_ID = 3,
        INCARNATION = 4,
        ADDRESS = 5,
        UP = 6,
        QUORATE = 7,
        LS_NAME = 8,
        LS_ID = 9,
        MEMBER = 10,
        FAILED = 11,
        RESULT = 12,
        LS_FLAGS = 13,
        LS_STATE = 14,
        RELEASE_RECOVER = 15,
        GENERATION = 16,
        RECOVER_SEQ = 17,
        RECOVER_STATUS = 18,
        RECOVER_NODEID = 19,
        RECOVER_MS = 20,
        LOCKS = 21,
        RESOURCES = 22,
        PEER_STATE = 23,
        SUSPICION = 24,
        SENT = 25,
        RECEIVED = 26,
        RESENT = 27,
        DROPPED = 28,
        UNACKED = 29,
        PAD = 30,
        SLOT = 31,
        LOCAL = 32,
        ABI_VERSION = 33,
    }
}

numbers! {
    /// Attributes of the nested set `member`.
    member: u16 {
        NODE_ID = 1,
        WEIGHT = 2,
        SLOT = 3,
    }
}

#[cfg(test)]
mod tests {
    use serde_yaml_ng::Value;

    use super::*;
    use crate::types::LockspaceState;
    use crate::types::PeerState;
    use crate::types::Role;
    use crate::types::Suspicion;

    fn spec() -> Value {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../uapi/dlm.yaml");
        serde_yaml_ng::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    }

    /// The entry called `name` of the list at `key`.
    fn named<'a>(spec: &'a Value, key: &str, name: &str) -> &'a Value {
        let list = spec[key].as_sequence().unwrap();
        list.iter()
            .find(|entry| entry["name"].as_str() == Some(name))
            .unwrap()
    }

    /// Names of a list in the spec with their numbers, written our way.
    fn numbered(list: &Value, first: u64) -> Vec<(String, u64)> {
        let mut next = first;
        let mut out = Vec::new();
        for entry in list.as_sequence().unwrap() {
            let name = entry.as_str().or_else(|| entry["name"].as_str()).unwrap();
            next = entry.get("value").and_then(Value::as_u64).unwrap_or(next);
            out.push((name.to_uppercase().replace('-', "_"), next));
            next += 1;
        }
        out
    }

    fn ours<T: Copy + Into<u64>>(all: &[(&str, T)]) -> Vec<(String, u64)> {
        all.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect()
    }

    #[test]
    fn operations_are_those_of_the_spec() {
        let spec = spec();
        assert_eq!(ours(command::ALL), numbered(&spec["operations"]["list"], 1));
        assert_eq!(spec["name"].as_str(), Some(FAMILY));
        assert_eq!(spec["operations"]["enum-model"].as_str(), Some("unified"));
        assert_eq!(
            spec["mcast-groups"]["list"][0]["name"].as_str(),
            Some(EVENTS)
        );
    }

    #[test]
    fn attributes_are_those_of_the_spec() {
        let spec = spec();
        let set = |name| &named(&spec, "attribute-sets", name)["attributes"];
        assert_eq!(ours(attribute::ALL), numbered(set("dlm"), 1));
        assert_eq!(ours(member::ALL), numbered(set("member"), 1));
    }

    #[test]
    fn types_of_attributes_are_those_this_client_encodes() {
        let spec = spec();
        let set = &named(&spec, "attribute-sets", "dlm")["attributes"];
        let of = |kind: &str| -> Vec<String> {
            let list = set.as_sequence().unwrap().iter();
            let some = list.filter(|entry| entry["type"].as_str() == Some(kind));
            some.map(|entry| entry["name"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(of("u8"), ["up", "quorate", "release-recover", "local"]);
        assert_eq!(of("s32"), ["result", "recover-nodeid"]);
        assert_eq!(of("string"), ["cluster-name", "ls-name"]);
        assert_eq!(of("binary"), ["address"]);
        assert_eq!(of("nest"), ["member", "slot"]);
        let wide = [
            "incarnation",
            "recover-seq",
            "locks",
            "resources",
            "sent",
            "received",
            "resent",
            "dropped",
            "unacked",
        ];
        assert_eq!(of("u64"), wide);
    }

    #[test]
    fn enums_are_those_of_the_spec() {
        let spec = spec();
        let check = |name: &str, ours: Vec<(String, u64)>| {
            let definition = named(&spec, "definitions", name);
            let first = definition
                .get("value-start")
                .and_then(Value::as_u64)
                .unwrap_or(0);
            assert_eq!(ours, numbered(&definition["entries"], first), "{name}");
        };
        let written = |name: String| name.to_uppercase().replace('-', "_");
        let roles = [Role::None, Role::Membership, Role::Lockspaces];
        check(
            "role",
            roles
                .map(|r| (written(r.to_string()), r.raw().into()))
                .to_vec(),
        );
        let table = |all: Vec<(u32, String)>| -> Vec<(String, u64)> {
            all.into_iter()
                .map(|(raw, name)| (written(name), raw.into()))
                .collect()
        };
        let known = |f: &dyn Fn(u32) -> Option<String>| -> Vec<(u32, String)> {
            (0..100).filter_map(|raw| Some((raw, f(raw)?))).collect()
        };
        let state = |raw| LockspaceState::from_raw(raw).map(|s| s.to_string());
        check("ls-state", table(known(&state)));
        let state = |raw| PeerState::from_raw(raw).map(|s| s.to_string());
        check("peer-state", table(known(&state)));
        let state = |raw| Suspicion::from_raw(raw).map(|s| s.to_string());
        check("peer-suspicion", table(known(&state)));
    }
}
