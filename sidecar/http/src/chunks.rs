// SPDX-License-Identifier: Apache-2.0
//! Chunked bodies: bytes in any pieces, and how many of them belong to the body.
//!
//! ```text
//! 5;extension CRLF  data… CRLF  0 CRLF  trailer: value CRLF  CRLF
//! size ─▶ extension ─▶ data ─▶ size … ─▶ trailers ─▶ done
//! ```
//! Nothing is decoded or kept: a body is forwarded as it came. Data within a chunk may be skipped by count, so that it
//! can be spliced.

use crate::refusal::Refusal;

/// Most bytes of extensions and trailers in one body.
///
/// As much as the field section of common servers. Envoy has no bound of its own for extensions, and 60 KiB for trailers.
pub const MAX_EXTRAS: u16 = 16 * 1024;

/// Most digits of a chunk size, leading zeros included.
const MAX_DIGITS: u8 = 16;

/// Fields that may not stand in trailers.
///
/// A reader that merges trailers into the head would take them for the head's.
const HEAD_ONLY: [&[u8]; 3] = [b"content-length", b"transfer-encoding", b"host"];

/// Position within a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunks {
    state: State,
    /// Size as far as it was read, then bytes that are to come.
    left: u64,
    /// Bytes of extensions and trailers so far.
    extras: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Within the size, behind so many digits.
    Size(u8),
    Extension,
    /// Behind the CR of a size line.
    SizeLf,
    Data,
    /// Behind the last byte of data.
    DataCr,
    DataLf,
    /// At the start of a trailer line, or of the last line.
    Line,
    Name(Forbidden),
    Value,
    /// Behind the CR of a trailer line.
    ValueLf,
    /// Behind the CR of the empty line.
    EndLf,
    Done,
}

/// Names of [`HEAD_ONLY`] that a trailer's name may still become.
///
/// One bit each, and the length of the name so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forbidden {
    candidates: u8,
    length: u8,
}

/// Result of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes at the front that belong to the body and may be forwarded.
    pub forward: usize,
    /// State of the body behind them.
    pub then: Then,
}

/// State of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// More bytes are to come.
    More,
    /// The body ended; the bytes behind it belong to the next message.
    Done,
    /// The byte behind breaks a rule.
    Refused(Refusal),
}

// === impl Chunks ===

impl Default for Chunks {
    fn default() -> Self {
        Self { state: State::Size(0), left: 0, extras: 0 }
    }
}

impl Chunks {
    /// Looks at the next bytes of the body, and at nothing behind its end.
    pub fn scan(&mut self, bytes: &[u8]) -> Scanned {
        let mut at = 0;
        while at < bytes.len() && self.state != State::Done {
            if self.state == State::Data {
                let here = self.left.min((bytes.len() - at) as u64);
                self.skip(here);
                at += here as usize;
                continue;
            }
            if let Err(rule) = self.step(bytes[at]) {
                return Scanned { forward: at, then: Then::Refused(rule) };
            }
            at += 1;
        }
        let then = if self.state == State::Done { Then::Done } else { Then::More };
        Scanned { forward: at, then }
    }

    /// Returns the bytes that may pass without a scan: the rest of a chunk's data.
    pub fn unseen(&self) -> u64 {
        if self.state == State::Data { self.left } else { 0 }
    }

