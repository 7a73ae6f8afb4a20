// SPDX-License-Identifier: Apache-2.0
//! Metrics on the ports that MeshMetrics open: the sidecar's, as far as the profiles show them, and those of the pod's
//! applications, which are asked at each scrape.
//!
//! ```text
//! scraper ─▶ 15006 (the mesh's TLS, permissions) ─▶ the port ─▶ own metrics ─┬▶ one text by families
//!                                                      └▶ applications, all at once ─┘
//! ```
//!
//! An application is a stranger here: its answer is bounded in size and time and read line by line, and one that is wrong
//! is left out as a whole and counted.

mod exposition;
mod fetch;
mod ports;
mod profile;

pub(crate) use ports::{ScrapePorts, bind};

use crate::admin::App;
use crate::connection::proxy::Proxy;
use crate::net::addrs::{Family, is_loopback};
use crate::net::throttle::Throttle;
use crate::observe::scrapes::ScrapeFailure;
use crate::plan::scrape::{Scrape, ScrapedApplication};
use crate::plan::{Plan, TlsMode};
use crate::scrape::exposition::{MetricFamilies, SeriesLabels};
use crate::scrape::fetch::ByteBudget;
use culvert_serve::metrics::{TEXT, text_format};
use culvert_serve::reply::{self, Reply, not_found, of_type, wrong_method};
use culvert_serve::{Pages, PeerAddress};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Time for applications to answer, where the scraper does not say its own. Prometheus waits 10 s, and an answer without the
/// slow application is worth more to it than none.
const WITHIN: Duration = Duration::from_secs(8);
/// Share of the scraper's time that applications get.
const SHARE: f64 = 0.8;
/// Header by which Prometheus says its timeout, in seconds.
const TIMEOUT: &str = "x-prometheus-scrape-timeout-seconds";

/// Bytes of all answers that scrapers have not read to their end: two of the largest, or as many of the usual size as there are
/// connections. By number a few slow readers would keep all others out.
const MOST_HELD: usize = 48 << 20;
/// The unit in which they are counted.
const KIB: usize = 1024;
/// Bytes that all applications together may send for an answer.
const MOST_SENT: usize = 16 << 20;
/// Bytes of memory that the metrics of all applications may take: their series have more labels here than they had there.
const MOST_KEPT: usize = 24 << 20;

/// Label with the application's name: the scope, which Kuma's exporter shows so.
const APPLICATION: &str = "otel_scope_name";

/// Time between two lines about applications whose metrics are missing. Scrapers decide how often that is seen.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// The metrics of this pod, as they are on all ports.
#[derive(Debug)]
pub(crate) struct Scraper {
    app: App,
    /// Held while applications are asked, so that several scrapers do not multiply what is in memory.
    gathering: Mutex<()>,
    /// KiB that further answers may have.
    held: Arc<Semaphore>,
    missing: Throttle,
}

/// The pages of one port.
struct ScrapePages {
    scraper: Arc<Scraper>,
    listen: SocketAddr,
}

impl Pages for ScrapePages {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        let asked = self.asked(request);
        let scraper = Arc::clone(&self.scraper);
        async move {
            let mut reply = match asked {
                Ok(within) => scraper.answer(within).await,
                Err(refused) => *refused,
            };
            // A connection's life is bounded, and one that goes on would end in the middle of a later answer.
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            reply
        }
    }
}

impl ScrapePages {
    /// Returns the time for applications, or the answer to a request that gets no metrics.
    fn asked(&self, request: &Request<Incoming>) -> Result<Duration, Box<Reply>> {
        let proxy = &self.scraper.app.proxy;
        let running = proxy.running.load();
        let peer = request.extensions().get::<PeerAddress>();
        if !is_open(&running.plan) && !peer.is_some_and(|peer| came_by_inbound(proxy, peer.0)) {
            const WORDS: &str = "mTLS is STRICT: this port is reached by the mesh's TLS; without an identity ask the status \
                                 port, which has no metrics of applications";
            proxy.metrics.scrapes.refused.inc();
            return Err(reply::text(StatusCode::FORBIDDEN, WORDS).into());
        }
        let ports = running.plan.scrape.as_ref().map_or(&[][..], |scrape| scrape.ports.as_slice());
        let port = ports.iter().find(|port| port.listen == self.listen);
        let paths = port.map_or(&[][..], |port| port.paths.as_slice());
        if !paths.iter().any(|path| path == request.uri().path()) {
            return Err(not_found(&paths.join(", ")).into());
        }
        if request.method() != Method::GET {
            return Err(wrong_method("GET").into());
        }
        Ok(within(request.headers()))
    }
}

/// Returns true if the plan lets every peer in, so that one that comes past the inbound port may have the metrics too.
fn is_open(plan: &Plan) -> bool {
    plan.mtls.as_ref().is_none_or(|mtls| mtls.of_metrics().mode == TlsMode::Permissive)
}

/// Returns true for the hop of a connection that passed the inbound port, and for a program of this pod.
fn came_by_inbound(proxy: &Proxy, peer: IpAddr) -> bool {
    is_loopback(peer) || proxy.own.contains(peer)
}

/// Returns the time for applications.
fn within(headers: &HeaderMap) -> Duration {
    let said = headers.get(TIMEOUT).and_then(|value| value.to_str().ok()?.trim().parse::<f64>().ok());
    // Not a number, or nothing: then it is not said.
    let said = said.filter(|seconds| *seconds > 0.0).map(|seconds| seconds * SHARE);
    // The smaller of the two is finite, as Duration wants it.
    said.map_or(WITHIN, |seconds| Duration::from_secs_f64(seconds.min(WITHIN.as_secs_f64())))
}

