// SPDX-License-Identifier: GPL-2.0-only
//! Options of a fence agent, some of them secret.
//!
//! A secret value is written to the agent's standard input and nowhere else: it has no `Debug`,
//! and [`Options::scrub`] takes it out of whatever an agent printed.

use std::collections::BTreeMap;
use std::fmt;

/// Shown in place of a secret value.
const HIDDEN: &str = "***";

/// Longest line of a file with options, bytes: what the library of the stock agents reads.
const LINE_LIMIT: usize = 4096;

/// Values of switches, as agents read them.
const SWITCHES: [&str; 4] = ["yes", "on", "true", "false"];

#[derive(Clone, PartialEq, Eq)]
struct Value {
    text: String,
    is_secret: bool,
}

/// Options by name, in the order of names.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Options {
    values: BTreeMap<String, Value>,
    /// There are more that are not known here.
    is_partial: bool,
}

/// A line that is no option.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not name=value")]
pub struct OptionsError {
    /// Number of the line, from 1. What it says is not repeated: it may be secret.
    pub line: usize,
}

/// Whether the name of an option says that its value is secret: a password, a script that prints
/// one, a token, an SNMP community or key material.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let parts = ["passw", "secret", "token"];
    let ends = ["_script", "_key", "_kg", "apikey"];
    let names = ["community", "key"];
    parts.iter().any(|part| name.contains(part))
        || ends.iter().any(|end| name.ends_with(end))
        || names.contains(&name.as_str())
}

impl Options {
    /// Sets an option; the last value of a name wins. It is secret if its name says so, or
    /// `is_secret_too`.
    pub fn set(&mut self, name: &str, text: &str, is_secret_too: bool) {
        let value = Value {
            text: text.to_owned(),
            is_secret: is_secret_too || is_secret(name),
        };
        self.values.insert(name.to_owned(), value);
    }

    /// Sets an option unless it has a value.
    pub fn set_default(&mut self, name: &str, text: &str) {
        if !self.values.contains_key(name) {
            self.set(name, text, false);
        }
    }

    /// There are more that are not known here: none of them is missing.
    pub fn set_partial(&mut self) {
        self.is_partial = true;
    }

