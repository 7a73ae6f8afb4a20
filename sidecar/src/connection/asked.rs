// SPDX-License-Identifier: Apache-2.0
//! The name that a client asks for, where a match of a MeshPassthrough by name is all that could let its connection out.
//!
//! A connection that its address lets out is never held: a server that speaks first is not delayed.

use crate::cluster::registry::Running;
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::connection::route::Route;
use crate::net::addrs::{Direction, OrigDst};
use crate::plan::Origin;
use crate::plan::outside::{Asks, Says};
use crate::tls::TlsError;
use crate::tls::asked::{Asked, Nameless};
use crate::tls::first;
use std::sync::Arc;
use tokio::net::TcpStream;

/// Returns the protocols whose names could let the connection out; `None` where no name could, or none is needed.
pub(super) fn asks(running: &Running, route: &Route, original: OrigDst) -> Option<Asks> {
    let listener = &route.listener.plan;
    let denied = route.cluster.is_none()
        && listener.direction == Direction::Outbound
        && listener.origin == Origin::Transparent;
    denied.then(|| running.plan.outside.asks(original.get().port())).filter(|asks| asks.any())
}

/// Waits for the name that the client asks for, and gives the connection the cluster of the match for it.
pub(super) async fn let_out(
    downstream: &mut Downstream,
    running: &Running,
    route: &mut Route,
    (original, asks): (OrigDst, Asks),
    client: &TcpStream,
) -> Result<(), ForwardError> {
    let to = original.get().port();
    let refused = match first::asked(client, asks).await.map_err(TlsError::Lost)? {
        Asked::Name { says, name, port } => {
            if says == Says::Tls {
                downstream.asked_for(&name);
            }
            // A host with another port than the one that is dialled is another server's.
            let matched = port.is_none_or(|port| port == to);
            let exit = running.plan.outside.by_name(says, &name, to).filter(|_| matched);
            if let Some(cluster) = exit.and_then(|exit| running.exit(exit)) {
                route.cluster = Some(Arc::clone(cluster));
                return Ok(());
            }
            ForwardError::Unmatched { original, name }
        }
        Asked::Nothing(why) => ForwardError::Nameless { original, why },
        Asked::NeedMore => ForwardError::Nameless { original, why: Nameless::Silent },
    };
    route.listener.metrics.no_route.inc();
    Err(refused)
}
