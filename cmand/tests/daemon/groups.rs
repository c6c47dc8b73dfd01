// SPDX-License-Identifier: GPL-2.0-only
//! Clients and their groups.

use std::time::Duration;

use cluster_rt::client::ServerFrame;
use cmand_client::Departure;
use cmand_client::Event;
use cmand_client::GroupView;
use cmand_client::Refusal;
use cmand_client::RefusalKind;
use cmand_client::Reply;
use cmand_client::Request;
use cmand_client::View;
use tokio::runtime::Runtime;

use super::cluster::Daemon;
use super::cluster::LIMIT;
use super::cluster::Place;

/// A subscribed client.
pub(crate) struct Client {
    runtime: Runtime,
    connection: cmand_client::Connection,
}

impl Client {
    pub(crate) fn subscribe(daemon: &Daemon, name: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let connection = runtime
            .block_on(cmand_client::connect(&daemon.socket))
            .unwrap();
        let mut client = Self {
            runtime,
            connection,
        };
        let client_name = name.to_owned();
        let asked = client.ask(&Request::Subscribe {
            client: client_name,
        });
        asked.unwrap();
        client
    }

    pub(crate) fn frame(&mut self) -> ServerFrame<Reply, Event> {
        let receiver = &mut self.connection.1;
        self.runtime.block_on(async {
            let next = tokio::time::timeout(LIMIT, receiver.next()).await;
            next.expect("something in time").unwrap()
        })
    }

    /// Asks and takes the answer; events before it are an error of the test.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply, Refusal> {
        self.tell(request);
        loop {
            if let ServerFrame::Reply { reply, .. } = self.frame() {
                return reply;
            }
        }
    }

    /// Asks and leaves the answer.
    pub(crate) fn tell(&mut self, request: &Request) {
        self.runtime
            .block_on(self.connection.0.send(request))
            .unwrap();
    }

    pub(crate) fn until(&mut self, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        for _ in 0..10_000 {
            if let ServerFrame::Event(event) = self.frame()
                && is(&event)
            {
                return event;
            }
        }
        panic!("no {what}");
    }

    pub(crate) fn next_view(&mut self) -> View {
        match self.until("view", |event| matches!(event, Event::View(_))) {
            Event::View(view) => view,
            _ => unreachable!("a view was looked for"),
        }
    }

    fn next_group(&mut self) -> GroupView {
        match self.until("group view", |event| matches!(event, Event::Group(_))) {
            Event::Group(view) => view,
            _ => unreachable!("a group view was looked for"),
        }
    }

    pub(crate) fn join(&mut self, group: &str) -> GroupView {
        let group = group.to_owned();
        self.ask(&Request::GroupJoin { group }).unwrap();
        self.next_group()
    }

    pub(crate) fn send(&mut self, group: &str, payload: &[u8]) {
        let (group, payload) = (group.to_owned(), payload.to_vec());
        self.tell(&Request::GroupSend { group, payload });
    }

    /// So many messages, in order.
    pub(crate) fn messages(&mut self, count: usize) -> Vec<(u32, Vec<u8>)> {
        let mut messages = Vec::new();
        while messages.len() < count {
            match self.frame() {
                ServerFrame::Event(Event::Message { from, payload, .. }) => {
                    messages.push((from.0, payload));
                }
                ServerFrame::Reply { reply, .. } => assert!(reply.is_ok(), "{reply:?}"),
                ServerFrame::Event(_) => {}
            }
        }
        messages
    }
}

#[test]
fn all_members_get_the_same_messages_in_the_same_order() {
    let place = Place::new();
    let daemons = place.three();
    let mut clients: Vec<Client> = daemons
        .iter()
        .map(|daemon| Client::subscribe(daemon, "tester"))
        .collect();
    for (index, client) in clients.iter_mut().enumerate() {
        let view = client.join("g");
        assert_eq!(view.members.len(), index + 1);
    }
    let long = vec![0xab; cmand_client::PAYLOAD_LIMIT];
    for number in 0..100_u32 {
        for client in &mut clients {
            client.send("g", &number.to_le_bytes());
        }
    }
    clients[1].send("g", &long);
    let received: Vec<_> = clients
        .iter_mut()
        .map(|client| client.messages(301))
        .collect();
    assert_eq!(received[0], received[1]);
    assert_eq!(received[0], received[2]);
    for node in 1..=3 {
        let own = received[0].iter().filter(|(from, _)| *from == node);
        let numbers = own.filter(|(_, payload)| payload.len() == 4);
        let numbers: Vec<u32> = numbers
            .map(|(_, payload)| u32::from_le_bytes(payload.as_slice().try_into().unwrap()))
            .collect();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }
    assert!(received[0].contains(&(2, long)));
}

