//! Rules of documents about requests: faults, rates, limits of time and number, and the fields that are changed.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_tests::server::http;
use culvert_tests::until::until_some;
use culvert_tests::{Sidecar, eventually};

use crate::documents::SOON;
use crate::http_ports::{GET, Heard, OK, Way, World, hears, origin, rest};
use crate::traffic_logs::logs;

/// A World with a policy more, and its sidecar.
fn with(policy: &str) -> Result<World> {
    let world = World::new()?;
    fs::write(world.folder.join("policy.yaml"), policy)?;
    Ok(world)
}

/// A MeshFaultInjection with one fault of requests by everyone.
pub(crate) fn fault(fault: &str) -> String {
    format!(
        "{{type: MeshFaultInjection, name: f, spec: {{from: [{{targetRef: {{kind: Mesh}}, default: {{http: [{fault}]}}}}]}}}}"
    )
}

/// The answer to a request on a kept connection: its status, its head and its body by length.
pub(crate) fn ask(stream: &mut TcpStream, request: &str) -> Result<(u16, String, Vec<u8>)> {
    stream.write_all(request.as_bytes())?;
    answer(stream)
}

fn answer(stream: &mut TcpStream) -> Result<(u16, String, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).with_context(|| format!("{:?}", String::from_utf8_lossy(&head)))?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    let status = head.get(9..12).context("no status")?.parse()?;
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    let mut body = vec![0; length.map_or(Ok(0), |length| length.trim().parse())?];
    stream.read_exact(&mut body)?;
    Ok((status, head, body))
}

pub(crate) fn count(sidecar: &Sidecar<'_>, series: &str) -> Result<u64> {
    let page = sidecar.metrics()?;
    let line = page.lines().find_map(|line| line.strip_prefix(&format!("culvert_{series} ")));
    Ok(line.with_context(|| format!("no {series}"))?.parse()?)
}

pub(crate) const IN: &str = "direction=\"inbound\"";

#[test]
fn a_delay_holds_requests_back_and_an_abort_answers_them() -> Result<()> {
    let world = with(&fault(
        "{delay: {value: 300ms, percentage: 100}}, {abort: {httpStatus: 418, percentage: 100}}",
    ))?;
    let sidecar = world.sidecar(&[])?;
    let heard = Heard::default();
    let server = world.serve(Way::Inbound, origin(&heard))?;
    let mut client = world.connect(Way::Inbound)?;
    for _ in 0..2 {
        let began = Instant::now();
        let (status, head, body) = ask(&mut client, GET)?;
        ensure!(began.elapsed() >= Duration::from_millis(300), "no delay");
        ensure!(status == 418 && body == b"fault filter abort", "{head}{body:?}");
    }
    // Pipelined, and to HEAD without a body.
    client.write_all(
        b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nHEAD /b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )?;
    let answers = rest(&mut client)?;
    ensure!(answers.matches("HTTP/1.1 418 Unknown\r\n").count() == 2, "{answers}");
    ensure!(answers.ends_with("connection: close\r\n\r\n"), "{answers}");
    assert_eq!(server.accepted(), 0, "the application gets nothing");
    assert_eq!(count(&sidecar, &format!("http_delayed_total{{{IN}}}"))?, 4);
    assert_eq!(count(&sidecar, &format!("http_local_answers_total{{{IN},by=\"fault\"}}"))?, 4);
    Ok(())
}

#[test]
fn a_delayed_request_reaches_the_application_behind_its_delay_and_no_other_is_held() -> Result<()> {
    let world = with(&fault("{delay: {value: 400ms, percentage: 100}}"))?;
    let _sidecar = world.sidecar(&[])?;
    for (way, least) in [(Way::Inbound, 400), (Way::Outbound, 0)] {
        let heard = Heard::default();
        let _server = world.serve(way, origin(&heard))?;
        let mut client = world.connect(way)?;
        for _ in 0..2 {
            let began = Instant::now();
            client.write_all(GET.as_bytes())?;
            hears(&mut client, OK)?;
            ensure!(began.elapsed() >= Duration::from_millis(least), "{way:?}: {:?}", began.elapsed());
        }
        // A request that waits has a body behind it.
        client.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")?;
        hears(&mut client, OK)?;
        let heard = String::from_utf8_lossy(&heard.lock().expect("no panic")).into_owned();
        ensure!(heard.ends_with("\r\n\r\nhello"), "{way:?}: {heard}");
    }
    Ok(())
}

