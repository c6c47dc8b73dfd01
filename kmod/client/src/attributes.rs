// SPDX-License-Identifier: GPL-2.0-only
//! Messages of the family: a command and its attributes, to and from bytes.
//!
//! Attributes are in host byte order, as netlink wants it. Unknown ones are
//! skipped when reading, so that a newer module may say more.

use std::net::IpAddr;

use dlm_uapi::netlink::FAMILY;
use netlink_packet_core::DecodeError;
use netlink_packet_core::DefaultNla;
use netlink_packet_core::Emitable;
use netlink_packet_core::NLA_F_NESTED;
use netlink_packet_core::NlasIterator;
use netlink_packet_core::ParseableParametrized;
use netlink_packet_generic::GenlFamily;
use netlink_packet_generic::GenlHeader;

/// A command with its attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) command: u8,
    pub(crate) version: u8,
    pub(crate) attributes: Attributes,
}

impl GenlFamily for Packet {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        self.version
    }
}

impl Emitable for Packet {
    fn buffer_len(&self) -> usize {
        self.attributes.length()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Packet {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            version: header.version,
            attributes: Attributes::parse(buffer)?,
        })
    }
}

/// Attributes in order: number and value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<(u16, Vec<u8>)>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn with(mut self, kind: impl Into<u16>, value: &[u8]) -> Self {
        self.0.push((kind.into(), value.to_vec()));
        self
    }

    pub(crate) fn u8(self, kind: impl Into<u16>, value: u8) -> Self {
        self.with(kind, &[value])
    }

    pub(crate) fn u32(self, kind: impl Into<u16>, value: u32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    pub(crate) fn i32(self, kind: impl Into<u16>, value: i32) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    pub(crate) fn u64(self, kind: impl Into<u16>, value: u64) -> Self {
        self.with(kind, &value.to_ne_bytes())
    }

    /// With the terminating zero that the kernel's string attributes have.
    pub(crate) fn string(self, kind: impl Into<u16>, value: &str) -> Self {
        self.with(kind, &[value.as_bytes(), b"\0"].concat())
    }

    pub(crate) fn address(self, kind: impl Into<u16>, value: IpAddr) -> Self {
        match value {
            IpAddr::V4(address) => self.with(kind, &address.octets()),
            IpAddr::V6(address) => self.with(kind, &address.octets()),
        }
    }

    pub(crate) fn nest(self, kind: impl Into<u16>, inner: &Self) -> Self {
        let mut value = vec![0; inner.length()];
        inner.emit(&mut value);
        self.with(kind.into() | NLA_F_NESTED, &value)
    }

    fn nlas(&self) -> Vec<DefaultNla> {
        let nla = |(kind, value): &(u16, Vec<u8>)| DefaultNla::new(*kind, value.clone());
        self.0.iter().map(nla).collect()
    }

    fn length(&self) -> usize {
        self.nlas().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.nlas().as_slice().emit(buffer);
    }

    /// All attributes in these bytes, without their flags.
    pub(crate) fn parse(buffer: &[u8]) -> Result<Self, DecodeError> {
        let mut all = Vec::new();
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            all.push((attribute.kind(), attribute.value().to_vec()));
        }
        Ok(Self(all))
    }

    /// Every attribute with its number.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u16, &[u8])> {
        self.0.iter().map(|(kind, value)| (*kind, value.as_slice()))
    }

    /// As the other side reads it.
    #[cfg(test)]
    pub(crate) fn reparsed(&self) -> Self {
        let mut bytes = vec![0; self.length()];
        self.emit(&mut bytes);
        Self::parse(&bytes).unwrap()
    }

    /// Every value of this number.
    pub(crate) fn all(&self, kind: impl Into<u16>) -> impl Iterator<Item = &[u8]> {
        let kind = kind.into();
        self.0
            .iter()
            .filter(move |(other, _)| *other == kind)
            .map(|(_, value)| value.as_slice())
    }

    fn fixed<const N: usize>(&self, kind: impl Into<u16>) -> Result<Option<[u8; N]>, DecodeError> {
        let kind = kind.into();
        let Some(value) = self.all(kind).next() else {
            return Ok(None);
        };
        let wrong = |_| format!("attribute {kind} has {} bytes, not {N}", value.len());
        Ok(Some(value.try_into().map_err(wrong)?))
    }

    pub(crate) fn get_u8(&self, kind: impl Into<u16>) -> Result<Option<u8>, DecodeError> {
        Ok(self.fixed(kind)?.map(u8::from_ne_bytes))
    }

    pub(crate) fn get_u16(&self, kind: impl Into<u16>) -> Result<Option<u16>, DecodeError> {
        Ok(self.fixed(kind)?.map(u16::from_ne_bytes))
    }

    pub(crate) fn get_u32(&self, kind: impl Into<u16>) -> Result<Option<u32>, DecodeError> {
        Ok(self.fixed(kind)?.map(u32::from_ne_bytes))
    }

    pub(crate) fn get_i32(&self, kind: impl Into<u16>) -> Result<Option<i32>, DecodeError> {
        Ok(self.fixed(kind)?.map(i32::from_ne_bytes))
    }

    pub(crate) fn get_u64(&self, kind: impl Into<u16>) -> Result<Option<u64>, DecodeError> {
        Ok(self.fixed(kind)?.map(u64::from_ne_bytes))
    }

    pub(crate) fn get_string(&self, kind: impl Into<u16>) -> Result<Option<String>, DecodeError> {
        self.all(kind).next().map(text).transpose()
    }

    pub(crate) fn get_address(&self, kind: impl Into<u16>) -> Result<Option<IpAddr>, DecodeError> {
        let Some(value) = self.all(kind).next() else {
            return Ok(None);
        };
        if let Ok(four) = <[u8; 4]>::try_from(value) {
            return Ok(Some(IpAddr::from(four)));
        }
        if let Ok(sixteen) = <[u8; 16]>::try_from(value) {
            return Ok(Some(IpAddr::from(sixteen)));
        }
        Err(format!("an address of {} bytes", value.len()).into())
    }
}

