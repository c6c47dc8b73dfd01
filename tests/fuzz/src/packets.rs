// SPDX-License-Identifier: GPL-2.0-only
//! Datagrams that anybody can send to cmand: without the key.

use cmand_core::Instant;

use crate::input::Input;
use crate::insider::Node;
use crate::insider::address;
use crate::insider::recorded;

/// Some datagrams: each a sender's number, a length and bytes. None is authentic, so none may
/// change the view.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    let (mut node, mut now) = Node::formed();
    let before = node.view().cloned();
    let mut input = Input(data);
    while let Some(sender) = input.byte() {
        let bytes = input.bytes();
        now = Instant(now.0 + 1);
        node.hear(now, address(u32::from(sender % 5)), bytes);
        let is_framed = bytes.len() >= 64 && bytes.starts_with(b"CMN\x01");
        assert!(
            !crate::is_planted() || !is_framed || bytes[24] < 0x80,
            "planted: a large counter"
        );
    }
    assert_eq!(before.as_ref(), node.view(), "a stranger changed the view");
}

/// Real datagrams, with a wrong byte.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let said = recorded();
    [0, said.len() / 2, said.len() - 1]
        .map(|at| {
            let mut bytes = said[at].bytes.clone();
            if let Some(last) = bytes.last_mut() {
                *last ^= 1;
            }
            let mut seed = vec![u8::try_from(said[at].from).unwrap_or(0)];
            seed.extend(u16::try_from(bytes.len()).unwrap_or(0).to_le_bytes());
            seed.extend(bytes);
            seed
        })
        .to_vec()
}
