//! Ports of HTTP/2 and gRPC: rules of documents hold for each stream, by clients as they are in use.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::echo;
use culvert_tests::until::until_some;
use culvert_tests::{Family, eventually};
use hyper::body::Bytes;
use rustix::process::Signal;
use tonic::Code;

use crate::documents::SOON;
use crate::http_clients::origin::{LARGE, LARGE_BYTES, http_1, http_2, http_2_heard};
use crate::http_clients::{PATIENCE, finishes, grpc, program};
use crate::http_ports::{GET, Heard, Way, World, rest};
use crate::http_rules::{IN, count, fault};
use crate::traffic_logs::logs;

/// Both names of the protocol.
const PROTOCOLS: [&str; 2] = ["http2", "grpc"];

/// A World whose ports have this protocol, with a policy more.
fn with(protocol: &str, policy: &str) -> Result<World> {
    let world = World::new()?;
    world.speaks(protocol)?;
    if !policy.is_empty() {
        fs::write(world.folder.join("policy.yaml"), policy)?;
    }
    Ok(world)
}

/// The status and the body that curl gets by HTTP/2.
fn asks(world: &World, way: Way) -> Result<String> {
    world.curl(way, &["--http2-prior-knowledge", "-w", " by %{http_version}: %{http_code}", &world.url(way)])
}

/// The classes of the answers that h2load gets on this many streams of two connections.
fn loads(world: &World, way: Way, streams: u32) -> Result<String> {
    let number = format!("-n{streams}");
    let said =
        finishes(world.client(way), &program("h2load")?, &["-t1", &number, "-c2", "-m10", &world.url(way)])?;
    let line = said.lines().find_map(|line| line.strip_prefix("status codes: "));
    Ok(line.with_context(|| said.clone())?.to_owned())
}

#[test]
fn both_versions_are_served_at_each_port_of_http() -> Result<()> {
    for protocol in ["http", "http2", "grpc"] {
        let world = with(protocol, "")?;
        let sidecar = world.sidecar(&[])?;
        for way in Way::ALL {
            let _server = world.serve(way, http_2())?;
            assert_eq!(asks(&world, way)?, "ok 0 by 2: 200", "{protocol} {way:?}");
            let connections = format!("http2_connections_total{{direction=\"{}\"}}", way.name());
            assert_eq!(count(&sidecar, &connections)?, 1, "{protocol} {way:?}");
            let requests = format!("http_requests_total{{direction=\"{}\",class=\"2xx\"}}", way.name());
            assert_eq!(count(&sidecar, &requests)?, 1, "{protocol} {way:?}");
        }
        drop(sidecar);
        let world = with(protocol, "")?;
        let _sidecar = world.sidecar(&[])?;
        for way in Way::ALL {
            let _server = world.serve(way, http_1())?;
            let mut client = world.connect(way)?;
            client.write_all(format!("{}\r\nConnection: close\r\n\r\n", GET.trim_end()).as_bytes())?;
            let answer = rest(&mut client)?;
            ensure!(answer.starts_with("HTTP/1.1 200 "), "{protocol} {way:?}: {answer}");
        }
    }
    Ok(())
}

#[test]
fn an_abort_answers_each_stream_in_the_form_of_its_client() -> Result<()> {
    for protocol in PROTOCOLS {
        let world = with(protocol, &fault("{abort: {httpStatus: 503, percentage: 100}}"))?;
        let sidecar = world.sidecar(&[])?;
        let server = world.serve(Way::Inbound, http_2())?;
        assert_eq!(asks(&world, Way::Inbound)?, "fault filter abort by 2: 503");
        let url = world.url(Way::Inbound);
        let refused = grpc::refusal(world.client(Way::Inbound), url.clone())?;
        assert_eq!(refused, (Code::Unavailable, "fault filter abort".to_owned()));
        assert_eq!(loads(&world, Way::Inbound, 100)?, "0 2xx, 0 3xx, 0 4xx, 100 5xx");
        let said = finishes(world.client(Way::Inbound), &program("nghttp")?, &["-v", "-t", "30", &url])?;
        ensure!(said.contains(":status: 503") && said.contains("fault filter abort"), "{said}");
        assert_eq!(server.accepted(), 0, "the application gets nothing");
        assert_eq!(count(&sidecar, &format!("http_local_answers_total{{{IN},by=\"fault\"}}"))?, 103);
    }
    Ok(())
}

