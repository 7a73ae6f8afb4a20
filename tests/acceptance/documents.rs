//! Mesh documents: how they are loaded and exchanged while the sidecar runs, and what Dataplanes mean.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use culvert_tests::server::{echo, who};
use culvert_tests::{Family, Lab, eventually};
use serde_json::Value;

use crate::support::{APP, assert_taken_and_reset, read_all};
use crate::walkthrough::{OPEN_MESH, excerpt, onboarded, talks, with_documents};

pub(crate) const SOON: Duration = Duration::from_secs(10);
pub(crate) const TRANSPARENT: &str =
    "transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";

/// Exchanged in one step, as a careful operator does.
pub(crate) fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, file)?;
    Ok(())
}

#[test]
fn all_errors_of_the_start_are_reported_at_once_with_exit_code_64() -> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::remove_file(folder.join("mesh.yaml"))?;
    fs::write(
        folder.join("a.yaml"),
        "type: Mesh\nname: default\nmtls: {enabledBackend: ca, backends: [{name: cb, mode: Loose}]}\n---\ntype: Mash\nname: x\n",
    )?;
    fs::write(
        folder.join("b.yaml"),
        "type: Dataplane\nname: y\nnetworking: {address: here!, inbound: [{port: 15006, tags: {}}]}\n---\n{type: Mesh, name: default}\n",
    )?;
    fs::write(folder.join("c.yaml"), "type: Dataplane\nname: z\nnetworking: [\n")?;
    let path = folder.display().to_string();
    for validates in [false, true] {
        let settings = lab.pod.sidecar();
        let mut sidecar = match validates {
            false => settings.options(["--dataplane", "y", "--resources", &path]).start_unready()?,
            true => settings.options(["validate", "--dataplane", "y", &path]).start_unready()?,
        };
        assert_eq!(sidecar.wait(SOON)?.code(), Some(64));
        let said = sidecar.stderr().text();
        for line in [
            "a.yaml: document 1 (Mesh default): mtls.enabledBackend: found \"ca\"; allowed: a backend of the list: cb",
            "a.yaml: document 2 (Mash x): type: found \"Mash\"; allowed: Mesh, Dataplane",
            "a.yaml: document 1 (Mesh default): mtls.backends[0].mode: found \"Loose\"; allowed: STRICT, PERMISSIVE",
            "b.yaml: document 1 (Dataplane y): networking.address: found \"here!\"; allowed: an IPv4 or IPv6 address",
            "b.yaml: document 1 (Dataplane y): networking.inbound[0].port: found 15006; allowed: a port that is not one of",
            "b.yaml: document 1 (Dataplane y): networking.inbound[0].tags.\"kuma.io/service\": found nothing; allowed: this field",
            "b.yaml: document 2 (Mesh default): name: found the same Mesh again, after ",
            "c.yaml: document 1: found no YAML: line ",
        ] {
            assert!(said.contains(line), "{line}: {said}");
        }
        assert_eq!(said.lines().filter(|line| line.contains("allowed: ")).count(), 8, "no other: {said}");
    }
    Ok(())
}

#[test]
fn validate_summarises_good_documents() -> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::write(folder.join("mesh.yaml"), excerpt("mesh-passthrough.universal.yaml")?)?;
    let mut sidecar =
        lab.pod.sidecar().options(["validate", &folder.display().to_string()]).start_unready()?;
    assert_eq!(sidecar.wait(SOON)?.code(), Some(0), "{}", sidecar.stderr().text());
    assert_eq!(
        sidecar.stdout().text(),
        "1 documents are well-formed; mesh \"default\": 4 listeners, 2 clusters, passthrough off"
    );
    Ok(())
}

#[test]
fn a_change_is_put_in_force_and_open_connections_do_not_notice() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let file = folder.join("mesh.yaml");
    fs::write(&file, "type: Mesh\nname: default\n")?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    let mut open = lab.pod.as_uid(APP).connect("192.0.2.10:80")?;
    open.write_all(b"x")?;
    open.read_exact(&mut [0])?;
    replace(&file, &excerpt("mesh-passthrough.universal.yaml")?)?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:80"), "closed by the change");
    talks(open.try_clone()?).context("the open connection")?;
    // Opened again, the cluster still knows its connection.
    replace(&file, OPEN_MESH)?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 2), SOON);
    assert_eq!(sidecar.stat("cluster.outbound_passthrough_ipv4.upstream_cx_active")?, 1);
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)?;
    talks(open)
}

