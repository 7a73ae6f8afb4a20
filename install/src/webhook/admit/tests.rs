// SPDX-License-Identifier: Apache-2.0
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::*;
use crate::inject::{KumaLabel, Shape, apply};
use crate::kube::events::Event;
use crate::kube::reflect::Mirror;
use crate::kube::{Events, ObjectMeta};

/// An injector whose watch has listed the namespaces `shop`, which asks for sidecars, and `plain`, which does not. Its API
/// server is away.
fn injector() -> (Injector, Receiver<Event>) {
    let (events, queue) = Events::new();
    let namespaces = Namespaces::default();
    let of = |name: &str, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Namespaces::read(ObjectMeta { name: name.to_owned(), labels: Some(labels), ..ObjectMeta::default() })
    };
    namespaces.replace(vec![
        of("shop", &[("culvert.dev/inject", "enabled"), ("team", "shop")]),
        of("plain", &[("team", "plain")]),
        of("kube-system", &[]),
    ]);
    let metrics = Arc::<Metrics>::default();
    let injector = Injector {
        settings: Settings {
            image: "registry.example.com/culvert:0.1.0".to_owned(),
            shape: Shape::Native,
            excluded: vec!["mesh".to_owned()],
            kuma_label: KumaLabel::On,
            node: culvert_cni::pod::Settings::default(),
            control: None,
        },
        namespaces,
        client: Arc::new(Client::new("127.0.0.1", 1, std::path::Path::new("/does/not/exist"))),
        told: Told::new(events, metrics.events_dropped.clone()),
        metrics,
    };
    (injector, queue)
}

fn pod() -> Value {
    json!({
        "metadata": {
            "generateName": "web-6d4-", "namespace": "shop", "labels": { "app": "web" },
            "ownerReferences": [{ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-6d4",
                                  "uid": "uid-of-web", "controller": true }],
        },
        "spec": { "containers": [{ "name": "web", "image": "web:1" }] },
    })
}

fn review(pod: &Value, more: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut review = json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "the-uid", "namespace": pod["metadata"]["namespace"], "operation": "CREATE",
            "resource": { "group": "", "version": "v1", "resource": "pods" }, "object": pod,
        },
    });
    more(&mut review["request"]);
    review.to_string().into_bytes()
}

async fn asked(injector: &Injector, body: &[u8]) -> Value {
    let answer: Value = serde_json::from_slice(&injector.admit(body).await.unwrap()).unwrap();
    assert_eq!(answer["response"]["uid"], "the-uid");
    answer["response"].clone()
}

fn patched(pod: &Value, response: &Value) -> Value {
    let Some(patch) = response["patch"].as_str() else { return pod.clone() };
    let operations: Vec<Value> = serde_json::from_slice(&STANDARD.decode(patch).unwrap()).unwrap();
    let mut pod = pod.clone();
    for operation in operations {
        let (path, value) = (operation["path"].as_str().unwrap().to_owned(), operation["value"].clone());
        let operation = match operation["op"].as_str().unwrap() {
            "add" => crate::inject::Operation::Add { path, value },
            "replace" => crate::inject::Operation::Replace { path, value },
            _ => crate::inject::Operation::Remove { path },
        };
        apply(&mut pod, &[operation]).expect("the patch fits");
    }
    pod
}

fn count(injector: &Injector, outcome: Outcome, reason: Why) -> u64 {
    injector.metrics.reviews.get_or_create(&super::super::metrics::ReviewLabels { outcome, reason }).get()
}