#[test]
fn a_delay_holds_each_stream_back_and_no_other() -> Result<()> {
    let world = with("http2", &fault("{delay: {value: 400ms, percentage: 100}}"))?;
    let sidecar = world.sidecar(&[])?;
    for (way, least, most) in [(Way::Inbound, 400, 4_000), (Way::Outbound, 0, 4_000)] {
        let _server = world.serve(way, http_2())?;
        let began = Instant::now();
        // One behind the other, these would take 8 s.
        assert_eq!(loads(&world, way, 20)?, "20 2xx, 0 3xx, 0 4xx, 0 5xx", "{way:?}");
        let took = began.elapsed();
        ensure!((least..most).contains(&took.as_millis()), "{way:?}: {took:?}");
    }
    assert_eq!(count(&sidecar, &format!("http_delayed_total{{{IN}}}"))?, 20);
    Ok(())
}

#[test]
fn a_response_has_no_more_than_its_bandwidth() -> Result<()> {
    let world = with("http2", &fault("{responseBandwidth: {limit: 100kbps, percentage: 100}}"))?;
    let sidecar = world.sidecar(&[])?;
    let _server = world.serve(Way::Inbound, http_2())?;
    let url = format!("{}{}", world.url(Way::Inbound).trim_end_matches('/'), LARGE);
    let began = Instant::now();
    let got = world.curl(Way::Inbound, &["--http2-prior-knowledge", &url])?;
    // Of 20 portions the first passes at once.
    ensure!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    ensure!(got.len() == LARGE_BYTES, "{} bytes", got.len());
    assert_eq!(count(&sidecar, &format!("http_slowed_total{{{IN}}}"))?, 1);
    Ok(())
}

#[test]
fn streams_above_the_rate_are_answered_as_the_policy_says() -> Result<()> {
    let policy = "{type: MeshRateLimit, name: r, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 3, interval: 1h}, \
                  onRateLimit: {status: 423, headers: {add: [{name: x-limited, value: 'yes'}]}}}}}}]}}";
    let world = with("grpc", policy)?;
    let sidecar = world.sidecar(&[])?;
    let _server = world.serve(Way::Inbound, http_2())?;
    assert_eq!(loads(&world, Way::Inbound, 10)?, "3 2xx, 0 3xx, 7 4xx, 0 5xx");
    let url = world.url(Way::Inbound);
    let said = world.curl(Way::Inbound, &["--http2-prior-knowledge", "-i", &url])?;
    ensure!(
        said.starts_with("HTTP/2 423")
            && said.contains("x-limited: yes")
            && said.ends_with("local_rate_limited"),
        "{said}"
    );
    assert_eq!(count(&sidecar, &format!("http_local_answers_total{{{IN},by=\"rate\"}}"))?, 8);
    Ok(())
}

#[test]
fn a_stream_that_takes_longer_than_documents_allow_is_answered() -> Result<()> {
    let times = "{http: {requestTimeout: 300ms}}";
    let policy = format!(
        "{{type: MeshTimeout, name: t, spec: {{from: [{{targetRef: {{kind: Mesh}}, default: {times}}}]}}}}"
    );
    let world = with("http2", &policy)?;
    let sidecar = world.sidecar(&[])?;
    // It greets, and never answers.
    let _server = world.serve(Way::Inbound, |mut stream: std::net::TcpStream| {
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0")?;
        stream.read_to_end(&mut Vec::new()).map(|_| ())
    })?;
    let said = asks(&world, Way::Inbound)?;
    ensure!(said.starts_with("request_timeout: ") && said.ends_with(" by 2: 504"), "{said}");
    let refusals = format!("http_refusals_total{{{IN},rule=\"request_timeout\"}}");
    assert_eq!(count(&sidecar, &refusals)?, 1);
    Ok(())
}

