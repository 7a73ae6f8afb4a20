// SPDX-License-Identifier: Apache-2.0
//! MeshMetric: the port that Prometheus asks, the sidecar's metrics there, and those of applications, good and bad ones.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use culvert_tests::server::{Behaviour, echo, resets_after_a_byte, silent};
use culvert_tests::{Family, Lab, Sidecar, eventually, http};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset, read_all};
use crate::walkthrough::{dump, of_dump, onboarded, talks, with_documents};

/// The labels that every series has.
const OURS: &str = "mesh=\"default\",dataplane=\"here\",kuma_io_service=\"here\",kuma_workload=\"shop\"";

/// A pod with a Dataplane.
struct World {
    lab: Lab,
    folder: PathBuf,
}

impl World {
    fn new() -> Result<Self> {
        let (lab, folder) = onboarded()?;
        let here = format!(
            "{{type: Dataplane, name: here, labels: {{app: here, kuma.io/workload: shop}}, networking: {{address: 10.77.0.2, {TRANSPARENT}, inbound: [{{port: 9000, tags: {{kuma.io/service: here}}}}]}}}}\n"
        );
        fs::write(folder.join("here.yaml"), here)?;
        Ok(Self { lab, folder })
    }

    fn file(&self) -> PathBuf {
        self.folder.join("metrics.yaml")
    }

    /// Exchanges the policy; the sidecar, if there is one, sees it as one change.
    fn policy(&self, conf: &str) -> Result<()> {
        let text = format!(
            "apiVersion: kuma.io/v1alpha1\nkind: MeshMetric\nmetadata: {{name: metrics, namespace: kuma-system, labels: {{kuma.io/mesh: default}}}}\nspec: {{targetRef: {{kind: Mesh}}, default: {{{conf}}}}}\n"
        );
        replace(&self.file(), &text)
    }

    fn sidecar(&self) -> Result<Sidecar<'_>> {
        with_documents(&self.lab, &self.folder, &["--dataplane", "here"])
    }

    /// The metrics as Prometheus gets them, with a timeout of so many seconds.
    fn scrape(&self, to: impl Into<SocketAddr>, timeout: u32) -> Result<http::Response> {
        let stream = self.lab.peer.connect(to.into())?;
        let header = format!("text/plain\r\nX-Prometheus-Scrape-Timeout-Seconds: {timeout}");
        http::get_accepting(stream, "/metrics", &header)
    }

    fn connect(&self, port: u16) -> std::io::Result<TcpStream> {
        self.lab.peer.connect((Family::V4.pod(), port))
    }
}

