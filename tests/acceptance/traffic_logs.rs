//! Traffic logs that documents ask for, in files and at a TCP server.

use std::fs;
use std::io::{BufRead, BufReader};
use std::time::SystemTime;

use anyhow::{Context, Result};
use culvert_tests::server::echo;
use culvert_tests::{Lab, eventually};

use crate::documents::{SOON, TRANSPARENT, replace};
use crate::support::{APP, assert_taken_and_reset};
use crate::walkthrough::{onboarded, talks, with_documents};

#[test]
fn a_mesh_access_log_gets_its_lines_by_tcp() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let collector = lab.peer.listen("192.0.2.10:5000")?;
    fs::write(
        folder.join("log.yaml"),
        "type: MeshAccessLog\nname: all\nmesh: default\nspec:\n  to:\n  - targetRef: {kind: Mesh}\n    default:\n      backends:\n      - type: Tcp\n        \
         tcp:\n          address: 192.0.2.10:5000\n          format:\n            type: Json\n            json:\n            - {key: to, value: '%DOWNSTREAM_LOCAL_ADDRESS%'}\n            \
         - {key: sent, value: '%BYTES_SENT%'}\n            - {key: flags, value: '%RESPONSE_FLAGS%'}\n",
    )?;
    let sidecar = with_documents(&lab, &folder, &[])?;
    let server = lab.peer.serve("192.0.2.10:80", echo())?;
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)?;
    let (stream, _) = collector.accept()?;
    stream.set_read_timeout(Some(SOON))?;
    let mut lines = BufReader::new(stream).lines();
    assert_eq!(lines.next().context("no line")??, r#"{"flags":"-","sent":1,"to":"192.0.2.10:80"}"#);
    drop(server);
    assert_taken_and_reset(lab.pod.as_uid(APP).connect("192.0.2.10:80"), "nobody listens");
    assert_eq!(lines.next().context("no line")??, r#"{"flags":"UF","sent":0,"to":"192.0.2.10:80"}"#);
    assert_eq!(sidecar.stat("traffic_log.dropped")?, 0);
    Ok(())
}

/// A folder that the sidecar's uid may write to.
pub(crate) fn logs(lab: &Lab) -> Result<std::path::PathBuf> {
    let folder = lab.folder().join("logs");
    fs::create_dir(&folder)?;
    std::os::unix::fs::chown(&folder, Some(culvert_tests::pod::sidecar::UID), None)?;
    Ok(folder)
}

#[test]
fn a_mesh_access_log_logs_inbound_by_from_and_outbound_and_passthrough_by_to() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let logs = logs(&lab)?;
    let collector = lab.peer.listen("192.0.2.10:5000")?;
    fs::write(
        folder.join("pods.yaml"),
        format!(
            "{{type: Dataplane, name: here, networking: {{address: 10.77.0.2, {TRANSPARENT}, \
             inbound: [{{port: 8080, tags: {{kuma.io/service: app}}}}], outbound: [{{port: 7100, tags: {{kuma.io/service: web}}}}]}}}}\n---\n\
             {{type: Dataplane, name: web, networking: {{address: 192.0.2.10, inbound: [{{port: 81, tags: {{kuma.io/service: web}}}}]}}}}\n"
        ),
    )?;
    let log = |inbound: &str| {
        let logs = logs.display();
        format!(
            "apiVersion: kuma.io/v1alpha1
kind: MeshAccessLog
metadata: {{name: logs, namespace: kong-mesh-system, labels: {{kuma.io/mesh: default}}}}
spec:
  targetRef: {{kind: MeshService, name: app}}
  {inbound}
    default:
      backends:
      - type: File
        file:
          path: {logs}/in
          format:
            type: Plain
            plain: '%KUMA_TRAFFIC_DIRECTION% %KUMA_SOURCE_ADDRESS_WITHOUT_PORT%(%KUMA_SOURCE_SERVICE%)->%UPSTREAM_HOST%(%KUMA_DESTINATION_SERVICE%) %REQ(:path)%'
  to:
  - targetRef: {{kind: MeshService, name: web}}
    default:
      backends:
      - type: Tcp
        tcp:
          address: 192.0.2.10:5000
          format: {{type: Json, omitEmptyValues: true, json: [
            {{key: from, value: '%KUMA_SOURCE_SERVICE%'}}, {{key: to, value: '%KUMA_DESTINATION_SERVICE% %UPSTREAM_CLUSTER%'}},
            {{key: received, value: '%BYTES_RECEIVED%'}}, {{key: flags, value: '%RESPONSE_FLAGS%'}}]}}
  - targetRef: {{kind: Mesh}}
    default: {{backends: [{{type: File, file: {{path: {logs}/out}}}}]}}
"
        )
    };
    let _servers = [lab.peer.serve("192.0.2.10:81", echo())?, lab.peer.serve("192.0.2.10:82", echo())?];
    let _app = lab.pod.as_uid(APP).serve("10.77.0.2:8080", echo())?;
    let sidecar = {
        fs::write(folder.join("log.yaml"), log("from:\n  - targetRef: {kind: Mesh}"))?;
        with_documents(&lab, &folder, &["--dataplane", "here"])?
    };
    let inbound = "INBOUND 10.77.0.1(unknown)->10.77.0.2:8080(app) -\n";
    let said = |file: &str| fs::read_to_string(logs.join(file)).unwrap_or_default();
    talks(lab.peer.connect("10.77.0.2:8080")?)?;
    eventually!(!said("in").is_empty(), SOON);
    assert_eq!(said("in"), inbound);
    talks(lab.pod.as_uid(APP).connect("127.0.0.1:7100")?)?;
    let (stream, _) = collector.accept()?;
    stream.set_read_timeout(Some(SOON))?;
    let line = BufReader::new(stream).lines().next().context("no line")??;
    assert_eq!(line, r#"{"from":"app","received":1,"to":"web web"}"#);
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:82")?)?;
    let kumas = "10.77.0.2(app)->192.0.2.10:82(external) took ";
    eventually!(
        said("out").contains(kumas) && said("out").ends_with("ms, sent 1 bytes, received: 1 bytes\n"),
        SOON
    );
    assert_eq!((said("out").lines().count(), said("in").as_str()), (1, inbound), "each in its own");
    // The newer spelling of `from`, and inbound alone.
    fs::write(logs.join("in"), "")?;
    replace(
        &folder.join("log.yaml"),
        &log("rules:\n  -")
            .replace("- \n    default", "- default")
            .replace("/in", "/rules")
            // One policy has either rules or to.
            .replace("  to:\n", "---\napiVersion: kuma.io/v1alpha1\nkind: MeshAccessLog\nmetadata: {name: calls, namespace: kong-mesh-system, labels: {kuma.io/mesh: default}}\nspec:\n  targetRef: {kind: MeshService, name: app}\n  to:\n"),
    )?;
    eventually!(sidecar.stat("config_reloaded").is_ok_and(|n| n == 1), SOON);
    talks(lab.peer.connect("10.77.0.2:8080")?)?;
    eventually!(!said("rules").is_empty(), SOON);
    assert_eq!(said("rules"), inbound);
    assert_eq!((said("in"), sidecar.stat("traffic_log.dropped")?), (String::new(), 0));
    Ok(())
}

#[test]
fn the_format_of_kumas_tests_has_the_second_the_services_the_zone_and_the_workload() -> Result<()> {
    let (lab, folder) = onboarded()?;
    let collector = lab.peer.listen("192.0.2.10:5000")?;
    fs::write(
        folder.join("pods.yaml"),
        format!(
            "{{type: Dataplane, name: here, labels: {{kuma.io/zone: east, kuma.io/workload: web}}, networking: {{address: 10.77.0.2, \
             {TRANSPARENT}, inbound: [{{port: 8080, tags: {{kuma.io/service: app}}}}]}}}}\n---\n\
             {{type: MeshAccessLog, name: all, spec: {{to: [{{targetRef: {{kind: Mesh}}, default: {{backends: [{{type: Tcp, tcp: {{\
             address: '192.0.2.10:5000', format: {{type: Plain, plain: '%START_TIME(%s)%,%KUMA_SOURCE_SERVICE%,\
             %KUMA_DESTINATION_SERVICE%,%KUMA_ZONE%,%KUMA_WORKLOAD%'}}}}}}]}}}}]}}}}\n"
        ),
    )?;
    let _sidecar = with_documents(&lab, &folder, &["--dataplane", "here"])?;
    let _server = lab.peer.serve("192.0.2.10:80", echo())?;
    let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map(|since| since.as_secs());
    let before = now()?;
    talks(lab.pod.as_uid(APP).connect("192.0.2.10:80")?)?;
    let (stream, _) = collector.accept()?;
    stream.set_read_timeout(Some(SOON))?;
    let line = BufReader::new(stream).lines().next().context("no line")??;
    let (second, rest) = line.split_once(',').context("no field")?;
    assert_eq!(rest, "app,external,east,kri_wl_default_east__web_", "{line}");
    // The start is computed back from the end, on another clock.
    assert!((before.saturating_sub(1)..=now()?).contains(&second.parse::<u64>()?), "{line}, from {before}");
    Ok(())
}
