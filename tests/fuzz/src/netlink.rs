// SPDX-License-Identifier: GPL-2.0-only
//! Attributes of netlink messages, as the module and the daemons read them.

use dlm_uapi::netlink::Attr;
use dlm_uapi::netlink::MemberAttr;
use dlm_uapi::netlink::attributes::Attributes;
use dlm_uapi::netlink::attributes::Writer;

/// Levels of nesting that are looked into.
const DEPTH: u32 = 4;

/// One list of attributes.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    look(Attributes::new(data), data, DEPTH);
    let list = Attributes::new(data);
    for attr in [Attr::LsName, Attr::NodeId, Attr::Member, Attr::Address] {
        let _ = list.find(attr);
        for found in list.all(attr) {
            let member = found.nested();
            let _ = member.find_member(MemberAttr::Weight);
        }
    }
}

fn look(list: Attributes<'_>, bytes: &[u8], depth: u32) {
    let mut before = None;
    for (number, attribute) in list.enumerate() {
        assert!(
            number <= bytes.len() / 4,
            "more attributes than there is room for"
        );
        assert!(before < Some(attribute.offset), "no way on");
        before = Some(attribute.offset);
        assert!(attribute.offset + 4 + attribute.value.len() <= bytes.len());
        let numbers = (
            attribute.u8(),
            attribute.u32(),
            attribute.i32(),
            attribute.u64(),
        );
        assert!(!attribute.text().contains(&0));
        assert!(
            !crate::is_planted() || depth == DEPTH || numbers.1 != Some(0x0102_0304),
            "planted: a number inside another attribute"
        );
        if depth > 0 {
            look(attribute.nested(), attribute.value, depth - 1);
        }
    }
}

/// Lists as the daemons write them.
///
/// # Panics
/// There is no room, which there is.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut room = [0; 512];
    let write = |writer: &mut Writer<'_>| {
        writer.text(Attr::LsName, b"space")?;
        writer.u32(Attr::NodeId, 7)?;
        writer.u64(Attr::Incarnation, 1 << 40)?;
        writer.nest(
            Attr::Member,
            &[(MemberAttr::NodeId, 1), (MemberAttr::Weight, 1)],
        )?;
        writer.bytes(Attr::Address, &[10, 0, 0, 1])
    };
    let mut writer = Writer::new(&mut room);
    write(&mut writer).expect("there is room");
    let whole = writer.written().to_vec();
    let cut = whole[..whole.len() - 3].to_vec();
    vec![whole[..8].to_vec(), cut, whole]
}
