// SPDX-License-Identifier: Apache-2.0
//! Text of files that may hold bytes that are no UTF-8. Each of those stands as one character of the last private plane, so
//! that the text is edited as any other, and written with the same bytes.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::read::read_bytes;

/// The character that stands for byte 0. Only bytes from 0x80 on can be no UTF-8.
const BASE: u32 = 0x0010_FF00;

/// Reads a file of at most `limit` bytes. A file that holds one of the stand-ins itself is refused: no program writes those.
pub(crate) fn read_lossless(path: &Path, limit: u64) -> io::Result<String> {
    decoded(&read_bytes(path, limit)?).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "it holds characters of the last private plane")
    })
}

fn decoded(bytes: &[u8]) -> Option<String> {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        if chunk.valid().chars().any(is_stand_in) {
            return None;
        }
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().filter_map(|byte| char::from_u32(BASE + u32::from(*byte))));
    }
    Some(text)
}

/// Returns true for a character that stands for a byte.
pub(crate) fn is_stand_in(character: char) -> bool {
    u32::from(character) >= BASE + 0x80
}

/// Returns the bytes of a text that was read so.
pub(crate) fn bytes(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(is_stand_in) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    for character in text.chars() {
        match u8::try_from(u32::from(character).wrapping_sub(BASE)) {
            Ok(byte) if is_stand_in(character) => bytes.push(byte),
            _ => bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_with_a_stand_in_of_its_own_is_refused() {
        assert_eq!(decoded("a\u{10ff80}".as_bytes()), None);
        assert_eq!(decoded("a\u{10ff7f}".as_bytes()).as_deref(), Some("a\u{10ff7f}"));
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(all in prop::collection::vec(any::<u8>(), 0..64), text in any::<String>()) {
            for before in [all, text.into_bytes()] {
                if let Some(text) = decoded(&before) {
                    prop_assert_eq!(bytes(&text).into_owned(), before);
                }
            }
        }
    }
}
