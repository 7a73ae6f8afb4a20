//! Kuma's documentation of passthrough, circuit breakers and timeouts, each statement with real traffic. Their YAML is taken as it
//! stands there (`sidecar/tests/documents`).
//!
//! Elsewhere: the rules by which connections come to 15006 and 15001 and the original destination (`landing`, `streams`),
//! the listeners of these ports in `/config_dump` (sidecar, `admin/envoy`), what `cluster` and `networkFilter` patches
//! come to (sidecar, `resources/compile/tests.rs`).

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use culvert_tests::server::{self, echo, speaks_first, who};
use culvert_tests::{Family, Lab, Sidecar, eventually, http};
use serde_json::{Value, json};

use crate::documents::{TRANSPARENT, replace};
use crate::http_ports::{GET, Heard, hears, origin};
use crate::support::{APP, assert_reset, assert_taken_and_reset, seen};

const SOON: Duration = Duration::from_secs(5);

/// A Mesh that says nothing: passthrough is on, and mTLS off.
pub(crate) const OPEN_MESH: &str = "type: Mesh\nname: default\n";

/// A YAML excerpt of the pages.
pub(crate) fn excerpt(name: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sidecar/tests/documents").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// A lab whose pod is onboarded, with a folder for documents that has a Mesh by default: `mesh.yaml`.
pub(crate) fn onboarded() -> Result<(Lab, PathBuf)> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let folder = lab.folder().join("mesh");
    fs::create_dir(&folder)?;
    fs::write(folder.join("mesh.yaml"), OPEN_MESH)?;
    Ok((lab, folder))
}

/// A sidecar that reads the folder.
pub(crate) fn with_documents<'l>(lab: &'l Lab, folder: &Path, more: &[&str]) -> Result<Sidecar<'l>> {
    let folder = folder.display().to_string();
    lab.pod.sidecar().options(["--resources", &folder]).options(more).start()
}

pub(crate) fn dump(sidecar: &Sidecar<'_>) -> Result<Value> {
    Ok(serde_json::from_str(&sidecar.admin("/config_dump")?.body)?)
}

/// A listener or cluster of the dump.
pub(crate) fn of_dump(dump: &Value, name: &str) -> Option<Value> {
    let clusters =
        dump["configs"][1]["dynamic_active_clusters"].as_array()?.iter().map(|one| &one["cluster"]);
    let listeners = dump["configs"][2]["dynamic_listeners"].as_array()?;
    let listeners = listeners.iter().map(|one| &one["active_state"]["listener"]);
    clusters.chain(listeners).find(|one| one["name"] == name).cloned()
}

fn cluster_of(dump: &Value, name: &str) -> Option<Value> {
    let clusters = dump["configs"][1]["dynamic_active_clusters"].as_array()?;
    clusters.iter().map(|one| &one["cluster"]).find(|one| one["name"] == name).cloned()
}

pub(crate) fn talks(mut stream: TcpStream) -> Result<()> {
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])?;
    Ok(())
}

#[test]
fn in_its_default_setup_any_non_mesh_traffic_passes_without_applying_any_policy() -> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::write(folder.join("mesh.yaml"), "type: Mesh\nname: default\n")?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    for family in Family::BOTH {
        let _server = lab.peer.serve((family.outside(), 80), echo())?;
        talks(lab.pod.as_uid(APP).connect((family.outside(), 80))?)?;
    }
    eventually!(sidecar.stat("cluster.outbound_passthrough_ipv6.upstream_cx_total").is_ok_and(|n| n == 1));
    Ok(())
}

