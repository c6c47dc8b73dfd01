// SPDX-License-Identifier: GPL-2.0-only
//! What a fence agent can be asked to do.

use std::fmt;

/// An action of the protocol that a caller of ours uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Cut the node off, and verify it.
    Off,
    /// Give it power or access again.
    On,
    /// Off, verified, then on.
    Reboot,
    /// Tell the state of the node.
    Status,
    /// Tell whether the device answers.
    Monitor,
}

impl Action {
    /// The action of a method in the configuration: one that does something to the node. The names
    /// of fabric agents, `disable` and `enable`, are read as `off` and `on`; case does not matter.
    /// `None`: it proves nothing about the node, or is not known.
    #[must_use]
    pub fn of_method(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "off" | "disable" => Some(Self::Off),
            "on" | "enable" => Some(Self::On),
            "reboot" => Some(Self::Reboot),
            _ => None,
        }
    }

    /// Name on the agent's standard input.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Reboot => "reboot",
            Self::Status => "status",
            Self::Monitor => "monitor",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_actions_that_change_the_node_make_a_method() {
        for (text, action) in [
            ("off", Some(Action::Off)),
            ("Disable", Some(Action::Off)),
            ("ON", Some(Action::On)),
            ("enable", Some(Action::On)),
            ("reboot", Some(Action::Reboot)),
            ("status", None),
            ("monitor", None),
            ("list", None),
            ("metadata", None),
            ("", None),
        ] {
            assert_eq!(Action::of_method(text), action, "{text}");
        }
    }
}
