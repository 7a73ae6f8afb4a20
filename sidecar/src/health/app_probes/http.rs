// SPDX-License-Identifier: Apache-2.0
//! The HTTP probe, as a kubelet makes it: a GET, and up to nine more where the application redirects to itself. A redirect to
//! another host is the answer, and a kubelet takes it for success.

use super::answer::Answer;
use super::target::{Next, Target};
use super::{ProbeReply, connect, https};
use crate::options::app_probes::HttpGet;
use crate::options::config::SidecarPorts;
use std::fmt::Write;
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests of one probe, as in Go.
const MOST_REQUESTS: usize = 10;
/// Header lines that are not the probe's to set; Go leaves them out, too.
const LEFT_OUT: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "trailer"];

/// Asks the application at `pod`. `own` are ports of the sidecar, to which no redirect leads.
pub(super) async fn get(pod: IpAddr, get: &HttpGet, own: &SidecarPorts) -> ProbeReply {
    let host = get.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = host.map(|(_, value)| value.clone()).filter(|host| !host.is_empty());
    let mut target = Target { tls: get.tls, port: get.port, path: get.path.clone(), host, referer: None };
    for _ in 0..MOST_REQUESTS {
        let tcp = match connect(SocketAddr::new(pod, target.port)).await {
            Ok(tcp) => tcp,
            Err(error) => return ProbeReply::unavailable(error.to_string()),
        };
        let mut answer = Answer::new();
        let request = request(pod, get, &target);
        let asked = if target.tls {
            https::exchange(tcp, &request, &mut answer).await
        } else {
            exchange(tcp, &request, &mut answer).await
        };
        if let Err(error) = asked {
            return ProbeReply::unavailable(format!("the request to the application failed: {error}"));
        }
        match target.follow(pod, answer.status(), answer.location()) {
            Next::Answer => return reply(answer.status()),
            Next::Refused => {
                return ProbeReply::unavailable("the application redirects to what is no address");
            }
            Next::Request(next) if own.contains(next.port) => {
                return ProbeReply::unavailable(format!(
                    "the application redirects to the sidecar's port {}",
                    next.port
                ));
            }
            Next::Request(next) => target = next,
        }
    }
    ProbeReply::unavailable(format!("the application redirects {MOST_REQUESTS} times"))
}

/// Passes on a status that a kubelet could have got as the final one.
fn reply(status: u16) -> ProbeReply {
    let words = format!("the application answers {status}");
    if (200..=599).contains(&status) {
        ProbeReply::new(status, words)
    } else {
        ProbeReply::unavailable(words)
    }
}

fn request(pod: IpAddr, get: &HttpGet, target: &Target) -> Vec<u8> {
    let named = |wanted: &str| get.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let mut text = format!("GET {} HTTP/1.1\r\n", target.path);
    // Writing to a String does not fail.
    let _ = match &target.host {
        Some(host) => write!(text, "Host: {host}\r\n"),
        None => write!(text, "Host: {}\r\n", SocketAddr::new(pod, target.port)),
    };
    if !named("user-agent") {
        text.push_str("User-Agent: kube-probe/culvert\r\n");
    }
    if !named("accept") {
        text.push_str("Accept: */*\r\n");
    }
    for (name, value) in &get.headers {
        let is_unset =
            value.is_empty() && ["accept", "user-agent"].iter().any(|n| name.eq_ignore_ascii_case(n));
        if !is_unset && !LEFT_OUT.iter().any(|left_out| name.eq_ignore_ascii_case(left_out)) {
            let _ = write!(text, "{name}: {value}\r\n");
        }
    }
    if let Some(referer) = target.referer.as_ref().filter(|_| !named("referer")) {
        let _ = write!(text, "Referer: {referer}\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    text.into_bytes()
}

/// Sends the request and reads the answer, as far as it is needed.
async fn exchange(mut tcp: TcpStream, request: &[u8], answer: &mut Answer) -> io::Result<()> {
    tcp.write_all(request).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let read = tcp.read(&mut buffer).await?;
        if read == 0 {
            return Ok(answer.end()?);
        }
        if answer.take(&buffer[..read])? {
            return Ok(());
        }
    }
}
