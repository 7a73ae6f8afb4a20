// SPDX-License-Identifier: Apache-2.0
//! The pages of the status port and of the admin port.

mod inspect;
mod names;
mod sources;

use super::app::App;
use super::connection_view::ConnectionView;
use super::overview::{self, Overview};
use super::reply::{self, Reply};
use super::requests::RequestsView;
use super::{certs, dump, envoy, prometheus, query};
use crate::admin::DrainRequest;
use crate::admin::stats::{self, Process};
use crate::connection::proxy::Proxy;
use crate::health::app_probes::{self, Probe};
use crate::metrics::Stats;
use crate::net::addrs::Family;
use crate::net::own_addresses::is_reachable;
use crate::options::config::LogLevel;
use clap::ValueEnum;
use culvert_serve::{LocalAddress, Pages};
use hyper::body::Incoming;
use hyper::header::{CONTENT_SECURITY_POLICY, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Method, Request, StatusCode, Uri};
use serde::Serialize;
use serde_json::Value;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Time between the answer to `/quitquitquit` and the end.
const QUIT_DELAY: Duration = Duration::from_millis(100);

impl App {
    /// The status pages, which any peer of the pod can ask for.
    pub(crate) fn status(self) -> impl Pages {
        StatusPages(self)
    }

    /// The admin pages, which only listen on loopback.
    pub(crate) fn admin(self) -> impl Pages {
        AdminPages(self)
    }

    fn ready(&self) -> Reply {
        match self.readiness.check() {
            Ok(()) => reply::text(StatusCode::OK, "ready"),
            Err(reasons) => reply::text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{reasons}")),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Reply {
        reply::metrics(headers, self.proxy.metrics.registry.text())
    }

    /// State of the process, for statistics and `/server_info`.
    pub(super) fn process(&self) -> Process {
        Process {
            state: self.readiness.state(),
            uptime: self.started.elapsed(),
            workers: self.proxy.config.workers,
        }
    }

    fn collect(&self) -> Stats {
        stats::collect(&self.proxy.running.load(), &self.proxy.metrics.registry, self.process())
    }

    /// Answers with our metrics, and with the statistics that Envoy has under its names.
    fn prometheus(&self, headers: &HeaderMap) -> Reply {
        reply::metrics(headers, self.exposition())
    }

    /// Our metrics, and the statistics that Envoy has under its names, as OpenMetrics.
    pub(crate) fn exposition(&self) -> String {
        let envoys = prometheus::series(&self.collect());
        let ours = self.proxy.metrics.registry.text();
        let ours = ours.strip_suffix("# EOF\n").unwrap_or(&ours);
        format!("{ours}{envoys}# EOF\n")
    }

    fn stats(&self, query: &str, headers: &HeaderMap) -> Reply {
        let (mut as_json, mut used_only) = (false, false);
        let mut filter = None;
        for (key, value) in query::pairs(query) {
            match (key.as_str(), value.as_str()) {
                ("format", "json") => as_json = true,
                ("format", "text") => as_json = false,
                ("format", "prometheus") => return self.prometheus(headers),
                // Counters above 0. Envoy ignores the value too.
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
        let all = self.collect();
        let stats = all.iter().filter(|(name, value)| {
            filter.as_ref().is_none_or(|regex| regex.is_match(name)) && (!used_only || *value != 0)
        });
        if as_json {
            // Envoy's shape.
            let stats: Vec<_> =
                stats.map(|(name, value)| serde_json::json!({"name": name, "value": value})).collect();
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
            self.proxy.table.snapshot().iter().map(|entry| ConnectionView::of(entry, now)).collect();
        reply::json(&ConnectionList {
            fields: FieldNotes {
                age: "seconds",
                bytes_sent: "to_server: from the client to the server",
                bytes_recv: "to_client: from the server to the client",
            },
            connections,
        })
    }

    /// Answers with text, or with JSON where the query asks for it.
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
        let loaded = self.proxy.documents.get().loaded;
        let mut dump = envoy::config_dump(&self.proxy.config, &self.proxy.running.load(), loaded);
        let sources = self.proxy.control.as_ref().map(|control| sources::dump(&self.proxy, control));
        if let (Some(sources), Some(configs)) = (sources, dump["configs"].as_array_mut()) {
            configs.push(sources);
        }
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
                    "only ?level= with error, warning, info, debug or trace is known; without it, the level is shown",
                );
            }
        };
        if level.is_some_and(|level| !self.log.set(level)) {
            return reply::text(StatusCode::INTERNAL_SERVER_ERROR, "logging was never started");
        }
        let level = self.log.level().map_or_else(|| "off".to_owned(), |level| level.to_string());
        reply::text(StatusCode::OK, format!("log level: {level}"))
    }

