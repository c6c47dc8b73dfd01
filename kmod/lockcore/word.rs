// SPDX-License-Identifier: GPL-2.0-only
//! Words of flags, each a type of its own: a bit of one word does not compile in another.
//!
//! The kernel crate has `impl_flags!` for this; it is not to be had in user space, where this code
//! is tested.

/// Makes a word of flags and, beside it, its bits as constants.
macro_rules! word {
    (
        $(#[$doc:meta])*
        $vis:vis struct $Word:ident($raw:ty);
        $($(#[$bit_doc:meta])* $BIT:ident = $value:expr;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        $vis struct $Word($raw);

        $($(#[$bit_doc])* $vis const $BIT: $Word = $Word($value);)*

        #[allow(dead_code)] // Each word needs some of them.
        impl $Word {
            /// No bit.
            $vis const NONE: Self = Self(0);

            /// From its number; bits without a name are kept.
            $vis const fn from_raw(raw: $raw) -> Self {
                Self(raw)
            }

            /// Its number.
            $vis const fn raw(self) -> $raw {
                self.0
            }

            /// Whether all of `bits` are set.
            $vis const fn has(self, bits: Self) -> bool {
                self.0 & bits.0 == bits.0
            }

            /// Whether one of `bits` is set.
            $vis const fn has_any(self, bits: Self) -> bool {
                self.0 & bits.0 != 0
            }

            /// These bits, and `bits`.
            $vis const fn with(self, bits: Self) -> Self {
                Self(self.0 | bits.0)
            }

            /// These bits without `bits`.
            $vis const fn without(self, bits: Self) -> Self {
                Self(self.0 & !bits.0)
            }

            /// Those of these bits that are in `bits`.
            $vis const fn among(self, bits: Self) -> Self {
                Self(self.0 & bits.0)
            }

            /// Sets or clears `bits`.
            $vis fn set(&mut self, bits: Self, on: bool) {
                *self = if on { self.with(bits) } else { self.without(bits) };
            }
        }

        impl core::fmt::Debug for $Word {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl core::ops::BitOr for $Word {
            type Output = Self;
            fn bitor(self, bits: Self) -> Self {
                self.with(bits)
            }
        }

        impl core::ops::BitOrAssign for $Word {
            fn bitor_assign(&mut self, bits: Self) {
                *self = self.with(bits);
            }
        }
    };
}

pub(crate) use word;

#[cfg(test)]
mod tests {
    word! {
        /// For the test.
        struct Word(u8);
        /// One.
        A = 0x1;
        /// Another.
        B = 0x4;
    }

    #[test]
    fn bits_are_asked_for_set_and_kept() {
        let mut w = Word::from_raw(0x81);
        assert!(w.has(A) && !w.has(A | B) && w.has_any(A | B) && w.has(Word::NONE));
        w.set(B, true);
        w.set(A, false);
        assert_eq!((w, w.raw()), (Word::from_raw(0x80).with(B), 0x84));
        assert_eq!(w.among(A | B), B);
        assert_eq!(w.without(B).raw(), 0x80);
        w |= A;
        assert_eq!(format!("{w:?}"), "0x85");
    }
}
