// SPDX-License-Identifier: GPL-2.0-only
//! Lock modes, and the tables that follow from the mode alone: which may be held together, and
//! which way a conversion goes.
//!
//! The only place for both tables; `fs/gfs2` carries a copy of the second one, so they cannot
//! change.
//! "No mode" (the interface's IV, -1) is `Option::<Mode>::None`.

/// What a lock allows its holder, weakest first. PR and CW are not ordered among themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Mode {
    /// Null: no access, a placeholder.
    Nl = 0,
    /// Concurrent read.
    Cr = 1,
    /// Concurrent write.
    Cw = 2,
    /// Protected read.
    Pr = 3,
    /// Protected write.
    Pw = 4,
    /// Exclusive.
    Ex = 5,
}

/// Which way a conversion goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// To a stronger or the same mode: the master has to answer.
    Up,
    /// To a weaker mode: the owner need not wait for the master.
    Down,
    /// Between PR and CW.
    Middle,
}

/// Bit `m` of `COMPATIBLE[n]`: `m` and `n` may be held together.
const COMPATIBLE: [u8; 6] = [
    0b11_1111, // NL
    0b01_1111, // CR
    0b00_0111, // CW
    0b00_1011, // PR
    0b00_0011, // PW
    0b00_0001, // EX
];

/// Bit `new` of `QUEUE_CONVERSION[old]`: the flag QUECVT is legal.
const QUEUE_CONVERSION: [u8; 6] = [
    0b11_1110, // NL
    0b11_1100, // CR
    0b11_1000, // CW
    0b11_0100, // PR
    0b10_0000, // PW
    0b00_0000, // EX
];

impl Mode {
    /// All modes, weakest first.
    pub const ALL: [Mode; 6] = [Mode::Nl, Mode::Cr, Mode::Cw, Mode::Pr, Mode::Pw, Mode::Ex];

    /// By its number in interfaces and messages; `None` for -1 and for every other number.
    pub const fn from_raw(raw: i32) -> Option<Mode> {
        Some(match raw {
            0 => Mode::Nl,
            1 => Mode::Cr,
            2 => Mode::Cw,
            3 => Mode::Pr,
            4 => Mode::Pw,
            5 => Mode::Ex,
            _not_a_mode => return None,
        })
    }

    /// The number in interfaces and messages, -1 for no mode.
    pub const fn to_raw(mode: Option<Mode>) -> i32 {
        match mode {
            Some(mode) => mode as i32,
            None => -1,
        }
    }

    /// Whether two locks of these modes may be held at the same time.
    pub const fn is_compatible(self, other: Mode) -> bool {
        (COMPATIBLE[self as usize] >> other as u8) & 1 == 1
    }

    /// Which way a conversion from `self` to `new` goes.
    pub const fn change_to(self, new: Mode) -> Change {
        match (self, new) {
            (Mode::Pr, Mode::Cw) | (Mode::Cw, Mode::Pr) => Change::Middle,
            (old, new) if (new as u8) < (old as u8) => Change::Down,
            (_, _) => Change::Up,
        }
    }

    /// Whether a conversion from `self` to `new` may carry the flag QUECVT.
    pub const fn may_queue_to(self, new: Mode) -> bool {
        (QUEUE_CONVERSION[self as usize] >> new as u8) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Mode::{Cr, Cw, Ex, Nl, Pr, Pw};

    #[test]
    fn compatibility_is_the_published_table() {
        let together = [
            "111111", // NL with NL CR CW PR PW EX
            "111110", "111000", "110100", "110000", "100000",
        ];
        for (a, row) in Mode::ALL.into_iter().zip(together) {
            for (b, cell) in Mode::ALL.into_iter().zip(row.chars()) {
                assert_eq!(a.is_compatible(b), cell == '1', "{a:?} {b:?}");
                assert_eq!(a.is_compatible(b), b.is_compatible(a), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn change_follows_the_numbers_but_for_pr_and_cw() {
        for old in Mode::ALL {
            for new in Mode::ALL {
                let expected = match (old, new) {
                    (Pr, Cw) | (Cw, Pr) => Change::Middle,
                    (Nl, _) => Change::Up,
                    (Cr, Nl) => Change::Down,
                    (Cr, _) => Change::Up,
                    (Cw, Nl | Cr) => Change::Down,
                    (Cw, _) => Change::Up,
                    (Pr, Nl | Cr) => Change::Down,
                    (Pr, _) => Change::Up,
                    (Pw, Pw | Ex) => Change::Up,
                    (Pw, _) => Change::Down,
                    (Ex, Ex) => Change::Up,
                    (Ex, _) => Change::Down,
                };
                assert_eq!(old.change_to(new), expected, "{old:?} {new:?}");
            }
        }
    }

    #[test]
    fn queueing_conversions_are_the_published_pairs() {
        let legal: [(Mode, &[Mode]); 6] = [
            (Nl, &[Cr, Cw, Pr, Pw, Ex]),
            (Cr, &[Cw, Pr, Pw, Ex]),
            (Cw, &[Pr, Pw, Ex]),
            (Pr, &[Cw, Pw, Ex]),
            (Pw, &[Ex]),
            (Ex, &[]),
        ];
        for (old, news) in legal {
            for new in Mode::ALL {
                assert_eq!(
                    old.may_queue_to(new),
                    news.contains(&new),
                    "{old:?} {new:?}"
                );
            }
        }
    }

    #[test]
    fn numbers_round_trip_and_others_are_no_mode() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_raw(mode as i32), Some(mode));
            assert_eq!(Mode::to_raw(Some(mode)), mode as i32);
        }
        assert_eq!(Mode::to_raw(None), -1);
        for raw in [-1, 6, i32::MIN, i32::MAX, 256] {
            assert_eq!(Mode::from_raw(raw), None);
        }
    }
}