#[test]
fn an_invalid_change_is_counted_and_reported_and_the_old_configuration_stays() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let file = folder.join("mesh.yaml");
    fs::write(&file, excerpt("mesh-passthrough.universal.yaml")?)?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    replace(&file, "type: Mesh\nname: default\nnetworking: {outbound: {passthrough: perhaps}}\n")?;
    eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == 1), SOON);
    assert!(sidecar.metrics()?.contains("\nculvert_config_reload_failed_total 1\n"));
    assert_eq!(sidecar.status("/ready")?.status, 200);
    let errors = || -> Result<Value> {
        let page: Value = serde_json::from_str(&sidecar.admin("/overview")?.body)?;
        Ok(page["documents"]["errors"].clone())
    };
    let told = errors()?;
    let expected = "mesh.yaml: document 1 (Mesh default): networking.outbound.passthrough: found \"perhaps\"; allowed: true or false";
    assert!(told[0].as_str().is_some_and(|error| error.ends_with(expected)), "{told}");
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:80"), "still closed");
    replace(&file, "type: Mesh\nname: default\n")?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    assert_eq!(errors()?.as_array().map(Vec::len), Some(0));
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)
}

#[test]
fn files_out_of_bounds_are_an_error_at_the_start_and_at_a_reload_and_are_not_read() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let bounds = "allowed: 20000 files and 67108864 bytes in all";
    // A hole of 64 MiB, which takes no place. (Too many files give the same error: sidecar, `resources/files/tests.rs`.)
    let too_big =
        || -> Result<()> { Ok(fs::File::create(folder.join("big.yaml"))?.set_len((64 << 20) + 1)?) };
    let path = folder.display().to_string();
    fs::remove_file(folder.join("mesh.yaml"))?;
    too_big()?;
    let mut sidecar = lab.pod.sidecar().options(["--resources", &path]).start_unready()?;
    assert_eq!(sidecar.wait(SOON)?.code(), Some(64));
    let said = sidecar.stderr().text();
    let expected = format!("{path}: found 1 files with 67108865 bytes; {bounds}");
    assert!(said.contains(&expected), "{said}");
    fs::remove_file(folder.join("big.yaml"))?;
    fs::write(folder.join("mesh.yaml"), excerpt("mesh-passthrough.universal.yaml")?)?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    too_big()?;
    eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == 1), SOON);
    assert!(sidecar.admin("/overview")?.body.contains(bounds));
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:80"), "closed as before");
    assert_eq!(sidecar.status("/ready")?.status, 200);
    Ok(())
}

#[test]
fn an_unreadable_file_is_reported_and_is_loaded_once_it_can_be_read() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let file = folder.join("mesh.yaml");
    fs::write(&file, excerpt("mesh-passthrough.universal.yaml")?)?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    // The sidecar is not root.
    let new = folder.join("new");
    fs::write(&new, "type: Mesh\nname: default\n")?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o000))?;
    fs::rename(&new, &file)?;
    eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == 1), SOON);
    let told = sidecar.admin("/overview")?.body;
    assert!(told.contains("mesh.yaml: Permission denied"), "{told}");
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:80"), "still closed");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)?;
    fs::remove_dir_all(&folder)?;
    eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == 2), SOON);
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)
}

#[test]
fn in_a_storm_of_changes_they_are_put_in_force_and_no_half_of_one_is_ever_seen() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let file = folder.join("mesh.yaml");
    fs::write(&file, "type: Mesh\nname: default\n")?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let closed = excerpt("mesh-passthrough.universal.yaml")?;
    let until = std::time::Instant::now() + SOON;
    // Until a change came through while they went on.
    while sidecar.stat("config_reloaded")? == 0 {
        assert!(std::time::Instant::now() < until, "no change was put in force");
        for mesh in ["default", "other"] {
            replace(&file, &format!("{closed}---\n{{type: Mesh, name: {mesh}-2}}\n"))?;
        }
    }
    replace(&file, &closed)?;
    eventually!(sidecar.admin("/overview").is_ok_and(|page| page.body.contains("\"count\": 1,")), SOON);
    assert_eq!(sidecar.stat("config_reload_failed")?, 0);
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:80"), "closed");
    Ok(())
}

#[test]
fn a_mounted_config_map_is_followed_through_its_links() -> Result<()> {
    let (lab, folder) = onboarded()?;
    // As kubelet does it: files link into ..data, which links to a folder with a date.
    let publish = |date: &str, text: &str| -> Result<()> {
        fs::create_dir(folder.join(date))?;
        fs::write(folder.join(date).join("mesh.yaml"), text)?;
        symlink(date, folder.join("..data_tmp"))?;
        fs::rename(folder.join("..data_tmp"), folder.join("..data"))?;
        Ok(())
    };
    fs::remove_file(folder.join("mesh.yaml"))?;
    publish("..2026_01", "type: Mesh\nname: default\n")?;
    symlink("..data/mesh.yaml", folder.join("mesh.yaml"))?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)?;
    publish("..2026_02", &excerpt("mesh-passthrough.kubernetes.yaml")?)?;
    fs::remove_dir_all(folder.join("..2026_01"))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:80"), "closed by the change");
    Ok(())
}

