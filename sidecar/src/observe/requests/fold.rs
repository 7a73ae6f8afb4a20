// SPDX-License-Identifier: Apache-2.0
//! Paths without what differs from request to request, so that the requests of a route count together, and without secrets.

/// Segments of a path that tell routes apart; the others are cut off.
const MOST_SEGMENTS: usize = 8;
/// Bytes of the path of a route.
const MOST_BYTES: usize = 120;
/// Longest word that is no identifier.
const LONGEST_WORD: usize = 32;
/// Digits in a row that make an identifier: `order-10293` is one, `http2` is none.
const DIGITS: usize = 4;
/// Shortest hexadecimal number that is known as one.
const SHORTEST_HEX: usize = 8;
/// Length of a UUID.
const UUID: usize = 36;
/// Shortest mix of letters and digits that may be a secret.
const SHORTEST_TOKEN: usize = 20;
/// In place of an identifier.
const ANY: &[u8] = b"*";
/// In place of what is cut off.
const REST: &str = "…";

/// Bytes of a segment by their kind.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    digits: usize,
    /// Digits in a row, at most.
    run: usize,
    letters: usize,
    /// Letters that no hexadecimal number has.
    beyond_hex: usize,
    /// Bytes that are no letters, digits or dashes.
    others: usize,
    /// Bytes of escapes, addresses of mail, parameters, and letters of other languages.
    values: usize,
}

impl Bytes {
    fn of(segment: &[u8]) -> Self {
        let (mut bytes, mut run) = (Self::default(), 0);
        for byte in segment {
            run = if byte.is_ascii_digit() { run + 1 } else { 0 };
            bytes.run = bytes.run.max(run);
            match byte {
                b'0'..=b'9' => bytes.digits += 1,
                b'a'..=b'f' | b'A'..=b'F' => bytes.letters += 1,
                b'a'..=b'z' | b'A'..=b'Z' => {
                    (bytes.letters, bytes.beyond_hex) = (bytes.letters + 1, bytes.beyond_hex + 1)
                }
                b'-' => {}
                b'%' | b'@' | b';' | b'=' | 128.. => {
                    (bytes.others, bytes.values) = (bytes.others + 1, bytes.values + 1)
                }
                _ => bytes.others += 1,
            }
        }
        bytes
    }

    /// Returns true if all of it is hexadecimal digits and dashes.
    fn is_hex(self) -> bool {
        self.digits > 0 && self.beyond_hex == 0 && self.others == 0
    }
}

/// Returns the words of a segment: names of files and of services of gRPC have several.
fn words(segment: &[u8]) -> impl Iterator<Item = &[u8]> {
    segment.split(|byte| *byte == b'.')
}

/// Returns true for a segment that is another one for each user, order or file.
fn is_identifier(segment: &[u8]) -> bool {
    words(segment).any(|word| {
        let bytes = Bytes::of(word);
        let is_number = bytes.digits > 0 && bytes.letters == 0;
        let is_hex = word.len() >= SHORTEST_HEX && bytes.is_hex();
        let is_long = word.len() > LONGEST_WORD || bytes.digits > 0 && word.len() >= SHORTEST_TOKEN;
        bytes.values > 0 || is_number || is_hex || is_long || bytes.run >= DIGITS
    })
}

/// Returns true for a UUID, which names a thing and lets nobody in.
fn is_uuid(word: &[u8]) -> bool {
    let is_in_place = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    word.len() == UUID && word.iter().enumerate().all(is_in_place)
}

/// Returns true for a segment that may let its reader in somewhere: a token, a key, a parameter of a session.
fn may_be_secret(segment: &[u8]) -> bool {
    let is_token = |word: &[u8]| {
        let bytes = Bytes::of(word);
        let is_name = bytes.letters == 0 || is_uuid(word);
        let is_one = word.len() > LONGEST_WORD && !word.iter().any(|byte| matches!(byte, b'-' | b'_'));
        !is_name && (is_one || bytes.digits > 0 && word.len() >= SHORTEST_TOKEN)
    };
    words(segment).any(is_token) || segment.iter().any(|byte| matches!(byte, b';' | b'='))
}

