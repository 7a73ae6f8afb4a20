// SPDX-License-Identifier: Apache-2.0
//! The pipes that bulk streams are spliced through: few, shared by all connections, and never passed on with bytes in them.
//!
//! The kernel counts pipe memory per user over the whole node, so every sidecar with our uid shares one quota of 64 MiB
//! (`fs.pipe-user-pages-soft`). So there are at most [`MOST`] per process, a stream that finds none goes on copying, and a
//! connection that has nothing to move holds none.

use crate::metrics::{By, Counter, Gauge, labels, metrics};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::{pipe2, read};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Most pipes at a time. Eight of 512 KiB are 4 MiB of the node-wide quota: 16 pods may be busy with eight bulk streams
/// each at a time, and what one more finds is smaller pipes, then none.
pub(crate) const MOST: u32 = 8;

/// Sizes to ask for, best first; the kernel's default of 64 KiB is accepted too. Against 256 KiB, 512 KiB save 4 % of the
/// CPU time per byte of one stream; a mebibyte saves nothing more.
const WANTED_BYTES: [i32; 2] = [512 * 1024, 256 * 1024];

/// Time without use after which a pipe is closed. Longer than any pause of a bulk stream; to open one takes some 20 µs.
const LET_GO_EVERY: Duration = Duration::from_secs(1);

/// Smallest pipe that is worth two system calls a round. Beyond the quota the kernel gives 8 KiB.
const LEAST_BYTES: i32 = 64 * 1024;

/// Reason for which a bulk stream is copied, not spliced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Fallback {
    /// Other streams use all pipes of the pool.
    AllInUse,
    /// The kernel gave no pipe: no file left.
    NoPipe,
    /// The kernel gave a small one: this user's quota is used up on this node.
    SmallPipe,
    /// The kernel refused to splice.
    Refused,
}

impl Fallback {
    pub(crate) const ALL: [Self; 4] = [Self::AllInUse, Self::NoPipe, Self::SmallPipe, Self::Refused];

    /// Value of the metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllInUse => "all_in_use",
            Self::NoPipe => "no_pipe",
            Self::SmallPipe => "small_pipe",
            Self::Refused => "refused",
        }
    }
}

labels! { Fallback: "reason" }

metrics! {
    /// Bulk streams, and the pipes that they are spliced through.
    #[derive(Clone, Default)]
    pub(crate) struct PipeMetrics {
        started: Counter = "splice_started", "Streams that began to be spliced";
        fallbacks: By<Fallback> = "splice_fallbacks", "Bulk streams that went on being copied";
        in_use: Gauge = "splice_pipes", "Pipes in use for bulk streams";
    }
}

/// Pool of pipes that all connections of the process share.
#[derive(Debug)]
pub(crate) struct Pipes {
    most: u32,
    in_use: AtomicU32,
    idle: Mutex<Idle>,
    metrics: PipeMetrics,
}

/// Pipes that no stream uses.
#[derive(Debug, Default)]
struct Idle {
    /// Sorted by last use, the latest at the end.
    pipes: Vec<PipeFds>,
    /// Number of pipes at the front that were not used since the last call of [`Pipes::close_unused`].
    unused: usize,
}

#[derive(Debug)]
struct PipeFds {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

/// A pipe of the pool. Dropped while empty, it goes back to the pool; with bytes in it, it is closed: one connection's
/// bytes must never come out on another.
#[derive(Debug)]
pub(crate) struct Pipe {
    /// `Some` until it is dropped.
    ends: Option<PipeFds>,
    held: usize,
    pool: Arc<Pipes>,
}

// === impl Pipes ===

impl Pipes {
    /// Makes a pool of at most `most` pipes; with 0, nothing is spliced.
    pub(crate) fn new(most: u32, metrics: PipeMetrics) -> Arc<Self> {
        Arc::new(Self { most, in_use: AtomicU32::new(0), idle: Mutex::default(), metrics })
    }

    /// Takes an empty pipe, or counts the reason why there is none.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Pipe> {
        let place = |used: u32| (used < self.most).then_some(used + 1);
        if self.in_use.fetch_update(Relaxed, Relaxed, place).is_err() {
            self.fell_back(Fallback::AllInUse);
            return None;
        }
        match self.idle().take().map_or_else(PipeFds::open, Ok) {
            Ok(ends) => {
                self.metrics.started.inc();
                self.metrics.in_use.inc();
                Some(Pipe { ends: Some(ends), held: 0, pool: Arc::clone(self) })
            }
            Err(why) => {
                self.in_use.fetch_sub(1, Relaxed);
                self.fell_back(why);
                None
            }
        }
    }

    pub(super) fn fell_back(&self, why: Fallback) {
        self.metrics.fallbacks[why].inc();
    }

    /// Closes unused pipes once a second and never returns: an idle pod holds nothing of the node's quota.
    pub(crate) async fn keep_let_go(&self) {
        let mut interval = tokio::time::interval(LET_GO_EVERY);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            self.close_unused();
        }
    }

    /// Closes the pipes that were not used since the last call.
    fn close_unused(&self) {
        let mut idle = self.idle();
        let unused = idle.unused;
        let closed: Vec<PipeFds> = idle.pipes.drain(..unused).collect();
        idle.unused = idle.pipes.len();
        // Outside the lock: to close is a system call.
        drop(idle);
        drop(closed);
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn take(&mut self) -> Option<PipeFds> {
        let ends = self.pipes.pop();
        self.unused = self.unused.min(self.pipes.len());
        ends
    }
}