/// This pod with an outbound to `web`, and the workloads that offer it at these addresses.
fn with_web(outbound: &str, web: &[&str]) -> String {
    let mut text = format!(
        "{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, outbound: [{{{outbound}, tags: {{kuma.io/service: web}}}}]}}}}\n"
    );
    for (number, at) in web.iter().enumerate() {
        let (ip, port) = at.rsplit_once(':').unwrap_or((at, "80"));
        text.push_str(&format!(
            "---\n{{type: Dataplane, name: web-{number}, networking: {{address: '{ip}', inbound: [{{port: {port}, tags: {{kuma.io/service: web}}}}]}}}}\n"
        ));
    }
    text
}

/// A server that says its name.
fn says(name: &'static str) -> impl Fn(std::net::TcpStream) -> std::io::Result<()> + Send + Sync + 'static {
    move |mut stream| stream.write_all(name.as_bytes())
}

#[test]
fn an_outbound_takes_its_services_endpoints_in_turn_at_an_address_of_loopback_and_at_a_redirected_one()
-> Result<()> {
    let (lab, folder) = onboarded()?;
    let endpoints = ["192.0.2.10:81", "192.0.2.10:82", "2001:db8::10:83"];
    let _servers = [
        lab.peer.serve("192.0.2.10:81", says("a"))?,
        lab.peer.serve("192.0.2.10:82", says("b"))?,
        lab.peer.serve("[2001:db8::10]:83", says("c"))?,
    ];
    for (outbound, address) in
        [("port: 7100", "127.0.0.1:7100"), ("port: 80, address: 198.51.100.1", "198.51.100.1:80")]
    {
        fs::write(folder.join("web.yaml"), with_web(outbound, &endpoints))?;
        let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
        let mut said = Vec::new();
        for _ in 0..6 {
            said.push(read_all(lab.pod.as_uid(APP).connect(address)?)?);
        }
        assert_eq!(said, ["a", "b", "c", "a", "b", "c"], "{address}");
        eventually!(sidecar.stat("cluster.web.upstream_cx_total").is_ok_and(|n| n == 6));
        assert!(sidecar.admin("/clusters")?.body.contains("web::192.0.2.10:82::cx_total::2\n"));
        // No port for peers.
        assert!(lab.peer.connect("10.77.0.2:7100").and_then(|mut s| s.read(&mut [0])).is_err(), "{address}");
    }
    Ok(())
}

#[test]
fn an_endpoint_that_refuses_is_stepped_over_and_the_breakers_limit_of_retries_is_for_ejected_ones()
-> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::write(folder.join("web.yaml"), with_web("port: 7100", &["192.0.2.10:81", "192.0.2.10:82"]))?;
    let living = lab.peer.serve("192.0.2.10:82", says("b"))?;
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    for _ in 0..8 {
        assert_eq!(read_all(lab.pod.as_uid(APP).connect("127.0.0.1:7100")?)?, "b");
    }
    // Once refused, it comes after the others for a while.
    eventually!(sidecar.stat("cluster.web.upstream_rq_retry").is_ok_and(|n| n == 1));
    drop(sidecar);
    let sidecar =
        with_documents(&lab, &folder, &["--dataplane", "here", "--circuit-breaker-max-retries", "0"])?;
    assert_eq!(
        read_all(lab.pod.as_uid(APP).connect("127.0.0.1:7100")?)?,
        "b",
        "in service, so it needs no place"
    );
    drop(living);
    // The first finds out that the second endpoint is gone too; from then on each is the other's last resort.
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "neither lives");
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "no retry is allowed");
    eventually!(sidecar.stat("cluster.web.upstream_rq_retry_overflow").is_ok_and(|n| n >= 1));
    Ok(())
}

