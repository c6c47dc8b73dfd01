// SPDX-License-Identifier: GPL-2.0-only
//! `fence_tool ack` of a victim that is in no view and answers heartbeats all the same.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Write;
use std::path::Path;
use std::process::Output;
use std::process::Stdio;

use cluster_rt::server::Input;
use cluster_rt::server::Server;
use fenced_client::Refusal;
use fenced_client::RefusalKind;
use fenced_client::Reply;
use fenced_client::Request;
use fenced_client::Status;

fn victim() -> Status {
    serde_json::from_str(
        r#"{"members":[1],"victim_count":1,"victim_now":2,"master":1,"wait":"none","view":3,
            "nodes":[{"node":2,"name":"n2","member":false,"victim":true,"reason":"silent",
                      "how":null,"by":0,"at":0}],"last_failure":""}"#,
    )
    .unwrap()
}

/// Runs the tool, with a fenced that hears node 2.
async fn ack(socket: &Path, said: &str) -> (Output, Vec<Option<String>>) {
    let mut fenced: Server<Request> = Server::bind(socket).unwrap();
    let mut tool = std::process::Command::new(env!("CARGO_BIN_EXE_fence_tool"))
        .args(["ack", "2", "--yes", "--socket"])
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(said.as_bytes())
        .unwrap();
    let mut asked = Vec::new();
    let mut waits = tokio::task::spawn_blocking(move || tool.wait_with_output().unwrap());
    loop {
        let input = tokio::select! {
            output = &mut waits => return (output.unwrap(), asked),
            input = fenced.next() => input,
        };
        let Input::Request {
            client,
            id,
            request,
            ..
        } = input
        else {
            continue;
        };
        let reply = match request {
            Request::Status => Ok(Reply::Status(Box::new(victim()))),
            Request::Acknowledge { alive, .. } => {
                asked.push(alive.clone());
                let runs = || Refusal::new(RefusalKind::Busy, "node 2 (n2) runs".to_owned());
                alive.map(|_| Reply::Done).ok_or_else(runs)
            }
            other @ (Request::Dump
            | Request::Subscribe { .. }
            | Request::Fence { .. }
            | Request::FenceWhenGone { .. }
            | Request::Unfence { .. }) => panic!("{other:?}"),
        };
        fenced.reply(client, id, reply);
    }
}

#[tokio::test]
async fn its_name_must_be_typed() {
    let name = format!("fence_tool-heard-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let socket = directory.join("fenced.sock");
    let (output, asked) = ack(&socket, "absolutely\n").await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("NOT DONE: node 2 (n2) runs.\n"), "{said}");
    assert!(
        said.contains("that is not its name; nothing was done"),
        "{said}"
    );
    assert_eq!(asked, [None]);
    let (output, asked) = ack(&socket, "n2\n").await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(asked, [None, Some("n2".to_owned())]);
    std::fs::remove_dir_all(&directory).unwrap();
}
