// SPDX-License-Identifier: Apache-2.0
//! A reader of its own for what may pass: it takes whole messages, by line and field, and shares no code with the relay's.
//!
//! It reads neither in pieces nor at once what cannot be whole yet, so it says less: a head is right and whole, or it is not.

/// Longest head, and most fields.
const MOST: (usize, usize) = (60 * 1024, 100);

/// Longest trailers and extensions of a body.
const MOST_EXTRAS: usize = 16 * 1024;

/// Body behind a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Bytes(u64),
    Chunks,
    /// Up to the end of the connection.
    Rest,
    Tunnel,
}

/// Head that may pass.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) length: usize,
    /// Method and target, or nothing and the status.
    pub(crate) first: [&'a [u8]; 2],
    pub(crate) is_1_0: bool,
    pub(crate) fields: Vec<(&'a [u8], &'a [u8])>,
    pub(crate) body: Body,
    pub(crate) keeps: bool,
    pub(crate) upgrades: bool,
    pub(crate) expects: bool,
}

/// Request that a response answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Get,
    Head,
    Connect,
    Upgrade,
}

/// Lines of a head.
struct Lines<'a> {
    first: Vec<&'a [u8]>,
    fields: Vec<(&'a [u8], &'a [u8])>,
    length: usize,
}

fn token(text: &[u8]) -> bool {
    const MARKS: &[u8] = b"!#$%&'*+-.^_`|~";
    !text.is_empty() && text.iter().all(|byte| byte.is_ascii_alphanumeric() || MARKS.contains(byte))
}

fn text(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'\t' | b' '..=0x7e | 0x80..))
}

fn trim(text: &[u8]) -> &[u8] {
    let white = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().position(|byte| !white(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !white(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

fn same(one: &[u8], other: &str) -> bool {
    one.eq_ignore_ascii_case(other.as_bytes())
}

impl<'a> Lines<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let length = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
        if length > MOST.0 {
            return None;
        }
        let mut lines = Vec::new();
        let mut rest = &bytes[..length - 2];
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            lines.push(&rest[..end]);
            rest = &rest[end + 2..];
        }
        if lines.iter().any(|line| line.contains(&b'\r') || line.contains(&b'\n')) {
            return None;
        }
        let first = lines.remove(0);
        if lines.len() > MOST.1 || !text(first) {
            return None;
        }
        let mut fields = Vec::new();
        for line in lines {
            let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
            let value = trim(&value[1..]);
            if !token(name) || !text(value) {
                return None;
            }
            fields.push((name, value));
        }
        Some(Self { first: first.splitn(3, |byte| *byte == b' ').collect(), fields, length })
    }

    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|(found, _)| same(found, name)).map(|(_, value)| *value).collect()
    }

    /// Returns the body that the fields name; `None` where they break a rule.
    fn body(&self, is_1_0: bool) -> Option<Option<Body>> {
        for (name, _) in &self.fields {
            let dashed: Vec<u8> = name.iter().map(|byte| if *byte == b'_' { b'-' } else { *byte }).collect();
            let is_framing =
                ["content-length", "transfer-encoding"].iter().any(|framing| same(&dashed, framing));
            if is_framing && name.contains(&b'_') {
                return None;
            }
        }
        match (&self.values("content-length")[..], &self.values("transfer-encoding")[..]) {
            ([], []) => Some(None),
            ([], [coding]) => (same(coding, "chunked") && !is_1_0).then_some(Some(Body::Chunks)),
            ([length], []) => {
                if length.is_empty() || !length.iter().all(u8::is_ascii_digit) {
                    return None;
                }
                // It has any number of zeros in front.
                let zeros = length.iter().take_while(|digit| **digit == b'0').count();
                let digits = std::str::from_utf8(&length[zeros..]).ok()?;
                let number = if digits.is_empty() { 0 } else { digits.parse::<i64>().ok()? };
                Some(Some(Body::Bytes(number.try_into().ok()?)))
            }
            _ => None,
        }
    }

    fn keeps(&self, is_1_0: bool) -> bool {
        let options = self.values("connection");
        let has = |word| {
            options.iter().any(|line| line.split(|byte| *byte == b',').any(|part| same(trim(part), word)))
        };
        !has("close") && (!is_1_0 || has("keep-alive"))
    }
}

fn version(word: &[u8]) -> Option<bool> {
    match word {
        b"HTTP/1.0" => Some(true),
        b"HTTP/1.1" => Some(false),
        _ => None,
    }
}

