// SPDX-License-Identifier: GPL-2.0-only
//! Seeded simulation of a whole cluster.
//!
//! What runs is the source that the kernel module and the lock daemon run: shards, recovery,
//! conversations with peers, and the daemon's choreography. Around it are models: machines with
//! power, a network that delays and breaks ([`world`]), a cluster manager that agrees on views and
//! has failed nodes fenced ([`cluster`]), and clients. One number decides everything, so that a run
//! can be repeated; [`truth`] checks after each step what clients may rely on.
//!
//! A run has two parts. First things go wrong, as the [`plan`] of the seed has it, and nothing may
//! be broken. Then everything is healed, and all that was asked for must be done.

pub mod cluster;
pub mod kernel;
pub mod plan;
pub mod random;
pub mod truth;
pub mod world;

pub use dlm_core::lockcore::fault::Fault;
pub use truth::Violation;
pub use world::{Summary, run};
