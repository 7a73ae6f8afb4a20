// SPDX-License-Identifier: Apache-2.0
//! The controller's Deployment, its rights, and the way from sidecars to it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{Chart, KUBERNETES, NAMESPACE, Rendered, repository, strings};
use culvert_tests::process::binaries::Binaries;
use serde_json::{Value, json};

use super::injection::injector::rights;
use super::rendered;
use super::replicas::{deployment, knows, never_all_away};

const NAME: &str = "-controller";

fn controlled() -> Result<Rendered> {
    rendered(&json!({ "controller": { "enabled": true } }))
}

#[test]
fn nothing_of_it_is_made_unless_it_is_asked_for() -> Result<()> {
    for mode in ["policy", "webhook"] {
        let text = rendered(&json!({ "injector": { "mode": mode }, "networkPolicy": { "enabled": true },
                                     "monitoring": { "serviceMonitor": { "enabled": true } } }))?
        .text;
        for word in ["culvert-controller", "customresourcedefinitions", "--control=https"] {
            assert!(!text.contains(word), "{word} in {text}");
        }
    }
    Ok(())
}

#[test]
fn its_replicas_are_never_all_away_at_once() -> Result<()> {
    let rendered = controlled()?;
    assert_eq!(deployment(&rendered, NAME)?.0["metadata"]["name"], "culvert-controller");
    never_all_away(&rendered, NAME)?;
    let alone = super::rendered(&json!({ "controller": { "enabled": true, "replicas": 1 } }))?;
    assert!(alone.one("PodDisruptionBudget", NAME).is_err(), "a budget of one pod holds up every drain");
    Ok(())
}

