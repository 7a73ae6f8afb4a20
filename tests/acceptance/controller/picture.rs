// SPDX-License-Identifier: Apache-2.0
//! The mesh as a picture, by the reports of sidecars that the test plays.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use culvert_control::messages::{Report, Traffic};
use culvert_tests::eventually;
use culvert_tests::until::until_some;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{Cluster, Controller, SOON};

/// A minute, which a browser's start takes on no machine.
const BROWSER: Duration = Duration::from_secs(60);

/// Connections with a peer in the four bytes of an address: ended, failed and by TLS.
fn traffic(outbound: bool, address: [u8; 4], [ended, failed, tls]: [u64; 3]) -> Traffic {
    Traffic {
        outbound,
        address: address.to_vec(),
        port: 80,
        ended,
        failed,
        tls,
        bytes: ended.saturating_mul(1000),
        open: 0,
        ..Traffic::default()
    }
}

fn report(traffic: Vec<Traffic>) -> Report {
    Report { traffic, left_out: 0 }
}

/// `web` and `db` with sidecars, `cron` without one, and a Service in front of `db`.
fn shop() -> Result<Cluster> {
    let cluster = Cluster::new()?;
    cluster.member("shop", "web", "10.0.0.1", "web");
    cluster.member("shop", "db", "10.0.0.2", "db");
    cluster.outsider("plain", "cron", "10.0.0.9", "cron");
    cluster.service("shop", "db", "10.96.0.2", &[("db", true)]);
    Ok(cluster)
}

impl Controller {
    fn mesh(&self, query: &str) -> Result<Value> {
        let page = self.page(&format!("/mesh.json{query}"))?;
        ensure!(page.status == 200, "{page:?}");
        Ok(serde_json::from_str(&page.body)?)
    }

    /// The picture once it is as it should be.
    fn mesh_once(&self, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = until_some(SOON, || self.mesh("").ok().filter(&is));
        found.map_or_else(|| anyhow::bail!("{:#}", self.mesh("")?), Ok)
    }

    fn reports(&self, outcome: &str) -> Result<f64> {
        self.metric(&format!("culvert_controller_reports_total{{outcome=\"{outcome}\"}}"))
    }
}

fn edge<'a>(mesh: &'a Value, client: &str, server: &str) -> Option<&'a Value> {
    mesh["edges"].as_array()?.iter().find(|edge| edge["client"] == client && edge["server"] == server)
}

fn node<'a>(mesh: &'a Value, id: &str) -> Option<&'a Value> {
    mesh["nodes"].as_array()?.iter().find(|node| node["id"] == id)
}

#[test]
fn edges_have_their_rates_their_failures_and_their_tls() -> Result<()> {
    let cluster = shop()?;
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let (web, db) = (connection.stream(Some("token-web"))?, connection.stream(Some("token-db"))?);
    db.report(report(vec![
        // The client has a sidecar that reports the same.
        traffic(false, [10, 0, 0, 1], [60, 0, 60]),
        traffic(false, [10, 0, 0, 9], [7, 0, 0]),
    ]))?;
    web.report(report(vec![
        Traffic { open: 3, ..traffic(true, [10, 96, 0, 2], [60, 0, 60]) },
        traffic(true, [192, 0, 2, 1], [10, 4, 0]),
    ]))?;
    let mesh = controller.mesh_once(|mesh| mesh["edges"].as_array().is_some_and(|edges| edges.len() == 3))?;
    let to_db = edge(&mesh, "workload/shop/web", "workload/shop/db").context("the Service is no edge")?;
    assert_eq!((&to_db["connections"], &to_db["tls"], &to_db["failed"]), (&json!(60), &json!(60), &json!(0)));
    assert_eq!(
        (&to_db["security"], &to_db["open"], &to_db["bytes"]),
        (&json!("tls"), &json!(3), &json!(60_000))
    );
    // 60 connections within the 5 s of a report, or in as long as it took to look.
    let rate = to_db["per_second"].as_f64().context("no rate")?;
    ensure!((1.0..=60.0).contains(&rate), "{to_db}");
    let outside = edge(&mesh, "workload/shop/web", "outside").context("no way out")?;
    assert_eq!((&outside["failed"], &outside["security"]), (&json!(4), &json!("plain")));
    let inbound = edge(&mesh, "workload/plain/cron", "workload/shop/db").context("no inbound")?;
    assert_eq!((&inbound["connections"], &inbound["security"]), (&json!(7), &json!("plain")));
    assert_eq!(mesh["sidecars"], json!({ "heard": 2, "known": 2 }));
    assert_eq!(node(&mesh, "workload/plain/cron").map(|node| &node["sidecars"]), Some(&json!(0)));
    // One namespace, with those that it talks to.
    let plain = controller.mesh("?namespace=plain")?;
    assert_eq!(plain["edges"].as_array().map(Vec::len), Some(1));
    assert!(node(&plain, "workload/shop/db").is_some() && node(&plain, "workload/shop/web").is_none());
    // What is open ends with the stream that said so; what has ended stays.
    drop((web, db));
    drop(connection);
    let mesh = controller.mesh_once(|mesh| mesh["sidecars"]["heard"] == 0)?;
    let to_db = edge(&mesh, "workload/shop/web", "workload/shop/db").context("it is forgotten")?;
    assert_eq!((&to_db["connections"], &to_db["open"]), (&json!(60), &json!(0)));
    Ok(())
}

