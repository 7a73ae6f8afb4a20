// SPDX-License-Identifier: Apache-2.0
//! The handshake, as client or server: within a deadline, scheduled, and only so many at a time.

use super::configs::Configs;
use super::error::TlsError;
use super::peer;
use super::places::{Candidate, Place, Places};
use super::session::{MOST_KEPT, Session};
use super::stream::TlsStream;
use crate::plan::permissions::Peer;
use culvert_mesh::model::spiffe::SpiffeId;
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
pub(crate) struct Shaken {
    session: Session,
    /// Identity of the peer.
    pub(crate) peer: Peer,
    /// True if a session was resumed, so that no certificate was sent.
    pub(crate) resumed: bool,
}

impl Shaken {
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

/// Begins a handshake with the server at `to`, which must be `expected` if that is known.
///
/// # Errors
/// Those of [`accept`], and if there is no place for it.
pub(crate) async fn connect(
    tcp: &mut TcpStream,
    configs: &Configs,
    to: IpAddr,
    expected: Option<&SpiffeId>,
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

async fn within_deadline(
    shaking: impl Future<Output = Result<Shaken, TlsError>>,
) -> Result<Shaken, TlsError> {
    tokio::time::timeout(DEADLINE, shaking).await.unwrap_or(Err(TlsError::TimedOut(DEADLINE)))
}

async fn shake(
    tcp: &mut TcpStream,
    configs: &Configs,
    expected: Option<&SpiffeId>,
    place: &Place<'_>,
    begin: impl FnOnce() -> Result<Session, rustls::Error>,
) -> Result<Shaken, TlsError> {
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
    // With a clock before 1970 every certificate is not valid yet.
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let peer = peer::identify(session.peer_certificates(), &configs.trusted, expected, now)?;
    let resumed = session.is_resumed();
    Ok(Shaken { session, peer, resumed })
}

async fn send(tcp: &mut TcpStream, session: &mut Session) -> io::Result<()> {
    while !session.unsent().is_empty() {
        let sent = tcp.write(session.unsent()).await?;
        session.was_sent(sent);
    }
    Ok(())
}