/// Pod Security's `restricted`, an API token, and no redirect of its own.
#[test]
fn its_pods_have_no_right_on_their_node_and_stand_outside_of_the_mesh() -> Result<()> {
    for (platform, uid) in [("containerd", json!(5678)), ("openshift", Value::Null)] {
        let rendered = rendered(&json!({ "controller": { "enabled": true }, "platform": platform }))?;
        let (deployment, container) = deployment(&rendered, NAME)?;
        let template = &deployment["spec"]["template"];
        let security = &template["spec"]["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{platform}");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{platform}");
        assert_eq!((&security["runAsUser"], &security["runAsGroup"]), (&uid, &uid), "{platform}");
        assert_eq!(
            container["securityContext"],
            json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] } })
        );
        assert_eq!(template["spec"]["serviceAccountName"], "culvert-controller");
        assert_eq!(template["spec"]["automountServiceAccountToken"], true);
        assert!(template["spec"].get("volumes").is_none(), "{template}");
        assert_eq!(template["metadata"]["labels"]["culvert.dev/inject"], "disabled");
        assert_eq!(template["metadata"]["annotations"]["culvert.dev/redirect"], "disabled");
        // The holder of the Lease.
        let name =
            json!([{ "name": "HOSTNAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
        assert_eq!(container["env"], name);
    }
    Ok(())
}

#[test]
fn sidecars_are_told_the_name_and_the_port_that_it_serves() -> Result<()> {
    let values = |mode: &str| json!({ "controller": { "enabled": true, "trustDomain": "mesh.example" }, "injector": { "mode": mode } });
    let by_webhook = rendered(&values("webhook"))?;
    let (of_controller, container) = deployment(&by_webhook, NAME)?;
    let service = by_webhook.one("Service", NAME)?;
    assert_eq!(service["spec"]["publishNotReadyAddresses"], false);
    assert!(knows(&service["spec"]["selector"], &of_controller["spec"]["template"]["metadata"]["labels"]));
    let ports = service["spec"]["ports"].as_array().context("no ports")?;
    let port = ports.iter().find(|port| port["targetPort"] == "control").context("no port for sidecars")?;
    let of_pod = container["ports"].as_array().context("no ports")?;
    let inside = of_pod.iter().find(|port| port["name"] == "control").context("not in the pod")?;
    assert_eq!(inside["containerPort"], 15012);
    assert_eq!(
        strings(&container["args"]),
        [
            "--listen=[::]:15012",
            "--status-address=:15090",
            "--service=culvert-controller.culvert-system",
            "--trust-domain=mesh.example",
            "--identity-life=24h",
            "--crds=auto",
            "--secret=culvert-authority",
            "--identity=stream",
        ]
    );

    let name = service["metadata"]["name"].as_str().context("no name")?;
    let url = format!("https://{name}.{NAMESPACE}.svc:{}", port["port"]);
    let injector = &by_webhook.one("Deployment", "-injector")?["spec"]["template"]["spec"]["containers"][0];
    let arguments = strings(&injector["args"]);
    for expected in [format!("--control={url}"), "--trust-domain=mesh.example".to_owned()] {
        assert!(arguments.contains(&expected.as_str()), "{expected} is not in {arguments:?}");
    }
    let by_policy = rendered(&values("policy"))?;
    for kind in ["MutatingAdmissionPolicy", "ValidatingAdmissionPolicy"] {
        let variables = by_policy.one(kind, "-injector")?["spec"]["variables"].as_array().context("none")?;
        let of = |name: &str| {
            let variable = variables.iter().find(|variable| variable["name"] == name)?;
            serde_json::from_str::<String>(variable["expression"].as_str()?).ok()
        };
        assert_eq!(of("control").as_ref(), Some(&url), "{kind}");
        assert_eq!(of("controlDomain").as_deref(), Some("mesh.example"), "{kind}");
    }
    Ok(())
}

#[test]
fn a_release_of_another_name_has_a_controller_of_another_name() -> Result<()> {
    let values = json!({ "controller": { "enabled": true }, "injector": { "mode": "webhook" } });
    let rendered = Chart::here()?.render_as("blue", "mesh", &values, "1.37")?;
    let text = &rendered.text;
    for expected in
        ["--service=blue-culvert-controller.mesh", "--control=https://blue-culvert-controller.mesh.svc:15012"]
    {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    assert_eq!(rendered.one("Service", NAME)?["metadata"]["name"], "blue-culvert-controller");
    Ok(())
}

/// The name of a constant in the controller's own text.
fn constant(file: &str, name: &str) -> Result<String> {
    let text = fs::read_to_string(repository().join("install/src/controller").join(file))?;
    let (_, rest) = text.split_once(&format!("const {name}: &str = \"")).with_context(|| name.to_owned())?;
    Ok(rest.split_once('"').context("no end")?.0.to_owned())
}

#[test]
fn it_may_do_what_the_page_says_and_nothing_else() -> Result<()> {
    let rendered = controlled()?;
    let set = |all: &[&str]| all.iter().map(|&right| right.to_owned()).collect::<BTreeSet<_>>();
    let lease = constant("keep/lease.rs", "NAME")?;
    let leases = "coordination.k8s.io/leases";
    let of_namespace = [
        &format!("create {leases}"),
        &format!("get {leases} {lease}"),
        &format!("update {leases} {lease}"),
        "create /secrets",
        "get /secrets culvert-authority",
        "update /secrets culvert-authority",
    ];
    assert_eq!(rights(rendered.one("Role", NAME)?), set(&of_namespace));
    let map = constant("keep/written.rs", "CONFIG_MAP")?;
    let mut of_cluster = set(&[
        "list kuma.io/*",
        "watch kuma.io/*",
        "create kuma.io/meshes",
        "patch kuma.io/*/status",
        "create /events",
        "create authentication.k8s.io/tokenreviews",
        "create /configmaps",
        &format!("get /configmaps {map}"),
        &format!("patch /configmaps {map}"),
        &format!("delete /configmaps {map}"),
        "list discovery.k8s.io/endpointslices",
        "watch discovery.k8s.io/endpointslices",
    ]);
    for resource in ["pods", "services", "namespaces"] {
        of_cluster.extend(["list", "watch"].map(|verb| format!("{verb} /{resource}")));
    }
    let kinds = "apiextensions.k8s.io/customresourcedefinitions";
    let with_kinds = ["list", "create", "patch"].map(|verb| format!("{verb} {kinds}"));
    let all = of_cluster.iter().cloned().chain(with_kinds).collect::<BTreeSet<_>>();
    assert_eq!(rights(rendered.one("ClusterRole", NAME)?), all);
    let never =
        super::rendered(&json!({ "controller": { "enabled": true, "crds": "never", "secret": "own" } }))?;
    assert_eq!(rights(never.one("ClusterRole", NAME)?), of_cluster);
    assert!(rights(never.one("Role", NAME)?).contains("get /secrets own"));
    for kind in ["RoleBinding", "ClusterRoleBinding"] {
        let binding = rendered.one(kind, NAME)?;
        let role = kind.trim_end_matches("Binding");
        assert_eq!(
            (&binding["roleRef"]["kind"], &binding["roleRef"]["name"]),
            (&json!(role), &json!("culvert-controller"))
        );
        let account =
            json!([{ "kind": "ServiceAccount", "name": "culvert-controller", "namespace": NAMESPACE }]);
        assert_eq!(binding["subjects"], account);
    }
    Ok(())
}

/// Of the signer, and of nobody else's certificates.
#[test]
fn it_signs_for_the_api_only_where_that_is_asked_for() -> Result<()> {
    let values = |mode: &str| json!({ "controller": { "enabled": true }, "identity": { "mode": mode } });
    let identity = constant("../inject/identity.rs", "SIGNER")?;
    let bundle = constant("../inject/identity.rs", "TRUST_BUNDLE")?;
    let group = "certificates.k8s.io";
    let of_requests = BTreeSet::from([
        format!("list {group}/podcertificaterequests"),
        format!("watch {group}/podcertificaterequests"),
        format!("patch {group}/podcertificaterequests/status"),
        format!("sign {group}/signers {identity}"),
        format!("attest {group}/signers {identity}"),
        format!("create {group}/clustertrustbundles"),
        format!("patch {group}/clustertrustbundles {bundle}"),
    ]);
    let without = rights(rendered(&values("stream"))?.one("ClusterRole", NAME)?);
    let with = rights(rendered(&values("requests"))?.one("ClusterRole", NAME)?);
    assert_eq!(with.difference(&without).cloned().collect::<BTreeSet<_>>(), of_requests);
    assert!(without.is_subset(&with));
    assert_eq!(rights(rendered(&values("directory"))?.one("ClusterRole", NAME)?), without);
    for mode in ["stream", "requests", "directory"] {
        let mut values = values(mode);
        values["injector"]["mode"] = "webhook".into();
        let rendered = rendered(&values)?;
        for name in [NAME, "-injector"] {
            let args =
                &rendered.one("Deployment", name)?["spec"]["template"]["spec"]["containers"][0]["args"];
            assert!(strings(args).contains(&format!("--identity={mode}").as_str()), "{args}");
        }
        values["injector"]["mode"] = "policy".into();
        values["controller"]["enabled"] = false.into();
        let alone = super::rendered(&values);
        assert_eq!(alone.is_ok(), mode == "stream", "{mode}");
        if let Err(error) = alone {
            assert!(format!("{error:#}").contains("set controller.enabled"), "{error:#}");
        }
    }
    Ok(())
}

/// By the schema of the first Kubernetes that has the volume by default: a misspelt field would be dropped in silence.
#[test]
fn a_pod_that_its_kubelet_gives_an_identity_is_valid() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (before, after) = (folder.path().join("web.yaml"), folder.path().join("injected.yaml"));
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
                      "spec": { "containers": [{ "name": "web", "image": "web:1" }] } });
    fs::write(&before, pod.to_string())?;
    let mut command = Command::new(&Binaries::built()?.install);
    command.args([
        "inject",
        "--image",
        "culvert:1",
        "--control",
        "https://culvert-controller.mesh.svc:15012",
    ]);
    let said = command.args(["--identity", "requests", "--file"]).arg(&before).output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout)?;
    ensure!(text.contains("podCertificate"), "{text}");
    let newest = KUBERNETES[KUBERNETES.len() - 1];
    fs::write(&after, &text)?;
    Chart::here()?.validate(newest, std::slice::from_ref(&after))?;
    fs::write(&after, text.replace("certificateChainPath", "chainPath"))?;
    ensure!(Chart::here()?.validate(newest, std::slice::from_ref(&after)).is_err(), "any field is taken");
    Ok(())
}