/// The text of an answer, with its part of [`MOST_HELD`]. Both go when the last byte has been sent.
struct HeldAnswer {
    text: String,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for HeldAnswer {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Scraper {
    pub(crate) fn new(app: App) -> Self {
        Self {
            app,
            gathering: Mutex::new(()),
            held: Arc::new(Semaphore::new(MOST_HELD / KIB)),
            missing: Throttle::new(LOG_EVERY),
        }
    }

    async fn answer(&self, within: Duration) -> Reply {
        let deadline = Instant::now() + within;
        let Ok(_gathering) = timeout_at(deadline, self.gathering.lock()).await else { return self.busy() };
        let running = self.app.proxy.running.load_full();
        let Some(scrape) = &running.plan.scrape else { return not_found("nothing any more") };
        let text = match self.gather(scrape, deadline).await {
            Ok(text) => text,
            Err(failure) => {
                tracing::error!(%failure, "the sidecar's own metrics cannot be read; please report it");
                const WORDS: &str = "the sidecar's own metrics cannot be read";
                return reply::text(StatusCode::INTERNAL_SERVER_ERROR, WORDS);
            }
        };
        let parts = u32::try_from(text.len().div_ceil(KIB).min(MOST_HELD / KIB)).unwrap_or(u32::MAX);
        let held = Arc::clone(&self.held).acquire_many_owned(parts);
        let Ok(Ok(place)) = timeout_at(deadline, held).await else { return self.busy() };
        of_type(StatusCode::OK, TEXT, Bytes::from_owner(HeldAnswer { text, _place: place }))
    }

    fn busy(&self) -> Reply {
        self.app.proxy.metrics.scrapes.busy.inc();
        reply::text(StatusCode::SERVICE_UNAVAILABLE, "other scrapers are being answered; ask again later")
    }

    /// Returns the sidecar's metrics and those of the applications that answer until the deadline.
    async fn gather(&self, scrape: &Scrape, deadline: Instant) -> Result<String, ScrapeFailure> {
        let proxy = &self.app.proxy;
        let mut asking = self.ask_all(scrape, deadline);
        let own = text_format(&self.app.exposition());
        let mut all = exposition::read(&own, &SeriesLabels::new(&scrape.labels, None), usize::MAX).await?;
        drop(own);
        profile::choose(&mut all, &scrape.selection);
        // In the order of the documents, whichever answers first.
        let mut parts: Vec<Option<MetricFamilies>> = Vec::new();
        parts.resize_with(scrape.applications.len(), || None);
        while let Some(joined) = asking.join_next().await {
            let Ok((place, outcome)) = joined else { continue };
            match outcome {
                Ok(families) => parts[place] = Some(families),
                Err(failure) => {
                    proxy.metrics.scrapes.failures[failure].inc();
                    self.tell(&scrape.applications[place], failure);
                }
            }
        }
        for part in parts.into_iter().flatten() {
            all.append(part);
        }
        Ok(all.into_text())
    }

    /// Asks every application, all at once.
    fn ask_all(
        &self,
        scrape: &Scrape,
        deadline: Instant,
    ) -> JoinSet<(usize, Result<MetricFamilies, ScrapeFailure>)> {
        let mut asking = JoinSet::new();
        let (sent, left) = (Arc::new(ByteBudget::new(MOST_SENT)), Arc::new(Mutex::new(MOST_KEPT)));
        for (place, application) in scrape.applications.iter().enumerate() {
            let labels = SeriesLabels::new(&scrape.labels, Some((APPLICATION, &application.name)));
            let (proxy, application) = (Arc::clone(&self.app.proxy), application.clone());
            let (sent, left) = (Arc::clone(&sent), Arc::clone(&left));
            asking.spawn(async move {
                let asked = async {
                    let text = fetch::fetch(address(&proxy, &application)?, &application.path, &sent).await?;
                    read_within(&left, &text, &labels).await
                };
                (place, timeout_at(deadline, asked).await.unwrap_or(Err(ScrapeFailure::Late)))
            });
        }
        asking
    }

    fn tell(&self, application: &ScrapedApplication, failure: ScrapeFailure) {
        let ScrapedApplication { name, port, path, .. } = application;
        if self.missing.ready() {
            tracing::warn!(%name, port, %path, "the application's metrics are missing in a scrape: {failure}");
        } else {
            tracing::debug!(%name, port, %path, "the application's metrics are missing in a scrape: {failure}");
        }
    }
}

/// Reads what an application answered. One after the other is read: each may take all that is left until it proves too large.
async fn read_within(
    left: &Mutex<usize>,
    text: &str,
    labels: &SeriesLabels,
) -> Result<MetricFamilies, ScrapeFailure> {
    let mut left = left.lock().await;
    let families = exposition::read(text, labels, *left).await?;
    *left = left.saturating_sub(families.memory());
    Ok(families)
}

/// Returns the address of an application. Only this pod is asked: a document must not make the sidecar ask other hosts.
fn address(proxy: &Proxy, application: &ScrapedApplication) -> Result<SocketAddr, ScrapeFailure> {
    let any = || {
        let own = proxy.own.current();
        Family::ALL.into_iter().find_map(|family| own.reachable(family).next())
    };
    let ip = application.address.or_else(any).ok_or(ScrapeFailure::Unreachable)?;
    let own = is_loopback(ip) || proxy.own.contains(ip);
    if own { Ok(SocketAddr::new(ip, application.port)) } else { Err(ScrapeFailure::NotThisPod) }
}

#[cfg(test)]
mod tests;
