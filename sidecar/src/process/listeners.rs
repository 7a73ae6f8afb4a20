// SPDX-License-Identifier: Apache-2.0
//! What is open for connections: the two listeners that they are redirected to, and those that documents bind.

use crate::connection::proxy::Proxy;
use crate::connection::{self, Accepted, Bound};
use crate::net::accept::accept_loop;
use crate::net::addrs::Direction;
use crate::net::bind::{self, ListenError};
use crate::options::config::Config;
use crate::plan::Plan;
use std::collections::HashMap;
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long an accept loop may take to notice that it is to close; it may be in a back-off of a second.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// All that is open.
#[derive(Debug)]
pub(crate) struct Doors {
    proxy: Arc<Proxy>,
    workers: Vec<Handle>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    redirected: Vec<(Direction, Accepting)>,
    /// By name.
    bound: HashMap<Arc<str>, (Direction, Accepting)>,
    /// By direction: nothing is opened any more.
    closed: [bool; 2],
}

/// A socket that is bound and not served yet.
#[derive(Debug)]
pub(crate) struct Knocked {
    direction: Direction,
    bound: Bound,
    socket: StdListener,
}

/// Binds what the plan wants bound and `is_open` does not know.
pub(crate) fn bind(
    config: &Config,
    plan: &Plan,
    is_open: impl Fn(&str) -> bool,
) -> Result<Vec<Knocked>, Vec<ListenError>> {
    let (mut bound, mut errors) = (Vec::new(), Vec::new());
    for wanted in plan.listeners.iter().filter(|listener| listener.binds && !is_open(&listener.name)) {
        let what = format!("the Dataplane's listener {}", wanted.name);
        match bind::bind_for_relay(wanted.address, what, config.tcp_keepalive) {
            Ok(socket) => bound.push(Knocked {
                direction: wanted.direction,
                bound: Bound { name: Arc::clone(&wanted.name), address: wanted.address },
                socket,
            }),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

impl Doors {
    /// Nothing is open yet.
    pub(crate) fn new(proxy: Arc<Proxy>, workers: Vec<Handle>) -> Self {
        Self { proxy, workers, open: Mutex::default() }
    }

    /// Serves a listener that connections are redirected to.
    pub(crate) fn open_redirected(&self, socket: StdListener, direction: Direction) -> io::Result<()> {
        let accepting = self.accept(socket, direction, None)?;
        self.lock().redirected.push((direction, accepting));
        Ok(())
    }

    /// Whether a listener of this name is bound.
    pub(crate) fn is_open(&self, name: &str) -> bool {
        self.lock().bound.contains_key(name)
    }

    /// Serves what was bound, and closes what the plan no longer wants bound. Connections that are open stay so.
    pub(crate) fn follow(&self, plan: &Plan, bound: Vec<Knocked>) -> io::Result<()> {
        let mut open = self.lock();
        for Knocked { direction, bound, socket } in bound {
            if open.closed[direction as usize] {
                continue;
            }
            let accepting = self.accept(socket, direction, Some(&bound))?;
            open.bound.insert(bound.name, (direction, accepting));
        }
        open.bound.retain(|name, (_, accepting)| {
            let wanted = plan.listeners.iter().any(|listener| listener.binds && listener.name == *name);
            if !wanted {
                accepting.close();
            }
            wanted
        });
        Ok(())
    }

    /// Opens nothing more in a direction, and closes what is open, after serving what the kernel had queued.
    pub(crate) fn close(&self, direction: Direction) {
        let mut open = self.lock();
        open.closed[direction as usize] = true;
        let redirected = open.redirected.iter().map(|(of, accepting)| (of, accepting));
        let bound = open.bound.values().map(|(of, accepting)| (of, accepting));
        for (_, accepting) in redirected.chain(bound).filter(|(of, _)| **of == direction) {
            accepting.close();
        }
    }

    /// The same, and waits for it.
    pub(crate) async fn close_and_wait(&self, direction: Direction) {
        self.close(direction);
        let tasks: Vec<_> = {
            let mut open = self.lock();
            let Open { redirected, bound, closed: _ } = &mut *open;
            let bound = bound.values_mut().map(|(of, accepting)| (&*of, accepting));
            let redirected = redirected.iter_mut().map(|(of, accepting)| (&*of, accepting));
            let all = bound.chain(redirected).filter(|(of, _)| **of == direction);
            all.flat_map(|(_, accepting)| std::mem::take(&mut accepting.tasks)).collect()
        };
        let all = async {
            for task in tasks {
                // A loop that panicked is closed too.
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, all).await;
    }

    fn accept(
        &self,
        socket: StdListener,
        direction: Direction,
        bound: Option<&Bound>,
    ) -> io::Result<Accepting> {
        let (closing, heard) = watch::channel(false);
        let mut tasks = Vec::new();
        let listen_port = self.proxy.config.listen_port(direction);
        for worker in &self.workers {
            // The worker's epoll, not the main thread's.
            let _entered = worker.enter();
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            let (proxy, bound) = (Arc::clone(&self.proxy), bound.cloned());
            let serve = {
                let proxy = Arc::clone(&proxy);
                move |stream, client| {
                    let accepted = Accepted { stream, client, direction, listen_port, bound: bound.clone() };
                    tokio::spawn(connection::serve(Arc::clone(&proxy), accepted));
                }
            };
            let failed = move |kind| _ = proxy.metrics.accept[direction].errors[kind].inc();
            tasks.push(worker.spawn(accept_loop(listener, direction, heard.clone(), failed, serve)));
        }
        Ok(Accepting { closing, tasks })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The accept loops of one listener, one on each worker.
#[derive(Debug)]
struct Accepting {
    closing: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Accepting {
    fn close(&self) {
        self.closing.send_replace(true);
    }
}