#[test]
fn half_a_percent_of_the_requests_has_the_fault() -> Result<()> {
    let world = with(&fault("{abort: {httpStatus: 503, percentage: '0.5'}}"))?;
    let sidecar = world.sidecar(&[])?;
    let _server = world.serve(Way::Inbound, http("well"))?;
    let mut client = world.connect(Way::Inbound)?;
    let mut aborted = 0;
    for _ in 0..1_000 {
        client.write_all(GET.repeat(10).as_bytes())?;
        for _ in 0..10 {
            let (status, head, _) = answer(&mut client)?;
            ensure!(status == 200 || status == 503, "{head}");
            aborted += u64::from(status == 503);
        }
    }
    // 50 of 10,000 are expected; one run of a million has more or fewer.
    ensure!((20..=88).contains(&aborted), "{aborted} of 10,000");
    assert_eq!(count(&sidecar, &format!("http_local_answers_total{{{IN},by=\"fault\"}}"))?, aborted);
    Ok(())
}

#[test]
fn a_response_has_no_more_than_its_bandwidth() -> Result<()> {
    let world = with(&fault("{responseBandwidth: {limit: 100kbps, percentage: 100}}"))?;
    let sidecar = world.sidecar(&[])?;
    let body = "x".repeat(100 * 1024);
    let words = body.clone();
    let _server = world.serve(Way::Inbound, move |mut stream: TcpStream| {
        let mut request = vec![0; GET.len()];
        while stream.read_exact(&mut request).is_ok() {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{words}", words.len())?;
        }
        Ok(())
    })?;
    let mut client = world.connect(Way::Inbound)?;
    for _ in 0..2 {
        let began = Instant::now();
        let (status, _, got) = ask(&mut client, GET)?;
        ensure!(status == 200 && got == body.as_bytes(), "{status}, {} bytes", got.len());
        // Of 20 portions the first passes at once.
        ensure!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    }
    assert_eq!(count(&sidecar, &format!("http_slowed_total{{{IN}}}"))?, 2);
    Ok(())
}

#[test]
fn a_fault_of_some_callers_is_theirs_alone() -> Result<()> {
    let abort = |callers: &str, status: u16| {
        format!(
            "{{targetRef: {{{callers}}}, default: {{http: [{{abort: {{httpStatus: {status}, percentage: 100}}}}]}}}}"
        )
    };
    let policy = |entries: &[String]| {
        format!("{{type: MeshFaultInjection, name: f, spec: {{from: [{}]}}}}", entries.join(", "))
    };
    let member = "\n---\n{type: Dataplane, name: friend, networking: {address: 10.77.0.1, inbound: [{port: 1, tags: {kuma.io/service: friend, version: v2}}]}}\n";
    for (entries, status) in [
        (vec![abort("kind: MeshService, name: friend", 401)], 401),
        (vec![abort("kind: MeshService, name: other", 401)], 200),
        (vec![abort("kind: MeshSubset, tags: {version: v2}", 402)], 402),
        // The last that fits holds.
        (vec![abort("kind: Mesh", 403), abort("kind: MeshService, name: friend", 404)], 404),
        (vec![abort("kind: MeshService, name: friend", 404), abort("kind: Mesh", 403)], 403),
        (vec![abort("kind: Mesh", 405), abort("kind: MeshService, name: other", 406)], 405),
    ] {
        let world = with(&(policy(&entries) + member))?;
        let _sidecar = world.sidecar(&[])?;
        let _server = world.serve(Way::Inbound, http("well"))?;
        let mut client = world.connect(Way::Inbound)?;
        // A header says nothing about its sender.
        let (got, ..) =
            ask(&mut client, "GET / HTTP/1.1\r\nHost: a\r\nx-kuma-tags: &kuma.io/service=other&\r\n\r\n")?;
        ensure!(got == status, "{entries:?}: {got}");
    }
    Ok(())
}

#[test]
fn requests_above_the_rate_are_answered_as_the_policy_says() -> Result<()> {
    let policy = "{type: MeshRateLimit, name: r, spec: {from: [{targetRef: {kind: Mesh}, default: {local: {http: {requestRate: {num: 3, interval: 1h}, \
                  onRateLimit: {status: 423, headers: {add: [{name: x-limited, value: 'yes'}]}}}}}}]}}";
    let world = with(policy)?;
    let sidecar = world.sidecar(&[])?;
    let heard = Heard::default();
    let _server = world.serve(Way::Inbound, origin(&heard))?;
    // All connections together have the rate.
    for expected in [[200, 200], [200, 423], [423, 423]] {
        let mut client = world.connect(Way::Inbound)?;
        for status in expected {
            let (got, head, body) = ask(&mut client, GET)?;
            ensure!(got == status, "{head}");
            if status == 423 {
                ensure!(
                    head.contains("\r\nx-limited: yes\r\n") && body == b"local_rate_limited",
                    "{head}{body:?}"
                );
            }
        }
    }
    assert_eq!(String::from_utf8_lossy(&heard.lock().expect("no panic")), GET.repeat(3));
    assert_eq!(count(&sidecar, &format!("http_local_answers_total{{{IN},by=\"rate\"}}"))?, 3);
    Ok(())
}