    /// Ends the process a moment later, so that the answer is sent before the socket is closed.
    fn quit(&self) -> Reply {
        let drain = self.drain.clone();
        tokio::spawn(async move {
            tokio::time::sleep(QUIT_DELAY).await;
            // A full queue holds other requests to end; a closed one means that the end has come.
            let _ = drain.send(DrainRequest::Now).await;
        });
        reply::text(StatusCode::OK, "bye")
    }

    fn request_drain(&self, request: DrainRequest, answer: &str) -> Reply {
        match self.drain.try_send(request) {
            Ok(()) => reply::text(StatusCode::OK, answer),
            Err(_) => reply::text(StatusCode::SERVICE_UNAVAILABLE, "the sidecar is already ending"),
        }
    }
}

#[derive(Serialize)]
struct ConnectionList {
    fields: FieldNotes,
    connections: Vec<ConnectionView>,
}

/// Meaning of those fields whose names leave room for doubt.
#[derive(Serialize)]
struct FieldNotes {
    age: &'static str,
    bytes_sent: &'static str,
    bytes_recv: &'static str,
}

struct StatusPages(App);

impl Pages for StatusPages {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        let (method, uri) = (request.method(), request.uri());
        let local = request.extensions().get().copied();
        let probe =
            (method == Method::GET || method == Method::HEAD).then(|| self.probe(uri, local)).flatten();
        // Our own pages are answered at once; a probe has to ask the application.
        let reply = probe.is_none().then(|| self.answer(method, uri, request.headers()));
        let proxy = Arc::clone(&self.0.proxy);
        async move {
            match (probe, reply) {
                (Some((probe, pod)), _) => probed(&proxy, &probe, pod).await,
                (None, Some(reply)) => reply,
                (None, None) => reply::not_found("nothing"),
            }
        }
    }
}

/// Passes a probe on to the application.
async fn probed(proxy: &Proxy, probe: &Probe, pod: Option<IpAddr>) -> Reply {
    let Some(pod) = pod else {
        return reply::text(StatusCode::SERVICE_UNAVAILABLE, "the pod has no address yet");
    };
    let app_probes::ProbeReply { status, words } = app_probes::run(probe, pod, &proxy.ports).await;
    reply::text(StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), words)
}

impl StatusPages {
    /// Returns the probe of a path, and the address at which the application is asked: the one that the kubelet asked, as a
    /// pod may have several (Multus, dual-stack). From within the pod, any that peers can reach.
    fn probe(&self, uri: &Uri, asked: Option<LocalAddress>) -> Option<(Probe, Option<IpAddr>)> {
        let proxy = &self.0.proxy;
        let probe = proxy.config.app_probes.get(uri.path())?.clone();
        let asked =
            asked.map(|LocalAddress(address)| address.ip().to_canonical()).filter(|ip| is_reachable(*ip));
        let own = proxy.own.current();
        let pod = asked.or_else(|| Family::ALL.into_iter().find_map(|family| own.reachable(family).next()));
        Some((probe, pod))
    }

