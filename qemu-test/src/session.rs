// SPDX-License-Identifier: GPL-2.0-only
//! Talking to a cluster that another process of ours keeps up (`vm up`): a unix socket in its run
//! directory, one JSON request a line, one JSON answer a line.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use anyhow::anyhow;
use guest_init::protocol::Bytes;
use guest_init::protocol::Exit;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::AsyncBufReadExt;
use tokio::io::AsyncWriteExt;
use tokio::io::BufReader;
use tokio::net::UnixListener;
use tokio::net::UnixStream;

use crate::cluster::Cluster;
use crate::node::program_of;
use crate::run::socket_path;

/// What can be done to a cluster from outside.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Run a program.
    Exec {
        node: String,
        argv: Vec<String>,
        limit_s: u64,
    },
    /// Power a node off.
    Off { node: String },
    /// Power a node on and wait until it is up.
    On { node: String },
    /// Reset a node and wait until it is up.
    Reset { node: String },
    /// Cut the link between two nodes.
    Cut { a: String, b: String },
    /// Heal it.
    Heal { a: String, b: String },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Done,
    Output {
        stdout: Bytes,
        stderr: Bytes,
        exit: Exit,
    },
    Failed(String),
}

/// Where a session listens. Through the directory's descriptor: a socket's name may have 107
/// bytes only, a target directory may be deeper.
struct Place {
    _dir: File,
    path: PathBuf,
}

impl Place {
    fn open(dir: &Path) -> Result<Self> {
        let file = File::open(dir).with_context(|| format!("opening {}", dir.display()))?;
        let short = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = socket_path(Path::new(&short));
        Ok(Place { _dir: file, path })
    }
}

/// Serves a cluster to other processes until the future is dropped.
pub(crate) async fn serve(cluster: Arc<Cluster>, dir: &Path) -> Result<()> {
    let place = Place::open(dir)?;
    let what = || format!("listening in {}", dir.display());
    let listener = UnixListener::bind(&place.path).with_context(what)?;
    loop {
        let (stream, _) = listener.accept().await.with_context(what)?;
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            // A client that goes away early is its own business.
            let _ = converse(&cluster, stream).await;
        });
    }
}

async fn converse(cluster: &Cluster, stream: UnixStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read::<Request>(&mut stream).await? {
        let answer = match carry_out(cluster, request).await {
            Ok(answer) => answer,
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        write(&mut stream, &answer).await?;
    }
    Ok(())
}

async fn carry_out(cluster: &Cluster, request: Request) -> Result<Answer> {
    match request {
        Request::Exec {
            node,
            argv,
            limit_s,
        } => {
            let node = cluster.node_named(&node)?;
            let limit = Duration::from_secs(limit_s);
            let output = node.run(program_of(&argv), limit).await?;
            return Ok(Answer::Output {
                stdout: Bytes(output.stdout),
                stderr: Bytes(output.stderr),
                exit: output.exit,
            });
        }
        Request::Off { node } => cluster.node_named(&node)?.power_off().await?,
        Request::On { node } => {
            let node = cluster.node_named(&node)?;
            node.power_on().await?;
            node.wait_until_up().await?;
        }
        Request::Reset { node } => {
            let node = cluster.node_named(&node)?;
            node.reset().await?;
            node.wait_until_up().await?;
        }
        Request::Cut { a, b } => {
            let [a, b] = pair(cluster, &a, &b)?;
            cluster.switch().cut(a, b);
        }
        Request::Heal { a, b } => {
            let [a, b] = pair(cluster, &a, &b)?;
            cluster.switch().heal(a, b);
        }
    }
    Ok(Answer::Done)
}

fn pair(cluster: &Cluster, a: &str, b: &str) -> Result<[u32; 2]> {
    Ok([cluster.node_named(a)?.id(), cluster.node_named(b)?.id()])
}

/// Asks the session in `dir`.
pub(crate) async fn ask(dir: &Path, request: &Request) -> Result<Answer> {
    let place = Place::open(dir)?;
    let what = || format!("talking to the cluster of {}", dir.display());
    let stream = UnixStream::connect(&place.path).await.with_context(what)?;
    let mut stream = BufReader::new(stream);
    write(&mut stream, request).await.with_context(what)?;
    let answer = read(&mut stream).await.with_context(what)?;
    match answer.with_context(|| format!("{}: it went away", what()))? {
        Answer::Failed(error) => Err(anyhow!(error)),
        answer @ (Answer::Done | Answer::Output { .. }) => Ok(answer),
    }
}

async fn read<T: DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> Result<Option<T>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

async fn write<T: Serialize>(stream: &mut BufReader<UnixStream>, message: &T) -> Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    Ok(())
}
