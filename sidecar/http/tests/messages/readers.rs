// SPDX-License-Identifier: Apache-2.0
//! Readers with the habits of real servers. In a stream of requests that passes they may not find other messages than a strict
//! reader finds.

/// Habits of a reader, as servers and proxies have them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Habits {
    lf_ends_lines: bool,
    cr_ends_lines: bool,
    length_beats_chunks: bool,
    last_field_wins: bool,
    trims_names: bool,
    joins_folded_lines: bool,
    takes_underscores: bool,
    /// Reads numbers as `strtol` does, and codings by a search.
    reads_loosely: bool,
}

/// Request as a reader found it.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    line: Vec<u8>,
    body: Vec<u8>,
}

struct Reader<'a> {
    habits: Habits,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Returns all whole requests, and true if no part of another follows.
    fn read(habits: Habits, bytes: &'a [u8]) -> (Vec<Found>, bool) {
        let mut reader = Self { habits, rest: bytes };
        let mut found = Vec::new();
        while !reader.rest.is_empty() {
            let Some(request) = reader.request() else { return (found, false) };
            found.push(request);
        }
        (found, true)
    }

    fn line(&mut self) -> Option<&'a [u8]> {
        let Habits { lf_ends_lines, cr_ends_lines, .. } = self.habits;
        for at in 0..self.rest.len() {
            let length = match &self.rest[at..] {
                [b'\r', b'\n', ..] => 2,
                [b'\n', ..] if lf_ends_lines => 1,
                [b'\r', ..] if cr_ends_lines => 1,
                _ => continue,
            };
            let line = &self.rest[..at];
            self.rest = &self.rest[at + length..];
            return Some(line);
        }
        None
    }

    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn request(&mut self) -> Option<Found> {
        let line = self.line()?.to_vec();
        let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        loop {
            let field = self.line()?;
            if field.is_empty() {
                break;
            }
            if let (true, [b' ' | b'\t', ..], Some((_, value))) =
                (self.habits.joins_folded_lines, field, fields.last_mut())
            {
                value.extend_from_slice(field.trim_ascii());
                continue;
            }
            let Some(colon) = field.iter().position(|byte| *byte == b':') else { continue };
            let mut name = field[..colon].to_ascii_lowercase();
            if self.habits.trims_names {
                name = name.trim_ascii().to_vec();
            }
            if self.habits.takes_underscores {
                name.iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
            }
            fields.push((name, field[colon + 1..].trim_ascii().to_vec()));
        }
        let values = |name: &str| -> Vec<&[u8]> {
            let named = fields.iter().filter(|(found, _)| found == name.as_bytes());
            named.map(|(_, value)| value.as_slice()).collect()
        };
        let chosen = |values: Vec<&[u8]>| {
            let value = if self.habits.last_field_wins { values.last() } else { values.first() };
            value.map(|value| value.to_vec())
        };
        let length = chosen(values("content-length")).and_then(|value| self.number(&value, 10));
        let chunked = chosen(values("transfer-encoding")).is_some_and(|value| self.is_chunked(&value));
        let body = match length {
            Some(length) if !chunked || self.habits.length_beats_chunks => self.take(length)?.to_vec(),
            _ if chunked => self.chunks()?,
            _ => Vec::new(),
        };
        Some(Found { line, body })
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
            match self.number(size, 16)? {
                0 => break,
                size => body.extend_from_slice(self.take(size)?),
            }
            self.line()?;
        }
        while !self.line()?.is_empty() {}
        Some(body)
    }

    fn number(&self, text: &[u8], radix: u32) -> Option<usize> {
        let text = std::str::from_utf8(text).ok()?;
        if !self.habits.reads_loosely {
            return usize::from_str_radix(text, radix).ok();
        }
        let text = text.trim_start().trim_start_matches("0x").trim_start_matches('+');
        let end = text.find(|digit: char| !digit.is_digit(radix)).unwrap_or(text.len());
        usize::from_str_radix(&text[..end], radix).ok()
    }

    fn is_chunked(&self, coding: &[u8]) -> bool {
        let coding = coding.to_ascii_lowercase();
        coding == b"chunked"
            || (self.habits.reads_loosely && coding.windows(7).any(|part| part == b"chunked"))
    }
}

/// All readers: each set of habits.
fn readers() -> impl Iterator<Item = Habits> {
    (0..=u8::MAX).map(|bits| {
        let has = |bit: u8| bits & 1 << bit != 0;
        Habits {
            lf_ends_lines: has(0),
            cr_ends_lines: has(1),
            length_beats_chunks: has(2),
            last_field_wins: has(3),
            trims_names: has(4),
            joins_folded_lines: has(5),
            takes_underscores: has(6),
            reads_loosely: has(7),
        }
    })
}

/// Returns a reader that finds other requests than the strict one.
///
/// A request that is cut behind its head may be whole for a reader: the byte that broke a rule was not forwarded, and the CR in
/// front of it ends a line for some. Nothing follows it, so this is no other request.
pub(crate) fn dissenter(bytes: &[u8]) -> Option<Habits> {
    let (strict, is_whole) = Reader::read(Habits::default(), bytes);
    let agrees = |found: &[Found]| match found.split_last() {
        Some((last, before)) if !is_whole && before == strict => !last.line.is_empty(),
        _ => found == strict,
    };
    readers().find(|habits| !agrees(&Reader::read(*habits, bytes).0))
}
