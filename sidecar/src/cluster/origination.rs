// SPDX-License-Identifier: Apache-2.0
//! TLS origination: the client's side of the handshake with a mesh member or a server outside of the mesh, and the counters of
//! both sides.

use crate::cluster::outsider::OutsiderTls;
use crate::net::addrs::{DialAddr, Direction};
use crate::plan::Member;
use crate::tls::handshake::{self, Shaken};
use crate::tls::{Handshake, Tls, TlsError, TlsMetrics};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// The identity and the counters that TLS to servers needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origination<'a> {
    /// True if the mesh has TLS, which members are spoken to by.
    pub(crate) mesh: bool,
    pub(crate) tls: &'a Tls,
    pub(crate) metrics: &'a TlsMetrics,
}

impl Origination<'_> {
    /// Shows this pod's identity to the member at `to`, and checks that it is the one that was dialled, `within` this time.
    pub(crate) async fn handshake(
        self,
        server: &mut TcpStream,
        to: DialAddr,
        member: &Member,
        within: Duration,
    ) -> Result<Shaken, TlsError> {
        let Self { tls, metrics, .. } = self;
        let configs = tls.configs().ok_or(TlsError::NoIdentity)?;
        let expected = configs.server(member);
        let started = Instant::now();
        let places = tls.places(Direction::Outbound);
        let shaking = handshake::connect(server, &configs, to.get().ip(), expected.as_deref(), places);
        let shaken = tokio::time::timeout(within, shaking).await.unwrap_or(Err(TlsError::TimedOut(within)));
        let checked =
            |shaken: Shaken| configs.check_zone(member, &shaken.peer, to.get().ip()).map(|()| shaken);
        let shaken = shaken.and_then(checked);
        count(metrics, Direction::Outbound, started, &shaken);
        shaken
    }

    /// Checks the certificate of the server outside of the mesh at `to`, `within` this time. This pod's identity is not shown.
    pub(crate) async fn handshake_outside(
        self,
        server: &mut TcpStream,
        to: DialAddr,
        OutsiderTls { config, counters }: &OutsiderTls,
        within: Duration,
    ) -> Result<Shaken<()>, TlsError> {
        let places = self.tls.places(Direction::Outbound);
        let shaking = async {
            let config = config.as_ref().map_err(|fault| TlsError::NotSetUp(fault.clone()))?;
            handshake::outside(server, config, to.get().ip(), places).await
        };
        let shaken = tokio::time::timeout(within, shaking).await.unwrap_or(Err(TlsError::TimedOut(within)));
        let totals = &self.metrics.outside;
        let (of_cluster, total) = match &shaken {
            Ok(Shaken { resumed: false, .. }) => (&counters.full, &totals.full),
            Ok(Shaken { resumed: true, .. }) => (&counters.resumed, &totals.resumed),
            Err(_) => (&counters.failed, &totals.failed),
        };
        of_cluster.inc();
        total.inc();
        shaken
    }
}

/// Counts a handshake by its result, and the time of one that succeeded.
pub(crate) fn count(
    metrics: &TlsMetrics,
    direction: Direction,
    started: Instant,
    shaken: &Result<Shaken, TlsError>,
) {
    let result = match shaken {
        Ok(shaken) => {
            metrics.handshake_seconds(direction).observe(started.elapsed().as_secs_f64());
            if shaken.resumed { Handshake::Resumed } else { Handshake::Full }
        }
        Err(_) => Handshake::Failed,
    };
    metrics.handshakes(direction, result).inc();
}
