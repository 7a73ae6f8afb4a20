// SPDX-License-Identifier: Apache-2.0
//! Head of a request.

use super::scan::{Kind, malformed, refusal};
use super::{Fields, MAX_FIELDS, Target, Version};
use crate::framing::{Asked, Framing, Lengths, Said};
use crate::refusal::Refusal;
use httparse::{Request, Status};
use std::mem::MaybeUninit;

/// Head of a request that broke no rule. All parts are slices of the bytes that were received.
#[derive(Clone, Debug)]
pub struct RequestHead<'a> {
    /// All bytes of the head, the empty line included.
    pub bytes: &'a [u8],
    /// Method in the letters that were sent.
    pub method: &'a str,
    /// Target.
    pub target: Target<'a>,
    /// Version.
    pub version: Version,
    /// Value of the Host field, which may be empty. HTTP/1.0 may have none.
    pub host: Option<&'a [u8]>,
    /// Body that follows.
    pub framing: Framing,
    /// True if the connection may go on after the response.
    pub keeps: bool,
    /// True if the client asks for another protocol by the Upgrade field.
    pub upgrades: bool,
    /// True if the client waits for 100 before it sends the body.
    pub expects: bool,
    fields: Fields<'a>,
    lengths: Lengths,
}

// === impl RequestHead ===

impl<'a> RequestHead<'a> {
    /// Reads a whole head.
    pub(crate) fn read(head: &'a [u8]) -> Result<Self, Refusal> {
        let mut slots = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = Request::new(&mut []);
        let read = request.parse_with_uninit_headers(head, &mut slots);
        let whole = read.map_err(|error| refusal(error, head, Kind::Request))?;
        let (Status::Complete(_), Some(method), Some(target)) = (whole, request.method, request.path) else {
            return Err(malformed(Kind::Request));
        };
        let version = Version::of_minor(request.version);
        let is_1_0 = version == Version::Http10;

        if ["HEAD", "CONNECT"].iter().any(|name| method.eq_ignore_ascii_case(name) && method != *name) {
            return Err(Refusal::MethodCase);
        }
        let target = Target::read(method, target)?;
        let mut said = Said::default();
        for field in request.headers.iter() {
            said.note_request(field.name, field.value)?;
        }
        said.settle(is_1_0)?;
        match said.host {
            Some(host) => target.agrees_with(host)?,
            None if is_1_0 => {}
            None => return Err(Refusal::NoHost),
        }
        let framing = said.of_request(method)?;
        let first_line = memchr::memchr(b'\n', head).map_or(0, |lf| lf + 1);
        Ok(Self {
            bytes: head,
            method,
            target,
            version,
            host: said.host,
            framing,
            keeps: said.keeps(is_1_0),
            // HTTP/1.0 knows neither.
            upgrades: said.upgrade && !is_1_0,
            expects: said.expects && !is_1_0 && framing != Framing::None,
            fields: Fields::new(head, first_line),
            lengths: said.lengths(),
        })
    }

    /// Returns the fields in the order in which they came.
    pub fn fields(&self) -> Fields<'a> {
        self.fields.clone()
    }

    /// Returns false if no field can have one of these names, by their lengths, and no line depends on another.
    pub(crate) fn may_have<'n>(&self, mut names: impl Iterator<Item = &'n str>) -> bool {
        self.lengths == Lengths::ANY || names.any(|name| self.lengths.may_have(name))
    }

    /// Returns this head with other lines of fields, none of which frames or routes. `upgrades`: Upgrade is among them.
    pub(crate) fn with_lines<'b>(&self, bytes: &'b [u8], upgrades: bool) -> RequestHead<'b>
    where
        'a: 'b,
    {
        let first_line = memchr::memchr(b'\n', bytes).map_or(0, |lf| lf + 1);
        let fields = Fields::new(bytes, first_line);
        let lengths = Lengths::ANY;
        RequestHead { bytes, upgrades: self.upgrades && upgrades, fields, lengths, ..self.clone() }
    }

    /// Returns the part of the request that the framing of its response depends on.
    pub(crate) fn asked(&self) -> Asked {
        Asked::new(self.method, self.upgrades, self.keeps)
    }
}
