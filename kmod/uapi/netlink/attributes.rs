// SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note
//! Attributes of a netlink message, read and written.
//!
//! | Off | Size | Content |
//! |---|---|---|
//! | 0 | 2 | length with this header, without padding; host byte order, as all of netlink |
//! | 2 | 2 | type; bit 15: attributes inside, bit 14: network byte order |
//! | 4 | n | value; then zero bytes up to a multiple of 4 |
//!
//! Reading takes any bytes: what does not fit ends the list. The kernel has checked lengths
//! against the policy before, a user of the values still gets `None` for a wrong one. Writing
//! goes to memory of the caller and fails when that is full.

use super::{
    Attr,
    MemberAttr, //
};

const HEADER: usize = 4;
const NESTED: u16 = 1 << 15;
const TYPE_MASK: u16 = 0x3fff;

const fn padded(len: usize) -> usize {
    (len + 3) & !3
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Number of its type, without the two bits.
    pub kind: u16,
    /// Where its header stands in the list.
    pub offset: usize,
    /// Its value.
    pub value: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// The value as a byte.
    pub fn u8(&self) -> Option<u8> {
        <[u8; 1]>::try_from(self.value).ok().map(|[byte]| byte)
    }

    /// The value as a number.
    pub fn u32(&self) -> Option<u32> {
        self.value.try_into().ok().map(u32::from_ne_bytes)
    }

    /// The value as a number with a sign.
    pub fn i32(&self) -> Option<i32> {
        self.value.try_into().ok().map(i32::from_ne_bytes)
    }

    /// The value as a long number.
    pub fn u64(&self) -> Option<u64> {
        self.value.try_into().ok().map(u64::from_ne_bytes)
    }

    /// The value as text: the bytes before the first zero byte.
    pub fn text(&self) -> &'a [u8] {
        let len = self.value.iter().position(|byte| *byte == 0);
        self.value
            .get(..len.unwrap_or(self.value.len()))
            .unwrap_or(&[])
    }

    /// The attributes inside.
    pub fn nested(&self) -> Attributes<'a> {
        Attributes::new(self.value)
    }
}

/// A list of attributes.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// The last one of this kind: who repeats an attribute means the last.
    pub fn find(self, attr: Attr) -> Option<Attribute<'a>> {
        self.filter(|found| found.kind == attr.raw()).last()
    }

    /// All of this kind, in order.
    pub fn all(self, attr: Attr) -> impl Iterator<Item = Attribute<'a>> {
        self.filter(move |found| found.kind == attr.raw())
    }

    /// The last one of this kind, inside a nest.
    pub fn find_member(self, attr: MemberAttr) -> Option<Attribute<'a>> {
        self.filter(|found| found.kind == attr.raw()).last()
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let rest = self.bytes.get(self.offset..)?;
        let len = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..HEADER)?.try_into().ok()?);
        let value = rest.get(HEADER..len)?;
        let found = Attribute {
            kind: kind & TYPE_MASK,
            offset: self.offset,
            value,
        };
        self.offset += padded(len);
        Some(found)
    }
}

