// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::Options;
use crate::options::config::Config;
use crate::plan::Plan;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;
use culvert_mesh::document::Found;
use culvert_mesh::model::tags::{SERVICE, Tags};

pub(super) fn config() -> Config {
    let arguments = ["culvert-sidecar", "--resources=/test", "--dataplane=here"];
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

pub(super) fn read(documents: &str) -> Result<Found, Vec<String>> {
    let loaded = read_with_mesh(&config(), documents, "test.yaml");
    let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
    if errors.is_empty() { Ok(loaded.found) } else { Err(errors) }
}

pub(super) fn plan(documents: &str) -> Plan {
    let here = "---\n{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, servicePort: 8080, tags: {kuma.io/service: here, version: '1'}}]}}\n";
    compile(&config(), &read(&format!("{documents}\n{here}")).unwrap()).unwrap()
}

/// Address of the first inbound's listener.
pub(super) const HERE: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 80);

pub(super) const STRICT: &str = "
type: Mesh
name: default
mtls:
  enabledBackend: ca-1
  backends:
    - name: ca-1
      type: builtin
      dpCert: {rotation: {expiration: 1d}}
      conf: {caCert: {RSAbits: 2048}}
    - {name: ca-2, type: provided, mode: PERMISSIVE}
---
";

#[test]
fn a_mesh_says_whom_its_pods_let_in() {
    let mode = |mesh: &str| plan(mesh).mtls.map(|mtls| mtls.mode());
    assert_eq!(mode(""), None);
    assert_eq!(mode("{type: Mesh, name: default, mtls: {backends: [{name: a, mode: STRICT}]}}\n"), None);
    assert_eq!(mode(STRICT), Some(TlsMode::Strict));
    assert_eq!(
        mode(&STRICT.replace("enabledBackend: ca-1", "enabledBackend: ca-2")),
        Some(TlsMode::Permissive)
    );
    let mtls = plan(STRICT).mtls.unwrap();
    assert!(mtls.named_only && !mtls.others.permissions.restricted);
    assert_eq!(mtls.settings, TlsSettings::default());
}

#[test]
fn what_is_wrong_is_told_by_its_place() {
    let wrong = "
{type: Mesh, name: default, mtls: {enabledBackend: x, backends: [{name: a, mode: Strict}, {name: a}]}}
---
{type: MeshTLS, name: t, spec: {from: [{targetRef: {kind: Mesh}, default: {tlsVersion: {min: TLS11}, tlsCiphers: [RC4]}}]}}
---
{type: MeshTLS, name: u, spec: {rules: [{default: {tlsVersion: {min: TLS13, max: TLS12}}}]}}
---
{type: MeshTrafficPermission, name: p, spec: {from: [{targetRef: {kind: Dataplane}, default: {action: Maybe}}]}}
---
{type: MeshTrafficPermission, name: q, spec: {from: [{targetRef: {kind: Dataplane}, default: {action: Deny}}],
  rules: [{default: {allow: [{spiffeID: {type: Exact, value: web}}], deny: [{}]}}]}}
---
{type: MeshTrafficPermission, name: r, spec: {rules: [{default: {allow: [{spiffeID: {type: Prefix, value: web}}]}}]}}
---
{type: MeshTLS, name: v, spec: {targetRef: {kind: Dataplane, sectionName: api}, rules: [{default: {tlsVersion: {min: TLS12}, tlsCiphers: [ECDHE-RSA-AES128-GCM-SHA256]}}]}}
---
{type: MeshTLS, name: w, spec: {targetRef: {kind: Mesh, name: x, namespace: y, labels: {a: b}, tags: {a: b}, sectionName: s}}}
---
{type: MeshTLS, name: x, spec: {targetRef: {kind: Dataplane, labels: {a: 1}}}}
---
{type: MeshTLS, name: y, labels: {a: true}, spec: {targetRef: {kind: Dataplane, labels: {a: b}, name: x, proxyTypes: [Sidecar]}}}
---
{type: MeshTrafficPermission, name: s, spec: {targetRef: {kind: Dataplane, namespace: x},
  from: [{targetRef: {kind: MeshService}, default: {action: Deny}}]}}
---
{type: MeshTrafficPermission, name: t, spec: {from: [{targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, default: {action: Allow}}]}}
---
{type: MeshTrafficPermission, name: u, spec: {}}
---
{type: MeshTrafficPermission, name: v, spec: {rules: [], from: []}}
---
{type: MeshTrafficPermission, name: w, spec: {rules: [{default: {}}, {default: {deny: []}}, {default: {allow: 5}}]}}
---
{type: MeshTLS, name: z, spec: {targetRef: {kind: MeshService, name: here}, from: [{targetRef: {kind: Mesh}, default: {mode: Strict}}], rules: [{default: {mode: Strict}}]}}
---
{type: MeshAccessLog, name: m, spec: {targetRef: {kind: Mesh}}}
---
{type: MeshAccessLog, name: n, spec: {rules: [{default: {}}], from: [{targetRef: {kind: Mesh}, default: {backends: [{type: File, file: {path: '#not_valid'}}]}}],
  to: [{targetRef: {kind: Mesh}, default: {}}]}}
---
{type: MeshAccessLog, name: o, spec: {to: [{targetRef: {kind: Mesh}, default: {backends: [{type: File, file: {path: /x, format: {type: Json, json: [{key: '\"', value: ''}, {key: a, value: '%START_TIME%'}]}}}]}}]}}
---
{type: MeshAccessLog, name: l, spec: {targetRef: {kind: Dataplane, sectionName: api}}}
---
{type: Mesh, name: other, mtls: {enabledBackend: x, backends: [{name: a}, {name: a}]}}
";
    insta::assert_snapshot!(read(wrong).unwrap_err().join("\n"));
}