#[test]
fn a_client_that_goes_without_leaving_has_failed() {
    let place = Place::new();
    let [n1, n2, _n3] = place.three();
    let mut stays = Client::subscribe(&n1, "stays");
    stays.join("g");
    let mut goes = Client::subscribe(&n2, "goes");
    goes.join("g");
    assert_eq!(stays.next_group().joined[0].0, 2);
    drop(goes);
    let view = stays.next_group();
    assert_eq!(view.departed.len(), 1);
    assert_eq!(view.departed[0].1, Departure::ProcessFailed);
    // And one that leaves has left.
    let mut leaves = Client::subscribe(&n2, "leaves");
    leaves.join("g");
    stays.next_group();
    let group = "g".to_owned();
    leaves.ask(&Request::GroupLeave { group }).unwrap();
    assert_eq!(leaves.next_group().departed[0].1, Departure::Left);
    assert_eq!(stays.next_group().departed[0].1, Departure::Left);
}

#[test]
fn requests_that_make_no_sense_are_refused_with_a_reason() {
    let place = Place::new();
    let [n1, _n2, _n3] = place.three();
    let mut owner = Client::subscribe(&n1, "owner");
    owner.join("g");
    let mut other = Client::subscribe(&n1, "other");
    let group = || "g".to_owned();
    let long = Request::GroupSend {
        group: group(),
        payload: vec![0; cmand_client::PAYLOAD_LIMIT + 1],
    };
    let refused = owner.ask(&long).unwrap_err();
    assert_eq!(refused.kind, RefusalKind::Invalid);
    for (request, kind, words) in [
        (
            Request::GroupJoin { group: group() },
            RefusalKind::Busy,
            "client owner",
        ),
        (
            Request::GroupLeave { group: group() },
            RefusalKind::NotFound,
            "not a member",
        ),
        (
            Request::GroupJoin {
                group: String::new(),
            },
            RefusalKind::Invalid,
            "1 to 128 bytes",
        ),
        (Request::Leave { force: false }, RefusalKind::Busy, "force"),
    ] {
        let refused = other.ask(&request).unwrap_err();
        assert_eq!(refused.kind, kind, "{request:?}");
        assert!(refused.message.contains(words), "{refused}");
    }
    // A refused join leaves nothing behind.
    assert_eq!(n1.status().groups, ["g"]);
    assert_eq!(n1.status().clients.len(), 2);
}

#[test]
fn a_leave_asked_for_ends_the_daemon_and_fails_clients_that_stay() {
    let place = Place::new();
    let [n1, mut n2, _n3] = place.three();
    let mut stays = Client::subscribe(&n1, "stays");
    stays.join("g");
    let mut asks = Client::subscribe(&n2, "asks");
    asks.join("g");
    stays.next_group();
    asks.ask(&Request::Leave { force: true }).unwrap();
    let (status, log) = n2.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_eq!(stays.next_group().departed[0].1, Departure::ProcessFailed);
    let view = stays.next_view();
    assert_eq!(view.departed[0].why, Departure::Left);
}

#[test]
fn a_message_takes_milliseconds() {
    let place = Place::new();
    let [n1, _n2, _n3] = place.three();
    let mut client = Client::subscribe(&n1, "tester");
    client.join("g");
    let begun = std::time::Instant::now();
    for _ in 0..50 {
        client.send("g", b"ping");
        client.messages(1);
    }
    let each = begun.elapsed() / 50;
    println!("ordered message, 3 nodes, one at a time: {each:?}");
    // No timer is on the way: the next one would come after 31 ms.
    assert!(each < Duration::from_millis(25), "{each:?}");
}

#[test]
fn a_boot_that_was_fenced_and_is_heard_is_told_to_who_watches() {
    let place = Place::new();
    let [n1, _n2, _n3] = place.three();
    let mut fenced = Client::subscribe(&n1, "fenced");
    let view = fenced.next_view();
    let other = view.members[1];
    let ended = vec![cmand_client::Ended {
        node: other.node,
        boot_id: other.boot,
    }];
    fenced.ask(&Request::WatchEnded { ended }).unwrap();
    let told = fenced.until("return", |event| matches!(event, Event::Returned { .. }));
    let returned = Event::Returned {
        node: other.node,
        incarnation: other.incarnation,
        boot_id: other.boot,
    };
    assert_eq!(told, returned);
}

#[test]
fn a_node_that_is_to_be_kept_out_is_a_member_only_when_it_may() {
    let place = Place::new();
    let [n1, _n2, _n3] = place.three();
    let mut fenced = Client::subscribe(&n1, "fenced");
    let third = fenced.next_view().members[2].node;
    let (node, boot_id) = (third, None);
    let kept = cmand_client::Kept { node, boot_id };
    fenced.ask(&Request::KeepOut { nodes: vec![kept] }).unwrap();
    let without = fenced.next_view();
    assert_eq!(without.members.len(), 2);
    assert!(without.member(third).is_none());
    // It is there and wants to be in.
    fenced.ask(&Request::KeepOut { nodes: Vec::new() }).unwrap();
    assert_eq!(fenced.next_view().joined, [third]);
}
