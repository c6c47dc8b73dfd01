// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's list of locks, `LOCKSPACE_locks` in debugfs: one header line,
//! then a line per lock:
//!
//! ```text
//! id nodeid remid pid xid exflags flags sts grmode rqmode time r_nodeid r_len "name"
//! ```
//!
//! `id`, `remid` and the flags are hex. A name may hold any bytes, line breaks
//! included; its length is in the line.

use anyhow::Context;
use anyhow::bail;
use serde::Serialize;

/// Fields before the name.
const FIELDS: usize = 13;

/// `sts` of a granted lock.
const GRANTED: i32 = 2;

/// A lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Lock {
    /// Its id on this node.
    pub(crate) id: u32,
    /// Node of the other half: the owner of a master copy, the master of ours.
    pub(crate) node: i32,
    /// Its id there.
    pub(crate) remote_id: u32,
    /// Process that asked for it.
    pub(crate) pid: u32,
    /// The mode it has; -1 for none.
    pub(crate) granted: Mode,
    /// The mode it waits for; -1 for none.
    pub(crate) requested: Mode,
    /// Master of its resource; 0 for this node.
    pub(crate) master: i32,
    /// Name of its resource; other bytes than text are replaced.
    pub(crate) name: String,
    /// The same in hex, unless it is plain text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name_hex: Option<String>,
    /// As the kernel wrote it.
    #[serde(skip)]
    pub(crate) raw: Vec<u8>,
}

/// A lock mode, shown by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode(i32);

impl Mode {
    const NONE: Self = Self(-1);

    pub(crate) fn name(self) -> &'static str {
        match self.0 {
            -1 => "IV",
            0 => "NL",
            1 => "CR",
            2 => "CW",
            3 => "PR",
            4 => "PW",
            5 => "EX",
            _ => "??",
        }
    }
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Lock {
    /// Whether it is another node's lock, known here because this node is the
    /// master.
    pub(crate) fn is_master_copy(&self) -> bool {
        self.master == 0 && self.node != 0
    }
}

/// All locks of a list.
pub(crate) fn parse(bytes: &[u8]) -> anyhow::Result<Vec<Lock>> {
    let Some(header) = bytes.iter().position(|byte| *byte == b'\n') else {
        return Ok(Vec::new());
    };
    let mut rest = &bytes[header + 1..];
    let mut locks = Vec::new();
    while !rest.is_empty() {
        let context = || format!("lock {} of the list", locks.len() + 1);
        let (lock, length) = parse_one(rest).with_context(context)?;
        locks.push(lock);
        rest = &rest[length..];
    }
    Ok(locks)
}

/// The first lock of these bytes, and their length.
fn parse_one(bytes: &[u8]) -> anyhow::Result<(Lock, usize)> {
    let quote = bytes
        .iter()
        .position(|byte| *byte == b'"')
        .context("there is no name")?;
    let head = std::str::from_utf8(&bytes[..quote])?;
    let fields: Vec<&str> = head.split_ascii_whitespace().collect();
    if fields.len() != FIELDS {
        bail!("{} fields before the name, not {FIELDS}", fields.len());
    }
    let length: usize = fields[12].parse().context("length of the name")?;
    let start = quote + 1;
    let end = start.checked_add(length).context("length of the name")?;
    let name = bytes.get(start..end).context("the name is cut")?;
    if bytes.get(end) != Some(&b'"') {
        bail!("the name is longer than its length says");
    }
    let next = match bytes.get(end + 1) {
        Some(b'\n') => end + 2,
        None => end + 1,
        Some(_) => bail!("something follows the name"),
    };
    Ok((lock(&fields, name)?, next))
}

fn lock(fields: &[&str], name: &[u8]) -> anyhow::Result<Lock> {
    let hex = |at: usize| u32::from_str_radix(fields[at], 16).context("a hex field");
    let number = |at: usize| fields[at].parse::<i32>().context("a number");
    let granted = number(7)? == GRANTED;
    let text = String::from_utf8_lossy(name);
    let plain = text.chars().all(|c| c != '\u{fffd}' && !c.is_control());
    Ok(Lock {
        id: hex(0)?,
        node: number(1)?,
        remote_id: hex(2)?,
        pid: fields[3].parse().context("the process")?,
        granted: Mode(number(8)?),
        // The kernel leaves the last requested mode there after the grant.
        requested: if granted {
            Mode::NONE
        } else {
            Mode(number(9)?)
        },
        master: number(11)?,
        name: text.into_owned(),
        name_hex: (!plain).then(|| name.iter().map(|byte| format!("{byte:02x}")).collect()),
        raw: name.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIST: &[u8] = include_bytes!("../fixtures/web_locks");

    #[test]
    fn locks_are_read_with_their_names() {
        let locks = parse(LIST).unwrap();
        let names: Vec<_> = locks.iter().map(|lock| lock.name.as_str()).collect();
        assert_eq!(names, ["res 1", "say \"hi\"", "res 2", "a\nb"]);
        assert_eq!((locks[0].id, locks[0].granted.name()), (0x2a, "EX"));
        assert_eq!(locks[0].requested.name(), "IV", "it is granted");
        assert_eq!(locks[1].requested.name(), "PR");
        let copies: Vec<_> = locks.iter().map(Lock::is_master_copy).collect();
        assert_eq!(copies, [false, false, true, false]);
        assert_eq!(locks[3].name_hex.as_deref(), Some("610a62"));
    }

    #[test]
    fn damaged_lists_are_errors_that_name_the_lock() {
        let cut = &LIST[..LIST.len() - 3];
        let error = format!("{:#}", parse(cut).unwrap_err());
        assert!(error.starts_with("lock 4 of the list"), "{error}");
        assert!(parse(b"header\n1 2 3 \"x\"\n").is_err());
        assert!(parse(b"header\n").unwrap().is_empty());
        assert!(parse(b"").unwrap().is_empty());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(at in 0usize..300, with in any::<u8>()) {
            let mut bytes = LIST.to_vec();
            let at = at % bytes.len();
            bytes[at] = with;
            let _ = parse(&bytes);
        }
    }
}
