// SPDX-License-Identifier: GPL-2.0-only
//! Reads sections of a parsed TOML document and collects mistakes.
//!
//! Knows tables, keys and types; what the keys mean is `build`'s business. A
//! key that was never asked for is unknown.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::ConfigError;

type Value<'a> = Spanned<DeValue<'a>>;

/// Collects mistakes of one text.
pub(super) struct Mistakes<'a> {
    text: &'a str,
    found: BTreeSet<ConfigError>,
    /// Lines that do not parse: what follows from them is not reported too.
    broken: BTreeSet<usize>,
}

impl<'a> Mistakes<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            found: BTreeSet::new(),
            broken: BTreeSet::new(),
        }
    }

    /// The line at a place in the text, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// What the TOML parser itself did not like.
    pub(super) fn syntax(&mut self, error: &toml::de::Error) {
        let line = self.line(error.span().map_or(0, |span| span.start));
        if self.broken.insert(line) {
            let message = error.message().to_owned();
            self.found.insert(ConfigError { line, message });
        }
    }

    pub(super) fn add(&mut self, at: &Range<usize>, message: impl Into<String>) {
        let line = self.line(at.start);
        // The parser puts an empty value without a place where none could be read.
        let placeholder = at.is_empty() && !self.broken.is_empty();
        if !placeholder && !self.broken.contains(&line) {
            let message = message.into();
            self.found.insert(ConfigError { line, message });
        }
    }

    /// A missing key; not reported when a line that does not parse may be it.
    fn missing(&mut self, at: &Range<usize>, message: String) {
        if self.broken.is_empty() {
            self.add(at, message);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(super) fn into_vec(self) -> Vec<ConfigError> {
        self.found.into_iter().collect()
    }
}

/// A type that a value may have.
pub(super) trait Kind: Sized {
    /// For messages: "must be …".
    const NAME: &'static str;
    fn read(value: &DeValue<'_>) -> Option<Self>;
}

impl Kind for String {
    const NAME: &'static str = "a string";
    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl Kind for i64 {
    const NAME: &'static str = "a whole number";
    fn read(value: &DeValue<'_>) -> Option<Self> {
        let number = value.as_integer()?;
        Self::from_str_radix(number.as_str(), number.radix()).ok()
    }
}

impl Kind for bool {
    const NAME: &'static str = "true or false";
    fn read(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }
}

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
}

/// A table being read.
pub(super) struct Section<'t, 'a> {
    /// How messages call it, such as `[[node]]`.
    name: String,
    pub(super) at: Range<usize>,
    table: &'t DeTable<'a>,
    asked: BTreeSet<&'static str>,
}

impl<'t, 'a> Section<'t, 'a> {
    pub(super) fn new(name: &str, at: Range<usize>, table: &'t DeTable<'a>) -> Self {
        Self {
            name: name.to_owned(),
            at,
            table,
            asked: BTreeSet::new(),
        }
    }

    fn value(&mut self, key: &'static str) -> Option<&'t Value<'a>> {
        self.asked.insert(key);
        let mut entries = self.table.iter();
        let found = entries.find(|(name, _)| name.get_ref() == key);
        found.map(|(_, value)| value)
    }

    /// The value of a key that may be left out.
    pub(super) fn optional<T: Kind>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<At<T>> {
        let value = self.value(key)?;
        let at = value.span();
        let read = T::read(value.get_ref());
        if read.is_none() {
            let message = format!("{key} must be {}", T::NAME);
            mistakes.add(&at, message);
        }
        read.map(|value| At { value, at })
    }

    /// The value of a key that must be there.
    pub(super) fn required<T: Kind>(
        &mut self,
        key: &'static str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<At<T>> {
        if self.value(key).is_none() {
            let message = format!("{} has no {key} ({})", self.name, T::NAME);
            mistakes.missing(&self.at, message);
        }
        self.optional(key, mistakes)
    }

    /// A whole number within limits, or the default.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        limits: std::ops::RangeInclusive<u32>,
        default: u32,
        mistakes: &mut Mistakes<'_>,
    ) -> u32 {
        let Some(number) = self.optional::<i64>(key, mistakes) else {
            return default;
        };
        within(key, &number, limits, mistakes).unwrap_or(default)
    }

    /// The table of a key; none is the same as an empty one.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        name: &str,
        mistakes: &mut Mistakes<'_>,
    ) -> Option<Section<'t, 'a>> {
        let value = self.value(key)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            mistakes.add(&value.span(), format!("{key} must be a table, {name}"));
        }
        table.map(|table| Section::new(name, value.span(), table))
    }

    /// The tables of a key that holds a list of them.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        name: &str,
        mistakes: &mut Mistakes<'_>,
    ) -> Vec<Section<'t, 'a>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let Some(array) = value.get_ref().as_array() else {
            let message = format!("{key} must be a list of tables, {name}");
            mistakes.add(&value.span(), message);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_table() {
                Some(table) => sections.push(Section::new(name, entry.span(), table)),
                None => mistakes.add(&entry.span(), format!("{key} must hold tables, {name}")),
            }
        }
        sections
    }

    /// All keys not asked for yet, as options of a fence agent.
    pub(super) fn rest(&mut self, mistakes: &mut Mistakes<'_>) -> BTreeMap<String, String> {
        let mut options = BTreeMap::new();
        for (key, value) in self.table.iter() {
            let key = key.get_ref().as_ref();
            if self.asked.contains(key) {
                continue;
            }
            match option_text(value.get_ref()) {
                Some(text) => {
                    options.insert(key.to_owned(), text);
                }
                None => mistakes.add(
                    &value.span(),
                    format!("option {key} must be one line of text, a whole number, true or false"),
                ),
            }
        }
        options
    }

    /// Ends the reading: every key never asked for is unknown.
    pub(super) fn finish(self, mistakes: &mut Mistakes<'_>) {
        let known: Vec<&str> = self.asked.iter().copied().collect();
        for (key, _) in self.table.iter() {
            let name = key.get_ref().as_ref();
            if !self.asked.contains(name) {
                let message = format!(
                    "{} has no key {name:?}; it knows: {}",
                    self.name,
                    known.join(", ")
                );
                mistakes.add(&key.span(), message);
            }
        }
    }
}

/// What an agent is given for a value; it reads `name=value` lines.
fn option_text(value: &DeValue<'_>) -> Option<String> {
    if let Some(text) = String::read(value) {
        return (!text.contains('\n')).then_some(text);
    }
    if let Some(number) = i64::read(value) {
        return Some(number.to_string());
    }
    bool::read(value).map(|yes| if yes { "1" } else { "0" }.to_owned())
}

/// The number, if it is within limits.
pub(super) fn within(
    key: &str,
    number: &At<i64>,
    limits: std::ops::RangeInclusive<u32>,
    mistakes: &mut Mistakes<'_>,
) -> Option<u32> {
    let value = u32::try_from(number.value).ok();
    let value = value.filter(|value| limits.contains(value));
    if value.is_none() {
        let (low, high) = (limits.start(), limits.end());
        let message = format!("{key} is {}; it must be {low} to {high}", number.value);
        mistakes.add(&number.at, message);
    }
    value
}
