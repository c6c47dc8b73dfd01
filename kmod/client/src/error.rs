// SPDX-License-Identifier: GPL-2.0-only
//! Why a call on the family failed.

use std::time::Duration;

use nix::errno::Errno;

/// Why a call failed. Unless said otherwise nothing changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no family of this name.
    #[error(
        "the kernel has no netlink family `{0}`: the cluster's dlm.ko is not loaded, \
         or the distribution's is; try `modprobe dlm`"
    )]
    NotLoaded(&'static str),
    /// The kernel understood and refused.
    #[error("dlm.ko refused {operation}: {}{}{message}", errno.desc(), separator(message))]
    Refused {
        /// What was asked, with the name of its subject.
        operation: String,
        /// The kernel's number.
        errno: Errno,
        /// The kernel's words; may be empty.
        message: String,
    },
    /// No answer in time. What was asked may still happen.
    #[error("dlm.ko did not answer {operation} within {limit:?}")]
    Silent {
        /// What was asked.
        operation: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The socket failed. What was asked may have happened.
    #[error("{operation}: netlink socket: {source}")]
    System {
        /// What was asked.
        operation: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The answer is none this client understands.
    #[error(
        "{operation}: the kernel's answer does not parse: {what}; \
         are module and program of one version?"
    )]
    Malformed {
        /// What was asked.
        operation: String,
        /// What was wrong with it.
        what: String,
    },
    /// An argument cannot be put into a message.
    #[error("{what} {value:?}: {why}")]
    Argument {
        /// Which argument.
        what: &'static str,
        /// What it was.
        value: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Notifications came faster than they were read and some are lost: ask for
    /// the state instead.
    #[error("notifications of dlm.ko were lost")]
    Lost,
}

impl Error {
    /// The kernel's number, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => Some(*errno),
            Self::NotLoaded(_)
            | Self::Silent { .. }
            | Self::System { .. }
            | Self::Malformed { .. }
            | Self::Argument { .. }
            | Self::Lost => None,
        }
    }
}

fn separator(message: &str) -> &'static str {
    if message.is_empty() { "" } else { ": " }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_operation_reason_and_the_kernels_words() {
        let refused = |message: &str| Error::Refused {
            operation: "ls-stop of web".into(),
            errno: Errno::EPERM,
            message: message.into(),
        };
        let bare = "dlm.ko refused ls-stop of web: Operation not permitted";
        assert_eq!(refused("").to_string(), bare);
        assert_eq!(
            refused("not the owner").to_string(),
            format!("{bare}: not the owner")
        );
        assert_eq!(refused("").errno(), Some(Errno::EPERM));
    }
}
