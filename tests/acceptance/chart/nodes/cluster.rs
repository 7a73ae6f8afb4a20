// SPDX-License-Identifier: Apache-2.0
//! The job of `helm uninstall`, as the chart starts it, against an API server: it waits for every node, and says how it went.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use culvert_tests::api_server::{ApiServer, Fault};
use culvert_tests::chart::strings;
use culvert_tests::eventually;
use culvert_tests::process::Process;
use culvert_tests::process::binaries::Binaries;
use serde_json::{Value, json};

use crate::chart::rendered;

const DAEMON_SET: &str = "/apis/apps/v1/namespaces/culvert-system/daemonsets/culvert-uninstall";
const PODS: &str = "/api/v1/namespaces/culvert-system/pods";
/// It looks each two seconds.
const SOON: Duration = Duration::from_secs(15);

/// The job's container, which gets its wait from these values.
fn job(server: &ApiServer, uninstall: &Value) -> Result<Process> {
    let rendered = rendered(&json!({ "uninstall": uninstall }))?;
    let container = &rendered.one("Job", "-uninstall")?["spec"]["template"]["spec"]["containers"][0];
    let mut command = Command::new(&Binaries::built()?.install);
    command
        .args(&strings(&container["command"])[1..])
        .args(strings(&container["args"]))
        .arg("--service-account")
        .arg(server.service_account())
        .env_clear()
        .env("KUBERNETES_SERVICE_HOST", server.address().ip().to_string())
        .env("KUBERNETES_SERVICE_PORT", server.address().port().to_string());
    Process::start(command)
}

/// The chart's DaemonSet, with what a controller adds.
fn daemon_set(server: &ApiServer, nodes: usize) -> Result<()> {
    let rendered = rendered(&json!({}))?;
    let mut object = rendered.one("DaemonSet", "-uninstall")?.clone();
    object["metadata"]["uid"] = json!("the-daemon-set");
    object["status"] = json!({ "observedGeneration": 1, "desiredNumberScheduled": nodes, "numberReady": 0 });
    server.object(DAEMON_SET, object);
    Ok(())
}

/// A pod of it on a node, with what the kubelet says.
fn pod(node: &str, status: &Value) -> Value {
    json!({
        "metadata": { "name": format!("culvert-uninstall-{node}"), "uid": node,
                      "ownerReferences": [{ "kind": "DaemonSet", "uid": "the-daemon-set" }] },
        "spec": { "nodeName": node },
        "status": status,
    })
}

fn ended(code: i32, message: &str) -> Value {
    let end = json!({ "exitCode": code, "message": message });
    json!({ "startTime": "2026-01-01T00:00:00Z", "containerStatuses": [{ "state": { "terminated": end } }] })
}

fn pods(server: &ApiServer, pods: &[Value]) {
    server.object(PODS, json!({ "kind": "PodList", "metadata": {}, "items": pods }));
}

/// Its exit code, and what it said.
fn outcome(mut job: Process) -> Result<(i32, String)> {
    let status = job.wait(SOON)?;
    let said = format!("{}{}", job.stdout().text(), job.stderr().text());
    Ok((status.code().context("a signal")?, said))
}

#[test]
fn it_waits_for_the_last_node_through_failures_of_the_api_server() -> Result<()> {
    let server = ApiServer::local()?;
    let quick = json!({ "timeoutSeconds": 30, "unreachableAfterSeconds": 20 });
    server.fail_next("daemonsets", Fault::Status(503, None));
    server.fail_next("pods", Fault::Close);
    daemon_set(&server, 2)?;
    let running = json!({ "startTime": "x", "containerStatuses": [{ "state": { "running": {} } }] });
    pods(&server, &[pod("a", &ended(0, "")), pod("b", &running)]);
    let job = job(&server, &quick)?;
    let looks = || server.asked().iter().filter(|asked| asked.path.starts_with(PODS)).count();
    eventually!(server.has_failed() && looks() >= 3, SOON);
    // What was done is started again, and counts as done.
    pods(&server, &[pod("a", &running), pod("b", &ended(0, ""))]);
    let (code, said) = outcome(job)?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("2 of 2 nodes are done"), "{said}");
    let selectors = "labelSelector=app.kubernetes.io%2Fcomponent%3Duninstall";
    assert!(server.asked().iter().any(|asked| asked.path.contains(selectors)), "{:?}", server.asked());
    Ok(())
}

