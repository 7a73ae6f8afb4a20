// SPDX-License-Identifier: Apache-2.0
//! Finds the end of a head in bytes that come in any pieces.

use super::MAX_HEAD;
use crate::refusal::Refusal;
use httparse::{Error, Request, Response};
use memchr::memchr;

/// Kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response,
}

/// Progress of a scan. The bytes are given anew each time, those of the earlier scans in front.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Bytes that were looked at.
    at: u32,
    /// Start of the line that they end in.
    line: u32,
    /// Bytes of the first line, 0 while its end is not known.
    first: u32,
    /// True once the first line was read alone.
    read: bool,
}

// === impl Scan ===

impl Scan {
    /// Returns true if part of a head is there.
    pub(crate) fn began(self) -> bool {
        self.at > 0
    }

    /// Returns the length of the head, the empty line included, once it is whole.
    pub(crate) fn end(&mut self, bytes: &[u8], kind: Kind) -> Result<Option<usize>, Refusal> {
        let within = &bytes[..bytes.len().min(MAX_HEAD)];
        let found = self.look(within, kind);
        if matches!(found, Ok(Some(_))) {
            return found;
        }
        // The first line is read as soon as it is whole, so that a client that does not speak HTTP learns it at once.
        // It stands before the line that was refused, so its rule goes first in any case.
        if self.first > 0 && !self.read {
            self.read = true;
            read_first_line(&bytes[..self.first as usize], kind)?;
        }
        if found == Ok(None) && within.len() == MAX_HEAD {
            let in_request_line = self.first == 0 && kind == Kind::Request;
            return Err(if in_request_line { Refusal::TargetTooLong } else { Refusal::HeadTooLong });
        }
        found
    }

    fn look(&mut self, bytes: &[u8], kind: Kind) -> Result<Option<usize>, Refusal> {
        if self.first == 0 && !self.look_at_first_line(bytes, kind)? {
            return Ok(None);
        }
        let (mut at, mut line) = (self.at as usize, self.line as usize);
        while let Some(distance) = memchr(b'\n', &bytes[at..]) {
            let lf = at + distance;
            if lf == line || bytes[lf - 1] != b'\r' {
                return Err(Refusal::BareLf);
            }
            if lf == line + 1 {
                return Ok(Some(lf + 1));
            }
            if matches!(bytes[line], b' ' | b'\t') {
                return Err(Refusal::FoldedLine);
            }
            at = lf + 1;
            line = at;
        }
        // Neither is longer than a head may be.
        (self.at, self.line) = (bytes.len() as u32, line as u32);
        Ok(None)
    }

    /// Returns true once the first line is whole. Bytes that no first line has end the scan where they stand: binary
    /// protocols often have no LF for long.
    fn look_at_first_line(&mut self, bytes: &[u8], kind: Kind) -> Result<bool, Refusal> {
        let at = self.at as usize;
        let Some(distance) = first_control(&bytes[at..]) else {
            self.at = bytes.len() as u32;
            return Ok(false);
        };
        let control = at + distance;
        match (bytes[control], bytes.get(control + 1)) {
            // The parser would skip an empty line.
            (b'\r', Some(b'\n')) if control == 0 => Err(malformed(kind)),
            (b'\r', Some(b'\n')) => {
                let first = control as u32 + 2;
                (self.at, self.line, self.first) = (first, first, first);
                Ok(true)
            }
            (b'\r', None) => {
                self.at = control as u32;
                Ok(false)
            }
            (b'\r', Some(_)) => Err(Refusal::BareCr),
            (b'\n', _) => Err(Refusal::BareLf),
            _ => Err(Refusal::ControlByte),
        }
    }
}

/// Returns the place of the first control byte.
fn first_control(bytes: &[u8]) -> Option<usize> {
    let is_control = |byte: u8| (byte < b' ') & (byte != b'\t') | (byte == 0x7f);
    let cr = memchr(b'\r', bytes);
    let line = &bytes[..cr.unwrap_or(bytes.len())];
    // It is a CR in all messages of HTTP. Without an early end, the bytes before it are looked at by the vector.
    if !line.iter().fold(false, |found, byte| found | is_control(*byte)) {
        return cr;
    }
    line.iter().position(|byte| is_control(*byte))
}

/// Reads the first line of a head alone.
fn read_first_line(line: &[u8], kind: Kind) -> Result<(), Refusal> {
    let read = match kind {
        Kind::Request => Request::new(&mut []).parse(line),
        Kind::Response => Response::new(&mut []).parse(line),
    };
    read.map(|_| ()).map_err(|error| refusal(error, line, kind))
}

/// Returns the rule behind an error of the parser.
pub(super) fn refusal(error: Error, head: &[u8], kind: Kind) -> Refusal {
    let line = memchr(b'\r', head).map_or(head, |end| &head[..end]);
    match error {
        Error::HeaderName | Error::HeaderValue if has_bare_cr(head) => Refusal::BareCr,
        Error::HeaderName => Refusal::FieldName,
        Error::HeaderValue => Refusal::FieldValue,
        Error::TooManyHeaders => Refusal::TooManyFields,
        Error::Version if speaks_of_version(line, kind) => Refusal::Version,
        Error::NewLine | Error::Status | Error::Token | Error::Version => malformed(kind),
    }
}

/// Returns the rule of a malformed first line.
pub(super) fn malformed(kind: Kind) -> Refusal {
    match kind {
        Kind::Request => Refusal::RequestLine,
        Kind::Response => Refusal::StatusLine,
    }
}

