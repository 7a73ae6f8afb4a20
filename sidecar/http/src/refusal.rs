// SPDX-License-Identifier: Apache-2.0
//! Rules that a message may break, with their names and statuses.

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $status:literal, $text:literal;)+) => {
        /// Rule that a message broke.
        ///
        /// The text says whose fault it is. The same message is refused again, so a retry is of no use.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Refusal {
            $($(#[doc = $doc])+ #[error($text)] $variant,)+
        }

        impl Refusal {
            /// All rules, for tables and metrics.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Name for logs and metrics. It never changes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// Status of the answer where a request broke the rule. A response that breaks one is always answered with 502.
            pub const fn status(self) -> u16 {
                match self { $(Self::$variant => $status),+ }
            }
        }
    };
}

refusals! {
    /// A CR that no LF follows: some readers delete it, some end the line.
    BareCr = "bare_cr", 400, "a CR without LF: lines end with CRLF";
    /// An LF that no CR precedes.
    BareLf = "bare_lf", 400, "an LF without CR: lines end with CRLF";
    /// Control byte in the first line, NUL included.
    ControlByte = "control_byte", 400, "a control byte in the first line: is it HTTP at all?";
    /// More empty lines before a request than clients send by mistake.
    EmptyLines = "empty_lines", 400, "too many empty lines before a request";
    /// Request line that is not `METHOD SP TARGET SP HTTP/1.x`.
    RequestLine = "request_line", 400, "the request line is not METHOD TARGET HTTP/1.1, with one space between";
    /// Status line that is not `HTTP/1.x SP CODE`.
    StatusLine = "status_line", 502, "the status line is not HTTP/1.1 CODE REASON: is the server's port HTTP at all?";
    /// Version that is neither 1.0 nor 1.1.
    Version = "version", 505, "the version is neither HTTP/1.0 nor HTTP/1.1";
    /// HEAD or CONNECT in other letters: readers that ignore case frame it differently.
    MethodCase = "method_case", 400, "HEAD and CONNECT are written in capitals";
    /// Target of a form that does not fit the method.
    Target = "target", 400, "the request target has no form that fits the method";
    /// First line longer than a head may be.
    TargetTooLong = "target_too_long", 414, "the request line is longer than 60 KiB";
    /// Head longer than 60 KiB.
    HeadTooLong = "head_too_long", 431, "the head is longer than 60 KiB";
    /// More than 100 fields.
    TooManyFields = "too_many_fields", 431, "the head has more than 100 fields";
    /// Field line that begins with a space or tab.
    FoldedLine = "folded_line", 400, "a field line begins with white space: folded lines are obsolete";
    /// Field name with a byte that names may not have: often a space before the colon.
    FieldName = "field_name", 400, "a field name has a byte that names may not have";
    /// Field value with a control byte.
    FieldValue = "field_value", 400, "a field value has a control byte";
    /// Framing field with underscores, which CGI-like readers take for the true one.
    FieldLookalike = "field_lookalike", 400, "a framing field is written with underscores";
    /// Request of HTTP/1.1 without Host.
    NoHost = "no_host", 400, "the request has no Host field";
    /// Two Host fields.
    TwoHosts = "two_hosts", 400, "the request has two Host fields";
    /// Host that is neither empty nor a name or address with an optional port.
    BadHost = "bad_host", 400, "the Host field is not HOST or HOST:PORT";
    /// Host that differs from the target's.
    HostDiffers = "host_differs", 400, "the Host field and the request target name different hosts";
    /// Content-Length that is not one number.
    BadLength = "bad_length", 400, "Content-Length is not one decimal number";
    /// Content-Length beyond what can be counted.
    LengthTooLarge = "length_too_large", 413, "Content-Length is beyond 2^63 - 1";
    /// Two Content-Length fields, alike or not.
    TwoLengths = "two_lengths", 400, "there are two Content-Length fields";
    /// Content-Length and Transfer-Encoding in one message.
    LengthAndChunked = "length_and_chunked", 400, "there are both Content-Length and Transfer-Encoding";
    /// Transfer-Encoding other than `chunked` alone.
    TransferCoding = "transfer_coding", 501, "Transfer-Encoding is not chunked alone";
    /// Two Transfer-Encoding fields.
    TwoTransferCodings = "two_transfer_codings", 400, "there are two Transfer-Encoding fields";
    /// Transfer-Encoding in a message of HTTP/1.0, which does not know it.
    TransferCodingIn10 = "transfer_coding_in_1_0", 400, "a message of HTTP/1.0 has Transfer-Encoding";
    /// CONNECT with a body.
    ConnectBody = "connect_body", 400, "CONNECT has no body";
    /// Expect other than `100-continue`.
    Expectation = "expectation", 417, "Expect is not 100-continue alone";
    /// Chunk size that is not hexadecimal digits with `;` or CRLF behind.
    ChunkSize = "chunk_size", 400, "a chunk size is not hexadecimal digits with ';' or CRLF behind";
    /// Chunk size beyond what can be counted.
    ChunkTooLarge = "chunk_too_large", 413, "a chunk size is beyond 2^63 - 1";
    /// Chunk extension with a control byte.
    ChunkExtension = "chunk_extension", 400, "a chunk extension has a control byte";
    /// Chunk data that CRLF does not follow.
    ChunkEnd = "chunk_end", 400, "no CRLF follows the data of a chunk";
    /// Trailer field that is malformed, or that decides framing or routing.
    TrailerField = "trailer_field", 400, "a trailer field is malformed, or may stand in a head only";
    /// More than 16 KiB of trailers and chunk extensions in one body.
    TrailersTooLong = "trailers_too_long", 431, "trailers and chunk extensions of a body are longer than 16 KiB";
    /// Status code below 100.
    StatusCode = "status_code", 502, "the status code is below 100";
    /// 101 that no request asked for.
    UnaskedSwitch = "unasked_switch", 502, "the server switches protocols, and no request asked for it";
    /// Bytes from the server while no request waits.
    UnaskedResponse = "unasked_response", 502, "the server sends bytes, and no request waits for them";
    /// FIN within a head.
    CutHead = "cut_head", 400, "the connection ended within a head";
    /// FIN of the server within a body.
    CutBody = "cut_body", 502, "the connection to the server ended within a body";
    /// FIN of the server while a request waits.
    NoAnswer = "no_answer", 502, "the server closed the connection and left a request unanswered";
    /// Server that could not be reached.
    Unreachable = "unreachable", 503, "the server cannot be reached: is the application listening?";
    /// Service without an endpoint.
    NoEndpoint = "no_endpoint", 503, "no endpoint of the service is known";
    /// Limit on connections or connects to the server.
    Overloaded = "overloaded", 503, "a limit on connections to the server is reached: try again later";
    /// Request head that was not whole in time.
    HeaderTimeout = "header_timeout", 408, "the head of the request was not whole in time";
    /// Response that was not whole in time after its request.
    RequestTimeout = "request_timeout", 504, "the response was not whole in the time that a request has";
    /// Exchange that took longer than one may.
    StreamTimeout = "stream_timeout", 504, "the request and its response took longer than they may";
    /// Exchange that moved no byte for too long.
    StreamIdle = "stream_idle", 504, "no byte of the request or its response came for too long";
}

#[cfg(test)]
mod tests {
    use super::Refusal;
    use std::collections::HashSet;

    #[test]
    fn each_name_is_a_label_of_its_own_and_each_status_has_a_reason_phrase() {
        let names: HashSet<&str> = Refusal::ALL.iter().map(|rule| rule.name()).collect();
        assert_eq!(names.len(), Refusal::ALL.len());
        for rule in Refusal::ALL {
            assert!(
                rule.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{rule:?}"
            );
            assert!(crate::reply::reason(rule.status()).is_some(), "{rule:?}");
        }
    }

    #[test]
    fn the_readme_names_each_rule_with_its_status() {
        let readme = include_str!("../README.md");
        for rule in Refusal::ALL {
            let row = readme.lines().find(|line| line.starts_with(&format!("| {} |", rule.status())));
            let row = row.unwrap_or_else(|| panic!("README.md has no row of status {}", rule.status()));
            assert!(row.contains(&format!("`{}`", rule.name())), "{} is missing in {row}", rule.name());
        }
    }
}