#[test]
fn mesh_tls_says_how_tls_is_spoken_and_the_most_specific_holds() {
    let of = |documents: &str| plan(&format!("{STRICT}{documents}")).mtls.unwrap();
    let permissive = "
{type: MeshTLS, name: all, spec: {targetRef: {kind: Mesh}, from: [{targetRef: {kind: Mesh}, default: {mode: Permissive,
  tlsVersion: {min: TLS12}, tlsCiphers: [ECDHE-ECDSA-AES256-GCM-SHA384]}}]}}
---
";
    let mtls = of(permissive);
    assert_eq!(
        (mtls.others.mode, mtls.settings.min, mtls.settings.max),
        (TlsMode::Permissive, TlsVersion::V12, TlsVersion::V13)
    );
    assert_eq!(mtls.settings.suites.len(), 4);
    let ours = "
{type: MeshTLS, name: ours, spec: {targetRef: {kind: MeshSubset, tags: {kuma.io/service: here}}, rules: [{default: {mode: Strict}}]}}
---
{type: MeshTLS, name: others, spec: {targetRef: {kind: MeshSubset, tags: {kuma.io/service: there}}, rules: [{default: {mode: Permissive}}]}}
---
";
    let mtls = of(&format!("{ours}{permissive}"));
    assert_eq!((mtls.others.mode, mtls.settings.min), (TlsMode::Strict, TlsVersion::V12));
    assert_eq!(of("{type: MeshTLS, name: t, spec: {rules: [{default: {tlsVersion: {min: TLSAuto, max: TLSAuto}}}]}}\n---\n").settings, TlsSettings::default());
}