#[tokio::test]
async fn a_pod_of_a_labelled_namespace_gets_its_sidecar_and_a_second_call_changes_nothing() {
    let (injector, mut events) = injector();
    let response = asked(&injector, &review(&pod(), |_| {})).await;
    assert_eq!((&response["allowed"], &response["patchType"]), (&json!(true), &json!("JSONPatch")));
    let mut injected = patched(&pod(), &response);
    assert_eq!(injected["spec"]["initContainers"][0]["name"], "culvert-sidecar");
    // ServiceAccount's admission runs again behind us, and mounts its token.
    let token =
        json!({ "name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" });
    injected["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "name": "kube-api-access-x", "projected": {} }));
    injected["spec"]["containers"][0]["volumeMounts"] = json!([token]);
    let again = asked(&injector, &review(&injected, |_| {})).await;
    assert_eq!(again, json!({ "uid": "the-uid", "allowed": true }));
    assert_eq!(count(&injector, Outcome::Injected, Why::Label), 1);
    assert_eq!(count(&injector, Outcome::Again, Why::Same), 1);
    assert!(events.try_recv().is_err(), "nobody asks about a pod that has its sidecar");
}

#[tokio::test]
async fn what_a_later_webhook_adds_before_the_sidecar_is_put_behind_it() {
    let (injector, _events) = injector();
    let mut injected = patched(&pod(), &asked(&injector, &review(&pod(), |_| {})).await);
    let added = json!({ "name": "vault-agent-init", "image": "vault",
                        "startupProbe": { "httpGet": { "path": "/", "port": 8200 } } });
    injected["spec"]["initContainers"].as_array_mut().unwrap().insert(0, added);
    injected["spec"]["containers"].as_array_mut().unwrap().push(json!({
        "name": "late", "image": "late", "readinessProbe": { "httpGet": { "path": "/ready", "port": 80 } } }));
    let after = patched(&injected, &asked(&injector, &review(&injected, |_| {})).await);
    let names: Vec<_> =
        after["spec"]["initContainers"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["culvert-sidecar", "vault-agent-init"]);
    let probe = &after["spec"]["containers"][1]["readinessProbe"]["httpGet"];
    assert!(probe["path"].as_str().unwrap().starts_with("/app-health/"), "{probe}");
    assert_eq!(count(&injector, Outcome::Again, Why::Changed), 1);
    assert_eq!(patched(&after, &asked(&injector, &review(&after, |_| {})).await), after);
}

#[tokio::test]
async fn each_reason_is_counted_and_told_where_one_would_ask() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, Outcome, Why, Option<&str>); 9] = [
        (
            "host network",
            |pod| pod["spec"]["hostNetwork"] = true.into(),
            Outcome::Skipped,
            Why::HostNetwork,
            Some("hostNetwork"),
        ),
        (
            "Windows",
            |pod| pod["spec"]["os"] = json!({ "name": "windows" }),
            Outcome::Skipped,
            Why::Windows,
            Some("Windows"),
        ),
        (
            "another mesh",
            |pod| pod["spec"]["containers"][0]["name"] = "istio-proxy".into(),
            Outcome::Skipped,
            Why::OtherMesh,
            Some("istio-proxy"),
        ),
        (
            "a sidecar of its own",
            |pod| pod["spec"]["containers"][0]["name"] = "culvert-sidecar".into(),
            Outcome::Skipped,
            Why::Present,
            Some("already"),
        ),
        (
            "not wanted",
            |pod| pod["metadata"]["labels"]["culvert.dev/inject"] = "disabled".into(),
            Outcome::Skipped,
            Why::Disabled,
            None,
        ),
        (
            "the cluster's own",
            |pod| pod["metadata"]["namespace"] = "kube-system".into(),
            Outcome::Skipped,
            Why::System,
            None,
        ),
        (
            "a wrong label",
            |pod| pod["metadata"]["labels"]["culvert.dev/inject"] = "yes".into(),
            Outcome::Refused,
            Why::Pod,
            Some("enabled or disabled"),
        ),
        (
            "a wrong annotation",
            |pod| pod["metadata"]["annotations"] = json!({ "culvert.dev/redirect-dns": "perhaps" }),
            Outcome::Refused,
            Why::Pod,
            Some("redirect-dns"),
        ),
        (
            "no containers",
            |pod| pod["spec"]["containers"] = json!([]),
            Outcome::Refused,
            Why::Pod,
            Some("containers is empty"),
        ),
    ];
    for (name, change, outcome, why, told) in cases {
        let (injector, mut events) = injector();
        let mut pod = pod();
        change(&mut pod);
        let response = asked(&injector, &review(&pod, |_| {})).await;
        assert_eq!(response["allowed"], outcome == Outcome::Skipped, "{name}: {response}");
        assert!(response.get("patch").is_none(), "{name}");
        assert_eq!(count(&injector, outcome, why), 1, "{name}");
        let event = events.try_recv().ok();
        assert_eq!(event.is_some(), told.is_some(), "{name}: {event:?}");
        let Some((event, words)) = event.zip(told) else { continue };
        assert!(event.message.contains(words), "{name}: {event:?}");
        assert_eq!(
            (event.regarding.kind.as_str(), event.regarding.name.as_str()),
            ("ReplicaSet", "web-6d4"),
            "{name}"
        );
        assert_eq!(event.regarding.namespace, pod["metadata"]["namespace"], "{name}");
        // The same again and again, as from a ReplicaSet: one event.
        asked(&injector, &review(&pod, |_| {})).await;
        assert!(events.try_recv().is_err(), "{name}: told twice");
        if outcome == Outcome::Refused {
            assert_eq!(response["status"]["code"], 403, "{name}");
            assert!(response["status"]["message"].as_str().unwrap().contains(words), "{name}: {response}");
        } else {
            assert!(response["warnings"][0].as_str().unwrap().contains(words), "{name}: {response}");
        }
    }
}

