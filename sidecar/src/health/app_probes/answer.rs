// SPDX-License-Identifier: Apache-2.0
//! An application's answer to an HTTP/1 request, read as a kubelet (Go's `net/http`) reads it: informational answers are
//! passed over, the body is read up to 10 KiB, and an answer that breaks off is none.
//!
//! By hand: hyper's client takes fewer answers than Go does, and would keep heads in memory that count for nothing here.

use std::fmt;

/// Decoded bytes of the body that a kubelet reads.
const BODY: u64 = 10 * 1024;
/// Bytes of all heads, as in Go. They are read and not kept.
const HEADS: u64 = 10 << 20;
/// Bytes of a line that are kept. A `Location` that is longer is not followed.
const LINE: usize = 4096;

/// An answer that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    StatusLine,
    Header,
    Length,
    Encoding,
    Chunk,
    TooLong,
    Cut,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::StatusLine => "it does not speak HTTP",
            Self::Header => "its answer has a header line without a colon",
            Self::Length => "its answer has no clear Content-Length",
            Self::Encoding => "its answer has another Transfer-Encoding than chunked",
            Self::Chunk => "its answer has a chunk that is malformed",
            Self::TooLong => "its answer has too long a head",
            Self::Cut => "its answer breaks off",
        })
    }
}

impl std::error::Error for Malformed {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    StatusLine,
    Headers,
    /// So many bytes of the body, or of a chunk, are to come.
    Length(u64),
    UntilEnd,
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    Whole,
}

/// An answer, as far as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    state: State,
    /// The beginning of the line that is being read.
    line: Vec<u8>,
    line_is_cut: bool,
    heads: u64,
    body: u64,
    /// The body, where it is wanted. Then all of it is read.
    kept: Option<Vec<u8>>,
    head: Head,
}

/// The parts of a head that matter.
#[derive(Debug, Default)]
struct Head {
    status: u16,
    is_http_1_0: bool,
    chunked: bool,
    length: Option<u64>,
    location: Option<String>,
    /// A header line came.
    has_lines: bool,
}

impl Answer {
    pub(crate) fn new() -> Self {
        Self {
            state: State::StatusLine,
            line: Vec::new(),
            line_is_cut: false,
            heads: 0,
            body: 0,
            kept: None,
            head: Head::default(),
        }
    }

    /// An answer whose body is kept. The caller bounds it, by [`Self::kept`].
    pub(crate) fn keeping_body() -> Self {
        Self { kept: Some(Vec::new()), ..Self::new() }
    }

    /// The body, as far as it came and is kept.
    pub(crate) fn kept(&self) -> &[u8] {
        self.kept.as_deref().unwrap_or_default()
    }

    /// Returns the body that was kept.
    pub(crate) fn into_body(self) -> Vec<u8> {
        self.kept.unwrap_or_default()
    }

    /// The status of the final answer. 0 before it is whole.
    pub(crate) fn status(&self) -> u16 {
        if self.state == State::Whole { self.head.status } else { 0 }
    }

    /// The value of `Location`.
    pub(super) fn location(&self) -> Option<&str> {
        self.head.location.as_deref()
    }

    /// Takes what came. Returns true once no more is needed.
    pub(crate) fn take(&mut self, mut came: &[u8]) -> Result<bool, Malformed> {
        while !came.is_empty() && self.state != State::Whole {
            came = match self.state {
                State::Length(left) => self.skip(came, left, State::Whole, State::Length),
                State::Chunk(left) => self.skip(came, left, State::ChunkEnd, State::Chunk),
                State::UntilEnd => self.skip(came, u64::MAX, State::Whole, |_| State::UntilEnd),
                _ => self.read_line(came)?,
            };
        }
        Ok(self.state == State::Whole)
    }

