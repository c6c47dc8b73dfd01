// SPDX-License-Identifier: GPL-2.0-only
//! Which way the value block goes when a lock changes its mode.
//!
//! The only place for this table. What happens then (bytes, sequence, validity) is
//! `shard/lvb.rs`.

use super::mode::Mode;

/// Which way the value block goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the resource to the caller.
    Return,
    /// From the caller to the resource.
    Write,
    /// Nowhere.
    Nothing,
}

/// Rows: granted mode before, columns: new mode.
const TABLE: [[Direction; 6]; 6] = {
    use Direction::{Nothing as N, Return as R, Write as W};
    [
        [R, R, R, R, R, R], // NL
        [N, R, R, R, R, R], // CR
        [N, N, R, R, R, R], // CW
        [N, N, N, R, R, R], // PR
        [W, W, W, W, W, R], // PW
        [W, W, W, W, W, W], // EX
    ]
};

/// Which way the value block goes when a lock that had `granted` gets `new`.
pub const fn direction(granted: Option<Mode>, new: Mode) -> Direction {
    match granted {
        None => Direction::Return,
        Some(granted) => TABLE[granted as usize][new as usize],
    }
}

/// Whether an unlock of a lock in this mode writes.
pub const fn writes_at_unlock(granted: Option<Mode>) -> bool {
    matches!(granted, Some(Mode::Pw | Mode::Ex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_the_published_table() {
        let rows = ["RRRRRR", "-RRRRR", "--RRRR", "---RRR", "WWWWWR", "WWWWWW"];
        for (old, row) in Mode::ALL.into_iter().zip(rows) {
            for (new, cell) in Mode::ALL.into_iter().zip(row.chars()) {
                let expected = match cell {
                    'R' => Direction::Return,
                    'W' => Direction::Write,
                    _ => Direction::Nothing,
                };
                assert_eq!(direction(Some(old), new), expected, "{old:?} {new:?}");
            }
            assert_eq!(direction(None, old), Direction::Return);
            assert_eq!(writes_at_unlock(Some(old)), old >= Mode::Pw);
        }
        assert!(!writes_at_unlock(None));
    }
}
