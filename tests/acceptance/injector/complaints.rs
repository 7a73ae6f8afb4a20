// SPDX-License-Identifier: Apache-2.0
//! The things that users of other meshes' injectors complain about most, each shown to be otherwise here.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::api_server::Fault;
use culvert_tests::eventually;
use serde_json::{Value, json};

use super::{CONFIGURATION, Cluster, SIDECAR, SOON, configuration, names, patched, pod, review, token};

#[test]
fn neither_the_injectors_own_pods_nor_the_clusters_wait_for_a_sidecar() -> Result<()> {
    let cluster = Cluster::new()?;
    // Labelled by mistake, which must not keep the cluster from starting again.
    for name in ["mesh", "kube-system"] {
        cluster.server.namespace(name, &[("culvert.dev/inject", "enabled")], &[]);
    }
    let injector = cluster.injector(&["--exclude-namespace", "storage"])?;
    cluster.server.namespace("storage", &[("culvert.dev/inject", "enabled")], &[]);
    for name in ["mesh", "kube-system", "kube-public", "kube-node-lease", "storage"] {
        cluster.server.namespace(name, &[("culvert.dev/inject", "enabled")], &[]);
        let mut pod = pod();
        pod["metadata"]["namespace"] = name.into();
        assert_eq!(cluster.admitted(&injector, &pod)?, pod, "{name}");
    }
    Ok(())
}

#[test]
fn no_failure_of_its_own_lets_a_pod_run_bare() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut late = pod();
    late["metadata"]["namespace"] = "late".into();
    for fault in [Fault::Status(500, None), Fault::Silence, Fault::Close, Fault::Garbage] {
        cluster.server.fail_next("/namespaces/late", fault.clone());
        // Dry, or the event about it would meet the next failure.
        let mut review = review(&late);
        review["request"]["dryRun"] = true.into();
        let response = cluster.review(&injector, &review)?;
        assert_eq!(response["allowed"], false, "{fault:?}: {response}");
        assert_eq!(response["status"]["code"], 503, "{fault:?}: {response}");
        let message = response["status"]["message"].as_str().context("a message")?;
        ensure!(message.contains("\"late\"") && message.contains("try again"), "{fault:?}: {message}");
    }
    // The API server away after the list: what is known stays in use.
    cluster.server.away(true);
    let injected = cluster.admitted(&injector, &pod())?;
    assert_eq!(names(&injected, "initContainers"), [SIDECAR]);
    assert_eq!(injector.page("/ready")?.status, 200, "the last replica must not leave its Service");
    Ok(())
}

#[test]
fn a_label_that_the_watch_has_yet_to_bring_counts() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    eventually!(cluster.server.watches() == 1, SOON);
    // The API server calls for the label that it has seen already; here no watch tells of it.
    cluster.server.namespace_unseen("plain", &[("culvert.dev/inject", "enabled")]);
    cluster.server.namespace_unseen("brand-new", &[("culvert.dev/inject", "enabled")]);
    for name in ["plain", "brand-new"] {
        let mut pod = pod();
        pod["metadata"]["namespace"] = name.into();
        assert_eq!(names(&cluster.admitted(&injector, &pod)?, "initContainers"), [SIDECAR], "{name}");
    }
    // And one that was taken away counts no more, once the watch has told.
    cluster.server.namespace("shop", &[], &[]);
    eventually!(cluster.admitted(&injector, &pod()).is_ok_and(|after| after == pod()), SOON);
    Ok(())
}

#[test]
fn nothing_but_the_bundles_of_its_own_webhooks_changes_in_the_configuration() -> Result<()> {
    let cluster = Cluster::new()?;
    let _injector = cluster.injector(&[])?;
    let mut now = cluster.server.object_at(CONFIGURATION).context("the configuration")?;
    assert_eq!(
        now["webhooks"][0]["clientConfig"]["caBundle"],
        now["webhooks"][1]["clientConfig"]["caBundle"]
    );
    for webhook in now["webhooks"].as_array_mut().context("webhooks")?.iter_mut().take(2) {
        webhook["clientConfig"]
            .as_object_mut()
            .context("a client")?
            .remove("caBundle")
            .context("a bundle")?;
    }
    now["metadata"].as_object_mut().context("metadata")?.remove("resourceVersion");
    assert_eq!(now, configuration());
    Ok(())
}