#[test]
fn a_log_has_a_line_for_each_stream_and_statistics_count_it() -> Result<()> {
    const NAME: &str = "http.localhost_8080.downstream_rq_";
    let world = with("grpc", "")?;
    let file = logs(&world.lab)?.join("streams");
    let policy = format!(
        "{{type: MeshAccessLog, name: l, spec: {{from: [{{targetRef: {{kind: Mesh}}, default: {{backends: [{{type: File, file: {{path: '{}', \
         format: {{type: Plain, plain: '%REQ(:METHOD)% %REQ(:AUTHORITY)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% \
         %RESPONSE_CODE_DETAILS% %BYTES_SENT% %REQ(AUTHORIZATION)% %REQ(X-OWN)%'}}}}}}]}}}}]}}}}",
        file.display()
    );
    fs::write(world.folder.join("policy.yaml"), &policy)?;
    let sidecar = world.sidecar(&[])?;
    let url = world.url(Way::Inbound);
    let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let ask = |more: &[&str], path: &str| {
        let url = format!("{}{path}", url.trim_end_matches('/'));
        world.curl(Way::Inbound, &[&["--http2-prior-knowledge"], more, &[&*url]].concat())
    };
    let server = world.serve(Way::Inbound, http_2())?;
    ask(&["-H", "Authorization: Bearer secret", "-H", "x-own: a"], "/a?b=c")?;
    drop(server);
    ask(&[], "/away")?;
    // Answered before a server was called for.
    fs::write(
        world.folder.join("policy.yaml"),
        format!("{policy}\n---\n{}", fault("{abort: {httpStatus: 418, percentage: 100}}")),
    )?;
    eventually!(ask(&[], "/aborted").is_ok_and(|said| said == "fault filter abort"), SOON);
    let expected = [
        format!("GET {host} /a?b=c HTTP/2 200 - via_upstream 4 [hidden] a"),
        format!(
            "GET {host} /away HTTP/2 503 UF upstream_reset_before_response_started{{remote_connection_failure}}"
        ),
        format!("GET {host} /aborted HTTP/2 418 FI fault_filter_abort 18 - -"),
    ];
    let lines = || fs::read_to_string(&file).unwrap_or_default();
    let is_there = |expected: &String| lines().lines().any(|line| line.starts_with(&**expected));
    let all = until_some(SOON, || expected.iter().all(is_there).then_some(()));
    ensure!(all.is_some(), "{}", lines());
    for (name, least) in [("2xx", 1), ("4xx", 1), ("5xx", 1), ("total", 3)] {
        let value = sidecar.stat(&format!("{NAME}{name}"))?;
        ensure!(value >= least, "{name}: {value}");
    }
    assert_eq!(sidecar.stat(&format!("{NAME}active"))?, 0);
    Ok(())
}

#[test]
fn fields_that_say_who_calls_reach_no_application() -> Result<()> {
    for protocol in ["http", "http2"] {
        let world = with(protocol, "")?;
        let _sidecar = world.sidecar(&[])?;
        let heard = Heard::default();
        let _server = world.serve(Way::Inbound, http_2_heard(&heard))?;
        let fields = ["-H", "X-Kuma-Tags: &kuma.io/service=web&", "-H", "x-own: stays"];
        let url = world.url(Way::Inbound);
        let arguments = [&["--http2-prior-knowledge"][..], &fields, &[&url]].concat();
        assert_eq!(world.curl(Way::Inbound, &arguments)?, "ok 0");
        let heard = String::from_utf8_lossy(&heard.lock().expect("no panic")).into_owned();
        ensure!(heard.contains("x-own: stays\n") && !heard.contains("kuma"), "{protocol}: {heard}");
    }
    Ok(())
}