impl PipeFds {
    fn open() -> Result<Self, Fallback> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(|_| Fallback::NoPipe)?;
        // Refused beyond the quota; then the size that the pipe has decides.
        let given = WANTED_BYTES
            .into_iter()
            .find_map(|size| fcntl(&write, FcntlArg::F_SETPIPE_SZ(size)).ok())
            .map_or_else(|| fcntl(&write, FcntlArg::F_GETPIPE_SZ), Ok)
            .map_err(|_| Fallback::NoPipe)?;
        match usize::try_from(given) {
            Ok(capacity) if given >= LEAST_BYTES => Ok(Self { read, write, capacity }),
            _ => Err(Fallback::SmallPipe),
        }
    }

    /// Asks the kernel: a read of an empty pipe says EAGAIN.
    fn is_empty(&self) -> bool {
        read(&self.read, &mut [0]) == Err(Errno::EAGAIN)
    }
}

// === impl Pipe ===

impl Pipe {
    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves bytes from a socket into the pipe, at most so many. The pipe must be empty: only then "would block" can mean nothing but the
    /// socket.
    ///
    /// # Errors
    /// The kernel's, about the socket.
    pub(crate) fn fill(&mut self, source: &impl AsFd, most: u64) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "never into a pipe that holds something");
        let Some(ends) = self.ends.as_ref().filter(|_| self.held == 0) else { return Ok(0) };
        let most = usize::try_from(most).map_or(ends.capacity, |most| most.min(ends.capacity));
        let n = splice(source, None, &ends.write, None, most, flags())?;
        self.held = n;
        Ok(n)
    }

    /// Moves the bytes of the pipe into a socket.
    ///
    /// # Errors
    /// The kernel's, about the socket.
    pub(crate) fn drain(&mut self, sink: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = self.ends.as_ref().filter(|_| self.held > 0) else { return Ok(0) };
        let n = splice(&ends.read, None, sink, None, self.held, flags())?;
        self.held -= n.min(self.held);
        Ok(n)
    }

    /// Lends both ends to a mock that has no socket.
    #[cfg(test)]
    pub(super) fn by_hand(&mut self, use_ends: impl FnOnce(&OwnedFd, &OwnedFd, &mut usize)) {
        let PipeFds { read, write, .. } = self.ends.as_ref().expect("there until it is dropped");
        use_ends(read, write, &mut self.held);
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if let Some(ends) = self.ends.take()
            && self.held == 0
            && ends.is_empty()
        {
            self.pool.idle().pipes.push(ends);
        }
        self.pool.in_use.fetch_sub(1, Relaxed);
        self.pool.metrics.in_use.dec();
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn pool(most: u32) -> Arc<Pipes> {
        Pipes::new(most, PipeMetrics::default())
    }

    #[test]
    fn an_empty_pipe_goes_back_and_is_used_again() {
        let pool = pool(1);
        let (mut a, b) = UnixStream::pair().unwrap();
        let (c, mut d) = UnixStream::pair().unwrap();
        for round in 1..=3 {
            let mut pipe = pool.take().unwrap();
            a.write_all(b"bulk").unwrap();
            assert_eq!(pipe.fill(&b, u64::MAX).unwrap(), 4);
            assert_eq!(pipe.drain(&c).unwrap(), 4);
            let mut got = [0; 4];
            d.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"bulk");
            drop(pipe);
            assert_eq!(pool.idle().pipes.len(), 1);
            assert_eq!(pool.metrics.started.get(), round);
        }
        assert_eq!(pool.in_use.load(Relaxed), 0);
    }

    #[test]
    fn a_pipe_that_holds_bytes_is_never_given_to_another_connection() {
        let pool = pool(1);
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut pipe = pool.take().unwrap();
        a.write_all(b"another tenant's secret").unwrap();
        assert_eq!(pipe.fill(&b, u64::MAX).unwrap(), 23);
        drop(pipe);
        assert!(pool.idle().pipes.is_empty(), "the pipe was pooled with bytes in it");
        // Its place is free all the same.
        assert!(pool.take().unwrap().ends.as_ref().unwrap().is_empty());
    }

    #[test]
    fn the_kernel_is_asked_even_if_our_count_says_empty() {
        let pool = pool(1);
        let mut pipe = pool.take().unwrap();
        pipe.by_hand(|_, write, _| assert_eq!(nix::unistd::write(write, b"stray").unwrap(), 5));
        drop(pipe);
        assert!(pool.idle().pipes.is_empty());
    }

    #[test]
    fn a_stream_that_finds_no_pipe_goes_on_copying_and_is_counted() {
        let pool = pool(2);
        let held = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none());
        assert_eq!(pool.metrics.fallbacks[Fallback::AllInUse].get(), 1);
        assert_eq!(pool.metrics.in_use.get(), 2);
        drop(held);
        assert!(pool.take().is_some());
        assert_eq!(pool.metrics.in_use.get(), 0);
    }

    #[test]
    fn unused_pipes_are_closed_and_the_others_are_kept() {
        let pool = pool(4);
        drop((pool.take().unwrap(), pool.take().unwrap()));
        pool.close_unused();
        assert_eq!(pool.idle().pipes.len(), 2, "just used");
        drop(pool.take().unwrap());
        pool.close_unused();
        assert_eq!(pool.idle().pipes.len(), 1, "one was used since, the other was not");
        pool.close_unused();
        assert!(pool.idle().pipes.is_empty());
        assert!(pool.take().is_some());
    }

    #[test]
    fn would_block_comes_from_the_socket() {
        let pool = pool(1);
        let (_a, b) = UnixStream::pair().unwrap();
        b.set_nonblocking(true).unwrap();
        let mut pipe = pool.take().unwrap();
        assert_eq!(pipe.fill(&b, u64::MAX).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(pipe.is_empty());
    }
}