/// A string attribute's value up to its terminating zero.
pub(crate) fn text(value: &[u8]) -> Result<String, DecodeError> {
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    Ok(String::from_utf8(value[..end].to_vec())?)
}

/// What must be there.
pub(crate) fn required<T>(value: Option<T>, what: &str) -> Result<T, DecodeError> {
    value.ok_or_else(|| format!("no {what}").into())
}

#[cfg(test)]
mod tests {
    use dlm_uapi::netlink::Attr;
    use dlm_uapi::netlink::MemberAttr;
    use proptest::prelude::*;

    use super::*;

    fn bytes(attributes: &Attributes) -> Vec<u8> {
        let mut out = vec![0; attributes.length()];
        attributes.emit(&mut out);
        out
    }

    #[test]
    fn attributes_have_their_golden_bytes() {
        let inner = Attributes::new()
            .u32(MemberAttr::NodeId, 7)
            .u32(MemberAttr::Weight, 1);
        let all = Attributes::new()
            .string(Attr::LsName, "ls")
            .u8(Attr::Up, 1)
            .nest(Attr::Member, &inner)
            .i32(Attr::Result, -2);
        #[rustfmt::skip]
        let golden = [
            7, 0, 8, 0, b'l', b's', 0, 0,
            5, 0, 6, 0, 1, 0, 0, 0,
            20, 0, 10, 0x80, 8, 0, 1, 0, 7, 0, 0, 0, 8, 0, 2, 0, 1, 0, 0, 0,
            8, 0, 12, 0, 0xfe, 0xff, 0xff, 0xff,
        ];
        assert_eq!(bytes(&all), golden);
    }

    #[test]
    fn what_was_written_is_read() {
        let v4: IpAddr = "192.0.2.1".parse().unwrap();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        let all = Attributes::new()
            .u64(Attr::Incarnation, u64::MAX)
            .address(Attr::Address, v4)
            .string(Attr::ClusterName, "c")
            .u32(Attr::LsId, 3);
        let read = Attributes::parse(&bytes(&all)).unwrap();
        assert_eq!(read.get_u64(Attr::Incarnation).unwrap(), Some(u64::MAX));
        assert_eq!(read.get_address(Attr::Address).unwrap(), Some(v4));
        assert_eq!(
            read.get_string(Attr::ClusterName).unwrap().as_deref(),
            Some("c")
        );
        assert_eq!(read.get_u32(Attr::LsId).unwrap(), Some(3));
        assert_eq!(read.get_u32(Attr::Member).unwrap(), None);
        assert!(read.get_u32(Attr::Incarnation).is_err());
        let read =
            Attributes::parse(&bytes(&Attributes::new().address(Attr::Address, v6))).unwrap();
        assert_eq!(read.get_address(Attr::Address).unwrap(), Some(v6));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(read) = Attributes::parse(&bytes) {
                for kind in 0_u16..40 {
                    let _ = read.get_u64(kind);
                    let _ = read.get_string(kind);
                    let _ = read.get_address(kind);
                }
            }
        }
    }
}