#[tokio::test]
async fn an_event_is_on_the_pod_only_where_that_has_a_name_and_no_owner() {
    let (injector, mut events) = injector();
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = true.into();
    pod["metadata"].as_object_mut().unwrap().remove("ownerReferences");
    asked(&injector, &review(&pod, |_| {})).await;
    assert!(events.try_recv().is_err(), "a pod without a name has no place for an event");
    pod["metadata"]["name"] = "bare".into();
    asked(&injector, &review(&pod, |request| request["dryRun"] = true.into())).await;
    assert!(events.try_recv().is_err(), "a dry run writes nothing");
    asked(&injector, &review(&pod, |_| {})).await;
    let event = events.try_recv().unwrap();
    assert_eq!((event.regarding.kind.as_str(), event.regarding.name.as_str()), ("Pod", "bare"));
    assert_eq!((event.reason, event.regarding.uid), (SKIPPED, None));
}

#[tokio::test]
async fn a_namespace_that_cannot_be_read_is_no_reason_to_let_a_pod_through() {
    let (injector, _events) = injector();
    let mut pod = pod();
    pod["metadata"]["namespace"] = "unknown".into();
    let response = asked(&injector, &review(&pod, |_| {})).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(503)));
    assert!(response["status"]["message"].as_str().unwrap().contains("\"unknown\""), "{response}");
    // A label may be on its way to the watch; without an API server to ask nobody knows.
    pod["metadata"]["namespace"] = "plain".into();
    let response = asked(&injector, &review(&pod, |_| {})).await;
    assert_eq!(response["status"]["code"], 503, "{response}");
    assert_eq!(count(&injector, Outcome::Refused, Why::Namespace), 2);
}

#[tokio::test]
async fn a_pod_that_cannot_be_read_is_denied_with_the_reason() {
    let (injector, _events) = injector();
    for (object, words) in [
        (Value::Null, "no request.object"),
        (json!("x"), "no object"),
        (json!({}), "spec is missing"),
        (json!({ "spec": 7 }), "spec is no object"),
        (json!({ "spec": { "containers": [7] } }), "no list of containers"),
        (
            json!({ "metadata": { "labels": { "a": 7 } }, "spec": { "containers": [{ "name": "a" }] } }),
            "\"a\" is 7",
        ),
    ] {
        let body = review(&pod(), |request| request["object"] = object.clone());
        let response = asked(&injector, &body).await;
        assert_eq!(response["allowed"], false, "{object}");
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.contains(words), "{object}: {message}");
    }
}

#[tokio::test]
async fn anything_but_the_creation_of_a_pod_goes_through_with_a_warning() {
    let (injector, mut events) = injector();
    for change in [
        |request: &mut Value| request["operation"] = "UPDATE".into(),
        |request: &mut Value| {
            request["subResource"] = "ephemeralcontainers".into();
        },
    ] {
        // Even what would be refused: a finalizer must be able to end a pod.
        let mut pod = pod();
        pod["metadata"]["labels"]["culvert.dev/inject"] = "yes".into();
        let response = asked(&injector, &review(&pod, change)).await;
        assert_eq!(response["allowed"], true);
        assert!(response.get("patch").is_none());
        assert!(response["warnings"][0].as_str().unwrap().contains("CREATE of v1 pods alone"), "{response}");
    }
    assert!(events.try_recv().is_err());
    assert_eq!(count(&injector, Outcome::Skipped, Why::NoPod), 2);
}

