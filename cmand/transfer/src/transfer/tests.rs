// SPDX-License-Identifier: GPL-2.0-only
//! Each rule by itself; all of them together, at random, in `model.rs`.

use super::*;

mod model;

const N1: NodeId = NodeId(1);
const N2: NodeId = NodeId(2);
const N3: NodeId = NodeId(3);

const LIMITS: Limits = Limits {
    heard: 4,
    heard_bytes: 100,
    parts: 3,
    snapshot_bytes: 50,
};

type Member = Transfer<u32, u32>;

fn view(number: u64, members: &[u32], joined: &[u32]) -> GroupView {
    let nodes = |nodes: &[u32]| nodes.iter().copied().map(NodeId).collect();
    GroupView {
        group: "g".to_owned(),
        number,
        view: 1,
        members: nodes(members),
        joined: nodes(joined),
        departed: Vec::new(),
        lost: Vec::new(),
    }
}

fn mark(group_view: u64, asks: u32) -> Mark {
    Mark { group_view, asks }
}

fn part(as_of: Mark, index: u32, count: u32) -> Part<u32> {
    Part {
        as_of,
        index,
        count,
        content: 100 + index,
    }
}

fn nothing() -> Turn<u32, u32> {
    Turn {
        begin: None,
        offer: None,
    }
}

/// A node that founded the group alone.
fn founder(node: u32) -> Member {
    let mut member = Member::new(NodeId(node), LIMITS);
    let turn = member.handle_group(&view(1, &[node], &[node]));
    assert_eq!(turn.begin, Some(Begin::Founded { heard: vec![] }));
    assert_eq!(turn.offer, None, "there is nobody to send it to");
    member
}

/// Node 2 that joins in view 2 where node 1 is.
fn joiner() -> Member {
    let mut member = Member::new(N2, LIMITS);
    assert_eq!(member.handle_group(&view(2, &[1, 2], &[2])), nothing());
    member
}

/// A snapshot in one part is on its way.
fn sends(member: &mut Member, as_of: Mark) {
    let parts = member.cut(as_of, vec![(100, 1)]).unwrap();
    assert_eq!(parts, [part(as_of, 0, 1)]);
}

fn knowing(member: &Member) -> Vec<u32> {
    member.knowing().map(|node| node.0).collect()
}

#[test]
fn who_is_alone_founds() {
    let mut member = founder(1);
    assert!(member.is_known());
    assert_eq!(knowing(&member), [1]);
    assert_eq!(member.hear(7, 1), Hearing::Apply(7));
}

#[test]
fn outside_the_group_nothing_is_kept() {
    let mut member = Member::new(N2, LIMITS);
    assert_eq!(member.hear(7, 1), Hearing::Missed);
    assert_eq!(member.handle_group(&view(1, &[1], &[1])), nothing());
    assert_eq!(member.take(N1, part(mark(1, 0), 0, 1), 1), None);
    assert_eq!(member.handle_ask(N1), nothing());
    assert!(!member.is_known());
}

#[test]
fn those_who_join_together_found_together() {
    for node in [1, 2] {
        let mut member = Member::new(NodeId(node), LIMITS);
        let turn = member.handle_group(&view(1, &[1, 2], &[1, 2]));
        assert_eq!(turn.begin, Some(Begin::Founded { heard: vec![] }));
        assert_eq!(turn.offer, None);
        assert_eq!(knowing(&member), [1, 2]);
    }
}

#[test]
fn what_is_heard_after_the_mark_is_applied_on_top() {
    let mut member = joiner();
    assert_eq!(member.hear(1, 1), Hearing::Kept);
    assert_eq!(member.hear(2, 1), Hearing::Kept);
    let adopted = Begin::Adopted {
        parts: vec![100],
        heard: vec![1, 2],
    };
    assert_eq!(member.take(N1, part(mark(2, 0), 0, 1), 1), Some(adopted));
    assert_eq!(member.hear(3, 1), Hearing::Apply(3));
    assert_eq!(knowing(&member), [1, 2]);
}