    fn answer(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Reply {
        if method != Method::GET && method != Method::HEAD {
            return reply::wrong_method("GET, HEAD");
        }
        match uri.path() {
            "/ready" => self.0.ready(),
            // The answer itself is the proof that this thread runs.
            "/live" => reply::text(StatusCode::OK, "live"),
            "/metrics" => self.0.metrics(headers),
            _ => reply::not_found("/ready, /live, /metrics, and what --app-probes names"),
        }
    }
}

/// Pages that can be read, with their description in `/help`.
const PAGES: [(&str, &str); 16] = [
    ("/", "a page for people"),
    ("/certs", "the identity, without secrets"),
    ("/clusters", "clusters, their limits and where they dialled (?format=text or json)"),
    ("/config_dump", "listeners and clusters as they are"),
    ("/connections", "what is open now"),
    ("/help", "this list"),
    (inspect::PATH, "which documents decide what, and what lost (?caller=ID, ?format=text or json)"),
    ("/listeners", "listeners and their addresses (?format=text or json)"),
    ("/metrics", "metrics as OpenMetrics, as on the status port"),
    (
        names::PATH,
        "names of the mesh, or all about one (?filter=REGEX, ?page=N, ?name=NAME, ?format=text or json)",
    ),
    ("/overview", "the numbers of the page for people"),
    ("/ready", "200, or 503 and why not"),
    ("/requests", "requests of HTTP by route, and the latest that failed"),
    ("/server_info", "version, state, time since the start"),
    ("/stats", "statistics under Envoy's names (?filter=REGEX, ?usedonly, ?format=text, json or prometheus)"),
    ("/stats/prometheus", "metrics, and the statistics under Envoy's names"),
];

/// Pages that change something, with their description in `/help`.
const POSTS: [(&str, &str); 3] = [
    ("/drain", "drain the inbound half"),
    ("/logging", "show the log level, or change it (?level=)"),
    ("/quitquitquit", "end now"),
];

/// Makes `/help`, a line a page.
fn help() -> String {
    let page = |(path, what): &(&str, &str)| format!("\n  {path}: {what}");
    let post = |(path, what): &(&str, &str)| format!("\n  {path} (POST): {what}");
    let lines: String = PAGES.iter().map(page).chain(POSTS.iter().map(post)).collect();
    format!("admin commands are:{lines}")
}

/// Names all pages in one line.
fn page_names() -> String {
    let names =
        |pages: &[(&'static str, &str)]| pages.iter().map(|(path, _)| *path).collect::<Vec<_>>().join(", ");
    format!("{}, and by POST {}", names(&PAGES), names(&POSTS))
}

struct AdminPages(App);

impl Pages for AdminPages {
    fn answer(&self, request: &Request<Incoming>) -> impl Future<Output = Reply> + Send + use<> {
        let (method, uri, headers) = (request.method(), request.uri(), request.headers());
        // They read all documents again, or look at ten thousand names: on the thread that reads changes of documents, as this
        // one answers the kubelet's probes.
        let slow = [inspect::PATH, names::PATH]
            .contains(&uri.path())
            .then(|| (Self(self.0.clone()), method.clone(), uri.clone(), headers.clone()));
        let reply = slow.is_none().then(|| self.answer(method, uri, headers));
        async move {
            if let Some((pages, method, uri, headers)) = slow {
                let answer = move || pages.answer(&method, &uri, &headers);
                return tokio::task::spawn_blocking(answer).await.unwrap_or_else(|error| {
                    reply::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
                });
            }
            reply.unwrap_or_else(|| reply::not_found("nothing"))
        }
    }
}

impl AdminPages {
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
            "/drain" => app.request_drain(DrainRequest::Inbound, "draining the inbound half"),
            "/quitquitquit" => app.quit(),
            page if !get && PAGES.iter().any(|(path, _)| *path == page) => reply::wrong_method("GET, HEAD"),
            "/" => App::page(),
            "/overview" => reply::json(&Overview::of(app)),
            "/ready" => app.ready(),
            "/requests" => reply::json(&RequestsView::of(app, usize::MAX)),
            "/stats" => app.stats(query, headers),
            "/stats/prometheus" => app.prometheus(headers),
            "/metrics" => app.metrics(headers),
            "/help" => reply::text(StatusCode::OK, help()),
            inspect::PATH => inspect::page(&app.proxy, query),
            names::PATH => names::page(&app.proxy, query),
            "/server_info" => reply::json(&envoy::server_info(&app.proxy.config, app.process())),
            "/connections" => app.connections(),
            "/config_dump" => app.config_dump(),
            "/listeners" => app.listeners(query),
            "/clusters" => app.clusters(query),
            "/certs" => reply::json(&certs::page(&app.proxy.tls, SystemTime::now())),
            _ => reply::not_found(&page_names()),
        }
    }
}

/// Returns false for a browser on this machine that a foreign page led here: by a name that resolves to loopback (seen in
/// the Host), or by a form or script of that page (seen in the Origin).
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
