// SPDX-License-Identifier: GPL-2.0-only
//! Steps with stamps: what is done already is not done again.
//!
//! A step has a key: the text of everything its result depends on. The stamp, written when the
//! work is finished, holds that key. Rule: the stamp is removed before the work begins and
//! written after it ended well, so an interrupted step runs again and a finished one never does.
//! Not here: what the steps do.

use std::fs;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;

use crate::paths::Layout;
use crate::run::Log;

/// One piece of work with a lasting result.
#[derive(Debug)]
pub(crate) struct Step {
    /// Name of stamp and log.
    pub name: String,
    /// What it does, in the words of the user.
    pub what: String,
    /// About how long it takes on two cores, for the announcement.
    pub about: Duration,
    /// Everything the result depends on.
    pub key: String,
}

/// The stamps of one checkout.
#[derive(Debug)]
pub(crate) struct Ledger {
    stamps: PathBuf,
    logs: PathBuf,
}

impl Ledger {
    /// The ledger of `layout`.
    pub(crate) fn open(layout: &Layout) -> Result<Ledger> {
        let stamps = layout.stamps();
        fs::create_dir_all(&stamps).with_context(|| {
            format!(
                "creating {} (is target/ writable for you?)",
                stamps.display()
            )
        })?;
        Ok(Ledger {
            stamps,
            logs: layout.logs(),
        })
    }

    /// Whether the step's result stands.
    pub(crate) fn is_done(&self, step: &Step) -> bool {
        fs::read_to_string(self.stamps.join(&step.name)).is_ok_and(|stamp| stamp == step.key)
    }

    /// Makes the step `name` run again.
    pub(crate) fn forget(&self, name: &str) -> Result<()> {
        let stamp = self.stamps.join(name);
        if stamp.exists() {
            fs::remove_file(&stamp).with_context(|| format!("removing {}", stamp.display()))?;
        }
        Ok(())
    }

    /// Does the work unless it is done. Says so, and how long it took. True if it worked.
    pub(crate) fn ensure(
        &self,
        step: &Step,
        work: impl FnOnce(&Log) -> Result<()>,
    ) -> Result<bool> {
        if self.is_done(step) {
            return Ok(false);
        }
        eprintln!("setup: {} (about {})", step.what, seconds(step.about));
        self.forget(&step.name)?;
        let stamp = self.stamps.join(&step.name);
        let begin = Instant::now();
        let log = Log::create(&self.logs, &step.name)?;
        work(&log).with_context(|| step.what.clone())?;
        let fresh = self.stamps.join(format!(".{}", step.name));
        fs::write(&fresh, &step.key).with_context(|| format!("writing {}", fresh.display()))?;
        fs::rename(&fresh, &stamp).with_context(|| format!("writing {}", stamp.display()))?;
        eprintln!("setup: {}: done in {}", step.name, seconds(begin.elapsed()));
        Ok(true)
    }
}

/// Only one command at a time prepares or builds in a checkout.
#[derive(Debug)]
pub(crate) struct Turn {
    _file: File,
}

impl Turn {
    /// Waits for the turn `name`, saying so if somebody else has it.
    pub(crate) fn take(layout: &Layout, name: &str) -> Result<Turn> {
        fs::create_dir_all(layout.setup())
            .with_context(|| format!("creating {}", layout.setup().display()))?;
        let path = layout.setup().join(format!("{name}.lock"));
        let file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("{name}: another xtask is at it in this checkout; waiting for it");
            file.lock()
                .with_context(|| format!("locking {}", path.display()))?;
        }
        Ok(Turn { _file: file })
    }
}

/// A duration for people: `4.2 s`, `70 s`, `4 min`.
pub(crate) fn seconds(time: Duration) -> String {
    let secs = time.as_secs_f64();
    if secs < 10.0 {
        format!("{secs:.1} s")
    } else if secs < 180.0 {
        format!("{secs:.0} s")
    } else {
        format!("{:.0} min", secs / 60.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    fn step(key: &str) -> Step {
        Step {
            name: "paint".into(),
            what: "painting".into(),
            about: Duration::from_secs(1),
            key: key.into(),
        }
    }

    fn ledger(name: &str) -> (PathBuf, Ledger) {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let ledger = Ledger::open(&Layout::below(&dir)).unwrap();
        (dir, ledger)
    }

    #[test]
    fn finished_step_is_not_repeated_until_its_key_changes() {
        let (dir, ledger) = ledger("repeat");
        assert!(ledger.ensure(&step("red"), |_| Ok(())).unwrap());
        assert!(!ledger.ensure(&step("red"), |_| bail!("repeated")).unwrap());
        assert!(ledger.ensure(&step("blue"), |_| Ok(())).unwrap());
        assert!(ledger.ensure(&step("red"), |_| Ok(())).unwrap());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn failed_step_leaves_no_stamp() {
        let (dir, ledger) = ledger("fail");
        ledger.ensure(&step("red"), |_| Ok(())).unwrap();
        let error = ledger
            .ensure(&step("blue"), |_| bail!("no brush"))
            .unwrap_err();
        assert_eq!(format!("{error:#}"), "painting: no brush");
        // Neither the new colour nor the old one: the wall is half painted.
        assert!(!ledger.is_done(&step("blue")));
        assert!(!ledger.is_done(&step("red")));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(4230)), "4.2 s");
        assert_eq!(seconds(Duration::from_secs(70)), "70 s");
        assert_eq!(seconds(Duration::from_secs(240)), "4 min");
    }
}
