// SPDX-License-Identifier: Apache-2.0
//! stdin, with a bound on its size and on the time that it may take.

use std::io::{self, Read, Stdin};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::budget::{STDIN_WITHIN, VERSION_STDIN_WITHIN};
use crate::protocol::{CniVersion, MAX_STDIN, NetConf, utf8};

/// Read all of stdin, as UTF-8.
pub(super) fn all(stdin: &Stdin) -> io::Result<Vec<u8>> {
    read(stdin, STDIN_WITHIN)
}

/// Read the cniVersion from VERSION's stdin, if there is a supported one.
pub(super) fn version(stdin: &Stdin) -> Option<CniVersion> {
    let bytes = read(stdin, VERSION_STDIN_WITHIN).ok()?;
    NetConf::version_of(&bytes)
}

fn read(stdin: &Stdin, limit: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let mut bytes = Vec::with_capacity(8 << 10);
    let mut chunk = [0; 8 << 10];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("it did not end within {limit:?}"),
                ));
            }
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let read = match stdin.lock().read(&mut chunk) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        match read {
            0 => return Ok(utf8(bytes)),
            read if bytes.len() + read > MAX_STDIN => {
                let message = format!("it is larger than {} MiB", MAX_STDIN >> 20);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            read => bytes.extend_from_slice(&chunk[..read]),
        }
    }
}