#[test]
fn what_a_later_snapshot_shows_is_not_applied_again() {
    let mut member = joiner();
    member.hear(1, 1);
    member.handle_group(&view(3, &[1, 2, 3], &[3]));
    member.hear(2, 1);
    let adopted = Begin::Adopted {
        parts: vec![100],
        heard: vec![2],
    };
    assert_eq!(member.take(N1, part(mark(3, 0), 0, 1), 1), Some(adopted));
    assert_eq!(knowing(&member), [1, 2, 3]);
}

#[test]
fn a_snapshot_for_those_before_serves_only_them() {
    let mut member = Member::new(N3, LIMITS);
    member.handle_group(&view(3, &[1, 2, 3], &[3]));
    assert_eq!(member.take(N1, part(mark(2, 0), 0, 1), 1), None);
    assert!(!member.is_known());
    assert!(member.take(N1, part(mark(3, 0), 0, 1), 1).is_some());
}

#[test]
fn the_lowest_who_knows_sends_and_the_next_if_it_is_gone() {
    let mut first = founder(1);
    let turn = first.handle_group(&view(2, &[1, 2], &[2]));
    assert_eq!(turn.offer, Some(mark(2, 0)));
    sends(&mut first, mark(2, 0));
    first.take(N1, part(mark(2, 0), 0, 1), 1);
    let mut second = joiner();
    second.take(N1, part(mark(2, 0), 0, 1), 1);
    let third = view(3, &[1, 2, 3], &[3]);
    assert_eq!(first.handle_group(&third).offer, Some(mark(3, 0)));
    assert_eq!(second.handle_group(&third), nothing());
    // Node 1 is gone before it has sent it, or with parts of it sent.
    second.take(N1, part(mark(3, 0), 0, 2), 1);
    let turn = second.handle_group(&view(4, &[2, 3], &[]));
    assert_eq!(turn.offer, Some(mark(4, 0)));
    assert!(second.partial.is_empty(), "its rest will not come");
    assert_eq!(second.take(N1, part(mark(3, 0), 1, 2), 1), None);
    assert_eq!(knowing(&second), [2]);
}

#[test]
fn what_is_on_its_way_is_not_sent_again() {
    let mut first = founder(1);
    let offer = first.handle_group(&view(2, &[1, 2], &[2])).offer.unwrap();
    sends(&mut first, offer);
    // The group changes, but nobody is owed more than what was sent.
    assert_eq!(first.handle_group(&view(3, &[1, 2], &[])), nothing());
    let third = view(4, &[1, 2, 3], &[3]);
    assert_eq!(first.handle_group(&third).offer, Some(mark(4, 0)));
}

#[test]
fn a_snapshot_that_could_not_be_sent_is_owed_at_the_next_mark() {
    let mut first = founder(1);
    let offer = first.handle_group(&view(2, &[1, 2], &[2])).offer.unwrap();
    for parts in [vec![], vec![(5, 1); 4], vec![(5, 26), (5, 25)]] {
        let large = TooLarge {
            parts: parts.len(),
            bytes: parts.iter().map(|(_, bytes)| bytes).sum(),
        };
        assert_eq!(first.cut(offer, parts).err(), Some(large));
    }
    assert_eq!(first.handle_ask(N2).offer, Some(mark(2, 1)));
}