#[test]
fn the_page_has_each_right_and_the_commands_for_what_stays() -> Result<()> {
    let page = Chart::file("OPERATIONS.md")?;
    for row in [
        "| pods, services, namespaces, endpointslices: list, watch |",
        "| every kind of `kuma.io`: list, watch; their status: patch |",
        "| meshes: create |",
        "| events: create |",
        "| tokenreviews: create |",
        "| configmaps: create; get, patch, delete of the name `culvert-mesh` |",
        "| customresourcedefinitions: list, create, patch |",
        "| podcertificaterequests: list, watch; their status: patch |",
        "| signers: sign, attest of the name `culvert.dev/identity` |",
        "| clustertrustbundles: create; patch of the name `culvert.dev:identity:roots` |",
        "| leases: create; get, update of one name |",
        "| secrets: create; get, update of one name | the mesh's authority",
    ] {
        assert!(page.contains(row), "{row} is not in OPERATIONS.md");
    }
    let label =
        format!("{}={}", constant("keep/written.rs", "MANAGED_BY")?, constant("keep/call.rs", "MANAGER")?);
    for command in [
        format!(
            "delete configmaps --all-namespaces --field-selector metadata.name={} --selector {label}",
            constant("keep/written.rs", "CONFIG_MAP")?
        ),
        format!("delete secret/culvert-authority lease/{}", constant("keep/lease.rs", "NAME")?),
        format!("delete customresourcedefinitions --selector {label}"),
    ] {
        assert!(page.contains(&command), "{command} is not in OPERATIONS.md");
    }
    // Nothing of the release takes them: sidecars that run still read them.
    let hooks = controlled()?;
    for document in &hooks.documents {
        let name = document["metadata"]["name"].as_str().unwrap_or_default();
        ensure!(!["culvert-mesh", "culvert-authority"].contains(&name), "{document}");
    }
    Ok(())
}

