// SPDX-License-Identifier: Apache-2.0
//! One HTTP/1.1 GET. Only the status of the answer counts; a redirect (3xx) is passed on, and a kubelet takes it for success.
//!
//! By hand: hyper's client would wait for the whole head of the answer, and write header names in lower case, which an
//! application does not get from a kubelet.

use super::ProbeReply;
use crate::options::app_probes::HttpGet;
use crate::tls::unverified;
use std::fmt::Write;
use std::io;
use std::net::IpAddr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of the answer that are read at most; a status line is shorter.
const LONGEST_LINE: usize = 1024;

pub(super) async fn get(mut tcp: TcpStream, pod: IpAddr, get: &HttpGet) -> ProbeReply {
    let request = request(pod, get);
    let status = if get.tls {
        unverified::exchange(tcp, &request, LONGEST_LINE, |came| status_line(came).is_some()).await
    } else {
        exchange(&mut tcp, &request).await
    };
    match status {
        Ok(came) => match status_line(&came).and_then(code) {
            Some(status) => ProbeReply::new(status, format!("the application answers {status}")),
            None => ProbeReply::unavailable("the application does not speak HTTP"),
        },
        Err(error) => ProbeReply::unavailable(format!("the request to the application failed: {error}")),
    }
}

fn request(pod: IpAddr, get: &HttpGet) -> Vec<u8> {
    let named = |wanted: &str| get.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mut text = format!("GET {} HTTP/1.1\r\n", get.path);
    // Writing to a String does not fail.
    if !named("host") {
        let _ = write!(text, "Host: {}\r\n", std::net::SocketAddr::new(pod, get.port));
    }
    if !named("user-agent") {
        text.push_str("User-Agent: kube-probe/culvert\r\n");
    }
    if !named("accept") {
        text.push_str("Accept: */*\r\n");
    }
    for (name, value) in get.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("connection")) {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    text.into_bytes()
}

/// Sends the request, and reads the answer up to its status line.
async fn exchange(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request).await?;
    let mut came = Vec::with_capacity(LONGEST_LINE);
    while status_line(&came).is_none() && came.len() < LONGEST_LINE {
        if stream.read_buf(&mut came).await? == 0 {
            break;
        }
    }
    Ok(came)
}

fn status_line(came: &[u8]) -> Option<&[u8]> {
    came.iter().position(|byte| *byte == b'\n').map(|end| &came[..end])
}

/// Parses `HTTP/1.1 204 No Content`.
fn code(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let status: u16 = rest.get(..3)?.parse().ok()?;
    (version.starts_with("HTTP/1.") && (100..=599).contains(&status)).then_some(status)
}
