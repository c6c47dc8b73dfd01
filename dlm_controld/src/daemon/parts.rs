// SPDX-License-Identifier: GPL-2.0-only
//! Parts of the daemon that need none of its state.

use std::time::Duration;
use std::time::SystemTime;

use dlm_controld_core::NodeId;
use dlm_controld_core::Notice;

use crate::history::Moment;
use crate::kernel::Kernel;
use crate::plock::Plocks;
use crate::report;
use crate::settings::DaemonError;
use crate::settings::Settings;
use crate::settings::Sockets;

/// How long fenced is asked for when this node must be fenced: longer than a service manager
/// takes to start it again.
const FENCED_LIMIT: Duration = Duration::from_secs(60);

/// Between two attempts.
const FENCED_PAUSE: Duration = Duration::from_secs(1);

/// Lockspaces that an earlier daemon left cannot be taken over: what was agreed
/// about them is gone. The other nodes have to fence this one.
pub(super) async fn refuse_leftovers(
    kernel: &dyn Kernel,
    settings: &Settings,
    sockets: &Sockets,
) -> Result<(), DaemonError> {
    let names: Vec<String> = kernel
        .lockspaces()?
        .into_iter()
        .map(|found| found.name)
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    let node = settings.node;
    let reason = "the kernel has lockspaces that no daemon controls".to_owned();
    let boot_id = None;
    let request = fenced_client::Request::Fence {
        node,
        boot_id,
        reason,
    };
    let begun = tokio::time::Instant::now();
    loop {
        let (path, request) = (sockets.fenced.clone(), request.clone());
        let asked = tokio::task::spawn_blocking(move || fenced_client::call(&path, &request));
        match asked.await {
            Ok(Ok(_)) => break,
            // It may be about to start, too.
            Ok(Err(error)) => tracing::error!(%error, "asking to be fenced failed"),
            Err(error) => tracing::error!(%error, "asking to be fenced failed"),
        }
        if begun.elapsed() >= FENCED_LIMIT {
            break;
        }
        tokio::time::sleep(FENCED_PAUSE).await;
    }
    Err(DaemonError::Leftovers(names.join(", ")))
}

pub(super) fn open_plocks() -> Option<Plocks> {
    match Plocks::open() {
        Ok(plocks) => Some(plocks),
        Err(error) => {
            tracing::warn!(%error, "requests for POSIX locks are not answered");
            None
        }
    }
}

/// Now, on both clocks.
pub(super) fn moment() -> Moment {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let monotonic = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let seconds = monotonic.map_or(0, |time| u64::try_from(time.tv_sec()).unwrap_or(0));
    Moment {
        monotonic: seconds,
        wall: wall.map_or(0, |since| since.as_secs()),
    }
}

pub(super) fn list(nodes: &[NodeId]) -> String {
    let names: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    names.join(",")
}

/// Logs what the core has to tell; some of it ends the daemon.
pub(super) fn notice_to_log(notice: Notice) -> Result<(), DaemonError> {
    match notice {
        Notice::Agreed { version } => tracing::info!(version, "protocol agreed"),
        Notice::Refused { version } => {
            let version = version.map_or("none in common".to_owned(), |v| v.to_string());
            return Err(DaemonError::Protocol(version));
        }
        Notice::Dropped {
            group,
            from,
            reason,
        } => {
            tracing::warn!(group, %from, reason, "message dropped");
        }
        Notice::Odd { lockspace, what } => tracing::warn!(lockspace, what, "odd request"),
        Notice::Changing {
            lockspace,
            change,
            members,
        } => {
            let members = list(&members);
            tracing::info!(lockspace, change, members, "membership changes");
        }
        Notice::Waiting { lockspace, wait } => {
            let wait = report::describe(&wait);
            tracing::info!(lockspace, wait, "waiting");
        }
        Notice::Stuck { lockspace, result } => {
            return Err(DaemonError::Stuck {
                lockspace,
                errno: -result,
            });
        }
    }
    Ok(())
}