#[test]
fn permissions_are_in_the_order_in_which_they_decide() {
    let documents = format!(
        "{STRICT}
{{type: MeshTrafficPermission, name: all, spec: {{targetRef: {{kind: Mesh}}, from: [
  {{targetRef: {{kind: Mesh}}, default: {{action: Deny}}}},
  {{targetRef: {{kind: MeshService, name: web}}, default: {{action: Deny}}}},
  {{targetRef: {{kind: MeshSubset, tags: {{version: '2'}}}}, default: {{action: AllowWithShadowDeny}}}}]}}}}
---
{{type: MeshTrafficPermission, name: ours, spec: {{targetRef: {{kind: MeshSubset, tags: {{version: '1'}}}}, from: [
  {{targetRef: {{kind: MeshService, name: web}}, default: {{action: Allow}}}}]}}}}
---
{{type: MeshTrafficPermission, name: ours-too, spec: {{targetRef: {{kind: MeshSubset, tags: {{version: '1'}}}},
  rules: [{{default: {{deny: [{{spiffeID: {{type: Exact, value: 'spiffe://default/evil'}}}}]}}}}]}}}}
---
{{type: MeshTrafficPermission, name: others, spec: {{targetRef: {{kind: MeshService, name: there}}, from: [
  {{targetRef: {{kind: Mesh}}, default: {{action: Allow}}}}]}}}}
---
"
    );
    let permissions = plan(&documents).mtls.unwrap().inbounds.remove(&HERE).unwrap().permissions;
    let tags = |key: &str, value: &str| Who::Tags(Tags([(key.into(), value.into())].into()));
    let one = |who, action| Permission { who, action };
    assert_eq!(
        *permissions,
        Permissions {
            restricted: true,
            ordered: vec![
                one(tags(SERVICE, "web"), Action::Allow),
                one(tags("version", "2"), Action::AllowWithShadowDeny),
                one(tags(SERVICE, "web"), Action::Deny),
                one(Who::Everyone, Action::Deny),
            ],
            unordered: vec![one(Who::Exactly("spiffe://default/evil".into()), Action::Deny)],
        }
    );
}

/// Errors of documents that make no plan.
fn refused(arguments: &[&str], documents: &str) -> Vec<String> {
    let arguments = ["culvert-sidecar", "--resources=/test"].iter().chain(arguments);
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let refused = compile(&config, &read(documents).unwrap()).err().unwrap_or_default();
    refused.iter().map(ToString::to_string).collect()
}

#[test]
fn a_choice_of_pods_is_an_error_where_nobody_knows_which_pod_this_is() {
    let policy = |mesh: &str, target: &str| {
        format!(
            "{mesh}{{type: MeshTrafficPermission, name: p, spec: {{targetRef: {target}, from: [\
                {{targetRef: {{kind: Mesh}}, default: {{action: Deny}}}}]}}}}\n---\n\
             {{type: MeshTLS, name: t, spec: {{targetRef: {target}, rules: [{{default: {{mode: Strict}}}}]}}}}\n---\n"
        )
    };
    for (target, chooses) in [
        ("{kind: MeshSubset, tags: {version: '1'}}", true),
        ("{kind: MeshSubset, tags: {kuma.io/service: web}}", true),
        ("{kind: Mesh, proxyTypes: [Gateway]}", true),
        ("{kind: Dataplane, name: web}", true),
        ("{kind: Dataplane, labels: {app: web}}", true),
        ("{kind: Dataplane, sectionName: '80'}", true),
        ("{kind: Dataplane}", false),
        ("{kind: Mesh}", false),
    ] {
        let errors = refused(&[], &policy(STRICT, target));
        assert_eq!(errors.len(), if chooses { 2 } else { 0 }, "{target}: {errors:?}");
        assert!(errors.iter().all(|error| error.contains("spec.targetRef") && error.contains("--dataplane")));
        // Without mTLS the policy decides nothing.
        assert_eq!(refused(&[], &policy("", target)), <[String; 0]>::default(), "{target}");
    }
}

#[test]
fn a_policy_that_goes_by_labels_is_told_to_a_pod_that_has_none() {
    let of = |labels: &str, target: &str| {
        let policy = format!(
            "{{type: MeshTrafficPermission, name: p, spec: {{targetRef: {target}, rules: [{{default: {{deny: [{{spiffeID: {{type: Exact, value: 'spiffe://default/x'}}}}]}}}}]}}}}\n"
        );
        let config = Options::try_parse_from(["culvert-sidecar", "--resources=/test", "--dataplane=here"]);
        let documents = format!("{STRICT}{}{policy}", TWO.replace("labels: {app: here, tier: back}", labels));
        compile(&config.unwrap().check().unwrap(), &read(&documents).unwrap()).unwrap().warnings
    };
    let chosen = "{kind: Dataplane, labels: {app: web}}";
    let told = |warnings: Vec<String>| {
        warnings.iter().any(|one| one.contains("by the label \"app\", and Dataplane here has no labels"))
    };
    assert!(told(of("", chosen)));
    for (labels, target) in [
        ("labels: {}", chosen),
        ("labels: {app: api}", chosen),
        ("", "{kind: Dataplane, labels: {kuma.io/display-name: web}}"),
        ("", "{kind: Dataplane, name: web}"),
    ] {
        assert!(!told(of(labels, target)), "{labels} {target}");
    }
}

