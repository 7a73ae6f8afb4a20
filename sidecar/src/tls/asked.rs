// SPDX-License-Identifier: Apache-2.0
//! The server's name that a client asks for in its first bytes: by the ClientHello of TLS, or the first request of HTTP/1.
//! Pure; a target of `sidecar/fuzz`.
//!
//! Bytes that two readers may understand differently have no name: two hosts, a host in the target that is not the header's, a
//! line that ends in LF alone. So the server cannot see another host than the one that was let out.

use super::sniff::{self, CONTENT_HANDSHAKE, Hello, Sni};
use crate::plan::outside::{Asks, Says};
use culvert_mesh::model::host_name::host_name;
use httparse::{EMPTY_HEADER, Request, Status};

/// Longest head of a request. Node.js takes 16 KiB too, nginx 32, Envoy 60; the host stands at its beginning as a rule, but
/// only the whole head shows that there is no second one.
const LONGEST_HEAD: usize = 16 * 1024;

/// Most headers of a request; Envoy and Apache take 100 too.
const MOST_HEADERS: usize = 100;

/// Bytes after which the answer is never [`Asked::NeedMore`].
pub const MOST: usize = if LONGEST_HEAD > sniff::MOST { LONGEST_HEAD } else { sniff::MOST };

/// The server's name that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A host's name.
    Name {
        /// The protocol that says it.
        says: Says,
        /// The name, in lower case and without a dot at its end.
        name: String,
        /// The port that stands beside it, if any.
        port: Option<u16>,
    },
    /// There is none to go by.
    Nothing(Nameless),
    /// Too few bytes to decide.
    NeedMore,
}

/// The reason for which a client's first bytes have no name to go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Nameless {
    /// Bytes of a protocol that no match by name is for.
    #[error("speaks another protocol than the matches for this port have (tls or http)")]
    OtherProtocol,
    /// A ClientHello without the extension.
    #[error("speaks TLS without a server name")]
    NoServerName,
    /// A ClientHello that is broken, too long, or has several names.
    #[error("sent a ClientHello that cannot be read, or has several server names")]
    BadHello,
    /// Bytes that are no request of HTTP/1.
    #[error("sent no request of HTTP/1.0 or HTTP/1.1")]
    NoRequest,
    /// A head that is too long.
    #[error("sent a request whose head has more than 16 KiB or 100 headers")]
    LongHead,
    /// A request without a host.
    #[error("sent a request without a host")]
    NoHost,
    /// Two hosts.
    #[error("sent a request with several hosts")]
    ManyHosts,
    /// CONNECT.
    #[error("asked for a tunnel (CONNECT)")]
    Tunnel,
    /// An address, or text that no host is named.
    #[error("asked for something that is no host's name, as an address")]
    BadName,
    /// No whole ClientHello or head in time.
    #[error("did not say it within 1 s")]
    Silent,
    /// FIN before it.
    #[error("closed before it said it")]
    Gone,
}

/// Reads the name that first bytes ask for, in a protocol that matches are for. The answer does not depend on how the bytes were
/// cut on the way.
pub fn read(bytes: &[u8], asks: Asks) -> Asked {
    let Some(first) = bytes.first() else { return Asked::NeedMore };
    // No method of HTTP begins with the type of a TLS record.
    let tls = *first == CONTENT_HANDSHAKE;
    let read = match (tls, asks) {
        (true, Asks { tls: true, .. }) => of_hello(bytes),
        (false, Asks { http: true, .. }) => of_head(bytes),
        _ => Err(Nameless::OtherProtocol),
    };
    read.map_or_else(Asked::Nothing, |asked| asked.unwrap_or(Asked::NeedMore))
}

