// SPDX-License-Identifier: GPL-2.0-only
//! A member of a view: which node, which life of it, which boot.

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "serde")]
use serde::Deserialize;
#[cfg(feature = "serde")]
use serde::Serialize;

use crate::NodeId;

/// One life of cmand on a node; never the same for two lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize), serde(transparent))]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Identity of a boot, as the kernel gives it. In JSON it is the kernel's text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(Serialize, Deserialize),
    serde(into = "String", try_from = "String")
)]
pub struct BootId(pub [u8; 16]);

impl fmt::Display for BootId {
    /// In the kernel's way of writing it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&index) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A text is no boot id: 32 hexadecimal digits, in groups of 8, 4, 4, 4 and 12
/// with a hyphen between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotABootId(String);

impl fmt::Display for NotABootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: not a boot id as the kernel writes it", self.0)
    }
}

impl std::error::Error for NotABootId {}

impl FromStr for BootId {
    type Err = NotABootId;

    fn from_str(text: &str) -> Result<Self, NotABootId> {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok();
        let id = number.map(|number| Self(number.to_be_bytes()));
        id.filter(|id| id.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| NotABootId(text.to_owned()))
    }
}

impl From<BootId> for String {
    fn from(id: BootId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for BootId {
    type Error = NotABootId;

    fn try_from(text: String) -> Result<Self, NotABootId> {
        text.parse()
    }
}

/// A member of a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(Serialize, Deserialize))]
pub struct Member {
    /// Which node of the configuration.
    pub node: NodeId,
    /// The life of it that is a member.
    pub incarnation: Incarnation,
    /// The boot of the node; two lives with the same one did not reboot in between.
    #[cfg_attr(feature = "serde", serde(rename = "boot_id"))]
    pub boot: BootId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_reads_back_and_nothing_else_is_one() {
        let text = "6e9d2c1a-0b7f-4c55-9f1e-00112233aabb";
        let id: BootId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(text.to_uppercase().parse(), Ok(id));
        let short = &text[1..];
        let moved = "6e9d2c1a0-b7f-4c55-9f1e-00112233aabb";
        for bad in ["", "nonsense", short, moved, &format!(" {text}")] {
            assert!(bad.parse::<BootId>().is_err(), "{bad:?}");
        }
    }
}
