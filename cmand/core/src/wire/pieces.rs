// SPDX-License-Identifier: GPL-2.0-only
//! Cuts messages into bodies of packets and puts them together again.

use std::collections::VecDeque;

use super::Malformed;
use super::Reader;
use super::Writer;
use crate::seal::BODY_LIMIT;

/// Bytes before a piece.
const PREFIX: usize = 8;

/// Longest piece.
pub const PIECE: usize = BODY_LIMIT - PREFIX;

/// Most pieces of a message: the largest group table and everything around it.
const PIECES: u16 = 128;

/// Unfinished messages kept per sender; older ones are given up, whoever sent
/// them will send them again.
const UNFINISHED: usize = 4;

/// The bodies that carry a message.
///
/// # Panics
/// If the message is longer than the limits of its parts allow.
#[must_use]
pub fn pieces(number: u32, message: &[u8]) -> Vec<Vec<u8>> {
    let count = message.len().div_ceil(PIECE).max(1);
    let count = u16::try_from(count).expect("limits are far below 65536 pieces");
    assert!(count <= PIECES, "the limits of all parts fit the pieces");
    let parts = (0..count).map(|index| {
        let begin = usize::from(index) * PIECE;
        let part = &message[begin..message.len().min(begin + PIECE)];
        let mut out = Writer::default();
        out.u32(number);
        out.u16(index);
        out.u16(count);
        out.raw(part);
        out.0
    });
    parts.collect()
}

/// Puts the pieces of one sender together.
#[derive(Debug, Default)]
pub struct Assembly {
    /// In the order in which their first pieces came: numbers wrap.
    unfinished: VecDeque<Unfinished>,
}

#[derive(Debug)]
struct Unfinished {
    number: u32,
    parts: Vec<Option<Vec<u8>>>,
    missing: usize,
}

impl Assembly {
    /// Takes a body; gives a message when it is whole.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn take(&mut self, body: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
        let mut reader = Reader(body);
        let number = reader.u32()?;
        let index = usize::from(reader.u16()?);
        let count = reader.u16()?;
        let part = reader.0.to_vec();
        if count == 0 || count > PIECES || index >= usize::from(count) {
            return Err(Malformed);
        }
        if count == 1 {
            return Ok(Some(part));
        }
        let known = self
            .unfinished
            .iter()
            .position(|other| other.number == number);
        let at = known.unwrap_or_else(|| {
            self.unfinished.push_back(Unfinished {
                number,
                parts: vec![None; usize::from(count)],
                missing: usize::from(count),
            });
            self.unfinished.len() - 1
        });
        let message = &mut self.unfinished[at];
        if message.parts.len() != usize::from(count) {
            return Err(Malformed);
        }
        if message.parts[index].replace(part).is_none() {
            message.missing -= 1;
        }
        if message.missing > 0 {
            if self.unfinished.len() > UNFINISHED {
                self.unfinished.pop_front();
            }
            return Ok(None);
        }
        let whole = self.unfinished.remove(at);
        let parts = whole.map(|message| message.parts).unwrap_or_default();
        Ok(Some(parts.into_iter().flatten().flatten().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_any_length_comes_back_in_any_order() {
        for length in [0, 1, PIECE, PIECE + 1, 10 * PIECE - 1] {
            let message: Vec<u8> = (0..length).map(|byte| (byte % 251) as u8).collect();
            let mut bodies = pieces(7, &message);
            assert!(bodies.iter().all(|body| body.len() <= BODY_LIMIT));
            bodies.reverse();
            let mut assembly = Assembly::default();
            let last = bodies.pop().unwrap();
            for body in &bodies {
                assert_eq!(assembly.take(body).unwrap(), None);
                assert_eq!(assembly.take(body).unwrap(), None);
            }
            assert_eq!(assembly.take(&last).unwrap(), Some(message));
            assert!(assembly.unfinished.is_empty());
        }
    }

    #[test]
    fn numbers_that_wrap_lose_no_message() {
        let mut assembly = Assembly::default();
        let abandoned = [u32::MAX - 4, u32::MAX - 3, u32::MAX - 2, u32::MAX - 1];
        for number in abandoned {
            let bodies = pieces(number, &[0; PIECE + 1]);
            assert_eq!(assembly.take(&bodies[0]).unwrap(), None);
        }
        let message = vec![7; PIECE + 1];
        let bodies = pieces(0, &message);
        assert_eq!(assembly.take(&bodies[0]).unwrap(), None);
        assert_eq!(assembly.take(&bodies[1]).unwrap(), Some(message));
    }

    #[test]
    fn unfinished_messages_are_bounded_and_nonsense_is_refused() {
        let mut assembly = Assembly::default();
        for number in 0..100 {
            let bodies = pieces(number, &[0; PIECE + 1]);
            assembly.take(&bodies[0]).unwrap();
            assert!(assembly.unfinished.len() <= UNFINISHED);
        }
        for (index, count) in [(0_u16, 0_u16), (1, 1), (0, PIECES + 1), (5, 2)] {
            let mut out = Writer::default();
            out.u32(1);
            out.u16(index);
            out.u16(count);
            assert_eq!(assembly.take(&out.0), Err(Malformed));
        }
    }
}
