// SPDX-License-Identifier: Apache-2.0
//! The injector's Deployment and its rights, and what an upgrade from the first chart keeps.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use culvert_tests::chart::{Chart, KUBERNETES, NAMESPACE, strings};
use serde_json::{Value, json};

use crate::chart::replicas::{deployment, knows, never_all_away};
use crate::chart::{choices, with_webhook as rendered};

const NAME: &str = "-injector";

#[test]
fn the_servers_are_never_all_away_at_once() -> Result<()> {
    never_all_away(&rendered(&json!({}))?, NAME)?;
    let alone = rendered(&json!({ "injector": { "replicas": 1 } }))?;
    assert!(alone.one("PodDisruptionBudget", NAME).is_err(), "a budget of one pod holds up every drain");
    Ok(())
}

#[test]
fn the_api_server_reaches_the_port_that_the_injector_listens_on() -> Result<()> {
    let rendered = rendered(&json!({}))?;
    let (deployment, container) = deployment(&rendered, NAME)?;
    let service = rendered.one("Service", NAME)?;
    assert!(knows(&service["spec"]["selector"], &deployment["spec"]["template"]["metadata"]["labels"]));
    let port = |name: &str| -> Result<(u64, u64)> {
        let of_service = service["spec"]["ports"].as_array().context("no ports")?;
        let outside =
            of_service.iter().find(|port| port["targetPort"] == name).context("not in the Service")?;
        let of_pod = container["ports"].as_array().context("no ports")?;
        let inside = of_pod.iter().find(|port| port["name"] == name).context("not in the pod")?;
        Ok((outside["port"].as_u64().context("no")?, inside["containerPort"].as_u64().context("no")?))
    };
    // 443 and 10250: what the API server of a private GKE cluster may reach.
    assert_eq!((port("webhook")?, port("status")?), ((443, 10250), (15090, 15090)));
    let arguments = strings(&container["args"]);
    for expected in [
        "--listen=[::]:10250",
        "--status-address=:15090",
        "--service=culvert-injector.culvert-system",
        "--secret=culvert-injector",
        "--webhook=culvert-injector",
        "--sidecar=native",
        "--conflist=/etc/culvert/node.conflist",
    ] {
        assert!(arguments.contains(&expected), "{expected} is not in {arguments:?}");
    }
    let image = container["image"].as_str().context("no image")?;
    assert!(arguments.contains(&format!("--image={image}").as_str()), "sidecars of another image");
    Ok(())
}

#[test]
fn the_sidecar_is_native_where_the_cluster_has_that() -> Result<()> {
    for kubernetes in KUBERNETES {
        for (value, expected) in [
            ("auto", if kubernetes == "1.28" { "plain" } else { "native" }),
            ("plain", "plain"),
            ("native", "native"),
        ] {
            let rendered = Chart::here()?
                .render(&json!({ "injector": { "mode": "webhook", "sidecar": value } }), kubernetes)?;
            let (_, container) = deployment(&rendered, NAME)?;
            let argument = format!("--sidecar={expected}");
            assert!(strings(&container["args"]).contains(&argument.as_str()), "{value} on {kubernetes}");
            // A plain sidecar would keep the test's pod from ending.
            assert_eq!(rendered.one("Pod", "-test").is_ok(), expected == "native", "{value} on {kubernetes}");
        }
    }
    Ok(())
}

#[test]
fn the_injector_and_the_tests_pod_pass_restricted_and_openshifts_constraints() -> Result<()> {
    for (platform, uids) in [("containerd", [5678, 65532]), ("openshift", [0, 0])] {
        let rendered = rendered(&json!({ "platform": platform }))?;
        let (of_injector, _) = deployment(&rendered, NAME)?;
        let pods = [&of_injector["spec"]["template"]["spec"], &rendered.one("Pod", "-test")?["spec"]];
        for (pod, uid) in pods.into_iter().zip(uids) {
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{platform}");
            assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{platform}");
            // OpenShift gives the uid, and refuses one that is not of the namespace's range.
            let expected = if uid == 0 { Value::Null } else { json!(uid) };
            assert_eq!(
                (&security["runAsUser"], &security["runAsGroup"]),
                (&expected, &expected),
                "{platform}"
            );
            assert!(pod["containers"][0]["securityContext"].get("runAsUser").is_none(), "{platform}");
        }
        let job = &rendered.one("Job", "-uninstall")?["spec"]["template"]["spec"]["securityContext"];
        assert_eq!(job["runAsUser"].is_null(), platform == "openshift");
    }
    Ok(())
}

/// Rights as `verb resource`, with the only name where there is one.
pub(in crate::chart) fn rights(role: &Value) -> BTreeSet<String> {
    let mut may = BTreeSet::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        let name = strings(&rule["resourceNames"]).join(",");
        for group in strings(&rule["apiGroups"]) {
            for resource in strings(&rule["resources"]) {
                for verb in strings(&rule["verbs"]) {
                    may.insert(format!("{verb} {group}/{resource} {name}").trim_end().to_owned());
                }
            }
        }
    }
    may
}

