// SPDX-License-Identifier: Apache-2.0
//! Heads of requests and responses.
//!
//! A head is read once all of it is there: a scan finds its end in bytes that come in any pieces, looks at none of them
//! twice, and refuses a wrong line end where it stands. Only then `httparse` reads the head. So neither the result nor the
//! reason of a refusal depends on how the bytes were cut, and a client that sends byte by byte costs no more than another.

mod fields;
mod request;
mod response;
mod scan;
mod target;

pub use fields::{Field, Fields};
pub use request::RequestHead;
pub use response::ResponseHead;
pub(crate) use scan::{Kind, Scan};
pub use target::Target;

/// Longest head in bytes, the empty line included: Envoy's default. It leaves 4 KiB of a relay's scratch buffer to read into.
pub const MAX_HEAD: usize = 60 * 1024;

/// Most fields in a head: Envoy's default.
pub const MAX_FIELDS: usize = 100;

/// Version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// Returns the version with this minor number.
    fn of_minor(minor: Option<u8>) -> Self {
        if minor == Some(0) { Self::Http10 } else { Self::Http11 }
    }
}