#[test]
fn when_networking_outbound_passthrough_is_false_no_traffic_to_any_non_mesh_resource_can_leave_the_mesh()
-> Result<()> {
    for spelling in ["kubernetes", "universal"] {
        let (lab, folder) = onboarded()?;
        fs::write(folder.join("mesh.yaml"), excerpt(&format!("mesh-passthrough.{spelling}.yaml"))?)?;
        let sidecar = with_documents(&lab, &folder, &[])?;
        for (number, family) in Family::BOTH.into_iter().enumerate() {
            let server = lab.peer.serve((family.outside(), 80), echo())?;
            let what = format!("{spelling} {family}");
            assert_taken_and_reset(lab.pod.as_uid(APP).connect((family.outside(), 80)), &what);
            assert_eq!(server.accepted(), 0, "{what}");
            let denied = "listener_manager.outbound.closed.denied";
            eventually!(sidecar.stat(denied).is_ok_and(|n| n == number as u64 + 1));
            let name = if family == Family::V4 { "ipv4" } else { "ipv6" };
            assert_eq!(sidecar.stat(&format!("tcp.outbound_passthrough_{name}.downstream_cx_no_route"))?, 1);
            // What comes in is another page's business.
            let _inside = lab.pod.serve((family.pod(), 8080), who())?;
            assert_eq!(seen(lab.peer.connect((family.pod(), 8080))?)?.ip(), family.hop(), "{what}");
        }
        let record = sidecar.access(SOON, |record| (record["reason"] == "denied").then(|| record.clone()));
        let record = record.context("no record of the denial")?;
        assert!(
            record["error"].as_str().is_some_and(|error| error.contains("which no document names")),
            "{record}"
        );
        let dump = dump(&sidecar)?;
        assert!(cluster_of(&dump, "outbound:passthrough:ipv4").is_none(), "{dump}");
        assert!(of_dump(&dump, "outbound:passthrough:ipv4").is_some(), "{dump}");
    }
    Ok(())
}

#[test]
fn before_setting_it_to_false_double_check_that_no_traffic_is_flowing_through_the_pass_through_cluster()
-> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::write(
        folder.join("web.yaml"),
        "{type: Dataplane, name: web, networking: {address: 192.0.2.10, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}",
    )?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let _servers = [lab.peer.serve("192.0.2.10:80", echo())?, lab.peer.serve("192.0.2.10:81", echo())?];
    for port in [80, 81, 81] {
        talks(lab.pod.as_uid(APP).connect((Family::V4.outside(), port))?)?;
    }
    let lines = sidecar.admin("/clusters")?.body;
    let cluster = "outbound:passthrough:ipv4::192.0.2.10";
    for line in [
        format!("{cluster}:80::cx_total::1\n"),
        format!("{cluster}:80::named_by::web\n"),
        format!("{cluster}:81::cx_total::2\n"),
        format!("{cluster}:81::named_by::no document\n"),
        format!("{cluster}:81::last_seen::20"),
    ] {
        assert!(lines.contains(&line), "{line}: {lines}");
    }
    let page: Value = serde_json::from_str(&sidecar.admin("/overview")?.body)?;
    let destinations = &page["clusters"][2]["destinations"];
    let of = |address: &str| destinations.as_array()?.iter().find(|one| one["address"] == address);
    assert_eq!(of("192.0.2.10:80").context("on the page")?["named_by"], "web", "{page}");
    assert_eq!(of("192.0.2.10:81").context("on the page")?["named_by"], Value::Null, "{page}");
    Ok(())
}

/// Opens connections that a listener's queue takes: a thousand threads prove no more.
fn open(lab: &Lab, ports: &[u16], each: usize) -> Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for port in ports {
        for _ in 0..each {
            streams.push(lab.pod.as_uid(APP).connect((Family::V4.outside(), *port))?);
        }
    }
    Ok(streams)
}

#[test]
fn circuit_breaker_default_values_max_connections_1024() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let _queues = [lab.peer.listen("192.0.2.10:80")?, lab.peer.listen("192.0.2.10:81")?];
    let _held = open(&lab, &[80, 81], 512)?;
    eventually!(
        sidecar.stat("cluster.outbound_passthrough_ipv4.upstream_cx_active").is_ok_and(|n| n == 1024),
        SOON
    );
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:81"), "the 1025th");
    eventually!(sidecar.stat("cluster.outbound_passthrough_ipv4.upstream_cx_overflow").is_ok_and(|n| n == 1));
    for (name, value) in [("cx", 0), ("pending", 1024), ("rq", 1024), ("retries", 3)] {
        let stat = format!("cluster.outbound_passthrough_ipv4.circuit_breakers.default.remaining_{name}");
        assert_eq!(sidecar.stat(&stat)?, value, "{name}");
    }
    Ok(())
}

