// SPDX-License-Identifier: Apache-2.0
//! The agent's permissions and mounts, and the hook that removes everything again.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{Chart, NAMESPACE, Rendered, strings};
use serde_json::{Value, json};

use crate::chart::{choices, rendered, with_webhook};

/// The pod of a DaemonSet, and its only container.
fn pod<'a>(rendered: &'a Rendered, name: &str) -> Result<(&'a Value, &'a Value)> {
    let pod = &rendered.one("DaemonSet", name)?["spec"]["template"]["spec"];
    let containers = pod["containers"].as_array().context("no containers")?;
    ensure!(containers.len() == 1 && pod.get("initContainers").is_none(), "other containers in {pod}");
    Ok((pod, &containers[0]))
}

/// `mountPath` of what is mounted, with `ro` behind what is only read and `+` behind what follows the node's mounts.
fn mounts(container: &Value) -> Vec<String> {
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    mounts
        .map(|mount| {
            let path = mount["mountPath"].as_str().unwrap_or_default();
            let read_only = if mount["readOnly"] == true { " ro" } else { "" };
            let follows = if mount["mountPropagation"] == "HostToContainer" { " +" } else { "" };
            format!("{path}{read_only}{follows}")
        })
        .filter(|mount| mount.starts_with("/host"))
        .collect()
}

/// Permissions that only the uninstallation needs.
const FOR_UNINSTALL: [&str; 2] = ["/host/var/lib/cni/results ro", "/host/var/log/culvert"];

#[test]
fn each_platform_shows_the_agent_its_own_folders_and_no_others() -> Result<()> {
    let always = ["/host/run/culvert", "/host/proc"];
    for (platform, paths) in [
        (
            "containerd",
            ["/host/etc/cni", "/host/opt/cni", "/host/etc/containerd ro", "/host/run/containerd ro +"],
        ),
        ("crio", ["/host/etc/cni", "/host/opt/cni", "/host/etc/crio ro", "/host/run/crio ro +"]),
        (
            "k3s",
            [
                "/host/var/lib/rancher/k3s/agent/etc/cni",
                "/host/var/lib/rancher/k3s/data",
                "/host/var/lib/rancher/k3s/agent/etc/containerd ro",
                "/host/run/k3s/containerd ro +",
            ],
        ),
        (
            "rke2",
            [
                "/host/etc/cni",
                "/host/opt/cni",
                "/host/var/lib/rancher/rke2/agent/etc/containerd ro",
                "/host/run/k3s/containerd ro +",
            ],
        ),
        ("k0s", ["/host/etc/cni", "/host/opt/cni", "/host/etc/k0s ro", "/host/run/k0s ro +"]),
        (
            "microk8s",
            [
                "/host/var/snap/microk8s/current/args",
                "/host/var/snap/microk8s/current/opt/cni",
                "/host/var/snap/microk8s/common/run ro +",
                "",
            ],
        ),
        (
            "gke",
            [
                "/host/etc/cni",
                "/host/home/kubernetes/bin",
                "/host/etc/containerd ro",
                "/host/run/containerd ro +",
            ],
        ),
        (
            "openshift",
            ["/host/etc/kubernetes/cni", "/host/var/lib/cni/bin", "/host/etc/crio ro", "/host/run/crio ro +"],
        ),
    ] {
        let rendered = rendered(&json!({ "platform": platform }))?;
        let expected: BTreeSet<String> =
            always.into_iter().chain(paths).filter(|path| !path.is_empty()).map(str::to_owned).collect();
        for daemon_set in ["-agent", "-uninstall"] {
            let (pod, container) = pod(&rendered, daemon_set)?;
            let found: BTreeSet<String> = mounts(container).into_iter().collect();
            let mut expected = expected.clone();
            if daemon_set == "-uninstall" {
                expected.extend(FOR_UNINSTALL.map(str::to_owned));
            }
            assert_eq!(found, expected, "{platform}, {daemon_set}");
            // Each is the node's folder of the same path.
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                let path = mount["mountPath"].as_str().context("no path")?;
                let Some(on_node) = path.strip_prefix("/host") else { continue };
                let volumes = pod["volumes"].as_array().context("no volumes")?;
                let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]);
                assert_eq!(volume.context("no volume")?["hostPath"]["path"], on_node, "{platform}");
            }
        }
    }
    Ok(())
}