/// Answers one request with a page, in a way of HTTP.
fn page(head: &str, body: impl Into<Vec<u8>>) -> impl Behaviour {
    let (head, body) = (head.to_owned(), body.into());
    move |mut stream| {
        let mut request = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        while request.read_line(&mut line)? > 2 {
            line.clear();
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n").as_bytes())?;
        stream.write_all(&body)
    }
}

#[track_caller]
fn assert_has(page: &str, line: &str) {
    assert!(page.lines().any(|there| there == line), "no line {line} in:\n{page}");
}

#[test]
fn prometheus_finds_the_sidecars_metrics_on_its_port() -> Result<()> {
    let world = World::new()?;
    world.policy("backends: [{type: Prometheus, prometheus: {port: 8080, path: /metrics}}]")?;
    let sidecar = world.sidecar()?;
    let _application = world.lab.pod.as_uid(APP).serve((Family::V4.pod(), 9000), echo())?;
    talks(world.connect(9000)?)?;
    for family in Family::BOTH {
        let answer = world.scrape((family.pod(), 8080), 10).with_context(|| family.to_string())?;
        ensure!(answer.status == 200, "{answer:?}");
        ensure!(answer.headers.contains("text/plain; version=0.0.4"), "{}", answer.headers);
        assert_has(&answer.body, "# TYPE culvert_ready gauge");
        assert_has(&answer.body, &format!("culvert_ready{{{OURS}}} 1"));
        let cluster = "envoy_cluster_upstream_cx_total{envoy_cluster_name=\"localhost_9000\"";
        assert_has(&answer.body, &format!("{cluster},{OURS}}} 1"));
        ensure!(!answer.body.contains("culvert_splice_"), "not of Basic: {}", answer.body);
        ensure!(!answer.body.contains("_kuma_metrics"), "its own cluster: {}", answer.body);
        ensure!(!answer.body.contains("culvert_ejections_total"), "never counted: {}", answer.body);
    }
    for (method, path, status) in
        [("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405), ("HEAD", "/metrics", 405)]
    {
        let answer = http::request(world.connect(8080)?, method, path)?;
        ensure!(answer.status == status, "{method} {path}: {answer:?}");
    }
    let dump = dump(&sidecar)?;
    let name = "_kuma:metrics:prometheus:default-backend";
    ensure!(of_dump(&dump, name).is_some(), "{dump}");
    // All of them, and nothing but what is asked for.
    world.policy("backends: [{type: Prometheus, prometheus: {port: 8080}}], sidecar: {includeUnused: true, profiles: {appendProfiles: [{name: All}], exclude: [{type: Regex, match: '^envoy_'}], include: [{type: Exact, match: envoy_server_uptime}]}}")?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    let all = world.scrape((Family::V4.pod(), 8080), 10)?.body;
    assert_has(&all, &format!("culvert_splice_pipes{{{OURS}}} 0"));
    let envoys: Vec<_> = all.lines().filter(|line| line.starts_with("envoy_")).collect();
    ensure!(envoys.len() == 1 && envoys[0].starts_with("envoy_server_uptime{"), "{envoys:?}");
    Ok(())
}

#[test]
fn applications_metrics_are_joined_with_their_name() -> Result<()> {
    let world = World::new()?;
    world.policy(
        "backends: [{type: Prometheus, prometheus: {}}],
         applications: [{name: web, port: 9100}, {port: 9101, path: m, address: 127.0.0.1}, {name: six, port: 9102, address: 'fd00:77::2'}]"
            .replace("fd00:77::2", &Family::V6.pod().to_string())
            .as_str(),
    )?;
    let app = world.lab.pod.as_uid(APP);
    let text = "# HELP requests_total Requests.\n# TYPE requests_total counter\nrequests_total{code=\"200\",mesh=\"theirs\"} 7\nculvert_ready 0\n";
    let openmetrics =
        "# TYPE requests counter\nrequests_total 8 # {trace=\"a\"} 1\n# TYPE up gauge\nup 1\n# EOF\n";
    let web = app.serve((Family::V4.pod(), 9100), page("Content-Type: text/plain\r\n", text))?;
    let _loopback = app.serve("127.0.0.1:9101", page("", openmetrics))?;
    let chunked = "9\r\nrequests_\r\n9\r\ntotal 9\nx\r\n4\r\nyz 1\r\n0\r\n\r\n";
    let _six = app.serve((Family::V6.pod(), 9102), page("Transfer-Encoding: chunked\r\n", chunked))?;
    let sidecar = world.sidecar()?;
    let answer = world.scrape((Family::V4.pod(), 5670), 10)?;
    ensure!(answer.status == 200, "{answer:?}");
    for line in [
        "# HELP requests_total Requests.".to_owned(),
        format!("requests_total{{code=\"200\",{OURS},otel_scope_name=\"web\"}} 7"),
        format!("requests_total{{{OURS},otel_scope_name=\"9101\"}} 8"),
        format!("requests_total{{{OURS},otel_scope_name=\"six\"}} 9"),
        format!("xyz{{{OURS},otel_scope_name=\"six\"}} 1"),
        format!("up{{{OURS},otel_scope_name=\"9101\"}} 1"),
        // Nothing of an application passes for the sidecar's.
        format!("culvert_ready{{{OURS}}} 1"),
        format!("culvert_ready{{{OURS},otel_scope_name=\"web\"}} 0"),
    ] {
        assert_has(&answer.body, &line);
    }
    let types = answer.body.lines().filter(|line| line.starts_with("# TYPE requests_total")).count();
    ensure!(types == 1, "a family stands together: {}", answer.body);
    ensure!(web.accepted() == 1 && sidecar.stat("mesh_metric.application_failures")? == 0);
    let own = sidecar.metrics()?;
    let of_applications = own.lines().any(|line| line.starts_with("requests_total"));
    ensure!(!of_applications, "the status port has nothing of applications");
    Ok(())
}

#[test]
fn a_bad_application_costs_its_own_metrics_alone() -> Result<()> {
    let world = World::new()?;
    world.policy(
        "backends: [{type: Prometheus, prometheus: {}}],
         applications: [{name: good, port: 9100}, {name: slow, port: 9101}, {name: huge, port: 9102}, {name: absent, port: 9103},
           {name: hostile, port: 9104}, {name: page, port: 9105}, {name: resets, port: 9106}, {name: cut, port: 9107},
           {name: elsewhere, port: 80, address: 192.0.2.10}]",
    )?;
    let outside = world.lab.peer.serve("192.0.2.10:80", echo())?;
    let app = world.lab.pod.as_uid(APP);
    let pod = Family::V4.pod();
    let huge = "huge 1\n".repeat(9 * 1024 * 1024 / 7);
    let _applications = [
        app.serve((pod, 9100), page("", "good 1\n"))?,
        app.serve((pod, 9101), silent())?,
        app.serve((pod, 9102), page("", huge))?,
        app.serve((pod, 9104), page("", "fine 1\nhostile{a=\"1\",a=\"2\"} 1\n"))?,
        app.serve((pod, 9105), page("Content-Type: text/html\r\n", "<html>\n"))?,
        app.serve((pod, 9106), resets_after_a_byte())?,
        app.serve((pod, 9107), page("Content-Length: 100\r\n", "cut 1\n"))?,
    ];
    let sidecar = world.sidecar()?;
    let answer = world.scrape((pod, 5670), 3)?;
    ensure!(answer.status == 200, "{answer:?}");
    assert_has(&answer.body, &format!("good{{{OURS},otel_scope_name=\"good\"}} 1"));
    assert_has(&answer.body, &format!("culvert_ready{{{OURS}}} 1"));
    let scopes: Vec<_> = answer.body.lines().filter(|line| line.contains("otel_scope_name")).collect();
    ensure!(scopes.len() == 1, "nothing of the others: {scopes:?}");
    ensure!(outside.accepted() == 0, "another host was asked");
    let metrics = sidecar.metrics()?;
    for (reason, count) in [
        ("not_this_pod", 1),
        ("unreachable", 1),
        ("late", 1),
        ("status", 0),
        ("broken", 2),
        ("too_large", 1),
        ("malformed", 2),
    ] {
        let name = format!("culvert_application_scrape_failures_total{{reason=\"{reason}\"}}");
        assert_has(&metrics, &format!("{name} {count}"));
    }
    let told = sidecar.stderr().text();
    ensure!(told.matches("metrics are missing in a scrape").count() == 1, "once a minute: {told}");
    Ok(())
}

#[test]
fn a_change_of_the_policy_opens_and_closes_the_port_and_leaves_all_else() -> Result<()> {
    let world = World::new()?;
    let app = world.lab.pod.as_uid(APP);
    let pod = Family::V4.pod();
    let _application = app.serve((pod, 9000), echo())?;
    let sidecar = world.sidecar()?;
    let open = world.connect(9000)?;
    talks(open.try_clone()?)?;
    assert_taken_and_reset(world.connect(5670), "no policy");
    let reloaded = |times: u64| eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == times), SOON);
    let serves = |port| world.scrape((pod, port), 10).is_ok_and(|answer| answer.status == 200);
    world.policy("backends: [{type: Prometheus, prometheus: {}}]")?;
    reloaded(1);
    ensure!(serves(5670), "opened by the change");
    // The same port shows something else, by the same socket.
    let held = world.connect(5670)?;
    world.policy("backends: [{type: Prometheus, prometheus: {path: /other}}]")?;
    reloaded(2);
    ensure!(world.scrape((pod, 5670), 10)?.status == 404);
    ensure!(http::get(held, "/other")?.status == 200, "a connection from before");
    // A port that is taken changes nothing.
    let taken = app.serve((pod, 5671), echo())?;
    world.policy("backends: [{type: Prometheus, prometheus: {port: 5671}}]")?;
    eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == 1), SOON);
    ensure!(http::get(world.connect(5670)?, "/other")?.status == 200, "the old port stays");
    drop(taken);
    world.policy("backends: [{type: Prometheus, prometheus: {port: 5672}}]")?;
    reloaded(3);
    ensure!(serves(5672), "the new port");
    assert_taken_and_reset(world.connect(5670), "the old port");
    fs::remove_file(world.file())?;
    reloaded(4);
    assert_taken_and_reset(world.connect(5672), "no policy again");
    talks(open).context("the connection that was open all the time")
}