#[test]
fn a_flood_of_reports_is_bounded_and_costs_no_other() -> Result<()> {
    const FLOOD: usize = 200;
    let cluster = shop()?;
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let mut web = connection.stream(Some("token-web"))?;
    let mut db = connection.stream(Some("token-db"))?;
    db.ask_documents()?;
    db.response()?;
    let mut rubbish: Vec<Traffic> =
        (0..300_u32).map(|n| traffic(true, n.to_be_bytes(), [u64::MAX; 3])).collect();
    rubbish[0].address = vec![1; 5];
    rubbish[1].address = Vec::new();
    // Half a million entries of nothing: not even read.
    web.report(report(vec![Traffic::default(); 500_000]))?;
    for _ in 0..FLOOD {
        web.report(Report { traffic: rubbish.clone(), left_out: u64::MAX })?;
    }
    // Another one is served meanwhile, and so is the same one after it.
    db.ask_destinations(&["10.0.0.1:8080"])?;
    db.response()?;
    web.ask_documents()?;
    web.response()?;
    let (taken, dropped) = (controller.reports("Taken")?, controller.reports("Dropped")?);
    ensure!(taken + dropped == (FLOOD + 1) as f64, "{taken} + {dropped}");
    // One a second, on however slow a machine.
    ensure!((1.0..SOON.as_secs_f64()).contains(&taken), "{taken}");
    let mesh = controller.mesh_once(|mesh| edge(mesh, "workload/shop/web", "outside").is_some())?;
    assert_eq!(mesh["edges"].as_array().map(Vec::len), Some(1), "a liar has edges of its own only");
    assert_eq!((&mesh["edges"][0]["connections"], &mesh["left_out"]), (&json!(u64::MAX), &json!(u64::MAX)));
    ensure!(controller.page("/mesh")?.body.contains("had no place in the sidecars"));
    Ok(())
}

#[test]
fn names_and_words_of_the_cluster_are_text() -> Result<()> {
    let cluster = shop()?;
    cluster.member("shop", "<img src=x onerror=alert(1)>", "10.0.0.5", "web");
    let controller = cluster.controller(&[])?;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/meshpassthroughs.kuma.io";
    until_some(SOON, || cluster.server.get(crd)).context("no kinds")?;
    cluster.document(
        "meshpassthroughs",
        &json!({ "apiVersion": "kuma.io/v1alpha1", "kind": "MeshPassthrough",
                 "metadata": { "name": "wrong", "namespace": "shop", "labels": { "kuma.io/mesh": "default" } },
                 "spec": { "default": { "passthroughMode": "<b>Sometimes</b>" } } }),
    );
    let mesh = controller.mesh_once(|mesh| mesh["invalid_documents"][0].is_object())?;
    assert_eq!(mesh["invalid_documents"][0]["document"], "MeshPassthrough/shop/wrong");
    let page = controller.page("/mesh")?;
    ensure!(page.status == 200 && page.body.contains("MeshPassthrough/shop/wrong"), "{page:?}");
    ensure!(page.body.contains("&lt;img src=x onerror=alert(1)&gt;"), "{page:?}");
    ensure!(!page.body.contains("<img") && !page.body.contains("<b>Sometimes"), "{page:?}");
    ensure!(
        page.headers.to_ascii_lowercase().contains("content-security-policy: default-src 'none'"),
        "{page:?}"
    );
    let root = controller.page("/")?;
    ensure!(root.status == 302 && root.headers.to_ascii_lowercase().contains("location: /mesh"), "{root:?}");
    for (path, status) in [("/mesh?namespace=%3Cb%3E", 400), ("/mesh.json?x=1", 400), ("/meshes", 404)] {
        assert_eq!(controller.page(path)?.status, status, "{path}");
    }
    Ok(())
}