    /// Takes the end of the stream.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::UntilEnd | State::Whole => {
                self.state = State::Whole;
                Ok(())
            }
            State::StatusLine if self.heads == 0 => Err(Malformed::StatusLine),
            _ => Err(Malformed::Cut),
        }
    }

    /// Passes over bytes of the body; returns those behind.
    fn skip<'a>(&mut self, came: &'a [u8], left: u64, then: State, more: fn(u64) -> State) -> &'a [u8] {
        let taken = came.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.body += taken as u64;
        let left = left - taken as u64;
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(&came[..taken]);
        }
        self.state = if self.kept.is_none() && self.body >= BODY {
            // A kubelet reads no further, and does not mind.
            State::Whole
        } else if left == 0 {
            then
        } else {
            more(left)
        };
        &came[taken..]
    }

    /// Takes bytes up to the end of a line; returns those behind.
    fn read_line<'a>(&mut self, came: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let end = came.iter().position(|byte| *byte == b'\n');
        let (line, rest) = came.split_at(end.map_or(came.len(), |at| at + 1));
        self.heads += line.len() as u64;
        if self.heads > HEADS {
            return Err(Malformed::TooLong);
        }
        let kept = line.len().min(LINE - self.line.len());
        self.line.extend_from_slice(&line[..kept]);
        self.line_is_cut |= kept < line.len();
        if end.is_some() {
            let mut line = std::mem::take(&mut self.line);
            let is_cut = std::mem::take(&mut self.line_is_cut);
            while line.pop_if(|last| matches!(last, b'\n' | b'\r')).is_some() {}
            self.state = self.after(&line, is_cut)?;
        }
        Ok(rest)
    }

    /// Returns the state that follows a line.
    fn after(&mut self, line: &[u8], is_cut: bool) -> Result<State, Malformed> {
        match self.state {
            State::StatusLine => {
                let (status, is_http_1_0) = status_line(line).ok_or(Malformed::StatusLine)?;
                self.head = Head { status, is_http_1_0, ..Head::default() };
                Ok(State::Headers)
            }
            State::Headers if line.is_empty() => self.head.body(),
            State::Headers => self.head.take(line, is_cut).map(|()| State::Headers),
            State::ChunkSize => match chunk_size(line).filter(|_| !is_cut) {
                Some(0) => Ok(State::Trailers),
                Some(size) => Ok(State::Chunk(size)),
                None => Err(Malformed::Chunk),
            },
            State::ChunkEnd if line.is_empty() => Ok(State::ChunkSize),
            State::ChunkEnd => Err(Malformed::Chunk),
            State::Trailers if line.is_empty() => Ok(State::Whole),
            state => Ok(state),
        }
    }
}

impl Head {
    /// Takes a header line.
    fn take(&mut self, line: &[u8], is_cut: bool) -> Result<(), Malformed> {
        let first = !std::mem::replace(&mut self.has_lines, true);
        if matches!(line[0], b' ' | b'\t') {
            // Goes on with the line before, in the way of old.
            return if first { Err(Malformed::Header) } else { Ok(()) };
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Malformed::Header)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length =
                number(value, 10).filter(|length| self.length.is_none_or(|before| before == *length));
            self.length = Some(length.ok_or(Malformed::Length)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") && !self.is_http_1_0 {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Encoding);
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"location") && self.location.is_none() {
            if is_cut {
                return Err(Malformed::TooLong);
            }
            self.location = Some(String::from_utf8_lossy(value).into_owned());
        }
        Ok(())
    }

    /// Returns the state behind the head.
    fn body(&self) -> Result<State, Malformed> {
        Ok(match self.status {
            // The one that is final. A kubelet asks for no other protocol.
            101 => State::Whole,
            100..=199 => State::StatusLine,
            204 | 304 => State::Whole,
            _ if self.chunked => State::ChunkSize,
            _ => match self.length {
                Some(0) => State::Whole,
                Some(length) => State::Length(length),
                None => State::UntilEnd,
            },
        })
    }
}

/// Parses `HTTP/1.1 204 No Content`; the words behind the number are the application's own, or missing. Returns the number,
/// and true for HTTP/1.0.
fn status_line(line: &[u8]) -> Option<(u16, bool)> {
    let at = line.iter().position(|byte| *byte == b' ')?;
    let version = line[..at].strip_prefix(b"HTTP/")?;
    let &[major, b'.', minor] = version else { return None };
    if !major.is_ascii_digit() || !minor.is_ascii_digit() {
        return None;
    }
    let rest = line[at..].trim_ascii_start();
    let status = rest.split(|byte| *byte == b' ').next().filter(|status| status.len() == 3)?;
    let status = u16::try_from(number(status, 10)?).ok()?;
    Some((status, (major, minor) < (b'1', b'1')))
}

/// Parses the size of a chunk, in front of its extensions.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let size = line.split(|byte| *byte == b';').next()?;
    number(size.trim_ascii_end(), 16)
}

