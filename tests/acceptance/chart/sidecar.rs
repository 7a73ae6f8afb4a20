// SPDX-License-Identifier: Apache-2.0
//! The sidecar's manifests are read out of the README, checked, and run as they stand there.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use culvert_tests::chart::{Chart, KUBERNETES, repository, strings, yaml};
use culvert_tests::runtime::{Container, Containerd, Exit, PAGE, Pod, World};
use culvert_tests::until::until_some;
use culvert_tests::{Family, http, server};
use serde_json::{Value, json};

use super::image::image;
use crate::runtime::leaving_nothing;

const NAME: &str = "culvert-sidecar";

/// A pod as the README shows it.
pub(super) struct Manifest {
    kind: &'static str,
    text: String,
    pod: Value,
}

impl Manifest {
    fn read(kind: &'static str) -> Result<Self> {
        let page = fs::read_to_string(repository().join("README.md"))?;
        let start = format!("<!-- sidecar: {kind} -->\n```yaml\n");
        let (_, rest) = page.split_once(&start).with_context(|| format!("README.md has no {start:?}"))?;
        let (text, _) = rest.split_once("```").context("the manifest does not end")?;
        Ok(Self { kind, text: text.to_owned(), pod: yaml(text)? })
    }

    fn is_native(&self) -> bool {
        self.kind == "native"
    }

    /// The sidecar's container in the README's pods.
    pub(super) fn container(&self) -> &Value {
        let list = if self.is_native() { "initContainers" } else { "containers" };
        &self.pod["spec"][list][0]
    }

    /// The value of an option of the sidecar.
    fn seconds(&self, option: &str) -> Result<u64> {
        let arguments = strings(&self.container()["args"]);
        let value = arguments.iter().find_map(|argument| argument.strip_prefix(option)?.strip_prefix('='));
        let value = value.with_context(|| format!("{}: no {option} in {arguments:?}", self.kind))?;
        Ok(value.strip_suffix('s').context("not in seconds")?.parse()?)
    }
}

/// Both.
pub(super) fn manifests() -> Result<[Manifest; 2]> {
    Ok([Manifest::read("native")?, Manifest::read("plain")?])
}

#[test]
fn the_manifests_are_valid_in_every_kubernetes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for manifest in manifests()? {
        let file = folder.path().join(manifest.kind);
        fs::write(&file, &manifest.text)?;
        files.push(file);
    }
    KUBERNETES.iter().try_for_each(|kubernetes| Chart::here()?.validate(kubernetes, &files))
}

#[test]
fn the_manifests_have_all_that_a_sidecar_needs() -> Result<()> {
    for manifest in manifests()? {
        let Manifest { kind, pod, .. } = &manifest;
        let container = manifest.container();
        assert_eq!(container["name"], NAME, "{kind}");
        assert_eq!(pod["metadata"]["annotations"]["culvert.dev/redirect"], "enabled", "{kind}");
        assert_eq!(pod["spec"]["enableServiceLinks"], false, "{kind}");
        let native = json!("Always");
        assert_eq!(container.get("restartPolicy"), manifest.is_native().then_some(&native), "{kind}");
        // What Pod Security calls restricted, and no bytes on its own root.
        assert_eq!(
            container["securityContext"],
            json!({ "runAsUser": 5678, "runAsGroup": 5678, "runAsNonRoot": true, "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                    "seccompProfile": { "type": "RuntimeDefault" } }),
            "{kind}"
        );
        assert_eq!(
            container["ports"],
            json!([{ "name": "culvert-status", "containerPort": 15020 }]),
            "{kind}"
        );
        for (probe, path) in [("readinessProbe", "/ready"), ("livenessProbe", "/live")] {
            assert_eq!(
                container[probe]["httpGet"],
                json!({ "path": path, "port": "culvert-status" }),
                "{kind}"
            );
        }
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().context("no grace period")?;
        let needs = manifest.seconds("--drain-delay")? + manifest.seconds("--drain-time")?;
        ensure!(grace > needs, "{kind}: {grace} s for {needs} s");
    }
    Ok(())
}

#[test]
fn the_native_sidecar_carries_its_pods_traffic_as_it_stands_in_the_readme() -> Result<()> {
    carries_traffic(&Manifest::read("native")?)
}

#[test]
fn the_plain_sidecar_carries_its_pods_traffic_as_it_stands_in_the_readme() -> Result<()> {
    carries_traffic(&Manifest::read("plain")?)
}

/// As a kubelet does it: the sidecar, what must hold before the application starts, the application, traffic, the end.
fn carries_traffic(manifest: &Manifest) -> Result<()> {
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            let world: &World = node.as_ref();
            let container = manifest.container();
            let name = container["image"].as_str().context("no image")?;
            node.import(&image(world.folder(), name)?)?;
            let _outside = world.outside.serve(("::", 80), server::http("outside"))?;
            let mut settings = node.pod("web");
            for (key, value) in manifest.pod["metadata"]["annotations"].as_object().into_iter().flatten() {
                settings = settings.annotation(key, value.as_str().context("no string")?);
            }
            let pod = settings.host_port(18080, 8080).run()?;
            let sidecar = pod.start(&manifest.pod["spec"], NAME)?;
            confined(&sidecar)?;
            application_may_start(world, &pod, &sidecar, manifest)?;
            assert_eq!(probe(world, &pod, &container["readinessProbe"])?, 200);
            assert_eq!(probe(world, &pod, &container["livenessProbe"])?, 200);

            let application = pod.container("web", 1000, &["/bin/sh", "-c", &flushes(manifest)?])?;
            for family in Family::BOTH {
                let to = SocketAddr::from((family.outside(), 80));
                let fetched = application.exec(&["wget", "-q", "-O", "-", &format!("http://{to}/")])?;
                assert!(fetched.stdout.starts_with("outside"), "{fetched:?}");
                let stream = world.outside.connect((World::node_address(family), 18080))?;
                assert_eq!(http::get(stream, "/")?.body.trim_end(), PAGE);
            }
            let stats = application.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1:9901/stats"])?.stdout;
            for direction in ["inbound", "outbound"] {
                for family in ["ipv4", "ipv6"] {
                    let carried = format!("cluster.{direction}_passthrough_{family}.upstream_cx_total: 1\n");
                    assert!(stats.contains(&carried), "no {carried} in {stats}");
                }
            }

            ends(world, &application, &sidecar, manifest)
        },
    )
}

