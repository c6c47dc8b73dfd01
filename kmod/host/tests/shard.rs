// SPDX-License-Identifier: GPL-2.0-only
//! One shard, message by message: what it sends, what it makes of answers, and what it shows.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use dlm_core::lockcore::arena::Walk;
use dlm_core::lockcore::errno::{EBADR, EINPROGRESS, ENOMEM};
use dlm_core::lockcore::flags::*;
use dlm_core::lockcore::hash::name_hash;
use dlm_core::lockcore::lkb::{LockId, Queue};
use dlm_core::lockcore::members::NodeId;
use dlm_core::lockcore::mode::Mode;
use dlm_core::lockcore::name::ResourceName;
use dlm_core::lockcore::shard::dump::{header, Format};
use dlm_core::lockcore::shard::{
    Completion, Config, Conversion, Drained, Effects, Received, Refused, Request, Shard,
};
use dlm_core::lockcore::wire::message::{Message, MessageKind};
use dlm_core::lockcore::wire::rcom::RcomLock;
use dlm_core::platform::fail;
use support::{members, name};

#[derive(Default)]
struct Sink {
    sent: Vec<(u32, Message<'static>, Vec<u8>)>,
    told: Vec<(u32, i32)>,
    released: Vec<u32>,
    blocked: Vec<(u32, Mode)>,
}

impl Effects for Sink {
    type Owner = u32;

    fn send(&mut self, to: NodeId, message: &Message<'_>) {
        let packet = message.encode(7, NodeId(1));
        let bytes = Box::leak(packet.parts().concat().into_boxed_slice());
        let message = Message::decode(bytes).unwrap();
        self.sent.push((to.0, message, message.extra.to_vec()));
    }

    fn complete(&mut self, owner: &mut u32, done: &Completion<'_>) {
        self.told.push((*owner, done.status.errno()));
    }

    fn blocking(&mut self, owner: &mut u32, mode: Mode) {
        self.blocked.push((*owner, mode));
    }

    fn release(&mut self, owner: u32) {
        self.released.push(owner);
    }
}

impl Sink {
    /// The kinds of messages sent since the last look, and to whom.
    fn sent(&mut self) -> Vec<(u32, MessageKind)> {
        self.sent.drain(..).map(|(to, m, _)| (to, m.kind)).collect()
    }
}

/// The shard of node 1 among nodes 1 to `count`.
fn shard(count: u32) -> (Shard<u32>, Sink) {
    let config = Config {
        shard: 0,
        shard_bits: 0,
        lvb_len: 8,
        toss_ms: 1000,
    };
    let ids: Vec<u32> = (1..=count).collect();
    let mut shard = Shard::new(config, members(1, &ids)).unwrap();
    let mut sink = Sink::default();
    shard.enable();
    assert_eq!(shard.drain_saved(0, 1, &mut sink), Drained::Done);
    (shard, sink)
}

/// A name whose directory node among nodes 1 to `count` is `node`.
fn name_of(node: u32, count: u32) -> ResourceName {
    let ids: Vec<u32> = (1..=count).collect();
    let members = members(1, &ids);
    (0..)
        .map(name)
        .find(|n| members.directory_node(name_hash(n.as_bytes())).0 == node)
        .unwrap()
}

fn asking(mode: Mode, flags: LockFlags, owner: u32) -> Request<'static, u32> {
    Request {
        mode: mode as i32,
        flags,
        pid: 42,
        user: true,
        wants_blocking: true,
        lvb: Some(&[0; 8]),
        owner,
    }
}

fn reply(kind: MessageKind, id: LockId, result: i32) -> Message<'static> {
    Message {
        remid: id.raw(),
        lkid: 900,
        result,
        ..Message::new(kind)
    }
}

