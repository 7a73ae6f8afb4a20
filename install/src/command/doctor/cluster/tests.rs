// SPDX-License-Identifier: Apache-2.0
use serde_json::json;

use super::*;
use crate::command::answer::Colour;
use crate::command::doctor::diagnosis::Status;
use crate::command::doctor::render;
use crate::inject::KumaLabel;

const NAME: &str = "culvert-injector";

fn refused(code: u16, message: &str) -> ApiError {
    let code = StatusCode::from_u16(code).unwrap();
    ApiError::Status { code, message: message.to_owned(), retry_after: None }
}

fn configuration(policy: &str) -> Value {
    json!({ "webhooks": [
        { "name": "namespace.inject.culvert.dev", "failurePolicy": policy },
        { "name": "pod.inject.culvert.dev", "failurePolicy": "Fail" },
        { "name": "another.example.com", "failurePolicy": "Ignore" },
    ] })
}

/// A cluster where all is well.
fn well() -> Facts {
    let created = json!({
        "metadata": { "annotations": { "inject.culvert.dev/decision": "injected: label …; native sidecar, uid 5678" } },
        "spec": { "initContainers": [{ "name": "culvert-sidecar" }], "containers": [{ "name": "app" }] },
    });
    Facts {
        configuration: Ok(configuration("Fail")),
        policy: None,
        bundle: Bundle::Fits,
        namespace: Ok("shop".to_owned()),
        tried: Some(Tried::Created(created)),
    }
}

fn with(change: impl FnOnce(&mut Facts)) -> Facts {
    let mut facts = well();
    change(&mut facts);
    facts
}

fn tried(code: u16, message: &str) -> Facts {
    with(|facts| facts.tried = Some(Tried::of(Err(refused(code, message)))))
}

fn unread(reason: Untried) -> Facts {
    with(|facts| {
        facts.namespace = Err(reason);
        facts.tried = None;
    })
}

const CALL: &str = "Internal error occurred: failed calling webhook \"namespace.inject.culvert.dev\": failed to call webhook: Post \"https://culvert-injector.mesh.svc:443/inject?timeout=5s\": ";

