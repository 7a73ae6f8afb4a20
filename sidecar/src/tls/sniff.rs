// SPDX-License-Identifier: Apache-2.0
//! A client's protocol, found by its first bytes. Pure; a target of `sidecar/fuzz`.
//!
//! A mesh member's ClientHello offers the application protocol `kuma`, as those of Kong Mesh's own sidecars do, so both
//! understand each other. Any other TLS is the application's own.

use std::borrow::Cow;

/// The application protocol (ALPN) of TLS between mesh members.
pub(crate) const ALPN: &[u8] = b"kuma";

/// Longest ClientHello of a mesh member: it is below 2 KiB, post-quantum key shares included. A longer one is the
/// application's.
const LONGEST_HELLO: usize = 16 * 1024;

/// Bytes after which the answer is never [`First::NeedMore`]: the longest hello, and the heads of its records.
pub const MOST: usize = LONGEST_HELLO + 1024;

const RECORD_HEAD: usize = 5;
const HANDSHAKE_HEAD: usize = 4;
/// Most bytes of plaintext in a record (RFC 8446, 5.1).
const LONGEST_RECORD: usize = 16 * 1024;
pub(super) const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
/// The only type of server names (RFC 6066, 3).
const HOST_NAME: u8 = 0;

/// The protocol of a client's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// TLS of a mesh member: a ClientHello that offers [`ALPN`].
    MeshTls,
    /// TLS between the application and its client: any other ClientHello.
    OwnTls,
    /// Bytes that are not TLS.
    Plain,
    /// Too few bytes to decide; never from [`MOST`] bytes on.
    NeedMore,
}

/// Returns the protocol of a client by its first bytes. The answer does not depend on how they were cut on the way.
pub fn sniff(bytes: &[u8]) -> First {
    match hello(bytes, offers_mesh) {
        Hello::Whole(true) => First::MeshTls,
        Hello::Whole(false) | Hello::Unreadable => First::OwnTls,
        Hello::NotTls => First::Plain,
        Hello::NeedMore => First::NeedMore,
    }
}

/// The ClientHello in a client's first bytes.
pub(super) enum Hello<T> {
    /// It is whole: the answer about its body.
    Whole(T),
    /// It began as one, and is too long or goes on as something else.
    Unreadable,
    /// Other bytes.
    NotTls,
    /// Too few bytes to decide; never from [`MOST`] bytes on.
    NeedMore,
}

/// Looks for a ClientHello, and asks about its body.
pub(super) fn hello<T>(bytes: &[u8], ask: impl FnOnce(&[u8]) -> T) -> Hello<T> {
    match judge(&bytes[..bytes.len().min(MOST)], ask) {
        // Cut into very short records, which no client does.
        Hello::NeedMore if bytes.len() >= MOST => Hello::Unreadable,
        found => found,
    }
}

fn judge<T>(bytes: &[u8], ask: impl FnOnce(&[u8]) -> T) -> Hello<T> {
    let mut rest = bytes;
    // Nearly always in one piece; joined only if it is not.
    let mut hello: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let fragment = match Fragment::take(&mut rest) {
            Some(fragment) => fragment,
            None if hello.is_empty() => return Hello::NotTls,
            // It began as TLS, so the application has to judge it.
            None => return Hello::Unreadable,
        };
        if hello.is_empty() {
            hello = Cow::Borrowed(fragment.bytes);
        } else {
            hello.to_mut().extend_from_slice(fragment.bytes);
        }
        if hello.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Hello::NotTls;
        }
        if let Some(&[a, b, c]) = hello.get(1..HANDSHAKE_HEAD) {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if length > LONGEST_HELLO {
                return Hello::Unreadable;
            }
            if let Some(body) = hello.get(HANDSHAKE_HEAD..HANDSHAKE_HEAD + length) {
                return Hello::Whole(ask(body));
            }
        }
        if fragment.cut {
            return Hello::NeedMore;
        }
    }
}

/// A piece of a handshake message: the content of a record, as far as it has arrived.
struct Fragment<'a> {
    bytes: &'a [u8],
    /// True if more bytes of the record follow.
    cut: bool,
}

