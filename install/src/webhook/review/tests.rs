// SPDX-License-Identifier: Apache-2.0
use super::*;

/// A review as an API server of 1.36 sends it for the pod of a ReplicaSet.
fn review() -> Value {
    json!({
        "kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "requestKind": { "group": "", "version": "v1", "kind": "Pod" },
            "requestResource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": "shop", "operation": "CREATE",
            "userInfo": { "username": "system:serviceaccount:kube-system:replicaset-controller" },
            "object": { "metadata": { "generateName": "web-", "namespace": "shop" }, "spec": {} },
            "oldObject": null, "dryRun": false,
            "options": { "kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1" },
        },
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Vec<u8> {
    let mut review = review();
    change(&mut review);
    review.to_string().into_bytes()
}

#[test]
fn a_review_is_read() {
    let body = with(|_| {});
    let request = read(&body).unwrap();
    assert_eq!(request.uid, "705ab4f5-6393-11e8-b7cc-42010a800002");
    assert_eq!((request.namespace.as_str(), request.name.as_str(), request.dry_run), ("shop", "", false));
    assert_eq!(request.aside, None);
    assert_eq!(request.pod().unwrap()["metadata"]["generateName"], "web-");
    let body = with(|review| review["request"]["dryRun"] = true.into());
    assert!(read(&body).unwrap().dry_run);
}

#[test]
fn what_is_no_review_has_its_reason() {
    let whole = with(|_| {});
    let other =
        |version: &str, kind: &str| Malformed::Other { version: version.to_owned(), kind: kind.to_owned() };
    let cases: Vec<(&str, Vec<u8>, Malformed)> = vec![
        ("a list", b"[]".to_vec(), other("", "")),
        ("a number", b"7".to_vec(), other("", "")),
        ("an empty object", b"{}".to_vec(), other("", "")),
        (
            "v1beta1",
            with(|r| r["apiVersion"] = "admission.k8s.io/v1beta1".into()),
            other("admission.k8s.io/v1beta1", "AdmissionReview"),
        ),
        (
            "v2",
            with(|r| r["apiVersion"] = "admission.k8s.io/v2".into()),
            other("admission.k8s.io/v2", "AdmissionReview"),
        ),
        ("a pod", with(|r| r["kind"] = "Pod".into()), other("admission.k8s.io/v1", "Pod")),
        ("a kind that is no text", with(|r| r["kind"] = json!([1])), other("admission.k8s.io/v1", "")),
        ("no request", with(|r| r["request"] = Value::Null), Malformed::NoRequest),
        ("a request that is a list", with(|r| r["request"] = json!(["the-uid"])), Malformed::NoRequest),
        (
            "a review as a list",
            br#"["admission.k8s.io/v1","AdmissionReview",{"uid":"x"}]"#.to_vec(),
            other("", ""),
        ),
        ("a request that is a text", with(|r| r["request"] = "x".into()), Malformed::NoRequest),
        ("no uid", with(|r| r["request"]["uid"] = Value::Null), Malformed::NoUid),
        ("an empty uid", with(|r| r["request"]["uid"] = "".into()), Malformed::NoUid),
        ("a uid that is a number", with(|r| r["request"]["uid"] = 7.into()), Malformed::NoUid),
    ];
    for (name, body, expected) in cases {
        assert_eq!(read(&body).err(), Some(expected), "{name}");
    }
    for (name, body) in [
        ("nothing", Vec::new()),
        ("half", whole[..whole.len() / 2].to_vec()),
        ("more than one", [whole.clone(), whole.clone()].concat()),
        ("no UTF-8", [b"{\"kind\":\"".to_vec(), vec![0xff], b"\"}".to_vec()].concat()),
        ("YAML", b"kind: AdmissionReview\n".to_vec()),
        ("deep", [vec![b'['; 100_000], vec![b']'; 100_000]].concat()),
    ] {
        let error = read(&body).unwrap_err();
        assert!(matches!(error, Malformed::NoJson(_) | Malformed::Other { .. }), "{name}: {error:?}");
    }
    // Cut anywhere, it is never taken for a whole one, and never a panic.
    for end in 0..whole.len() {
        assert!(matches!(read(&whole[..end]), Err(Malformed::NoJson(_))), "{end}");
    }
}

#[test]
fn a_pod_that_cannot_be_read_has_its_reason() {
    for (name, object, reason) in [
        ("null", "null", "no request.object"),
        ("a text", "\"x\"", "no object"),
        ("a list", "[]", "no object"),
        ("deep", &format!("{}{}", "[".repeat(1000), "]".repeat(1000)), "recursion"),
    ] {
        let body = with(|review| review["request"]["object"] = "HERE".into());
        let body = String::from_utf8(body).unwrap().replace("\"HERE\"", object);
        let error = read(body.as_bytes()).unwrap().pod().unwrap_err();
        assert!(error.contains(reason), "{name}: {error}");
    }
    let body = with(|review| drop(review["request"].as_object_mut().unwrap().remove("object")));
    assert!(read(&body).unwrap().pod().is_err());
}

#[test]
fn only_the_creation_of_pods_is_decided_about() {
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 6] = [
        ("UPDATE of v1 pods ", |r| r["request"]["operation"] = "UPDATE".into()),
        ("DELETE of v1 pods ", |r| r["request"]["operation"] = "DELETE".into()),
        ("CREATE of v1 pods/exec", |r| r["request"]["subResource"] = "exec".into()),
        ("UPDATE of v1 pods/ephemeralcontainers", |r| {
            r["request"]["operation"] = "UPDATE".into();
            r["request"]["subResource"] = "ephemeralcontainers".into();
        }),
        ("CREATE of apps/v1 deployments", |r| {
            r["request"]["resource"] = json!({ "group": "apps", "version": "v1", "resource": "deployments" });
        }),
        (" of ", |r| {
            r["request"].as_object_mut().unwrap().retain(|key, _| key == "uid");
        }),
    ];
    for (words, change) in changes {
        let body = with(change);
        let aside = read(&body).unwrap().aside.expect(words);
        assert!(aside.contains(words), "{words}: {aside}");
    }
}

fn answered(answer: &Answer) -> Value {
    serde_json::from_slice(&write("the-uid", answer)).unwrap()
}

#[test]
fn answers_are_those_of_kubernetes() {
    let add = |path: &str| {
        let pod = json!({ "metadata": {}, "spec": { "containers": [{ "name": "a" }] } });
        let namespace = crate::inject::Namespace {
            labels: [("culvert.dev/inject".to_owned(), "enabled".to_owned())].into(),
            ..Default::default()
        };
        let settings = crate::inject::Settings {
            image: "i".to_owned(),
            shape: crate::inject::Shape::Native,
            excluded: Vec::new(),
            kuma_label: crate::inject::KumaLabel::On,
            node: culvert_cni::pod::Settings::default(),
            control: None,
        };
        match crate::inject::decide(&pod, &namespace, &settings) {
            crate::inject::Decision::Injected(injected) => {
                injected.operations.into_iter().find(|operation| operation.path() == path).unwrap()
            }
            other => panic!("{other:?}"),
        }
    };
    let allowed = |operations| Answer { warnings: Vec::new(), verdict: Verdict::Allowed(operations) };
    assert_eq!(
        answered(&allowed(Vec::new())),
        json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
                "response": { "uid": "the-uid", "allowed": true } })
    );
    let changed = answered(&allowed(vec![add("/spec/enableServiceLinks")]));
    let patch = changed["response"]["patch"].as_str().unwrap();
    assert_eq!(changed["response"]["patchType"], "JSONPatch");
    assert_eq!(
        STANDARD.decode(patch).unwrap(),
        br#"[{"op":"add","path":"/spec/enableServiceLinks","value":false}]"#
    );
    let message = "no".repeat(9000);
    let denied = answered(&Answer {
        warnings: vec!["é".repeat(2000), "short".to_owned()],
        verdict: Verdict::Denied { code: StatusCode::FORBIDDEN, message },
    });
    let response = &denied["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("the-uid"), &json!(false)));
    let status = &response["status"];
    assert_eq!(
        (&status["code"], &status["reason"], &status["status"]),
        (&json!(403), &json!("Forbidden"), &json!("Failure"))
    );
    assert_eq!(status["message"].as_str().unwrap().len(), MAX_MESSAGE);
    let warnings = response["warnings"].as_array().unwrap();
    assert!(warnings[0].as_str().unwrap().len() <= MAX_WARNING && warnings[1] == "short", "{warnings:?}");
    assert!(response.get("patch").is_none() && response.get("patchType").is_none());
}
