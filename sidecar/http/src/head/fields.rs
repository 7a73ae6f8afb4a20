// SPDX-License-Identifier: Apache-2.0
//! Fields of a head, line by line.

use std::ops::Range;

/// Fields of a head, in the order in which they came.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    head: &'a [u8],
    at: usize,
}

/// Field of a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Name in the letters that were sent.
    pub name: &'a str,
    /// Value without the white space around it.
    pub value: &'a [u8],
    /// Place of the whole line in the head, CRLF included. Without it the head is what a sender without the field writes.
    pub line: Range<usize>,
}

impl<'a> Fields<'a> {
    /// Returns the fields of a head that `httparse` has read.
    pub(super) fn new(head: &'a [u8], first_line_end: usize) -> Self {
        Self { head, at: first_line_end }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let rest = self.head.get(self.at..)?;
        let length = memchr::memchr(b'\n', rest)? + 1;
        let line = rest[..length].strip_suffix(b"\r\n")?;
        // The empty line ends the head.
        let colon = memchr::memchr(b':', line)?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        let value = line[colon + 1..].trim_ascii();
        let place = self.at..self.at + length;
        self.at += length;
        Some(Field { name, value, line: place })
    }
}