/// Reads the server name of a ClientHello; `None` where bytes are missing.
fn of_hello(bytes: &[u8]) -> Result<Option<Asked>, Nameless> {
    let named = |hello: &[u8]| match sniff::server_name(hello) {
        Sni::Name(name) => std::str::from_utf8(name).ok().and_then(host_name).ok_or(Nameless::BadName),
        Sni::Absent => Err(Nameless::NoServerName),
        Sni::Unreadable => Err(Nameless::BadHello),
    };
    match sniff::hello(bytes, named) {
        Hello::Whole(name) => Ok(Some(Asked::Name { says: Says::Tls, name: name?, port: None })),
        Hello::Unreadable => Err(Nameless::BadHello),
        Hello::NotTls => Err(Nameless::OtherProtocol),
        Hello::NeedMore => Ok(None),
    }
}

/// Reads the host of a request; `None` where bytes are missing.
fn of_head(bytes: &[u8]) -> Result<Option<Asked>, Nameless> {
    let bytes = &bytes[..bytes.len().min(LONGEST_HEAD)];
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < LONGEST_HEAD => return Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Nameless::LongHead),
        Err(_) => return Err(Nameless::NoRequest),
    };
    let head = &bytes[..length];
    // The parser takes LF for the end of a line, which not all servers do.
    let bare = |(at, byte): (usize, &u8)| *byte == b'\n' && (at == 0 || head[at - 1] != b'\r');
    if head.iter().enumerate().any(bare) {
        return Err(Nameless::NoRequest);
    }
    let in_target = of_target(request.method.unwrap_or_default(), request.path.unwrap_or_default())?;
    let mut hosts = request.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let in_header = hosts.next().map(|host| authority(host.value)).transpose()?;
    if hosts.next().is_some() {
        return Err(Nameless::ManyHosts);
    }
    let (name, port) = match (in_target, in_header) {
        (None, None) => return Err(Nameless::NoHost),
        (Some(one), None) | (None, Some(one)) => one,
        // A server goes by either.
        (Some((name, port)), Some((other, other_port))) => {
            let same_port = port.zip(other_port).is_none_or(|(port, other)| port == other);
            if name != other || !same_port {
                return Err(Nameless::ManyHosts);
            }
            (name, port.or(other_port))
        }
    };
    Ok(Some(Asked::Name { says: Says::Http, name, port }))
}

/// A host and its port.
type Authority = (String, Option<u16>);

