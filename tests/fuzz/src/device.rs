// SPDX-License-Identifier: GPL-2.0-only
//! What a program writes to a device of the lock manager.

use dlm_core::lockcore::mode::Mode;
use dlm_uapi::device::Command;
use dlm_uapi::device::Request;
use dlm_uapi::device::decode_request;
use dlm_uapi::plock;

/// One write.
///
/// # Panics
/// A fault was found.
pub fn run(data: &[u8]) {
    check_plock(data);
    let Ok(request) = decode_request(data) else {
        return;
    };
    check(data, &request);
}

fn check(data: &[u8], request: &Request<'_>) {
    let is_inside = |part: &[u8]| {
        let (all, part) = (data.as_ptr_range(), part.as_ptr_range());
        part.start >= all.start && part.end <= all.end
    };
    match &request.command {
        Command::Lock(params) | Command::Unlock(params) | Command::Deadlock(params) => {
            let name = params.name().unwrap_or(&[]);
            assert!(is_inside(name) || name.is_empty(), "a name from elsewhere");
            let _ = Mode::from_raw(i32::from(params.mode));
            assert!(
                !crate::is_planted() || name.len() < 44,
                "planted: a long name"
            );
        }
        Command::CreateLockspace { name, .. } => {
            assert!(is_inside(name) || name.is_empty(), "a name from elsewhere");
        }
        Command::RemoveLockspace { .. } | Command::Purge { .. } => {}
    }
}

fn check_plock(data: &[u8]) {
    if let Ok(record) = plock::Record::decode(data) {
        assert_eq!(plock::Record::decode(&record.encode()), Ok(record));
    }
}

/// Writes of real programs.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let request = |command: u8, name: &[u8]| {
        let mut bytes = vec![0; 120];
        for (at, number) in [6u32, 0, 2].into_iter().enumerate() {
            bytes[4 * at..4 * at + 4].copy_from_slice(&number.to_ne_bytes());
        }
        bytes[12] = command;
        bytes[13] = 1;
        bytes[16] = 5;
        bytes[17] = u8::try_from(name.len()).expect("a short name");
        bytes.extend(name);
        bytes
    };
    let mut seeds: Vec<_> = (1..=8).map(|command| request(command, b"")).collect();
    seeds.push(request(1, b"a name of a resource that is rather long"));
    seeds.push(vec![0; plock::RECORD_LEN]);
    seeds
}