#[test]
fn scrapers_that_do_not_read_keep_no_other_from_its_answer_for_long() -> Result<()> {
    let world = World::new()?;
    world.policy("backends: [{type: Prometheus, prometheus: {}}], applications: [{name: a, port: 9100}, {name: b, port: 9100}]")?;
    // Twice 7 MiB: more than the kernel holds on the way.
    let large = format!("large{{a=\"{}\"}} 1\n", "x".repeat(1000)).repeat(7 * 1024);
    let _application = world.lab.pod.as_uid(APP).serve((Family::V4.pod(), 9100), page("", large))?;
    let sidecar = world.sidecar()?;
    let mut hoard = Vec::new();
    for _ in 0..2 {
        let mut stream = world.connect(5670)?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: pod\r\n\r\n")?;
        // Its answer has begun, and is larger than what the kernel and the sidecar hold.
        stream.peek(&mut [0])?;
        hoard.push(stream);
    }
    let answer = world.scrape((Family::V4.pod(), 5670), 1)?;
    ensure!(answer.status == 200, "{}", answer.status);
    ensure!(sidecar.stat("mesh_metric.busy")? == 0);
    let read = read_all(hoard.pop().context("one")?)?;
    ensure!(read.ends_with(" 1\n"), "a late reader gets all of it");
    eventually!(world.scrape((Family::V4.pod(), 5670), 10).is_ok_and(|answer| answer.status == 200), SOON);
    Ok(())
}

#[test]
fn nothing_but_prometheus_is_pushed_to() -> Result<()> {
    let world = World::new()?;
    world.policy("backends: [{type: OpenTelemetry, openTelemetry: {endpoint: 'collector:4317'}}]")?;
    let path = world.folder.display().to_string();
    let mut sidecar = world.lab.pod.sidecar().options(["--resources", &path]).start_unready()?;
    assert_eq!(sidecar.wait(SOON)?.code(), Some(64));
    let told = sidecar.stderr().text();
    let words =
        "spec.default.backends[0].type: found \"OpenTelemetry\"; allowed: Prometheus; pushing metrics";
    ensure!(told.contains(words), "{told}");
    Ok(())
}
