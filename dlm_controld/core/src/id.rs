// SPDX-License-Identifier: GPL-2.0-only
//! The global id of a lockspace, as all daemons of this protocol compute it.

/// Reflected polynomial of CRC-32.
const POLYNOMIAL: u32 = 0xedb8_8320;

/// CRC-32 of the name of the lockspace's group and a zero byte.
#[must_use]
pub fn global_id(lockspace: &str) -> u32 {
    let group = crate::lockspace_group(lockspace);
    !group.bytes().chain([0]).fold(u32::MAX, step)
}

fn step(crc: u32, byte: u8) -> u32 {
    (0..8).fold(crc ^ u32::from(byte), |crc, _| {
        if crc & 1 == 1 {
            (crc >> 1) ^ POLYNOMIAL
        } else {
            crc >> 1
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_stock_daemon() {
        let known = [
            ("foo", 0x6ce2_339d),
            ("test", 0x7722_2027),
            ("default", 0x5378_88af),
        ];
        for (name, id) in known {
            assert_eq!(global_id(name), id, "{name}");
        }
    }
}