fn has_bare_cr(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\r', head).any(|cr| head.get(cr + 1) != Some(&b'\n'))
}

/// Returns true if an unknown version stands where versions stand.
///
/// It is `HTTP/`, a digit, a dot and a digit.
fn speaks_of_version(line: &[u8], kind: Kind) -> bool {
    let mut parts = line.split(|byte| *byte == b' ');
    let version = match kind {
        // A fourth part means that there is a space too many.
        Kind::Request => parts.nth(2).filter(|_| parts.next().is_none()),
        Kind::Response => parts.next(),
    };
    matches!(version, Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
        if major.is_ascii_digit() && minor.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{Kind, Scan};
    use crate::head::MAX_HEAD;
    use crate::refusal::Refusal;

    #[test]
    fn a_head_of_sixty_kib_passes_and_a_byte_more_does_not() {
        let head = |bytes: usize, start: &[u8], end: &[u8]| {
            [start, vec![b'x'; bytes - start.len() - end.len()].as_slice(), end].concat()
        };
        let line = |bytes| head(bytes, b"GET /", b" HTTP/1.1\r\n\r\n");
        let field = |bytes| head(bytes, b"GET / HTTP/1.1\r\nA: ", b"\r\n\r\n");
        let status = |bytes| head(bytes, b"HTTP/1.1 200 ", b"\r\n\r\n");
        for (kind, head, rule) in [
            // The request line itself is within, so it is the rest of the head that is too long.
            (Kind::Request, &line as &dyn Fn(usize) -> Vec<u8>, Refusal::HeadTooLong),
            (Kind::Request, &field, Refusal::HeadTooLong),
            (Kind::Response, &status, Refusal::HeadTooLong),
        ] {
            assert_eq!(Scan::default().end(&head(MAX_HEAD), kind), Ok(Some(MAX_HEAD)));
            assert_eq!(Scan::default().end(&head(MAX_HEAD + 1), kind), Err(rule));
            assert_eq!(Scan::default().end(&head(MAX_HEAD + 1)[..MAX_HEAD], kind), Err(rule));
            assert_eq!(Scan::default().end(&head(MAX_HEAD)[..MAX_HEAD - 1], kind), Ok(None));
        }
        for (kind, rule) in [(Kind::Request, Refusal::TargetTooLong), (Kind::Response, Refusal::HeadTooLong)]
        {
            let line = vec![b'x'; MAX_HEAD + 5];
            assert_eq!(Scan::default().end(&line[..MAX_HEAD - 1], kind), Ok(None));
            assert_eq!(Scan::default().end(&line[..MAX_HEAD], kind), Err(rule));
            assert_eq!(Scan::default().end(&line, kind), Err(rule));
        }
    }

    #[test]
    fn a_client_that_speaks_no_http_is_refused_at_its_first_line() {
        for (bytes, rule) in [
            (&b"\x16\x03\x01\x02"[..], Refusal::ControlByte),
            (b"GET /\0", Refusal::ControlByte),
            (b"GET /\x7f", Refusal::ControlByte),
            // The first one counts, also where a CR follows.
            (b"GET /\x01 HTTP/1.1\r\n", Refusal::ControlByte),
            (b"GET /\n HTTP/1.1\r\n", Refusal::BareLf),
            (b"GET / HTTP/1.1\rX", Refusal::BareCr),
            (b"GET / HTTP/1.1\n", Refusal::BareLf),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", Refusal::RequestLine),
            (b"EHLO there\r\n", Refusal::RequestLine),
            (b"GET /\r\n", Refusal::RequestLine),
            (b"GET  / HTTP/1.1\r\n", Refusal::RequestLine),
            (b"GET / HTTP/1.1 \r\n", Refusal::RequestLine),
            (b"GET / HTTP/1.2 \r\n", Refusal::RequestLine),
            (b"GET /a b HTTP/1.1\r\n", Refusal::RequestLine),
            (b"GET\t/ HTTP/1.1\r\n", Refusal::RequestLine),
            (b" GET / HTTP/1.1\r\n", Refusal::RequestLine),
            (b"GET / http/1.1\r\n", Refusal::RequestLine),
            (b"GET / HTTP/11\r\n", Refusal::RequestLine),
            (b"GET / HTTP/1.2\r\n", Refusal::Version),
            (b"GET / HTTP/0.9\r\n", Refusal::Version),
            (b"PRI * HTTP/2.0\r\n", Refusal::Version),
            // The first line goes first, though a later one is the one that the scan stumbles on.
            (b"GET  / HTTP/1.1\r\nA: b\n", Refusal::RequestLine),
        ] {
            for pieces in 1..=bytes.len() {
                let mut scan = Scan::default();
                let ends = (1..=pieces).map(|n| bytes.len() * n / pieces);
                let found =
                    ends.map(|end| scan.end(&bytes[..end], Kind::Request)).find(|found| *found != Ok(None));
                assert_eq!(found, Some(Err(rule)), "{}", bytes.escape_ascii());
            }
        }
        for line in [
            &b"ICY 200 OK\r\n"[..],
            b"HTTP/1.1200 OK\r\n",
            b"HTTP/1.1 20 OK\r\n",
            b"HTTP/1.1 2000\r\n",
            b"\r\n",
        ] {
            let found = Scan::default().end(line, Kind::Response);
            assert_eq!(found, Err(Refusal::StatusLine), "{}", line.escape_ascii());
        }
        assert_eq!(Scan::default().end(b"HTTP/2.0 200 OK\r\n", Kind::Response), Err(Refusal::Version));
    }
}