#[test]
fn a_large_cluster_is_read_page_by_page() -> Result<()> {
    let server = ApiServer::local()?;
    daemon_set(&server, 450)?;
    let all: Vec<Value> = (0..450).map(|node| pod(&format!("n{node}"), &ended(0, ""))).collect();
    pods(&server, &all);
    let (code, said) = outcome(job(&server, &json!({}))?)?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("450 of 450 nodes are done"), "{said}");
    Ok(())
}

#[test]
fn a_node_that_is_down_is_skipped_or_stops_it_as_the_chart_says() -> Result<()> {
    for (unreachable, expected) in [("skip", 0), ("fail", 1)] {
        let server = ApiServer::local()?;
        daemon_set(&server, 2)?;
        pods(&server, &[pod("up", &ended(0, "")), pod("down", &json!({ "phase": "Pending" }))]);
        let soon = json!({ "unreachable": unreachable, "unreachableAfterSeconds": 5 });
        let (code, said) = outcome(job(&server, &soon)?)?;
        assert_eq!(code, expected, "{said}");
        assert!(said.contains("1 of 2 nodes") && said.contains("down: not reached"), "{said}");
    }
    Ok(())
}

/// A node with the word of the control plane about its kubelet.
fn node(server: &ApiServer, name: &str, ready: &str) {
    let conditions =
        json!([{ "type": "MemoryPressure", "status": ready }, { "type": "Ready", "status": ready }]);
    let object = json!({ "metadata": { "name": name }, "status": { "conditions": conditions } });
    server.object(&format!("/api/v1/nodes/{name}"), object);
}

#[test]
fn nodes_that_the_control_plane_calls_unreachable_cost_no_wait() -> Result<()> {
    for (unreachable, expected) in [("skip", 0), ("fail", 1)] {
        let server = ApiServer::local()?;
        daemon_set(&server, 22)?;
        let mut all = vec![pod("up", &ended(0, ""))];
        all.extend((0..20).map(|n| pod(&format!("down-{n}"), &json!({ "phase": "Pending" }))));
        // One that went down while it was at work.
        all.push(pod(
            "gone",
            &json!({ "startTime": "x", "containerStatuses": [{ "state": { "running": {} } }] }),
        ));
        pods(&server, &all);
        (0..20).for_each(|n| node(&server, &format!("down-{n}"), "Unknown"));
        node(&server, "gone", "Unknown");
        // With the chart's wait of a minute, which is longer than this test waits for the job.
        let (code, said) = outcome(job(&server, &json!({ "unreachable": unreachable }))?)?;
        assert_eq!(code, expected, "{said}");
        assert!(said.contains("1 of 22 nodes") && said.matches("not reached").count() == 21, "{said}");
    }
    Ok(())
}

#[test]
fn a_node_whose_kubelet_is_heard_of_is_waited_for() -> Result<()> {
    let server = ApiServer::local()?;
    daemon_set(&server, 2)?;
    pods(&server, &[pod("up", &ended(0, "")), pod("slow", &json!({ "phase": "Pending" }))]);
    node(&server, "slow", "False");
    let job = job(&server, &json!({}))?;
    let asked = || server.asked().iter().filter(|asked| asked.path == "/api/v1/nodes/slow").count();
    eventually!(asked() >= 2, SOON);
    pods(&server, &[pod("up", &ended(0, "")), pod("slow", &ended(0, ""))]);
    let (code, said) = outcome(job)?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("2 of 2 nodes are done"), "{said}");
    Ok(())
}

#[test]
fn a_node_that_cannot_be_done_stops_it_with_the_reason() -> Result<()> {
    let server = ApiServer::local()?;
    daemon_set(&server, 1)?;
    pods(&server, &[pod("a", &ended(1, "/etc/cni/net.d/10-x.conflist: read-only file system"))]);
    let (code, said) = outcome(job(&server, &json!({ "timeoutSeconds": 10 }))?)?;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("a: failed: exit code 1: /etc/cni/net.d/10-x.conflist: read-only"), "{said}");
    Ok(())
}

#[test]
fn a_missing_permission_is_reported() -> Result<()> {
    let server = ApiServer::local()?;
    for _ in 0..20 {
        server.fail_next("daemonsets", Fault::Status(403, None));
    }
    let (code, said) = outcome(job(&server, &json!({ "timeoutSeconds": 10 }))?)?;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("403"), "{said}");
    Ok(())
}
