// SPDX-License-Identifier: GPL-2.0-only
//! A command line: `verb key=value …`, each key at most once and known to the verb.
//!
//! Pure: the module and the tests of `qemu-test` both mount it.

/// A command line that was looked at but not yet understood.
pub(crate) struct Line<'a> {
    verb: &'a str,
    rest: &'a str,
}

/// Why a command line is refused; `word` is the part of it that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bad<'a> {
    /// The word or key.
    pub(crate) word: &'a str,
    /// What is wrong with it.
    pub(crate) why: &'static str,
}

impl<'a> Line<'a> {
    /// Takes a line apart.
    pub(crate) fn new(text: &'a str) -> Self {
        let text = text.trim();
        let (verb, rest) = text
            .split_once(|c: char| c.is_ascii_whitespace())
            .unwrap_or((text, ""));
        Self { verb, rest }
    }

    /// Its first word.
    pub(crate) fn verb(&self) -> &'a str {
        self.verb
    }

    /// Refuses words that are no `key=value` of one of these keys, and keys given twice.
    pub(crate) fn check_keys(&self, keys: &[&str]) -> Result<(), Bad<'a>> {
        for (at, word) in self.words().enumerate() {
            let Some((key, _)) = word.split_once('=') else {
                return Err(Bad {
                    word,
                    why: "not key=value",
                });
            };
            let refuse = |why| Err(Bad { word: key, why });
            if !keys.contains(&key) {
                return refuse("no key of this verb");
            }
            let mut earlier = self.words().take(at);
            if earlier.any(|word| word.split_once('=').is_some_and(|(name, _)| name == key)) {
                return refuse("given twice");
            }
        }
        Ok(())
    }

    /// The text of a key that must be there.
    pub(crate) fn text(&self, key: &'static str) -> Result<&'a str, Bad<'a>> {
        match self.find(key) {
            Some("") => Err(Bad {
                word: key,
                why: "empty",
            }),
            Some(value) => Ok(value),
            None => Err(Bad {
                word: key,
                why: "missing",
            }),
        }
    }

    /// The text of a key, or what holds without it.
    pub(crate) fn text_or(&self, key: &str, without: &'a str) -> &'a str {
        self.find(key).unwrap_or(without)
    }

    /// The number of a key that must be there.
    pub(crate) fn number(&self, key: &'static str) -> Result<u64, Bad<'a>> {
        parse(self.text(key)?)
    }

    /// The number of a key, or what holds without it.
    pub(crate) fn number_or(&self, key: &str, without: u64) -> Result<u64, Bad<'a>> {
        self.find(key).map_or(Ok(without), parse)
    }

    /// The number of a key within limits, both included.
    pub(crate) fn number_within(
        &self,
        key: &'static str,
        without: Option<u64>,
        (least, most): (u64, u64),
    ) -> Result<u64, Bad<'a>> {
        let number = match without {
            Some(without) => self.number_or(key, without)?,
            None => self.number(key)?,
        };
        if (least..=most).contains(&number) {
            return Ok(number);
        }
        Err(Bad {
            word: key,
            why: "too small or too great",
        })
    }

    /// Whether a key is 1; it may be absent, 0 or 1.
    pub(crate) fn switch(&self, key: &str, without: bool) -> Result<bool, Bad<'a>> {
        match self.find(key) {
            None => Ok(without),
            Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(word) => Err(Bad {
                word,
                why: "neither 0 nor 1",
            }),
        }
    }

    fn words(&self) -> impl Iterator<Item = &'a str> {
        self.rest.split_ascii_whitespace()
    }

    fn find(&self, key: &str) -> Option<&'a str> {
        self.words()
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }
}

fn parse(word: &str) -> Result<u64, Bad<'_>> {
    word.parse().map_err(|_| Bad {
        word,
        why: "no number",
    })
}