    /// Counts bytes that passed without a scan: at most [`Self::unseen`].
    pub fn skip(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.unseen(), "{bytes} bytes skipped of {}", self.unseen());
        self.left = self.left.saturating_sub(bytes);
        if self.left == 0 && self.state == State::Data {
            self.state = State::DataCr;
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), Refusal> {
        self.state = match (self.state, byte) {
            (State::Size(digits), _) => self.size(digits, byte)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, _) => {
                self.extra(is_text(byte), byte, Refusal::ChunkExtension, State::Extension)?
            }
            (State::SizeLf, b'\n') if self.left == 0 => State::Line,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0),
            (State::DataCr | State::DataLf, _) => return Err(Refusal::ChunkEnd),
            (State::Line, b'\r') => State::EndLf,
            (State::Line, _) => {
                self.extra(is_token(byte), byte, Refusal::TrailerField, State::Name(Forbidden::new(byte)))?
            }
            (State::Name(name), b':') if name.is_one() => return Err(Refusal::TrailerField),
            (State::Name(_), b':') => self.extra(true, byte, Refusal::TrailerField, State::Value)?,
            (State::Name(name), _) => {
                self.extra(is_token(byte), byte, Refusal::TrailerField, State::Name(name.and(byte)))?
            }
            (State::Value, b'\r') => self.extra(true, byte, Refusal::TrailerField, State::ValueLf)?,
            (State::Value, _) => self.extra(is_text(byte), byte, Refusal::TrailerField, State::Value)?,
            (State::ValueLf, b'\n') => self.extra(true, byte, Refusal::TrailerField, State::Line)?,
            (State::EndLf, b'\n') => State::Done,
            (State::SizeLf | State::ValueLf | State::EndLf, _) => return Err(Refusal::BareCr),
            (State::Data | State::Done, _) => self.state,
        };
        Ok(())
    }

    fn size(&mut self, digits: u8, byte: u8) -> Result<State, Refusal> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            if digits == 0 {
                self.left = 0;
            }
            // What remains below 2^63 cannot overflow a signed reader either.
            if self.left >> 59 != 0 {
                return Err(Refusal::ChunkTooLarge);
            }
            if digits == MAX_DIGITS {
                return Err(Refusal::ChunkSize);
            }
            self.left = self.left << 4 | u64::from(digit);
            return Ok(State::Size(digits + 1));
        }
        match byte {
            b'\n' => Err(Refusal::BareLf),
            _ if digits == 0 => Err(Refusal::ChunkSize),
            b'\r' => Ok(State::SizeLf),
            b';' => self.extra(true, byte, Refusal::ChunkExtension, State::Extension),
            // White space before CRLF or `;` is one of the two things that readers agree on least.
            _ => Err(Refusal::ChunkSize),
        }
    }

    /// Counts a byte of an extension or trailer.
    fn extra(&mut self, allowed: bool, byte: u8, rule: Refusal, next: State) -> Result<State, Refusal> {
        if !allowed {
            return Err(if byte == b'\n' { Refusal::BareLf } else { rule });
        }
        if self.extras == MAX_EXTRAS {
            return Err(Refusal::TrailersTooLong);
        }
        self.extras += 1;
        Ok(next)
    }
}

// === impl Forbidden ===

impl Forbidden {
    fn new(byte: u8) -> Self {
        Self { candidates: (1 << HEAD_ONLY.len()) - 1, length: 0 }.and(byte)
    }

    /// Adds a byte of the name. An underscore counts as a dash: CGI-like readers make one of the other.
    fn and(self, byte: u8) -> Self {
        let byte = if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
        let mut candidates = self.candidates;
        for (bit, name) in HEAD_ONLY.iter().enumerate() {
            if name.get(usize::from(self.length)) != Some(&byte) {
                candidates &= !(1 << bit);
            }
        }
        Self { candidates, length: self.length.saturating_add(1) }
    }

    /// Returns true if the whole name is one of the forbidden ones.
    fn is_one(self) -> bool {
        let whole = |(bit, name): (usize, &&[u8])| {
            self.candidates & 1 << bit != 0 && name.len() == usize::from(self.length)
        };
        HEAD_ONLY.iter().enumerate().any(whole)
    }
}