#[test]
fn the_sidecar_is_the_first_init_container_and_becomes_it_again() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut bare = pod();
    bare["spec"]["initContainers"] = json!([{ "name": "migrate", "image": "registry.example.com/migrate" }]);
    let mut injected = cluster.admitted(&injector, &bare)?;
    assert_eq!(names(&injected, "initContainers"), [SIDECAR, "migrate"]);
    assert_eq!(injected["spec"]["initContainers"][0]["restartPolicy"], "Always");
    let agent = json!({ "name": "vault-agent-init", "image": "registry.example.com/vault" });
    injected["spec"]["initContainers"].as_array_mut().context("a list")?.insert(0, agent);
    let after = cluster.admitted(&injector, &injected)?;
    assert_eq!(names(&after, "initContainers"), [SIDECAR, "vault-agent-init", "migrate"]);
    Ok(())
}

#[test]
fn the_second_call_for_a_pod_as_the_api_server_changed_it_is_empty() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut injected = cluster.admitted(&injector, &pod())?;
    // ServiceAccount's admission runs again behind us: it gives a token to each container that has nothing at that path.
    let mount = |container: &mut Value| {
        let path = token("")["mountPath"].clone();
        if container.get("volumeMounts").is_none() {
            container["volumeMounts"] = json!([]);
        }
        let mounts = container["volumeMounts"].as_array_mut().expect("a list");
        if !mounts.iter().any(|mount| mount["mountPath"] == path) {
            mounts.push(token("kube-api-access-abcde"));
        }
    };
    for list in ["initContainers", "containers"] {
        injected["spec"][list].as_array_mut().context("a list")?.iter_mut().for_each(mount);
    }
    let sidecar = &injected["spec"]["initContainers"][0];
    let mounts = sidecar["volumeMounts"].as_array().context("mounts")?;
    ensure!(
        mounts.iter().all(|mount| mount["name"] != "kube-api-access-abcde"),
        "the sidecar has the API token"
    );
    let again = cluster.review(&injector, &review(&injected))?;
    assert_eq!(again, json!({ "uid": again["uid"], "allowed": true }));
    assert_eq!(injector.metric("culvert_injector_reviews_total{outcome=\"Again\",reason=\"Same\"}")?, 1.0);
    Ok(())
}

#[test]
fn containers_of_a_later_webhook_have_their_probes_rewritten_too() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut injected = cluster.admitted(&injector, &pod())?;
    let late = json!({ "name": "late", "image": "registry.example.com/late",
                       "livenessProbe": { "tcpSocket": { "port": 9999 } } });
    injected["spec"]["containers"].as_array_mut().context("a list")?.push(late);
    let after = cluster.admitted(&injector, &injected)?;
    let probe = &after["spec"]["containers"][1]["livenessProbe"]["httpGet"];
    ensure!(probe["path"].as_str().is_some_and(|path| path.starts_with("/app-health/")), "{after}");
    let option = app_probes(&after)?;
    ensure!(option.as_object().context("an object")?.len() == 2, "the first probe is still there: {option}");
    assert_eq!(cluster.admitted(&injector, &after)?, after);
    Ok(())
}

fn app_probes(pod: &Value) -> Result<Value> {
    let args = pod["spec"]["initContainers"][0]["args"].as_array().context("arguments")?;
    let option = args.iter().find_map(|arg| arg.as_str()?.strip_prefix("--app-probes="));
    Ok(serde_json::from_str(option.context("--app-probes")?)?)
}

#[test]
fn every_kind_of_probe_and_hook_of_every_container_is_rewritten() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let ways = [
        json!({ "httpGet": { "path": "/", "port": 8080 } }),
        json!({ "httpGet": { "path": "/", "port": "http", "scheme": "HTTPS" } }),
        json!({ "tcpSocket": { "port": 8080 } }),
    ];
    let grpc = json!({ "grpc": { "port": 8080 } });
    let handlers: Vec<(&str, &Value)> = ["readinessProbe", "livenessProbe", "startupProbe"]
        .into_iter()
        .flat_map(|probe| ways.iter().chain([&grpc]).map(move |way| (probe, way)))
        .chain(["postStart", "preStop"].into_iter().flat_map(|hook| ways.iter().map(move |way| (hook, way))))
        .collect();
    for (field, way) in handlers {
        let mut pod = pod();
        let container = &mut pod["spec"]["containers"][0];
        container.as_object_mut().context("an object")?.remove("readinessProbe");
        let pointer = if field.ends_with("Probe") {
            container[field] = way.clone();
            format!("/spec/containers/0/{field}")
        } else {
            container["lifecycle"] = json!({ field: way });
            format!("/spec/containers/0/lifecycle/{field}")
        };
        let after = cluster.admitted(&injector, &pod)?;
        let handler = after.pointer(&pointer).context("a handler")?;
        let path = handler["httpGet"]["path"].as_str().unwrap_or_default();
        ensure!(path.starts_with("/app-health/"), "{field} {way}: {handler}");
        ensure!(app_probes(&after)?[path].is_object(), "{field} {way}: {after}");
    }
    Ok(())
}