#[test]
fn an_inbound_that_the_named_dataplane_does_not_have_is_an_error() {
    let of = |target: &str| {
        let policy = format!(
            "{{type: MeshTrafficPermission, name: p, spec: {{targetRef: {target}, rules: [{{default: {{deny: [{{spiffeID: {{type: Exact, value: 'spiffe://default/x'}}}}]}}}}]}}}}\n"
        );
        refused(&["--dataplane=here"], &format!("{STRICT}{TWO}{policy}"))
    };
    let told = of("{kind: Dataplane, name: here, namespace: shop, sectionName: apu}");
    assert!(told.len() == 1 && told[0].contains("an inbound of Dataplane here: api, ops"), "{told:?}");
    for target in [
        "{kind: Dataplane, name: here, sectionName: '81'}",
        "{kind: Dataplane, name: there, sectionName: apu}",
        "{kind: Dataplane, sectionName: apu}",
    ] {
        assert_eq!(of(target), <[String; 0]>::default(), "{target}");
    }
}

pub(super) const TWO: &str = "
apiVersion: kuma.io/v1alpha1
kind: Dataplane
mesh: default
metadata: {name: here, namespace: shop, labels: {app: here, tier: back}}
spec:
  networking:
    address: 10.0.0.2
    inbound:
      - {port: 80, name: api, tags: {kuma.io/service: here, version: '1'}}
      - {port: 81, name: ops, tags: {kuma.io/service: here-ops, version: '1'}}
    transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
---
";

