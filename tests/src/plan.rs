// SPDX-License-Identifier: GPL-2.0-only
//! What a seed decides about a run before it begins: sizes, speeds, and which faults how often.

use fenced_core::domain::{LIMITS, Limits};

use crate::random::Random;

/// The plan of one run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Machines, 2 to 5.
    pub nodes: u32,
    /// Resources that clients lock.
    pub resources: u64,
    /// Locks that one client has at most.
    pub locks: usize,
    /// A lockspace has `1 << shard_bits` shards.
    pub shard_bits: u32,
    /// How long idle resources stay, ms.
    pub toss_ms: u32,
    /// Bytes that a connection takes and its peer has not read.
    pub send_buffer: usize,
    /// Longest way of a packet, ms.
    pub wire_ms: u64,
    /// Longest way between the daemons, and between a daemon and its kernel, ms.
    pub daemon_ms: u64,
    /// Longest pause of a client between two operations, ms.
    pub client_ms: u64,
    /// Until then things go wrong; afterwards everything is healed, ms.
    pub chaos_ms: u64,
    /// Longest pause between two things that go wrong, ms.
    pub disturb_ms: u64,
    /// Share of operations with a value block, percent.
    pub lvb_percent: u64,
    /// Datagrams that get lost, percent.
    pub lost_percent: u64,
    /// Datagrams that come twice, percent.
    pub doubled_percent: u64,
    /// Longest time that a fence agent needs to say what it has done, ms.
    pub agent_ms: u64,
    /// Fence agents that fail, percent.
    pub agent_fails_percent: u64,
    /// Fence agents that cut a node off from storage and leave it its power, percent of those
    /// against a node that holds nothing.
    pub cut_off_percent: u64,
    /// What a fence daemon keeps while the domain's state is on its way.
    pub fence_limits: Limits,
    /// Fence agents that say they have done what they have not, percent of those against a node
    /// that holds nothing: others would be given it.
    pub agent_lies_percent: u64,
    /// Boots with a configuration file in which there is only the node itself, percent.
    pub own_file_percent: u64,
    /// Allocations fail for a while now and then.
    pub short_memory: bool,
    /// Nodes leave the lockspace cleanly and come back.
    pub leaves: bool,
    /// What goes wrong, by weight.
    pub weights: Weights,
}

/// How often which thing goes wrong, relative to each other.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    /// A machine loses power.
    pub crash: u64,
    /// The network falls apart, and heals later.
    pub partition: u64,
    /// One connection breaks.
    pub cut: u64,
    /// A daemon is killed on a machine that goes on.
    pub daemon: u64,
    /// A machine gets no time for a while.
    pub pause: u64,
}

impl Plan {
    /// All of it from a seed.
    pub fn new(random: &mut Random) -> Self {
        let calm = random.percent(10);
        Self {
            nodes: random.within(2, 5) as u32,
            resources: random.within(1, 12),
            locks: random.within(1, 6) as usize,
            shard_bits: random.below(3) as u32,
            toss_ms: random.within(200, 3_000) as u32,
            send_buffer: random.pick(&[5_000, 20_000, 200_000]).unwrap_or(5_000),
            wire_ms: random.pick(&[1, 3, 10, 60]).unwrap_or(1),
            daemon_ms: random.pick(&[2, 20, 300]).unwrap_or(2),
            client_ms: random.pick(&[15, 60, 200]).unwrap_or(60),
            chaos_ms: random.within(15_000, 45_000),
            disturb_ms: random.pick(&[1_500, 5_000, 12_000]).unwrap_or(1_500),
            lvb_percent: random.pick(&[0, 50, 100]).unwrap_or(0),
            lost_percent: random.pick(&[0, 1, 8]).unwrap_or(0),
            doubled_percent: random.pick(&[0, 5]).unwrap_or(0),
            agent_ms: random.pick(&[10, 300, 15_000]).unwrap_or(10),
            agent_fails_percent: random.pick(&[0, 30]).unwrap_or(0),
            agent_lies_percent: random.pick(&[0, 50]).unwrap_or(0),
            cut_off_percent: random.pick(&[0, 50]).unwrap_or(0),
            fence_limits: Limits {
                heard: random.pick(&[LIMITS.heard, 0]).unwrap_or(0),
                ..LIMITS
            },
            own_file_percent: random.pick(&[0, 0, 30]).unwrap_or(0),
            short_memory: random.percent(25),
            leaves: random.percent(40),
            weights: if calm {
                Weights {
                    crash: 0,
                    partition: 0,
                    cut: 1,
                    daemon: 0,
                    pause: 0,
                }
            } else {
                Weights {
                    crash: random.below(4),
                    partition: random.below(4),
                    cut: 1 + random.below(5),
                    daemon: random.below(4),
                    pause: random.below(4),
                }
            },
        }
    }
}
