// SPDX-License-Identifier: GPL-2.0-only
//! Names of resources: 1 to 64 arbitrary bytes, of which the length is part.
//!
//! Two names are one resource only if they have the same length and the same bytes: `a` and `a`
//! with a zero byte behind it are two. [`ResourceName`] is the value that is passed around;
//! [`StoredName`] is how a table keeps it, small for the names the file systems use.

use core::fmt;

use crate::platform::{KBox, Result, GFP};

/// Longest name, bytes.
pub const NAME_MAX: usize = 64;

/// Longest name kept without an allocation of its own: file systems use 24 to 31 bytes.
const INLINE_MAX: usize = 38;

/// The name of a resource.
#[derive(Clone, Copy)]
pub struct ResourceName {
    len: u8,
    bytes: [u8; NAME_MAX],
}

impl ResourceName {
    /// `None` if `bytes` are none, or more than [`NAME_MAX`]. An empty name cannot be told to a
    /// directory node in a recovery, where it means the end of the names: a resource of that name
    /// would have two masters.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return None;
        }
        let mut name = Self {
            len: u8::try_from(bytes.len()).ok()?,
            bytes: [0; NAME_MAX],
        };
        name.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(name)
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

impl PartialEq for ResourceName {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ResourceName {}

impl fmt::Debug for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

/// A name inside a table.
pub enum StoredName {
    /// Length and bytes.
    Inline(u8, [u8; INLINE_MAX]),
    /// A long one.
    Boxed(KBox<ResourceName>),
}

impl StoredName {
    /// Keeps a copy of `name`; fails only for want of memory.
    pub fn new(name: &ResourceName) -> Result<Self> {
        let bytes = name.as_bytes();
        let mut inline = [0; INLINE_MAX];
        Ok(match inline.get_mut(..bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                Self::Inline(name.len, inline)
            }
            None => Self::Boxed(KBox::new(*name, GFP)?),
        })
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Inline(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or(&[]),
            Self::Boxed(name) => name.as_bytes(),
        }
    }

    /// The name as a value.
    pub fn get(&self) -> ResourceName {
        match self {
            Self::Inline(len, inline) => {
                let mut bytes = [0; NAME_MAX];
                if let Some(room) = bytes.get_mut(..INLINE_MAX) {
                    room.copy_from_slice(inline);
                }
                ResourceName { len: *len, bytes }
            }
            Self::Boxed(name) => **name,
        }
    }
}

impl Default for StoredName {
    fn default() -> Self {
        Self::Inline(0, [0; INLINE_MAX])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_part_of_the_name() {
        let short = ResourceName::new(b"a").unwrap();
        let zero = ResourceName::new(b"a\0").unwrap();
        assert_ne!(short, zero);
        assert_eq!(short, ResourceName::new(b"a").unwrap());
    }

    #[test]
    fn every_length_up_to_64_is_kept() {
        let bytes: Vec<u8> = (1..=200).collect();
        for len in 1..=NAME_MAX {
            let name = ResourceName::new(&bytes[..len]).unwrap();
            assert_eq!(name.as_bytes(), &bytes[..len]);
            let stored = StoredName::new(&name).unwrap();
            assert_eq!(stored.as_bytes(), &bytes[..len]);
            assert_eq!(stored.get(), name);
        }
        assert!(ResourceName::new(&bytes[..65]).is_none());
        assert!(ResourceName::new(&bytes).is_none());
    }

    #[test]
    fn file_system_names_need_no_allocation() {
        let ocfs2 = ResourceName::new(&[b'x'; 31]).unwrap();
        assert!(matches!(
            StoredName::new(&ocfs2).unwrap(),
            StoredName::Inline(31, _)
        ));
        assert_eq!(size_of::<StoredName>(), 40);
    }
}