#[test]
fn an_answer_that_no_operation_can_end_with_is_asked_again() {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(2, 2);
    let id = shard
        .request(0, &name, asking(Mode::Ex, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    assert_eq!(fx.sent(), [(2, MessageKind::Lookup)]);
    let odd = reply(MessageKind::RequestReply, id, ENOMEM);
    assert_eq!(shard.receive(0, NodeId(2), &odd, &mut fx), Received::Done);
    assert_eq!(fx.sent(), []);
    assert_eq!(shard.counts().odd_replies, 1);
    let at = shard.next_timeout().unwrap();
    shard.handle_timeout(at, &mut fx);
    assert_eq!(fx.sent(), [(2, MessageKind::Lookup)]);
    let fine = reply(MessageKind::RequestReply, id, 0);
    assert_eq!(shard.receive(at, NodeId(2), &fine, &mut fx), Received::Done);
    assert_eq!(fx.told, [(1, 0)]);
    // The same for a conversion.
    let up = Conversion {
        mode: Mode::Ex as i32,
        flags: LockFlags::NONE,
        pid: 42,
        wants_blocking: true,
        lvb: None,
    };
    shard.convert(at, id, up, |_| {}, &mut fx).unwrap();
    let odd = reply(MessageKind::ConvertReply, id, -16);
    shard.receive(at, NodeId(2), &odd, &mut fx);
    shard.handle_timeout(shard.next_timeout().unwrap(), &mut fx);
    let convert = (2, MessageKind::Convert);
    assert_eq!(fx.sent(), [convert, convert]);
    shard.check().unwrap();
}

/// The owner gives a queued request up while the master's grant and, behind it, a blocking callback
/// are on their way.
#[test]
fn a_lock_whose_grant_was_never_told_is_in_nobodys_way() {
    for told_first in [None, Some(Mode::Pr)] {
        let (mut shard, mut fx) = shard(2);
        let name = name_of(2, 2);
        let id = shard
            .request(
                0,
                &name,
                asking(told_first.unwrap_or(Mode::Ex), LockFlags::NONE, 1),
                &mut fx,
            )
            .unwrap();
        let result = if told_first.is_some() { 0 } else { EINPROGRESS };
        let answer = reply(MessageKind::RequestReply, id, result);
        shard.receive(0, NodeId(2), &answer, &mut fx);
        if told_first.is_some() {
            // The same for a conversion: it holds PR as far as it knows.
            let up = Conversion {
                mode: Mode::Ex as i32,
                flags: LockFlags::NONE,
                pid: 42,
                wants_blocking: true,
                lvb: None,
            };
            shard.convert(0, id, up, |_| {}, &mut fx).unwrap();
            let answer = reply(MessageKind::ConvertReply, id, EINPROGRESS);
            shard.receive(0, NodeId(2), &answer, &mut fx);
        }
        shard
            .unlock(0, id, FORCEUNLOCK, None, |_| {}, &mut fx)
            .unwrap();
        shard.receive(0, NodeId(2), &reply(MessageKind::Grant, id, 0), &mut fx);
        let blocking = |mode| Message {
            bastmode: Some(mode),
            ..reply(MessageKind::Bast, id, 0)
        };
        shard.receive(0, NodeId(2), &blocking(Mode::Pr), &mut fx);
        assert_eq!(fx.blocked, [], "{told_first:?}");
        shard.receive(0, NodeId(2), &blocking(Mode::Ex), &mut fx);
        let known = told_first.map(|_| (1, Mode::Ex));
        assert_eq!(fx.blocked, Vec::from_iter(known), "{told_first:?}");
    }
}

#[test]
fn an_empty_name_is_refused_from_everywhere() {
    assert!(ResourceName::new(b"").is_none());
    let (mut shard, mut fx) = shard(2);
    let asked = Message {
        lkid: 77,
        rqmode: Some(Mode::Ex),
        hash: name_hash(b""),
        extra: b"",
        ..Message::new(MessageKind::Request)
    };
    let received = shard.receive(0, NodeId(2), &asked, &mut fx);
    assert_eq!(received, Received::Dropped);
    let (_, answer, _) = &fx.sent[0];
    assert_eq!(
        (answer.kind, answer.result),
        (MessageKind::RequestReply, -22)
    );
    assert_eq!(shard.counts().resources, 0);
}

#[test]
fn without_quorum_nothing_is_granted_and_nothing_is_lost() {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(1, 2);
    let held = shard
        .request(0, &name, asking(Mode::Nl, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    assert_eq!(fx.told, [(1, 0)]);
    shard.set_quorate(false);
    // Neither to this node, in any operation,
    let up = || Conversion {
        mode: Mode::Ex as i32,
        flags: LockFlags::NONE,
        pid: 42,
        wants_blocking: true,
        lvb: None,
    };
    let new = shard.request(0, &name, asking(Mode::Ex, LockFlags::NONE, 2), &mut fx);
    assert_eq!(new.unwrap_err(), Refused::Blocked);
    let converted = shard.convert(0, held, up(), |_| {}, &mut fx);
    assert_eq!(converted.unwrap_err(), Refused::Blocked);
    let unlocked = shard.unlock(0, held, LockFlags::NONE, None, |_| {}, &mut fx);
    assert_eq!(unlocked.unwrap_err(), Refused::Blocked);
    // nor to another, which is as cut off as this one.
    let asked = Message {
        lkid: 77,
        rqmode: Some(Mode::Pr),
        asts: AST_BLOCKING,
        hash: name_hash(name.as_bytes()),
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Request)
    };
    assert_eq!(shard.receive(1, NodeId(2), &asked, &mut fx), Received::Done);
    assert_eq!(
        shard.next_timeout(),
        None,
        "nothing is tossed, nothing sent again"
    );
    assert_eq!(shard.drain_saved(1, 9, &mut fx), Drained::Done);
    assert_eq!((fx.sent(), fx.told.len()), (vec![], 1));
    assert_eq!(shard.counts().saved, 1);
    // Quorate again it goes on where it was.
    shard.set_quorate(true);
    assert_eq!(shard.drain_saved(2, 9, &mut fx), Drained::Done);
    assert_eq!(fx.sent(), [(2, MessageKind::RequestReply)]);
    shard.convert(2, held, up(), |_| {}, &mut fx).unwrap();
    assert_eq!(
        fx.sent(),
        [(2, MessageKind::Bast)],
        "the reader is in the way"
    );
    shard.check().unwrap();
}

#[test]
fn quorum_opens_nothing_that_is_stopped() {
    let (mut shard, mut fx) = shard(1);
    shard.set_quorate(false);
    shard.stop();
    shard.set_quorate(true);
    let new = shard.request(0, &name(1), asking(Mode::Ex, LockFlags::NONE, 1), &mut fx);
    assert_eq!(new.unwrap_err(), Refused::Blocked);
    shard.set_quorate(false);
    shard.enable();
    let new = shard.request(0, &name(1), asking(Mode::Ex, LockFlags::NONE, 1), &mut fx);
    assert_eq!(new.unwrap_err(), Refused::Blocked);
    shard.set_quorate(true);
    assert_eq!(shard.drain_saved(0, 1, &mut fx), Drained::Done);
    shard
        .request(0, &name(1), asking(Mode::Ex, LockFlags::NONE, 1), &mut fx)
        .unwrap();
}

#[test]
fn who_is_not_the_master_makes_the_owner_look_again() {
    let (mut shard, mut fx) = shard(3);
    let name = name_of(2, 3);
    let id = shard
        .request(0, &name, asking(Mode::Ex, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    let other = shard
        .request(0, &name, asking(Mode::Cr, LockFlags::NONE, 2), &mut fx)
        .unwrap();
    // One lock asks, the other one waits for it.
    assert_eq!(fx.sent(), [(2, MessageKind::Lookup)]);
    let answer = Message {
        lkid: id.raw(),
        nodeid: 3,
        ..Message::new(MessageKind::LookupReply)
    };
    shard.receive(0, NodeId(2), &answer, &mut fx);
    assert_eq!(fx.sent(), [(3, MessageKind::Request)]);
    shard.receive(
        0,
        NodeId(3),
        &reply(MessageKind::RequestReply, id, EBADR),
        &mut fx,
    );
    assert_eq!(fx.sent(), [(2, MessageKind::Lookup)]);
    let answer = Message {
        nodeid: 1,
        ..answer
    };
    shard.receive(0, NodeId(2), &answer, &mut fx);
    assert_eq!(fx.told, [(1, 0)]);
    assert_ne!(id, other);
    shard.check().unwrap();
}

/// The directory node names a master that does not know it: the link between those two is slow.
#[test]
fn who_is_sent_back_and_forth_pauses() {
    let (mut shard, mut fx) = shard(3);
    let id = shard
        .request(
            0,
            &name_of(2, 3),
            asking(Mode::Ex, LockFlags::NONE, 1),
            &mut fx,
        )
        .unwrap();
    assert_eq!(fx.sent(), [(2, MessageKind::Lookup)]);
    let named = Message {
        lkid: id.raw(),
        nodeid: 3,
        ..Message::new(MessageKind::LookupReply)
    };
    let bounced = reply(MessageKind::RequestReply, id, EBADR);
    for time in [1, 2] {
        shard.receive(time, NodeId(2), &named, &mut fx);
        assert_eq!(fx.sent(), [(3, MessageKind::Request)]);
        shard.receive(time, NodeId(3), &bounced, &mut fx);
        let asked_again = (time == 1).then_some((2, MessageKind::Lookup));
        assert_eq!(fx.sent(), Vec::from_iter(asked_again), "bounce {time}");
    }
    assert_eq!(shard.next_timeout(), Some(12));
    shard.handle_timeout(12, &mut fx);
    assert_eq!(fx.sent(), [(2, MessageKind::Lookup)]);
    shard.receive(13, NodeId(2), &named, &mut fx);
    let granted = reply(MessageKind::RequestReply, id, 0);
    shard.receive(14, NodeId(3), &granted, &mut fx);
    assert_eq!(fx.told, [(1, 0)]);
}

#[test]
fn messages_from_strangers_and_about_other_locks_change_nothing() {
    let (mut shard, mut fx) = shard(3);
    let name = name_of(1, 3);
    let id = shard
        .request(0, &name, asking(Mode::Pr, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    fx.told.clear();
    for kind in MessageKind::ALL {
        let m = Message {
            lkid: id.raw(),
            remid: id.raw(),
            rqmode: Some(Mode::Ex),
            bastmode: Some(Mode::Ex),
            ..Message::new(kind)
        };
        fx.sent.clear();
        // Not a member.
        assert_eq!(shard.receive(0, NodeId(9), &m, &mut fx), Received::Dropped);
        assert_eq!(fx.sent(), []);
        if !matches!(
            kind,
            MessageKind::Request | MessageKind::Lookup | MessageKind::Purge
        ) {
            shard.receive(0, NodeId(2), &m, &mut fx);
        }
    }
    assert_eq!(fx.told, []);
    assert_eq!(shard.counts().locks, 1);
    // A name that is too long, and a mode that is none.
    for (extra, rqmode) in [(&[b'x'; 65][..], Some(Mode::Nl)), (b"fine", None)] {
        let m = Message {
            extra,
            rqmode,
            ..Message::new(MessageKind::Request)
        };
        fx.sent.clear();
        assert_eq!(shard.receive(0, NodeId(2), &m, &mut fx), Received::Dropped);
        assert_eq!(fx.sent[0].1.result, -22);
    }
    shard.check().unwrap();
}

#[test]
fn random_messages_never_harm() {
    let mut random = support::Random::new(77);
    for _ in 0..200 {
        let (mut shard, mut fx) = shard(3);
        let mut names: Vec<ResourceName> = (0..3).map(name).collect();
        names.push(ResourceName::new(&[0]).unwrap());
        for owner in 0..6 {
            let (at, mode) = (random.below(4), random.mode());
            shard
                .request(0, &names[at], asking(mode, LockFlags::NONE, owner), &mut fx)
                .unwrap();
        }
        for _ in 0..200 {
            let lvb = random.next().to_le_bytes();
            let at = random.below(4);
            let kind = random.pick(&MessageKind::ALL);
            let extra = match random.below(3) {
                0 => &lvb[..],
                1 => names[at].as_bytes(),
                _ => &[],
            };
            let mode = |random: &mut support::Random| {
                let mode = random.mode();
                (!random.one_in(8)).then_some(mode)
            };
            let m = Message {
                nodeid: random.below(5) as i32 - 1,
                lkid: random.below(12) as u32,
                remid: random.below(12) as u32,
                exflags: LockFlags::from_raw(random.next() as u32),
                sbflags: StatusFlags::from_raw(random.below(8) as u8),
                flags: SharedFlags::from_raw(random.below(4) as u8),
                lvbseq: random.next() as u32,
                status: random.pick(&[Queue::None, Queue::Wait, Queue::Grant, Queue::Convert]),
                grmode: mode(&mut random),
                rqmode: mode(&mut random),
                bastmode: mode(&mut random),
                result: random.pick(&[
                    0,
                    -11,
                    -35,
                    -53,
                    -15,
                    EINPROGRESS,
                    -2,
                    ENOMEM,
                    -0x10001,
                    -0x10002,
                ]),
                extra,
                ..Message::new(kind)
            };
            let from = NodeId(2 + random.below(2) as u32);
            shard.receive(1, from, &m, &mut fx);
            assert!(!shard.is_broken());
        }
        shard.clear(&mut fx);
        assert_eq!(shard.counts().locks, 0);
        assert_eq!(shard.counts().resources, 0);
    }
}

#[test]
fn what_cannot_be_saved_is_refused_and_what_is_saved_waits() {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(1, 2);
    shard.stop();
    assert!(shard.is_blocked());
    let refused = shard.request(0, &name, asking(Mode::Ex, LockFlags::NONE, 1), &mut fx);
    assert_eq!(refused, Err(Refused::Blocked));
    let m = Message {
        lkid: 5,
        rqmode: Some(Mode::Ex),
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Request)
    };
    fail::after(Some(0));
    assert_eq!(shard.receive(0, NodeId(2), &m, &mut fx), Received::NoMemory);
    fail::after(None);
    assert_eq!(shard.counts().saved, 0);
    assert_eq!(shard.receive(0, NodeId(2), &m, &mut fx), Received::Done);
    assert_eq!(shard.counts().saved, 1);
    assert_eq!(fx.sent(), []);
    shard.begin(members(1, &[1, 2]), &[]);
    shard.drop_saved(&[]);
    shard.enable();
    fail::after(Some(0));
    assert_eq!(shard.drain_saved(0, 9, &mut fx), Drained::NoMemory);
    fail::after(None);
    assert_eq!(fx.sent(), []);
    assert_eq!(shard.drain_saved(0, 9, &mut fx), Drained::Done);
    assert_eq!(fx.sent(), [(2, MessageKind::RequestReply)]);
    assert_eq!(shard.counts().saved, 0);
}

#[test]
fn idle_resources_go_after_a_while_and_the_directory_is_told() {
    for (directory, expected) in [(1, vec![]), (2, vec![(2, MessageKind::Remove)])] {
        let (mut shard, mut fx) = shard(2);
        let name = name_of(directory, 2);
        let id = shard
            .request(0, &name, asking(Mode::Ex, LockFlags::NONE, 1), &mut fx)
            .unwrap();
        if directory == 2 {
            let answer = Message {
                lkid: id.raw(),
                nodeid: 1,
                ..Message::new(MessageKind::LookupReply)
            };
            shard.receive(0, NodeId(2), &answer, &mut fx);
        }
        shard
            .unlock(10, id, LockFlags::NONE, None, |_| {}, &mut fx)
            .unwrap();
        fx.sent();
        assert_eq!(shard.next_timeout(), Some(1010));
        shard.handle_timeout(1009, &mut fx);
        assert_eq!((shard.counts().resources, fx.sent()), (1, vec![]));
        shard.handle_timeout(1010, &mut fx);
        assert_eq!((shard.counts().resources, fx.sent()), (0, expected));
        assert_eq!(shard.next_timeout(), None);
    }
}

#[test]
fn the_directory_remembers_who_asked_first_until_it_is_told_otherwise() {
    let (mut shard, mut fx) = shard(3);
    let name = name_of(1, 3);
    let lookup = Message {
        lkid: 5,
        rqmode: Some(Mode::Ex),
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Lookup)
    };
    for from in [2, 3] {
        shard.receive(0, NodeId(from), &lookup, &mut fx);
        let (to, m, _) = fx.sent.pop().unwrap();
        assert_eq!(
            (to, m.kind, m.nodeid, m.lkid),
            (from, MessageKind::LookupReply, 2, 5)
        );
    }
    assert_eq!(shard.counts().records, 1);
    let remove = Message {
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Remove)
    };
    assert_eq!(
        shard.receive(0, NodeId(3), &remove, &mut fx),
        Received::Dropped
    );
    assert_eq!(shard.counts().records, 1);
    shard.receive(0, NodeId(2), &remove, &mut fx);
    assert_eq!(shard.counts().records, 0);
    // Not the directory node of this one.
    let other = name_of(3, 3);
    let lookup = Message {
        extra: other.as_bytes(),
        ..lookup
    };
    shard.receive(0, NodeId(2), &lookup, &mut fx);
    assert_eq!(fx.sent.pop().unwrap().1.nodeid, -1);
}

#[test]
fn orphans_are_adopted_by_name_and_mode_and_purged_by_process() {
    let (mut shard, mut fx) = shard(1);
    let name = name(0);
    let id = shard
        .request(0, &name, asking(Mode::Pr, PERSISTENT, 1), &mut fx)
        .unwrap();
    let waiting = shard
        .request(0, &name, asking(Mode::Ex, PERSISTENT, 2), &mut fx)
        .unwrap();
    shard.orphan(0, id, &mut fx).unwrap();
    assert_eq!(fx.released, [1]);
    // One that waited is gone.
    shard.orphan(0, waiting, &mut fx).unwrap();
    assert_eq!(fx.released, [1, 2]);
    assert_eq!(shard.counts().locks, 1);
    assert_eq!(shard.owner(id), None);
    let refused = shard.unlock(0, id, LockFlags::NONE, None, |_| {}, &mut fx);
    assert_eq!(refused, Err(Refused::NotFound));
    assert_eq!(
        shard.adopt(&name, asking(Mode::Ex, ORPHAN, 3)),
        Err(Refused::Again)
    );
    let unknown = support::name(1);
    assert_eq!(
        shard.adopt(&unknown, asking(Mode::Pr, ORPHAN, 3)),
        Err(Refused::NotFound)
    );
    fx.told.clear();
    assert_eq!(shard.adopt(&name, asking(Mode::Pr, ORPHAN, 3)), Ok(id));
    assert_eq!(fx.told, []);
    assert_eq!(shard.owner(id), Some(&3));
    shard.orphan(0, id, &mut fx).unwrap();
    shard.purge(0, 43, &mut fx);
    assert_eq!(shard.counts().locks, 1);
    let m = Shard::<u32>::purge_message(NodeId(1), 42);
    assert_eq!((m.nodeid, m.pid), (1, 42));
    shard.purge(0, 42, &mut fx);
    assert_eq!(shard.counts().locks, 0);
    shard.check().unwrap();
}

#[test]
fn an_image_that_makes_no_sense_is_refused() {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(1, 2);
    shard
        .request(0, &name, asking(Mode::Nl, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    shard.stop();
    shard.begin(members(1, &[1, 2]), &[]);
    let image = RcomLock {
        ownpid: 1,
        lkid: 5,
        remid: 0,
        exflags: LockFlags::NONE,
        flags: SharedFlags::NONE,
        lvbseq: 0,
        result: 0,
        rqmode: None,
        grmode: Some(Mode::Pr),
        status: Queue::Grant,
        asts: AST_COMPLETION | AST_BLOCKING,
        wait_type: 0,
        name,
        lvb: &[],
    };
    let mut rebuild = |image: &RcomLock<'_>| shard.rebuild(0, NodeId(2), image).unwrap().1;
    for wrong in [
        RcomLock {
            grmode: None,
            ..image
        },
        RcomLock {
            status: Queue::Convert,
            ..image
        },
        RcomLock {
            status: Queue::Wait,
            ..image
        },
        RcomLock {
            status: Queue::None,
            ..image
        },
    ] {
        assert_eq!(rebuild(&wrong), -22, "{wrong:?}");
    }
    let unknown = RcomLock {
        name: support::name(999),
        ..image
    };
    assert_eq!(rebuild(&unknown), EBADR);
    assert_eq!(rebuild(&image), 0);
    let mut walk = Walk::default();
    assert_eq!(shard.next_mastered(&mut walk), Some((name, NodeId(1))));
    assert_eq!(shard.next_mastered(&mut walk), None);
    assert!(shard.walk_behind(&name).is_some());
}

#[test]
fn listings_are_what_the_tools_read() {
    let (mut shard, mut fx) = shard(2);
    let here = name_of(1, 2);
    let there = name_of(2, 2);
    shard
        .request(1000, &here, asking(Mode::Pr, VALBLK, 1), &mut fx)
        .unwrap();
    let m = Message {
        lkid: 0x77,
        pid: 9,
        rqmode: Some(Mode::Ex),
        extra: here.as_bytes(),
        ..Message::new(MessageKind::Request)
    };
    shard.receive(1500, NodeId(2), &m, &mut fx);
    shard
        .request(2000, &there, asking(Mode::Cr, LockFlags::NONE, 2), &mut fx)
        .unwrap();
    let text = |format| {
        let mut out = header(format).to_string();
        shard
            .dump(3000, format, &|owner| u64::from(*owner) + 100, &mut out)
            .unwrap();
        out
    };
    let name = |n: &ResourceName| String::from_utf8(n.as_bytes().to_vec()).unwrap();
    let (here, there) = (name(&here), name(&there));
    let len = here.len();
    let locks = format!(
        "id nodeid remid pid xid exflags flags sts grmode rqmode time_us r_nodeid r_len r_name\n\
         1 0 0 42 101 8 1 2 3 -1 2000000 0 {len} \"{here}\"\n\
         2 2 77 9 0 0 10000 1 -1 5 1500000 0 {len} \"{here}\"\n"
    );
    assert_eq!(text(Format::Locks), locks);
    assert_eq!(text(Format::Waiters), format!("3 11 2 {there}\n"));
    let people = format!(
        "\nResource 0000000000000000 Name (len={len}) \"{here}\"\nMaster Copy\n\
         Granted Queue\n00000001 PR\nConversion Queue\n\
         Waiting Queue\n00000002 -- (EX) Remote:   2 00000077\n\
         \nResource 0000000000000001 Name (len={}) \"{there}\"\n\
         Looking up master (lkid 3)\n\
         Granted Queue\nConversion Queue\nWaiting Queue\n",
        there.len()
    );
    assert_eq!(text(Format::Resources), people);
    let all = text(Format::All);
    assert!(all.starts_with("version rsb 1.1 lvb 1.1 lkb 1.1\nrsb 0000000000000000 0 0 200 0 0 0 "));
    assert_eq!(all.matches("\nlkb ").count(), 2);
    assert_eq!(text(Format::Idle), header(Format::Idle));
}

/// Node 2 has a lock here, of which it knows as 0x77, in this mode.
fn with_lock_of_node_2(mode: Mode) -> (Shard<u32>, Sink, ResourceName) {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(1, 2);
    let m = Message {
        lkid: 0x77,
        rqmode: Some(mode),
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Request)
    };
    shard.receive(0, NodeId(2), &m, &mut fx);
    assert_eq!(fx.sent.pop().unwrap().1.result, 0);
    (shard, fx, name)
}

#[test]
fn another_mode_than_asked_for_is_granted_by_a_message_that_can_say_so() {
    let (mut shard, mut fx, name) = with_lock_of_node_2(Mode::Nl);
    shard
        .request(0, &name, asking(Mode::Pr, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    let m = Message {
        lkid: 0x77,
        remid: 1,
        exflags: ALTPR,
        grmode: Some(Mode::Nl),
        rqmode: Some(Mode::Cw),
        ..Message::new(MessageKind::Convert)
    };
    shard.receive(0, NodeId(2), &m, &mut fx);
    let said: Vec<_> = fx
        .sent
        .iter()
        .map(|(_, m, _)| (m.kind, m.result, m.sbflags))
        .collect();
    let expected = [
        (MessageKind::ConvertReply, EINPROGRESS, StatusFlags::NONE),
        (MessageKind::Grant, 0, SBF_ALTMODE),
    ];
    assert_eq!(said, expected);
    shard.check().unwrap();
}

#[test]
fn a_mode_given_up_on_the_master_is_given_up_by_the_owner() {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(2, 2);
    let id = shard
        .request(0, &name, asking(Mode::Pr, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    shard.receive(
        0,
        NodeId(2),
        &reply(MessageKind::RequestReply, id, 0),
        &mut fx,
    );
    let up = Conversion {
        mode: Mode::Ex as i32,
        flags: CONVDEADLK,
        pid: 42,
        wants_blocking: true,
        lvb: None,
    };
    shard.convert(0, id, up, |_| {}, &mut fx).unwrap();
    let demoted = Message {
        sbflags: SBF_DEMOTED,
        ..reply(MessageKind::ConvertReply, id, EINPROGRESS)
    };
    shard.receive(0, NodeId(2), &demoted, &mut fx);
    let mut out = String::new();
    shard.dump(0, Format::Locks, &|_| 0, &mut out).unwrap();
    // Converting from NL to EX.
    assert!(out.contains(" 1 3 0 5 0 "), "{out}");
}

#[test]
fn the_directory_goes_by_its_own_request_until_somebody_says_who_the_master_is() {
    let (mut shard, mut fx) = shard(3);
    let name = name_of(1, 3);
    let lookup = Message {
        lkid: 5,
        rqmode: Some(Mode::Cr),
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Lookup)
    };
    shard.receive(0, NodeId(2), &lookup, &mut fx);
    shard
        .request(0, &name, asking(Mode::Cr, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    let kinds = [(2, MessageKind::LookupReply), (2, MessageKind::Request)];
    let id = LockId::from_raw(fx.sent[1].1.lkid);
    assert_eq!(fx.sent(), kinds);
    // A recovery forgets the record, and node 2, which has no lock on it yet, does not renew it.
    shard.stop();
    shard.begin(members(1, &[1, 2, 3]), &[]);
    shard.waiters_first_pass(0, &[], &mut fx);
    shard.enable();
    assert_eq!(shard.drain_saved(0, 9, &mut fx), Drained::Done);
    shard.resend_waiters(0, &mut fx);
    assert_eq!(shard.counts().records, 0);
    shard.receive(0, NodeId(3), &lookup, &mut fx);
    assert_eq!(fx.sent.pop().unwrap().1.nodeid, 2);
    assert_eq!(shard.counts().records, 0);
    // Now it is certain, and outlasts the lock.
    let taken = reply(MessageKind::RequestReply, id, 0);
    shard.receive(0, NodeId(2), &taken, &mut fx);
    assert_eq!(shard.counts().records, 1);
    shard.check().unwrap();
}

#[test]
fn a_request_from_before_a_recovery_makes_nobody_master() {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(2, 2);
    let m = Message {
        lkid: 5,
        rqmode: Some(Mode::Ex),
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Request)
    };
    shard.stop();
    shard.receive(0, NodeId(2), &m, &mut fx);
    shard.begin(members(1, &[1, 2]), &[]);
    shard.enable();
    assert_eq!(shard.drain_saved(0, 9, &mut fx), Drained::Done);
    assert_eq!(fx.sent.pop().unwrap().1.result, EBADR);
    assert_eq!(shard.counts().resources, 0);
    // Sent again by the directory node of now.
    shard.receive(0, NodeId(2), &m, &mut fx);
    assert_eq!(fx.sent.pop().unwrap().1.result, 0);
}

#[test]
fn a_master_from_memory_is_asked_by_one_lock_at_a_time() {
    let (mut shard, mut fx) = shard(3);
    let name = name_of(2, 3);
    let ask = |shard: &mut Shard<u32>, fx: &mut Sink| {
        shard
            .request(0, &name, asking(Mode::Cr, LockFlags::NONE, 1), fx)
            .unwrap()
    };
    let id = ask(&mut shard, &mut fx);
    let answer = Message {
        lkid: id.raw(),
        nodeid: 3,
        ..Message::new(MessageKind::LookupReply)
    };
    shard.receive(0, NodeId(2), &answer, &mut fx);
    let taken = reply(MessageKind::RequestReply, id, 0);
    shard.receive(0, NodeId(3), &taken, &mut fx);
    shard
        .unlock(0, id, LockFlags::NONE, None, |_| {}, &mut fx)
        .unwrap();
    let ended = reply(MessageKind::UnlockReply, id, -0x10002);
    shard.receive(0, NodeId(3), &ended, &mut fx);
    assert_eq!((shard.counts().locks, shard.counts().resources), (0, 1));
    fx.sent();
    let first = ask(&mut shard, &mut fx);
    ask(&mut shard, &mut fx);
    assert_eq!(fx.sent(), [(3, MessageKind::Request)]);
    let taken = reply(MessageKind::RequestReply, first, 0);
    shard.receive(0, NodeId(3), &taken, &mut fx);
    assert_eq!(fx.sent(), [(3, MessageKind::Request)]);
    shard.check().unwrap();
}

#[test]
fn an_owner_that_does_not_know_of_its_grant_does_not_write() {
    let (mut shard, mut fx, name) = with_lock_of_node_2(Mode::Ex);
    for (grmode, expected) in [(None, 0), (Some(Mode::Ex), 1)] {
        let m = Message {
            lkid: 0x77,
            remid: 1,
            exflags: VALBLK | FORCEUNLOCK,
            grmode,
            extra: &[5; 8],
            ..Message::new(MessageKind::Unlock)
        };
        // Keeps the resource and its value block alive.
        let ask = asking(Mode::Nl, EXPEDITE | VALBLK, 1);
        let id = shard.request(0, &name, ask, &mut fx).unwrap();
        shard.receive(0, NodeId(2), &m, &mut fx);
        let mut all = String::new();
        shard.dump(0, Format::All, &|_| 0, &mut all).unwrap();
        assert_eq!(all.matches("lvb 1 8 05 05").count(), expected, "{all}");
        shard
            .unlock(0, id, LockFlags::NONE, None, |_| {}, &mut fx)
            .unwrap();
        let m = Message {
            lkid: 0x77,
            rqmode: Some(Mode::Ex),
            extra: name.as_bytes(),
            ..Message::new(MessageKind::Request)
        };
        shard.receive(0, NodeId(2), &m, &mut fx);
    }
}

#[test]
fn a_lock_from_an_interrupted_recovery_is_not_taken_in_twice() {
    let (mut shard, mut fx) = shard(2);
    let name = name_of(1, 2);
    shard
        .request(0, &name, asking(Mode::Nl, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    let image = RcomLock {
        ownpid: 1,
        lkid: 5,
        remid: 0,
        exflags: LockFlags::NONE,
        flags: SharedFlags::NONE,
        lvbseq: 0,
        result: 0,
        rqmode: None,
        grmode: Some(Mode::Ex),
        status: Queue::Grant,
        asts: AST_COMPLETION | AST_BLOCKING,
        wait_type: 0,
        name,
        lvb: &[],
    };
    let mut known = 0;
    for expected in [0, -17, -17] {
        shard.stop();
        shard.begin(members(1, &[1, 2]), &[]);
        let (id, result) = shard.rebuild(0, NodeId(2), &image).unwrap();
        assert_eq!(result, expected);
        assert!(known == 0 || known == id);
        known = id;
    }
    shard.repair().unwrap();
    assert_eq!(shard.counts().locks, 2);
    shard.check().unwrap();
}

#[test]
fn who_was_called_master_stays_it_when_the_directory_node_forgets_the_resource() {
    let (mut shard, mut fx) = shard(4);
    let all = [members(1, &[1, 2, 3, 4]), members(1, &[1, 2, 3])];
    let is_ours = |name: &ResourceName| {
        let hash = name_hash(name.as_bytes());
        all.iter()
            .all(|members| members.directory_node(hash) == NodeId(1))
    };
    let name = (0..).map(name).find(is_ours).unwrap();
    let lookup = Message {
        lkid: 7,
        extra: name.as_bytes(),
        ..Message::new(MessageKind::Lookup)
    };
    shard.receive(0, NodeId(4), &lookup, &mut fx);
    let id = shard
        .request(0, &name, asking(Mode::Nl, LockFlags::NONE, 1), &mut fx)
        .unwrap();
    let taken = reply(MessageKind::RequestReply, id, 0);
    shard.receive(0, NodeId(4), &taken, &mut fx);
    shard
        .unlock(0, id, LockFlags::NONE, None, |_| {}, &mut fx)
        .unwrap();
    // Node 2 has the answer, or loses it with an attempt that is given up.
    for _attempt in 0..2 {
        shard.stop();
        shard.begin(all[1].clone(), &[NodeId(4)]);
        assert_eq!(shard.claim_or_lookup(&name, NodeId(2)), Ok(NodeId(2)));
    }
    // The unlock was sent to a node that is gone: that was the last lock here.
    shard.waiters_first_pass(0, &[NodeId(4)], &mut fx);
    assert_eq!(shard.counts().resources, 0);
    assert_eq!(shard.claim_or_lookup(&name, NodeId(3)), Ok(NodeId(2)));
    shard.check().unwrap();
}