#[test]
fn circuit_breaker_proxy_template_to_change_the_defaults() -> Result<()> {
    for spelling in ["kubernetes", "universal"] {
        let (lab, folder) = onboarded()?;
        fs::write(
            folder.join("t.yaml"),
            excerpt(&format!("proxy-template-circuit-breaker.{spelling}.yaml"))?,
        )?;
        let sidecar = with_documents(&lab, &folder, &[])?;
        let lines = sidecar.admin("/clusters")?.body;
        for (name, changed, default) in [
            ("max_connections", 2048, 1024),
            ("max_pending_requests", 2048, 1024),
            ("max_requests", 2048, 1024),
            ("max_retries", 4, 3),
        ] {
            for (cluster, value) in
                [("outbound:passthrough:ipv4", changed), ("outbound:passthrough:ipv6", default)]
            {
                let line = format!("{cluster}::default_priority::{name}::{value}\n");
                assert!(lines.contains(&line), "{line}: {lines}");
            }
        }
        if spelling == "universal" {
            let _queues = [lab.peer.listen("192.0.2.10:80")?, lab.peer.listen("192.0.2.10:81")?];
            let _held = open(&lab, &[80, 81], 513)?;
            let active = "cluster.outbound_passthrough_ipv4.upstream_cx_active";
            eventually!(sidecar.stat(active).is_ok_and(|n| n == 1026), SOON);
        }
    }
    Ok(())
}

#[test]
fn timeouts_default_values_and_proxy_template_to_change_the_defaults() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let values = |name: &str| -> Result<(Value, Value)> {
        let dump = dump(&sidecar)?;
        let cluster = cluster_of(&dump, name).context("no cluster")?;
        let listeners = dump["configs"][2]["dynamic_listeners"].as_array().context("no listeners")?;
        let listener = listeners.iter().find(|one| one["name"] == name).context("no listener")?;
        let filter = &listener["active_state"]["listener"]["filter_chains"][0]["filters"][0];
        Ok((cluster["connect_timeout"].clone(), filter["typed_config"]["idle_timeout"].clone()))
    };
    assert_eq!(values("outbound:passthrough:ipv4")?, (json!("10s"), json!("3600s")));
    let versions = || -> Result<[Value; 2]> {
        let dump = dump(&sidecar)?;
        Ok([1, 2].map(|at| dump["configs"][at]["version_info"].clone()))
    };
    let before = versions()?;
    for spelling in ["kubernetes", "universal"] {
        fs::write(folder.join("t.yaml"), excerpt(&format!("proxy-template-timeouts.{spelling}.yaml"))?)?;
        eventually!(
            values("outbound:passthrough:ipv4").is_ok_and(|all| all == (json!("99s"), json!("10800s"))),
            SOON
        );
        assert_eq!(values("outbound:passthrough:ipv6")?, (json!("10s"), json!("3600s")));
        let changed = versions()?;
        assert!(before[0] != changed[0] && before[1] != changed[1], "{before:?} {changed:?}");
        fs::remove_file(folder.join("t.yaml"))?;
        eventually!(
            values("outbound:passthrough:ipv4").is_ok_and(|all| all == (json!("10s"), json!("3600s"))),
            SOON
        );
        assert_eq!(versions()?, before);
    }
    Ok(())
}

#[test]
fn connections_that_wait_longer_than_a_proxy_templates_timeouts_are_ended() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let changed = excerpt("proxy-template-timeouts.universal.yaml")?.replace("99s", "1s").replace("3h", "1s");
    fs::write(folder.join("t.yaml"), changed)?;
    let _sidecar = with_documents(&lab, &folder, &[])?;
    let start = Instant::now();
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("10.77.0.200:80"), "nobody answers");
    assert!((900..3000).contains(&start.elapsed().as_millis()), "after {:?}", start.elapsed());
    let mut streams = Vec::new();
    let mut servers = Vec::new();
    for family in Family::BOTH {
        servers.push(lab.peer.serve((family.outside(), 80), speaks_first("x"))?);
        let mut stream = lab.pod.as_uid(APP).connect((family.outside(), 80))?;
        stream.read_exact(&mut [0])?;
        streams.push(stream);
    }
    let (start, other) = (Instant::now(), streams.pop().context("two")?);
    assert_reset(streams.pop().context("two")?, "idle");
    assert!((700..3000).contains(&start.elapsed().as_millis()), "after {:?}", start.elapsed());
    // The template is about IPv4.
    talks(other)
}

