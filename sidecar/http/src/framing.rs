// SPDX-License-Identifier: Apache-2.0
//! End of a message, by RFC 9112, section 6.3, and stricter.
//!
//! Two fields that say it are one too many.
//!
//! | message | ends |
//! |---|---|
//! | response to HEAD, 1xx, 204, 304 | with its head |
//! | 101 to a request with Upgrade, 2xx to CONNECT | never: the connection is a tunnel |
//! | `Transfer-Encoding: chunked` | with its last chunk and trailers |
//! | `Content-Length: N` | after N bytes |
//! | other request | with its head |
//! | other response | with the connection |

use crate::refusal::Refusal;

/// Body behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// The message ends with its head.
    None,
    /// So many bytes follow, at least one.
    Length(u64),
    /// Chunks and trailers follow.
    Chunked,
    /// All bytes up to the end of the connection follow.
    UntilClose,
    /// Bytes of another protocol follow, both ways.
    Tunnel,
}

/// Part of a request that its response depends on: flags in one byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked(u8);

/// Fields of a head that decide its framing, and the end of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said<'a> {
    length: Option<u64>,
    chunked: bool,
    /// Value of Host.
    pub(crate) host: Option<&'a [u8]>,
    /// True after `Connection: close`.
    close: bool,
    /// True after `Connection: keep-alive`.
    keep_alive: bool,
    /// Upgrade, named in Connection or not: a server that is sloppy enough to switch could be so in this, too.
    pub(crate) upgrade: bool,
    /// True after Expect with any value.
    pub(crate) expects: bool,
    /// Expect that is not `100-continue` alone.
    expects_else: bool,
    /// True if Connection has an option that may name a field.
    names: bool,
    /// Lengths of the names.
    lengths: Lengths,
}

/// Lengths of fields' names, as bits. The last stands for all that are longer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lengths(u64);

// === impl Lengths ===

impl Lengths {
    /// Any name may be there.
    pub(crate) const ANY: Self = Self(u64::MAX);

    fn note(&mut self, name: &str) {
        self.0 |= Self::bit(name);
    }

    /// Returns false if no name is as long as this one.
    pub(crate) fn may_have(self, name: &str) -> bool {
        self.0 & Self::bit(name) != 0
    }

    fn bit(name: &str) -> u64 {
        1 << name.len().min(63)
    }
}

// === impl Asked ===

impl Asked {
    const HEAD: u8 = 1;
    const CONNECT: u8 = 2;
    const UPGRADE: u8 = 4;
    const CLOSE: u8 = 8;
    const DECLINED: u8 = 16;

    pub(crate) fn new(method: &str, upgrades: bool, keeps: bool) -> Self {
        let method = match method {
            "HEAD" => Self::HEAD,
            "CONNECT" => Self::CONNECT,
            _ => 0,
        };
        let upgrade = if upgrades { Self::UPGRADE } else { 0 };
        let close = if keeps { 0 } else { Self::CLOSE };
        Self(method | upgrade | close)
    }

    /// Returns the request as one that is answered locally, and behind which the connection goes on or not.
    pub(crate) fn declined(self, keeps: bool) -> Self {
        let close = if keeps { 0 } else { Self::CLOSE };
        Self(self.0 | Self::DECLINED | close)
    }

    /// Returns true if the server does not get the request.
    pub(crate) fn is_declined(self) -> bool {
        self.0 & Self::DECLINED != 0
    }

    /// Returns true for HEAD, whose response has fields of a body alone.
    pub(crate) fn is_head(self) -> bool {
        self.0 & Self::HEAD != 0
    }

    /// Returns true if the response may make the connection a tunnel.
    pub(crate) fn may_switch(self) -> bool {
        self.0 & (Self::CONNECT | Self::UPGRADE) != 0
    }

    /// Returns true if the connection may go on after the response.
    pub(crate) fn keeps(self) -> bool {
        self.0 & Self::CLOSE == 0
    }
}

// === impl Said ===