#[test]
fn more_requests_than_the_breaker_allows_are_answered_at_once() -> Result<()> {
    let policy = "{type: MeshCircuitBreaker, name: b, spec: {to: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxRequests: 1}}}], \
                  from: [{targetRef: {kind: Mesh}, default: {connectionLimits: {maxRequests: 1}}}]}}";
    let world = with(policy)?;
    let sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let heard = Heard::default();
        let _server = world.serve(way, origin(&heard))?;
        let mut first = world.connect(way)?;
        // Its body is awaited, so it is under way.
        first.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxy")?;
        eventually!(
            count(&sidecar, &format!("connections_active{{direction=\"{}\",family=\"ipv4\"}}", way.name()))
                .is_ok_and(|n| n == 1),
            SOON
        );
        let mut second = world.connect(way)?;
        let mut status = 0;
        eventually!(
            {
                status = ask(&mut second, GET).map_or(0, |(status, ..)| status);
                status == 503
            },
            SOON
        );
        first.write_all(b"z")?;
        hears(&mut first, OK)?;
        let (status, head, _) = ask(&mut second, GET)?;
        ensure!(status == 200, "{way:?}: {head}");
        drop((first, second));
        eventually!(
            count(&sidecar, &format!("connections_active{{direction=\"{}\",family=\"ipv4\"}}", way.name()))
                .is_ok_and(|n| n == 0),
            SOON
        );
    }
    Ok(())
}

#[test]
fn what_takes_longer_than_documents_allow_is_ended_with_an_answer() -> Result<()> {
    let policy = |times: &str| {
        format!(
            "{{type: MeshTimeout, name: t, spec: {{to: [{{targetRef: {{kind: Mesh}}, default: {{http: {{{times}}}}}}}], \
             from: [{{targetRef: {{kind: Mesh}}, default: {{http: {{{times}}}}}}}]}}}}"
        )
    };
    const SILENT: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nnot all";
    for (times, request, status, rule) in [
        ("requestTimeout: 300ms", GET, 504, "request_timeout"),
        ("streamIdleTimeout: 300ms", GET, 504, "stream_idle"),
        ("streamIdleTimeout: 300ms", SILENT, 504, "stream_idle"),
        ("maxStreamDuration: 300ms", SILENT, 504, "stream_timeout"),
        ("requestTimeout: 1h, requestHeadersTimeout: 300ms", "GET / HTTP/1.1\r\nHo", 408, "header_timeout"),
    ] {
        let world = with(&policy(times))?;
        let sidecar = world.sidecar(&[])?;
        for way in Way::ALL {
            // It answers the first request and no other.
            let _server = world.serve(way, |mut stream: TcpStream| {
                stream.read_exact(&mut [0; GET.len()])?;
                stream.write_all(OK.as_bytes())?;
                stream.read_to_end(&mut Vec::new()).map(|_| ())
            })?;
            let mut client = world.connect(way)?;
            client.write_all(GET.as_bytes())?;
            hears(&mut client, OK)?;
            client.write_all(request.as_bytes())?;
            let answer = rest(&mut client)?;
            ensure!(
                answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(&format!("{rule}: ")),
                "{way:?} {times}: {answer:?}"
            );
            let refusals = format!("http_refusals_total{{direction=\"{}\",rule=\"{rule}\"}}", way.name());
            assert_eq!(count(&sidecar, &refusals)?, 1, "{way:?} {times}");
        }
    }
    // A head that is the first of its connection, and a connection that is old.
    let world =
        with(&policy("requestTimeout: 1h, requestHeadersTimeout: 300ms, maxConnectionDuration: 600ms"))?;
    let _sidecar = world.sidecar(&[])?;
    for way in Way::ALL {
        let _server = world.serve(way, http("well"))?;
        let mut client = world.connect(way)?;
        client.write_all(b"GET / HT")?;
        let answer = rest(&mut client)?;
        ensure!(answer.starts_with("HTTP/1.1 408 "), "{way:?}: {answer:?}");
        let mut client = world.connect(way)?;
        let (status, ..) = ask(&mut client, GET)?;
        ensure!(
            status == 200 && rest(&mut client)?.is_empty(),
            "{way:?}: an orderly end between two requests"
        );
    }
    Ok(())
}