#[test]
fn an_endpoint_that_failed_still_comes_last_after_an_unrelated_document_changed() -> Result<()> {
    /// Less than the time for which an endpoint that failed comes after the others.
    const WITHIN: Duration = Duration::from_millis(4500);
    let (lab, folder) = onboarded()?;
    fs::write(folder.join("web.yaml"), with_web("port: 7100", &["192.0.2.10:81", "192.0.2.10:82"]))?;
    let _living = lab.peer.serve("192.0.2.10:82", says("b"))?;
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    let retries = || sidecar.stat("cluster.web.upstream_rq_retry");
    let call = || -> Result<u64> {
        assert_eq!(read_all(lab.pod.as_uid(APP).connect("127.0.0.1:7100")?)?, "b");
        retries()
    };
    for round in 1..=5 {
        let before = retries()?;
        let mut failed = Instant::now();
        eventually!(
            {
                failed = Instant::now();
                call().is_ok_and(|retries| retries > before)
            },
            SOON
        );
        let failures = retries()?;
        fs::write(
            folder.join("other.yaml"),
            format!(
                "{{type: Dataplane, name: other-{round}, networking: {{address: 192.0.2.77, inbound: [{{port: 80, tags: {{kuma.io/service: other}}}}]}}}}\n"
            ),
        )?;
        eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == round), SOON);
        let mut after = failures;
        for _ in 0..4 {
            after = call()?;
        }
        // Slower than that, the endpoint is rightly tried again: then another round decides.
        if failed.elapsed() < WITHIN {
            assert_eq!(after, failures, "the endpoint that refused was tried again after the change");
            return Ok(());
        }
    }
    bail!("no reload and four connections within {WITHIN:?}")
}

#[test]
fn a_service_without_endpoints_resets_and_is_counted_and_gets_them_by_a_change() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let file = folder.join("web.yaml");
    fs::write(&file, with_web("port: 7100", &[]))?;
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("127.0.0.1:7100"), "nobody offers it");
    eventually!(sidecar.stat("cluster.web.upstream_cx_none_healthy").is_ok_and(|n| n == 1));
    assert!(sidecar.access(SOON, |record| (record["reason"] == "no_endpoint").then_some(())).is_some());
    let _server = lab.peer.serve("192.0.2.10:81", says("a"))?;
    replace(&file, &with_web("port: 7101", &["192.0.2.10:81"]))?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    assert_eq!(read_all(lab.pod.as_uid(APP).connect("127.0.0.1:7101")?)?, "a");
    eventually!(lab.pod.as_uid(APP).connect("127.0.0.1:7100").is_err(), SOON);
    Ok(())
}

#[test]
fn a_closed_mesh_lets_its_own_members_and_the_api_server_be_called() -> Result<()> {
    let (lab, folder) = onboarded()?;
    fs::write(folder.join("mesh.yaml"), excerpt("mesh-passthrough.universal.yaml")?)?;
    fs::write(folder.join("web.yaml"), with_web("port: 7100", &["192.0.2.10:81"]))?;
    let _servers = [81, 82, 6443].map(|port| lab.peer.serve((Family::V4.outside(), port), who()));
    for (bypass, reached) in [("on", true), ("off", false)] {
        let path = folder.display().to_string();
        let settings = lab
            .pod
            .sidecar()
            .env("KUBERNETES_SERVICE_HOST", "192.0.2.10")
            .env("KUBERNETES_SERVICE_PORT", "6443");
        let options = ["--resources", &path, "--dataplane", "here", "--api-server-bypass", bypass];
        let sidecar = settings.options(options).start()?;
        for (port, reached) in [(81, true), (82, false), (6443, reached)] {
            let connected = lab.pod.as_uid(APP).connect((Family::V4.outside(), port));
            match reached {
                true => assert!(!read_all(connected?)?.is_empty(), "{bypass} {port}"),
                false => assert_taken_and_reset(connected, &format!("{bypass} {port}")),
            }
        }
        assert!(!read_all(lab.pod.as_uid(APP).connect("127.0.0.1:7100")?)?.is_empty());
        assert_eq!(sidecar.stat("cluster.direct_access.upstream_cx_total")?, 1);
        let there = sidecar.admin("/listeners")?.body.contains("kube_api_server_bypass::192.0.2.10:6443");
        assert_eq!(there, reached, "{bypass}");
    }
    Ok(())
}

#[test]
fn the_inbound_half_drains_with_the_ports_that_documents_bind() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("app.yaml");
    fs::write(
        &file,
        "{type: Dataplane, name: app, networking: {address: 10.77.0.2, inbound: [{port: 8000, servicePort: 8001, tags: {kuma.io/service: app}}]}}\n---\n{type: Mesh, name: default}",
    )?;
    let path = file.display().to_string();
    let options = [
        "--resources",
        &path,
        "--dataplane",
        "app",
        "--inbound-port",
        "0",
        "--outbound-port",
        "0",
        "--drain-delay",
        "0s",
    ];
    let sidecar = lab.pod.sidecar().options(options).start()?;
    let _app = lab.pod.as_uid(APP).serve((Family::V4.pod(), 8001), echo())?;
    let open = lab.peer.connect((Family::V4.pod(), 8000))?;
    talks(open.try_clone()?)?;
    sidecar.signal(rustix::process::Signal::USR2)?;
    eventually!(lab.peer.connect((Family::V4.pod(), 8000)).is_err(), SOON);
    talks(open)
}
