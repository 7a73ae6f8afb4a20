// SPDX-License-Identifier: Apache-2.0
//! The threads of the data path, apart from the main thread, so that a scrape never delays a connection nor the other way
//! round.

use std::io;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How long the workers may take to put everything down at exit.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// The workers.
#[derive(Debug)]
pub struct Workers(Kind);

#[derive(Debug)]
enum Kind {
    /// One thread needs no scheduler that steals work from others: same speed, less memory.
    One {
        handle: Handle,
        thread: std::thread::JoinHandle<()>,
        stop: oneshot::Sender<()>,
    },
    Many(Runtime),
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When the kernel does not give us the threads.
    pub fn start(count: usize) -> io::Result<Self> {
        if count > 1 {
            let runtime = Builder::new_multi_thread()
                .worker_threads(count)
                .thread_name("worker")
                // Nothing here blocks; one thread for whatever a library may want.
                .max_blocking_threads(1)
                .enable_all()
                .build()?;
            return Ok(Self(Kind::Many(runtime)));
        }
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("worker".into()).spawn(move || {
            // Ends when the sender is dropped, too.
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(SHUTDOWN);
        })?;
        Ok(Self(Kind::One { handle, thread, stop }))
    }

    /// Where to spawn.
    pub fn handle(&self) -> &Handle {
        match &self.0 {
            Kind::One { handle, .. } => handle,
            Kind::Many(runtime) => runtime.handle(),
        }
    }

    /// Ends all threads.
    pub fn stop(self) {
        match self.0 {
            Kind::One { thread, stop, .. } => {
                let _ = stop.send(());
                // A worker that panicked is gone too.
                let _ = thread.join();
            }
            Kind::Many(runtime) => runtime.shutdown_timeout(SHUTDOWN),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_many_run_what_is_spawned() {
        for count in [1, 2] {
            let workers = Workers::start(count).unwrap();
            let (done, heard) = std::sync::mpsc::channel();
            workers.handle().spawn(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                done.send(()).unwrap();
            });
            heard.recv_timeout(Duration::from_secs(10)).unwrap();
            workers.stop();
        }
    }
}
