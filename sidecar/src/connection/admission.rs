// SPDX-License-Identifier: Apache-2.0
//! Everything that can refuse a connection before a server is dialled: the listener's limit, guards, route, the name that is
//! asked for, STRICT.

use crate::cluster::registry::Running;
use crate::connection::accepted::Accepted;
use crate::connection::asked;
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::connection::guard::{self, Ours};
use crate::connection::lookup;
use crate::connection::proxy::Proxy;
use crate::connection::route::{self, Route};
use crate::connection::tls;
use crate::connection::trial;
use crate::net::addrs::{ClientAddr, Direction, OrigDst};
use crate::net::limit::{Claim, Stranger};
use crate::net::original_dst::Redirected;
use crate::net::own_sockets::Returned;
use crate::tls::handshake::Shaken;
use std::sync::Arc;

/// A connection that may be served.
pub(crate) struct Admitted {
    /// The plan in force when it was admitted; a reload does not change it.
    pub(crate) running: Arc<Running>,
    pub(crate) route: Route,
    pub(crate) original: OrigDst,
    /// The client's TLS session, if it had to begin with one.
    pub(crate) session: Option<Box<Shaken>>,
    /// Times that its call came back to the sidecar.
    pub(crate) returned: Returned,
}

/// Returns how often the call of an outbound connection came back to the sidecar.
async fn returned(proxy: &Proxy, accepted: &Accepted, redirected: Redirected) -> Returned {
    match redirected {
        Redirected::From(original) if accepted.direction == Direction::Outbound => {
            proxy.own_sockets.returned(accepted.client, original).await
        }
        _ => Returned::Never,
    }
}

/// Admits the connection, or returns the reason to refuse it.
pub(crate) async fn admit(
    downstream: &mut Downstream,
    accepted: &mut Accepted,
    redirected: Redirected,
) -> Result<Admitted, ForwardError> {
    let proxy = downstream.proxy();
    let direction = accepted.direction;
    let mut running = proxy.running.load_full();
    let claim = claim(&proxy, &running, accepted);
    let Some(permit) = proxy.limits.listener(direction).try_acquire_for(claim) else {
        proxy.metrics.direction(direction).listener_overflow.inc();
        running.passthrough(direction, accepted.client.family()).metrics.overflow.inc();
        return Err(ForwardError::ListenerFull(claim));
    };
    downstream.hold(permit, claim);
    let mut returns = Returned::Never;
    let (original, mut route) = match &accepted.bound {
        None => {
            returns = returned(&proxy, accepted, redirected).await;
            let ours = Ours {
                ports: &proxy.ports,
                is_address: |ip| proxy.own.contains(ip),
                is_loop: returns == Returned::Twice,
            };
            let original = guard::check(direction, accepted.client, redirected, &ours)
                .inspect_err(|refusal| proxy.refused(direction, refusal))?;
            let route = route::route(&running, direction, original);
            (original, lookup::looked_up(&proxy, &mut running, route, original).await?)
        }
        // A document binds the port and says where it leads, for every client: there is nothing to guard.
        Some(bound) => {
            let listener = running.listener_for(direction, bound.address);
            let listener = listener.filter(|one| one.plan.name == bound.name);
            let listener = listener.ok_or(ForwardError::NoListener)?;
            (OrigDst::new(bound.address), route::of_listener(listener))
        }
    };
    downstream.routed(&running, &route, original);
    trial::way(&proxy, &running, &route, original);
    // Strangers take no tokens of members, who may have a handshake to show first.
    let stranger = matches!(claim, Claim::Stranger(_));
    if !stranger {
        within_rate(&proxy, &running, &route)?;
    }
    if let Some(asks) = asked::asks(&running, &route, original) {
        // Boxed, so that other connections do not carry the room of it.
        Box::pin(asked::let_out(downstream, &running, &mut route, (original, asks), &accepted.stream))
            .await?;
    }
    let session = tls::admit(downstream, &running.plan, &route, original, &mut accepted.stream).await?;
    if stranger {
        within_rate(&proxy, &running, &route)?;
    }
    Ok(Admitted { running, route, original, session, returned: returns })
}

/// Takes a token of the listener, if its rate is limited. Before TLS, as in Envoy: a handshake is what costs.
fn within_rate(proxy: &Proxy, running: &Running, route: &Route) -> Result<(), ForwardError> {
    match &route.listener.bucket {
        Some(bucket) if !bucket.take() => {
            proxy.metrics.direction(route.listener.plan.direction).rate_limited.inc();
            Err(ForwardError::RateLimited(bucket.plan))
        }
        _ => {
            trial::rate(proxy, running, route);
            Ok(())
        }
    }
}

/// Returns the standing of the client. Only a mesh with TLS has strangers: elsewhere nothing tells a member from another.
fn claim(proxy: &Proxy, running: &Running, accepted: &Accepted) -> Claim {
    let strangers = accepted.direction == Direction::Inbound && running.plan.mtls.is_some();
    if !strangers || is_known(proxy, running, accepted.client) {
        return Claim::Full;
    }
    Claim::Stranger(Stranger::new(accepted.client.get().ip()))
}

/// Returns true if a document names the client's address, or if a member came from there before.
fn is_known(proxy: &Proxy, running: &Running, client: ClientAddr) -> bool {
    let ip = client.get().ip();
    running.is_workload(&ip) || proxy.tls.acquaintances.contains(ip)
}