/// Reads the host of a request's target in absolute form (`http://host/path`); `None` for a path.
fn of_target(method: &str, target: &str) -> Result<Option<Authority>, Nameless> {
    if method.eq_ignore_ascii_case("CONNECT") {
        return Err(Nameless::Tunnel);
    }
    if target.starts_with('/') || target == "*" {
        return Ok(None);
    }
    let (scheme, rest) = target.split_once("://").ok_or(Nameless::NoRequest)?;
    if !["http", "https"].iter().any(|one| scheme.eq_ignore_ascii_case(one)) {
        return Err(Nameless::NoRequest);
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    authority(&rest.as_bytes()[..end]).map(Some)
}

/// Reads `host`, `host:port` or `host:`.
fn authority(bytes: &[u8]) -> Result<Authority, Nameless> {
    let text = std::str::from_utf8(bytes).map_err(|_| Nameless::BadName)?.trim_matches([' ', '\t']);
    if text.is_empty() {
        return Err(Nameless::NoHost);
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, "")) => (host, None),
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host, Some(port.parse().map_err(|_| Nameless::BadName)?))
        }
        Some(_) => return Err(Nameless::BadName),
        None => (text, None),
    };
    Ok((host_name(host).ok_or(Nameless::BadName)?, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: Asks = Asks { tls: true, http: true };

    fn name(says: Says, name: &str, port: Option<u16>) -> Asked {
        Asked::Name { says, name: name.into(), port }
    }

    /// A ClientHello with these extensions, each its type and body, in records of so many bytes.
    fn hello(extensions: &[(u16, &[u8])], record: usize) -> Vec<u8> {
        let block = |body: &[u8]| [&u16::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
        let extensions: Vec<u8> = extensions
            .iter()
            .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &block(body)].concat())
            .collect();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(block(&extensions));
        let message = [&[1, 0][..], &block(&body)].concat();
        let record_of = |piece: &[u8]| [&[22, 3, 1][..], &block(piece)].concat();
        message.chunks(record).flat_map(record_of).collect()
    }

    /// The body of the extension for server names, of these types and names.
    fn names(of: &[(u8, &str)]) -> Vec<u8> {
        let one = |(kind, name): &(u8, &str)| {
            [&[*kind][..], &u16::try_from(name.len()).unwrap().to_be_bytes(), name.as_bytes()].concat()
        };
        let list: Vec<u8> = of.iter().flat_map(one).collect();
        [&u16::try_from(list.len()).unwrap().to_be_bytes()[..], &list].concat()
    }

    fn with_name(text: &str) -> Vec<u8> {
        hello(&[(43, &[2, 3, 4]), (0, &names(&[(0, text)])), (16, &[0, 3, 2, b'h', b'2'])], 1 << 14)
    }

    #[test]
    fn a_hello_says_one_server_name() {
        use Nameless::{BadHello, BadName, NoServerName};
        let sni = |list: &[(u8, &str)]| hello(&[(0, &names(list))], 1 << 14);
        for (row, bytes, expected) in [
            ("a name", with_name("example.com"), name(Says::Tls, "example.com", None)),
            (
                "upper case, and a dot",
                with_name("WWW.Example.COM."),
                name(Says::Tls, "www.example.com", None),
            ),
            ("no extension", hello(&[(43, &[2, 3, 4])], 1 << 14), Asked::Nothing(NoServerName)),
            ("no extensions", hello(&[], 1 << 14), Asked::Nothing(NoServerName)),
            ("an address", with_name("10.0.0.1"), Asked::Nothing(BadName)),
            ("an address of IPv6", with_name("::1"), Asked::Nothing(BadName)),
            ("an empty name", with_name(""), Asked::Nothing(BadName)),
            ("a wildcard", with_name("*.example.com"), Asked::Nothing(BadName)),
            ("a line feed", with_name("a.b\nc"), Asked::Nothing(BadName)),
            ("a NUL", with_name("example.com\0.evil"), Asked::Nothing(BadName)),
            ("a long name", with_name(&"a.".repeat(2000)), Asked::Nothing(BadName)),
            ("two names", sni(&[(0, "a.b"), (0, "c.d")]), Asked::Nothing(BadHello)),
            ("another type of name", sni(&[(1, "a.b")]), Asked::Nothing(BadHello)),
            ("no name in the list", sni(&[]), Asked::Nothing(BadHello)),
            ("an empty extension", hello(&[(0, &[])], 1 << 14), Asked::Nothing(BadHello)),
            (
                "the extension twice",
                hello(&[(0, &names(&[(0, "a.b")])), (0, &names(&[(0, "a.b")]))], 1 << 14),
                Asked::Nothing(BadHello),
            ),
            (
                "a length that is not there",
                hello(&[(0, &[0, 9, 0, 0, 3, b'a'])], 1 << 14),
                Asked::Nothing(BadHello),
            ),
            (
                "bytes behind the list",
                hello(&[(0, &[&names(&[(0, "a.b")])[..], &[1]].concat())], 1 << 14),
                Asked::Nothing(BadHello),
            ),
        ] {
            assert_eq!(read(&bytes, BOTH), expected, "{row}");
        }
        for of in [1, 2, 3, 60, 80] {
            let records = hello(&[(0, &names(&[(0, "example.com")]))], of);
            assert_eq!(read(&records, BOTH), name(Says::Tls, "example.com", None), "records of {of} bytes");
        }
    }

    #[test]
    fn a_head_says_one_host() {
        use Nameless::{BadName, LongHead, ManyHosts, NoHost, NoRequest, Tunnel};
        let long = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a.b\r\nX: {}\r\n\r\n", "x".repeat(bytes));
        let many =
            |headers: usize| format!("GET / HTTP/1.1\r\nHost: a.b\r\n{}\r\n", "X: y\r\n".repeat(headers));
        let fits = LONGEST_HEAD - long(0).len();
        let get = |lines: &str| format!("GET / HTTP/1.1\r\n{lines}\r\n");
        let none = Asked::Nothing;
        let host = |port| name(Says::Http, "example.com", port);
        for (row, head, expected) in [
            ("a host", get("Host: example.com\r\n"), host(None)),
            ("upper case", get("HOST: EXAMPLE.Com\r\n"), host(None)),
            ("a port", get("host:example.com:8080\r\n"), host(Some(8080))),
            ("an empty port", get("Host: example.com:\r\n"), host(None)),
            ("blanks", get("Host: \t example.com \t\r\n"), host(None)),
            ("a dot at the end", get("Host: example.com.:80\r\n"), host(Some(80))),
            ("among others", get("A: b\r\nHost: example.com\r\nC: d\r\n"), host(None)),
            ("HTTP/1.0", "GET / HTTP/1.0\r\nHost: example.com\r\n\r\n".into(), host(None)),
            (
                "a body",
                get("Host: example.com\r\nContent-Length: 30\r\n") + "Host: evil.test\r\n\r\n",
                host(None),
            ),
            ("a second request", get("Host: example.com\r\n") + &get("Host: evil.test\r\n"), host(None)),
            ("every resource", "OPTIONS * HTTP/1.1\r\nHost: example.com\r\n\r\n".into(), host(None)),
            ("two slashes", "GET //evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n".into(), host(None)),
            (
                "absolute form",
                "GET http://Example.com/a HTTP/1.1\r\nHost: example.com\r\n\r\n".into(),
                host(None),
            ),
            (
                "absolute form with a port",
                "GET HTTP://example.com:80?a HTTP/1.1\r\nHost: example.com\r\n\r\n".into(),
                host(Some(80)),
            ),
            ("absolute form alone", "GET http://example.com/ HTTP/1.0\r\n\r\n".into(), host(None)),
            (
                "absolute form of another",
                "GET http://evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n".into(),
                none(ManyHosts),
            ),
            (
                "absolute form, another port",
                "GET http://example.com:81/ HTTP/1.1\r\nHost: example.com:80\r\n\r\n".into(),
                none(ManyHosts),
            ),
            (
                "a user",
                "GET http://example.com@evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n".into(),
                none(BadName),
            ),
            (
                "a backslash",
                "GET http://example.com\\@evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n".into(),
                none(BadName),
            ),
            (
                "another scheme",
                "GET ftp://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n".into(),
                none(NoRequest),
            ),
            ("no form", "GET example.com HTTP/1.1\r\nHost: example.com\r\n\r\n".into(), none(NoRequest)),
            (
                "a tunnel",
                "CONNECT example.com:80 HTTP/1.1\r\nHost: example.com:80\r\n\r\n".into(),
                none(Tunnel),
            ),
            ("two hosts", get("Host: example.com\r\nHost: example.com\r\n"), none(ManyHosts)),
            ("two hosts far apart", get("Host: example.com\r\nA: b\r\nhOsT: evil.test\r\n"), none(ManyHosts)),
            ("two hosts in one", get("Host: example.com, evil.test\r\n"), none(BadName)),
            ("no host", get("A: b\r\n"), none(NoHost)),
            ("an empty host", get("Host: \r\n"), none(NoHost)),
            ("an address", get("Host: 10.0.0.1:80\r\n"), none(BadName)),
            ("an address of IPv6", get("Host: [::1]:80\r\n"), none(BadName)),
            ("an address of IPv6 alone", get("Host: [::1]\r\n"), none(BadName)),
            ("a port that is none", get("Host: example.com:70000\r\n"), none(BadName)),
            ("a port of text", get("Host: example.com:http\r\n"), none(BadName)),
            ("a folded line", get("Host: example.com\r\n evil.test\r\n"), none(NoRequest)),
            ("a blank before the colon", get("Host : example.com\r\n"), none(NoRequest)),
            ("LF alone", "GET / HTTP/1.1\nHost: example.com\n\n".into(), none(NoRequest)),
            ("LF alone somewhere", get("A: b\nHost: example.com\r\n"), none(NoRequest)),
            ("a NUL", get("Host: example.com\0\r\n"), none(NoRequest)),
            ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), none(NoRequest)),
            ("SSH", "SSH-2.0-OpenSSH_9.6\r\n".into(), none(NoRequest)),
            ("as long as allowed", long(fits), name(Says::Http, "a.b", None)),
            ("longer", long(fits + 1), none(LongHead)),
            ("64 KiB", long(64 << 10), none(LongHead)),
            ("as many headers as allowed", many(MOST_HEADERS - 1), name(Says::Http, "a.b", None)),
            ("more headers", many(MOST_HEADERS), none(LongHead)),
        ] {
            assert_eq!(read(head.as_bytes(), BOTH), expected, "{row}");
        }
    }

    #[test]
    fn a_protocol_that_no_match_is_for_is_told_at_its_first_byte() {
        let none = Asks::default();
        for (asks, byte) in
            [(Asks { tls: true, ..none }, b'G'), (Asks { http: true, ..none }, 22), (none, b'G')]
        {
            assert_eq!(read(&[byte], asks), Asked::Nothing(Nameless::OtherProtocol), "{byte}");
            assert_eq!(read(&[], asks), Asked::NeedMore);
        }
        for bytes in [&b"\0"[..], b"\r\n\0", b"\x80\x2e\x01\x03\x01", &[22, 2]] {
            assert!(matches!(read(bytes, BOTH), Asked::Nothing(_)), "{bytes:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        /// Random first bytes never panic, and at the bound there is always an answer.
        #[test]
        fn any_bytes_have_an_answer_at_the_bound(start in prop::sample::select(vec!["", "GET ", "\x16\x03\x01", "G", "\r\n"]), bytes: Vec<u8>) {
            let mut all = [start.as_bytes(), &bytes].concat();
            read(&all, BOTH);
            all.resize(MOST, b'x');
            prop_assert_ne!(read(&all, BOTH), Asked::NeedMore);
        }

        /// Cut anywhere, a beginning says nothing yet, and the whole says what it is.
        #[test]
        fn the_answer_does_not_depend_on_how_the_bytes_arrive(of in 1usize..90, tls: bool, at: prop::sample::Index) {
            let head = b"POST /a?b HTTP/1.1\r\nA: b\r\nHost: Example.com:80\r\nC: d\r\n\r\n".to_vec();
            let bytes = if tls { hello(&[(0, &names(&[(0, "example.com")]))], of) } else { head };
            let is_named = matches!(read(&bytes, BOTH), Asked::Name { .. });
            prop_assert!(is_named);
            prop_assert_eq!(read(&bytes[..at.index(bytes.len())], BOTH), Asked::NeedMore);
        }

        /// More bytes never change an answer once it was given.
        #[test]
        fn an_answer_stands(start in prop::sample::select(vec!["", "GET / HTTP/1.1\r\n", "\x16\x03\x01\x00\x50\x01\x00\x00"]), bytes: Vec<u8>) {
            let all = [start.as_bytes(), &bytes].concat();
            let answers: Vec<_> = (0..=all.len()).map(|n| read(&all[..n], BOTH)).collect();
            let first = answers.iter().position(|answer| *answer != Asked::NeedMore).unwrap_or(answers.len());
            prop_assert!(answers[first..].windows(2).all(|two| two[0] == two[1]), "{:?}", answers);
        }
    }
}
