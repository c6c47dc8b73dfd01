// SPDX-License-Identifier: GPL-2.0-only
//! Clients that behave, and clients that do not.

use std::time::Instant;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::*;
use crate::client;
use crate::client::CALL_TIMEOUT;
use crate::client::CallError;

/// Nothing in here should take longer.
const LIMIT: Duration = Duration::from_secs(20);

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let directory = format!("cluster-rt-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(directory))
    }

    fn socket(&self) -> PathBuf {
        self.0.join("test.sock")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Answers every number with its double until the future is dropped.
async fn double(server: &mut Server<u64>) {
    loop {
        match server.next().await {
            Input::Request {
                client,
                id,
                request,
                ..
            } => server.reply(client, id, Ok(request * 2)),
            Input::Gone { .. } => {}
        }
    }
}

async fn gone(server: &mut Server<u64>) -> ClientId {
    loop {
        if let Input::Gone { client } = server.next().await {
            return client;
        }
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("in time")
}

async fn ask(path: PathBuf, request: u64) -> Result<u64, CallError> {
    let call = move || client::call::<u64, u64, ()>("test", &path, CALL_TIMEOUT, &request);
    tokio::task::spawn_blocking(call).await.unwrap()
}

#[tokio::test]
async fn requests_are_answered_and_events_keep_their_order() {
    let place = Place::new("order");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let (mut sender, mut receiver) = client::connect::<u64, String>("test", &place.socket())
        .await
        .unwrap();
    let asked = sender.send(&21_u64).await.unwrap();
    let Input::Request {
        client,
        peer,
        id,
        request,
    } = within(server.next()).await
    else {
        panic!("a request");
    };
    assert_eq!((request, id), (21, asked));
    assert!(peer.is_privileged());
    server.event(client, "before");
    server.reply(client, id, Ok(42_u64));
    server.event(client, "after");
    let mut got = Vec::new();
    for _ in 0..3 {
        got.push(format!("{:?}", receiver.next().await.unwrap()));
    }
    assert_eq!(
        got,
        [
            "Event(\"before\")",
            "Reply { id: 1, reply: Ok(42) }",
            "Event(\"after\")"
        ]
    );
    drop((sender, receiver));
    assert_eq!(within(gone(&mut server)).await, client);
}

#[tokio::test]
async fn garbage_is_refused_and_others_are_served() {
    let place = Place::new("garbage");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let serving = tokio::spawn(async move { double(&mut server).await });
    for garbage in [
        &b"\xff\xff\xff\xff\xff"[..],
        b"\x04\0\0\0\xff{}x",
        b"GET / HTTP/1.1",
    ] {
        let mut client = UnixStream::connect(place.socket()).await.unwrap();
        client.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        within(client.read_to_end(&mut answer)).await.unwrap();
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("\"kind\":\"invalid\""), "{text}");
    }
    assert_eq!(within(ask(place.socket(), 4)).await.unwrap(), 8);
    serving.abort();
}

#[tokio::test]
async fn an_unknown_request_is_refused_and_the_connection_stays() {
    let place = Place::new("unknown");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let serving = tokio::spawn(async move { double(&mut server).await });
    let (mut sender, mut receiver) = client::connect::<u64, ()>("test", &place.socket())
        .await
        .unwrap();
    sender.send(&"what?").await.unwrap();
    let refused = format!("{:?}", within(receiver.next()).await.unwrap());
    assert!(refused.contains("request not understood"), "{refused}");
    sender.send(&5_u64).await.unwrap();
    let served = format!("{:?}", within(receiver.next()).await.unwrap());
    assert!(served.contains("Ok(10)"), "{served}");
    serving.abort();
}

#[tokio::test]
async fn a_client_that_stops_inside_a_frame_is_disconnected() {
    let place = Place::new("hang");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let mut client = UnixStream::connect(place.socket()).await.unwrap();
    let begun = Instant::now();
    client.write_all(b"\x10\0\0\0{").await.unwrap();
    within(gone(&mut server)).await;
    assert!(begun.elapsed() >= FRAME_TIMEOUT);
    let mut answer = Vec::new();
    within(client.read_to_end(&mut answer)).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("middle of a frame"));
}

