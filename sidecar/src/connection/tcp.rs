// SPDX-License-Identifier: Apache-2.0
//! A connection served as TCP: one server, and bytes in both directions until one side or the table ends it.

use crate::cluster::connect::{self, ConnectError, Event, Upstream};
use crate::cluster::origination::Origination;
use crate::cluster::registry::Running;
use crate::cluster::stream::Stream;
use crate::connection::admission::Admitted;
use crate::connection::downstream::Downstream;
use crate::connection::error::ForwardError;
use crate::connection::table::{ConnectionState, Entry};
use crate::connection::tls;
use crate::connection::trial;
use crate::connection::upstream::UpstreamUse;
use crate::net::addrs::Direction;
use crate::net::dial::DialError;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Spoken;
use crate::plan::{Gate, ListenerPlan};
use crate::relay::pipes::Pipes;
use crate::relay::{End, Mode, Moved, Relay, Side, Watch};
use crate::tls::handshake::Shaken;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpStream;

/// A connection with both its sides. Fields are dropped in this order, which a panic relies on: sockets before the use of
/// the cluster, and that before the closing record.
pub(crate) struct Tcp {
    client: Stream,
    server: Stream,
    relay: Relay,
    session: TcpSession,
}

/// The part of a [`Tcp`] that watches the relay.
struct TcpSession {
    upstream: UpstreamUse,
    downstream: Downstream,
    /// The waker that the entry has; see [`Entry::poll_stop`].
    registered: Option<Waker>,
}

/// The outcome of [`connect`].
pub(crate) struct Connected {
    /// The client's TLS session, if it speaks TLS.
    session: Option<Box<Shaken>>,
    upstream: Upstream,
    using: UpstreamUse,
}

/// Connects an admitted connection to a server.
pub(crate) async fn connect(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    admitted: Admitted,
) -> Result<Connected, ForwardError> {
    let Admitted { running, route, original, session, returned } = admitted;
    let Some(cluster) = &route.cluster else {
        route.listener.metrics.no_route.inc();
        return Err(ForwardError::Denied(original));
    };
    let proxy = downstream.proxy();
    let (mut using, attempts) =
        UpstreamUse::begin(&proxy, downstream.info(), cluster, original, route.member.as_deref())?;
    trial::place(&proxy, &running, (&route.listener, cluster));
    let entry = downstream.enter(using.cluster(), attempts.first(), route.listener.plan.idle_timeout);
    let mtls = running.plan.mtls.as_ref();
    let origination = Origination { mesh: mtls.is_some(), tls: &proxy.tls, metrics: &proxy.metrics.tls };
    let report = |event: Event<'_>| {
        using.note(&event, &proxy.destinations);
        match event {
            Event::Retrying(addr) => {
                entry.set_dial(addr);
                entry.set_state(ConnectionState::Connecting);
            }
            Event::Connected(_) => {
                proxy.table.touch(&entry);
                entry.set_state(ConnectionState::Relaying);
            }
            Event::Failed(ConnectError::Dial(error @ DialError::NoSource { .. }))
                if proxy.no_source.ready() =>
            {
                tracing::error!("{error}");
            }
            Event::Failed(_) | Event::Ejected | Event::RetryRefused => {}
        }
    };
    let gate = mtls.filter(|_| route.listener.plan.direction == Direction::Inbound && session.is_none());
    let gate = gate.map(|mtls| (&*route.listener.plan, mtls.gate(&route.listener.plan)));
    let connected = {
        // Pinned here and lent: passed by value, these futures would be copied as they are made and awaited.
        let connecting =
            pin!(connect::connect(attempts, origination, (&proxy.own_sockets, returned), report));
        let finished = pin!(async {
            let upstream = connecting.await?;
            let session = finish(downstream, client, &upstream, session, (&running, gate)).await?;
            Ok((upstream, session))
        });
        unless_stopped(&entry, finished).await
    };
    match connected {
        Ok((upstream, session)) => Ok(Connected { session, upstream, using }),
        Err(error) => {
            using.ends(error.reason());
            Err(error)
        }
    }
}