impl<'a> Fragment<'a> {
    /// Takes the next one; `None` if no handshake record begins here.
    fn take(rest: &mut &'a [u8]) -> Option<Self> {
        let head = &rest[..rest.len().min(RECORD_HEAD)];
        let fits = |at: usize, fits: fn(u8) -> bool| head.get(at).is_none_or(|byte| fits(*byte));
        if !fits(0, |kind| kind == CONTENT_HANDSHAKE)
            || !fits(1, |major| major == 3)
            || !fits(2, |minor| minor <= 4)
        {
            return None;
        }
        let &[_, _, _, high, low] = head else {
            return Some(Self { bytes: &[], cut: true });
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        // Empty handshake records are not allowed (RFC 8446, 5.1).
        if !(1..=LONGEST_RECORD).contains(&length) {
            return None;
        }
        let body = &rest[RECORD_HEAD..];
        let bytes = &body[..body.len().min(length)];
        *rest = &body[bytes.len()..];
        Some(Self { bytes, cut: bytes.len() < length })
    }
}

/// Returns true if a ClientHello offers [`ALPN`]; a malformed one offers nothing.
fn offers_mesh(hello: &[u8]) -> bool {
    alpn(hello).is_some_and(|mut names| {
        std::iter::from_fn(move || names.take_short_block()).any(|name| name == ALPN)
    })
}

/// Returns the extensions of a ClientHello; before TLS 1.3 there may be none.
fn extensions(hello: &[u8]) -> Option<Reader<'_>> {
    const VERSION_AND_RANDOM: usize = 2 + 32;
    let mut hello = Reader(hello.get(VERSION_AND_RANDOM..)?);
    let _session_id = hello.take_short_block()?;
    let _cipher_suites = hello.take_block()?;
    let _compressions = hello.take_short_block()?;
    if hello.0.is_empty() { Some(hello) } else { hello.take_block().map(Reader) }
}

/// Finds the application protocols that a ClientHello offers.
fn alpn(hello: &[u8]) -> Option<Reader<'_>> {
    let mut extensions = extensions(hello)?;
    loop {
        let kind = extensions.take_u16()?;
        let body = extensions.take_block()?;
        if kind == EXTENSION_ALPN {
            return Some(Reader(Reader(body).take_block()?));
        }
    }
}

/// The server name of a ClientHello (SNI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sni<'h> {
    /// Exactly one, of any bytes.
    Name(&'h [u8]),
    /// None.
    Absent,
    /// The ClientHello is malformed, or has several: servers may choose differently.
    Unreadable,
}

/// Finds the server name of a ClientHello by its body.
pub(super) fn server_name(hello: &[u8]) -> Sni<'_> {
    only_name(hello).unwrap_or(Sni::Unreadable)
}

fn only_name(hello: &[u8]) -> Option<Sni<'_>> {
    let mut extensions = extensions(hello)?;
    let mut found = Sni::Absent;
    while !extensions.0.is_empty() {
        let kind = extensions.take_u16()?;
        let mut body = Reader(extensions.take_block()?);
        if kind != EXTENSION_SERVER_NAME {
            continue;
        }
        let mut list = Reader(body.take_block()?);
        let (kind, name) = (list.take(1)?, list.take_block()?);
        let alone = found == Sni::Absent && list.0.is_empty() && body.0.is_empty();
        if !alone || kind != [HOST_NAME] {
            return None;
        }
        found = Sni::Name(name);
    }
    Some(found)
}