#[test]
fn the_hop_that_failed_is_the_last_one_that_needs_attention() {
    let silent = || ApiError::Connect {
        server: "10.0.0.1:443".to_owned(),
        source: std::io::ErrorKind::TimedOut.into(),
    };
    let credentials = || ApiError::Credentials {
        path: "/var/run/x/token".into(),
        source: std::io::ErrorKind::NotFound.into(),
    };
    let cases: Vec<(&str, Facts, &str, Status, &str)> = vec![
        ("well", well(), "", Status::Ok, ""),
        (
            "unreachable",
            with(|f| f.configuration = Err(silent())),
            "apiserver",
            Status::Missing,
            "network policies",
        ),
        (
            "no account",
            with(|f| f.configuration = Err(credentials())),
            "apiserver",
            Status::Unknown,
            "service account",
        ),
        (
            "unknown account",
            with(|f| f.configuration = Err(refused(401, "Unauthorized"))),
            "apiserver",
            Status::Unknown,
            "token",
        ),
        (
            "forbidden",
            with(|f| {
                f.configuration = Err(refused(403, "forbidden"));
                f.policy = Some(Err(refused(403, "forbidden")));
            }),
            "webhook",
            Status::Unknown,
            "allow this account",
        ),
        (
            "not there",
            with(|f| {
                f.configuration = Err(refused(404, "no"));
                f.policy = Some(Err(refused(404, "no")));
            }),
            "webhook",
            Status::Missing,
            "injector.enabled",
        ),
        (
            "policy mode",
            with(|f| {
                f.configuration = Err(refused(404, "no"));
                f.policy = Some(Ok(json!({})));
            }),
            "",
            Status::Ok,
            "",
        ),
        (
            "fails open",
            with(|f| f.configuration = Ok(configuration("Ignore"))),
            "webhook",
            Status::Degraded,
            "failurePolicy: Fail",
        ),
        ("no webhooks", with(|f| f.configuration = Ok(json!({}))), "webhook", Status::Missing, "empty"),
        (
            "no bundle",
            with(|f| f.bundle = Bundle::Empty),
            "ca-bundle",
            Status::Missing,
            "patch the configuration",
        ),
        ("another's bundle", with(|f| f.bundle = Bundle::Other), "ca-bundle", Status::Missing, "patch"),
        (
            "no certificate",
            with(|f| f.bundle = Bundle::NoCertificate),
            "ca-bundle",
            Status::Missing,
            "Secret",
        ),
        (
            "an expired one",
            with(|f| f.bundle = Bundle::Unfit("expired".to_owned())),
            "ca-bundle",
            Status::Missing,
            "log",
        ),
        ("a Secret that may not be read", with(|f| f.bundle = Bundle::Closed), "", Status::Ok, ""),
        (
            "a Secret that is not there",
            with(|f| f.bundle = Bundle::NoSecret("mesh/x".to_owned())),
            "ca-bundle",
            Status::Missing,
            "--secret",
        ),
        (
            "a Secret that is not read now",
            with(|f| f.bundle = Bundle::Unread("503".to_owned())),
            "ca-bundle",
            Status::Unknown,
            "run doctor again",
        ),
        (
            "no namespace",
            with(|f| {
                f.namespace = Err(Untried::NoneAsks);
                f.tried = None;
            }),
            "namespace",
            Status::Missing,
            "kubectl label",
        ),
        (
            "only excluded ones",
            unread(Untried::NoneGets("x".to_owned())),
            "namespace",
            Status::Missing,
            "exclude",
        ),
        (
            "namespaces of no right",
            unread(Untried::Unread(refused(403, "no"))),
            "namespace",
            Status::Unknown,
            "allow",
        ),
        (
            "no such namespace",
            unread(Untried::Unread(refused(404, "no"))),
            "namespace",
            Status::Missing,
            "--namespace",
        ),
        (
            "namespaces later",
            unread(Untried::Unread(refused(503, "no"))),
            "namespace",
            Status::Unknown,
            "again",
        ),
        (
            "another's certificate",
            with(|f| {
                f.configuration = Err(ApiError::Connect {
                    server: "10.0.0.1:443".to_owned(),
                    source: std::io::ErrorKind::InvalidData.into(),
                });
            }),
            "apiserver",
            Status::Missing,
            "ca.crt",
        ),
        (
            "no API server",
            with(|f| f.configuration = Err(ApiError::Garbled("expected value".to_owned()))),
            "apiserver",
            Status::Unknown,
            "KUBERNETES_SERVICE_HOST",
        ),
        (
            "a policy of no right",
            with(|f| {
                f.configuration = Err(refused(404, "no"));
                f.policy = Some(Err(refused(403, "forbidden")));
            }),
            "webhook",
            Status::Unknown,
            "mutatingadmissionpolicies",
        ),
        (
            "an API server in trouble",
            with(|f| {
                f.configuration = Err(refused(500, "etcd"));
                f.policy = Some(Err(refused(404, "no")));
            }),
            "webhook",
            Status::Unknown,
            "run doctor again",
        ),
        (
            "only another's webhook",
            with(|f| f.configuration = Ok(json!({ "webhooks": [{ "name": "another.example.com" }] }))),
            "webhook",
            Status::Missing,
            "empty",
        ),
        (
            "another's webhook lost",
            tried(
                500,
                "Internal error occurred: failed calling webhook \"mutate.kyverno.svc\": context deadline exceeded",
            ),
            "dry-run",
            Status::Degraded,
            "mutate.kyverno.svc",
        ),
        (
            "denied by the injector for now",
            tried(503, "admission webhook \"pod.inject.culvert.dev\" denied the request: try again"),
            "dry-run",
            Status::Degraded,
            "says by whom",
        ),
        (
            "denied in the words of another",
            tried(403, "admission webhook \"x.y.z\" denied the request: you cannot create resource here"),
            "dry-run",
            Status::Degraded,
            "says by whom",
        ),
        ("too many calls", tried(429, "too many requests"), "dry-run", Status::Unknown, "run doctor again"),
        (
            "a namespace that went",
            tried(404, "namespaces \"shop\" not found"),
            "dry-run",
            Status::Unknown,
            "again",
        ),
        (
            "untrusted",
            tried(
                500,
                &format!(
                    "{CALL}tls: failed to verify certificate: x509: certificate signed by unknown authority"
                ),
            ),
            "dry-run",
            Status::Missing,
            "ca-bundle",
        ),
        (
            "no replica",
            tried(500, &format!("{CALL}no endpoints available for service \"culvert-injector\"")),
            "dry-run",
            Status::Missing,
            "no replica is ready",
        ),
        (
            "refused",
            tried(500, &format!("{CALL}dial tcp 10.0.0.9:10250: connect: connection refused")),
            "dry-run",
            Status::Missing,
            "no replica is ready",
        ),
        (
            "lost",
            tried(500, &format!("{CALL}context deadline exceeded")),
            "dry-run",
            Status::Missing,
            "port 10250",
        ),
        (
            "no Service",
            tried(500, &format!("{CALL}service \"culvert-injector\" not found")),
            "dry-run",
            Status::Missing,
            "Service",
        ),
        (
            "denied",
            tried(403, "pods \"culvert-doctor-\" is forbidden: exceeded quota: pods"),
            "dry-run",
            Status::Degraded,
            "says by whom",
        ),
        (
            "no right",
            tried(403, "pods is forbidden: User \"x\" cannot create resource \"pods\""),
            "dry-run",
            Status::Unknown,
            "allow it to create pods",
        ),
        ("broken", tried(500, "etcd"), "dry-run", Status::Unknown, "API server's log"),
        (
            "bare",
            with(|f| f.tried = Some(Tried::Created(pod()))),
            "sidecar",
            Status::Missing,
            "namespaceSelector",
        ),
    ];
    for (name, facts, hop, status, advice) in cases {
        let checks = judge(&facts, NAME);
        let wrong: Vec<_> = checks.iter().filter(|check| check.status.needs_attention()).collect();
        if hop.is_empty() {
            assert!(wrong.is_empty() && checks.last().unwrap().name == "sidecar", "{name}: {checks:?}");
            continue;
        }
        assert_eq!(wrong.len(), 1, "{name}: {wrong:?}");
        assert_eq!((wrong[0].name, wrong[0].status), (hop, status), "{name}");
        assert!(wrong[0].action.as_ref().unwrap().contains(advice), "{name}: {wrong:?}");
        assert!(checks.iter().all(|check| check.name.len() <= 9), "{name}: wider than the column");
    }
}