#[test]
fn a_joiner_founds_when_all_who_knew_are_gone() {
    let mut second = joiner();
    second.hear(1, 1);
    let mut third = Member::new(N3, LIMITS);
    for member in [&mut second, &mut third] {
        assert_eq!(member.handle_group(&view(3, &[1, 2, 3], &[3])), nothing());
        member.hear(2, 1);
    }
    let gone = view(4, &[2, 3], &[]);
    let turn = second.handle_group(&gone);
    assert_eq!(turn.begin, Some(Begin::Founded { heard: vec![1, 2] }));
    assert_eq!(turn.offer, Some(mark(4, 0)));
    // The third took it for one who knows, and waits.
    assert_eq!(third.handle_group(&gone), nothing());
    let adopted = Begin::Adopted {
        parts: vec![100],
        heard: vec![],
    };
    assert_eq!(third.take(N2, part(mark(4, 0), 0, 1), 1), Some(adopted));
    // Or it is gone as well.
    let mut third = Member::new(N3, LIMITS);
    third.handle_group(&view(3, &[1, 2, 3], &[3]));
    let turn = third.handle_group(&view(4, &[3], &[]));
    assert_eq!(turn.begin, Some(Begin::Founded { heard: vec![] }));
}

#[test]
fn parts_make_a_snapshot_in_their_order_only() {
    let as_of = mark(2, 0);
    let mut member = joiner();
    assert_eq!(member.take(N1, part(as_of, 1, 3), 1), None, "no beginning");
    assert_eq!(member.take(N1, part(as_of, 0, 3), 1), None);
    for wrong in [
        part(as_of, 0, 3),
        part(as_of, 2, 3),
        part(as_of, 1, 2),
        part(mark(2, 1), 1, 3),
    ] {
        assert_eq!(member.take(N1, wrong, 1), None);
    }
    assert_eq!(member.take(N3, part(as_of, 1, 3), 1), None, "a stranger's");
    assert_eq!(member.take(N2, part(as_of, 1, 3), 1), None, "its own");
    assert_eq!(member.take(N1, part(as_of, 1, 3), 1), None);
    let Some(Begin::Adopted { parts, .. }) = member.take(N1, part(as_of, 2, 3), 1) else {
        panic!("it is whole");
    };
    assert_eq!(parts, [100, 101, 102]);
    // Doubled.
    for index in 0..3 {
        assert_eq!(member.take(N1, part(as_of, index, 3), 1), None);
    }
    assert_eq!(knowing(&member), [1, 2]);
}

#[test]
fn an_old_snapshot_does_not_make_others_forget_who_knows() {
    let mut member = joiner();
    member.handle_group(&view(3, &[1, 2, 3], &[3]));
    member.take(N1, part(mark(3, 0), 0, 1), 1);
    assert_eq!(knowing(&member), [1, 2, 3]);
    member.take(N2, part(mark(2, 0), 0, 1), 1);
    assert_eq!(knowing(&member), [1, 2, 3]);
}

#[test]
fn a_snapshot_of_a_place_to_come_is_none() {
    let mut member = joiner();
    for as_of in [mark(3, 0), mark(2, 1)] {
        assert_eq!(member.take(N1, part(as_of, 0, 1), 1), None);
    }
    assert!(!member.is_known());
}

#[test]
fn a_snapshot_beyond_the_limits_is_none_and_counts_nowhere() {
    let mut member = joiner();
    let as_of = mark(2, 0);
    for count in [0, LIMITS.parts + 1, u32::MAX] {
        assert_eq!(member.take(N1, part(as_of, 0, count), 1), None);
        assert!(member.partial.is_empty());
    }
    assert_eq!(member.take(N1, part(as_of, 0, 2), 26), None);
    assert_eq!(member.take(N1, part(as_of, 1, 2), 25), None);
    assert!(!member.is_known() && member.partial.is_empty());
    let mut other = founder(1);
    other.handle_group(&view(2, &[1, 2], &[2]));
    other.take(N1, part(as_of, 0, 2), 26);
    other.take(N1, part(as_of, 1, 2), 25);
    assert_eq!(knowing(&other), [1]);
}

#[test]
fn who_needs_no_snapshot_keeps_none() {
    let mut member = founder(1);
    member.handle_group(&view(2, &[1, 2], &[2]));
    member.take(N1, part(mark(2, 0), 0, 2), 1);
    assert!(member.partial[&N1].contents.is_empty());
    member.take(N1, part(mark(2, 0), 1, 2), 1);
    assert_eq!(knowing(&member), [1, 2]);
}