#[test]
fn paths_that_are_set_are_mounted_and_passed_as_options() -> Result<()> {
    let rendered = rendered(&json!({ "paths": {
        "cniConfDir": "/srv/cni/net.d", "cniBinDir": "/srv/cni/bin",
        "runtimeConfigDir": "/srv/runtime", "runtimeSocket": "/srv/sockets/runtime.sock" } }))?;
    for daemon_set in ["-agent", "-uninstall"] {
        let (_, container) = pod(&rendered, daemon_set)?;
        // /srv/cni/bin is in /srv/cni.
        let mut expected = vec![
            "/host/srv/cni",
            "/host/run/culvert",
            "/host/srv/runtime ro",
            "/host/srv/sockets ro +",
            "/host/proc",
        ];
        if daemon_set == "-uninstall" {
            expected.extend(FOR_UNINSTALL);
        }
        assert_eq!(mounts(container), expected);
        let arguments = strings(&container["args"]);
        for argument in [
            "--host-root=/host",
            "--cni-conf-dir=/srv/cni/net.d",
            "--cni-bin-dir=/srv/cni/bin",
            "--runtime-socket=/srv/sockets/runtime.sock",
        ] {
            assert!(arguments.contains(&argument), "{daemon_set}: {arguments:?}");
        }
    }
    Ok(())
}

#[test]
fn nothing_of_the_chart_is_privileged_or_on_the_nodes_network() -> Result<()> {
    for (name, values) in choices()? {
        let rendered = rendered(&values)?;
        for (whose, _, pod) in rendered.pods() {
            let name = format!("{name}: {whose}");
            for field in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod.get(field).is_none_or(|value| *value == false), "{name}: {field} in {pod}");
            }
            assert_eq!(pod["enableServiceLinks"], false, "{name}");
            for container in pod["containers"].as_array().context("no containers")? {
                let security = &container["securityContext"];
                assert_eq!(security["readOnlyRootFilesystem"], true, "{name}: {container}");
                assert_eq!(security["allowPrivilegeEscalation"], false, "{name}: {container}");
                assert!(
                    security.get("privileged").is_none_or(|value| *value == false),
                    "{name}: {container}"
                );
                assert_eq!(security["capabilities"]["drop"], json!(["ALL"]), "{name}: {container}");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}: {container}");
            }
        }
    }
    Ok(())
}

#[test]
fn each_capability_stands_on_the_page_with_its_reason() -> Result<()> {
    let rendered = rendered(&json!({}))?;
    let (_, agent) = pod(&rendered, "-agent")?;
    let (_, uninstall) = pod(&rendered, "-uninstall")?;
    let added: BTreeSet<&str> =
        strings(&agent["securityContext"]["capabilities"]["add"]).into_iter().collect();
    assert_eq!(agent["securityContext"], uninstall["securityContext"]);
    let page = Chart::file("OPERATIONS.md")?;
    let explained: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `CAP_")?.split_once("` | "))
        .filter(|(_, reason)| reason.len() > 20)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(explained, added);
    Ok(())
}

#[test]
fn nodes_may_be_patched_only_where_they_are_held() -> Result<()> {
    for hold in [false, true] {
        let rendered = rendered(&json!({ "hold": { "enabled": hold } }))?;
        let role = rendered.one("ClusterRole", "-agent")?;
        let mut may = BTreeSet::new();
        for rule in role["rules"].as_array().into_iter().flatten() {
            for resource in strings(&rule["resources"]) {
                may.extend(strings(&rule["verbs"]).into_iter().map(|verb| format!("{verb} {resource}")));
            }
        }
        let mut expected = vec!["list pods", "watch pods", "create events"];
        if hold {
            expected.extend(["get nodes", "patch nodes"]);
        }
        assert_eq!(may, expected.into_iter().map(str::to_owned).collect());
        let (_, agent) = pod(&rendered, "-agent")?;
        let held = strings(&agent["args"]).iter().any(|argument| argument.starts_with("--hold-until-ready"));
        assert_eq!(held, hold);
    }
    Ok(())
}