/// Reads a host with an optional port.
fn host(text: &[u8]) -> Option<(Vec<u8>, Option<u16>)> {
    let end = if text.starts_with(b"[") {
        text.iter().position(|byte| *byte == b']')? + 1
    } else {
        text.iter().position(|byte| *byte == b':').unwrap_or(text.len())
    };
    let (name, port) = text.split_at(end);
    let right = match name {
        [b'[', inner @ .., b']'] => {
            !inner.is_empty()
                && inner.iter().all(|byte| byte.is_ascii_alphanumeric() || b":.%-_~".contains(byte))
        }
        _ => {
            !name.is_empty()
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte))
        }
    };
    let port = match port {
        b"" | b":" => None,
        [b':', digits @ ..] if digits.iter().all(u8::is_ascii_digit) => {
            Some(std::str::from_utf8(digits).ok()?.parse().ok()?)
        }
        _ => return None,
    };
    right.then(|| (name.to_ascii_lowercase(), port))
}

/// Returns true if the target fits the method, and the Host field the target.
fn routed(method: &[u8], target: &[u8], field: Option<&[u8]>) -> bool {
    let field = match field {
        None => None,
        Some(value) => Some(if value.is_empty() { None } else { Some(host(value)) }),
    };
    if method == b"CONNECT" {
        let Some((name, Some(port))) = host(target) else { return false };
        return match field {
            None => true,
            Some(Some(Some((other, its)))) => other == name && its.is_none_or(|its| its == port),
            Some(_) => false,
        };
    }
    if target.starts_with(b"/") || (target == b"*" && method == b"OPTIONS") {
        return !matches!(field, Some(Some(None)));
    }
    let Some(at) = target.windows(3).position(|three| three == b"://") else { return false };
    let (scheme, rest) = (&target[..at], &target[at + 3..]);
    let authority = &rest[..rest.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(rest.len())];
    let mut letters = scheme.iter();
    let is_scheme = letters.next().is_some_and(u8::is_ascii_alphabetic)
        && letters.all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte));
    let Some((name, port)) = host(authority).filter(|_| is_scheme) else { return false };
    let default = match scheme.to_ascii_lowercase().as_slice() {
        b"http" | b"ws" => Some(80),
        b"https" | b"wss" => Some(443),
        _ => None,
    };
    match field {
        None => true,
        Some(Some(Some((other, its)))) => other == name && its.or(default) == port.or(default),
        Some(_) => false,
    }
}

/// Reads a whole head of a request that may pass.
pub(crate) fn request(bytes: &[u8]) -> Option<Head<'_>> {
    let lines = Lines::read(bytes)?;
    let [method, target, word] = lines.first[..] else { return None };
    let is_1_0 = version(word)?;
    let is_target = !target.is_empty() && std::str::from_utf8(target).is_ok() && !target.contains(&b'\t');
    let in_capitals = ["HEAD", "CONNECT"].iter().all(|name| !same(method, name) || method == name.as_bytes());
    if !token(method) || !is_target || !in_capitals {
        return None;
    }
    let hosts = lines.values("host");
    if hosts.len() > 1 || (hosts.is_empty() && !is_1_0) || !routed(method, target, hosts.first().copied()) {
        return None;
    }
    let expectations = lines.values("expect");
    if !is_1_0
        && !expectations.is_empty()
        && !(expectations.len() == 1 && same(expectations[0], "100-continue"))
    {
        return None;
    }
    let body = lines.body(is_1_0)?.unwrap_or(Body::Bytes(0));
    if method == b"CONNECT" && body != Body::Bytes(0) {
        return None;
    }
    Some(Head {
        length: lines.length,
        first: [method, target],
        is_1_0,
        body,
        keeps: lines.keeps(is_1_0),
        upgrades: !is_1_0 && !lines.values("upgrade").is_empty(),
        expects: !is_1_0 && !expectations.is_empty() && body != Body::Bytes(0),
        fields: lines.fields,
    })
}

/// Reads a whole head of a response that may pass, to a request that keeps the connection.
pub(crate) fn response(bytes: &[u8], asked: Asked) -> Option<Head<'_>> {
    let lines = Lines::read(bytes)?;
    let is_1_0 = version(lines.first[0])?;
    let digits = *lines.first.get(1)?;
    let status: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    if digits.len() != 3 || !digits.iter().all(u8::is_ascii_digit) || status < 100 {
        return None;
    }
    let named = lines.body(is_1_0)?;
    let body = match (status, asked) {
        (101, Asked::Upgrade) => Body::Tunnel,
        (101, _) => return None,
        (200..=299, Asked::Connect) => Body::Tunnel,
        (100..=199 | 204 | 304, _) | (_, Asked::Head) => Body::Bytes(0),
        _ => named.unwrap_or(Body::Rest),
    };
    let keeps = lines.keeps(is_1_0) && body != Body::Rest;
    let first = [&b""[..], digits];
    Some(Head {
        length: lines.length,
        first,
        is_1_0,
        body,
        keeps,
        upgrades: false,
        expects: false,
        fields: lines.fields,
    })
}

