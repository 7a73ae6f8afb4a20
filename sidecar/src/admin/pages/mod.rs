// SPDX-License-Identifier: Apache-2.0
//! What the two servers say.

use super::overview::{self, Overview};
use super::reply::{self, Reply};
use super::server::Pages;
use super::{certs, dump, envoy, prometheus, query};
use crate::admin::Ask;
use crate::admin::stats::{self, Process, Stat};
use crate::connection::proxy::Proxy;
use crate::connection::table::Entry;
use crate::net::addrs::Family;
use crate::observe::logging::LogControl;
use crate::observe::readiness::{Readiness, State};
use crate::options::config::LogLevel;
use crate::probes::{self, Probe};
use clap::ValueEnum;
use hyper::body::Incoming;
use hyper::header::{CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// Between the answer to `/quitquitquit` and the end.
const GOODBYE: Duration = Duration::from_millis(100);

/// What the pages show and steer.
#[derive(Clone, Debug)]
pub struct App {
    /// The data path.
    pub(crate) proxy: Arc<Proxy>,
    /// Whether it is ready.
    pub readiness: Arc<Readiness>,
    /// Where requests to drain go.
    pub drain: mpsc::Sender<Ask>,
    /// The log level.
    pub log: LogControl,
    /// When it was.
    pub started: Instant,
}

impl App {
    /// The status pages, for anybody who reaches the pod.
    pub fn status(self) -> impl Pages {
        Status(self)
    }

    /// The admin pages, for loopback.
    pub fn admin(self) -> impl Pages {
        Admin(self)
    }

    /// Whether the sidecar is ready, kept in the metric too.
    ///
    /// # Errors
    /// The reasons why not.
    pub fn check_ready(&self) -> Result<(), String> {
        let config = &self.proxy.config;
        let mtls = self.proxy.running.load().plan.mtls.is_some();
        let identity = self.proxy.tls.missing(mtls);
        let checked = self.readiness.check(
            config.inbound_port != 0,
            config.verify_redirect,
            &self.proxy.capture,
            identity,
        );
        self.proxy.metrics.ready.set(i64::from(checked.is_ok()));
        checked
    }

    fn ready(&self) -> Reply {
        match self.check_ready() {
            Ok(()) => reply::text(StatusCode::OK, "ready"),
            Err(reasons) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{reasons}")),
        }
    }

    fn metrics(&self) -> Reply {
        // The gauge is of this moment.
        let _ = self.check_ready();
        reply::of_type(StatusCode::OK, reply::OPENMETRICS, self.proxy.metrics.render())
    }

    /// What is told of the process.
    pub(super) fn process(&self) -> Process {
        let state = match self.check_ready() {
            Ok(()) => State::Live,
            Err(_) if self.readiness.is_draining() => State::Draining,
            Err(_) => State::Initializing,
        };
        Process { state, uptime: self.started.elapsed(), workers: self.proxy.config.workers }
    }

    /// All statistics.
    fn collect(&self) -> Vec<Stat> {
        // Before the rest: it also sets the gauge.
        let process = self.process();
        stats::collect(&self.proxy.running.load(), &self.proxy.metrics, process)
    }

    /// The metrics, and those that have a name in Envoy under that, too.
    fn prometheus(&self) -> Reply {
        let envoys = prometheus::series(&self.collect());
        let ours = self.proxy.metrics.render();
        let ours = ours.strip_suffix("# EOF\n").unwrap_or(&ours);
        reply::of_type(StatusCode::OK, reply::OPENMETRICS, format!("{ours}{envoys}# EOF\n"))
    }

    fn stats(&self, query: &str) -> Reply {
        let (mut as_json, mut used_only) = (false, false);
        let mut filter = None;
        for (key, value) in query::pairs(query) {
            match (key.as_str(), value.as_str()) {
                ("format", "json") => as_json = true,
                ("format", "text") => as_json = false,
                ("format", "prometheus") => return self.prometheus(),
                // What was counted since the start; Envoy looks at the key alone, too.
                ("usedonly", _) => used_only = true,
                ("filter", pattern) => match regex_lite::Regex::new(pattern) {
                    Ok(regex) => filter = Some(regex),
                    Err(error) => {
                        return reply::text(StatusCode::BAD_REQUEST, format!("?filter={pattern}: {error}"));
                    }
                },
                _ => {
                    return reply::text(
                        StatusCode::BAD_REQUEST,
                        "only ?filter=REGEX, ?usedonly and ?format=json, text or prometheus are known",
                    );
                }
            }
        }
        let mut stats = self.collect();
        stats.retain(|(name, value)| {
            filter.as_ref().is_none_or(|regex| regex.is_match(name)) && (!used_only || *value != 0)
        });
        if as_json {
            // Envoy's shape.
            let stats: Vec<_> = stats
                .into_iter()
                .map(|(name, value)| serde_json::json!({"name": name, "value": value}))
                .collect();
            return reply::json(&serde_json::json!({ "stats": stats }));
        }
        let mut text = String::new();
        for (name, value) in stats {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{name}: {value}");
        }
        reply::text(StatusCode::OK, text.trim_end())
    }

    fn connections(&self) -> Reply {
        let now = Instant::now();
        let connections =
            self.proxy.table.snapshot().iter().map(|entry| Connection::of(entry, now)).collect();
        reply::json(&Connections {
            fields: Fields {
                age: "seconds",
                bytes_sent: "to_server: from the client to the server",
                bytes_recv: "to_client: from the server to the client",
            },
            connections,
        })
    }

    /// Text, or JSON where it is asked for.
    fn text_or_json(query: &str, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> Reply {
        match query::pairs(query).as_slice() {
            [] => reply::text(StatusCode::OK, text().trim_end()),
            [(key, value)] if key == "format" && value == "text" => {
                reply::text(StatusCode::OK, text().trim_end())
            }
            [(key, value)] if key == "format" && value == "json" => reply::json(&json()),
            _ => reply::text(StatusCode::BAD_REQUEST, "only ?format=text and ?format=json are known"),
        }
    }

    fn listeners(&self, query: &str) -> Reply {
        let running = self.proxy.running.load();
        Self::text_or_json(query, || envoy::listeners_text(&running), || envoy::listeners_json(&running))
    }

    fn clusters(&self, query: &str) -> Reply {
        let Proxy { running, destinations, .. } = &*self.proxy;
        let running = running.load();
        Self::text_or_json(
            query,
            || envoy::clusters_text(&running, destinations),
            || envoy::clusters_json(&running, destinations),
        )
    }

    fn config_dump(&self) -> Reply {
        let started = SystemTime::now().checked_sub(self.started.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let loaded = self.proxy.documents.get().loaded.unwrap_or(started);
        let dump = envoy::config_dump(&self.proxy.config, &self.proxy.running.load(), loaded);
        reply::of_type(StatusCode::OK, "application/json", dump::text(&dump))
    }

    fn page() -> Reply {
        let mut reply = reply::of_type(StatusCode::OK, "text/html; charset=utf-8", overview::PAGE);
        let policy = HeaderValue::from_static(overview::PAGE_POLICY);
        reply.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
        reply
    }

    fn logging(&self, query: &str) -> Reply {
        let level = match query::pairs(query).as_slice() {
            [] => None,
            [(key, level)] if key == "level" && LogLevel::from_str(level, false).is_ok() => {
                LogLevel::from_str(level, false).ok()
            }
            _ => {
                return reply::text(
                    StatusCode::BAD_REQUEST,
                    "there is one logger: say ?level= and error, warning, info, debug or trace, or nothing to see the level",
                );
            }
        };
        if level.is_some_and(|level| !self.log.set(level)) {
            return reply::text(StatusCode::INTERNAL_SERVER_ERROR, "logging was never started");
        }
        let level = self.log.level().map_or_else(|| "off".to_owned(), |level| level.to_string());
        reply::text(StatusCode::OK, format!("log level: {level}"))
    }

    /// Ends the process, a moment later: whoever asked is to get the answer before the socket is gone.
    fn quit(&self) -> Reply {
        let drain = self.drain.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GOODBYE).await;
            // A full queue holds other asks to end; a closed one says that the end has come.
            let _ = drain.send(Ask::Now).await;
        });
        reply::text(StatusCode::OK, "bye")
    }

    fn ask(&self, ask: Ask, answer: &str) -> Reply {
        match self.drain.try_send(ask) {
            Ok(()) => reply::text(StatusCode::OK, answer),
            Err(_) => reply::text(StatusCode::SERVICE_UNAVAILABLE, "the sidecar is on its way out"),
        }
    }
}