#[test]
fn without_transparent_proxying_it_listens_on_the_dataplanes_port_and_redirects_to_127_0_0_1_5000_where_the_app_is_running()
-> Result<()> {
    let lab = Lab::new()?;
    lab.pod.add_address("eth0", "10.119.249.39/24")?;
    lab.peer.add_route("10.119.249.0/24", Family::V4.pod())?;
    let file = lab.folder().join("dataplane.yaml");
    fs::write(&file, excerpt("dataplane.universal.yaml")? + "\n---\n" + OPEN_MESH)?;
    let file = file.display().to_string();
    let options =
        ["--resources", &file, "--dataplane", "demo-app", "--inbound-port", "0", "--outbound-port", "0"];
    let sidecar = lab.pod.sidecar().options(options).start()?;
    let app = lab.pod.as_uid(APP).serve("127.0.0.1:5000", server::http("app"))?;
    let answer = http::get(lab.peer.connect("10.119.249.39:15000")?, "/")?;
    let from = answer.body.trim_end().strip_prefix("app: GET / from ").context("no answer of the app")?;
    let from: SocketAddr = from.parse()?;
    assert!(from.ip().is_loopback(), "{from}");
    assert_eq!(app.accepted(), 1);
    assert_eq!(sidecar.stat("listener.10.119.249.39_15000.downstream_cx_total")?, 1);
    eventually!(sidecar.stat("cluster.localhost_5000.upstream_cx_total").is_ok_and(|n| n == 1));
    let dump = dump(&sidecar)?;
    let listener = of_dump(&dump, "inbound:10.119.249.39:15000").context("not in the dump")?;
    assert_eq!(
        listener["address"]["socket_address"],
        json!({"address": "10.119.249.39", "port_value": 15000})
    );
    let record = sidecar
        .access(SOON, |record| (record["cluster"] == "localhost:5000").then(|| record.clone()))
        .context("no record")?;
    assert_eq!(
        (&record["orig_dst"], &record["dst.addr"]),
        (&json!("10.119.249.39:15000"), &json!("127.0.0.1:5000"))
    );
    Ok(())
}