impl<'a> Said<'a> {
    /// Notes a field of a request.
    pub(crate) fn note_request(&mut self, name: &str, value: &'a [u8]) -> Result<(), Refusal> {
        self.lengths.note(name);
        match name.len() {
            4 if name.eq_ignore_ascii_case("host") => {
                if self.host.replace(value).is_some() {
                    return Err(Refusal::TwoHosts);
                }
            }
            6 if name.eq_ignore_ascii_case("expect") => {
                self.expects_else |= self.expects || !value.eq_ignore_ascii_case(b"100-continue");
                self.expects = true;
            }
            7 if name.eq_ignore_ascii_case("upgrade") => self.upgrade = true,
            _ => return self.note(name, value),
        }
        Ok(())
    }

    /// Notes a field of a response.
    pub(crate) fn note(&mut self, name: &str, value: &[u8]) -> Result<(), Refusal> {
        match name.len() {
            10 if name.eq_ignore_ascii_case("connection") => self.note_connection(value),
            14 if is_framing(name, "content-length")? && self.length.replace(length(value)?).is_some() => {
                return Err(Refusal::TwoLengths);
            }
            17 if is_framing(name, "transfer-encoding")? => {
                if self.chunked {
                    return Err(Refusal::TwoTransferCodings);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::TransferCoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn note_connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            let close = option.eq_ignore_ascii_case(b"close");
            let keep_alive = option.eq_ignore_ascii_case(b"keep-alive");
            self.close |= close;
            self.keep_alive |= keep_alive;
            self.names |= !close && !keep_alive;
        }
    }

    /// Checks the fields against each other and the version.
    pub(crate) fn settle(&self, is_1_0: bool) -> Result<(), Refusal> {
        if self.chunked && self.length.is_some() {
            return Err(Refusal::LengthAndChunked);
        }
        if self.chunked && is_1_0 {
            return Err(Refusal::TransferCodingIn10);
        }
        // HTTP/1.0 does not know the field.
        if self.expects_else && !is_1_0 {
            return Err(Refusal::Expectation);
        }
        Ok(())
    }

    /// Returns the lengths of the names that the head has. Any may be there if it asks for another protocol, or if it may name
    /// fields in Connection: then its lines depend on each other.
    pub(crate) fn lengths(&self) -> Lengths {
        if self.upgrade || self.names { Lengths::ANY } else { self.lengths }
    }

    /// Returns true if the connection may go on after the message.
    pub(crate) fn keeps(&self, is_1_0: bool) -> bool {
        !self.close && (!is_1_0 || self.keep_alive)
    }

    /// Returns the framing that the fields name.
    fn named(&self) -> Option<Framing> {
        match self.length {
            _ if self.chunked => Some(Framing::Chunked),
            Some(0) => Some(Framing::None),
            Some(length) => Some(Framing::Length(length)),
            None => None,
        }
    }

    /// Returns the body of a request.
    pub(crate) fn of_request(&self, method: &str) -> Result<Framing, Refusal> {
        let framing = self.named().unwrap_or(Framing::None);
        if method == "CONNECT" && framing != Framing::None {
            return Err(Refusal::ConnectBody);
        }
        Ok(framing)
    }

    /// Returns the body of a response.
    pub(crate) fn of_response(&self, asked: Asked, status: u16) -> Result<Framing, Refusal> {
        match status {
            101 if asked.0 & Asked::UPGRADE != 0 => Ok(Framing::Tunnel),
            101 => Err(Refusal::UnaskedSwitch),
            200..=299 if asked.0 & Asked::CONNECT != 0 => Ok(Framing::Tunnel),
            100..=199 | 204 | 304 => Ok(Framing::None),
            _ if asked.is_head() => Ok(Framing::None),
            _ => Ok(self.named().unwrap_or(Framing::UntilClose)),
        }
    }
}

/// Compares a field's name with one that frames, of the same length.
fn is_framing(name: &str, framing: &str) -> Result<bool, Refusal> {
    if name.eq_ignore_ascii_case(framing) {
        return Ok(true);
    }
    let dashed = name.bytes().map(|byte| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() });
    if dashed.eq(framing.bytes()) { Err(Refusal::FieldLookalike) } else { Ok(false) }
}

/// Reads a Content-Length.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Refusal::BadLength);
    }
    // What remains below 2^63 cannot overflow a signed reader either.
    let digit = |sum: u64, digit: &u8| sum.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    value.iter().try_fold(0, digit).filter(|sum| *sum >> 63 == 0).ok_or(Refusal::LengthTooLarge)
}

#[cfg(test)]
mod tests {
    use super::{Asked, Framing, Said};
    use crate::refusal::Refusal;