/// Returns true for a byte of a field's name or of a method.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Returns true for a byte of a field's value or of an extension.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::{Chunks, MAX_EXTRAS, Scanned, Then};
    use crate::refusal::Refusal;

    /// Scans the bytes whole, then cut at each point, then byte by byte, and returns the one result.
    fn scan(bytes: &[u8]) -> Scanned {
        let whole = Chunks::default().scan(bytes);
        let step = if bytes.len() > 4096 { 61 } else { 1 };
        for cut in (0..bytes.len()).step_by(step) {
            assert_eq!(pieces([&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
        }
        assert_eq!(pieces(bytes.chunks(1)), whole, "byte by byte");
        whole
    }

    fn pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Scanned {
        let (mut chunks, mut forward) = (Chunks::default(), 0);
        for piece in pieces {
            let scanned = chunks.scan(piece);
            forward += scanned.forward;
            if scanned.then != Then::More {
                return Scanned { forward, then: scanned.then };
            }
        }
        Scanned { forward, then: Then::More }
    }

    #[track_caller]
    fn ends(bytes: &[u8], length: usize) {
        assert_eq!(scan(bytes), Scanned { forward: length, then: Then::Done });
    }

    #[track_caller]
    fn refused(bytes: &[u8], forward: usize, rule: Refusal) {
        assert_eq!(scan(bytes), Scanned { forward, then: Then::Refused(rule) }, "{}", bytes.escape_ascii());
    }

    #[test]
    fn a_body_ends_behind_its_trailers_and_what_follows_is_not_looked_at() {
        ends(b"0\r\n\r\nGET / HTTP/1.1\r\n", 5);
        ends(b"5\r\nhello\r\n0\r\n\r\n", 15);
        ends(b"A;n=\"v;\t\xc3\xa9\"\r\n0123456789\r\n000\r\nX-Sum: 1\r\nY:\r\n\r\n\n", 46);
        ends(b"000000000000000a\r\n0123456789\r\n0\r\n\r\n", 35);
        ends(b"0\r\nHos: t\r\nHosts: t\r\nContent-Lengt: 1\r\n\r\n", 41);
        assert_eq!(scan(b"5\r\nhel"), Scanned { forward: 6, then: Then::More });
    }

    #[test]
    fn a_malformed_body_is_refused_at_its_first_wrong_byte() {
        for (bytes, forward, rule) in [
            (&b"5\nhello\r\n0\r\n\r\n"[..], 1, Refusal::BareLf),
            (b"\r\n", 0, Refusal::ChunkSize),
            (b"\n", 0, Refusal::BareLf),
            (b";a\r\n", 0, Refusal::ChunkSize),
            (b"0x5\r\nhello", 1, Refusal::ChunkSize),
            (b"+5\r\nhello", 0, Refusal::ChunkSize),
            (b"5 \r\nhello", 1, Refusal::ChunkSize),
            (b"5\t;a\r\nhello", 1, Refusal::ChunkSize),
            (b" 5\r\nhello", 0, Refusal::ChunkSize),
            (b"5\rhello", 2, Refusal::BareCr),
            (b"5;a\nb\r\nhello", 3, Refusal::BareLf),
            (b"5;a\rb\r\nhello", 4, Refusal::BareCr),
            (b"5;a\0b\r\nhello", 3, Refusal::ChunkExtension),
            (b"5\r\nhelloX\r\n", 8, Refusal::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", 8, Refusal::ChunkEnd),
            (b"5\r\nhello\r0\r\n\r\n", 9, Refusal::ChunkEnd),
            (b"00000000000000001\r\n", 16, Refusal::ChunkSize),
            (b"8000000000000000\r\n", 15, Refusal::ChunkTooLarge),
            (b"fffffffffffffffff\r\n", 15, Refusal::ChunkTooLarge),
            (b"0\r\n\n", 3, Refusal::BareLf),
            (b"0\r\n\rX", 4, Refusal::BareCr),
            (b"0\r\n folded\r\n\r\n", 3, Refusal::TrailerField),
            (b"0\r\nA : b\r\n\r\n", 4, Refusal::TrailerField),
            (b"0\r\nA\r\n\r\n", 4, Refusal::TrailerField),
            (b"0\r\n: b\r\n\r\n", 3, Refusal::TrailerField),
            (b"0\r\nA: b\nC: d\r\n\r\n", 7, Refusal::BareLf),
            (b"0\r\nA: b\rC: d\r\n\r\n", 8, Refusal::BareCr),
            (b"0\r\nA: b\0\r\n\r\n", 7, Refusal::TrailerField),
            (b"0\r\nContent-Length: 5\r\n\r\n", 17, Refusal::TrailerField),
            (b"0\r\ntransfer_encoding: chunked\r\n\r\n", 20, Refusal::TrailerField),
            (b"0\r\nHOST: a\r\n\r\n", 7, Refusal::TrailerField),
        ] {
            refused(bytes, forward, rule);
        }
        let largest = b"7fffffffffffffff\r\n";
        assert_eq!(scan(largest), Scanned { forward: largest.len(), then: Then::More });
    }

    #[test]
    fn extensions_and_trailers_of_a_body_have_one_bound_to_the_byte() {
        let most = usize::from(MAX_EXTRAS);
        let trailers = |bytes: usize| [b"0\r\nA:", vec![b'x'; bytes - 4].as_slice(), b"\r\n\r\n"].concat();
        ends(&trailers(most), most + 5);
        // The LF of the line is the byte too many.
        refused(&trailers(most + 1), most + 3, Refusal::TrailersTooLong);
        let extension =
            |bytes: usize| [b"1;", vec![b'x'; bytes - 1].as_slice(), b"\r\na\r\n0\r\n\r\n"].concat();
        ends(&extension(most), most + 11);
        refused(&extension(most + 1), most + 1, Refusal::TrailersTooLong);
        let both =
            |bytes: usize| [b"1;xxx\r\na\r\n0\r\nA:", vec![b'x'; bytes - 8].as_slice(), b"\r\n\r\n"].concat();
        ends(&both(most), most + 11);
        refused(&both(most + 1), most + 9, Refusal::TrailersTooLong);
    }

    #[test]
    fn data_of_a_chunk_may_pass_unseen() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.unseen(), 0);
        assert_eq!(chunks.scan(b"100000\r\nab"), Scanned { forward: 10, then: Then::More });
        assert_eq!(chunks.unseen(), 0x10_0000 - 2);
        chunks.skip(1000);
        chunks.skip(0x10_0000 - 1002);
        assert_eq!(chunks.unseen(), 0);
        assert_eq!(chunks.scan(b"\r\n0\r\n\r\n"), Scanned { forward: 7, then: Then::Done });
        assert_eq!(chunks.scan(b"more"), Scanned { forward: 0, then: Then::Done });
    }
}
