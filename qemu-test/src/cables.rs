// SPDX-License-Identifier: GPL-2.0-only
//! A network of cables: a socket pair for every two nodes, which their machines hold themselves.
//!
//! In place of the [switch](crate::switch) where figures are taken: no process stands between two
//! nodes and takes a processor from them, and a full socket makes the sender wait, so nothing is
//! lost. What it cannot do is cut, delay or lose. User Mode Linux only.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;

/// Bytes in flight in one direction: as many as in a port of the switch.
const SOCKET_BUFFER: usize = 512 << 10;

/// All cables of a cluster. Both ends stay open here while a node is off: what is sent to it is
/// lost, and its end works again when it is back.
#[derive(Debug)]
pub(crate) struct Cables {
    /// The ends at each node, by the node at the other end.
    ends: BTreeMap<u32, BTreeMap<u32, OwnedFd>>,
}

impl Cables {
    /// Cables between all nodes from 1 to `nodes`.
    pub(crate) fn new(nodes: u32) -> io::Result<Self> {
        let mut ends = BTreeMap::<u32, BTreeMap<u32, OwnedFd>>::new();
        for a in 1..=nodes {
            for b in a + 1..=nodes {
                let (here, there) = UnixDatagram::pair()?;
                setsockopt(&here, SndBuf, &SOCKET_BUFFER)?;
                setsockopt(&there, SndBuf, &SOCKET_BUFFER)?;
                ends.entry(a).or_default().insert(b, here.into());
                ends.entry(b).or_default().insert(a, there.into());
            }
        }
        Ok(Cables { ends })
    }

    /// The nodes that a node has a cable to, in the order of [`Cables::ends`].
    pub(crate) fn peers(&self, node: u32) -> Vec<u32> {
        let ends = self.ends.get(&node).into_iter().flatten();
        ends.map(|(peer, _)| *peer).collect()
    }

    /// A node's ends, for a machine of it.
    pub(crate) fn ends(&self, node: u32) -> io::Result<Vec<OwnedFd>> {
        let ends = self.ends.get(&node).into_iter().flatten();
        ends.map(|(_, end)| end.try_clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_two_nodes_have_a_cable_that_outlives_a_machine() {
        let cables = Cables::new(3).unwrap();
        assert_eq!(cables.peers(2), [1, 3]);
        let machine = |node: u32, number: usize| {
            let end = cables.ends(node).unwrap().swap_remove(number);
            UnixDatagram::from(end)
        };
        // Node 3 sends to node 2, whose second cable that is, once before and once after a restart.
        for text in [b"one", b"two"] {
            machine(3, 1).send(text).unwrap();
            let mut buffer = [0; 8];
            let len = machine(2, 1).recv(&mut buffer).unwrap();
            assert_eq!(buffer[..len], text[..]);
        }
    }
}