/// An application that serves for a second after the delay once it is asked to end, and then sends what it has left.
fn flushes(manifest: &Manifest) -> Result<String> {
    let last = format!("http://{}/", SocketAddr::from((Family::V4.outside(), 80)));
    let serves = manifest.seconds("--drain-delay")? + 1;
    Ok(format!(
        "trap 'sleep {serves}; wget -q -O /dev/null {last}; exit $?' TERM; httpd -f -p 8080 -h /www & wait"
    ))
}

/// As a kubelet ends the pod: a native sidecar gets its SIGTERM after the application's end, a plain one together with it;
/// SIGKILL when the grace period is over. The application loses nothing, and no container outlives it for long.
fn ends(
    world: &World,
    application: &Container<'_>,
    sidecar: &Container<'_>,
    manifest: &Manifest,
) -> Result<()> {
    let grace = manifest.pod["spec"]["terminationGracePeriodSeconds"].as_i64().context("no grace")?;
    let delay = Duration::from_secs(manifest.seconds("--drain-delay")?);
    let mut begun = Instant::now();
    thread::scope(|scope| {
        let stopping = scope.spawn(|| application.stop(grace));
        if !manifest.is_native() {
            // Peers that have not heard of the end yet.
            let stream = world.outside.connect((World::node_address(Family::V4), 18080))?;
            assert_eq!(http::get(stream, "/")?.body.trim_end(), PAGE);
            sidecar.stop(grace)?;
        }
        stopping.join().expect("no panic")
    })?;
    assert_eq!(application.wait()?, Exit::Code(0), "{}: its last words; {}", manifest.kind, sidecar.log()?);
    if manifest.is_native() {
        begun = Instant::now();
        sidecar.stop(grace)?;
    }
    assert_eq!(sidecar.wait()?, Exit::Code(0), "{}", sidecar.log()?);
    let took = begun.elapsed();
    println!("{}: the sidecar ended {took:?} after its SIGTERM", manifest.kind);
    // Far from --drain-time.
    ensure!(took >= delay && took < delay + Duration::from_secs(15), "{}: {took:?}", manifest.kind);
    Ok(())
}

/// The kernel's view of its process: no capability, no way to one, a filter of system calls.
fn confined(sidecar: &Container<'_>) -> Result<()> {
    let status = sidecar.process_status()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"));
    assert_eq!((field("Uid"), field("Gid")), ("5678 5678 5678 5678".into(), "5678 5678 5678 5678".into()));
    Ok(())
}

/// A native sidecar's startup probe, a plain one's postStart.
fn application_may_start(
    world: &World,
    pod: &Pod<'_>,
    sidecar: &Container<'_>,
    manifest: &Manifest,
) -> Result<()> {
    let container = manifest.container();
    if !manifest.is_native() {
        let command = strings(&container["lifecycle"]["postStart"]["exec"]["command"]);
        ensure!(!command.is_empty(), "no postStart");
        let done = sidecar.exec(&command)?;
        ensure!(done.code == 0, "postStart: {done:?}");
        return Ok(());
    }
    let startup = &container["startupProbe"];
    let tries = startup["failureThreshold"].as_u64().context("no failureThreshold")?;
    let period = startup["periodSeconds"].as_u64().context("no periodSeconds")?;
    let ready = until_some(Duration::from_secs(tries * period), || {
        probe(world, pod, startup).ok().filter(|status| *status == 200)
    });
    if ready.is_none() {
        bail!("not started: {}", sidecar.log()?);
    }
    Ok(())
}

/// As the kubelet probes: from the node, at the pod's address, the port by its name.
fn probe(world: &World, pod: &Pod<'_>, probe: &Value) -> Result<u16> {
    let get = &probe["httpGet"];
    ensure!(get["port"] == "culvert-status", "another port in {probe}");
    let path = get["path"].as_str().context("no path")?;
    let stream = world.node.connect((pod.address(Family::V4)?, 15020))?;
    Ok(http::get(stream, path)?.status)
}
