// SPDX-License-Identifier: GPL-2.0-only
//! Fence agents: how one is called, what it says about itself, and what several of them do together
//! against one node.
//!
//! The stock protocol: `name=value` lines on standard input, the action among them, nothing on the
//! command line; exit status 0 is success, 2 of `status` means off, everything else is failure.
//! [`run`] is one run of an agent, [`Metadata`] what it knows, [`Method`] the order of the runs
//! that fence a node, [`Plan`] what the configuration makes of all of them.
//!
//! Rules:
//! 1. A run ends when the agent's own process does; nothing it has started outlives it.
//! 2. No secret leaves the options but on the agent's standard input; what an agent prints is
//!    scrubbed before anybody sees it.
//! 3. A node with several power supplies is off in all of them at one time, and seen to be, before
//!    one is switched on again.
//!
//! Not here: who is fenced and when (`fenced-core`), what the configuration says (`cluster-rt`).

mod group;
mod metadata;
mod method;
mod plan;
mod run;

pub use metadata::Metadata;
pub use metadata::MetadataError;
pub use method::Method;
pub use method::Progress;
pub use method::Step;
pub use plan::Complaint;
pub use plan::Device;
pub use plan::Plan;
pub use plan::PlanError;
pub use run::Call;
pub use run::Outcome;
pub use run::find;
pub use run::metadata;
pub use run::run;
