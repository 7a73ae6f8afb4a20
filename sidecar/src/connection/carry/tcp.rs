// SPDX-License-Identifier: Apache-2.0
//! A connection served as TCP: one server, and bytes in both directions until one side or the table ends it.

use super::session::{Session, reason_of};
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
use crate::connection::upstream::{Judge, UpstreamUse};
use crate::net::dial::DialError;
use crate::net::own_sockets::OwnSocket;
use crate::observe::close_reason::CloseReason;
use crate::observe::spoken::Spoken;
use crate::plan::{Gate, ListenerPlan};
use crate::relay::{End, Relay};
use crate::tls::handshake::Shaken;
use std::error::Error;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;

/// A connection with both its sides. Fields are dropped in this order, which a panic relies on: sockets before the use of
/// the cluster, and that before the closing record.
pub(crate) struct Tcp {
    client: Stream,
    server: Stream,
    relay: Relay,
    session: Session,
}

/// The outcome of [`connect`].
pub(crate) struct Connected {
    /// The client's TLS session, if it speaks TLS.
    pub(super) session: Option<Box<Shaken>>,
    /// The judge of its answers, where they may eject its endpoint.
    judge: Option<Judge>,
    upstream: Upstream,
    using: UpstreamUse,
}

/// Connects an admitted connection to a server. The `client` is given if it is not known yet what it speaks.
pub(crate) async fn connect(
    downstream: &mut Downstream,
    client: Option<&mut TcpStream>,
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
    let client = client.filter(|_| session.is_none());
    let unknown = client.zip(tls::unknown(&running.plan, &route.listener.plan));
    let connected = {
        // Pinned here and lent: passed by value, these futures would be copied as they are made and awaited.
        let connecting =
            pin!(connect::connect(attempts, origination, (&proxy.own_sockets, returned), report));
        let finished = pin!(async {
            let upstream = connecting.await?;
            let session = finish(downstream, unknown, &upstream, session, &running).await?;
            Ok((upstream, session))
        });
        unless_stopped(&entry, finished).await
    };
    match connected {
        Ok((mut upstream, session)) => {
            let judged = upstream.judged.take();
            let judge = judged.map(|endpoint| using.judge(Arc::clone(cluster), endpoint));
            Ok(Connected { session, judge, upstream, using })
        }
        Err(error) => {
            using.ends(error.reason());
            Err(error)
        }
    }
}

/// Finds out what the client speaks, where that has to wait for the server, and notes the member that answered as server.
async fn finish(
    downstream: &mut Downstream,
    unknown: Option<(&mut TcpStream, (&ListenerPlan, &Gate))>,
    upstream: &Upstream,
    session: Option<Box<Shaken>>,
    running: &Running,
) -> Result<Option<Box<Shaken>>, ForwardError> {
    if let Some(peer) = &upstream.peer {
        downstream.speaks(Spoken::MeshTls, Some(peer.clone()));
    }
    match unknown {
        // Boxed, so that a connection without TLS does not carry the room of a handshake.
        Some((client, gate)) => {
            let server = Some(upstream.stream.tcp());
            Box::pin(tls::recognise(downstream, client, server, running, gate)).await
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

impl Connected {
    /// Returns the server's side, and what is left of the beginning: the session with a client whose `downstream` this is.
    pub(super) fn begin(self, downstream: Downstream) -> (Stream, Session) {
        let (stream, noted, session) = self.apart(downstream);
        session.note_own_socket(noted);
        (stream, session)
    }

    /// Takes the judge of the server's answers.
    pub(super) fn take_judge(&mut self) -> Option<Judge> {
        self.judge.take()
    }

    /// Returns the same, for an owner of the server's side that keeps the note of the socket itself.
    pub(super) fn apart(self, downstream: Downstream) -> (Stream, Option<OwnSocket>, Session) {
        let Self { session: _, judge: _, upstream, mut using } = self;
        let Upstream { noted, stream, peer: _, in_use, judged: _ } = upstream;
        using.keeps(in_use);
        (stream, noted, Session::new(downstream, using))
    }
}

impl Tcp {
    /// Puts both sides together, ready to relay.
    pub(crate) fn new(downstream: Downstream, client: TcpStream, mut connected: Connected) -> Self {
        let client = Stream::of(client, connected.session.take());
        let (server, session) = connected.begin(downstream);
        Self { client, server, relay: Relay::default(), session }
    }

    /// Relays until the connection is over.
    pub(crate) fn poll_relay(&mut self, cx: &mut Context<'_>) -> Poll<End<CloseReason>> {
        self.relay.poll(cx, &mut self.client, &mut self.server, &mut self.session)
    }

    /// Closes both sides and writes the closing record.
    pub(crate) fn end(self, end: End<CloseReason>) {
        let Self { client, server, relay: _, session } = self;
        let (reason, error) = reason_of(end);
        if reason != CloseReason::Ok {
            client.reset();
            server.reset();
        }
        session.end((client, server), reason, error.as_ref().map(|error| error as &dyn Error));
    }

    #[cfg(test)]
    pub(crate) fn cluster(&self) -> &std::sync::Arc<crate::cluster::registry::ClusterState> {
        self.session.cluster()
    }
}