#[test]
fn a_replica_says_which_sidecars_it_hears() -> Result<()> {
    let cluster = shop()?;
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let _web = connection.stream(Some("token-web"))?;
    let mesh = controller.mesh_once(|mesh| mesh["sidecars"] == json!({ "heard": 1, "known": 2 }))?;
    // No Service names another replica.
    assert_eq!(mesh["replicas"], json!({ "answered": 1, "known": 1, "silent": [] }));
    let page = controller.page("/mesh")?;
    ensure!(page.body.contains("1 of 2 sidecars heard, 1 of 1 replica answered"), "{page:?}");
    ensure!(page.body.contains("have no stream to a replica that answered"), "{page:?}");
    Ok(())
}

/// Place of a replica's EndpointSlice.
fn slice(replica: &str) -> String {
    format!("/apis/discovery.k8s.io/v1/namespaces/mesh/endpointslices/culvert-controller-{replica}")
}

/// Puts a replica behind the controller's Service, in a slice of its own: all have one address here, and differ by port.
fn put_replica(cluster: &Cluster, replica: &str, controller: &Controller, names_pod: bool) {
    let (ip, port) = (controller.status.ip().to_string(), controller.status.port());
    let mut endpoint = json!({ "addresses": [ip], "conditions": { "ready": true } });
    if names_pod {
        endpoint["targetRef"] = json!({ "kind": "Pod", "namespace": "mesh", "name": replica });
    }
    let object = json!({
        "metadata": { "name": format!("culvert-controller-{replica}"), "namespace": "mesh",
                      "labels": { "kubernetes.io/service-name": "culvert-controller" } },
        "addressType": "IPv4", "endpoints": [endpoint],
        "ports": [{ "name": "control", "port": controller.listen.port(), "protocol": "TCP" },
                  { "name": "status", "port": port, "protocol": "TCP" }],
    });
    cluster.server.put(&slice(replica), object);
}

fn connections(mesh: &Value, client: &str, server: &str) -> Option<u64> {
    edge(mesh, client, server)?["connections"].as_u64()
}