#[test]
fn the_listener_of_an_inbound_has_the_pods_ip_address_and_the_actual_application_port() -> Result<()> {
    let (lab, folder) = onboarded()?;
    for family in Family::BOTH {
        fs::write(
            folder.join(format!("{family}.yaml")),
            format!(
                "{{type: Dataplane, name: {family}, networking: {{address: '{}', transparentProxying: {{redirectPortInbound: 15006, \
                 redirectPortOutbound: 15001}}, inbound: [{{port: 5000, tags: {{kuma.io/service: app}}}}]}}}}",
                family.pod()
            ),
        )?;
        let sidecar = with_documents(&lab, &folder, &["--dataplane", &family.to_string()])?;
        let _app = lab.pod.as_uid(APP).serve((family.pod(), 5000), who())?;
        let _other = lab.pod.as_uid(APP).serve((family.pod(), 5001), who())?;
        for port in [5000, 5001] {
            assert_eq!(seen(lab.peer.connect((family.pod(), port))?)?.ip(), family.hop(), "{family} {port}");
        }
        let name = format!("inbound:{}", std::net::SocketAddr::from((family.pod(), 5000)));
        // As the page shows it, letter by letter.
        let text = sidecar.admin("/config_dump")?.body;
        let version = dump(&sidecar)?["configs"][2]["version_info"].clone();
        assert!(version.as_str().is_some_and(|version| version.len() == 36), "a UUID: {version}");
        let excerpt = format!(
            r#"     "name": "{name}",
     "active_state": {{
      "version_info": {version},
      "listener": {{
       "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
       "name": "{name}",
       "address": {{
        "socket_address": {{
         "address": "{}",
         "port_value": 5000
        }}
       }},
"#,
            family.pod()
        );
        assert!(text.contains(&excerpt), "{excerpt}{text}");
        let listener = of_dump(&dump(&sidecar)?, &name).context(name)?;
        assert_eq!(listener["@type"], "type.googleapis.com/envoy.config.listener.v3.Listener");
        let address = json!({"address": family.pod().to_string(), "port_value": 5000});
        assert_eq!(listener["address"]["socket_address"], address);
        eventually!(sidecar.stat("cluster.localhost_5000.upstream_cx_total").is_ok_and(|n| n == 1));
        let passthrough = if family == Family::V4 { "ipv4" } else { "ipv6" };
        assert_eq!(sidecar.stat(&format!("cluster.inbound_passthrough_{passthrough}.upstream_cx_total"))?, 1);
    }
    Ok(())
}

/// Lines of a dump on Kong Mesh's page, for a pod at POD; it leaves out what stands between the parts.
const OF_HTTP: [&str; 2] = [
    r#"
       "name": "inbound:POD:5000",
       "address": {
        "socket_address": {
         "address": "POD",
         "port_value": 5000
        }
       },
          "filter_chains": [
            {
              "filters": [
                {
                  "name": "envoy.filters.network.http_connection_manager",
                  "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "localhost_5000",
                    "route_config": {
"#,
    r#"
                    "http_filters": [
                      {
                        "name": "envoy.filters.http.fault",
                        "typed_config": {
                          "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
                          "delay": {
                            "fixed_delay": "5s",
                            "percentage": {
                              "numerator": 50,
                              "denominator": "TEN_THOUSAND"
"#,
];

#[test]
fn an_inbound_of_http_has_the_pages_filters_and_counts_its_requests_by_the_pages_name() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let pod = Family::V4.pod();
    let fault = |percentage: &str, what: &str| {
        let text = format!(
            "{{type: Dataplane, name: app, networking: {{address: '{pod}', {TRANSPARENT}, \
             inbound: [{{port: 5000, tags: {{kuma.io/service: app, kuma.io/protocol: http}}}}]}}}}\n---\n\
             {{type: MeshFaultInjection, name: slow, mesh: default, spec: {{from: [{{targetRef: {{kind: Mesh}}, \
             default: {{http: [{{{what}, percentage: '{percentage}'}}}}]}}}}]}}}}\n"
        );
        replace(&folder.join("app.yaml"), &text)
    };
    fault("0.5", "delay: {value: 5s")?;
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "app"])?;
    // One of the two dumps on the page was indented by an editor.
    let lines = |text: &str| text.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let mut rest = lines(&sidecar.admin("/config_dump")?.body);
    for part in OF_HTTP {
        let part = lines(&part.replace("POD", &pod.to_string()));
        rest = rest.split_once(&part).with_context(|| format!("{part}\nis not in\n{rest}"))?.1.to_owned();
    }
    fault("100", "abort: {httpStatus: 418")?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|count| count == 1), SOON);
    let heard = Heard::default();
    let app = lab.pod.as_uid(APP).serve((pod, 5000), origin(&heard))?;
    let mut client = lab.peer.connect((pod, 5000))?;
    client.write_all(GET.as_bytes())?;
    hears(&mut client, "HTTP/1.1 418 ")?;
    assert_eq!(app.accepted(), 0, "no server is dialled for it");
    for (name, value) in [
        ("http.localhost_5000.downstream_rq_total", 1),
        ("http.localhost_5000.downstream_rq_4xx", 1),
        ("http.localhost_5000.fault.aborts_injected", 1),
        ("cluster.localhost_5000.upstream_rq_total", 0),
    ] {
        assert_eq!(sidecar.stat(name)?, value, "{name}");
    }
    Ok(())
}

/// Kong Mesh's page: "all requests won't be logged even if a traffic logging is enabled in the mesh". Here they are.
#[test]
fn requests_to_non_mesh_destinations_are_logged_where_traffic_logging_is_enabled_unlike_in_kong_mesh()
-> Result<()> {
    let (lab, folder) = onboarded()?;
    let log = lab.folder().join("traffic.log");
    fs::write(&log, "")?;
    std::os::unix::fs::chown(&log, Some(culvert_tests::pod::sidecar::UID), None)?;
    fs::write(
        folder.join("mesh.yaml"),
        format!(
            "type: Mesh\nname: default\nlogging:\n  defaultBackend: file\n  backends:\n  - name: file\n    type: file\n    format: \
             '%KUMA_TRAFFIC_DIRECTION% %KUMA_MESH% %KUMA_DESTINATION_SERVICE% %UPSTREAM_HOST% %BYTES_RECEIVED%'\n    conf:\n      path: {}\n",
            log.display()
        ),
    )?;
    let _sidecar = with_documents(&lab, &folder, &[])?;
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)?;
    eventually!(
        fs::read_to_string(&log).is_ok_and(|text| text == "OUTBOUND default external 192.0.2.10:80 1\n"),
        SOON
    );
    Ok(())
}

#[test]
fn the_admins_page_shows_the_configuration_in_force() -> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::write(folder.join("mesh.yaml"), excerpt("mesh-passthrough.universal.yaml")?)?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let page: Value = serde_json::from_str(&sidecar.admin("/overview")?.body)?;
    assert_eq!(
        (&page["documents"]["count"], &page["documents"]["passthrough"]),
        (&json!(1), &json!(false)),
        "{page}"
    );
    let answer = http::get(lab.pod.connect("127.0.0.1:9901")?, "/")?;
    assert!(answer.body.contains("Mesh documents"), "{}", answer.body);
    Ok(())
}
