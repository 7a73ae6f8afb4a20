// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::context::Context;
use crate::document::Found;
use crate::kinds::FromSpec;
use crate::load::Loaded;
use crate::model::labels::Labels;

fn read(text: &str) -> Result<Found, Vec<String>> {
    let context = Context { mesh: "default".into(), ..Context::default() };
    let mut loaded = Loaded::default();
    loaded.add(&context, text, "test.yaml".as_ref());
    let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
    if errors.is_empty() { Ok(loaded.found) } else { Err(errors) }
}

fn identity(spec: &str) -> MeshIdentity {
    let found = read(&format!("{{type: MeshIdentity, name: i, spec: {{{spec}}}}}")).unwrap();
    MeshIdentity::from_spec(&found.documents[0].spec).unwrap().clone()
}

fn labels(labels: &[(&str, &str)]) -> Labels {
    Labels(labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect())
}

#[test]
fn an_empty_selector_of_dataplanes_chooses_all_pods_and_an_absent_one_none() {
    let web = labels(&[("app", "web"), ("version", "1")]);
    for (selector, chosen) in [
        ("", None),
        ("selector: {}", None),
        ("selector: {dataplane: null}", None),
        ("selector: {dataplane: {}}", Some(0)),
        ("selector: {dataplane: {matchLabels: {}}}", Some(0)),
        ("selector: {dataplane: {matchLabels: {app: web}}}", Some(1)),
        ("selector: {dataplane: {matchLabels: {app: web, version: '1'}}}", Some(2)),
        ("selector: {dataplane: {matchLabels: {app: web, version: '2'}}}", None),
        ("selector: {dataplane: {matchLabels: {zone: east}}}", None),
    ] {
        assert_eq!(identity(selector).chooses(&web), chosen, "{selector}");
    }
}

#[test]
fn names_of_identities_are_kumas() {
    let kubernetes = labels(&[
        ("k8s.kuma.io/namespace", "shop"),
        ("k8s.kuma.io/service-account", "web"),
        ("kuma.io/workload", "front"),
        ("team", "a"),
    ]);
    let universal = labels(&[("kuma.io/workload", "front")]);
    let own = labels(&[("kuma.io/zone", "west"), ("env", "prod")]);
    for (name, spec, pod, trust_domain, path) in [
        ("Kubernetes", "", &kubernetes, Some("default.east.mesh.local"), Some("/ns/shop/sa/web")),
        ("elsewhere", "", &universal, Some("default.east.mesh.local"), Some("/workload/front")),
        (
            "written out",
            r#"spiffeID: {trustDomain: '{{ .Mesh }}.{{.Zone}}.x', path: '/{{ .TrustDomain }}/{{ .Workload }}'}"#,
            &universal,
            Some("default.east.x"),
            Some("/default.east.x/front"),
        ),
        (
            "by labels",
            r#"spiffeID: {trustDomain: '{{ label "env" }}.x', path: '/{{ label `team` }}/x'}"#,
            &kubernetes,
            Some("prod.x"),
            Some("/a/x"),
        ),
        (
            "a label that is not there",
            r#"spiffeID: {trustDomain: '{{ label "team" }}.x', path: '/{{ label "team" }}'}"#,
            &universal,
            None,
            None,
        ),
        (
            "no account",
            "spiffeID: {path: '/{{ .ServiceAccount }}'}",
            &universal,
            Some("default.east.mesh.local"),
            None,
        ),
    ] {
        let identity = identity(spec);
        let domain = identity.trust_domain(&own, "default", "east");
        assert_eq!(domain.as_deref(), trust_domain, "{name}");
        let has = identity.path(pod, domain.as_deref().unwrap_or("none"));
        assert_eq!(has.as_deref(), path, "{name}");
    }
}

#[test]
fn documents_of_kuma_are_taken() {
    for provider in [
        "{type: Bundled, bundled: {autogenerate: {enabled: true}}}",
        "{type: Bundled, bundled: {meshTrustCreation: Disabled, insecureAllowSelfSigned: true, certificateParameters: {expiry: 87600h}, ca: {certificate: {type: File, file: {path: /ca.crt}}, privateKey: {type: Secret, secretRef: {kind: Secret, name: key}}}}}",
        "{type: Spire, spire: {}}",
        "{type: Spire, spire: {agent: {timeout: 2s}}}",
        "{type: Extension, extension: {name: acme, config: {key: value}}}",
    ] {
        assert!(identity(&format!("provider: {provider}")).issuer().is_some(), "{provider}");
    }
    assert_eq!(identity("").issuer(), None);
    let trust = "{type: MeshTrust, name: t, spec: {trustDomain: a.b, origin: {kri: kri_mid_x}, caBundles: [{type: Pem, pem: {value: '-----BEGIN CERTIFICATE-----'}}]}}";
    let found = read(trust).unwrap();
    assert_eq!(MeshTrust::from_spec(&found.documents[0].spec).unwrap().trust_domain.as_str(), "a.b");
}

