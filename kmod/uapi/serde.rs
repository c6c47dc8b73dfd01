// SPDX-License-Identifier: GPL-2.0-only
//! How the interface's types look in JSON: ids as numbers, enums by their names in the spec.
//!
//! By hand, because the files they stand in are the kernel's, too, and name no crate.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::netlink::{LsState, PeerState, Role, Suspicion};
use super::node::NodeId;

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer).map(Self)
    }
}

macro_rules! by_name {
    ($($name:ident)+) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                let found = Self::ALL.iter().find(|one| one.name() == name);
                found.copied().ok_or_else(|| {
                    D::Error::custom(format!("{name:?}: no {}", stringify!($name)))
                })
            }
        }
    )+};
}

by_name!(Role LsState PeerState Suspicion);
