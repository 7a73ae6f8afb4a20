// SPDX-License-Identifier: Apache-2.0
//! One TLS session without its socket: ciphertext in, plaintext out, and back. Over rustls' unbuffered interface, so that
//! it keeps no buffer of its own: bytes are decrypted where the socket left them, in the worker's scratch buffer.

use super::configs::Configs;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{CommonState, Error, HandshakeKind};
use std::net::IpAddr;
use std::sync::Arc;

/// The most ciphertext that is kept while the rest of it is awaited: the longest handshake message (64 KiB) in records.
/// A data record is a quarter of it.
pub(super) const MOST_KEPT: usize = 66 * 1024;

/// A TLS session.
pub(super) struct Session {
    side: Side,
    /// What came and is not yet whole.
    kept: Vec<u8>,
    /// What was said while nobody read: behind the handshake, in one packet with its end.
    early: Vec<u8>,
    /// What is to be sent, from `sent` on.
    outgoing: Vec<u8>,
    sent: usize,
    /// Whether the peer said that it will send no more.
    peer_closed: bool,
    /// Whether we said so.
    closed: bool,
}

/// Both are large.
enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What a step came to.
enum Next {
    /// There may be more in what is there.
    Again,
    /// More has to come.
    More,
    /// Whoever has something to say may.
    Speak,
    /// The peer will send no more.
    PeerClosed,
}

impl Session {
    /// The side that was dialled.
    pub(super) fn server(configs: &Configs) -> Result<Self, Error> {
        UnbufferedServerConnection::new(Arc::clone(&configs.server))
            .map(|side| Self::new(Side::Server(side.into())))
    }

    /// The side that dials; sessions with `to` are resumed.
    pub(super) fn client(configs: &Configs, to: IpAddr) -> Result<Self, Error> {
        UnbufferedClientConnection::new(Arc::clone(&configs.client), ServerName::IpAddress(to.into()))
            .map(|side| Self::new(Side::Client(side.into())))
    }

    fn new(side: Side) -> Self {
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
            Side::Server(side) => side,
            Side::Client(side) => side,
        }
    }

    /// Whether the handshake goes on. Not before it ended is the peer who it says it is: until then nothing is read from
    /// it nor said to it.
    pub(super) fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }

    pub(super) fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        self.state().peer_certificates()
    }

    /// Whether the session was resumed.
    pub(super) fn is_resumed(&self) -> bool {
        self.state().handshake_kind() == Some(HandshakeKind::Resumed)
    }

    pub(super) fn peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// Ciphertext that was kept; whatever comes is to be appended to it before it is processed.
    pub(super) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// What is to be sent.
    pub(super) fn unsent(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// So much of it was.
    pub(super) fn was_sent(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent >= self.outgoing.len() {
            // Nothing is held while there is nothing to hold.
            (self.outgoing, self.sent) = (Vec::new(), 0);
        }
    }

    /// Bytes of memory that are held for what is on its way.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.kept.capacity() + self.early.capacity() + self.outgoing.capacity()
    }

    /// This too is to be sent, after everything else that is.
    pub(super) fn send_later(&mut self, ciphertext: &[u8]) {
        self.outgoing.extend_from_slice(ciphertext);
    }

    /// Takes all that has come, what was kept at its front; keeps what is not whole. Hands out what was said.
    pub(super) fn process(&mut self, bytes: &mut [u8], mut said: impl FnMut(&[u8])) -> Result<(), Error> {
        let Self { side, outgoing, peer_closed, .. } = self;
        let (at, done) = run(side, bytes, outgoing, peer_closed, &mut said);
        // After an error, too: rustls remembers where in it it stands.
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

    /// As [`Self::process`], where nobody reads what is said.
    pub(super) fn process_early(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        let mut early = std::mem::take(&mut self.early);
        let done = self.process(bytes, |said| early.extend_from_slice(said));
        self.early = early;
        done
    }

    /// What was said while nobody read, once; `most` of it.
    pub(super) fn take_early(&mut self, most: usize) -> Vec<u8> {
        let rest = self.early.split_off(most.min(self.early.len()));
        std::mem::replace(&mut self.early, rest)
    }

    /// Keeps what there was no room for, to be read first.
    pub(super) fn put_back(&mut self, said: &[u8]) {
        self.early.extend_from_slice(said);
    }

    /// Encrypts into `out`, which has to have room for it and for 32 bytes more per 16 KiB; says how much that is.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let mut encrypted = Ok(0);
        self.speak(|writer| encrypted = writer.encrypt(plaintext, out))?;
        encrypted
    }

    /// Says that nothing more will be said.
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

    /// After an error: what the peer is to be told of it, if anything.
    pub(super) fn alert(&mut self) {
        let Self { side, kept, outgoing, .. } = self;
        // One step and no more: what is to be sent comes before what else is wrong with what came.
        let _ = match side {
            Side::Server(side) => step(side.process_tls_records(kept), outgoing, &mut |_| {}, None),
            Side::Client(side) => step(side.process_tls_records(kept), outgoing, &mut |_| {}, None),
        };
    }

    /// Comes to where one may speak. What has to be sent before goes to the outgoing bytes.
    fn speak(&mut self, mut speech: impl FnMut(&mut dyn Writer)) -> Result<(), Error> {
        let Self { side, kept, early, outgoing, peer_closed, .. } = self;
        let mut said = |said: &[u8]| early.extend_from_slice(said);
        loop {
            // With what is kept, though nothing new came: rustls remembers where in it it stands.
            let (discard, next) = match side {
                Side::Server(side) => {
                    step(side.process_tls_records(kept), outgoing, &mut said, Some(&mut speech))
                }
                Side::Client(side) => {
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

/// Processes until nothing more comes of it; says how much of it is done with.
fn run(
    side: &mut Side,
    bytes: &mut [u8],
    outgoing: &mut Vec<u8>,
    peer_closed: &mut bool,
    said: &mut dyn FnMut(&[u8]),
) -> (usize, Result<(), Error>) {
    let mut at = 0;
    loop {
        let rest = &mut bytes[at..];
        let (discard, next) = match side {
            Side::Server(side) => step(side.process_tls_records(rest), outgoing, said, None),
            Side::Client(side) => step(side.process_tls_records(rest), outgoing, said, None),
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

/// Where one may speak.
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

/// Does what one state of rustls' asks for; says how many bytes are done with, and what comes next.
fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
    said: &mut dyn FnMut(&[u8]),
    speech: Option<Speech<'_>>,
) -> (usize, Result<Next, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let next = state.and_then(|state| heed(state, &mut discard, outgoing, said, speech));
    (discard, next)
}

fn heed<Data>(
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
            // Whoever holds the session sends it.
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
        // Early data is never allowed.
        other => return Err(Error::General(format!("unexpected state {other:?}"))),
    })
}
