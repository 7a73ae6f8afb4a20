// SPDX-License-Identifier: Apache-2.0
//! gRPC's frames: a flag, a length of four bytes, a message
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Bytes before each message.
const HEAD: usize = 5;

/// Reasons why a stream of frames cannot be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The flag says that the message is compressed, which was never agreed.
    #[error("a message of the stream is compressed, though no compression was agreed")]
    Compressed,
    /// The message is longer than is read.
    #[error("a message of the stream has {length} bytes, more than {most}")]
    TooLong {
        /// Bytes of the message, as its frame says.
        length: usize,
        /// Most bytes that are read.
        most: usize,
    },
    /// The bytes are not the message that was expected.
    #[error("a message of the stream cannot be read: {0}")]
    Garbled(#[from] prost::DecodeError),
}

/// Returns the message in its frame.
#[must_use]
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(HEAD + length);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(length).expect("no message of ours has 4 GiB"));
    message.encode(&mut framed).expect("a BytesMut grows");
    framed.freeze()
}

/// Bytes that came, cut into messages. Holds at most one message and the piece that ended it.
#[derive(Debug)]
pub struct Frames {
    held: BytesMut,
    most: usize,
}

impl Default for Frames {
    /// Takes messages of up to [`crate::MAX_MESSAGE`].
    fn default() -> Self {
        Self::of_at_most(crate::MAX_MESSAGE)
    }
}

impl Frames {
    /// Takes messages of up to so many bytes.
    #[must_use]
    pub fn of_at_most(most: usize) -> Self {
        Self { held: BytesMut::new(), most }
    }

    /// Adds a piece that came.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// Returns the next whole message; `None` until more bytes come.
    ///
    /// # Errors
    /// [`FrameError`]: nothing after it can be trusted, so the stream has to end.
    pub fn take<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        if self.held.len() < HEAD {
            return Ok(None);
        }
        let mut head = &self.held[..HEAD];
        let (flag, length) = (head.get_u8(), head.get_u32() as usize);
        if flag != 0 {
            return Err(FrameError::Compressed);
        }
        if length > self.most {
            return Err(FrameError::TooLong { length, most: self.most });
        }
        if self.held.len() < HEAD + length {
            return Ok(None);
        }
        self.held.advance(HEAD);
        let message = M::decode(self.held.split_to(length))?;
        if self.held.is_empty() {
            // Else a long message would keep its memory for as long as the stream lives.
            self.held = BytesMut::new();
        }
        Ok(Some(message))
    }

    /// Returns true if part of a message is held: a stream that ends now was cut.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::DeltaDiscoveryRequest;

    fn request(nonce: &str) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest { response_nonce: nonce.to_owned(), ..Default::default() }
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_are_cut() {
        let sent = [request("a"), request(&"b".repeat(300)), DeltaDiscoveryRequest::default(), request("c")];
        let bytes: Vec<u8> = sent.iter().flat_map(framed).collect();
        for size in 1..bytes.len() {
            let (mut frames, mut came) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.push(piece);
                while let Some(message) = frames.take::<DeltaDiscoveryRequest>().unwrap() {
                    came.push(message);
                }
            }
            assert_eq!(came, sent, "{size}");
            assert!(!frames.is_partial(), "{size}");
        }
    }

    #[test]
    fn a_half_message_waits_and_wrong_ones_are_refused() {
        let next = |bytes: &[u8]| {
            let mut frames = Frames::default();
            frames.push(bytes);
            (frames.take::<DeltaDiscoveryRequest>(), frames.is_partial())
        };
        let whole = framed(&request("nonce"));
        for cut in 1..whole.len() {
            assert_eq!(next(&whole[..cut]), (Ok(None), true), "{cut}");
        }
        assert_eq!(next(b""), (Ok(None), false));
        assert_eq!(next(&[1, 0, 0, 0, 0]).0, Err(FrameError::Compressed));
        assert_eq!(
            next(&[0, 0xff, 0xff, 0xff, 0xff]).0,
            Err(FrameError::TooLong { length: u32::MAX as usize, most: crate::MAX_MESSAGE })
        );
        let mut small = Frames::of_at_most(10);
        small.push(&[0, 0, 0, 0, 11]);
        let refused = small.take::<DeltaDiscoveryRequest>();
        assert_eq!(refused, Err(FrameError::TooLong { length: 11, most: 10 }));
        let most = u32::try_from(crate::MAX_MESSAGE).unwrap();
        assert_eq!(next(&[&[0][..], &most.to_be_bytes()].concat()).0, Ok(None));
        assert!(matches!(next(&[0, 0, 0, 0, 1, 0xff]).0, Err(FrameError::Garbled(_))));
    }
}
