// SPDX-License-Identifier: GPL-2.0-only
//! Many members, an order they all follow at their own pace, and random joins, failures and
//! messages. A seed decides everything.

use std::collections::VecDeque;

use super::*;

const NODES: u32 = 5;

/// Seeds of one run of the tests.
const SEEDS: u64 = 3_000;

/// Small, so that they are met.
const SMALL: Limits = Limits {
    heard: 6,
    heard_bytes: 1_000,
    parts: 200,
    snapshot_bytes: 10_000,
};

/// How many messages one part of a snapshot names.
const PER_PART: usize = 3;

/// The messages applied so far.
type State = Vec<u64>;

#[derive(Debug, Clone)]
enum Said {
    Message(u64),
    Part(Part<State>),
    Ask,
}

#[derive(Debug, Clone)]
enum Event {
    Group(GroupView),
    Said(NodeId, Said),
}

/// A mistake planted in what the members are told, or in what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// A joiner forgets the first thing it wrote down.
    HeardForgotten,
    /// A snapshot lacks the last message before its mark.
    SnapshotShort,
    /// The ask of one who gave up gets lost.
    AskLost,
    /// One who knows does not send.
    SenderSilent,
}

struct Life {
    begun: usize,
    ended: Option<usize>,
    /// Where it came to know the state.
    known: Option<usize>,
}

struct Member {
    /// Tells lives of a node apart.
    life: u64,
    transfer: Transfer<u64, State>,
    state: State,
    /// The next event it will be told.
    next: usize,
    out: VecDeque<Said>,
}

struct World {
    random: u64,
    planted: Planted,
    order: Vec<Event>,
    members: BTreeMap<NodeId, Member>,
    /// Who is in the group after the last event.
    group: BTreeSet<NodeId>,
    messages: u64,
    /// What the state is before each event, as the first member that came there has it.
    truth: BTreeMap<usize, State>,
    lives: BTreeMap<u64, Life>,
    /// Which life founded where.
    founded: Vec<(u64, usize)>,
    gave_up: u32,
}

type Checked = Result<(), String>;

impl World {
    fn new(seed: u64, planted: Planted) -> Self {
        Self {
            random: seed,
            planted,
            order: Vec::new(),
            members: BTreeMap::new(),
            group: BTreeSet::new(),
            messages: 0,
            truth: BTreeMap::new(),
            lives: BTreeMap::new(),
            founded: Vec::new(),
            gave_up: 0,
        }
    }

    /// The next random number (splitmix64) below a limit.
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn group_event(&mut self, joined: &[u32]) {
        let number = self.order.len() as u64 + 1;
        let members: Vec<u32> = self.group.iter().map(|node| node.0).collect();
        self.order
            .push(Event::Group(view(number, &members, joined)));
    }

    fn join(&mut self, node: NodeId) {
        let begun = self.order.len();
        let life = self.lives.len() as u64 + 1;
        let member = Member {
            life,
            transfer: Transfer::new(node, SMALL),
            state: State::new(),
            next: begun,
            out: VecDeque::new(),
        };
        let known = Life {
            begun,
            ended: None,
            known: None,
        };
        self.lives.insert(life, known);
        self.members.insert(node, member);
        self.group.insert(node);
        self.group_event(&[node.0]);
    }

    /// It is gone with what has no place in the order yet; the others hear of that later.
    fn depart(&mut self, node: NodeId) {
        let member = self.members.remove(&node).unwrap();
        self.lives.get_mut(&member.life).unwrap().ended = Some(self.order.len());
        self.group.remove(&node);
        self.group_event(&[]);
    }

    /// What a member said first gets its place in the order.
    fn deliver(&mut self, node: NodeId) {
        let said = self.members.get_mut(&node).and_then(|m| m.out.pop_front());
        match said {
            Some(Said::Ask) if self.planted == Planted::AskLost => {}
            Some(said) => self.order.push(Event::Said(node, said)),
            None => {}
        }
    }

    /// A member is told the next event.
    fn step(&mut self, node: NodeId) -> Checked {
        let member = self.members.get_mut(&node).unwrap();
        let at = member.next;
        let Some(event) = self.order.get(at).cloned() else {
            return Ok(());
        };
        member.next += 1;
        match event {
            Event::Group(group) => {
                let turn = member.transfer.handle_group(&group);
                self.turn(node, at, turn);
            }
            Event::Said(from, Said::Ask) => {
                let turn = member.transfer.handle_ask(from);
                self.turn(node, at, turn);
            }
            Event::Said(from, Said::Part(part)) => {
                let bytes = part.content.len() + 1;
                let begin = member.transfer.take(from, part, bytes);
                self.begin(node, at, begin);
            }
            Event::Said(_, Said::Message(number)) => match member.transfer.hear(number, 1) {
                Hearing::Apply(number) => member.state.push(number),
                Hearing::GaveUp { .. } => {
                    member.out.push_back(Said::Ask);
                    self.gave_up += 1;
                }
                Hearing::Kept | Hearing::Missed => {}
            },
        }
        self.check(node)
    }

