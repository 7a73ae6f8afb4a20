// SPDX-License-Identifier: Apache-2.0
//! One TLS session without its socket: ciphertext in, plaintext out, and back. It uses rustls' unbuffered interface and so
//! has no buffer of its own: bytes are decrypted in place, in the worker's scratch buffer.

use super::configs::Configs;
use super::configs::outside::Outside;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, Error, HandshakeKind};
use std::net::IpAddr;
use std::sync::Arc;

/// Most ciphertext that is kept while the rest of it is awaited: the longest handshake message (64 KiB) in records. A data
/// record is a quarter of it.
pub(super) const MOST_KEPT: usize = 66 * 1024;

/// State of one TLS session, as client or server.
pub(super) struct Session {
    side: RustlsSide,
    /// Ciphertext of a message that is not complete yet.
    kept: Vec<u8>,
    /// Plaintext that was decrypted before it was read: it came in one packet with the end of the handshake.
    early: Vec<u8>,
    /// Ciphertext to send, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// True once the peer sent close_notify.
    peer_closed: bool,
    /// True once this side queued close_notify.
    closed: bool,
}

/// rustls' connection, boxed as it is large.
enum RustlsSide {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// Result of a step.
enum Next {
    /// The bytes may have more messages.
    Again,
    /// More bytes are needed.
    More,
    /// Plaintext may be sent.
    Speak,
    /// The peer sent close_notify.
    PeerClosed,
}

impl Session {
    /// Makes the server's side of a session.
    pub(super) fn server(configs: &Configs) -> Result<Self, Error> {
        UnbufferedServerConnection::new(Arc::clone(&configs.server))
            .map(|side| Self::new(RustlsSide::Server(side.into())))
    }

    /// Makes the client's side; an earlier session with `to` is resumed.
    pub(super) fn client(configs: &Configs, to: IpAddr) -> Result<Self, Error> {
        UnbufferedClientConnection::new(Arc::clone(&configs.client), ServerName::IpAddress(to.into()))
            .map(|side| Self::new(RustlsSide::Client(side.into())))
    }

    /// Makes the client's side to a server outside of the mesh; an earlier session with it is resumed.
    pub(super) fn outside(server: &Outside) -> Result<Self, Error> {
        UnbufferedClientConnection::new(Arc::clone(&server.client), server.name.clone())
            .map(|side| Self::new(RustlsSide::Client(side.into())))
    }

    fn new(side: RustlsSide) -> Self {
        Self {
            side,
            kept: Vec::new(),
            early: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            peer_closed: false,
            closed: false,
        }
    }

    fn state(&self) -> &CommonState {
        match &self.side {
            RustlsSide::Server(side) => side,
            RustlsSide::Client(side) => side,
        }
    }

    /// Returns true during the handshake. The peer is not verified before its end: until then no plaintext is read or
    /// sent.
    pub(super) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.state().peer_certificates()
    }

    pub(super) fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Returns the ciphertext that was kept. New bytes are appended to it before they are processed.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// Returns the ciphertext to send.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Removes the bytes that were sent.
    pub(super) fn was_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.outgoing.len() {
            // An idle session owns no buffer.
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }

