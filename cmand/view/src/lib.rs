// SPDX-License-Identifier: GPL-2.0-only
//! What membership says, as plain data: nodes and their lives, views of the
//! cluster, views of groups, and the time that its users count in.
//!
//! cmand's core makes it, cmand's client tells it, and the cores of fenced and
//! dlm_controld are fed with it as it is, so that nothing is translated on the
//! way. No decision is made here, and nothing is sent. A node's id is the
//! kernel's type, because the lock manager calls nodes by it, too.

mod group_view;
mod instant;
mod member;
mod view;

pub use dlm_uapi::node::NodeId;

pub use group_view::GroupView;
pub use instant::Instant;
pub use member::BootId;
pub use member::Incarnation;
pub use member::Member;
pub use member::NotABootId;
pub use view::Departed;
pub use view::Departure;
pub use view::View;

/// Longest group name, bytes.
pub const GROUP_NAME_LIMIT: usize = 128;

/// Longest payload of one group message, bytes.
pub const PAYLOAD_LIMIT: usize = 32 * 1024;