#[tokio::test]
async fn a_client_that_drips_bytes_does_not_extend_its_time() {
    let place = Place::new("drip");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let mut client = UnixStream::connect(place.socket()).await.unwrap();
    client.write_all(b"\xff\xff\0\0").await.unwrap();
    let drip = async {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tick.tick().await;
            if client.write_all(b" ").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        _ = within(gone(&mut server)) => {}
        () = drip => {}
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_disconnected() {
    let place = Place::new("slow");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let (mut sender, _receiver) = client::connect::<u64, String>("test", &place.socket())
        .await
        .unwrap();
    sender.send(&1_u64).await.unwrap();
    let Input::Request { client, .. } = within(server.next()).await else {
        panic!("a request");
    };
    let event = "x".repeat(1024 * 1024);
    let most = OUTBOX_LIMIT / event.len() + 2;
    for _ in 0..most {
        server.event(client, event.as_str());
    }
    assert_eq!(within(gone(&mut server)).await, client);
}

#[tokio::test]
async fn a_client_that_hung_up_and_does_not_read_is_not_waited_for() {
    let place = Place::new("half-closed");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let mut stream = UnixStream::connect(place.socket()).await.unwrap();
    let asked = client::ClientFrame {
        id: 1,
        request: 1_u64,
    };
    let asked = frame::encode(&asked, frame::REQUEST_LIMIT).unwrap();
    stream.write_all(&asked).await.unwrap();
    let Input::Request { client, id, .. } = within(server.next()).await else {
        panic!("a request");
    };
    // More than the socket takes, and nobody who reads it.
    server.reply(client, id, Ok("x".repeat(4 * 1024 * 1024)));
    stream.shutdown().await.unwrap();
    assert_eq!(within(gone(&mut server)).await, client);
    within(async {
        while server.budget.bytes() != (0, 0) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn clients_over_the_limit_are_told_and_places_come_back() {
    let place = Place::new("limit");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENT_LIMIT {
        clients.push(UnixStream::connect(place.socket()).await.unwrap());
    }
    let mut refused = UnixStream::connect(place.socket()).await.unwrap();
    let mut answer = Vec::new();
    within(refused.read_to_end(&mut answer)).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("too many clients"));
    // A tool says so, too.
    let refused = within(ask(place.socket(), 1)).await.unwrap_err();
    assert!(
        refused.to_string().contains("too many clients"),
        "{refused}"
    );
    clients.pop();
    within(gone(&mut server)).await;
    let serving = tokio::spawn(async move { double(&mut server).await });
    assert_eq!(within(ask(place.socket(), 1)).await.unwrap(), 2);
    serving.abort();
}

/// Tells a stranger's process where to connect.
const STRANGER_SOCKET: &str = "CLUSTER_RT_STRANGER_SOCKET";

/// What a stranger does: takes all places it gets, asks without end, reads nothing. Tells how
/// many of its connections were refused.
#[test]
#[ignore = "another test runs it as an ordinary user"]
fn stranger() {
    use std::io::Read;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let path = PathBuf::from(std::env::var_os(STRANGER_SOCKET).unwrap());
    let lock = File::open(path.with_extension("lock"));
    assert_eq!(lock.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    let asked = client::ClientFrame {
        id: 1,
        request: 1_u64,
    };
    let asked = frame::encode(&asked, frame::REQUEST_LIMIT)
        .unwrap()
        .repeat(50);
    let mut streams = Vec::new();
    let mut refused = 0;
    for _ in 0..2 * CLIENT_LIMIT {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&asked).is_ok() {}
        streams.push(stream);
    }
    for stream in &mut streams[USER_LIMIT..] {
        stream.set_nonblocking(false).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let told = String::from_utf8_lossy(&answer);
        refused += usize::from(told.contains("of user 65534 are connected"));
    }
    assert_eq!(refused, 2 * CLIENT_LIMIT - USER_LIMIT);
    // Until the other test has looked.
    let _ = std::io::stdin().read(&mut [0]);
}

#[tokio::test]
async fn a_stranger_neither_shuts_root_out_nor_fills_the_memory() {
    use std::os::unix::process::CommandExt;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let place = Place::new("stranger");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let budget = server.budget.clone();
    let taken = Arc::new(Mutex::new(BTreeMap::<ClientId, usize>::new()));
    let count = Arc::clone(&taken);
    // Large answers to small questions.
    let serving = tokio::spawn(async move {
        loop {
            if let Input::Request {
                client, peer, id, ..
            } = server.next().await
            {
                let length = if peer.is_privileged() { 1 } else { 300_000 };
                *count.lock().unwrap().entry(client).or_default() += 1;
                server.reply(client, id, Ok("x".repeat(length)));
            }
        }
    });
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server::tests::stranger", "--ignored"])
        .env(STRANGER_SOCKET, place.socket())
        .stdin(std::process::Stdio::piped())
        .uid(65534)
        .gid(65534)
        .spawn()
        .unwrap();
    let answer = within(async {
        while budget.bytes().1 < USER_LIMIT * 300_000 {
            assert_eq!(child.try_wait().unwrap(), None, "the stranger goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let path = place.socket();
        let call = move || client::call::<u64, String, ()>("test", &path, CALL_TIMEOUT, &1);
        tokio::task::spawn_blocking(call).await.unwrap()
    });
    assert_eq!(answer.await.unwrap(), "x");
    assert!(budget.bytes().1 < (USER_LIMIT + 1) * 300_000);
    drop(child.stdin.take());
    let ended = tokio::task::spawn_blocking(move || child.wait().unwrap());
    assert!(within(ended).await.unwrap().success());
    // One request each is under way, however many were sent.
    assert!(
        taken
            .lock()
            .unwrap()
            .values()
            .all(|requests| *requests == 1)
    );
    serving.abort();
}

#[tokio::test]
async fn a_second_instance_is_refused_and_a_stale_socket_is_not_one() {
    let place = Place::new("instance");
    let first = Server::<u64>::bind(&place.socket()).unwrap();
    let second = Server::<u64>::bind(&place.socket());
    assert!(matches!(second, Err(BindError::Running { .. })));
    let lock = std::fs::metadata(place.socket().with_extension("lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o7777, files::PRIVATE_FILE);
    let directory = std::fs::metadata(&place.0).unwrap();
    assert_eq!(
        directory.permissions().mode() & 0o7777,
        files::PUBLIC_DIRECTORY
    );
    // A killed instance leaves the file and loses the lock.
    drop(first);
    assert!(place.socket().exists());
    assert!(Server::<u64>::bind(&place.socket()).is_ok());
}

#[tokio::test]
async fn the_last_reply_is_written_before_the_end() {
    let place = Place::new("drain");
    let mut server = Server::<u64>::bind(&place.socket()).unwrap();
    let asking = tokio::spawn(ask(place.socket(), 3));
    let Input::Request {
        client,
        id,
        request,
        ..
    } = within(server.next()).await
    else {
        panic!("a request");
    };
    server.reply(client, id, Ok(request));
    within(server.shutdown()).await;
    assert_eq!(within(asking).await.unwrap().unwrap(), 3);
    assert!(!place.socket().exists());
}
