//! Names that are free text: what they say never begins a line of its own, and no two are one series.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use culvert_tests::{Lab, eventually, http};
use serde_json::Value;

use crate::documents::{SOON, TRANSPARENT};
use crate::support::APP;
use crate::walkthrough::{OPEN_MESH, onboarded, with_documents};

/// What begins a line for a terminal, a log viewer or a program, and what turns its text around.
const BREAKS: [&str; 8] = ["\n", "\r", "\u{b}", "\u{c}", "\u{85}", "\u{2028}", "\u{2029}", "\u{202e}"];
/// A line as the sidecar's own.
const FORGED: &str = "2026-01-01T00:00:00.000000Z  INFO forged";

fn forged(at: &str) -> String {
    BREAKS.iter().map(|line| format!("{at}{line}{FORGED}")).collect()
}

/// Fails if a line begins with what a name says.
fn assert_whole(text: &str, what: &str) {
    assert!(text.contains("forged"), "{what}: nothing was said of the name: {text}");
    for line in text.split(|c: char| BREAKS.iter().any(|line| line.starts_with(c))) {
        assert!(!line.starts_with(FORGED), "{what}: {line:?} in {text}");
    }
}

/// A policy with such a name that warns without `--dataplane`.
fn template() -> Result<String> {
    let name = serde_json::to_string(&forged("t"))?;
    Ok(format!(
        "{{\"type\": \"ProxyTemplate\", \"name\": {name}, \"selectors\": [{{\"match\": {{\"kuma.io/service\": \"x\"}}}}], \"conf\": {{\"imports\": [\"default-proxy\"]}}}}\n"
    ))
}

/// A file with such a name, within the 255 bytes that a name may have.
fn file(folder: &Path) -> PathBuf {
    folder.join(format!("f\n{FORGED}\u{2028}{FORGED}\u{85}{FORGED}.yaml"))
}

#[test]
fn a_name_begins_no_line_at_a_start_at_a_reload_and_in_validate() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let path = folder.display().to_string();
    fs::write(folder.join("template.yaml"), template()?)?;
    for format in ["text", "json"] {
        let sidecar = with_documents(&lab, &folder, &["--log-format", format])?;
        let warned = || sidecar.stderr().text().contains("forged").then_some(());
        eventually!(warned().is_some(), SOON);
        assert_whole(&sidecar.stderr().text(), "a warning");
        let wrong = file(&folder);
        fs::write(&wrong, "type: Mesh\nname: default\n")?;
        eventually!(sidecar.stat("config_reload_failed").is_ok_and(|n| n == 1), SOON);
        let told = |line: &str| line.contains("cannot be used").then_some(());
        sidecar.stderr().wait_for(SOON, told).context("no error in the log")?;
        let said = sidecar.stderr().text();
        assert_whole(&said, "an error");
        if format == "json" {
            for line in said.lines() {
                serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?;
            }
        }
        drop(sidecar);
        // The same at a start, and without a sidecar.
        for options in [&["--resources", &path, "--log-format", format][..], &["validate", &path]] {
            let mut ended = lab.pod.sidecar().options(options).start_unready()?;
            assert_eq!(ended.wait(SOON)?.code(), Some(64), "{options:?}");
            assert_whole(&ended.stderr().text(), &format!("{options:?}"));
        }
        fs::remove_file(&wrong)?;
    }
    let mut good = lab.pod.sidecar().options(["validate", &path]).start_unready()?;
    assert_eq!(good.wait(SOON)?.code(), Some(0), "{}", good.stderr().text());
    assert_whole(&good.stdout().text(), "a warning of validate");
    // The mesh's name.
    let mut lost = lab.pod.sidecar().options(["validate", "--mesh", &forged("m"), &path]).start_unready()?;
    assert_eq!(lost.wait(SOON)?.code(), Some(64));
    assert_whole(&lost.stderr().text(), "a mesh");
    Ok(())
}

#[test]
fn a_dataplanes_name_begins_no_line_of_clusters() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let name = serde_json::to_string(&forged("d"))?;
    fs::write(
        folder.join("d.yaml"),
        format!(
            "{{\"type\": \"Dataplane\", \"name\": {name}, \"networking\": {{\"address\": \"192.0.2.10\", \"inbound\": [{{\"port\": 80, \"tags\": {{\"kuma.io/service\": \"web\"}}}}]}}}}\n"
        ),
    )?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let _server = lab.peer.serve("192.0.2.10:80", culvert_tests::server::echo())?;
    crate::walkthrough::talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)?;
    eventually!(sidecar.admin("/clusters").is_ok_and(|page| page.body.contains("forged")), SOON);
    assert_whole(&sidecar.admin("/clusters")?.body, "/clusters");
    Ok(())
}

#[test]
fn services_whose_names_differ_in_a_dot_are_two_series() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let outbound =
        |port: u16, service: &str| format!("{{port: {port}, tags: {{kuma.io/service: {service}}}}}");
    fs::write(
        folder.join("here.yaml"),
        format!(
            "{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, outbound: [{}, {}]}}}}\n",
            outbound(7100, "a.b"),
            outbound(7101, "a_b")
        ),
    )?;
    let sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    for port in [7100, 7101, 7101] {
        let connected = lab.pod.as_uid(APP).connect(("127.0.0.1", port));
        crate::support::assert_taken_and_reset(connected, "no endpoint");
    }
    eventually!(sidecar.stat("cluster.a_b.upstream_cx_none_healthy").is_ok_and(|n| n == 2), SOON);
    assert_eq!(sidecar.stat("cluster.a_b#2.upstream_cx_none_healthy")?, 1);
    let page = sidecar.admin("/stats/prometheus")?.body;
    for (name, count) in [("a_b", 2), ("a_b#2", 1)] {
        let line =
            format!("envoy_cluster_upstream_cx_none_healthy{{envoy_cluster_name=\"{name}\"}} {count}\n");
        assert!(page.contains(&line), "{line}{page}");
        let known = format!("::observability_name::{name}\n");
        assert!(sidecar.admin("/clusters")?.body.contains(&known), "{known}");
    }
    Ok(())
}

#[test]
fn metrics_come_in_the_format_that_is_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    let file = lab.folder().join("mesh.yaml");
    fs::write(&file, OPEN_MESH)?;
    let path = file.display().to_string();
    let _sidecar = lab.pod.sidecar().options(["--resources", &path, "--verify-redirect", "off"]).start()?;
    for (port, page) in [
        (15020, "/metrics"),
        (9901, "/metrics"),
        (9901, "/stats/prometheus"),
        (9901, "/stats?format=prometheus"),
    ] {
        for (accept, text) in [("text/plain", true), ("*/*", false), ("application/openmetrics-text", false)]
        {
            let reply = http::get_accepting(lab.pod.connect(("127.0.0.1", port))?, page, accept)?;
            let ends = reply.body.ends_with("# EOF\n");
            let counter = "# TYPE culvert_config_reloaded_total counter\n";
            let (kind, ours) = match text {
                true => ("text/plain; version=0.0.4; charset=utf-8", !ends && reply.body.contains(counter)),
                false => (
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                    ends && !reply.body.contains(counter),
                ),
            };
            assert!(
                reply.headers.contains(&format!("content-type: {kind}")),
                "{page} {accept}: {}",
                reply.headers
            );
            assert!(ours, "{page} {accept}: {}", reply.body);
        }
    }
    Ok(())
}