#[test]
fn the_sidecar_has_each_field_that_restricted_namespaces_ask_for() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let after = cluster.admitted(&injector, &pod())?;
    let security = &after["spec"]["initContainers"][0]["securityContext"];
    for (field, value) in [
        ("runAsNonRoot", json!(true)),
        ("allowPrivilegeEscalation", json!(false)),
        ("readOnlyRootFilesystem", json!(true)),
        ("capabilities", json!({ "drop": ["ALL"] })),
        ("seccompProfile", json!({ "type": "RuntimeDefault" })),
    ] {
        assert_eq!(security[field], value, "{field}");
    }
    let kinds = [
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    ];
    for volume in after["spec"]["volumes"].as_array().context("volumes")? {
        ensure!(kinds.iter().any(|kind| volume.get(kind).is_some()), "{volume}");
    }
    Ok(())
}

#[test]
fn on_openshift_the_uid_is_of_the_namespaces_range() -> Result<()> {
    let cluster = Cluster::new()?;
    let range = ("openshift.io/sa.scc.uid-range", "1000980000/10000");
    cluster.server.namespace("shop", &[("culvert.dev/inject", "enabled")], &[range]);
    let injector = cluster.injector(&[])?;
    let after = cluster.admitted(&injector, &pod())?;
    assert_eq!(after["spec"]["initContainers"][0]["securityContext"]["runAsUser"], 1_000_980_001);
    assert_eq!(after["metadata"]["annotations"]["culvert.dev/proxy-uid"], "1000980001");
    Ok(())
}

#[test]
fn resources_are_set_by_the_namespace_and_none_beside_those_of_a_whole_pod() -> Result<()> {
    let cluster = Cluster::new()?;
    let defaults = [("inject.culvert.dev/cpu-limit", "200m"), ("inject.culvert.dev/memory-limit", "64Mi")];
    cluster.server.namespace("shop", &[("culvert.dev/inject", "enabled")], &defaults);
    let injector = cluster.injector(&[])?;
    let resources = |pod: &Value| pod["spec"]["initContainers"][0]["resources"].clone();
    let after = cluster.admitted(&injector, &pod())?;
    assert_eq!(resources(&after)["limits"], json!({ "cpu": "200m", "memory": "64Mi" }));
    cluster.server.namespace("shop", &[("culvert.dev/inject", "enabled")], &[]);
    let mut whole = pod();
    whole["spec"]["resources"] = json!({ "limits": { "cpu": "1" } });
    eventually!(cluster.admitted(&injector, &whole).is_ok_and(|after| resources(&after).is_null()), SOON);
    Ok(())
}