    /// See [`Options::set_partial`].
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.is_partial
    }

    /// Takes an option out.
    pub fn remove(&mut self, name: &str) {
        self.values.remove(name);
    }

    /// Adds the options of a file, all of them secret: `name=value` lines, comments with `#`.
    ///
    /// # Errors
    /// The first line that is none of these; nothing was added then.
    pub fn add_secret_lines(&mut self, text: &str) -> Result<(), OptionsError> {
        let mut read = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_end_matches('\r');
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let error = OptionsError { line: at + 1 };
            let (name, value) = line
                .split_once('=')
                .filter(|(name, _)| !name.trim().is_empty() && line.len() <= LINE_LIMIT)
                .ok_or(error)?;
            read.push((name.trim(), value));
        }
        for (name, value) in read {
            self.set(name, value, true);
        }
        Ok(())
    }

    /// Adds all options of `other`; they win.
    pub fn extend(&mut self, other: &Self) {
        let is_partial = other.is_partial;
        let other = other.values.iter();
        let other = other.map(|(name, value)| (name.clone(), value.clone()));
        self.values.extend(other);
        self.is_partial |= is_partial;
    }

    /// Whether any value is secret.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.values.values().any(|value| value.is_secret)
    }

    /// Names of all options.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The value of an option that is not secret.
    #[must_use]
    pub fn open(&self, name: &str) -> Option<&str> {
        let value = self.values.get(name).filter(|value| !value.is_secret)?;
        Some(&value.text)
    }

    /// What the agent reads: one option a line.
    #[must_use]
    pub fn lines(&self) -> String {
        let lines = self.values.iter();
        lines
            .map(|(name, value)| format!("{name}={}\n", value.text))
            .collect()
    }

    /// Length of the longest secret, bytes.
    #[must_use]
    pub fn longest_secret(&self) -> usize {
        self.secrets().map(str::len).max().unwrap_or(0)
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let secret = self.values.values().filter(|value| value.is_secret);
        let texts = secret.map(|value| value.text.trim());
        // A switch in a file of secrets hides nothing, and every other word contains it.
        texts.filter(|text| text.len() > 1 && !SWITCHES.contains(&text.to_lowercase().as_str()))
    }

    /// `text` without any secret value, quoted or not.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let mut secrets: Vec<&str> = self.secrets().collect();
        // One may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        let mut clean = text.to_owned();
        for secret in secrets {
            let bare = secret
                .strip_prefix('"')
                .and_then(|secret| secret.strip_suffix('"'))
                .filter(|bare| !bare.is_empty());
            clean = clean.replace(secret, HIDDEN);
            if let Some(bare) = bare {
                clean = clean.replace(bare, HIDDEN);
            }
        }
        clean
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.values.iter().map(|(name, value)| {
            let text = if value.is_secret { HIDDEN } else { &value.text };
            (name, text)
        });
        f.debug_map().entries(shown).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        let mut options = Options::default();
        options.set("ip", "192.0.2.1", false);
        options.set("password", "hunter2", false);
        options.set("pin", "1234", true);
        options
    }

    #[test]
    fn names_of_stock_agents_that_carry_secrets_are_known() {
        for name in [
            "password",
            "passwd",
            "password-script",
            "passwd_script",
            "snmp_priv_passwd",
            "snmp_priv_passwd_script",
            "identity_key",
            "secret_key",
            "token",
            "hexadecimal_kg",
            "community",
            "api_key",
            "key",
        ] {
            assert!(is_secret(name), "{name}");
        }
        for name in [
            "ip",
            "username",
            "plug",
            "key_file",
            "action",
            "power_timeout",
            "method",
        ] {
            assert!(!is_secret(name), "{name}");
        }
    }

    #[test]
    fn a_secret_is_in_the_lines_for_the_agent_and_nowhere_else() {
        let options = options();
        assert_eq!(
            options.lines(),
            "ip=192.0.2.1\npassword=hunter2\npin=1234\n"
        );
        let debug = format!("{options:?}");
        assert!(
            !debug.contains("hunter2") && !debug.contains("1234"),
            "{debug}"
        );
        assert_eq!(options.open("password"), None);
        assert_eq!(options.open("ip"), Some("192.0.2.1"));
        let said = options.scrub("login with hunter2 and 'hunter2', pin 1234, to 192.0.2.1");
        assert_eq!(said, "login with *** and '***', pin ***, to 192.0.2.1");
    }

    #[test]
    fn the_longer_secret_is_taken_out_first_and_quotes_hide_nothing() {
        let mut options = Options::default();
        options.set("password", "abc", false);
        options.set("token", "abcdef", false);
        options.set("secret", "\"quoted one\"", false);
        assert_eq!(options.scrub("abcdef abc quoted one"), "*** *** ***");
    }

    #[test]
    fn a_file_of_options_is_read_whole_or_not_at_all() {
        let mut options = Options::default();
        let text = "# power of rack 4\n\nusername = admin\npassword=a=b c\r\n";
        options.add_secret_lines(text).unwrap();
        assert_eq!(options.lines(), "password=a=b c\nusername= admin\n");
        assert_eq!(options.open("username"), None, "all of it is secret");
        options.set("ssl", "1", true);
        options.set("lanplus", "on", true);
        assert_eq!(
            options.scrub("port 161 on"),
            "port 161 on",
            "switches are left alone"
        );
        let mut none = Options::default();
        let error = none.add_secret_lines("a=1\nhunter2\n").unwrap_err();
        assert_eq!(error, OptionsError { line: 2 });
        assert!(!error.to_string().contains("hunter2"));
        assert_eq!(none, Options::default());
    }
}
