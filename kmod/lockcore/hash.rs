// SPDX-License-Identifier: GPL-2.0-only
//! The hash of resource names: Jenkins' lookup3 as the kernel's `jhash` computes it.
//!
//! Part of the protocol: all nodes must find the same directory node from it. Words are read
//! little-endian, as every machine that runs this does natively.

/// Start value of lookup3, before the length is added.
const START: u32 = 0xdead_beef;

/// Bytes mixed in at a time.
const BLOCK: usize = 12;

/// `jhash(bytes, length, 0)`.
pub fn name_hash(bytes: &[u8]) -> u32 {
    let start = START.wrapping_add(bytes.len() as u32);
    let [mut a, mut b, mut c] = [start; 3];
    let mut rest = bytes;
    // The last block is mixed differently, also if it is a whole one.
    while rest.len() > BLOCK {
        let Some((block, tail)) = rest.split_first_chunk::<BLOCK>() else {
            break;
        };
        let [x, y, z] = words(block);
        [a, b, c] = mix(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z));
        rest = tail;
    }
    if rest.is_empty() {
        return c;
    }
    let mut block = [0; BLOCK];
    for (to, from) in block.iter_mut().zip(rest) {
        *to = *from;
    }
    let [x, y, z] = words(&block);
    last_mix(a.wrapping_add(x), b.wrapping_add(y), c.wrapping_add(z))
}

/// The three little-endian words of a block.
fn words(block: &[u8; BLOCK]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = *block;
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
        u32::from_le_bytes([i, j, k, l]),
    ]
}

/// One round over three words between two blocks.
fn mix(mut a: u32, mut b: u32, mut c: u32) -> [u32; 3] {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    [a, b, c]
}

/// The round after the last block.
fn last_mix(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}

#[cfg(test)]
mod tests {
    use super::name_hash;

    #[test]
    fn values_of_the_kernel() {
        let known: [(&[u8], u32, [u32; 3]); 6] = [
            (b"", 0xdead_beef, [1, 2, 1]),
            (b"a", 0x58d6_8708, [0, 2, 2]),
            (b"foo", 0xe18f_6896, [1, 2, 3]),
            (b"0123456789ab", 0x1065_e50a, [1, 0, 1]),
            (b"0123456789abc", 0x7351_ce56, [1, 1, 1]),
            (b"       2               1", 0x206f_0a3a, [1, 2, 3]),
        ];
        for (name, hash, nodes) in known {
            assert_eq!(name_hash(name), hash, "{}", name.escape_ascii());
            assert_eq!([2, 3, 4].map(|n| (hash >> 16) % n), nodes);
        }
    }
}
