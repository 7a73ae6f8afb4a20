// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::Options;
use clap::Parser;
use http_body_util::BodyExt;

fn app(arguments: &[&str]) -> (App, mpsc::Receiver<Ask>) {
    let arguments = std::iter::once(&"culvert-sidecar").chain(arguments);
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let (drain, asked) = mpsc::channel(4);
    let readiness = Arc::new(Readiness::default());
    readiness.serving();
    let app =
        App { proxy: Arc::new(Proxy::for_tests(config)), readiness, drain, log: LogControl::detached() };
    (app, asked)
}

async fn body(reply: Reply) -> String {
    let bytes = reply.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn host(name: &str) -> HeaderMap {
    HeaderMap::from_iter([(HOST, name.parse().unwrap())])
}

async fn admin(app: &App, method: Method, path: &str) -> (StatusCode, String) {
    let reply = Admin(app.clone()).answer(&method, &path.parse().unwrap(), &host("127.0.0.1:9901"));
    (reply.status(), body(reply).await)
}

async fn status(app: &App, path: &str) -> (StatusCode, String) {
    let reply = Status(app.clone()).answer(&Method::GET, &path.parse().unwrap());
    (reply.status(), body(reply).await)
}

#[tokio::test]
async fn ready_says_why_not() {
    let (app, _asked) = app(&[]);
    let (code, text) = status(&app, "/ready").await;
    assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE);
    assert!(text.contains("IPv4: the redirect is not proved yet"), "{text}");
    assert_eq!(admin(&app, Method::GET, "/ready").await, (code, text));
}

#[tokio::test]
async fn ready_when_nothing_is_asked_for() {
    let (app, _asked) = app(&["--verify-redirect", "off"]);
    assert_eq!(status(&app, "/ready").await, (StatusCode::OK, "ready\n".into()));
    assert!(status(&app, "/metrics").await.1.contains("\nculvert_ready 1\n"));
    app.readiness.draining();
    assert_eq!(status(&app, "/ready").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert!(status(&app, "/metrics").await.1.contains("\nculvert_ready 0\n"));
}

#[tokio::test]
async fn status_has_no_admin_pages() {
    let (app, _asked) = app(&[]);
    assert_eq!(status(&app, "/live").await, (StatusCode::OK, "live\n".into()));
    for path in ["/", "/stats", "/connections", "/quitquitquit", "/drain"] {
        assert_eq!(status(&app, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    let post = Status(app).answer(&Method::POST, &"/ready".parse().unwrap());
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_is_not_built_says_so() {
    let (app, _asked) = app(&[]);
    for path in ["/", "/config_dump", "/listeners", "/clusters", "/certs", "/stats?filter=cx"] {
        let (code, text) = admin(&app, Method::GET, path).await;
        assert_eq!(code, StatusCode::NOT_IMPLEMENTED, "{path}");
        assert!(text.contains("is not built yet; "), "{path}: {text}");
    }
}

#[tokio::test]
async fn state_changes_by_post_only() {
    let (app, mut asked) = app(&[]);
    for path in ["/drain", "/quitquitquit", "/logging?level=debug"] {
        assert_eq!(admin(&app, Method::GET, path).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
    assert!(asked.try_recv().is_err());
    assert_eq!(admin(&app, Method::POST, "/drain").await.0, StatusCode::OK);
    assert_eq!(asked.try_recv().unwrap(), Ask::Inbound);
    assert_eq!(admin(&app, Method::POST, "/quitquitquit").await.0, StatusCode::OK);
    assert_eq!(asked.recv().await, Some(Ask::Now));
    assert_eq!(admin(&app, Method::POST, "/logging?level=loud").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn stats_as_text_and_json() {
    let (app, _asked) = app(&[]);
    let (code, text) = admin(&app, Method::GET, "/stats").await;
    assert_eq!(code, StatusCode::OK);
    assert!(text.contains("\ncluster.outbound_passthrough_ipv4.upstream_cx_total: 0\n"), "{text}");
    let (_, text) = admin(&app, Method::GET, "/stats?format=json").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(value["stats"].as_array().unwrap().len() > 50);
    assert_eq!(admin(&app, Method::GET, "/stats?colour=red").await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn connections_are_shown_with_their_bytes() {
    let (app, _asked) = app(&[]);
    let (_, text) = admin(&app, Method::GET, "/connections").await;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["connections"].as_array().unwrap().len(), 0);

    let orig_dst = crate::addrs::OrigDst::new("192.0.2.1:443".parse().unwrap());
    let route = crate::route::route(crate::addrs::Direction::Outbound, orig_dst);
    let entry = app.proxy.table.enter(crate::table::NewEntry {
        id: app.proxy.table.take_id(),
        direction: crate::addrs::Direction::Outbound,
        client: crate::addrs::ClientAddr::new("10.0.0.2:4000".parse().unwrap()),
        orig_dst,
        dial: route.dial,
        cluster: route.cluster,
        opened: Instant::now(),
    });
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
    assert!(is_local(&headers));
    headers.insert(ORIGIN, "http://evil.example".parse().unwrap());
    assert!(!is_local(&headers));
    headers.insert(ORIGIN, "null".parse().unwrap());
    assert!(!is_local(&headers));
    headers.insert(ORIGIN, "http://localhost:9901".parse().unwrap());
    assert!(is_local(&headers));
}
