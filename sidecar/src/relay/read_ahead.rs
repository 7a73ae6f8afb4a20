// SPDX-License-Identifier: Apache-2.0
//! The reads of one round: the bytes of a source, and what is known to come behind them.

use super::RelayStream;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// Bytes of a source, in the scratch buffer.
pub(super) struct ReadAhead {
    pub(super) bytes: usize,
    /// True if the first read filled the buffer.
    pub(super) full: bool,
    pub(super) then: Then,
}

/// State of a source behind the bytes that were read.
pub(super) enum Then {
    /// Not known: more bytes may be there.
    Unknown,
    /// Nothing for now; the task is woken when there is more.
    Wait,
    /// The source sent FIN.
    Fin,
    /// The source failed, and does not report the error again.
    Death(io::Error),
}

/// Reads into a place of the scratch buffer, and reads on if the runtime knows of more: as a rule a FIN that came with the last
/// bytes. If it knows of nothing, the second read makes no system call. With `check` the socket itself is read; it is false
/// behind one that has nothing.
pub(super) fn read_ahead(
    source: &mut impl RelayStream,
    cx: &mut Context<'_>,
    (scratch, check): (&mut [u8], &mut bool),
    place: Range<usize>,
) -> Poll<io::Result<ReadAhead>> {
    let bytes = ready!(read(source, cx, check, &mut scratch[place.clone()]))?;
    let full = bytes == place.len();
    let read_so_far = |bytes, then| Poll::Ready(Ok(ReadAhead { bytes, full, then }));
    if bytes == 0 {
        return read_so_far(0, Then::Fin);
    }
    // An endpoint over a socket may have more bytes than fit into the rest of the buffer.
    if full || *check || !source.splices() {
        return read_so_far(bytes, Then::Unknown);
    }
    match poll_read(source, cx, &mut scratch[place.start + bytes..place.end]) {
        Poll::Pending => read_so_far(bytes, Then::Wait),
        Poll::Ready(Ok(0)) => read_so_far(bytes, Then::Fin),
        Poll::Ready(Ok(more)) => read_so_far(bytes + more, Then::Unknown),
        Poll::Ready(Err(error)) => read_so_far(bytes, Then::Death(error)),
    }
}

/// Reads. During a check, first the socket itself, for bytes that the runtime may not know of.
fn read(
    source: &mut impl RelayStream,
    cx: &mut Context<'_>,
    check: &mut bool,
    scratch: &mut [u8],
) -> Poll<io::Result<usize>> {
    if *check {
        match source.read_now(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *check = false,
            done => return Poll::Ready(done),
        }
    }
    poll_read(source, cx, scratch)
}

fn poll_read(
    source: &mut impl RelayStream,
    cx: &mut Context<'_>,
    buffer: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(buffer);
    ready!(Pin::new(source).poll_read(cx, &mut buffer))?;
    Poll::Ready(Ok(buffer.filled().len()))
}