#[test]
fn reports_of_a_cluster() {
    let report = |facts: &Facts| {
        let checks = judge(facts, NAME);
        Report {
            version: "0.0.0",
            host_root: None,
            api_server: Some("10.0.0.1:443".to_owned()),
            well: !checks.iter().any(|check| check.status.needs_attention()),
            checks,
        }
    };
    let lost = tried(500, &format!("{CALL}context deadline exceeded"));
    for (name, facts) in [("cluster_well", well()), ("cluster_webhook_unreachable", lost)] {
        insta::assert_snapshot!(format!("{name}.text"), render::text(&report(&facts), Colour::Plain));
        insta::assert_snapshot!(format!("{name}.json"), render::json(&report(&facts)));
    }
}

#[test]
fn a_namespace_asks_as_for_the_injector() {
    let named = |name: &str, labels: Value| json!({ "metadata": { "name": name, "labels": labels } });
    let rules = Rules { excluded: vec!["ci".to_owned()], ..Rules::default() };
    let asks = |namespace: &Value| trial::asks(namespace, &rules);
    assert_eq!(asks(&named("shop", json!({ "culvert.dev/inject": "enabled" }))), Ok(()));
    assert_eq!(asks(&named("shop", json!({ "kuma.io/sidecar-injection": "true" }))), Ok(()));
    for (namespace, words) in [
        (named("shop", json!({})), "neither the pod nor"),
        (named("shop", json!({ "culvert.dev/inject": "disabled" })), "disabled of the namespace"),
        (named("shop", json!({ "culvert.dev/inject": "on" })), "must be enabled or disabled"),
        (named("ci", json!({ "culvert.dev/inject": "enabled" })), "ci is excluded"),
        (named("kube-system", json!({ "culvert.dev/inject": "enabled" })), "cluster's own"),
    ] {
        let reason = asks(&namespace).unwrap_err();
        assert!(reason.contains(words), "{reason}");
    }
}

/// As the chart writes them.
#[test]
fn the_rules_of_the_injector_are_read_from_its_objects() {
    let but = |names: &[&str]| json!({ "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": names });
    let kuma = json!({ "key": "kuma.io/sidecar-injection", "operator": "DoesNotExist" });
    let webhook = |excluded: &[&str], of_pod: &[Value]| json!({ "namespaceSelector": { "matchExpressions": [but(excluded)] }, "objectSelector": { "matchExpressions": of_pod } });
    let rules = |excluded: &[&str], kuma_label| Rules {
        excluded: excluded.iter().map(|&name| name.to_owned()).collect(),
        kuma_label,
    };
    let of_webhooks = |webhooks: &[Value]| Rules::of_webhooks(webhooks.iter());
    let both = [webhook(&["a", "b"], std::slice::from_ref(&kuma)), webhook(&["b", "c"], &[])];
    assert_eq!(of_webhooks(&both), rules(&["b"], KumaLabel::On));
    assert_eq!(of_webhooks(&[webhook(&["a"], &[])]), rules(&["a"], KumaLabel::Off));
    let policy = |expression: &str| {
        json!({ "spec": {
        "matchConstraints": { "namespaceSelector": { "matchExpressions": [but(&["a"])] } },
        "variables": [{ "name": "kumaLabel", "expression": expression }] } })
    };
    assert_eq!(Rules::of_policy(&policy("true")), rules(&["a"], KumaLabel::On));
    assert_eq!(Rules::of_policy(&policy("false")), rules(&["a"], KumaLabel::Off));
}