/// Appends the path of a route.
pub(super) fn fold(path: &[u8], into: &mut Vec<u8>) {
    let most = into.len() + MOST_BYTES;
    for (number, segment) in path.split(|byte| *byte == b'/').enumerate() {
        if number > 0 {
            into.push(b'/');
        }
        let part = if is_identifier(segment) { ANY } else { segment };
        if number > MOST_SEGMENTS || into.len() + part.len() > most {
            into.extend_from_slice(REST.as_bytes());
            return;
        }
        into.extend_from_slice(part);
    }
}

/// Returns a path for people: as it was sent, but without what may be secret.
pub(super) fn shown(path: &[u8]) -> String {
    let segments = path.split(|byte| *byte == b'/');
    let parts = segments.map(|segment| if may_be_secret(segment) { ANY } else { segment });
    String::from_utf8_lossy(&parts.collect::<Vec<_>>().join(&b'/')).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded(path: &str) -> String {
        let mut into = Vec::new();
        fold(path.as_bytes(), &mut into);
        String::from_utf8(into).unwrap()
    }

    #[test]
    fn what_differs_from_request_to_request_is_one_route() {
        for (path, route) in [
            ("", ""),
            ("/", "/"),
            ("*", "*"),
            ("/users", "/users"),
            ("/users/42", "/users/*"),
            ("/users/42/orders/7", "/users/*/orders/*"),
            ("/api/v2/items", "/api/v2/items"),
            ("/http2/h2c", "/http2/h2c"),
            ("/orders/order-10293", "/orders/*"),
            ("/2024-11-29/log", "/*/log"),
            ("/files/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/files/*"),
            ("/files/3F2504E04F8911D39A0C0305E82C3301", "/files/*"),
            ("/blobs/d0b425e0", "/blobs/*"),
            ("/facade/deadbeef", "/facade/deadbeef"),
            ("/reset/eyJhbGciOiJIUzI1NiJ9", "/reset/*"),
            ("/mail/ann@example.org", "/mail/*"),
            ("/caf%C3%A9/menu", "/*/menu"),
            ("/café/menu", "/*/menu"),
            ("/reset/5f4dcc3b5aa765d61d8327deb882cf99", "/reset/*"),
            ("/key/QsLTmVqkPzRwXnJhGdFbYcAeUoIuSaZxCv", "/key/*"),
            ("/cart;jsessionid=1A/pay", "/*/pay"),
            ("/a-word-that-is-longer-than-a-word-should-be", "/*"),
            ("/a_long_word_of_31_bytes_in_all", "/*"),
            ("//a//b/", "//a//b/"),
            ("/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Check"),
            ("/static/app.3f9a8c1d.js", "/static/*"),
            ("/static/app.min.js", "/static/app.min.js"),
        ] {
            assert_eq!(folded(path), route, "{path}");
        }
    }

    #[test]
    fn a_route_is_short_however_long_its_path_is() {
        assert_eq!(folded(&"/a".repeat(100)), "/a".repeat(8) + "/…");
        let long =
            format!("/{}", "ab/".repeat(3)) + &"x".repeat(30) + &format!("/{}", "y".repeat(32)).repeat(4);
        let route = folded(&long);
        assert!(route.len() <= MOST_BYTES + REST.len() + 1 && route.ends_with("/…"), "{route}");
    }

    #[test]
    fn a_path_for_people_has_its_identifiers_and_no_secret() {
        for (path, text) in [
            ("/users/42/orders/order-10293", "/users/42/orders/order-10293"),
            ("/files/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/files/3f2504e0-4f89-11d3-9a0c-0305e82c3301"),
            ("/numbers/123456789012345678901234567890", "/numbers/123456789012345678901234567890"),
            (
                "/words-that-are-long-and-have-no-digit-in-them",
                "/words-that-are-long-and-have-no-digit-in-them",
            ),
            ("/reset/eyJhbGciOiJIUzI1NiJ9/now", "/reset/*/now"),
            ("/key/d0b425e00e15a0d36b9b361f02bab63563aed6cb", "/key/*"),
            ("/cart;jsessionid=1A/pay", "/*/pay"),
            ("/caf%C3%A9", "/caf%C3%A9"),
            ("*", "*"),
        ] {
            assert_eq!(shown(path.as_bytes()), text, "{path}");
        }
    }
}