#[derive(Serialize)]
struct Connections {
    fields: Fields,
    connections: Vec<Connection>,
}

/// Says what the fields mean, where a name leaves room for doubt.
#[derive(Serialize)]
struct Fields {
    age: &'static str,
    bytes_sent: &'static str,
    bytes_recv: &'static str,
}

/// A connection as the admin interface shows it.
#[derive(Serialize)]
pub(super) struct Connection {
    id: u64,
    direction: &'static str,
    src: String,
    orig_dst: String,
    dial: String,
    cluster: String,
    age: f64,
    bytes_sent: u64,
    bytes_recv: u64,
    state: crate::connection::table::ConnectionState,
    relay_to_server: &'static str,
    relay_to_client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
}

impl Connection {
    pub(super) fn of(entry: &Entry, now: Instant) -> Self {
        let (bytes_sent, bytes_recv) = entry.bytes();
        let mode = entry.mode();
        Self {
            id: entry.info.id,
            direction: entry.info.direction.name(),
            src: entry.info.client.to_string(),
            orig_dst: entry.info.orig_dst.map(|addr| addr.to_string()).unwrap_or_default(),
            dial: entry.dial().to_string(),
            cluster: entry.cluster.name.to_string(),
            age: now.saturating_duration_since(entry.info.opened).as_secs_f64(),
            bytes_sent,
            bytes_recv,
            state: entry.state(),
            relay_to_server: relay_name(mode.splices_to_server),
            relay_to_client: relay_name(mode.splices_to_client),
            tls: entry.known().map(|known| known.spoken.name()),
            peer: entry.known().and_then(|known| known.peer.as_ref()).map(ToString::to_string),
        }
    }
}

