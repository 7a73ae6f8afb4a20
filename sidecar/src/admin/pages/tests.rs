// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::admin::DrainRequest;
use crate::connection::table::Entry;
use crate::observe::logging::LogControl;
use crate::observe::readiness::Block;
use crate::observe::readiness::Readiness;
use crate::observe::requests::{Noted, Origin};
use crate::options::Options;
use clap::Parser;
use http_body_util::BodyExt;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pages of a sidecar that serves and has proved nothing; what the tests keep of it.
struct Kept {
    asks: mpsc::Receiver<DrainRequest>,
    _capture: Block,
}

fn app(arguments: &[&str]) -> (App, Kept) {
    let arguments = std::iter::once(&"culvert-sidecar").chain(arguments);
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let (drain, asks) = mpsc::channel(4);
    let proxy = Arc::new(Proxy::for_tests(config));
    let readiness = Readiness::new(proxy.metrics.readiness.clone());
    let _capture = readiness.block(proxy.capture.unproved(proxy.config.verify_redirect));
    let app = App { proxy, readiness, drain, log: LogControl::detached(), started: Instant::now() };
    (app, Kept { asks, _capture })
}

async fn body(reply: Reply) -> String {
    let bytes = reply.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn host(name: &str) -> HeaderMap {
    HeaderMap::from_iter([(HOST, name.parse().unwrap())])
}

async fn admin(app: &App, method: Method, path: &str) -> (StatusCode, String) {
    let reply = AdminPages(app.clone()).answer(&method, &path.parse().unwrap(), &host("127.0.0.1:9901"));
    (reply.status(), body(reply).await)
}

async fn status(app: &App, path: &str) -> (StatusCode, String) {
    let reply = StatusPages(app.clone()).answer(&Method::GET, &path.parse().unwrap(), &HeaderMap::new());
    (reply.status(), body(reply).await)
}

/// A connection under way.
fn enter(app: &App) -> Arc<Entry> {
    let orig_dst = crate::net::addrs::OrigDst::new("192.0.2.1:443".parse().unwrap());
    let running = app.proxy.running.load();
    let info = crate::connection::accepted::ConnectionInfo {
        id: app.proxy.table.take_id(),
        direction: crate::net::addrs::Direction::Outbound,
        client: crate::net::addrs::ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
        orig_dst: Some(orig_dst),
        opened: Instant::now(),
        claim: crate::net::limit::Claim::Full,
    };
    let cluster = Arc::clone(&running.clusters[2].state);
    app.proxy.table.enter(info, cluster, crate::net::addrs::DialAddr::new(orig_dst.get()), None)
}

#[tokio::test]
async fn ready_says_why_not() {
    let (app, _kept) = app(&[]);
    let (code, text) = status(&app, "/ready").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("IPv4: the redirect is not proved yet"), "{text}");
    assert_eq!(admin(&app, Method::GET, "/ready").await, (code, text));
}