/// Parses digits, and nothing but digits.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let digits = std::str::from_utf8(text).ok()?;
    let fits = !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
    fits.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outcome of an answer that comes in pieces of so many bytes, and then ends.
    fn read(text: &str, piece: usize) -> Result<u16, Malformed> {
        let mut answer = Answer::new();
        for piece in text.as_bytes().chunks(piece) {
            if answer.take(piece)? {
                return Ok(answer.status());
            }
        }
        answer.end().map(|()| answer.status())
    }

    #[test]
    fn answers_are_read_as_by_go() {
        let long = "x".repeat(LINE * 3);
        let body = "x".repeat(BODY as usize);
        let rows: &[(&str, String, Result<u16, Malformed>)] = &[
            ("the usual", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".into(), Ok(200)),
            ("no words", "HTTP/1.1 503\r\n\r\n".into(), Ok(503)),
            ("no words but a space", "HTTP/1.1 503 \r\n\r\n".into(), Ok(503)),
            ("odd words", "HTTP/1.1 200 \u{e4}\t: so what\r\n\r\n".into(), Ok(200)),
            ("long words", format!("HTTP/1.1 200 {long}\r\n\r\n"), Ok(200)),
            ("more spaces", "HTTP/1.1   200 OK\r\n\r\n".into(), Ok(200)),
            ("bare line feeds", "HTTP/1.1 200 OK\nA: b\n\nok".into(), Ok(200)),
            ("HTTP/1.0 until the end", "HTTP/1.0 200 OK\r\n\r\nok".into(), Ok(200)),
            ("another version", "HTTP/2.0 200 OK\r\n\r\n".into(), Ok(200)),
            ("no version", "HTTP 200 OK\r\n\r\n".into(), Err(Malformed::StatusLine)),
            ("another protocol", "SSH-2.0-x\r\n".into(), Err(Malformed::StatusLine)),
            ("no status", "HTTP/1.1 OK\r\n\r\n".into(), Err(Malformed::StatusLine)),
            ("a long status", "HTTP/1.1 2000 OK\r\n\r\n".into(), Err(Malformed::StatusLine)),
            ("an unknown status", "HTTP/1.1 999 ?\r\n\r\n".into(), Ok(999)),
            ("nothing", String::new(), Err(Malformed::StatusLine)),
            ("hints before", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n".into(), Ok(200)),
            ("hints alone", "HTTP/1.1 103 Early Hints\r\n\r\n".into(), Err(Malformed::Cut)),
            ("another protocol, unasked", "HTTP/1.1 101 Switching Protocols\r\n\r\n".into(), Ok(101)),
            ("no head", "HTTP/1.1 200 OK\r\n".into(), Err(Malformed::Cut)),
            ("a long header line", format!("HTTP/1.1 200 OK\r\nA: {long}\r\n\r\n"), Ok(200)),
            ("a folded one", "HTTP/1.1 200 OK\r\nA: b\r\n  c\r\n\r\n".into(), Ok(200)),
            ("folded from the start", "HTTP/1.1 200 OK\r\n  c\r\n\r\n".into(), Err(Malformed::Header)),
            ("no colon", "HTTP/1.1 200 OK\r\nA\r\n\r\n".into(), Err(Malformed::Header)),
            ("cut", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok".into(), Err(Malformed::Cut)),
            ("more than said", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nokokok".into(), Ok(200)),
            ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok".into(), Err(Malformed::Length)),
            ("twice the same", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok".into(), Ok(200)),
            ("no length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n".into(), Err(Malformed::Length)),
            ("long", format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{body}"), Ok(200)),
            ("nearly long", format!("HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}", &body[1..]), Err(Malformed::Cut)),
            ("chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".into(), Ok(200)),
            ("with extension and trailer", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nok\r\n0\r\nA: b\r\n\r\n".into(), Ok(200)),
            ("chunks that are cut", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n".into(), Err(Malformed::Cut)),
            ("chunks that are none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nok\r\n".into(), Err(Malformed::Chunk)),
            ("chunks that run on", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n".into(), Err(Malformed::Chunk)),
            ("long chunks", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n{body}"), Ok(200)),
            ("chunks in HTTP/1.0 are none", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nok".into(), Ok(200)),
            ("chunks win over a length", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), Ok(200)),
            ("another encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n".into(), Err(Malformed::Encoding)),
            ("no body by its status", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n".into(), Ok(204)),
            ("nor by this", "HTTP/1.1 304 Not Modified\r\n\r\n".into(), Ok(304)),
        ];
        for (name, text, expected) in rows {
            for piece in [1, 7, usize::MAX] {
                assert_eq!(read(text, piece), *expected, "{name}, in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_body_that_is_wanted_is_kept_as_a_whole() {
        let body = "x".repeat(2 * BODY as usize);
        let chunked = format!("5000\r\n{body}\r\n2\r\nok\r\n0\r\n\r\n");
        let body = body.as_str();
        assert_eq!(body.len(), 0x5000);
        for (head, rest, expected) in [
            ("Content-Length: 20480", body, body.to_owned()),
            ("A: b", body, body.to_owned()),
            ("Transfer-Encoding: chunked", chunked.as_str(), format!("{body}ok")),
            ("Content-Length: 0", "", String::new()),
        ] {
            let mut answer = Answer::keeping_body();
            for piece in format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{rest}").as_bytes().chunks(1000) {
                answer.take(piece).unwrap();
            }
            answer.end().unwrap();
            assert_eq!((answer.status(), answer.kept().len()), (200, expected.len()), "{head}");
            assert_eq!(answer.into_body(), expected.into_bytes(), "{head}");
        }
    }

    #[test]
    fn a_head_has_an_end() {
        let mut answer = Answer::new();
        assert_eq!(answer.take(b"HTTP/1.1 200 OK\r\n"), Ok(false));
        let line = format!("A: {}\r\n", "x".repeat(100_000));
        let taken = (0..200).find_map(|_| answer.take(line.as_bytes()).err());
        assert_eq!(taken, Some(Malformed::TooLong));
        assert!(answer.line.capacity() <= 2 * LINE, "{}", answer.line.capacity());
    }
}