    fn turn(&mut self, node: NodeId, at: usize, turn: Turn<u64, State>) {
        self.begin(node, at, turn.begin);
        let planted = self.planted;
        let member = self.members.get_mut(&node).unwrap();
        let Some(as_of) = turn.offer.filter(|_| planted != Planted::SenderSilent) else {
            return;
        };
        let mut state = member.state.clone();
        if planted == Planted::SnapshotShort {
            state.pop();
        }
        // An empty state is one empty part.
        let mut parts: Vec<State> = state.chunks(PER_PART).map(<[u64]>::to_vec).collect();
        parts.resize(parts.len().max(1), State::new());
        let weighed = parts.into_iter().map(|part| {
            let bytes = part.len() + 1;
            (part, bytes)
        });
        let parts = member.transfer.cut(as_of, weighed.collect());
        let parts = parts.expect("the order is short");
        member.out.extend(parts.into_iter().map(Said::Part));
    }

    fn begin(&mut self, node: NodeId, at: usize, begin: Option<Begin<u64, State>>) {
        let forgotten = usize::from(self.planted == Planted::HeardForgotten);
        let member = self.members.get_mut(&node).unwrap();
        let (parts, heard) = match begin {
            None => return,
            Some(Begin::Founded { heard }) => {
                self.founded.push((member.life, at));
                (Vec::new(), heard)
            }
            Some(Begin::Adopted { parts, heard }) => (parts, heard),
        };
        member.state = parts.concat();
        member.state.extend(heard.into_iter().skip(forgotten));
        self.lives.get_mut(&member.life).unwrap().known = Some(at);
    }

    /// Who knows has what others who know have at the same place, and nothing is kept beyond the
    /// limits.
    fn check(&mut self, node: NodeId) -> Checked {
        let member = &self.members[&node];
        if let Knowledge::Joining { heard, bytes } = &member.transfer.knowledge
            && (heard.len() > SMALL.heard || *bytes > SMALL.heard_bytes)
        {
            return Err(format!("{node} keeps {} messages", heard.len()));
        }
        if !member.transfer.is_known() {
            return Ok(());
        }
        let known = self.truth.entry(member.next);
        let known = known.or_insert_with(|| member.state.clone());
        if *known == member.state {
            return Ok(());
        }
        Err(format!(
            "{node} has {:?} at {}, another had {known:?}",
            member.state, member.next
        ))
    }

    /// Nobody founded while somebody who knew was there.
    fn check_founders(&self) -> Checked {
        for (founder, at) in &self.founded {
            for (other, life) in &self.lives {
                let was_there = life.begun <= *at && life.ended.is_none_or(|ended| ended > *at);
                let knew = life.known.is_some_and(|known| known < *at);
                if other != founder && was_there && knew {
                    return Err(format!("life {founder} founds at {at} beside life {other}"));
                }
            }
        }
        Ok(())
    }

    /// All is said and told.
    fn settle(&mut self) -> Checked {
        for _ in 0..10_000 {
            let nodes: Vec<NodeId> = self.members.keys().copied().collect();
            for node in nodes {
                self.deliver(node);
                self.step(node)?;
            }
            let order = self.order.len();
            let mut members = self.members.values();
            if members.all(|member| member.out.is_empty() && member.next == order) {
                break;
            }
        }
        for (node, member) in &self.members {
            if !member.transfer.is_known() {
                return Err(format!("{node} never knows the state"));
            }
            let knowing: BTreeSet<NodeId> = member.transfer.knowing().collect();
            if knowing != self.group {
                return Err(format!("{node} takes {knowing:?} for knowing"));
            }
            let mut partial = member.transfer.partial.values();
            if partial.any(|partial| !partial.contents.is_empty()) {
                return Err(format!("{node} keeps parts that nobody needs"));
            }
        }
        self.check_founders()
    }

    fn chaos(&mut self) -> Checked {
        for _ in 0..150 {
            let node = NodeId(1 + self.below(NODES.into()) as u32);
            let is_in = self.members.contains_key(&node);
            match self.below(100) {
                0..8 if !is_in => self.join(node),
                0..3 if is_in => self.depart(node),
                8..30 if is_in => {
                    self.messages += 1;
                    let said = Said::Message(self.messages);
                    self.members.get_mut(&node).unwrap().out.push_back(said);
                }
                30..60 if is_in => self.deliver(node),
                60..100 if is_in => self.step(node)?,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Runs a seed; answers how often a member gave up and how many adopted a state.
fn run(seed: u64, planted: Planted) -> Result<(u32, usize), String> {
    let mut world = World::new(seed, planted);
    world.chaos()?;
    world.settle()?;
    let known = world.lives.values().filter(|life| life.known.is_some());
    Ok((world.gave_up, known.count() - world.founded.len()))
}

#[test]
fn members_agree_whatever_happens() {
    let (mut gave_up, mut adopted) = (0, 0);
    for seed in 0..SEEDS {
        match run(seed, Planted::Nothing) {
            Ok((more, others)) => {
                gave_up += more;
                adopted += others;
            }
            Err(why) => panic!("seed {seed}: {why}"),
        }
    }
    assert!(
        gave_up > 100 && adopted > 5_000,
        "{gave_up} gave up, {adopted} adopted"
    );
}

/// A check that finds nothing proves nothing.
#[test]
fn planted_mistakes_are_found() {
    for planted in [
        Planted::HeardForgotten,
        Planted::SnapshotShort,
        Planted::AskLost,
        Planted::SenderSilent,
    ] {
        let found = (0..SEEDS).any(|seed| run(seed, planted).is_err());
        assert!(found, "{planted:?} was not found");
    }
}