    /// Returns the memory that bytes in flight use.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.kept.capacity() + self.early.capacity() + self.outgoing.capacity()
    }

    /// Queues ciphertext behind all that is queued.
    pub(super) fn send_later(&mut self, ciphertext: &[u8]) {
        self.outgoing.extend_from_slice(ciphertext);
    }

    /// Processes ciphertext, with the kept bytes at its front. Keeps an incomplete rest, and hands plaintext to `said`.
    pub(super) fn process(&mut self, bytes: &mut [u8], mut said: impl FnMut(&[u8])) -> Result<(), Error> {
        let Self { side, outgoing, peer_closed, .. } = self;
        let (at, done) = run(side, bytes, outgoing, peer_closed, &mut said);
        // Also after an error: rustls remembers its position in these bytes.
        let rest = &bytes[at..];
        if rest.is_empty() {
            self.kept = Vec::new();
        } else {
            self.kept.clear();
            self.kept.extend_from_slice(rest);
        }
        if rest.len() > MOST_KEPT {
            done.and(Err(Error::General("a message is too long".into())))
        } else {
            done
        }
    }

    /// Processes as [`Self::process`], but keeps the plaintext until it is read.
    pub(super) fn process_early(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let mut early = std::mem::take(&mut self.early);
        let done = self.process(bytes, |said| early.extend_from_slice(said));
        self.early = early;
        done
    }

    /// Takes at most `most` bytes of the plaintext that was kept.
    pub(super) fn take_early(&mut self, most: usize) -> Vec<u8> {
        let rest = self.early.split_off(most.min(self.early.len()));
        std::mem::replace(&mut self.early, rest)
    }

    /// Keeps plaintext for which there was no room, to be read first.
    pub(super) fn put_back(&mut self, said: &[u8]) {
        self.early.extend_from_slice(said);
    }

    /// Encrypts into `out`, which needs room for 32 bytes more per 16 KiB. Returns the length of the ciphertext.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let mut encrypted = Ok(0);
        self.speak(|writer| encrypted = writer.encrypt(plaintext, out))?;
        encrypted
    }

    /// Queues close_notify, once.
    pub(super) fn close(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        // An alert is two bytes, and at most 22 more around them.
        let mut alert = [0; 64];
        let mut encrypted = Ok(0);
        self.speak(|writer| encrypted = writer.close(&mut alert))?;
        self.send_later(&alert[..encrypted?]);
        Ok(())
    }

    /// Queues the alert for the peer after an error, if TLS has one for it.
    pub(super) fn alert(&mut self) {
        let Self { side, kept, outgoing, .. } = self;
        // One step and no more: the alert comes before the next error in the same bytes.
        let _ = match side {
            RustlsSide::Server(side) => step(side.process_tls_records(kept), outgoing, &mut |_| {}, None),
            RustlsSide::Client(side) => step(side.process_tls_records(kept), outgoing, &mut |_| {}, None),
        };
    }

    /// Runs rustls up to the state in which plaintext may be sent, and calls `speech` there. Queues all that goes before.
    fn speak(&mut self, mut speech: impl FnMut(&mut dyn Writer)) -> Result<(), Error> {
        let Self { side, kept, early, outgoing, peer_closed, .. } = self;
        let mut said = |said: &[u8]| early.extend_from_slice(said);
        loop {
            // The kept bytes are passed again, also if no new ones came: rustls remembers its position in them.
            let (discard, next) = match side {
                RustlsSide::Server(side) => {
                    step(side.process_tls_records(kept), outgoing, &mut said, Some(&mut speech))
                }
                RustlsSide::Client(side) => {
                    step(side.process_tls_records(kept), outgoing, &mut said, Some(&mut speech))
                }
            };
            kept.drain(..discard);
            match next? {
                Next::Again => {}
                Next::PeerClosed => *peer_closed = true,
                Next::Speak => return Ok(()),
                Next::More => return Err(Error::HandshakeNotComplete),
            }
        }
    }
}

/// Processes until more bytes are needed. Returns the number of bytes that are processed.
fn run(
    side: &mut RustlsSide,
    bytes: &mut [u8],
    outgoing: &mut Vec<u8>,
    peer_closed: &mut bool,
    said: &mut dyn FnMut(&[u8]),
) -> (usize, Result<(), Error>) {
    let mut at = 0;
    loop {
        let rest = &mut bytes[at..];
        let (discard, next) = match side {
            RustlsSide::Server(side) => step(side.process_tls_records(rest), outgoing, said, None),
            RustlsSide::Client(side) => step(side.process_tls_records(rest), outgoing, said, None),
        };
        at += discard;
        match next {
            Ok(Next::Again) => {}
            Ok(Next::PeerClosed) => *peer_closed = true,
            Ok(Next::More | Next::Speak) => return (at, Ok(())),
            Err(error) => return (at, Err(error)),
        }
    }
}

/// The state of rustls in which plaintext may be sent.
trait Writer {
    fn encrypt(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, Error>;
    fn close(&mut self, out: &mut [u8]) -> Result<usize, Error>;
}

impl<Data> Writer for rustls::unbuffered::WriteTraffic<'_, Data> {
    fn encrypt(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        Self::encrypt(self, plaintext, out).map_err(cannot_encrypt)
    }

    fn close(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        self.queue_close_notify(out).map_err(cannot_encrypt)
    }
}

fn cannot_encrypt(error: EncryptError) -> Error {
    Error::General(error.to_string())
}

type Speech<'a> = &'a mut dyn FnMut(&mut dyn Writer);

/// Handles one state of rustls. Returns the number of bytes that are processed, and the next step.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
    said: &mut dyn FnMut(&[u8]),
    speech: Option<Speech<'_>>,
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = state.and_then(|state| handle(state, &mut discard, outgoing, said, speech));
    (discard, next)
}

fn handle<Data>(
    state: ConnectionState<'_, '_, Data>,
    discard: &mut usize,
    outgoing: &mut Vec<u8>,
    said: &mut dyn FnMut(&[u8]),
    speech: Option<Speech<'_>>,
) -> Result<Next, Error> {
    Ok(match state {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record?;
                *discard += record.discard;
                said(record.payload);
            }
            Next::Again
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let at = outgoing.len();
            if let Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) =
                data.encode(&mut [])
            {
                outgoing.resize(at + required_size, 0);
                data.encode(&mut outgoing[at..]).map_err(|error| Error::General(error.to_string()))?;
            }
            Next::Again
        }
        ConnectionState::TransmitTlsData(data) => {
            // The owner of the session sends the queued bytes.
            data.done();
            Next::Again
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            if let Some(speech) = speech {
                speech(&mut traffic);
            }
            Next::Speak
        }
        ConnectionState::PeerClosed => Next::PeerClosed,
        ConnectionState::BlockedHandshake | ConnectionState::Closed => Next::More,
        // Early data is never accepted.
        other => return Err(Error::General(format!("unexpected state {other:?}"))),
    })
}