#[test]
fn a_server_that_is_away_is_a_503_or_unavailable() -> Result<()> {
    let world = with("grpc", "")?;
    let sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let said = asks(&world, way)?;
        ensure!(said.starts_with("unreachable: ") && said.ends_with(" by 2: 503"), "{way:?}: {said}");
        let (code, message) = grpc::refusal(world.client(way), world.url(way))?;
        ensure!(
            code == Code::Unavailable && message.starts_with("unreachable: "),
            "{way:?}: {code:?} {message}"
        );
        let refusals = format!("http_refusals_total{{direction=\"{}\",rule=\"unreachable\"}}", way.name());
        assert_eq!(count(&sidecar, &refusals)?, 2, "{way:?}");
    }
    Ok(())
}

#[test]
fn a_server_of_another_protocol_is_a_502() -> Result<()> {
    let world = with("http2", "")?;
    let sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        // The preface comes back, which is no frame.
        let _server = world.serve(way, echo())?;
        let said = asks(&world, way)?;
        ensure!(said.ends_with(" by 2: 502"), "{way:?}: {said}");
        let refusals =
            format!("http_refusals_total{{direction=\"{}\",rule=\"http2_server_frames\"}}", way.name());
        eventually!(count(&sidecar, &refusals).is_ok_and(|n| n == 1), SOON);
    }
    Ok(())
}

#[test]
fn a_drain_ends_a_connection_behind_its_last_stream() -> Result<()> {
    const STREAMS: usize = 10;
    let world = with("http2", "")?;
    let mut sidecar = world.sidecar(&["--drain-delay", "0s", "--drain-time", "60s"])?;
    let _server = world.serve(Way::Inbound, http_2())?;
    let stream = world.connect(Way::Inbound)?;
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let told = || -> Result<()> {
        sidecar.signal(Signal::TERM)?;
        let is_refused = || {
            let connected = world.lab.peer.connect(Way::Inbound.called(Family::V4));
            connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        };
        eventually!(is_refused(), PATIENCE);
        Ok(())
    };
    let exchange = async {
        let stream = tokio::net::TcpStream::from_std(stream)?;
        let (mut sender, connection) = h2::client::handshake(stream).await?;
        let connection = tokio::spawn(connection);
        let mut held = Vec::new();
        for _ in 0..STREAMS {
            sender = sender.ready().await?;
            let request = http::Request::post("http://app/").body(())?;
            held.push(sender.send_request(request, false)?);
        }
        // A whole one behind them, so they are there.
        sender = sender.ready().await?;
        let (response, _) = sender.send_request(http::Request::get("http://app/").body(())?, true)?;
        ensure!(response.await?.status() == 200, "the sidecar does not serve");
        told()?;
        for (response, mut upload) in held {
            upload.send_data(Bytes::from_static(b"rest"), true)?;
            let mut body = response.await?.into_body();
            let data = body.data().await.context("no body")??;
            ensure!(data == "ok 4", "{data:?}");
        }
        connection.await?.context("GOAWAY, and then an end in order")
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, exchange).await.context("no end")? })?;
    ensure!(sidecar.wait(PATIENCE)?.code() == Some(0), "{}", sidecar.stderr().text());
    let not_well = sidecar.access_log().into_iter().find(|record| record["reason"] != "ok");
    ensure!(not_well.is_none(), "{not_well:?}");
    Ok(())
}

#[test]
fn the_clients_loads_lose_no_stream_at_ports_of_their_protocol() -> Result<()> {
    let began = Instant::now();
    for protocol in PROTOCOLS {
        let world = with(protocol, "")?;
        let sidecar = world.sidecar(&[])?;
        for way in Way::ALL {
            let _server = world.serve(way, http_2())?;
            assert_eq!(loads(&world, way, 1_000)?, "1000 2xx, 0 3xx, 0 4xx, 0 5xx", "{protocol} {way:?}");
            let requests = format!("http_requests_total{{direction=\"{}\",class=\"2xx\"}}", way.name());
            assert_eq!(count(&sidecar, &requests)?, 1_000);
        }
        let open = "connections_active{direction=\"inbound\",family=\"ipv4\"}";
        eventually!(count(&sidecar, open).is_ok_and(|n| n == 0), SOON);
    }
    ensure!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    Ok(())
}
