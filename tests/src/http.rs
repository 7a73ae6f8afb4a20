//! As much HTTP/1.1 as a test needs.

use std::io::{Read, Write};
use std::net::TcpStream;

use anyhow::{Context, Result, anyhow};

/// An answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// `200`
    pub status: u16,
    /// Everything between the status line and the body.
    pub headers: String,
    /// The body as text.
    pub body: String,
}

/// Asks for a path over a fresh connection, which the request also ends.
pub fn get(stream: TcpStream, path: &str) -> Result<Response> {
    request(stream, "GET", path)
}

/// Sends a request without a body over a fresh connection, which the request also ends.
pub fn request(stream: TcpStream, method: &str, path: &str) -> Result<Response> {
    send(stream, method, path, "")
}

/// Asks for a path in a content type, over a fresh connection, which the request also ends.
pub fn get_accepting(stream: TcpStream, path: &str, accept: &str) -> Result<Response> {
    send(stream, "GET", path, &format!("accept: {accept}\r\n"))
}

fn send(stream: TcpStream, method: &str, path: &str, header: &str) -> Result<Response> {
    // A connection that was reset has no peer any more; the write says so.
    let host = stream.peer_addr().map_or_else(|_| "gone".into(), |peer| peer.to_string());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{header}content-length: 0\r\nconnection: close\r\n\r\n"
    );
    exchange(stream, head.as_bytes()).with_context(|| format!("{method} {path}"))
}

/// Sends a whole request over any stream, and reads one answer.
pub fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Result<Response> {
    stream.write_all(request).context("the request cannot be sent")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        if let Some(response) = Response::parse(&answer)? {
            return Ok(response);
        }
        let read = loop {
            match stream.read(&mut buffer) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                done => break done,
            }
        };
        match read.context("no whole answer")? {
            0 => return Response::at_end(&answer),
            n => answer.extend_from_slice(&buffer[..n]),
        }
    }
}

impl Response {
    /// A whole answer, as far as its headers say how long it is.
    fn parse(answer: &[u8]) -> Result<Option<Self>> {
        let Some((head, body)) = split(answer) else { return Ok(None) };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
        });
        match length {
            Some(length) if body.len() >= length => Ok(Some(Self::new(&head, &body[..length])?)),
            _ => Ok(None),
        }
    }

    /// An answer that ended with its connection.
    fn at_end(answer: &[u8]) -> Result<Self> {
        let (head, body) =
            split(answer).ok_or_else(|| anyhow!("the answer ended after {} bytes", answer.len()))?;
        if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            return Self::new(&head, body);
        }
        let mut whole = Vec::new();
        let mut rest = body;
        while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
            let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?.trim(), 16)?;
            let Some(chunk) = rest.get(end + 2..end + 2 + size) else { break };
            whole.extend_from_slice(chunk);
            rest = rest.get(end + 2 + size + 2..).unwrap_or_default();
        }
        Self::new(&head, &whole)
    }

    fn new(head: &str, body: &[u8]) -> Result<Self> {
        let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let status = first.split(' ').nth(1).and_then(|s| s.parse().ok());
        Ok(Self {
            status: status.ok_or_else(|| anyhow!("no HTTP status line: {first}"))?,
            headers: headers.to_owned(),
            body: String::from_utf8_lossy(body).into_owned(),
        })
    }
}

fn split(answer: &[u8]) -> Option<(String, &[u8])> {
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    Some((String::from_utf8_lossy(&answer[..end]).into_owned(), &answer[end + 4..]))
}
