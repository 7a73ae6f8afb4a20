// SPDX-License-Identifier: Apache-2.0
//! The services of the process, as a list. Each opens its ports, then serves, then drains; each step gives the next, so
//! that none can be left out or taken twice. A service that is off gives no next step.

use crate::admin::App;
use crate::connection::proxy::Proxy;
use crate::control;
use crate::dns::{listen, watch};
use crate::net::addrs::Direction;
use crate::net::bind::{self, ListenError};
use crate::net::routes;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::process::identity::IdentityGate;
use crate::process::listeners::{self, AcceptLoops, ListenerSet, both};
use crate::process::reload::{self, Seen};
use crate::scrape::{self, ScrapePorts};
use std::io;
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Time for accept loops to close; one may be in a back-off of a second.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Connections at a time to the status port, and to the admin port: a kubelet, scrapers and people.
const MAX_PAGE_CONNECTIONS: usize = 64;

/// Everything that services are made of.
pub(crate) struct Context {
    pub(crate) proxy: Arc<Proxy>,
    /// Event loops of the worker threads.
    pub(crate) workers: Vec<Handle>,
    pub(crate) app: App,
    pub(crate) identity: Arc<IdentityGate>,
    /// The documents in force.
    pub(crate) documents: Seen,
}

/// A row of [`SERVICES`].
struct Service {
    name: &'static str,
    /// Opens the ports. Nothing serves before all services have theirs: a start that fails has answered no one.
    bind: fn(&Config, &Plan) -> Bind,
}

/// Open ports, or none where the service is off; else every port that cannot be had.
type Bind = Result<Option<Spawn>, Vec<ListenError>>;

/// Serves on the ports, from the main thread's event loop.
type Spawn = Box<dyn FnOnce(&Context) -> io::Result<Close>>;

/// Takes nothing new in a direction. The tasks end once that is so; connections that are open go on.
type Close = Box<dyn FnMut(Direction) -> Vec<JoinHandle<()>>>;

/// All services, in the order in which they bind and begin to serve.
const SERVICES: [Service; 6] = [
    Service { name: "documents", bind: documents },
    Service {
        name: "inbound",
        bind: |config, _| redirected(config, config.inbound_port, "--inbound-port", Direction::Inbound),
    },
    Service {
        name: "outbound",
        bind: |config, _| redirected(config, config.outbound_port, "--outbound-port", Direction::Outbound),
    },
    Service { name: "dns", bind: |config, _| dns(config) },
    Service {
        name: "admin",
        bind: |config, _| {
            pages(bind::bind(config.admin, "--admin-address"), |listener, app| {
                tokio::spawn(culvert_serve::serve(listener, MAX_PAGE_CONNECTIONS, app.admin()));
            })
        },
    },
    // Last: a peer that reaches the status port may rely on the others being open.
    Service {
        name: "status",
        bind: |config, _| {
            pages(bind::bind(config.status, "--status-address"), |listener, app| {
                tokio::spawn(culvert_serve::serve(listener, MAX_PAGE_CONNECTIONS, app.status()));
            })
        },
    },
];

/// Listeners that documents bind, and the task that follows the documents' changes.
fn documents(config: &Config, plan: &Plan) -> Bind {
    let (bound, scraped) = both(listeners::bind(config, plan, |_| false), scrape::bind(plan, |_| false))?;
    Ok(Some(Box::new(move |context| {
        let proxy = &context.proxy;
        let ports = Arc::new(ScrapePorts::new(context.app.clone()));
        ports.follow(&proxy.running.load().plan, scraped)?;
        let listeners = Arc::new(ListenerSet::new(Arc::clone(proxy), context.workers.clone()));
        listeners.follow(&proxy.running.load().plan, bound)?;
        if let Some(control) = &proxy.control {
            tokio::spawn(control::keep(Arc::clone(control)));
            if proxy.config.identity.as_ref().is_some_and(|source| source.folder.is_none()) {
                let (proxy, identity) = (Arc::clone(proxy), Arc::clone(&context.identity));
                tokio::spawn(control::keep_signed(Arc::clone(control), move |signed| {
                    proxy.tls.sign(signed, &proxy.metrics.tls);
                    identity.update();
                }));
            }
        }
        if !proxy.config.resources.is_empty() || proxy.control.is_some() {
            let (listeners, identity) = (Arc::clone(&listeners), Arc::clone(&context.identity));
            let follow = (listeners, ports);
            tokio::spawn(reload::keep(Arc::clone(proxy), follow, identity, context.documents.clone()));
        }
        Ok(Box::new(move |direction| listeners.close(direction)))
    })))
}

/// The listener that the redirect rules of a direction lead to.
fn redirected(config: &Config, port: u16, option: &'static str, direction: Direction) -> Bind {
    if port == 0 {
        return Ok(None);
    }
    let socket = bind::bind_proxy(port, option, config.tcp_keepalive).map_err(|error| vec![error])?;
    Ok(Some(Box::new(move |context| {
        let mut loops = AcceptLoops::start(&context.proxy, &context.workers, socket, direction, None)?;
        Ok(Box::new(move |of| if of == direction { loops.close() } else { Vec::new() }))
    })))
}

