// SPDX-License-Identifier: Apache-2.0
//! First bytes of a client that speaks HTTP/2 without TLS.

/// Connection preface of RFC 9113, section 3.4. It is no request of HTTP/1: the version is another.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// First bytes, compared with the preface of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Preface {
    /// All of it is there.
    Whole,
    /// They may become it.
    Part,
    /// They are something else.
    Other,
}

/// Compares a client's first bytes with the preface of HTTP/2.
pub(crate) fn preface(bytes: &[u8]) -> Preface {
    if bytes.starts_with(PREFACE) {
        Preface::Whole
    } else if PREFACE.starts_with(bytes) {
        Preface::Part
    } else {
        Preface::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_preface_is_http_2() {
        for n in 0..PREFACE.len() {
            assert_eq!(preface(&PREFACE[..n]), Preface::Part, "{n}");
            let mut other = PREFACE[..n].to_vec();
            other.push(b'x');
            assert_eq!(preface(&other), Preface::Other, "{n}");
        }
        assert_eq!(preface(PREFACE), Preface::Whole);
        assert_eq!(preface(&[PREFACE, b"\0\0\x12"].concat()), Preface::Whole);
        assert_eq!(preface(b"PRI * HTTP/1.1\r\n"), Preface::Other);
    }
}