/// A joiner that has given up, for too many messages or too large ones.
fn behind(bytes: usize, heard: usize) -> Member {
    let mut member = joiner();
    for message in 0..heard {
        assert_eq!(member.hear(message as u32, bytes), Hearing::Kept);
    }
    let kept = bytes * heard;
    let gave_up = Hearing::GaveUp { heard, bytes: kept };
    assert_eq!(member.hear(99, bytes), gave_up);
    assert_eq!(member.hear(99, bytes), Hearing::Missed, "once is enough");
    member
}

#[test]
fn a_joiner_beyond_its_limits_asks_anew_and_misses_nothing() {
    for mut member in [behind(1, 4), behind(50, 2)] {
        // The snapshot it gave up is no use to it, although others count it.
        assert_eq!(member.take(N1, part(mark(2, 0), 0, 1), 1), None);
        assert!(!member.is_known());
        assert_eq!(member.handle_ask(N2), nothing());
        assert_eq!(knowing(&member), [1]);
        assert_eq!(member.hear(7, 1), Hearing::Kept);
        // One from before the ask does not show what it forgot.
        assert_eq!(member.take(N1, part(mark(2, 0), 0, 1), 1), None);
        let adopted = Begin::Adopted {
            parts: vec![100],
            heard: vec![7],
        };
        assert_eq!(member.take(N1, part(mark(2, 1), 0, 1), 1), Some(adopted));
    }
}

#[test]
fn an_ask_is_answered_as_of_the_ask() {
    let mut first = founder(1);
    let offer = first.handle_group(&view(2, &[1, 2], &[2])).offer.unwrap();
    sends(&mut first, offer);
    first.take(N1, part(offer, 0, 1), 1);
    assert_eq!(knowing(&first), [1, 2]);
    assert_eq!(first.handle_ask(N2).offer, Some(mark(2, 1)));
    assert_eq!(knowing(&first), [1]);
    assert_eq!(first.handle_ask(N3), nothing(), "no member");
}

#[test]
fn who_gave_up_does_not_found_and_others_do() {
    let mut second = behind(1, 4);
    let mut third = Member::new(N3, LIMITS);
    let with_third = view(3, &[1, 2, 3], &[3]);
    second.handle_group(&with_third);
    third.handle_group(&with_third);
    // Node 1 is gone. Node 2 has the earliest mark, but not what was said since.
    let gone = view(4, &[2, 3], &[]);
    assert_eq!(second.handle_group(&gone), nothing());
    assert_eq!(third.handle_group(&gone), nothing());
    third.hear(1, 1);
    assert_eq!(second.handle_ask(N2), nothing());
    let turn = third.handle_ask(N2);
    assert_eq!(turn.begin, Some(Begin::Founded { heard: vec![1] }));
    assert_eq!(turn.offer, Some(mark(4, 1)));
    assert!(second.take(N3, part(mark(4, 1), 0, 1), 1).is_some());
}

#[test]
fn who_joins_again_begins_again() {
    let mut member = founder(2);
    assert_eq!(member.handle_group(&view(2, &[], &[])), nothing());
    assert!(!member.is_known());
    assert_eq!(member.handle_group(&view(5, &[1, 2], &[2])), nothing());
    assert_eq!(member.hear(1, 1), Hearing::Kept);
    assert_eq!(knowing(&member), [1]);
}

#[test]
fn a_member_that_left_and_joined_in_one_view_knows_nothing() {
    let mut first = founder(1);
    let offer = first.handle_group(&view(2, &[1, 2], &[2])).offer.unwrap();
    sends(&mut first, offer);
    first.take(N1, part(offer, 0, 1), 1);
    let turn = first.handle_group(&view(3, &[1, 2], &[2]));
    assert_eq!(turn.offer, Some(mark(3, 0)));
    assert_eq!(knowing(&first), [1]);
}
