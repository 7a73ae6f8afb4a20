// SPDX-License-Identifier: Apache-2.0
//! One call of gRPC's health service, `grpc.health.v1.Health/Check`.
//!
//! HTTP/2 with prior knowledge, as little of it as one call needs: header lines are sent as they are (RFC 7541, literals
//! without indexing), and those of the answer are not looked at, as a server that serves says so in the body and one that
//! does not has none.

use super::Answer;
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// RFC 9113, 6.5.2: no longer frame is sent to whoever did not ask for it.
const LONGEST_FRAME: usize = 16 * 1024;
/// Frames of any kind that are heard before the answer.
const MOST_FRAMES: usize = 64;
/// `HealthCheckResponse` has one number.
const LONGEST_ANSWER: usize = 256;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// `HealthCheckResponse.ServingStatus`
const SERVING: u64 = 1;

pub(super) async fn ask(mut tcp: TcpStream, service: &str) -> Answer {
    match call(&mut tcp, service).await {
        Ok(Some(SERVING)) => Answer::new(200, "the application is serving"),
        Ok(Some(status)) => Answer::unavailable(format!("the application's gRPC health is {}", name(status))),
        Ok(None) => {
            Answer::unavailable("the application refuses the gRPC health check: does it have that service?")
        }
        Err(error) => {
            Answer::unavailable(format!("the application does not speak gRPC as it should: {error}"))
        }
    }
}

fn name(status: u64) -> String {
    match status {
        0 => "UNKNOWN".into(),
        2 => "NOT_SERVING".into(),
        3 => "SERVICE_UNKNOWN".into(),
        other => other.to_string(),
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// RFC 7541, 6.2.2 and 5.2: a literal whose name is new, without Huffman's coding; none of ours has 127 bytes.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8][..], text.as_bytes()].concat();
    [&[0][..], &text(name), &text(value)].concat()
}

fn request(service: &str) -> Vec<u8> {
    let headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "kube-probe/culvert"),
    ];
    let headers: Vec<u8> = headers.iter().flat_map(|(name, value)| header(name, value)).collect();
    // HealthCheckRequest { string service = 1; }
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length > 0x7f {
            message.push(0x80 | (length & 0x7f) as u8);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    // gRPC: not compressed, and how long.
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    let message = [&[0][..], &length, &message].concat();
    [
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
        &frame(HEADERS, END_HEADERS, 1, &headers),
        &frame(DATA, END_STREAM, 1, &message),
    ]
    .concat()
}

/// The status that the server answers; `None` where it answers without one.
async fn call(tcp: &mut TcpStream, service: &str) -> io::Result<Option<u64>> {
    tcp.write_all(&request(service)).await?;
    let mut answer = Vec::new();
    for _ in 0..MOST_FRAMES {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if length > LONGEST_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        let mut payload = vec![0; length];
        tcp.read_exact(&mut payload).await?;
        let ours = u32::from_be_bytes(stream) & 0x7fff_ffff == 1;
        match kind {
            SETTINGS if flags & ACK == 0 => acknowledge(tcp, &frame(SETTINGS, ACK, 0, &[])).await,
            PING if flags & ACK == 0 => acknowledge(tcp, &frame(PING, ACK, 0, &payload)).await,
            DATA if ours => {
                let data = if flags & PADDED == 0 { Some(&payload[..]) } else { unpadded(&payload) };
                answer.extend_from_slice(data.unwrap_or_default());
                if answer.len() > LONGEST_ANSWER {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
                }
            }
            RST_STREAM if ours => return Ok(None),
            // RFC 9113, 6.8: a stream up to the last one that it names is still served. Ours is the first.
            GOAWAY if last_stream(&payload) == 0 => return Ok(None),
            _ => {}
        }
        if ours && matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            return Ok(status(&answer));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no answer among many frames"))
}

/// A server that has answered and is gone needs none.
async fn acknowledge(tcp: &mut TcpStream, frame: &[u8]) {
    let _ = tcp.write_all(frame).await;
}

fn last_stream(goaway: &[u8]) -> u32 {
    goaway.first_chunk().map_or(0, |last| u32::from_be_bytes(*last) & 0x7fff_ffff)
}

fn unpadded(payload: &[u8]) -> Option<&[u8]> {
    let (&padding, data) = payload.split_first()?;
    data.get(..data.len().checked_sub(padding.into())?)
}

/// HealthCheckResponse { ServingStatus status = 1; }, not compressed.
fn status(answer: &[u8]) -> Option<u64> {
    let (&[0, a, b, c, d], message) = answer.split_first_chunk::<5>()? else { return None };
    if message.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return None;
    }
    match message {
        // The default of protobuf is left out.
        [] => Some(0),
        [0x08, value @ 0..=0x7f] => Some(u64::from(*value)),
        _ => None,
    }
}
