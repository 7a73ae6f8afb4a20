// SPDX-License-Identifier: Apache-2.0
//! The handshake, as either side: within a deadline, in turn, and only so many at a time.

use super::configs::Configs;
use super::error::TlsError;
use super::peer;
use super::session::{MOST_KEPT, Session};
use super::stream::TlsStream;
use super::turns::in_turn;
use crate::net::limit::Limit;
use crate::plan::permissions::Peer;
use culvert_mesh::model::spiffe::SpiffeId;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a handshake may take, its wait for a turn included; before it, how long a ClientHello may take to arrive.
/// linkerd and Envoy give as much.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Handshakes under way at a time: some 20 KiB each. The crowd that waits for its turn is no part of an established
/// stream's delay (see [`super::turns`]), only of memory.
pub const MOST: u32 = 2048;

/// What a read of the handshake has room for: a flight with two certificates has 2 to 3 KiB.
const FLIGHT: usize = 4096;

/// A handshake that succeeded.
pub struct Shaken {
    session: Session,
    /// Who is at the other end.
    pub peer: Peer,
    /// Whether a session was resumed, so that no certificate was sent.
    pub resumed: bool,
}

impl Shaken {
    /// From here on the socket speaks TLS.
    pub fn over(self, tcp: TcpStream) -> TlsStream {
        TlsStream::new(tcp, self.session)
    }
}

/// Answers a handshake.
///
/// # Errors
/// Whatever went wrong; the peer was told what TLS tells. The socket is to be closed.
pub async fn accept(
    tcp: &mut TcpStream,
    configs: &Configs,
    under_way: &Arc<Limit>,
) -> Result<Shaken, TlsError> {
    let _permit = under_way.try_acquire().ok_or(TlsError::TooMany(under_way.max()))?;
    within_deadline(shake(tcp, configs, None, || Session::server(configs))).await
}

/// Begins a handshake with the server at `to`, which has to be `expected`, where that is known.
///
/// # Errors
/// As [`accept`].
pub async fn connect(
    tcp: &mut TcpStream,
    configs: &Configs,
    to: IpAddr,
    expected: Option<&SpiffeId>,
    under_way: &Arc<Limit>,
) -> Result<Shaken, TlsError> {
    let _permit = under_way.try_acquire().ok_or(TlsError::TooMany(under_way.max()))?;
    let shaken = within_deadline(shake(tcp, configs, expected, || Session::client(configs, to))).await;
    // A resumed session is judged by the certificate of the handshake that it goes back to. The server may have another by
    // now, which only a full handshake shows.
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
        // The first time nothing has come; a client has something to say then.
        let processed = in_turn(|| session.process_early(&mut came)).await;
        if let Err(error) = processed {
            session.alert();
            // Best effort: the connection is over whatever the peer hears of it.
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
    // A clock before 1970 sees everything as not begun.
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