/// Finds out what the client speaks, where that has to wait for the server, and notes the member that answered as server.
async fn finish(
    downstream: &mut Downstream,
    client: &mut TcpStream,
    upstream: &Upstream,
    session: Option<Box<Shaken>>,
    (running, gate): (&Running, Option<(&ListenerPlan, &Gate)>),
) -> Result<Option<Box<Shaken>>, ForwardError> {
    if let Some(peer) = &upstream.peer {
        downstream.speaks(Spoken::MeshTls, Some(peer.clone()));
    }
    match gate {
        // Boxed, so that a connection without TLS does not carry the room of a handshake.
        Some(gate) => {
            Box::pin(tls::recognise(downstream, client, upstream.stream.tcp(), running, gate)).await
        }
        None => Ok(session),
    }
}

/// Does the work, unless the table stops the connection.
async fn unless_stopped<T>(
    entry: &Entry,
    mut work: Pin<&mut impl Future<Output = Result<T, ForwardError>>>,
) -> Result<T, ForwardError> {
    let mut registered = None;
    poll_fn(|cx| match entry.poll_stop(cx, &mut registered) {
        // Asked first: a connection that is to stop must not be established, even if the server has just answered.
        Poll::Ready(reason) => Poll::Ready(Err(ForwardError::Stopped(reason))),
        Poll::Pending => work.as_mut().poll(cx),
    })
    .await
}

impl Tcp {
    /// Puts both sides together, ready to relay.
    pub(crate) fn new(downstream: Downstream, client: TcpStream, connected: Connected) -> Self {
        let Connected { session, upstream, mut using } = connected;
        let Upstream { noted, stream: server, peer: _, in_use } = upstream;
        using.keeps(in_use);
        downstream.entry().set_own_socket(noted);
        let client = match session {
            Some(shaken) => Stream::Tls(shaken.over(client).into()),
            None => Stream::Plain(client),
        };
        let session = TcpSession { upstream: using, downstream, registered: None };
        Self { client, server, relay: Relay::default(), session }
    }

    /// Relays until the connection is over.
    pub(crate) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End<CloseReason>> {
        self.relay.poll(cx, &mut self.client, &mut self.server, &mut self.session)
    }

    /// Closes both sides and writes the closing record.
    pub(crate) fn end(self, end: End<CloseReason>) {
        let Self { client, server, relay: _, session } = self;
        let TcpSession { upstream, downstream, .. } = session;
        let (reason, error) = match end {
            End::Closed => (CloseReason::Ok, None),
            End::Died(side, error) => {
                let reset = match side {
                    Side::Client => CloseReason::ClientReset,
                    Side::Server => CloseReason::ServerReset,
                };
                (tls::reason_of(&error, reset), Some(error))
            }
            End::Stopped(reason) => (reason, None),
        };
        if reason != CloseReason::Ok {
            client.reset();
            server.reset();
        }
        downstream.entry().set_own_socket(None);
        // Before the record: a reader of the record, or of an empty table, may rely on both being closed.
        drop((client, server));
        upstream.ends(reason);
        drop(upstream);
        downstream.end(reason, error.as_ref().map(|error| error as &dyn Error));
    }

    #[cfg(test)]
    pub(crate) fn cluster(&self) -> &Arc<crate::cluster::registry::ClusterState> {
        self.session.upstream.cluster()
    }
}

impl Watch for TcpSession {
    type Stop = CloseReason;

    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let Self { downstream, registered, .. } = self;
        downstream.entry().poll_stop(cx, registered)
    }

    fn moved(&mut self, moved: Moved) {
        let entry = self.downstream.entry();
        entry.add_bytes(moved.to_server, moved.to_client);
        self.downstream.shared().table.touch(entry);
        self.upstream.moved(moved);
    }

    fn half_closed(&mut self, by: Side) {
        let entry = self.downstream.entry();
        self.downstream.shared().table.touch(entry);
        entry.set_state(match by {
            Side::Client => ConnectionState::HalfClosedByClient,
            Side::Server => ConnectionState::HalfClosedByServer,
        });
    }

    fn not_read(&mut self, deaf: bool) {
        self.downstream.entry().set_unread(deaf);
    }

    fn check_due(&mut self) -> bool {
        self.downstream.entry().take_check()
    }

    fn keep_alive(&self) -> Option<Duration> {
        self.downstream.shared().config.tcp_keepalive
    }

    fn pipes(&self) -> &Arc<Pipes> {
        &self.downstream.shared().pipes
    }

    fn mode(&mut self, mode: Mode) {
        self.downstream.entry().set_mode(mode);
    }
}