fn relay_name(splices: bool) -> &'static str {
    if splices { "splice" } else { "copy" }
}

struct Status(App);

impl Pages for Status {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        let (method, uri) = (request.method(), request.uri());
        let probe = (method == Method::GET || method == Method::HEAD).then(|| self.probe(uri)).flatten();
        // Answered at once, but for what the application is asked.
        let reply = probe.is_none().then(|| self.answer(method, uri));
        async move {
            match (probe, reply) {
                (Some(probe), _) => probed(probe).await,
                (None, Some(reply)) => reply,
                (None, None) => reply::not_found("nothing"),
            }
        }
    }
}

/// Passes a probe on to the application.
async fn probed((probe, pod): (Probe, Option<IpAddr>)) -> Reply {
    let Some(pod) = pod else {
        return reply::text(StatusCode::SERVICE_UNAVAILABLE, "the pod has no address yet");
    };
    let probes::Answer { status, words } = probes::ask(&probe, pod).await;
    reply::text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), words)
}

impl Status {
    /// The probe that a path stands for, and where the application is asked.
    fn probe(&self, uri: &Uri) -> Option<(Probe, Option<IpAddr>)> {
        let proxy = &self.0.proxy;
        let probe = proxy.config.app_probes.get(uri.path())?.clone();
        let own = proxy.own.current();
        let pod = Family::ALL.into_iter().find_map(|family| own.reachable(family).next());
        Some((probe, pod))
    }

    fn answer(&self, method: &Method, uri: &Uri) -> Reply {
        if method != Method::GET && method != Method::HEAD {
            return reply::wrong_method("GET, HEAD");
        }
        match uri.path() {
            "/ready" => self.0.ready(),
            // That this thread answers is what it says.
            "/live" => reply::text(StatusCode::OK, "live"),
            "/metrics" => self.0.metrics(),
            _ => reply::not_found("/ready, /live, /metrics, and what --app-probes names"),
        }
    }
}

