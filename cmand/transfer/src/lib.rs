// SPDX-License-Identifier: GPL-2.0-only
//! How the state that a group keeps together reaches a member that joins: in the group's own
//! order, so that the joiner has the state it would have, had it been there from the start.
//!
//! A [`Transfer`] is one member's part in it. It is fed with the group's views, messages and parts
//! of snapshots in the order of the group, and says what to apply, when to begin with which state,
//! and when to send a snapshot. What the messages and the state are is the caller's business, as is
//! how they are encoded and sent. No socket and no clock in here.
//!
//! # States
//! | State | Event | Next | Told |
//! |---|---|---|---|
//! | `Outside` | a group view in which this node joined | `Joining` | |
//! | `Joining` | a message: it is written down | `Joining` | [`Hearing::Kept`] |
//! | `Joining` | a message beyond [`Limits`]: all is forgotten | `Behind` | [`Hearing::GaveUp`] |
//! | `Joining` | the last part of a snapshot of its mark or later | `Known` | [`Begin::Adopted`] |
//! | `Joining` | nobody knows, and nobody joined earlier | `Known` | [`Begin::Founded`] |
//! | `Behind` | a message | `Behind` | [`Hearing::Missed`] |
//! | `Behind` | its own ask, which the caller sent, comes back | `Joining` | |
//! | `Known` | a message | `Known` | [`Hearing::Apply`] |
//! | any | a group view without this node | `Outside` | |
//!
//! # Who sends a snapshot
//! A *mark* is a place in the group's order: a group view, or an ask after it. Each member that
//! joined in a view or asked has the mark of that as its own, and is served by any snapshot as of
//! that mark or later. At each mark, the lowest member that knows the state sends one if anybody
//! does not know it, so the next one does if the lowest leaves or fails before it has sent it. If
//! nobody is left who knows, the members with the earliest mark found the state anew from nothing
//! and what they wrote down, and send it to the others. A member that is alone when it joins
//! founds at once.
//!
//! # Invariants the tests check
//! 1. Two members that know the state and have been told the same have the same state.
//! 2. Nobody founds while a member is there that knows the state.
//! 3. A snapshot whose last part is delivered is complete at every member or at none: all count its
//!    parts, also those who need none. So all agree on who knows, but for a member that has the
//!    state still to come, which takes for knowing whoever was there before it.
//! 4. When nothing more goes wrong, all members come to know the state.
//! 5. What is kept here stays below [`Limits`]. Beyond them a joiner gives up in so many words and
//!    asks anew; a snapshot too large is not sent, and one that comes is no snapshot. No message is
//!    left out of a state.
//!
//! A snapshot that is late, doubled, or not of one who knows changes nothing.

mod transfer;

pub use transfer::Begin;
pub use transfer::Hearing;
pub use transfer::Limits;
pub use transfer::Mark;
pub use transfer::Part;
pub use transfer::TooLarge;
pub use transfer::Transfer;
pub use transfer::Turn;
