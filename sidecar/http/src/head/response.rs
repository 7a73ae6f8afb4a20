// SPDX-License-Identifier: Apache-2.0
//! Head of a response.

use super::scan::{Kind, malformed, refusal};
use super::{Fields, MAX_FIELDS, Version};
use crate::framing::{Asked, Framing, Said};
use crate::refusal::Refusal;
use httparse::{ParserConfig, Response, Status};
use std::mem::MaybeUninit;

/// Head of a response that broke no rule. All parts are slices of the bytes that were received.
#[derive(Clone, Debug)]
pub struct ResponseHead<'a> {
    /// All bytes of the head, the empty line included.
    pub bytes: &'a [u8],
    /// Version.
    pub version: Version,
    /// Status code, at least 100.
    pub status: u16,
    /// Body that follows.
    pub framing: Framing,
    /// True if the connection may go on after the response.
    pub keeps: bool,
    fields: Fields<'a>,
}

// === impl ResponseHead ===

impl<'a> ResponseHead<'a> {
    /// Reads a whole head, as the response to this request.
    pub(crate) fn read(head: &'a [u8], asked: Asked) -> Result<Self, Refusal> {
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = Response::new(&mut []);
        let parser = ParserConfig::default();
        let read = parser.parse_response_with_uninit_headers(&mut response, head, &mut slots);
        let whole = read.map_err(|error| refusal(error, head, Kind::Response))?;
        let (Status::Complete(_), Some(status)) = (whole, response.code) else {
            return Err(malformed(Kind::Response));
        };
        if status < 100 {
            return Err(Refusal::StatusCode);
        }
        let version = Version::of_minor(response.version);
        let is_1_0 = version == Version::Http10;
        let mut said = Said::default();
        for field in response.headers.iter() {
            said.note(field.name, field.value)?;
        }
        said.settle(is_1_0)?;
        let framing = said.of_response(asked, status)?;
        let first_line = memchr::memchr(b'\n', head).map_or(0, |lf| lf + 1);
        Ok(Self {
            bytes: head,
            version,
            status,
            framing,
            keeps: said.keeps(is_1_0) && framing != Framing::UntilClose,
            fields: Fields::new(head, first_line),
        })
    }

    /// Returns the fields in the order in which they came.
    pub fn fields(&self) -> Fields<'a> {
        self.fields.clone()
    }

    /// Returns true for 1xx but 101: another head follows.
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}