#[tokio::test]
async fn notes_are_warnings_of_the_first_call() {
    let (injector, _events) = injector();
    let mut pod = pod();
    pod["spec"]["enableServiceLinks"] = true.into();
    let response = asked(&injector, &review(&pod, |_| {})).await;
    assert!(
        response["warnings"][0].as_str().unwrap().contains("enableServiceLinks becomes false"),
        "{response}"
    );
    let again = asked(&injector, &review(&patched(&pod, &response), |_| {})).await;
    assert!(again.get("warnings").is_none(), "{again}");
}

/// Each value of a review in turn replaced by ones that do not belong there: an answer with its uid or a reason for a 400, a patch
/// that fits, and never a panic.
#[tokio::test]
async fn a_value_that_does_not_belong_there_is_never_a_panic() {
    fn places(value: &Value, at: &str, found: &mut Vec<String>) {
        found.push(at.to_owned());
        let part = |key: &str| format!("{at}/{}", key.replace('~', "~0").replace('/', "~1"));
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| places(value, &part(key), found)),
            Value::Array(list) => {
                list.iter()
                    .enumerate()
                    .for_each(|(index, value)| places(value, &part(&index.to_string()), found));
            }
            _ => {}
        }
    }
    let (injector, _events) = injector();
    let mut bare = pod();
    bare["metadata"]["annotations"] =
        json!({ "inject.culvert.dev/cpu-limit": "1", "culvert.dev/ip-family": "ipv4" });
    bare["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
    bare["spec"]["initContainers"] = json!([{ "name": "init", "securityContext": { "runAsUser": 7 } }]);
    let container = &mut bare["spec"]["containers"][0];
    container["ports"] = json!([{ "name": "http", "containerPort": 8080 }]);
    container["readinessProbe"] =
        json!({ "httpGet": { "path": "/", "port": "http", "httpHeaders": [{ "name": "a", "value": "b" }] } });
    container["lifecycle"] = json!({ "preStop": { "tcpSocket": { "port": 8080 } } });
    let injected = patched(&bare, &asked(&injector, &review(&bare, |_| {})).await);
    let mut answered = 0;
    for pod in [&bare, &injected] {
        let whole: Value = serde_json::from_slice(&review(pod, |_| {})).unwrap();
        let mut all = Vec::new();
        places(&whole, "", &mut all);
        assert!(all.len() > 50, "{all:?}");
        for place in all {
            for other in [
                json!(null),
                json!(true),
                json!(-7),
                json!(1e300),
                json!("$(x)~/é"),
                json!([7]),
                json!({ "a": {} }),
            ] {
                let mut review = whole.clone();
                *review.pointer_mut(&place).unwrap() = other.clone();
                let Ok(answer) = injector.admit(review.to_string().as_bytes()).await else { continue };
                let answer: Value = serde_json::from_slice(&answer).unwrap();
                assert_eq!(answer["response"]["uid"], review["request"]["uid"], "{place} {other}");
                patched(&review["request"]["object"], &answer["response"]);
                answered += 1;
            }
        }
    }
    assert!(answered > 500, "{answered}");
    assert_eq!(count(&injector, Outcome::Refused, Why::Bug), 0);
}

/// A pod with ten containers, each with three probes and two hooks. In a debug build a patch takes some ten times as long as in
/// a release build, where 1 ms is the aim.
#[tokio::test]
async fn a_large_pod_is_answered_in_time() {
    let (injector, _events) = injector();
    let probe = json!({ "httpGet": { "path": "/", "port": "http" } });
    let container = |index: usize| {
        json!({ "name": format!("c{index}"), "image": "i", "ports": [{ "name": "http", "containerPort": 8000 + index }],
                "readinessProbe": probe, "livenessProbe": probe, "startupProbe": probe,
                "lifecycle": { "preStop": probe, "postStart": probe } })
    };
    let mut pod = pod();
    pod["spec"]["containers"] = (0..10).map(container).collect();
    let body = review(&pod, |_| {});
    let mut times: Vec<_> = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        asked(&injector, &body).await;
        times.push(began.elapsed());
    }
    times.sort();
    println!(
        "a pod of 10 containers: median {:?}, p99 {:?}, {} bytes of review",
        times[50],
        times[98],
        body.len()
    );
    assert!(times[0].as_millis() < 100, "{times:?}");
}