/// The DNS server. It answers until the process ends: the application looks names up for as long as it lives.
fn dns(config: &Config) -> Bind {
    if config.dns_port == 0 {
        return Ok(None);
    }
    let sockets = listen::bind(config.dns_port, "--dns-port")?;
    Ok(Some(Box::new(move |context| {
        let (proxy, readiness) = (Arc::clone(&context.proxy), &context.app.readiness);
        let dns = Arc::clone(&proxy.dns);
        // Before the loops: the first query finds names and servers.
        tokio::spawn(watch::follow_servers(Arc::clone(&dns), readiness));
        let names = {
            let proxy = Arc::clone(&proxy);
            move || proxy.running.load().names()
        };
        tokio::spawn(watch::follow_names(Arc::clone(&dns), names, routes::reaches_now));
        let failed = move |kind| _ = proxy.metrics.accept[Direction::Outbound].errors[kind].inc();
        let running = listen::serve(&dns, sockets, &context.workers, readiness, failed)?;
        Ok(Box::new(move |_| {
            // Held until the process ends.
            let _ = &running;
            Vec::new()
        }))
    })))
}

/// Pages by HTTP. They answer until the process ends, so that a drain can be watched.
fn pages(bound: Result<StdListener, ListenError>, serve: impl FnOnce(TcpListener, App) + 'static) -> Bind {
    let socket = bound.map_err(|error| vec![error])?;
    Ok(Some(Box::new(move |context| {
        serve(TcpListener::from_std(socket)?, context.app.clone());
        Ok(Box::new(|_| Vec::new()))
    })))
}

/// Services whose ports are open.
pub(crate) struct BoundServices(Vec<(&'static str, Spawn)>);

impl BoundServices {
    /// Opens the ports of all services.
    ///
    /// # Errors
    /// Every port that cannot be had.
    pub(crate) fn bind(config: &Config, plan: &Plan) -> Result<Self, Vec<ListenError>> {
        let (mut bound, mut errors) = (Vec::new(), Vec::new());
        for Service { name, bind } in SERVICES {
            match bind(config, plan) {
                Ok(spawn) => bound.extend(spawn.map(|spawn| (name, spawn))),
                Err(failed) => errors.extend(failed),
            }
        }
        if errors.is_empty() { Ok(Self(bound)) } else { Err(errors) }
    }

    /// Lets all of them serve.
    pub(crate) fn spawn(self, context: &Context) -> io::Result<RunningServices> {
        let mut closes = Vec::new();
        for (name, spawn) in self.0 {
            tracing::debug!(name, "service");
            closes.push(spawn(context)?);
        }
        Ok(RunningServices { closes, closing: Vec::new() })
    }
}

/// Services that serve, or drain.
pub(crate) struct RunningServices {
    closes: Vec<Close>,
    closing: Vec<JoinHandle<()>>,
}

impl RunningServices {
    /// Takes nothing new in a direction.
    pub(crate) fn drain(&mut self, direction: Direction) {
        self.closing.extend(self.closes.iter_mut().flat_map(|close| close(direction)));
    }

    /// Waits until what drains is closed; at most for [`CLOSE_DEADLINE`].
    pub(crate) async fn closed(&mut self) {
        let closing = std::mem::take(&mut self.closing);
        let all = async {
            for task in closing {
                // A loop that panicked is closed too.
                let _ = task.await;
            }
        };
        let _ = tokio::time::timeout(CLOSE_DEADLINE, all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;

    fn bind(options: &[String]) -> Result<BoundServices, Vec<String>> {
        let arguments = std::iter::once("culvert-sidecar".to_owned()).chain(options.iter().cloned());
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let (_, (plan, _)) = reload::load(&config, &crate::net::resolve::Names::default()).unwrap();
        BoundServices::bind(&config, &plan).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_port_that_is_taken_is_reported() {
        let taken = ["127.0.0.1:0", "[::]:0"].map(|at| StdListener::bind(at).unwrap());
        let [admin, status] = taken.each_ref().map(|listener| listener.local_addr().unwrap());
        let off = ["--inbound-port=0".to_owned(), "--outbound-port=0".to_owned()];
        let errors = bind(
            &[&off[..], &[format!("--admin-address={admin}"), format!("--status-address={status}")]].concat(),
        )
        .err()
        .unwrap();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            errors[0].contains("(--admin-address)") && errors[1].contains("(--status-address)"),
            "{errors:?}"
        );
    }

    #[test]
    fn a_listener_that_is_off_has_no_next_step() {
        let config = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
        assert!(redirected(&config, 0, "--inbound-port", Direction::Inbound).unwrap().is_none());
    }
}