#[tokio::test]
async fn ready_when_nothing_is_asked_for() {
    let (app, _kept) = app(&["--verify-redirect", "off"]);
    assert_eq!(status(&app, "/ready").await, (StatusCode::OK, "ready\n".into()));
    assert!(status(&app, "/metrics").await.1.contains("\nculvert_ready 1\n"));
    app.readiness.drain();
    assert_eq!(status(&app, "/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(status(&app, "/metrics").await.1.contains("\nculvert_ready 0\n"));
}

#[tokio::test]
async fn status_has_no_admin_pages() {
    let (app, _kept) = app(&[]);
    assert_eq!(status(&app, "/live").await, (StatusCode::OK, "live\n".into()));
    for path in ["/", "/stats", "/connections", "/quitquitquit", "/drain"] {
        assert_eq!(status(&app, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let post = StatusPages(app).answer(&Method::POST, &"/ready".parse().unwrap(), &HeaderMap::new());
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn every_page_answers_and_takes_no_post() {
    let (app, mut kept) = app(&["--verify-redirect", "off"]);
    for (path, _) in PAGES {
        assert_eq!(admin(&app, Method::GET, path).await.0, StatusCode::OK, "{path}");
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            assert_eq!(admin(&app, method, path).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        }
    }
    let (code, text) = admin(&app, Method::GET, "/nothing").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    assert!(text.contains("/config_dump") && text.contains("by POST /drain"), "{text}");
    let (_, text) = admin(&app, Method::GET, "/help").await;
    assert!(text.contains("\n  /server_info: ") && text.contains("\n  /drain (POST): "), "{text}");
    assert!(kept.asks.try_recv().is_err());
}

#[tokio::test]
async fn the_page_is_one_file_without_any_reference_to_another_place() {
    let (app, _kept) = app(&[]);
    let reply = AdminPages(app).answer(&Method::GET, &"/".parse().unwrap(), &host("localhost:9901"));
    let policy = reply.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    for part in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.contains(part), "{policy}");
    }
    let page = body(reply).await;
    // The one URL is SVG's name, which is not fetched.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for foreign in ["http:", "https:", "src=", "@import", "url(", "//cdn", "<iframe", "<object", "innerHTML"]
    {
        assert!(!page.contains(foreign), "the page has {foreign}");
    }
    assert_eq!(page.matches("<link ").count(), 1);
    assert!(page.contains("prefers-color-scheme: dark"));
}

/// The names that the page's script reads, and an example of each thing that it draws.
#[tokio::test]
async fn the_overview_has_what_the_page_draws() {
    let (app, _kept) = app(&[]);
    let connection = enter(&app);
    let client = crate::net::addrs::ClientAddr::new("10.0.0.2:4001".parse().unwrap());
    app.proxy.mishaps.note(
        crate::net::addrs::Direction::Outbound,
        client,
        connection.info.orig_dst,
        crate::observe::close_reason::CloseReason::ConnectTimeout,
        || Some("192.0.2.1:443 did not answer in time".into()),
    );
    let _open = app.proxy.destinations.dialled(connection.cluster.id, connection.dial());
    let (_, text) = admin(&app, Method::GET, "/overview").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["ready"], false);
    assert!(value["reasons"][0].as_str().unwrap().contains("not proved"), "{text}");
    assert_eq!(
        (value["open"].as_u64(), value["connections"][0]["state"].as_str()),
        (Some(1), Some("connecting"))
    );
    assert_eq!(value["clusters"][2]["destinations"][0]["address"], "192.0.2.1:443");
    assert_eq!(value["clusters"][2]["limits"][0]["max"], 1024);
    assert_eq!(value["listeners"][0]["address"], "0.0.0.0:15006");
    assert_eq!(
        value["errors"][0]["words"],
        "An outbound connection got no answer from its server: 192.0.2.1:443 did not answer in time"
    );
}

#[tokio::test]
async fn requests_are_shown_by_route_where_there_are_any() {
    let (app, _kept) = app(&[]);
    let read = async |page: &str| {
        let (_, text) = admin(&app, Method::GET, page).await;
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    assert_eq!(read("/overview").await["requests"], serde_json::Value::Null);
    let mut noted = Noted::of("GET", b"shop:80", "/a/1?b=c");
    noted.status = 503;
    noted.fails("the application answered 503");
    let direction = crate::net::addrs::Direction::Inbound;
    let origin = Origin { direction, cluster: "localhost:80", peer: "web" };
    app.proxy.requests.ended(&origin, noted, std::time::Duration::from_millis(7));
    let (page, all) = (read("/overview").await, read("/requests").await);
    for requests in [&page["requests"], &all] {
        let route = &requests["routes"][0];
        assert_eq!((&route["path"], &route["cluster"]), (&"/a/*".into(), &"localhost:80".into()));
        for numbers in [route, &requests["directions"][0]] {
            assert_eq!(
                (&numbers["direction"], &numbers["requests"], &numbers["failed"]),
                (&"inbound".into(), &1.into(), &1.into())
            );
            assert_eq!(
                (&numbers["statuses"]["5xx"], &numbers["p99"], &numbers["longest"]),
                (&1.into(), &7.0.into(), &7.0.into())
            );
        }
        let failure = &requests["failures"][0];
        let words = ["peer", "method", "authority", "path", "why"]
            .map(|field| failure[field].as_str().unwrap_or_default());
        assert_eq!(words, ["web", "GET", "shop:80", "/a/1", "the application answered 503"]);
        assert_eq!(
            (&failure["count"], &failure["took"], &failure["status"]),
            (&1.into(), &7.0.into(), &503.into())
        );
        assert!(failure["last"].as_f64().is_some() && requests["window"].as_f64().is_some(), "{requests}");
        assert_eq!((&requests["routes_total"], &requests["others"]), (&1.into(), &serde_json::json!([])));
    }
}

#[tokio::test]
async fn clusters_show_where_they_dialled() {
    let (app, _kept) = app(&[]);
    let connection = enter(&app);
    let destination = app.proxy.destinations.dialled(connection.cluster.id, connection.dial()).unwrap();
    destination.failed();
    let (_, text) = admin(&app, Method::GET, "/clusters").await;
    for line in [
        "outbound:passthrough:ipv4::default_priority::max_connections::1024\n",
        "outbound:passthrough:ipv4::192.0.2.1:443::cx_active::1\n",
        "outbound:passthrough:ipv4::192.0.2.1:443::cx_connect_fail::1\n",
        "outbound:passthrough:ipv4::192.0.2.1:443::last_seen::20",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let (_, text) = admin(&app, Method::GET, "/clusters?format=json").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cluster = &value["cluster_statuses"][2];
    assert_eq!(cluster["name"], "outbound:passthrough:ipv4");
    assert_eq!(cluster["host_statuses"][0]["address"]["socket_address"]["port_value"], 443);
    assert_eq!(admin(&app, Method::GET, "/clusters?format=xml").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn prometheus_has_our_names_and_envoys() {
    let (app, _kept) = app(&[]);
    let (_, text) = admin(&app, Method::GET, "/stats/prometheus").await;
    for line in [
        "\nculvert_connections_active{direction=\"outbound\",family=\"ipv4\"} 0\n",
        "\nculvert_connect_duration_seconds_bucket{le=\"0.001\",direction=\"outbound\",family=\"ipv4\"} 0\n",
        "\nenvoy_cluster_upstream_cx_total{envoy_cluster_name=\"outbound_passthrough_ipv4\"} 0\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.ends_with("\n# EOF\n") && text.matches("# EOF").count() == 1);
}

#[tokio::test]
async fn stats_are_filtered_by_a_regular_expression() {
    let (app, _kept) = app(&[]);
    let (_, text) =
        admin(&app, Method::GET, "/stats?filter=%5Ecluster.outbound_.%2Aipv4.upstream_cx_total$").await;
    assert_eq!(text, "cluster.outbound_passthrough_ipv4.upstream_cx_total: 0\n");
    let (_, text) = admin(&app, Method::GET, "/stats?filter=loop_rejected&format=json").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["stats"].as_array().unwrap().len(), 3);
    for bad in ["(", "a{1000}{1000}{1000}"] {
        let (code, text) = admin(
            &app,
            Method::GET,
            &format!("/stats?filter={}", bad.replace('{', "%7B").replace('}', "%7D")),
        )
        .await;
        assert_eq!(code, StatusCode::BAD_REQUEST, "{bad}: {text}");
    }
}

#[tokio::test]
async fn state_changes_by_post_only() {
    let (app, mut kept) = app(&[]);
    for path in ["/drain", "/quitquitquit", "/logging?level=debug"] {
        assert_eq!(admin(&app, Method::GET, path).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert!(kept.asks.try_recv().is_err());
    assert_eq!(admin(&app, Method::POST, "/drain").await.0, StatusCode::OK);
    assert_eq!(kept.asks.try_recv().unwrap(), DrainRequest::Inbound);
    assert_eq!(admin(&app, Method::POST, "/quitquitquit").await.0, StatusCode::OK);
    assert_eq!(kept.asks.recv().await, Some(DrainRequest::Now));
    assert_eq!(admin(&app, Method::POST, "/logging?level=loud").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn stats_as_text_and_json() {
    let (app, _kept) = app(&[]);
    let (code, text) = admin(&app, Method::GET, "/stats").await;
    assert_eq!(code, StatusCode::OK);
    assert!(text.contains("\ncluster.outbound_passthrough_ipv4.upstream_cx_total: 0\n"), "{text}");
    let (_, text) = admin(&app, Method::GET, "/stats?format=json").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(value["stats"].as_array().unwrap().len() > 50);
    assert_eq!(admin(&app, Method::GET, "/stats?colour=red").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn used_only_leaves_out_what_was_never_counted() {
    let (app, _kept) = app(&["--verify-redirect", "off", "--concurrency", "3"]);
    let (_, text) = admin(&app, Method::GET, "/stats?usedonly&filter=%5Eserver").await;
    assert_eq!(text, "server.concurrency: 3\nserver.live: 1\nserver.ready: 1\n");
}

/// Envoy's words are LIVE, DRAINING and INITIALIZING.
#[tokio::test]
async fn the_servers_state_has_envoys_words() {
    let (app, _kept) = app(&["--verify-redirect", "off"]);
    let (unproved, _kept_too) = super::tests::app(&[]);
    let state = async |app: &App| {
        let (_, text) = admin(app, Method::GET, "/server_info").await;
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["uptime_current_epoch"], "0s", "{text}");
        let (_, stats) = admin(app, Method::GET, "/stats?filter=server.(live|state)").await;
        (value["state"].as_str().unwrap().to_owned(), stats)
    };
    assert_eq!(state(&unproved).await, ("INITIALIZING".into(), "server.live: 1\nserver.state: 3\n".into()));
    assert_eq!(state(&app).await, ("LIVE".into(), "server.live: 1\nserver.state: 0\n".into()));
    app.readiness.drain();
    assert_eq!(state(&app).await, ("DRAINING".into(), "server.live: 0\nserver.state: 1\n".into()));
}

#[tokio::test]
async fn connections_are_shown_with_their_bytes() {
    let (app, _kept) = app(&[]);
    let (_, text) = admin(&app, Method::GET, "/connections").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["connections"].as_array().unwrap().len(), 0);

    let entry = enter(&app);
    entry.add_bytes(3, 5);
    let (_, text) = admin(&app, Method::GET, "/connections").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let one = &value["connections"][0];
    assert_eq!(one["orig_dst"], "192.0.2.1:443");
    assert_eq!(one["direction"], "outbound");
    assert_eq!((one["bytes_sent"].as_u64(), one["bytes_recv"].as_u64()), (Some(3), Some(5)));
    assert_eq!(one["state"], "connecting");
}

#[test]
fn a_browser_led_here_by_a_foreign_page_is_refused() {
    for (host, local) in [
        ("127.0.0.1:9901", true),
        ("127.0.0.1", true),
        ("localhost:9901", true),
        ("LocalHost", true),
        ("[::1]:9901", true),
        ("evil.example:9901", false),
        ("localhost.evil.example", false),
        ("127.0.0.1.evil.example", false),
        ("10.0.0.2:9901", false),
        ("", false),
    ] {
        assert_eq!(is_local_authority(host), local, "{host:?}");
    }
    let mut headers = host("localhost:9901");
    assert!(is_local(&Uri::from_static("/"), &headers));
    headers.insert(ORIGIN, "http://evil.example".parse().unwrap());
    assert!(!is_local(&Uri::from_static("/"), &headers));
    headers.insert(ORIGIN, "null".parse().unwrap());
    assert!(!is_local(&Uri::from_static("/"), &headers));
    headers.insert(ORIGIN, "http://localhost:9901".parse().unwrap());
    assert!(is_local(&Uri::from_static("/"), &headers));
}