#[test]
fn each_skip_and_refusal_is_told_where_its_author_looks() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    // A ReplicaSet, which asks again and again: one event.
    let mut of_host = pod();
    of_host["spec"]["hostNetwork"] = true.into();
    for _ in 0..3 {
        let response = cluster.review(&injector, &review(&of_host))?;
        ensure!(
            response["warnings"][0].as_str().is_some_and(|text| text.contains("hostNetwork")),
            "{response}"
        );
    }
    // A bare pod by name, refused.
    let mut bare = pod();
    let metadata = bare["metadata"].as_object_mut().context("metadata")?;
    metadata.retain(|key, _| key == "namespace");
    metadata.insert("name".to_owned(), "bare".into());
    metadata.insert("labels".to_owned(), json!({ "culvert.dev/inject": "yes" }));
    let response = cluster.review(&injector, &review(&bare))?;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)));
    let message = response["status"]["message"].as_str().context("a message")?;
    ensure!(message.contains("must be enabled or disabled: it is \"yes\""), "{message}");
    // A dry run writes nothing anywhere.
    let mut dry = review(&bare);
    dry["request"]["dryRun"] = true.into();
    dry["request"]["object"]["metadata"]["name"] = "dry".into();
    assert_eq!(cluster.review(&injector, &dry)?["allowed"], false);
    // The last one: events come in order.
    bare["metadata"]["name"] = "last".into();
    cluster.review(&injector, &review(&bare))?;

    let events = cluster.events(3)?;
    assert_eq!(events.len(), 3, "{events:?}");
    ensure!(
        events[0].starts_with("ReplicaSet/web-6d4f9c SidecarSkipped: no sidecar: hostNetwork"),
        "{events:?}"
    );
    ensure!(
        events[1].starts_with("Pod/bare SidecarRefused: culvert: label culvert.dev/inject"),
        "{events:?}"
    );
    ensure!(events[2].starts_with("Pod/last "), "{events:?}");
    let event = &cluster.server.events()[0];
    assert_eq!(event["involvedObject"]["uid"], "uid-of-web");
    assert_eq!(event["reportingComponent"], "culvert.dev/injector");
    assert_eq!(event["reportingInstance"], "culvert-injector-0");
    // And on the pod itself where there is one.
    let after = cluster.admitted(&injector, &pod())?;
    let words =
        after["metadata"]["annotations"]["inject.culvert.dev/decision"].as_str().context("a decision")?;
    ensure!(words.contains("label culvert.dev/inject: enabled of the namespace"), "{words}");
    Ok(())
}

#[test]
fn a_sidecar_of_another_version_stays_as_it_is() -> Result<()> {
    let cluster = Cluster::new()?;
    let older = cluster.injector(&[])?;
    let injected = cluster.admitted(&older, &pod())?;
    drop(older);
    let newer = cluster.injector_with_image("registry.example.com/culvert:9.9.9")?;
    let response = cluster.review(&newer, &review(&injected))?;
    assert_eq!(response, json!({ "uid": response["uid"], "allowed": true }));
    let fresh = cluster.admitted(&newer, &pod())?;
    assert_eq!(fresh["spec"]["initContainers"][0]["image"], "registry.example.com/culvert:9.9.9");
    // Nothing else of a pod depends on the replica or the time: a manager that compares sees no difference.
    let same = fresh.to_string().replace("registry.example.com/culvert:9.9.9", super::IMAGE);
    assert_eq!(serde_json::from_str::<Value>(&same)?, injected);
    Ok(())
}

#[test]
fn an_update_goes_through_untouched_so_that_finalizers_can_end_a_pod() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let mut wrong = pod();
    wrong["metadata"]["labels"]["culvert.dev/inject"] = "yes".into();
    for (operation, sub) in
        [("UPDATE", ""), ("DELETE", ""), ("CONNECT", "exec"), ("UPDATE", "ephemeralcontainers")]
    {
        let mut review = review(&wrong);
        review["request"]["operation"] = operation.into();
        review["request"]["subResource"] = sub.into();
        let response = cluster.review(&injector, &review)?;
        assert_eq!(response["allowed"], true, "{operation} {sub}: {response}");
        assert_eq!(patched(&wrong, &response)?, wrong, "{operation} {sub}");
        ensure!(response["warnings"][0].as_str().is_some_and(|text| text.contains(operation)), "{response}");
    }
    Ok(())
}

#[test]
fn reviews_are_answered_until_the_end_of_a_replica() -> Result<()> {
    let cluster = Cluster::new()?;
    let injector = cluster.injector(&[])?;
    let body = super::post(review(&pod()).to_string().as_bytes());
    let mut held = cluster.tls(&injector)?;
    culvert_tests::http::exchange(&mut held, &body)?;
    injector.process.signal(rustix::process::Signal::TERM)?;
    eventually!(injector.page("/ready").is_ok_and(|page| page.status == 503), SOON);
    // Not in its Service any more, but an API server may not have heard: old and new connections are answered.
    assert_eq!(culvert_tests::http::exchange(&mut held, &body)?.status, 200);
    assert_eq!(cluster.review(&injector, &review(&pod()))?["allowed"], true);
    let mut process = injector.process;
    let status = process.wait(Duration::from_secs(15))?;
    ensure!(status.success(), "{status}");
    Ok(())
}
