// SPDX-License-Identifier: GPL-2.0-only
//! One sample: a lock manager on nodes that have just booted, and how much is asked of it.

use std::sync::Arc;

use anyhow::Result;

use super::drive::Driver;
use super::figure::Sheet;
use crate::cluster::Cluster;
use crate::spec::UmlKernel;

/// How much is done for a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Enough for a figure that says something.
    Full,
    /// Enough to see that the figure is produced.
    Quick,
}

impl Size {
    /// One of two numbers.
    pub(super) fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Size::Full => full,
            Size::Quick => quick,
        }
    }

    /// The kernel of User Mode Linux nodes: checks of sizes that mean nothing run on the one that
    /// finds mistakes, which the scenarios need anyway.
    pub(super) fn kernel(self) -> UmlKernel {
        self.pick(UmlKernel::Fast, UmlKernel::Checked)
    }
}

/// A lock manager on nodes that have just booted, and the sheet its figures go to.
pub(super) struct Sample<'a> {
    pub(super) cluster: Arc<Cluster>,
    pub(super) driver: Driver,
    pub(super) size: Size,
    pub(super) sheet: &'a mut Sheet,
}

impl Sample<'_> {
    /// Notes a figure of this sample.
    pub(super) fn add(&mut self, name: &str, value: f64) -> Result<()> {
        self.sheet.add(self.driver.module(), name, value)
    }
}