/// Takes length-prefixed blocks off the front of bytes.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn take_u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    /// Takes a block with a length of two bytes.
    fn take_block(&mut self) -> Option<&'a [u8]> {
        let length = self.take_u16()?;
        self.take(length.into())
    }

    /// Takes a block with a length of one byte.
    fn take_short_block(&mut self) -> Option<&'a [u8]> {
        let &[length] = self.take(1)? else { return None };
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A ClientHello with these application protocols.
    fn hello(protocols: &[&[u8]]) -> Vec<u8> {
        let block = |body: &[u8]| [&(body.len() as u16).to_be_bytes()[..], body].concat();
        let names: Vec<u8> =
            protocols.iter().flat_map(|name| [&[name.len() as u8][..], name].concat()).collect();
        let mut extensions = [&[0, 43][..], &block(&[2, 3, 4])].concat();
        if !protocols.is_empty() {
            extensions.extend([&[0, 16][..], &block(&block(&names))].concat());
        }
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(block(&extensions));
        [&[CLIENT_HELLO, 0][..], &block(&body)].concat()
    }

    /// A handshake message, cut into records of so many bytes.
    fn records(message: &[u8], of: usize) -> Vec<u8> {
        let record = |piece: &[u8]| {
            [&[CONTENT_HANDSHAKE, 3, 1][..], &(piece.len() as u16).to_be_bytes(), piece].concat()
        };
        message.chunks(of).flat_map(record).collect()
    }

    #[test]
    fn a_hello_is_known_by_the_protocol_that_it_offers() {
        for (name, protocols, expected) in [
            ("mesh", &[&b"kuma"[..]][..], First::MeshTls),
            ("mesh among others", &[b"h2", b"kuma", b"http/1.1"], First::MeshTls),
            ("another one", &[b"h2"], First::OwnTls),
            ("a longer one", &[b"kuma2"], First::OwnTls),
            ("a shorter one", &[b"kum"], First::OwnTls),
            ("none", &[], First::OwnTls),
        ] {
            let message = hello(protocols);
            for of in [1, 2, 3, 4, 5, 50, message.len()] {
                assert_eq!(sniff(&records(&message, of)), expected, "{name} in records of {of} bytes");
            }
        }
    }

    #[test]
    fn bytes_that_cannot_be_a_hello_are_plain_at_once() {
        for (name, bytes) in [
            ("HTTP", &b"G"[..]),
            ("a newline", b"\n"),
            ("an alert", &[21, 3, 3, 0, 2, 1, 0]),
            ("SSL 2", &[0x80, 0x2e, 1, 3, 1]),
            ("a handshake record of another version", &[22, 2]),
            ("a version of the future", &[22, 3, 5]),
            ("an empty handshake record", &[22, 3, 1, 0, 0]),
            ("a record that is too long", &[22, 3, 1, 0x40, 1]),
            ("another handshake message", &[22, 3, 1, 0, 5, 2]),
        ] {
            assert_eq!(sniff(bytes), First::Plain, "{name}");
        }
    }

    #[test]
    fn bytes_that_only_begin_as_tls_are_the_applications() {
        let mut cut = records(&hello(&[b"kuma"])[..20], 20);
        cut.extend(b"GET / HTTP/1.1\r\n");
        assert_eq!(sniff(&cut), First::OwnTls);
    }

    #[test]
    fn a_hello_that_is_too_long_or_never_ends_is_the_applications() {
        assert_eq!(sniff(&[22, 3, 1, 0, 50, CLIENT_HELLO, 0, 0x40, 1]), First::OwnTls);
        let endless = records(&[&[CLIENT_HELLO, 0, 0x40, 0][..], &[0; 16 * 1024]].concat(), 1);
        let undecided = (0..=endless.len()).take_while(|&n| sniff(&endless[..n]) == First::NeedMore).count();
        assert_eq!(undecided, MOST);
    }

    proptest! {
        /// Cut anywhere, the beginning of a hello says nothing yet, and the whole says what it is.
        #[test]
        fn the_answer_does_not_depend_on_how_the_bytes_arrive(of in 1usize..80, mesh: bool, at: prop::sample::Index) {
            let message = hello(if mesh { &[b"kuma"] } else { &[b"h2"] });
            let bytes = records(&message, of);
            let expected = if mesh { First::MeshTls } else { First::OwnTls };
            prop_assert_eq!(sniff(&bytes), expected);
            prop_assert_eq!(sniff(&bytes[..at.index(bytes.len())]), First::NeedMore);
        }

        /// More bytes never change an answer once it was given.
        #[test]
        fn an_answer_stands(mut bytes: Vec<u8>, tls: bool) {
            if tls {
                bytes.splice(0..0, [22, 3, 1, 0, 200, 1, 0, 0]);
            }
            let answers: Vec<_> = (0..=bytes.len()).map(|n| sniff(&bytes[..n])).collect();
            let first = answers.iter().position(|answer| *answer != First::NeedMore).unwrap_or(answers.len());
            prop_assert!(answers[first..].windows(2).all(|two| two[0] == two[1]), "{:?}", answers);
        }
    }
}