#[test]
fn each_replica_shows_the_whole_mesh_and_says_which_one_is_silent() -> Result<()> {
    const WEB: &str = "workload/shop/web";
    const DB: &str = "workload/shop/db";
    let cluster = shop()?;
    let (one, two) = (cluster.starting("one", &[])?, cluster.starting("two", &[])?);
    one.until_ready()?;
    two.until_ready()?;
    put_replica(&cluster, "one", &one, true);
    // One without a pod's name finds itself among its peers.
    put_replica(&cluster, "two", &two, false);
    let (to_one, to_two) = (cluster.connect(&one)?, cluster.connect(&two)?);
    let web = to_one.stream(Some("token-web"))?;
    let db = to_two.stream(Some("token-db"))?;
    web.report(report(vec![
        traffic(true, [10, 96, 0, 2], [60, 1, 59]),
        traffic(true, [192, 0, 2, 1], [10, 4, 0]),
    ]))?;
    db.report(report(vec![
        // What the client told the other replica.
        traffic(false, [10, 0, 0, 1], [59, 0, 59]),
        traffic(false, [10, 0, 0, 9], [7, 0, 0]),
    ]))?;
    for replica in [&one, &two] {
        let mesh = replica.mesh_once(|mesh| {
            mesh["sidecars"] == json!({ "heard": 2, "known": 2 })
                && mesh["edges"].as_array().is_some_and(|edges| edges.len() == 3)
                && connections(mesh, WEB, DB) == Some(60)
        })?;
        let to_db = edge(&mesh, WEB, DB).context("no edge")?;
        assert_eq!(
            (&to_db["failed"], &to_db["tls"], &to_db["security"]),
            (&json!(1), &json!(59), &json!("tls"))
        );
        assert_eq!(connections(&mesh, WEB, "outside"), Some(10));
        assert_eq!(connections(&mesh, "workload/plain/cron", DB), Some(7));
        assert_eq!(mesh["replicas"], json!({ "answered": 2, "known": 2, "silent": [] }));
        let page = replica.page("/mesh")?;
        ensure!(page.body.contains("2 of 2 sidecars heard, 2 of 2 replicas answered"), "{page:?}");
        ensure!(
            page.body.contains("shop/web → shop/db: ") && page.body.contains("plain/cron → "),
            "{page:?}"
        );
    }
    // The own part has nothing of another one.
    let part = one.mesh("?part")?;
    assert_eq!(part["edges"].as_array().map(Vec::len), Some(2), "{part}");
    ensure!(!part.to_string().contains("cron"), "{part}");
    assert_eq!(one.page("/mesh?part")?.status, 400);
    // One that hangs costs a reader the deadline, and is named.
    one.process.signal(Signal::STOP)?;
    let silent = |mesh: &Value, problem: &str| {
        mesh["replicas"]["silent"].as_array().is_some_and(|silent| {
            silent.len() == 1
                && silent[0]["replica"] == "one"
                && silent[0]["problem"].as_str().is_some_and(|text| text.contains(problem))
        })
    };
    let began = Instant::now();
    let mesh = two.mesh_once(|mesh| silent(mesh, "no answer of "))?;
    ensure!(began.elapsed() < SOON / 3, "{:?}", began.elapsed());
    assert_eq!((&mesh["replicas"]["answered"], &mesh["replicas"]["known"]), (&json!(1), &json!(2)));
    assert_eq!(mesh["sidecars"], json!({ "heard": 1, "known": 2 }));
    let page = two.page("/mesh")?;
    ensure!(page.body.contains("1 of 2 sidecars heard, 1 of 2 replicas answered"), "{page:?}");
    ensure!(page.body.contains("No part of one: no answer of "), "{page:?}");
    // One that is gone, too. The server's word about the client's connections is left.
    one.process.signal(Signal::KILL)?;
    let mesh = two.mesh_once(|mesh| silent(mesh, "cannot connect to "))?;
    assert_eq!(connections(&mesh, WEB, DB), Some(59));
    assert_eq!(connections(&mesh, WEB, "outside"), None);
    // Until the cluster forgets it.
    cluster.server.remove(&slice("one"));
    two.mesh_once(|mesh| mesh["replicas"] == json!({ "answered": 1, "known": 1, "silent": [] }))?;
    Ok(())
}

/// The page in a browser, which would say so if the page's own policy held its style back.
#[test]
fn the_page_works_in_a_browser() -> Result<()> {
    let cluster = shop()?;
    let controller = cluster.controller(&[])?;
    let connection = cluster.connect(&controller)?;
    let web = connection.stream(Some("token-web"))?;
    web.report(report(vec![
        traffic(true, [10, 0, 0, 2], [60, 0, 60]),
        traffic(true, [10, 0, 0, 9], [10, 5, 0]),
    ]))?;
    eventually!(controller.reports("Taken").is_ok_and(|taken| taken == 1.0), SOON);
    let (dom, log) = browsed(&format!("http://{}/", controller.status))?;
    for part in [
        "<title>The mesh, culvert-controller</title>",
        "<g class=\"edge tls\"><title>shop/web → shop/db: ",
        "<g class=\"edge plain failing\"><title>shop/web → plain/cron: ",
        "1 pod, no sidecar",
        "<td class=\"n\">5 (50%)</td>",
        "<option value=\"shop\">shop</option>",
    ] {
        ensure!(dom.contains(part), "{part} is not in the page:\n{dom}");
    }
    ensure!(!log.contains("Content Security Policy"), "{log}");
    Ok(())
}

/// A page as a browser has it, and its log.
fn browsed(url: &str) -> Result<(String, String)> {
    let profile = tempfile::tempdir()?;
    let mut browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        .args(["--no-first-run", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("this test needs Debian's chromium, which tests/run installs: apt-get install chromium")?;
    let out = browser.stdout.take().context("no output")?;
    let err = browser.stderr.take().context("no log")?;
    let read = |mut from: Box<dyn Read + Send>| {
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.read_to_end(&mut text);
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        });
        receiver
    };
    let (out, err) = (read(Box::new(out)), read(Box::new(err)));
    let dom = out.recv_timeout(BROWSER);
    let _ = browser.kill();
    let _ = browser.wait();
    let log = err.recv_timeout(BROWSER).context("the browser's log has no end")?;
    Ok((dom.context("the browser took more than a minute")?, log))
}
