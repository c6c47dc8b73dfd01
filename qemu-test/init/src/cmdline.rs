// SPDX-License-Identifier: GPL-2.0-only
//! What the runner tells a node on its kernel command line. (Words that begin with `con` would be
//! taken for consoles by User Mode Linux.)
//!
//! | Word | Meaning | Without it |
//! | --- | --- | --- |
//! | `node.name=n1` | host name | `node` |
//! | `node.address=10.77.1.1/24` | address of the cluster network | none |
//! | `node.link=eth0` | its network interface | `eth0` |
//! | `node.base=overlay` | root from the disk `root` under a tmpfs | stay in the initramfs |
//! | `node.init=systemd` | PID 1 becomes systemd when the runner says so | PID 1 stays this init |
//! | `node.control=/dev/ttyS0` | control channel is this line | the virtio-serial port |
//! | `node.power=/dev/ttyS1` | way to the power switch is this line | the virtio-serial port |

/// The words meant for init.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// Host name.
    pub name: String,
    /// Address and prefix length.
    pub address: Option<String>,
    /// Network interface of the cluster.
    pub link: String,
    /// Whether to change to the overlay root.
    pub is_overlay_root: bool,
    /// Whether systemd is to be PID 1.
    pub has_systemd: bool,
    /// Path of the control line, if it is not the virtio-serial port.
    pub control: Option<String>,
    /// Path of the line to the power switch, if it is not the virtio-serial port.
    pub power: Option<String>,
}

impl Cmdline {
    /// Reads the text of `/proc/cmdline`; words of others are ignored, the last of two counts.
    pub fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.split_ascii_whitespace()
                .filter_map(|word| word.strip_prefix("node."))
                .filter_map(|word| word.split_once('='))
                .filter(|(name, value)| *name == key && !value.is_empty())
                .map(|(_, value)| value.to_owned())
                .next_back()
        };
        Cmdline {
            name: value("name").unwrap_or_else(|| "node".into()),
            address: value("address"),
            link: value("link").unwrap_or_else(|| "eth0".into()),
            is_overlay_root: value("base").as_deref() == Some("overlay"),
            has_systemd: value("init").as_deref() == Some("systemd"),
            control: value("control"),
            power: value("power"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_are_ignored_and_the_last_of_two_counts() {
        let line = Cmdline::parse(
            "console=ttyS0 name=x node.name=n1 node.name=n2 node.base=overlay node.init=systemd \
             node.address=10.77.1.2/24 node.control=\n",
        );
        assert_eq!(line.name, "n2");
        assert_eq!(line.address.as_deref(), Some("10.77.1.2/24"));
        assert_eq!(line.link, "eth0");
        assert!(line.is_overlay_root && line.has_systemd);
        assert_eq!(line.control, None);
    }

    #[test]
    fn an_empty_line_gives_the_defaults() {
        let line = Cmdline::parse("");
        assert_eq!(line.name, "node");
        assert!(!line.is_overlay_root && !line.has_systemd);
        assert_eq!(line.address, None);
    }
}
