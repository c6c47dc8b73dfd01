// SPDX-License-Identifier: GPL-2.0-only
//! Clusters of virtual machines and the scenarios run on them.
//!
//! A [`cluster::Cluster`] is a few nodes of one [`spec::Kind`] (QEMU with the distribution's
//! kernel, or User Mode Linux), a [`switch::Switch`] in this process as their only network, and a
//! [`power`] switch for their fence agents. A [`scenario::Scenario`] is a test on such clusters.
//!
//! This crate knows built files only (see [`assets`]); it links nothing of the cluster stack.
//!
//! Rules it keeps:
//! - nothing of a cluster can be reached from outside it: no host network interface, no listening
//!   port, every channel is a socket pair that only this process and one machine hold;
//! - what it starts it ends by process id, and the kernel ends it when this process dies;
//! - any sign of trouble in a kernel's log fails the scenario at once ([`console`]).

pub mod assets;
pub mod bench;
mod cables;
pub mod cli;
pub mod clock;
pub mod cluster;
pub mod console;
pub mod control;
pub mod evidence;
mod initramfs;
mod machine;
pub mod node;
pub mod power;
mod qmp;
pub mod run;
pub mod scenario;
pub mod scenarios;
mod session;
pub mod spec;
pub mod stack;
pub mod switch;
