// SPDX-License-Identifier: GPL-2.0-only
//! The control channel between the runner on the host and the init of a node.
//!
//! | Property | Choice |
//! | --- | --- |
//! | transport | byte stream: virtio-serial port `conclave.control`, on UML a serial line |
//! | frame | one JSON object, ended by a newline (JSON text holds none inside) |
//! | binary data | base64 in strings |
//! | many at once | a request has an `id`, its replies carry it, the last [`Event::is_last`] |
//! | greeting | the node sends a newline and [`Event::Hello`] with id 0 each time it has booted |
//! | epochs | both directions carry the node's `boot` id, see below |
//!
//! A serial line of User Mode Linux (UML) stops for good when its 4 KiB of input overflow (the
//! kernel's throttling there never lets go). So on a line the runner has at most [`LINE_WINDOW`]
//! bytes under way, and the node says with [`Event::Consumed`] how many it has read.
//!
//! A node can be reset in the middle of a frame and bytes of its earlier life can sit in the
//! buffers of the stream. That is why frames end by a delimiter instead of starting with a length
//! (a reader finds the next frame after a cut one), and why each frame names the boot it belongs
//! to: a node ignores requests made to an earlier boot, the runner ignores replies from one.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;

/// Name of the virtio-serial port that carries this protocol.
pub const CONTROL_PORT: &str = "conclave.control";

/// Name of the virtio-serial port that leads to the cluster's power switch.
pub const POWER_PORT: &str = "conclave.power";

/// Longest frame either side accepts. A chunk of [`CHUNK`] bytes in base64 and a long command line
/// fit; anything longer is garbage and is skipped up to its newline.
pub const FRAME_LEN_MAX: usize = 1 << 20;

/// Most bytes on their way to a node over a serial line; well below what its input holds.
pub const LINE_WINDOW: u64 = 2048;

/// Most bytes of a file or of a program's output in one frame.
pub const CHUNK: usize = 128 << 10;

/// Bytes that travel as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD
            .decode(text)
            .map(Bytes)
            .map_err(serde::de::Error::custom)
    }
}

/// What the runner asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the runner, unique within a boot, never 0.
    pub id: u64,
    /// The boot this is meant for, as its hello named it.
    pub boot: String,
    /// The operation.
    pub op: Op,
}

/// The operations of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Run a program; [`Event::Output`] as it comes, then [`Event::Exited`] or [`Event::Failed`].
    Run(Run),
    /// Send a signal to the process group of a running [`Op::Run`]; answered by [`Event::Done`].
    Kill {
        /// The id of that request.
        target: u64,
        /// Signal number.
        signal: i32,
    },
    /// More standard input for a running [`Op::Run`] with [`Run::is_fed`]; answered by
    /// [`Event::Done`] as soon as it is on its way.
    Feed {
        /// The id of that request.
        target: u64,
        /// What the program is to read.
        data: Bytes,
        /// Whether this is the end of its input.
        is_last: bool,
    },
    /// Write (or append) to a file, making its directories; answered by [`Event::Done`].
    Write {
        /// Absolute path.
        path: String,
        /// What to write.
        data: Bytes,
        /// Permission bits of a new file.
        mode: u32,
        /// Append instead of replacing.
        append: bool,
    },
    /// Read a file: [`Event::Output`] pieces, then [`Event::Done`].
    Read {
        /// Absolute path.
        path: String,
        /// Most bytes wanted; a longer file is an error.
        limit: u64,
    },
    /// Stop the node without ceremony; no answer if it works.
    Halt(Halt),
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Program (searched in the path) and arguments.
    pub argv: Vec<String>,
    /// Variables added to init's environment.
    pub env: Vec<(String, String)>,
    /// Working directory; init's own is `/`.
    pub cwd: Option<String>,
    /// Standard input; `/dev/null` without it, unless `is_fed`.
    pub stdin: Option<Bytes>,
    /// Whether more standard input may follow, by [`Op::Feed`].
    pub is_fed: bool,
    /// After so long the whole process group is killed.
    pub timeout_ms: Option<u64>,
    /// Output beyond so many bytes in all is thrown away and said so in [`Exit::truncated`].
    pub output_limit: Option<u64>,
}

