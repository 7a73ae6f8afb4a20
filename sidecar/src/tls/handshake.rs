// SPDX-License-Identifier: Apache-2.0
//! The handshake, as client or server: within a deadline, scheduled, and only so many at a time.

use super::certificate;
use super::configs::Configs;
use super::configs::outside::Outside;
use super::error::TlsError;
use super::peer;
use super::places::{Candidate, Place, Places};
use super::session::{MOST_KEPT, Session};
use super::stream::TlsStream;
use crate::plan::tls::permissions::Peer;
use culvert_mesh::model::spiffe::SpiffeId;
use ring::digest::Digest;
use rustls::CertificateError;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Deadline of a handshake, its waits for the schedule included, and before it of the ClientHello. linkerd's and Envoy's
/// are as long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Most handshakes in progress at a time, some 20 KiB each, the waits for a ClientHello under STRICT included. Those that
/// wait delay no established stream (see [`super::places`]), so memory alone decides.
pub(crate) const MOST: usize = 2048;

/// Room of a read during the handshake: a flight with two certificates has 2 to 3 KiB.
const FLIGHT: usize = 4096;

/// A handshake that succeeded.
pub(crate) struct Shaken<P = Peer> {
    session: Session,
    /// Identity of the peer; of a server outside of the mesh there is none.
    pub(crate) peer: P,
    /// True if a session was resumed, so that no certificate was sent.
    pub(crate) resumed: bool,
    /// False if the peer may not call: its requests are refused, one by one.
    pub(crate) permitted: bool,
}

impl<P> Shaken<P> {
    /// Returns the SHA-256 of the peer's certificate.
    pub(crate) fn fingerprint(&self) -> Option<Digest> {
        let leaf = self.session.peer_certificates().and_then(<[_]>::first)?;
        Some(ring::digest::digest(&ring::digest::SHA256, leaf))
    }

    /// Puts the session over its socket.
    pub(crate) fn over(self, tcp: TcpStream) -> TlsStream {
        TlsStream::new(tcp, self.session)
    }
}

/// Answers a handshake, in a place that its caller holds.
///
/// # Errors
/// Any failure; TLS' alert is sent then, and the caller closes the socket.
pub(crate) async fn accept(
    tcp: &mut TcpStream,
    configs: &Configs,
    place: &Place<'_>,
) -> Result<Shaken, TlsError> {
    within_deadline(shake(tcp, configs, None, place, || Session::server(configs))).await
}

/// Begins a handshake with the server at `to`, which must have one of the `expected` identities if they are known.
///
/// # Errors
/// Those of [`accept`], and if there is no place for it.
pub(crate) async fn connect(
    tcp: &mut TcpStream,
    configs: &Configs,
    to: IpAddr,
    expected: Option<&[SpiffeId]>,
    places: &Places,
) -> Result<Shaken, TlsError> {
    // This pod chose the server, so none is a stranger; but one that answers nothing must not take the places of others.
    let place = places.take(Candidate { address: to, known: true })?;
    let shaking = shake(tcp, configs, expected, &place, || Session::client(configs, to));
    let shaken = within_deadline(place.held(shaking)).await;
    // A resumed session has the certificate of its first handshake. The server may have another by now, which only a full
    // handshake shows.
    if let Err(TlsError::Peer(_)) = shaken {
        configs.forget(to);
    }
    shaken
}

/// Begins a handshake with a server outside of the mesh, which lives at `to`.
///
/// # Errors
/// Those of [`connect`].
pub(crate) async fn outside(
    tcp: &mut TcpStream,
    server: &Outside,
    to: IpAddr,
    places: &Places,
) -> Result<Shaken<()>, TlsError> {
    let place = places.take(Candidate { address: to, known: true })?;
    let shaking = negotiate(tcp, &place, || Session::outside(server));
    let session = within_deadline(place.held(shaking)).await.map_err(TlsError::of_outside)?;
    let resumed = session.is_resumed();
    if resumed && server.verifies && is_expired(&session) {
        // The server may have another certificate by now, which only a full handshake shows.
        server.forget();
        return Err(TlsError::Server(CertificateError::Expired.into()));
    }
    Ok(Shaken { session, peer: (), resumed, permitted: true })
}

/// Returns true if the peer's certificate expired since its session began.
fn is_expired(session: &Session) -> bool {
    let leaf = session.peer_certificates().and_then(<[_]>::first);
    let facts = leaf.and_then(|leaf| certificate::facts(leaf).ok());
    facts.is_none_or(|facts| facts.validity.until < now())
}

async fn within_deadline<T>(shaking: impl Future<Output = Result<T, TlsError>>) -> Result<T, TlsError> {
    tokio::time::timeout(DEADLINE, shaking).await.unwrap_or(Err(TlsError::TimedOut(DEADLINE)))
}

async fn shake(
    tcp: &mut TcpStream,
    configs: &Configs,
    expected: Option<&[SpiffeId]>,
    place: &Place<'_>,
    begin: impl FnOnce() -> Result<Session, rustls::Error>,
) -> Result<Shaken, TlsError> {
    let session = negotiate(tcp, place, begin).await?;
    let peer = peer::identify(session.peer_certificates(), &configs.trusted, expected, now())?;
    let resumed = session.is_resumed();
    Ok(Shaken { session, peer, resumed, permitted: true })
}

/// Returns the time since 1970. With a clock before that every certificate is not valid yet.
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

async fn negotiate(
    tcp: &mut TcpStream,
    place: &Place<'_>,
    begin: impl FnOnce() -> Result<Session, rustls::Error>,
) -> Result<Session, TlsError> {
    let mut session = begin().map_err(TlsError::Protocol)?;
    let mut came = Vec::new();
    loop {
        // The first round has no bytes to process; a client sends its ClientHello then.
        let processed = place.in_turn(|| session.process_early(&mut came)).await;
        if let Err(error) = processed {
            session.alert();
            // Best effort: the connection is over, also if the peer does not get the alert.
            let _ = send(tcp, &mut session).await;
            return Err(TlsError::Protocol(error));
        }
        send(tcp, &mut session).await.map_err(TlsError::Io)?;
        if !session.is_handshaking() {
            break;
        }
        came.clear();
        came.extend_from_slice(session.kept());
        if came.len() >= MOST_KEPT {
            return Err(TlsError::Protocol(rustls::Error::General("a handshake message is too long".into())));
        }
        came.reserve(FLIGHT);
        match tcp.read_buf(&mut came).await {
            Ok(0) => return Err(TlsError::Cut),
            Ok(_) => {}
            Err(error) => return Err(TlsError::Io(error)),
        }
    }
    Ok(session)
}

async fn send(tcp: &mut TcpStream, session: &mut Session) -> io::Result<()> {
    while !session.unsent().is_empty() {
        let sent = tcp.write(session.unsent()).await?;
        session.was_sent(sent);
    }
    Ok(())
}