#[test]
fn the_agent_rolls_out_to_every_node_one_at_a_time() -> Result<()> {
    let rendered = rendered(&json!({}))?;
    let daemon_set = rendered.one("DaemonSet", "-agent")?;
    assert_eq!(daemon_set["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
    let (pod, container) = pod(&rendered, "-agent")?;
    assert_eq!(pod["tolerations"], json!([{ "operator": "Exists" }]));
    assert_eq!(pod["priorityClassName"], "system-node-critical");
    for (probe, path) in [("livenessProbe", "/live"), ("readinessProbe", "/ready")] {
        assert_eq!(container[probe]["httpGet"], json!({ "path": path, "port": "status" }));
    }
    assert_eq!(container["ports"], json!([{ "name": "status", "containerPort": 15090, "protocol": "TCP" }]));
    Ok(())
}

#[test]
fn a_changed_entry_restarts_the_agents() -> Result<()> {
    let checksum = |values: Value| -> Result<Value> {
        let rendered = rendered(&values)?;
        let template = &rendered.one("DaemonSet", "-agent")?["spec"]["template"];
        Ok(template["metadata"]["annotations"]["checksum/entry"].clone())
    };
    assert_ne!(checksum(json!({}))?, checksum(json!({ "entry": { "onUnknown": "deny" } }))?);
    assert_eq!(checksum(json!({}))?, checksum(json!({ "agent": { "repair": "off" } }))?);
    Ok(())
}

#[test]
fn old_kubernetes_is_asked_for_apparmor_by_annotation() -> Result<()> {
    const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/agent";
    for (kubernetes, field, annotation) in
        [("1.29", Value::Null, json!("unconfined")), ("1.30", json!({ "type": "Unconfined" }), Value::Null)]
    {
        let rendered = Chart::here()?.render(&json!({}), kubernetes)?;
        let (_, container) = pod(&rendered, "-agent")?;
        assert_eq!(container["securityContext"]["appArmorProfile"], field, "{kubernetes}");
        let template = &rendered.one("DaemonSet", "-agent")?["spec"]["template"];
        assert_eq!(template["metadata"]["annotations"][ANNOTATION], annotation, "{kubernetes}");
    }
    Ok(())
}

#[test]
fn a_quota_for_critical_pods_is_made_where_it_is_needed() -> Result<()> {
    for (values, expected) in [
        (json!({}), false),
        (json!({ "platform": "gke" }), true),
        (json!({ "platform": "gke", "resourceQuota": false }), false),
        (json!({ "resourceQuota": true }), true),
    ] {
        let rendered = rendered(&values)?;
        let quota = rendered.one("ResourceQuota", "");
        assert_eq!(quota.is_ok(), expected, "{values}");
        let Ok(quota) = quota else { continue };
        let scope = &quota["spec"]["scopeSelector"]["matchExpressions"][0];
        // Every class of the chart's pods.
        assert_eq!(scope["values"], json!(["system-node-critical", "system-cluster-critical"]), "{values}");
    }
    Ok(())
}

/// What `helm uninstall` makes once nothing injects, in this order.
pub(in crate::chart) const ON_THE_NODES: [&str; 7] =
    ["ClusterRole", "Role", "ServiceAccount", "ClusterRoleBinding", "RoleBinding", "DaemonSet", "Job"];

/// Helm creates objects of one weight in no promised order of accounts and those who use them, so each has its own.
#[test]
fn before_anything_is_deleted_every_node_is_cleaned_and_waited_for() -> Result<()> {
    let values = json!({ "uninstall": { "now": true, "timeoutSeconds": 99, "unreachable": "fail" } });
    let rendered = with_webhook(&values)?;
    let mut order = Vec::new();
    for document in &rendered.documents {
        let annotations = &document["metadata"]["annotations"];
        if annotations["helm.sh/hook"] != "pre-delete" {
            continue;
        }
        assert_eq!(annotations["helm.sh/hook-delete-policy"], "before-hook-creation,hook-succeeded");
        let of_cluster = ["ClusterRole", "ClusterRoleBinding", "MutatingWebhookConfiguration"];
        let is_of_cluster = document["kind"].as_str().is_some_and(|kind| of_cluster.contains(&kind));
        assert!(is_of_cluster || document["metadata"]["namespace"] == NAMESPACE, "{document}");
        let weight: i32 = annotations["helm.sh/hook-weight"].as_str().context("no weight")?.parse()?;
        order.push((weight, document["kind"].as_str().context("no kind")?));
    }
    order.sort_unstable();
    let kinds: Vec<&str> = order.iter().map(|(_, kind)| *kind).collect();
    // The webhook first: nothing calls a server that is about to go.
    assert_eq!(kinds, [&["MutatingWebhookConfiguration"][..], &ON_THE_NODES].concat());

    let (agents, _) = pod(&rendered, "-agent")?;
    let (pod, container) = pod(&rendered, "-uninstall")?;
    for field in ["nodeSelector", "tolerations"] {
        assert_eq!(pod[field], agents[field], "it goes wherever the agent was");
    }
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(container["command"], json!(["/bin/culvert-install", "uninstall"]));
    assert!(strings(&container["args"]).contains(&"--now"));

    let job = &rendered.one("Job", "-uninstall")?["spec"];
    assert_eq!(job["activeDeadlineSeconds"], 99 + 60);
    let waits = &job["template"]["spec"]["containers"][0];
    assert_eq!(waits["command"], json!(["/bin/culvert-install", "await-uninstall"]));
    for argument in
        ["--daemonset=culvert-uninstall", "--timeout=99s", "--unreachable=fail", "--namespace=culvert-system"]
    {
        assert!(strings(&waits["args"]).contains(&argument), "{waits}");
    }
    assert_eq!(job["template"]["spec"]["securityContext"]["runAsNonRoot"], true);
    Ok(())
}
