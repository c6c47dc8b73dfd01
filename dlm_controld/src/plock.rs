// SPDX-License-Identifier: GPL-2.0-only
//! Requests for POSIX locks. This daemon keeps none yet, so it answers each as
//! a daemon with plocks off does: `-ENOSYS` at once, and no caller hangs.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use dlm_client::device;
use nix::errno::Errno;
use tokio::io::unix::AsyncFd;

use crate::kernel::KernelError;
use crate::kernel::watch::watch;

/// `sizeof(struct dlm_plock_info)`.
const LENGTH: usize = 64;
/// Offset of `flags`.
const FLAGS: usize = 15;
/// The file was closed: nobody waits for an answer.
const FLAG_CLOSE: u8 = 1;
/// Offset of `rv`.
const RESULT: usize = 24;

/// The device.
pub(crate) struct Plocks {
    device: AsyncFd<File>,
}

impl Plocks {
    pub(crate) fn open() -> Result<Self, KernelError> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NONBLOCK);
        let file = device::open("dlm_plock", &options)?;
        let failed = |source: io::Error| KernelError::File {
            action: "polling",
            path: "dlm_plock".into(),
            source,
        };
        Ok(Self {
            device: watch(file).map_err(failed)?,
        })
    }

    /// Refuses requests for ever. Safe to cancel: each is answered at once.
    pub(crate) async fn refuse(&mut self) -> io::Error {
        loop {
            match self.device.readable_mut().await {
                Ok(mut ready) => match refuse_one(ready.get_inner_mut()) {
                    Ok(true) => {}
                    Ok(false) => ready.clear_ready(),
                    Err(error) => return error,
                },
                Err(error) => return error,
            }
        }
    }
}

/// Reads and refuses one request; false when there is none.
fn refuse_one(file: &mut File) -> io::Result<bool> {
    let mut record = [0; LENGTH];
    match file.read(&mut record) {
        Ok(LENGTH) => {}
        Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
        Err(error) => return Err(error),
    }
    if let Some(answer) = refusal(record) {
        file.write_all(&answer)?;
    }
    Ok(true)
}

/// The answer to a request, if somebody waits for one.
fn refusal(mut record: [u8; LENGTH]) -> Option<[u8; LENGTH]> {
    let result = -(Errno::ENOSYS as i32);
    record[RESULT..RESULT + 4].copy_from_slice(&result.to_ne_bytes());
    (record[FLAGS] & FLAG_CLOSE == 0).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_enosys_and_keeps_what_identifies_it() {
        let mut request = [7; LENGTH];
        request[FLAGS] = 0;
        let answer = refusal(request).unwrap();
        assert_eq!(answer[RESULT..RESULT + 4], (-38i32).to_ne_bytes());
        assert_eq!(answer[..RESULT], request[..RESULT]);
        assert_eq!(answer[RESULT + 4..], request[RESULT + 4..]);
    }

    #[test]
    fn a_close_gets_no_answer() {
        let mut request = [0; LENGTH];
        request[FLAGS] = FLAG_CLOSE;
        assert_eq!(refusal(request), None);
    }
}