/// There is no room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Writes attributes into memory of the caller.
#[derive(Debug)]
pub struct Writer<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Writes to the beginning of `bytes`.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, len: 0 }
    }

    /// What was written.
    pub fn written(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    /// A byte.
    pub fn u8(&mut self, attr: Attr, value: u8) -> Result<(), Full> {
        self.put(attr.raw(), &[&[value]])
    }

    /// A number.
    pub fn u32(&mut self, attr: Attr, value: u32) -> Result<(), Full> {
        self.put(attr.raw(), &[&value.to_ne_bytes()])
    }

    /// A number with a sign.
    pub fn i32(&mut self, attr: Attr, value: i32) -> Result<(), Full> {
        self.put(attr.raw(), &[&value.to_ne_bytes()])
    }

    /// A long number. Readers do not rely on its alignment.
    pub fn u64(&mut self, attr: Attr, value: u64) -> Result<(), Full> {
        self.put(attr.raw(), &[&value.to_ne_bytes()])
    }

    /// Bytes.
    pub fn bytes(&mut self, attr: Attr, value: &[u8]) -> Result<(), Full> {
        self.put(attr.raw(), &[value])
    }

    /// Text; the zero byte at its end is added.
    pub fn text(&mut self, attr: Attr, value: &[u8]) -> Result<(), Full> {
        self.put(attr.raw(), &[value, &[0]])
    }

    /// A nest of numbers.
    pub fn nest(&mut self, attr: Attr, numbers: &[(MemberAttr, u32)]) -> Result<(), Full> {
        let start = self.len;
        let filled = self.fill_nest(attr, numbers);
        if filled.is_err() {
            self.len = start;
        }
        filled
    }

    fn fill_nest(&mut self, attr: Attr, numbers: &[(MemberAttr, u32)]) -> Result<(), Full> {
        let start = self.len;
        self.put(attr.raw() | NESTED, &[])?;
        for (number, value) in numbers {
            self.put(number.raw(), &[&value.to_ne_bytes()])?;
        }
        let len = u16::try_from(self.len - start).map_err(|_| Full)?;
        let header = self.bytes.get_mut(start..start + 2).ok_or(Full)?;
        header.copy_from_slice(&len.to_ne_bytes());
        Ok(())
    }

    fn put(&mut self, kind: u16, value: &[&[u8]]) -> Result<(), Full> {
        let len = HEADER + value.iter().map(|part| part.len()).sum::<usize>();
        let room = self
            .bytes
            .get_mut(self.len..self.len + padded(len))
            .ok_or(Full)?;
        room.fill(0);
        let header = u16::try_from(len).map_err(|_| Full)?;
        let mut at = 0;
        for part in [&header.to_ne_bytes()[..], &kind.to_ne_bytes()[..]]
            .iter()
            .chain(value)
        {
            room.get_mut(at..at + part.len())
                .ok_or(Full)?
                .copy_from_slice(part);
            at += part.len();
        }
        self.len += padded(len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(f: impl FnOnce(&mut Writer<'_>) -> Result<(), Full>) -> Vec<u8> {
        let mut bytes = [0xff; 256];
        let mut writer = Writer::new(&mut bytes);
        f(&mut writer).unwrap();
        writer.written().to_vec()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = write(|w| {
            w.u32(Attr::NodeId, 7)?;
            w.u8(Attr::Up, 1)?;
            w.u64(Attr::Sent, u64::MAX - 1)?;
            w.i32(Attr::Result, -22)?;
            w.text(Attr::LsName, b"fs0")?;
            w.nest(
                Attr::Member,
                &[(MemberAttr::NodeId, 3), (MemberAttr::Weight, 2)],
            )?;
            w.nest(Attr::Member, &[(MemberAttr::NodeId, 4)])?;
            w.bytes(Attr::Address, &[10, 0, 0, 1])
        });
        let list = Attributes::new(&bytes);
        assert_eq!(list.find(Attr::NodeId).unwrap().u32(), Some(7));
        assert_eq!(list.find(Attr::Up).unwrap().u8(), Some(1));
        assert_eq!(list.find(Attr::Up).unwrap().u32(), None);
        assert_eq!(list.find(Attr::Sent).unwrap().u64(), Some(u64::MAX - 1));
        assert_eq!(list.find(Attr::Result).unwrap().i32(), Some(-22));
        assert_eq!(list.find(Attr::LsName).unwrap().text(), b"fs0");
        assert_eq!(list.find(Attr::Address).unwrap().value, [10, 0, 0, 1]);
        let members: Vec<_> = list
            .all(Attr::Member)
            .map(|m| m.nested().find_member(MemberAttr::NodeId).unwrap().u32())
            .collect();
        assert_eq!(members, [Some(3), Some(4)]);
        assert!(list.find(Attr::Role).is_none());
    }

    #[test]
    fn bytes_are_those_of_netlink() {
        let bytes = write(|w| {
            w.u8(Attr::Up, 1)?;
            w.nest(Attr::Member, &[(MemberAttr::NodeId, 3)])
        });
        let expected: [u8; 20] = [
            5, 0, 6, 0, 1, 0, 0, 0, // up
            12, 0, 10, 0x80, 8, 0, 1, 0, 3, 0, 0, 0, // member { node-id }
        ];
        assert_eq!(bytes, expected);
    }

    #[test]
    fn a_full_writer_writes_no_half_attribute() {
        let mut bytes = [0; 18];
        let mut writer = Writer::new(&mut bytes);
        writer.u32(Attr::NodeId, 1).unwrap();
        assert_eq!(
            writer.nest(Attr::Member, &[(MemberAttr::NodeId, 1)]),
            Err(Full)
        );
        assert_eq!(writer.u64(Attr::Sent, 1), Err(Full));
        assert_eq!(writer.written().len(), 8);
    }

    #[test]
    fn any_bytes_can_be_read() {
        const STEP: u64 = 1442695040888963407;
        let mut state = 1u64;
        for len in 0..200 {
            let bytes: Vec<u8> = (0..len)
                .map(|_| {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(STEP);
                    ((state >> 33) % 24) as u8
                })
                .collect();
            for found in Attributes::new(&bytes) {
                assert!(found.offset + 4 + found.value.len() <= len);
            }
        }
        assert_eq!(Attributes::new(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes::new(&[0, 0, 0, 0]).count(), 0);
    }
}