#[test]
fn the_injector_may_do_what_the_page_says_and_nothing_else() -> Result<()> {
    let rendered = rendered(&json!({}))?;
    let set = |all: &[&str]| all.iter().map(|&right| right.to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(
        rights(rendered.one("Role", NAME)?),
        set(&["create /secrets", "get /secrets culvert-injector", "update /secrets culvert-injector"])
    );
    let configuration = "admissionregistration.k8s.io/mutatingwebhookconfigurations culvert-injector";
    assert_eq!(
        rights(rendered.one("ClusterRole", NAME)?),
        set(&[
            &format!("get {configuration}"),
            &format!("patch {configuration}"),
            "get /namespaces",
            "list /namespaces",
            "watch /namespaces",
            "create /events",
        ])
    );
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        let binding = rendered.one(kind, NAME)?;
        let role = kind.trim_end_matches("Binding");
        assert_eq!(
            (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]),
            (&json!(role), &json!("culvert-injector"))
        );
        let account =
            json!([{ "kind": "ServiceAccount", "name": "culvert-injector", "namespace": NAMESPACE }]);
        assert_eq!(binding["subjects"], account);
    }
    let page = Chart::file("OPERATIONS.md")?;
    for row in [
        "| secrets: create; get, update of one name |",
        "| mutatingwebhookconfigurations: get, patch of one name |",
        "| namespaces: get, list, watch |",
        "| events: create |",
    ] {
        assert!(page.contains(row), "{row} is not in OPERATIONS.md");
    }
    Ok(())
}

#[test]
fn the_injector_decides_by_the_nodes_defaults_and_starts_anew_when_they_change() -> Result<()> {
    let read = |values: &Value| -> Result<(Value, Value)> {
        let rendered = rendered(values)?;
        let text = rendered.one("ConfigMap", "-entry")?["data"]["node.conflist"].as_str().context("none")?;
        let (deployment, container) = deployment(&rendered, NAME)?;
        let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().context("no volumes")?;
        // The file that the argument names.
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/etc/culvert");
        assert_eq!(
            volumes[0]["configMap"]["items"],
            json!([{ "key": "node.conflist", "path": "node.conflist" }])
        );
        let checksum = &deployment["spec"]["template"]["metadata"]["annotations"]["checksum/entry"];
        Ok((serde_json::from_str(text)?, checksum.clone()))
    };
    let (plain, first) = read(&json!({}))?;
    assert_eq!(plain["plugins"], json!([{ "type": "culvert-cni", "redirect": {}, "locked": [] }]));
    let entry = json!({ "redirect": { "proxyUid": 4294967294u32 }, "locked": ["proxyUid"] });
    let (changed, second) = read(&json!({ "entry": entry }))?;
    assert_eq!(changed["plugins"][0]["redirect"], entry["redirect"]);
    assert_eq!(changed["plugins"][0]["locked"], entry["locked"]);
    assert_ne!(first, second);
    Ok(())
}

#[test]
fn nothing_of_the_webhook_is_made_where_it_is_off() -> Result<()> {
    let text = rendered(&json!({ "injector": { "enabled": false }, "networkPolicy": { "enabled": true },
                                 "monitoring": { "serviceMonitor": { "enabled": true } } }))?
    .text;
    for word in ["culvert-injector", "MutatingWebhookConfiguration", "ServiceMonitor", "helm.sh/hook: test"] {
        assert!(!text.contains(word), "{word} in {text}");
    }
    Ok(())
}

/// Kubernetes lets no upgrade change a selector, and another name is another object: the old agents would go first.
#[test]
fn an_upgrade_from_the_first_chart_keeps_the_agents() -> Result<()> {
    for (name, values) in choices()? {
        let rendered = rendered(&values)?;
        let agents = rendered.one("DaemonSet", "-agent").context(name.clone())?;
        assert_eq!(agents["apiVersion"], "apps/v1");
        assert_eq!(agents["metadata"]["name"], "culvert-agent", "{name}");
        let selector = json!({ "matchLabels": {
            "app.kubernetes.io/name": "culvert", "app.kubernetes.io/instance": "culvert",
            "app.kubernetes.io/component": "agent" } });
        assert_eq!(agents["spec"]["selector"], selector, "{name}");
        for (kind, object) in [
            ("ConfigMap", "culvert-entry"),
            ("ServiceAccount", "culvert-agent"),
            ("ClusterRole", "culvert-agent"),
            ("ClusterRoleBinding", "culvert-agent"),
        ] {
            assert_eq!(rendered.one(kind, object)?["metadata"]["name"], object, "{name}");
        }
        // No Service, Deployment or budget of the chart takes an agent for its own.
        let labels = &agents["spec"]["template"]["metadata"]["labels"];
        for document in &rendered.documents {
            let of_others = match document["kind"].as_str() {
                Some("Service") => &document["spec"]["selector"],
                Some("Deployment" | "PodDisruptionBudget") => &document["spec"]["selector"]["matchLabels"],
                _ => continue,
            };
            assert!(!knows(of_others, labels), "{name}: {document}");
        }
    }
    Ok(())
}
