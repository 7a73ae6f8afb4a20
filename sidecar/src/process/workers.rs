// SPDX-License-Identifier: Apache-2.0
//! The threads of the data path, apart from the main thread, so that a scrape never delays a connection nor the other way
//! round.

use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Time for the workers to drop their tasks at exit.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// The workers: a thread each, with an event loop of its own. A connection stays with the worker that accepted it, so no
/// worker wakes another to share the work, which costs a sixth of the CPU time of small requests; all accept from the
/// same listener, so the one that is idle takes the next connection.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    handle: Handle,
    thread: std::thread::JoinHandle<()>,
    stop: oneshot::Sender<()>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// The kernel refuses a thread, mostly because of a limit.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        (0..count.max(1)).map(|_| Worker::start()).collect::<io::Result<_>>().map(Self)
    }

    /// Event loops of the workers, to spawn on.
    pub(crate) fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|worker| &worker.handle)
    }

    /// Ends all threads and waits for them.
    pub(crate) fn stop(self) {
        let threads: Vec<_> = self
            .0
            .into_iter()
            .map(|Worker { handle: _, thread, stop }| {
                let _ = stop.send(());
                thread
            })
            .collect();
        for thread in threads {
            // A worker that panicked is gone too.
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn start() -> io::Result<Self> {
        // Our code does not block here; the one blocking thread is for libraries.
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("worker".into()).spawn(move || {
            // Ends when the sender is dropped, too.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(SHUTDOWN);
        })?;
        Ok(Self { handle, thread, stop })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_many_run_what_is_spawned() {
        for count in [1, 2] {
            let workers = Workers::start(count).unwrap();
            assert_eq!(workers.handles().count(), count);
            for handle in workers.handles() {
                let (done, heard) = std::sync::mpsc::channel();
                handle.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    done.send(()).unwrap();
                });
                heard.recv_timeout(Duration::from_secs(10)).unwrap();
            }
            workers.stop();
        }
    }
}
