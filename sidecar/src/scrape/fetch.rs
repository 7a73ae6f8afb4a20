// SPDX-License-Identifier: Apache-2.0
//! One request to an application, as Prometheus makes it, with bounds on the answer.

use crate::health::app_probes::answer::Answer;
use crate::net::addrs::DialAddr;
use crate::net::dial::{self, DialError};
use crate::observe::scrapes::ScrapeFailure;
use crate::plan::hop_source;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of one application's metrics. Those of Kubernetes' API server, of the largest there are, take some 5 MiB.
pub(super) const MOST: usize = 8 << 20;

/// Bytes that are read at once.
const READ: usize = 16 * 1024;

/// Bytes that several applications may use together.
#[derive(Debug)]
pub(super) struct ByteBudget(AtomicUsize);

impl ByteBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Returns false if fewer bytes are left; then none is taken.
    pub(super) fn take(&self, bytes: usize) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// Returns the text that an application shows at a path.
pub(super) async fn fetch(to: SocketAddr, path: &str, sent: &ByteBudget) -> Result<String, ScrapeFailure> {
    let mut tcp = connect(to).await.map_err(|_| ScrapeFailure::Unreachable)?;
    // Text before all, since that is what is joined. No compression, whose bounds would be others.
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nUser-Agent: culvert-sidecar\r\n\
         Accept: text/plain;version=0.0.4;q=1,*/*;q=0.1\r\nConnection: close\r\n\r\n"
    );
    tcp.write_all(request.as_bytes()).await.map_err(|_| ScrapeFailure::Broken)?;
    let mut answer = Answer::keeping_body();
    let mut buffer = vec![0; READ];
    loop {
        let read = tcp.read(&mut buffer).await.map_err(|_| ScrapeFailure::Broken)?;
        if read == 0 {
            answer.end().map_err(|_| ScrapeFailure::Broken)?;
            break;
        }
        if !sent.take(read) {
            return Err(ScrapeFailure::TooLarge);
        }
        let whole = answer.take(&buffer[..read]).map_err(|_| ScrapeFailure::Broken)?;
        if answer.kept().len() > MOST {
            return Err(ScrapeFailure::TooLarge);
        }
        if whole {
            break;
        }
    }
    // A redirect is no answer: it may lead to another host.
    if answer.status() != 200 {
        return Err(ScrapeFailure::Status);
    }
    String::from_utf8(answer.into_body()).map_err(|_| ScrapeFailure::Malformed)
}

/// Connects from the source of the inbound hop, which the redirect rules let through to the application.
async fn connect(to: SocketAddr) -> Result<TcpStream, DialError> {
    let addr = DialAddr::new(to);
    match dial::dial(addr, hop_source(to.ip(), true), None).await {
        // Then nothing is redirected, and any source will do.
        Err(DialError::NoSource { .. }) => dial::dial(addr, None, None).await,
        dialled => dialled,
    }
}