#[test]
fn a_policy_is_about_the_inbounds_that_it_names_and_about_no_other() {
    let arguments = ["culvert-sidecar", "--resources=/test", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let of = |target: &str, policy: &str| {
        let documents = format!(
            "{STRICT}{TWO}{{type: MeshTLS, name: t, {policy} spec: {{targetRef: {target}, rules: [{{default: {{mode: Permissive}}}}]}}}}
---
{{type: MeshTrafficPermission, name: p, {policy} spec: {{targetRef: {target}, from: [{{targetRef: {{kind: Mesh}}, default: {{action: Allow}}}}]}}}}
"
        );
        let mtls = compile(&config, &read(&documents).unwrap()).unwrap().mtls.unwrap();
        let held = |gate: &Gate| {
            assert_eq!(gate.mode == TlsMode::Permissive, gate.permissions.restricted, "{target}");
            gate.permissions.restricted
        };
        let port = |port| held(&mtls.inbounds[&std::net::SocketAddr::from(([10, 0, 0, 2], port))]);
        [port(80), port(81), held(&mtls.others)]
    };
    for (target, about) in [
        ("{kind: Mesh}", [true; 3]),
        ("{kind: Mesh, proxyTypes: [Sidecar]}", [true; 3]),
        ("{kind: Mesh, proxyTypes: [Gateway]}", [false; 3]),
        ("{kind: MeshSubset, tags: {version: '1'}}", [true; 3]),
        ("{kind: MeshSubset, tags: {version: '2'}}", [false; 3]),
        ("{kind: MeshSubset, tags: {kuma.io/service: here}}", [true, false, false]),
        ("{kind: MeshSubset, tags: {kuma.io/service: here-ops}}", [false, true, false]),
        ("{kind: Dataplane}", [true; 3]),
        ("{kind: Dataplane, sectionName: api}", [true, false, false]),
        ("{kind: Dataplane, sectionName: '81'}", [false, true, false]),
        ("{kind: Dataplane, sectionName: none}", [false; 3]),
        ("{kind: Dataplane, labels: {app: here}}", [true; 3]),
        ("{kind: Dataplane, labels: {app: here, tier: back}, sectionName: ops}", [false, true, false]),
        ("{kind: Dataplane, labels: {app: here, tier: front}}", [false; 3]),
        ("{kind: Dataplane, labels: {app: here, zone: east}}", [false; 3]),
        ("{kind: Dataplane, labels: {k8s.kuma.io/namespace: shop}}", [true; 3]),
        ("{kind: Dataplane, name: here}", [true; 3]),
        ("{kind: Dataplane, name: here.shop}", [true; 3]),
        ("{kind: Dataplane, name: here, namespace: shop}", [true; 3]),
        ("{kind: Dataplane, name: here, namespace: bank}", [false; 3]),
        ("{kind: Dataplane, name: there, namespace: shop}", [false; 3]),
        ("{kind: Dataplane, name: here, namespace: shop, sectionName: api}", [true, false, false]),
    ] {
        assert_eq!(of(target, ""), about, "{target}");
    }
    // A policy of an application's namespace is about that namespace's pods.
    let owned = |namespace: &str| {
        format!("labels: {{kuma.io/policy-role: workload-owner, k8s.kuma.io/namespace: {namespace}}},")
    };
    assert_eq!(of("{kind: Mesh}", &owned("shop")), [true; 3]);
    assert_eq!(of("{kind: Mesh}", &owned("bank")), [false; 3]);
}

#[test]
fn a_gateway_is_there_for_strangers() {
    let arguments = ["culvert-sidecar", "--resources=/test", "--dataplane=edge"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let edge = "{type: Dataplane, name: edge, networking: {address: 10.0.0.3, gateway: {tags: {kuma.io/service: edge}}}}\n";
    let plan = compile(&config, &read(&format!("{STRICT}{edge}")).unwrap()).unwrap();
    assert_eq!(plan.mtls.unwrap().others.mode, TlsMode::Permissive);
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
}

#[test]
fn inbounds_with_the_same_permissions_share_them_and_all_others_are_bounded() {
    const INBOUNDS: usize = 110;
    let denials = |callers: std::ops::Range<usize>| {
        let one =
            |number: usize| format!("{{spiffeID: {{type: Exact, value: 'spiffe://default/s{number}'}}}}");
        callers.map(one).collect::<Vec<_>>().join(", ")
    };
    let policy = |name: usize, target: &str, callers| {
        format!(
            "---\n{{type: MeshTrafficPermission, name: p{name}, spec: {{targetRef: {target}, rules: [{{default: {{deny: [{}]}}}}]}}}}\n",
            denials(callers)
        )
    };
    let inbound = |port: usize| format!("{{port: {port}, tags: {{kuma.io/service: here}}}}");
    let inbounds = (1..=INBOUNDS).map(inbound).collect::<Vec<_>>().join(", ");
    let here = format!(
        "---\n{{type: Dataplane, name: here, networking: {{address: 10.0.0.2, inbound: [{inbounds}]}}}}\n"
    );
    let common = format!("{STRICT}{here}{}", policy(0, "{kind: Mesh}", 0..500));
    let mtls = compile(&config(), &read(&common).unwrap()).unwrap().mtls.unwrap();
    assert!(mtls.inbounds.values().all(|gate| Arc::ptr_eq(&gate.permissions, &mtls.others.permissions)));
    // One denial of its own makes each a list of its own.
    let own = |port: usize| {
        let target = format!("{{kind: Dataplane, name: here, sectionName: '{port}'}}");
        policy(port, &target, 1000 + port..1001 + port)
    };
    let documents = (1..=INBOUNDS).fold(common, |text, port| text + &own(port));
    let errors = compile(&config(), &read(&documents).unwrap()).unwrap_err();
    let words: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert!(
        matches!(&words[..], [one] if one.contains("more than 50000 permissions of all inbounds")),
        "{words:?}"
    );
}
