// SPDX-License-Identifier: Apache-2.0
//! Pods that have their sidecar, and were changed by another program in between.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::pods::Shape;
use super::shapes::{are_equal, differing};
use super::sides::{Namespace, Outcome, Settings, by_policy};

/// A pod with a probe, as the policies leave it.
fn injected(settings: &Settings) -> Result<Value> {
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" }, "spec": { "containers": [{
        "name": "web", "image": "web:1", "ports": [{ "name": "http", "containerPort": 8080 }],
        "readinessProbe": { "httpGet": { "port": "http", "path": "/ready" } } }] } });
    match by_policy(settings, &[(pod, Namespace::enabled())])?.remove(0) {
        // Its option with the probes is JSON by now.
        Outcome::Injected(mut pod) => {
            let list = if settings.sidecar == "native" { "initContainers" } else { "containers" };
            let args = pod["spec"][list][0]["args"].as_array_mut().context("no arguments")?;
            args.iter_mut()
                .filter(|arg| arg.is_object())
                .for_each(|arg| *arg = format!("--app-probes={arg}").into());
            Ok(pod)
        }
        other => anyhow::bail!("{other:?}"),
    }
}

/// The same pod, changed by each of several programs.
fn changed(pod: &Value, list: &str) -> Vec<Shape> {
    let change = |title: &str, change: &dyn Fn(&mut Value)| {
        let mut pod = pod.clone();
        change(&mut pod);
        let (title, namespace) = (title.to_owned(), Namespace::enabled());
        Shape { title, expected: String::new(), pod, namespace, differs: None }
    };
    let insert = |pod: &mut Value, list: &str, place: usize, container: Value| {
        if let Some(list) = pod["spec"][list].as_array_mut() {
            list.insert(place, container);
        }
    };
    let annotate = |name: &'static str, value: &'static str| {
        move |pod: &mut Value| pod["metadata"]["annotations"][name] = value.into()
    };
    let remove = |name: &'static str| {
        move |pod: &mut Value| {
            _ = pod["metadata"]["annotations"].as_object_mut().and_then(|all| all.remove(name))
        }
    };
    let probed = json!({ "name": "late", "image": "l:1", "livenessProbe": { "tcpSocket": { "port": 9 }, "timeoutSeconds": 2 } });
    let nameless =
        json!({ "name": "late", "image": "l:1", "livenessProbe": { "tcpSocket": { "port": "none" } } });
    vec![
        change("nothing", &|_| {}),
        change("another one is first", &|pod| {
            insert(pod, list, 0, json!({ "name": "first", "image": "f:1" }))
        }),
        change("two others are first", &|pod| {
            insert(pod, list, 0, json!({ "name": "first", "image": "f:1" }));
            insert(pod, list, 0, probed.clone());
        }),
        change("a probe comes late", &|pod| insert(pod, "containers", 1, probed.clone())),
        change("a probe without its port", &|pod| insert(pod, "containers", 1, nameless.clone())),
        change("an application as the sidecar", &|pod| {
            insert(
                pod,
                "containers",
                1,
                json!({ "name": "late", "image": "l:1", "securityContext": { "runAsUser": 5678 } }),
            );
        }),
        change("annotations are gone", &|pod| {
            remove("culvert.dev/ip-family")(pod);
            remove("culvert.dev/redirect")(pod);
        }),
        change("another status port", &annotate("culvert.dev/status-port", "16020")),
        change("another uid", &annotate("culvert.dev/proxy-uid", "99")),
        change("IPv4 alone", &annotate("culvert.dev/ip-family", "ipv4")),
        change("a dataplane", &annotate("inject.culvert.dev/dataplane", "web.shop")),
        change("a misspelt option", &annotate("inject.culvert.dev/datoplane", "web.shop")),
        change("the application's own port", &|pod| {
            insert(
                pod,
                "containers",
                1,
                json!({ "name": "late", "image": "l:1", "ports": [{ "containerPort": 15001 }] }),
            );
        }),
        change("a port comes late", &|pod| {
            let ports = json!([{ "containerPort": 9090 }]);
            insert(pod, "containers", 1, json!({ "name": "late", "image": "l:1", "ports": ports }));
        }),
        change("a port and a probe come late", &|pod| {
            let mut late = probed.clone();
            late["ports"] = json!([{ "name": "late", "containerPort": 9 }]);
            insert(pod, "containers", 0, late);
        }),
    ]
}

#[test]
fn policies_and_the_program_put_right_what_others_changed() -> Result<()> {
    for (sidecar, list) in [("native", "initContainers"), ("plain", "containers")] {
        let [plain, controlled] = [Settings::of(sidecar), Settings::controlled(sidecar)];
        for (first, second) in
            [(&plain, &plain), (&controlled, &controlled), (&plain, &controlled), (&controlled, &plain)]
        {
            let pod = injected(first)?;
            are_equal(second, &changed(&pod, list)).with_context(|| sidecar)?;
        }
    }
    Ok(())
}

/// The sidecar is told the ports of the pod as it comes to be.
#[test]
fn policies_tell_a_sidecar_of_ports_that_come_late() -> Result<()> {
    let settings = Settings::controlled("native");
    let pod = injected(&settings)?;
    let all = changed(&pod, "initContainers");
    let late = all.into_iter().find(|shape| shape.title == "a port comes late").context("no such change")?;
    let Outcome::Injected(pod) = by_policy(&settings, &[(late.pod, late.namespace)])?.remove(0) else {
        anyhow::bail!("it is not changed")
    };
    let args = pod["spec"]["initContainers"][0]["args"].as_array().context("no arguments")?;
    ensure!(args.contains(&json!("--pod-ports=http:8080,9090")), "{args:?}");
    Ok(())
}

/// The program takes the old handler out of the sidecar's arguments, which a policy cannot read.
#[test]
fn policies_refuse_a_probe_that_replaces_a_rewritten_one() -> Result<()> {
    let settings = Settings::of("native");
    let mut pod = injected(&settings)?;
    pod["spec"]["containers"][0]["readinessProbe"] = json!({ "tcpSocket": { "port": 80 } });
    let (title, namespace) = ("web".to_owned(), Namespace::enabled());
    let shape = Shape { title, expected: String::new(), pod, namespace, differs: None };
    let found = differing(&settings, &[shape])?;
    let [policy, program] = &found["web"];
    ensure!(
        matches!(policy, Outcome::Refused(words) if words.contains("was rewritten, and is another one now")),
        "{policy:?}"
    );
    ensure!(matches!(program, Outcome::Injected(_)), "{program:?}");
    Ok(())
}
