// SPDX-License-Identifier: Apache-2.0
//! Messages on TCP: each behind its length in two bytes.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads the next message; `None` at the end of the stream.
///
/// # Errors
/// The stream's, and an end inside a message.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    if stream.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..]).await?;
    let length = usize::from(u16::from_be_bytes(length));
    // Memory comes with the bytes: a length alone takes none.
    let mut message = Vec::new();
    while message.len() < length {
        let missing = (length - message.len()) as u64;
        if (&mut *stream).take(missing).read_buf(&mut message).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(message))
}

/// Writes a message with its length, in one piece.
///
/// # Errors
/// The stream's, and a message that is too long.
pub(crate) async fn write(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_of_every_length_come_through_small_reads() {
        let (mut near, mut far) = tokio::io::duplex(7);
        let messages = [0, 1, 6, 7, 8, 1000, 65_535].map(|length| vec![b'x'; length]);
        let sent = messages.clone();
        let writing = tokio::spawn(async move {
            for message in &sent {
                write(&mut near, message).await.unwrap();
            }
        });
        for message in &messages {
            assert_eq!(read(&mut far).await.unwrap().as_ref(), Some(message));
        }
        writing.await.unwrap();
        assert_eq!(read(&mut far).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_message_that_is_cut_is_an_error() {
        for bytes in [&[0][..], &[0, 1], &[0, 3, 1, 2]] {
            let mut stream = bytes;
            let error = read(&mut stream).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{bytes:?}");
        }
        let (mut near, _far) = tokio::io::duplex(7);
        assert!(write(&mut near, &[0; 65_536]).await.is_err());
    }
}