/// What can be read, and what it is.
const PAGES: [(&str, &str); 13] = [
    ("/", "a page for people"),
    ("/certs", "the identity, without secrets"),
    ("/clusters", "clusters, their limits and where they dialled (?format=text or json)"),
    ("/config_dump", "listeners and clusters as they are"),
    ("/connections", "what is open now"),
    ("/help", "this list"),
    ("/listeners", "listeners and their addresses (?format=text or json)"),
    ("/metrics", "metrics as OpenMetrics, as on the status port"),
    ("/overview", "the numbers of the page for people"),
    ("/ready", "200, or 503 and why not"),
    ("/server_info", "version, state, time since the start"),
    ("/stats", "statistics under Envoy's names (?filter=REGEX, ?usedonly, ?format=text, json or prometheus)"),
    ("/stats/prometheus", "metrics, and the statistics under Envoy's names"),
];

/// What changes something.
const POSTS: [(&str, &str); 3] = [
    ("/drain", "drain the inbound half"),
    ("/logging", "tell the log level, or change it (?level=)"),
    ("/quitquitquit", "end now"),
];

/// `/help`.
fn help() -> String {
    let page = |(path, what): &(&str, &str)| format!("\n  {path}: {what}");
    let post = |(path, what): &(&str, &str)| format!("\n  {path} (POST): {what}");
    let lines: String = PAGES.iter().map(page).chain(POSTS.iter().map(post)).collect();
    format!("admin commands are:{lines}")
}

/// All pages in a line.
fn there_is() -> String {
    let names =
        |pages: &[(&'static str, &str)]| pages.iter().map(|(path, _)| *path).collect::<Vec<_>>().join(", ");
    format!("{}, and by POST {}", names(&PAGES), names(&POSTS))
}

struct Admin(App);

impl Pages for Admin {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        std::future::ready(self.answer(request.method(), request.uri(), request.headers()))
    }
}

impl Admin {
    fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Reply {
        if !is_local(uri, headers) {
            return reply::text(
                StatusCode::FORBIDDEN,
                "the Host and Origin of an admin request are localhost or a loopback address",
            );
        }
        let app = &self.0;
        let query = uri.query().unwrap_or_default();
        let get = method == Method::GET || method == Method::HEAD;
        match uri.path() {
            post if method != Method::POST && POSTS.iter().any(|(path, _)| *path == post) => {
                reply::wrong_method("POST")
            }
            "/logging" => app.logging(query),
            "/drain" => app.ask(Ask::Inbound, "draining the inbound half"),
            "/quitquitquit" => app.quit(),
            page if !get && PAGES.iter().any(|(path, _)| *path == page) => reply::wrong_method("GET, HEAD"),
            "/" => App::page(),
            "/overview" => reply::json(&Overview::of(app)),
            "/ready" => app.ready(),
            "/stats" => app.stats(query),
            "/stats/prometheus" => app.prometheus(),
            "/metrics" => app.metrics(),
            "/help" => reply::text(StatusCode::OK, help()),
            "/server_info" => reply::json(&envoy::server_info(&app.proxy.config, app.process())),
            "/connections" => app.connections(),
            "/config_dump" => app.config_dump(),
            "/listeners" => app.listeners(query),
            "/clusters" => app.clusters(query),
            "/certs" => reply::json(&certs::page(&app.proxy.tls, SystemTime::now())),
            _ => reply::not_found(&there_is()),
        }
    }
}

/// Whether a browser on this machine was led here by a foreign page: by a name that resolves to loopback (the Host
/// tells), or by a form or script of that page (the Origin tells).
fn is_local(uri: &Uri, headers: &HeaderMap) -> bool {
    let local = |value: &HeaderValue| {
        value
            .to_str()
            .is_ok_and(|value| is_local_authority(value.split_once("://").map_or(value, |(_, a)| a)))
    };
    // HTTP/1.0 needs no Host, and no browser speaks it.
    uri.authority().is_none_or(|authority| is_local_authority(authority.as_str()))
        && headers.get_all(HOST).iter().all(local)
        && headers.get_all(ORIGIN).iter().all(local)
}

fn is_local_authority(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(host, _)| host),
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests;
