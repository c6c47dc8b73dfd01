// SPDX-License-Identifier: GPL-2.0-only
//! Makes the calling thread a real-time one whose memory stays resident.
//!
//! Both need a privilege. Without it the daemon goes on: being late costs
//! availability, never exclusion; the caller logs what is missing.

use nix::sys::mman::MlockAllFlags;
use nix::sys::mman::mlockall;
use nix::sys::resource::RLIM_INFINITY;
use nix::sys::resource::Resource;
use nix::sys::resource::setrlimit;
use thread_priority::RealtimeThreadSchedulePolicy;
use thread_priority::ThreadPriority;
use thread_priority::ThreadPriorityValue;
use thread_priority::ThreadSchedulePolicy;

/// Priority of the thread (of 1 to 99): above ordinary real-time work, below
/// the kernel's own watchdogs and migration.
const PRIORITY: u8 = 80;

/// Locks the memory of the process and gives the calling thread SCHED_RR.
/// Answers one warning for each of the two that was not possible.
#[must_use]
pub fn enter() -> Vec<String> {
    let mut warnings = Vec::new();
    if let Err(error) = lock_memory() {
        warnings.push(format!(
            "locking memory: {error}; under memory pressure this node may be late \
             (needs CAP_IPC_LOCK)"
        ));
    }
    if let Err(error) = schedule() {
        warnings.push(format!(
            "real-time scheduling: {error}; under load this node may be late (needs CAP_SYS_NICE)"
        ));
    }
    warnings
}

/// Without an unlimited allowance nothing is locked: a later allocation over the
/// limit would fail, which is worse than being late.
fn lock_memory() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)
}

fn schedule() -> std::io::Result<()> {
    let value = ThreadPriorityValue::try_from(PRIORITY).map_err(std::io::Error::other)?;
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin);
    let thread = thread_priority::thread_native_id();
    let priority = ThreadPriority::Crossplatform(value);
    let set = thread_priority::set_thread_priority_and_policy(thread, priority, policy);
    set.map_err(|error| {
        if let thread_priority::Error::OS(number) = error {
            return std::io::Error::from_raw_os_error(number);
        }
        std::io::Error::other(error.to_string())
    })
}
