// SPDX-License-Identifier: Apache-2.0
//! Accept loops on the workers, and the set of listeners that documents bind.

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
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The accept loops of one listener, one on each worker.
#[derive(Debug)]
pub(crate) struct AcceptLoops {
    direction: Direction,
    closing: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl AcceptLoops {
    /// Serves a socket. `bound` names the listener where documents bind it.
    pub(crate) fn start(
        proxy: &Arc<Proxy>,
        workers: &[Handle],
        socket: StdListener,
        direction: Direction,
        bound: Option<&Bound>,
    ) -> io::Result<Self> {
        let closing = watch::Sender::new(false);
        let mut loops = Self { direction, closing, tasks: Vec::new() };
        let listen_port = proxy.config.listen_port(direction);
        for worker in workers {
            // The worker's epoll, not the main thread's.
            let _entered = worker.enter();
            let listener = TcpListener::from_std(socket.try_clone()?)?;
            let (proxy, bound) = (Arc::clone(proxy), bound.cloned());
            let serve = {
                let proxy = Arc::clone(&proxy);
                move |stream, client| {
                    let accepted = Accepted { stream, client, direction, listen_port, bound: bound.clone() };
                    tokio::spawn(connection::serve(Arc::clone(&proxy), accepted));
                }
            };
            let failed = move |kind| _ = proxy.metrics.accept[direction].errors[kind].inc();
            let closing = loops.closing.subscribe();
            loops.tasks.push(worker.spawn(accept_loop(listener, direction, closing, failed, serve)));
        }
        Ok(loops)
    }

    /// Closes the listener, after serving what the kernel had queued. The tasks end once it is closed; a second call
    /// returns none.
    pub(crate) fn close(&mut self) -> Vec<JoinHandle<()>> {
        self.closing.send_replace(true);
        std::mem::take(&mut self.tasks)
    }
}

/// A listener of the documents whose port is open, and that is not served yet.
#[derive(Debug)]
pub(crate) struct BoundListener {
    direction: Direction,
    bound: Bound,
    socket: StdListener,
}

/// Opens the ports that a plan wants bound, apart from those that `is_bound` knows.
///
/// # Errors
/// Every port that cannot be had.
pub(crate) fn bind(
    config: &Config,
    plan: &Plan,
    is_bound: impl Fn(&str) -> bool,
) -> Result<Vec<BoundListener>, Vec<ListenError>> {
    let (mut bound, mut errors) = (Vec::new(), Vec::new());
    for wanted in plan.listeners.iter().filter(|listener| listener.binds && !is_bound(&listener.name)) {
        let option = format!("the Dataplane's listener {}", wanted.name);
        match bind::bind_for_relay(wanted.address, option, config.tcp_keepalive) {
            Ok(socket) => bound.push(BoundListener {
                direction: wanted.direction,
                bound: Bound { name: Arc::clone(&wanted.name), address: wanted.address },
                socket,
            }),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

/// Returns what both opened, or the errors of both.
pub(super) fn both<A, B>(
    one: Result<A, Vec<ListenError>>,
    other: Result<B, Vec<ListenError>>,
) -> Result<(A, B), Vec<ListenError>> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (one, other) => Err([one.err(), other.err()].into_iter().flatten().flatten().collect()),
    }
}

/// The listeners that documents bind.
#[derive(Debug)]
pub(crate) struct ListenerSet {
    proxy: Arc<Proxy>,
    workers: Vec<Handle>,
    listeners: Mutex<Listeners>,
}

#[derive(Debug, Default)]
struct Listeners {
    by_name: HashMap<Arc<str>, AcceptLoops>,
    /// By direction: no listener is opened any more.
    closed: [bool; 2],
}

impl ListenerSet {
    pub(crate) fn new(proxy: Arc<Proxy>, workers: Vec<Handle>) -> Self {
        Self { proxy, workers, listeners: Mutex::default() }
    }

    /// Returns true when a listener of this name is served.
    pub(crate) fn is_bound(&self, name: &str) -> bool {
        self.lock().by_name.contains_key(name)
    }

    /// Serves what was bound, and closes what the plan no longer wants bound. Connections that are open stay so.
    pub(crate) fn follow(&self, plan: &Plan, bound: Vec<BoundListener>) -> io::Result<()> {
        let mut listeners = self.lock();
        for BoundListener { direction, bound, socket } in bound {
            if listeners.closed[direction as usize] {
                continue;
            }
            let loops = AcceptLoops::start(&self.proxy, &self.workers, socket, direction, Some(&bound))?;
            listeners.by_name.insert(bound.name, loops);
        }
        listeners.by_name.retain(|name, loops| {
            let wanted = plan.listeners.iter().any(|listener| listener.binds && listener.name == *name);
            if !wanted {
                loops.close();
            }
            wanted
        });
        Ok(())
    }

    /// Opens nothing more in a direction, and closes what is open there. The tasks end once it is closed.
    pub(crate) fn close(&self, direction: Direction) -> Vec<JoinHandle<()>> {
        let mut listeners = self.lock();
        listeners.closed[direction as usize] = true;
        let of_direction = listeners.by_name.values_mut().filter(|loops| loops.direction == direction);
        of_direction.flat_map(AcceptLoops::close).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