    fn said(fields: &[(&str, &'static str)]) -> Result<Said<'static>, Refusal> {
        let mut said = Said::default();
        for (name, value) in fields {
            said.note_request(name, value.as_bytes())?;
        }
        said.settle(false)?;
        Ok(said)
    }

    #[test]
    fn a_length_is_decimal_digits_below_two_to_the_63() {
        for (value, framing) in [
            ("0", Ok(Framing::None)),
            ("007", Ok(Framing::Length(7))),
            ("9223372036854775807", Ok(Framing::Length(i64::MAX as u64))),
            ("9223372036854775808", Err(Refusal::LengthTooLarge)),
            ("99999999999999999999", Err(Refusal::LengthTooLarge)),
            ("", Err(Refusal::BadLength)),
            ("+3", Err(Refusal::BadLength)),
            ("-3", Err(Refusal::BadLength)),
            ("0x3", Err(Refusal::BadLength)),
            ("3 3", Err(Refusal::BadLength)),
            ("3, 3", Err(Refusal::BadLength)),
            ("3.0", Err(Refusal::BadLength)),
            ("٣", Err(Refusal::BadLength)),
        ] {
            let found = said(&[("content-length", value)]).and_then(|said| said.of_request("POST"));
            assert_eq!(found, framing, "{value}");
        }
    }

    #[test]
    fn a_response_ends_by_its_request_its_status_and_its_fields() {
        let get = Asked::new("GET", false, true);
        let head = Asked::new("HEAD", false, true);
        let connect = Asked::new("CONNECT", false, true);
        let upgrade = Asked::new("GET", true, true);
        let (five, chunked) = (("Content-Length", "5"), ("TRANSFER-ENCODING", "Chunked"));
        for (asked, status, fields, framing) in [
            (get, 200, &[five][..], Ok(Framing::Length(5))),
            (get, 200, &[("Content-Length", "0")], Ok(Framing::None)),
            (get, 200, &[chunked], Ok(Framing::Chunked)),
            (get, 200, &[], Ok(Framing::UntilClose)),
            (get, 999, &[], Ok(Framing::UntilClose)),
            (get, 200, &[five, chunked], Err(Refusal::LengthAndChunked)),
            (get, 200, &[five, five], Err(Refusal::TwoLengths)),
            (get, 200, &[chunked, chunked], Err(Refusal::TwoTransferCodings)),
            (get, 200, &[("transfer-encoding", "gzip, chunked")], Err(Refusal::TransferCoding)),
            (get, 204, &[chunked], Ok(Framing::None)),
            (get, 304, &[five], Ok(Framing::None)),
            (get, 100, &[], Ok(Framing::None)),
            (get, 103, &[five], Ok(Framing::None)),
            (get, 101, &[], Err(Refusal::UnaskedSwitch)),
            (connect, 101, &[], Err(Refusal::UnaskedSwitch)),
            (upgrade, 101, &[five], Ok(Framing::Tunnel)),
            (upgrade, 200, &[five], Ok(Framing::Length(5))),
            (head, 200, &[five], Ok(Framing::None)),
            (head, 200, &[chunked], Ok(Framing::None)),
            (head, 404, &[], Ok(Framing::None)),
            (connect, 200, &[five], Ok(Framing::Tunnel)),
            (connect, 299, &[chunked], Ok(Framing::Tunnel)),
            (connect, 407, &[five], Ok(Framing::Length(5))),
            (connect, 300, &[], Ok(Framing::UntilClose)),
        ] {
            let found = said(fields).and_then(|said| said.of_response(asked, status));
            assert_eq!(found, framing, "{status} {fields:?} to {asked:?}");
        }
    }

    #[test]
    fn connections_persist_by_version_and_field() {
        for (is_1_0, field, keeps) in [
            (false, "", true),
            (false, "keep-alive", true),
            (false, "close", false),
            (false, "foo, CLOSE", false),
            (false, "closed", true),
            (true, "", false),
            (true, "Keep-Alive", true),
            (true, "upgrade,keep-alive ", true),
            (true, "keep-alive, close", false),
        ] {
            let said = said(&[("Connection", field)]).expect("no rule is broken");
            assert_eq!(said.keeps(is_1_0), keeps, "{is_1_0} {field}");
        }
    }
}
