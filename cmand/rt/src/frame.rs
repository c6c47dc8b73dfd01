// SPDX-License-Identifier: GPL-2.0-only
//! Frames of the control sockets: a little-endian `u32` length, then that many
//! bytes of JSON.
//!
//! Pure: turns values into bytes and bytes into values, and knows no socket.
//! The length is checked against the reader's limit before anything is kept,
//! so a peer that sends garbage costs at most one limit of memory.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most bytes of JSON in one frame from a client. Group payloads are the
/// largest thing a client sends; they are bounded well below this.
pub const REQUEST_LIMIT: usize = 256 * 1024;

/// Most bytes of JSON in one frame from a daemon; debug dumps are the largest.
pub const REPLY_LIMIT: usize = 8 * 1024 * 1024;

/// Bytes of the length prefix.
const PREFIX: usize = 4;

/// Why bytes could not be turned into a value, or a value into bytes. The
/// connection is of no further use after any of these.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length prefix names more than the reader allows.
    #[error("frame of {length} bytes; at most {limit} are accepted")]
    TooLong {
        /// What the prefix (or the value) asked for, bytes.
        length: usize,
        /// What the reader allows, bytes.
        limit: usize,
    },
    /// The bytes are not JSON, or not the JSON of the expected type.
    #[error("frame does not parse: {0}")]
    Json(#[from] serde_json::Error),
}

/// Encodes one value as a frame.
///
/// # Errors
/// [`FrameError::TooLong`] when the JSON exceeds `limit`.
pub fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, FrameError> {
    let mut bytes = vec![0; PREFIX];
    serde_json::to_writer(&mut bytes, value)?;
    let length = bytes.len() - PREFIX;
    match u32::try_from(length) {
        Ok(prefix) if length <= limit => bytes[..PREFIX].copy_from_slice(&prefix.to_le_bytes()),
        _ => return Err(FrameError::TooLong { length, limit }),
    }
    Ok(bytes)
}

/// Collects bytes of a stream and hands out whole frames.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buffer: Vec<u8>,
}

impl Decoder {
    /// A decoder that refuses frames of more than `limit` bytes of JSON.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            buffer: Vec::new(),
        }
    }

    /// Appends bytes read from the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether a frame has begun and not ended: a peer that stays here hangs.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next whole frame, or `None` until more bytes are fed.
    ///
    /// # Errors
    /// Any [`FrameError`]; the stream is then out of step and must be closed.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some(prefix) = self.buffer.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > self.limit {
            return Err(FrameError::TooLong {
                length,
                limit: self.limit,
            });
        }
        let Some(json) = self.buffer.get(PREFIX..PREFIX + length) else {
            return Ok(None);
        };
        let value = serde_json::from_slice(json)?;
        self.buffer.drain(..PREFIX + length);
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_any_split_of_the_stream() {
        let bytes = [encode(&"one", 64).unwrap(), encode(&"two", 64).unwrap()].concat();
        for cut in 0..=bytes.len() {
            let mut decoder = Decoder::new(64);
            let mut got: Vec<String> = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.feed(part);
                while let Some(value) = decoder.take().unwrap() {
                    got.push(value);
                }
            }
            assert_eq!(got, ["one", "two"], "cut at {cut}");
            assert!(!decoder.is_partial());
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_arrive() {
        let mut decoder = Decoder::new(8);
        decoder.feed(&9_u32.to_le_bytes());
        let error = decoder.take::<String>().unwrap_err();
        assert!(matches!(
            error,
            FrameError::TooLong {
                length: 9,
                limit: 8
            }
        ));
    }

    #[test]
    fn garbage_is_an_error_and_not_a_value() {
        let mut decoder = Decoder::new(64);
        decoder.feed(&4_u32.to_le_bytes());
        decoder.feed(b"\xff{}x");
        assert!(matches!(decoder.take::<String>(), Err(FrameError::Json(_))));
    }

    #[test]
    fn a_value_over_the_limit_is_not_encoded() {
        assert!(matches!(
            encode(&"0123456789", 8),
            Err(FrameError::TooLong { .. })
        ));
    }
}
