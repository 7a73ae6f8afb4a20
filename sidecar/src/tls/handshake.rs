// SPDX-License-Identifier: Apache-2.0
//! The handshake, as client or server: within a deadline, scheduled, and only so many at a time.

use super::configs::Configs;
use super::error::TlsError;
use super::peer;
use super::schedule::scheduled;
use super::session::{MOST_KEPT, Session};
use super::stream::TlsStream;
use crate::net::limit::Limit;
use crate::plan::permissions::Peer;
use culvert_mesh::model::spiffe::SpiffeId;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Deadline of a handshake, its waits for the schedule included, and before it of the ClientHello. linkerd's and Envoy's
/// are as long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Most handshakes in progress at a time, some 20 KiB each. Those that wait delay no established stream (see
/// [`super::schedule`]), so memory alone decides.
pub(crate) const MOST: u32 = 2048;

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

/// Answers a handshake.
///
/// # Errors
/// Any failure; TLS' alert is sent then, and the caller closes the socket.
pub(crate) async fn accept(
    tcp: &mut TcpStream,
    configs: &Configs,
    under_way: &Arc<Limit>,
) -> Result<Shaken, TlsError> {
    let _permit = under_way.try_acquire().ok_or(TlsError::TooMany(under_way.max()))?;
    within_deadline(shake(tcp, configs, None, || Session::server(configs))).await
}

/// Begins a handshake with the server at `to`, which must be `expected` if that is known.
///
/// # Errors
/// Those of [`accept`].
pub(crate) async fn connect(
    tcp: &mut TcpStream,
    configs: &Configs,
    to: IpAddr,
    expected: Option<&SpiffeId>,
    under_way: &Arc<Limit>,
) -> Result<Shaken, TlsError> {
    let _permit = under_way.try_acquire().ok_or(TlsError::TooMany(under_way.max()))?;
    let shaken = within_deadline(shake(tcp, configs, expected, || Session::client(configs, to))).await;
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
    begin: impl FnOnce() -> Result<Session, rustls::Error>,
) -> Result<Shaken, TlsError> {
    let mut session = begin().map_err(TlsError::Protocol)?;
    let mut came = Vec::new();
    loop {
        // The first round has no bytes to process; a client sends its ClientHello then.
        let processed = scheduled(|| session.process_early(&mut came)).await;
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
    let peer = peer::identify(session.peer_certificates(), &configs.trust_domain, expected, now)?;
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