#[test]
fn a_tunnel_has_no_time_of_a_request() -> Result<()> {
    let policy = "{type: MeshTimeout, name: t, spec: {from: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 200ms}}}]}}";
    let world = with(policy)?;
    let _sidecar = world.sidecar(&[])?;
    let heard = Heard::default();
    let _server = world.serve(Way::Inbound, origin(&heard))?;
    let mut client = world.connect(Way::Inbound)?;
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")?;
    hears(&mut client, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")?;
    client.set_read_timeout(Some(Duration::from_millis(700)))?;
    let waited = client.read(&mut [0]).map_err(|error| error.kind());
    ensure!(waited == Err(std::io::ErrorKind::WouldBlock), "{waited:?}");
    client.write_all(b"x")?;
    hears(&mut client, "x")?;
    Ok(())
}

#[test]
fn fields_that_tell_who_calls_are_not_the_clients_to_write() -> Result<()> {
    let world = World::new()?;
    let _sidecar = world.sidecar(&[])?;
    let sent =
        "GET / HTTP/1.1\r\nHost: a\r\nX-Kuma-Tags: &a=b&\r\nX-A: b\r\nx-forwarded-client-cert: URI=x\r\n\r\n";
    for (way, received) in [
        (Way::Inbound, sent.replace("X-Kuma-Tags: &a=b&\r\n", "")),
        // Its own sidecar says what it says.
        (Way::Outbound, sent.to_owned()),
    ] {
        let heard = Heard::default();
        let _server = world.serve(way, origin(&heard))?;
        let mut client = world.connect(way)?;
        client.write_all(sent.as_bytes())?;
        hears(&mut client, OK)?;
        assert_eq!(String::from_utf8_lossy(&heard.lock().expect("no panic")), received, "{way:?}");
    }
    // Where there are rules, nothing passes them by an upgrade.
    let world = with(&fault("{abort: {httpStatus: 418, percentage: 0}}"))?;
    let _sidecar = world.sidecar(&[])?;
    let heard = Heard::default();
    let _server = world.serve(Way::Inbound, origin(&heard))?;
    let mut client = world.connect(Way::Inbound)?;
    client.write_all(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    )?;
    hears(&mut client, OK)?;
    let received = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&heard.lock().expect("no panic")), received);
    Ok(())
}

