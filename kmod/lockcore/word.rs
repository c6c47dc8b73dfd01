// SPDX-License-Identifier: GPL-2.0-only
//! Words of flags, each a type of its own: a bit of one word does not compile in another.

/// Makes a word of flags and, beside it, its bits as constants.
macro_rules! word {
    (
        $(#[$doc:meta])*
        pub struct $Word:ident($raw:ty);
        $($(#[$bit_doc:meta])* $BIT:ident = $value:expr;)*
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq)]
        pub struct $Word($raw);

        $($(#[$bit_doc])* pub const $BIT: $Word = $Word($value);)*

        #[allow(dead_code)] // Each word needs some of them.
        impl $Word {
            /// No bit.
            pub const NONE: Self = Self(0);

            /// From its number; bits without a name are kept.
            pub const fn from_raw(raw: $raw) -> Self {
                Self(raw)
            }

            /// Its number.
            pub const fn raw(self) -> $raw {
                self.0
            }

            /// Whether all of `bits` are set.
            pub const fn has(self, bits: Self) -> bool {
                self.0 & bits.0 == bits.0
            }

            /// Whether one of `bits` is set.
            pub const fn has_any(self, bits: Self) -> bool {
                self.0 & bits.0 != 0
            }

            /// These bits, and `bits`.
            pub const fn with(self, bits: Self) -> Self {
                Self(self.0 | bits.0)
            }

            /// These bits without `bits`.
            pub const fn without(self, bits: Self) -> Self {
                Self(self.0 & !bits.0)
            }

            /// Those of these bits that are in `bits`.
            pub const fn among(self, bits: Self) -> Self {
                Self(self.0 & bits.0)
            }

            /// Sets or clears `bits`.
            pub fn set(&mut self, bits: Self, on: bool) {
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