/// Body of chunks at the front of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// It has so many bytes.
    Whole(usize),
    /// More may make it whole.
    Part,
    Wrong,
}

/// Cursor over bytes that may end anywhere.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    extras: usize,
}

/// Reason why a body does not go on.
enum Stop {
    End,
    Wrong,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<u8, Stop> {
        let byte = self.bytes.get(self.at).copied().ok_or(Stop::End)?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, text: &[u8]) -> Result<(), Stop> {
        for byte in text {
            if self.next()? != *byte {
                return Err(Stop::Wrong);
            }
        }
        Ok(())
    }

    fn extra(&mut self) -> Result<(), Stop> {
        self.extras += 1;
        if self.extras > MOST_EXTRAS { Err(Stop::Wrong) } else { Ok(()) }
    }

    /// Reads a size with its line.
    fn size(&mut self) -> Result<u64, Stop> {
        let mut digits = String::new();
        let behind = loop {
            match self.next()? {
                digit if digit.is_ascii_hexdigit() => digits.push(digit.into()),
                other => break other,
            }
            // Too large from the digit on that makes it so.
            let large = u64::from_str_radix(&digits, 16).is_ok_and(|size| size >> 63 != 0);
            if digits.len() > 16 || large {
                return Err(Stop::Wrong);
            }
        };
        let size = u64::from_str_radix(&digits, 16).map_err(|_| Stop::Wrong)?;
        match behind {
            b'\r' => {}
            b';' => {
                self.extra()?;
                loop {
                    match self.next()? {
                        b'\r' => break,
                        byte if text(&[byte]) => self.extra()?,
                        _ => return Err(Stop::Wrong),
                    }
                }
            }
            _ => return Err(Stop::Wrong),
        }
        self.expect(b"\n")?;
        Ok(size)
    }

    fn trailers(&mut self) -> Result<(), Stop> {
        loop {
            let mut name = Vec::new();
            loop {
                match self.next()? {
                    b'\r' if name.is_empty() => return self.expect(b"\n"),
                    b':' if !name.is_empty() => break,
                    byte if token(&[byte]) => name.push(if byte == b'_' { b'-' } else { byte }),
                    _ => return Err(Stop::Wrong),
                }
                self.extra()?;
            }
            if ["content-length", "transfer-encoding", "host"].iter().any(|forbidden| same(&name, forbidden))
            {
                return Err(Stop::Wrong);
            }
            self.extra()?;
            loop {
                match self.next()? {
                    b'\r' => break,
                    byte if text(&[byte]) => self.extra()?,
                    _ => return Err(Stop::Wrong),
                }
            }
            self.extra()?;
            self.expect(b"\n")?;
            self.extra()?;
        }
    }

    fn body(&mut self) -> Result<(), Stop> {
        loop {
            let size = self.size()?;
            if size == 0 {
                return self.trailers();
            }
            if size > (self.bytes.len() - self.at) as u64 {
                return Err(Stop::End);
            }
            self.at += size as usize;
            self.expect(b"\r\n")?;
        }
    }
}

/// Reads a body of chunks.
pub(crate) fn chunked(bytes: &[u8]) -> Chunked {
    let mut cursor = Cursor { bytes, at: 0, extras: 0 };
    match cursor.body() {
        Ok(()) => Chunked::Whole(cursor.at),
        Err(Stop::End) => Chunked::Part,
        Err(Stop::Wrong) => Chunked::Wrong,
    }
}

/// Checks that bytes are whole requests, the last with any part of its body.
pub(crate) fn are_requests(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let head = request(bytes).unwrap_or_else(|| panic!("no right head: {}", bytes.escape_ascii()));
        bytes = &bytes[head.length..];
        match head.body {
            Body::Bytes(length) => {
                bytes = &bytes[bytes.len().min(usize::try_from(length).unwrap_or(usize::MAX))..]
            }
            Body::Chunks => match chunked(bytes) {
                Chunked::Whole(length) => bytes = &bytes[length..],
                Chunked::Part => return,
                Chunked::Wrong => panic!("wrong chunks passed: {}", bytes.escape_ascii()),
            },
            Body::Rest | Body::Tunnel => unreachable!("no body of a request"),
        }
    }
}