#[test]
fn what_is_wrong_is_told_by_its_field() {
    for (spec, told) in [
        (
            "provider: {type: Vault}",
            "spec.provider.type: found \"Vault\"; allowed: Bundled, Spire, Extension",
        ),
        ("provider: {}", "spec.provider.type: found nothing"),
        ("provider: {type: Spire}", "spec.provider.spire: found nothing"),
        ("provider: {type: Bundled, bundled: {}}", "spec.provider.bundled.ca: found nothing"),
        (
            "provider: {type: Bundled, bundled: {autogenerate: {enabled: true}, ca: {certificate: {type: File, file: {path: /x}}, privateKey: {type: File, file: {path: /x}}}}}",
            "spec.provider.bundled.ca: found it beside autogenerate",
        ),
        (
            "provider: {type: Bundled, bundled: {ca: {certificate: {type: File, file: {path: /x}}, privateKey: {type: EnvVar}}}}",
            "spec.provider.bundled.ca.privateKey.envVar: found nothing",
        ),
        ("provider: {type: Extension, extension: {}}", "spec.provider.extension.name: found nothing"),
        (
            "provider: {type: Spire, spire: {agent: {timeout: soon}}}",
            "spec.provider.spire.agent.timeout: found \"soon\"",
        ),
        (
            "selector: {dataplane: {matchLabels: {app: 1}}}",
            "spec.selector.dataplane.matchLabels.app: found 1",
        ),
        ("selector: {dataplan: {}}", "spec.selector.dataplan: found a field that culvert does not have"),
        (
            "spiffeID: {trustDomain: '{{ .Mesh }}.{{ .Namespace }}'}",
            "spec.spiffeID.trustDomain: found {{ .Namespace }}",
        ),
        ("spiffeID: {trustDomain: '{{ .Mesh|1 }}.x'}", "spec.spiffeID.trustDomain: found {{ .Mesh|1 }}"),
        (
            "spiffeID: {trustDomain: 'a/b'}",
            "spec.spiffeID.trustDomain: found \"a/b\"; allowed: a trust domain",
        ),
        ("spiffeID: {trustDomain: ''}", "spec.spiffeID.trustDomain: found \"\""),
        ("spiffeID: {path: 'workload/{{ .Workload }}'}", "spec.spiffeID.path: found \"workload/"),
        ("spiffeID: {path: '/x//{{ .Workload }}'}", "spec.spiffeID.path: found \"/x//"),
        ("spiffeID: {path: '/{{ .Workload'}", "spec.spiffeID.path: found {{ without }}"),
        ("spiffeID: {path: '/{{ label x }}'}", "spec.spiffeID.path: found {{ label x }}"),
    ] {
        let errors = read(&format!("{{type: MeshIdentity, name: i, spec: {{{spec}}}}}")).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(told), "{spec}: {errors:?}");
    }
    for (spec, told) in [
        ("trustDomain: a.b", "spec.caBundles: found nothing"),
        ("trustDomain: a.b, caBundles: []", "spec.caBundles: found an empty list"),
        (
            "trustDomain: A/b, caBundles: [{type: Pem, pem: {value: '-----BEGIN CERTIFICATE-----'}}]",
            "spec.trustDomain: found \"A/b\"",
        ),
        ("trustDomain: a.b, caBundles: [{type: Pem}]", "spec.caBundles[0].pem: found nothing"),
        (
            "trustDomain: a.b, caBundles: [{type: Der, pem: {value: '-----BEGIN CERTIFICATE-----'}}]",
            "spec.caBundles[0].type: found \"Der\"",
        ),
        (
            "trustDomain: a.b, caBundles: [{type: Pem, pem: {value: '-----BEGIN PRIVATE KEY-----'}}]",
            "spec.caBundles[0].pem.value: found text without a certificate",
        ),
    ] {
        let errors = read(&format!("{{type: MeshTrust, name: t, spec: {{{spec}}}}}")).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(told), "{spec}: {errors:?}");
    }
}