#[test]
fn a_log_has_a_line_for_each_request_with_envoys_flags_and_no_secret() -> Result<()> {
    let world = World::new()?;
    let file = logs(&world.lab)?.join("requests");
    let policy = format!(
        "{{type: MeshAccessLog, name: l, spec: {{from: [{{targetRef: {{kind: Mesh}}, default: {{backends: [{{type: File, file: {{path: '{}', \
         format: {{type: Plain, plain: '%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
         %BYTES_RECEIVED% %BYTES_SENT% %REQ(AUTHORIZATION)% %RESP(SERVER)%'}}}}}}]}}}}]}}}}\n---\n\
         {{type: MeshFaultInjection, name: f, spec: {{from: [{{targetRef: {{kind: Mesh}}, default: {{http: [{{delay: {{value: 5ms, percentage: 100}}}}]}}}}]}}}}",
        file.display()
    );
    fs::write(world.folder.join("policy.yaml"), &policy)?;
    let _sidecar = world.sidecar(&[])?;
    let server = world.serve(Way::Inbound, |mut stream: TcpStream| {
        let mut head = vec![0; 4096];
        let n = stream.read(&mut head)?;
        let head = String::from_utf8_lossy(&head[..n]).into_owned();
        if head.starts_with("GET /closes ") {
            return Ok(());
        }
        if head.starts_with("GET /wrong ") {
            return stream.write_all(b"SSH-2.0-OpenSSH\r\n");
        }
        stream.write_all(
            b"HTTP/1.1 201 Created\r\nServer: own\r\nContent-Length: 3\r\nConnection: close\r\n\r\nyes",
        )?;
        stream.read_to_end(&mut Vec::new()).map(|_| ())
    })?;
    let ask = |request: &str| -> Result<String> {
        let mut client = world.connect(Way::Inbound)?;
        client.write_all(request.as_bytes())?;
        rest(&mut client)
    };
    for request in [
        "POST /a?b=c HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\r\nContent-Length: 2\r\n\r\nhi",
        "GET /closes HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /wrong HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /two HTTP/1.1\r\n\r\n",
    ] {
        ask(request)?;
    }
    drop(server);
    ask("GET /away HTTP/1.0\r\n\r\n")?;
    // Answered before a server was called for.
    fs::write(
        world.folder.join("policy.yaml"),
        policy.replace("delay: {value: 5ms", "abort: {httpStatus: 418"),
    )?;
    let mut aborted = String::new();
    eventually!(
        {
            aborted =
                ask("GET /aborted HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap_or_default();
            aborted.starts_with("HTTP/1.1 418 ")
        },
        SOON
    );
    let mut expected = [
        "POST /a?b=c HTTP/1.1 201 DI via_upstream 2 3 [hidden] own",
        "GET /closes HTTP/1.1 0 UC upstream_reset_before_response_started{connection_termination} 0 0 - -",
        "GET /wrong HTTP/1.1 502 UPE upstream_reset_before_response_started{protocol_error} 0 0 - -",
        "- - - 400 DPE no_host 0 0 - -",
        "GET /away HTTP/1.0 503 UF upstream_reset_before_response_started{remote_connection_failure} 0 0 - -",
        "GET /aborted HTTP/1.1 418 FI fault_filter_abort 0 0 - -",
    ];
    expected.sort_unstable();
    let lines = || fs::read_to_string(&file).unwrap_or_default();
    // Each is of a connection of its own, and these end side by side.
    let got = || {
        let mut all: Vec<_> = lines().lines().map(str::to_owned).collect();
        // Until the policy was read again.
        all.retain(|line| !line.starts_with("GET /aborted HTTP/1.1 503 "));
        all.sort_unstable();
        all
    };
    until_some(SOON, || (got().len() >= expected.len()).then_some(()));
    assert_eq!(got(), expected);
    Ok(())
}

#[test]
fn a_client_that_reads_no_answers_is_read_no_more() -> Result<()> {
    let world = with(&fault("{abort: {httpStatus: 418, percentage: 100}}"))?;
    let _sidecar = world.sidecar(&[])?;
    let mut client = world.connect(Way::Inbound)?;
    client.set_write_timeout(Some(Duration::from_secs(1)))?;
    let requests = GET.repeat(2_000);
    // More than all buffers on the way have room for.
    let blocked = (0..2_000).find_map(|_| client.write_all(requests.as_bytes()).err());
    ensure!(blocked.is_some(), "{} bytes of requests were taken", 2_000 * requests.len());
    // What it reads is whole answers, and it goes on.
    client.set_nonblocking(false)?;
    for _ in 0..10_000 {
        ensure!(answer(&mut client)?.0 == 418);
    }
    Ok(())
}

#[test]
fn a_delay_is_no_time_of_the_request_and_what_was_begun_is_cut_by_a_reset() -> Result<()> {
    let times = "requestTimeout: 300ms, requestHeadersTimeout: 300ms";
    let policy = format!(
        "{{type: MeshTimeout, name: t, spec: {{from: [{{targetRef: {{kind: Mesh}}, default: {{http: {{{times}}}}}}}]}}}}\n---\n{}",
        fault("{delay: {value: 900ms, percentage: 100}}")
    );
    let world = with(&policy)?;
    let _sidecar = world.sidecar(&[])?;
    let server = world.serve(Way::Inbound, http("well"))?;
    let mut client = world.connect(Way::Inbound)?;
    for _ in 0..2 {
        let (status, head, _) = ask(&mut client, GET)?;
        ensure!(status == 200, "{head}");
    }
    drop((client, server));
    let _server = world.serve(Way::Inbound, |mut stream: TcpStream| {
        stream.read_exact(&mut [0; GET.len()])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nto the end")?;
        stream.read_to_end(&mut Vec::new()).map(|_| ())
    })?;
    let mut client = world.connect(Way::Inbound)?;
    client.write_all(GET.as_bytes())?;
    let mut heard = Vec::new();
    let end = client.read_to_end(&mut heard).map_err(|error| error.kind());
    ensure!(end == Err(std::io::ErrorKind::ConnectionReset), "{end:?}: {}", String::from_utf8_lossy(&heard));
    Ok(())
}

#[test]
fn the_beginning_of_another_request_puts_no_limit_off() -> Result<()> {
    let world = with(
        "{type: MeshTimeout, name: t, spec: {from: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: 300ms}}}]}}",
    )?;
    let _sidecar = world.sidecar(&[])?;
    let _server =
        world.serve(Way::Inbound, |mut stream: TcpStream| stream.read_to_end(&mut Vec::new()).map(|_| ()))?;
    let mut client = world.connect(Way::Inbound)?;
    client.write_all([GET, "G"].concat().as_bytes())?;
    let answer = rest(&mut client)?;
    ensure!(answer.starts_with("HTTP/1.1 504 ") && answer.contains("request_timeout: "), "{answer:?}");
    Ok(())
}
