// SPDX-License-Identifier: Apache-2.0
//! `culvert-sidecar wait --for ready`: for containers that may start only when the network works.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time between two requests. A start takes some 30 ms until it is ready, and waiting should add little to that.
const EVERY: Duration = Duration::from_millis(50);
/// Longest time for one answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Bytes of an answer that are read; reasons are short.
const MAX_ANSWER: u64 = 8 * 1024;

/// Error of `wait`.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// The sidecar was not ready in time. A retry is safe.
    #[error("not ready after {after:?}: {last}")]
    TimedOut {
        /// Time that was waited.
        after: Duration,
        /// Obstacle at the last request.
        last: Obstacle,
    },
    /// No event loop to wait in.
    #[error("cannot wait: {0}; is a limit on files too low?")]
    Resources(#[from] io::Error),
}

/// Reason why the sidecar is not known to be ready.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// The status port does not answer.
    #[error("{at} does not answer ({source}): does the sidecar run, and is that its --status-address?")]
    NoAnswer {
        /// The status port.
        at: SocketAddr,
        /// Error of the request.
        source: io::Error,
    },
    /// The sidecar answers that it is not ready.
    #[error("{0}")]
    NotReady(String),
}

/// Waits until the sidecar answers that it is ready, without end where there is no timeout.
///
/// # Errors
/// The time is over; the error has the last obstacle.
pub fn wait_ready(status: SocketAddr, timeout: Option<Duration>) -> Result<(), WaitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(until_ready(local(status), timeout))
}

async fn until_ready(at: SocketAddr, timeout: Option<Duration>) -> Result<(), WaitError> {
    let mut last = None;
    let asking = async {
        loop {
            match tokio::time::timeout(ANSWER_DEADLINE, ask(at)).await {
                Ok(Ok(())) => return,
                Ok(Err(obstacle)) => last = Some(obstacle),
                Err(_) => last = Some(Obstacle::NoAnswer { at, source: io::ErrorKind::TimedOut.into() }),
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    let Some(after) = timeout else {
        asking.await;
        return Ok(());
    };
    if tokio::time::timeout(after, asking).await.is_ok() {
        return Ok(());
    }
    let no_answer = || Obstacle::NoAnswer { at, source: io::ErrorKind::TimedOut.into() };
    Err(WaitError::TimedOut { after, last: last.unwrap_or_else(no_answer) })
}

/// Returns the address to dial: loopback for a wildcard.
fn local(status: SocketAddr) -> SocketAddr {
    let ip = match status.ip() {
        // The IPv6 wildcard takes IPv4 too, and every pod has an IPv4 loopback.
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, status.port())
}

async fn ask(at: SocketAddr) -> Result<(), Obstacle> {
    let answer = exchange(at).await.map_err(|source| Obstacle::NoAnswer { at, source })?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    let reason = body.trim().replace('\n', "; ");
    Err(Obstacle::NotReady(if reason.is_empty() { format!("{at} says {status:?}") } else { reason }))
}

async fn exchange(at: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(at).await?;
    let request = format!("GET /ready HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (status, asked) in [
            ("[::]:15020", "127.0.0.1:15020"),
            ("0.0.0.0:15020", "127.0.0.1:15020"),
            ("[::1]:15020", "[::1]:15020"),
            ("10.0.0.2:1", "10.0.0.2:1"),
        ] {
            assert_eq!(local(status.parse().unwrap()), asked.parse().unwrap(), "{status}");
        }
    }

    #[test]
    fn a_port_that_is_closed_is_an_error_in_time_that_says_what_to_check() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = wait_ready(free, Some(Duration::from_millis(120))).unwrap_err().to_string();
        assert!(error.contains("not ready after 120ms"), "{error}");
        assert!(error.contains("is that its --status-address?"), "{error}");
    }

    #[test]
    fn a_port_that_never_answers_does_not_delay_the_timeout() {
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let start = std::time::Instant::now();
        let error = wait_ready(mute.local_addr().unwrap(), Some(Duration::from_millis(100))).unwrap_err();
        assert!(matches!(error, WaitError::TimedOut { .. }), "{error}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}
