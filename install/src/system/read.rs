// SPDX-License-Identifier: Apache-2.0
//! Reads of files with a bound on their size.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

/// Reads a file's text of at most `limit` bytes. Does not wait for a FIFO.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    use std::os::unix::fs::OpenOptionsExt;
    let file =
        fs::OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(path)?;
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {limit} bytes")));
    }
    Ok(text)
}
