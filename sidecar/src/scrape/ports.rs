// SPDX-License-Identifier: Apache-2.0
//! The ports that are open for Prometheus. They follow the documents: a port that stays is not touched.

use crate::admin::App;
use crate::net::bind::{self, ListenError};
use crate::plan::Plan;
use crate::scrape::{ScrapePages, Scraper};
use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Connections at a time to a port: a few scrapers. Those that came by 15006 are one peer here.
const MOST_CONNECTIONS: usize = 64;

/// Longest life of a connection, which is one request: its head, up to 8 s for applications, and an answer of MiB. Prometheus
/// gives up after 10 s, and what a slow reader has not read yet is memory.
const AGE: Duration = Duration::from_secs(30);

/// The open ports.
#[derive(Debug)]
pub(crate) struct ScrapePorts {
    scraper: Arc<Scraper>,
    open: Mutex<HashMap<SocketAddr, AbortHandle>>,
}

/// A port that is open, and not served yet.
#[derive(Debug)]
pub(crate) struct BoundScrapePort {
    address: SocketAddr,
    socket: StdListener,
}

/// Opens the ports of a plan, apart from those that `is_open` knows.
///
/// # Errors
/// Every port that cannot be had.
pub(crate) fn bind(
    plan: &Plan,
    is_open: impl Fn(SocketAddr) -> bool,
) -> Result<Vec<BoundScrapePort>, Vec<ListenError>> {
    let (mut bound, mut errors) = (Vec::new(), Vec::new());
    let ports = plan.scrape.iter().flat_map(|scrape| &scrape.ports);
    for address in ports.map(|port| port.listen).filter(|address| !is_open(*address)) {
        match bind::bind(address, "the port of a MeshMetric") {
            Ok(socket) => bound.push(BoundScrapePort { address, socket }),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(bound) } else { Err(errors) }
}

impl ScrapePorts {
    pub(crate) fn new(app: App) -> Self {
        Self { scraper: Arc::new(Scraper::new(app)), open: Mutex::default() }
    }

    /// Returns true for a port that is served.
    pub(crate) fn is_open(&self, address: SocketAddr) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&address)
    }

    /// Serves what was bound, and closes what the plan no longer wants. Answers that are being sent are sent to their end.
    pub(crate) fn follow(&self, plan: &Plan, bound: Vec<BoundScrapePort>) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for BoundScrapePort { address, socket } in bound {
            let listener = TcpListener::from_std(socket)?;
            let pages = ScrapePages { scraper: Arc::clone(&self.scraper), listen: address };
            let serving = tokio::spawn(culvert_serve::serve_for(listener, MOST_CONNECTIONS, AGE, pages));
            open.insert(address, serving.abort_handle());
        }
        open.retain(|address, serving| {
            let mut wanted = plan.scrape.iter().flat_map(|scrape| &scrape.ports);
            let wanted = wanted.any(|port| port.listen == *address);
            if !wanted {
                serving.abort();
            }
            wanted
        });
        Ok(())
    }
}