#[test]
fn every_file_of_values_takes_it() -> Result<()> {
    let chart = Chart::here()?;
    let folder = tempfile::tempdir()?;
    let mut files = Vec::new();
    for (name, mut values) in Chart::value_files()? {
        values["controller"]["enabled"] = true.into();
        // Objects of the Prometheus operator have no schema.
        let rendered = chart.render(&values, KUBERNETES[KUBERNETES.len() - 1]).context(name.clone())?;
        let (deployment, _) = deployment(&rendered, NAME)?;
        let alone = ["kind", "k3d"].contains(&name.as_str());
        assert_eq!(deployment["spec"]["replicas"], if alone { 1 } else { 2 }, "{name}");
        let file = folder.path().join(format!("{name}.yaml"));
        fs::write(&file, rendered.text)?;
        files.push(file);
    }
    chart.validate(KUBERNETES[KUBERNETES.len() - 1], &files)
}

/// The priority class of each server needs the quota where the namespace has one.
#[test]
fn the_quota_knows_its_priority() -> Result<()> {
    let values = json!({ "platform": "gke", "controller": { "enabled": true, "priorityClassName": "mesh" } });
    let quota = rendered(&values)?;
    let scope =
        &quota.one("ResourceQuota", "-critical-pods")?["spec"]["scopeSelector"]["matchExpressions"][0];
    assert!(strings(&scope["values"]).contains(&"mesh"), "{scope}");
    Ok(())
}