/// How to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Halt {
    /// Power off.
    PowerOff,
    /// Restart.
    Restart,
}

/// What the node answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The request's id; 0 for the greeting.
    pub id: u64,
    /// The boot that speaks.
    pub boot: String,
    /// The answer.
    pub event: Event,
}

/// The answers of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The node has booted and takes requests.
    Hello(Hello),
    /// So many bytes of requests were read since the channel was opened. Id 0; serial lines only.
    Consumed {
        /// In all.
        bytes: u64,
    },
    /// A piece of output, or of a file.
    Output {
        /// Where it was written to.
        stream: Stream,
        /// The bytes.
        data: Bytes,
    },
    /// The program has ended.
    Exited(Exit),
    /// The operation is done.
    Done,
    /// The operation could not be done.
    Failed {
        /// Why, naming the thing.
        error: String,
    },
}

impl Event {
    /// Whether no further reply to the same request will follow.
    pub fn is_last(&self) -> bool {
        match self {
            Event::Output { .. } | Event::Consumed { .. } => false,
            Event::Hello(_) | Event::Exited(_) | Event::Done | Event::Failed { .. } => true,
        }
    }
}

/// The greeting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Host name of the node.
    pub node: String,
    /// Kernel release.
    pub kernel: String,
    /// Since the kernel started.
    pub uptime_ms: u64,
    /// What went wrong while booting without preventing this greeting.
    pub complaints: Vec<String>,
}

/// Standard output or standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output, or the file.
    Out,
    /// Standard error.
    Err,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the signal was init's, because of the time limit.
    pub timed_out: bool,
    /// Whether output was thrown away.
    pub truncated: bool,
}

/// One frame: the object and its newline.
pub fn encode<T: Serialize>(frame: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(frame)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Finds frames in a byte stream; survives cut and overlong ones.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: Vec<u8>,
    is_skipping: bool,
}

impl Splitter {
    /// Takes in bytes and returns the complete lines among them, without newline; empty ones are
    /// left out.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_end = piece.ends_with(b"\n");
            let content = piece.strip_suffix(b"\n").unwrap_or(piece);
            if self.buffer.len() + content.len() > FRAME_LEN_MAX {
                self.is_skipping = true;
                self.buffer.clear();
            }
            if !self.is_skipping {
                self.buffer.extend_from_slice(content);
            }
            if is_end {
                let line = std::mem::take(&mut self.buffer);
                if !self.is_skipping && !line.is_empty() {
                    lines.push(line);
                }
                self.is_skipping = false;
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_trip_whatever_bytes_they_carry() {
        let reply = Reply {
            id: u64::MAX,
            boot: "b".into(),
            event: Event::Output {
                stream: Stream::Err,
                data: Bytes((0..=255).collect()),
            },
        };
        let bytes = encode(&reply).unwrap();
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        let lines = Splitter::default().push(&bytes);
        assert_eq!(lines.len(), 1);
        assert_eq!(serde_json::from_slice::<Reply>(&lines[0]).unwrap(), reply);
    }

    #[test]
    fn a_request_survives_the_trip() {
        let request = Request {
            id: 7,
            boot: "b".into(),
            op: Op::Run(Run {
                argv: vec!["echo".into(), "line\nbreak".into()],
                stdin: Some(Bytes(vec![0, 10, 255])),
                timeout_ms: Some(5),
                ..Run::default()
            }),
        };
        let lines = Splitter::default().push(&encode(&request).unwrap());
        assert_eq!(
            serde_json::from_slice::<Request>(&lines[0]).unwrap(),
            request
        );
    }

    #[test]
    fn lines_are_found_however_the_bytes_arrive() {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for byte in b"ab\n\ncd\ne" {
            lines.extend(splitter.push(&[*byte]));
        }
        assert_eq!(lines, [b"ab".to_vec(), b"cd".to_vec()]);
        assert_eq!(splitter.push(b"f\n"), [b"ef".to_vec()]);
    }

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_is_read() {
        let mut splitter = Splitter::default();
        let long = vec![b'x'; FRAME_LEN_MAX + 1];
        assert!(splitter.push(&long).is_empty());
        assert!(splitter.push(b"tail").is_empty());
        assert_eq!(splitter.push(b"\nok\n"), [b"ok".to_vec()]);
    }
}
