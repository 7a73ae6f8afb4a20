// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::config::Config;
use crate::options::Options;
use crate::plan::Plan;
use crate::resources::compile::compile;
use crate::resources::document::Found;
use crate::resources::files::Loaded;
use crate::resources::read::Tags;
use clap::Parser;
use std::path::Path;

fn config() -> Config {
    let arguments = ["culvert-sidecar", "--resources=/test", "--dataplane=here"];
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

fn read(documents: &str) -> Result<Found, Vec<String>> {
    let mut loaded = Loaded::default();
    loaded.add(&config(), documents, Path::new("test.yaml"));
    let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
    if errors.is_empty() { Ok(loaded.found) } else { Err(errors) }
}

fn plan(documents: &str) -> Plan {
    let here = "---\n{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 80, servicePort: 8080, tags: {kuma.io/service: here, version: '1'}}]}}\n";
    compile(&config(), &read(&format!("{documents}\n{here}")).unwrap()).unwrap()
}

const STRICT: &str = "
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
    let mode = |mesh: &str| plan(mesh).mtls.map(|mtls| mtls.mode);
    assert_eq!(mode(""), None);
    assert_eq!(mode("{type: Mesh, name: default, mtls: {backends: [{name: a, mode: STRICT}]}}\n"), None);
    assert_eq!(mode(STRICT), Some(TlsMode::Strict));
    assert_eq!(
        mode(&STRICT.replace("enabledBackend: ca-1", "enabledBackend: ca-2")),
        Some(TlsMode::Permissive)
    );
    let mtls = plan(STRICT).mtls.unwrap();
    assert!(mtls.named_only && !mtls.permissions.restricted);
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
        (mtls.mode, mtls.settings.min, mtls.settings.max),
        (TlsMode::Permissive, TlsVersion::V12, TlsVersion::V13)
    );
    assert_eq!(mtls.settings.suites.len(), 4);
    let ours = "
{type: MeshTLS, name: ours, spec: {targetRef: {kind: MeshService, name: here}, rules: [{default: {mode: Strict}}]}}
---
{type: MeshTLS, name: others, spec: {targetRef: {kind: MeshService, name: there}, rules: [{default: {mode: Permissive}}]}}
---
";
    let mtls = of(&format!("{ours}{permissive}"));
    assert_eq!((mtls.mode, mtls.settings.min), (TlsMode::Strict, TlsVersion::V12));
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
  {{targetRef: {{kind: MeshService, name: web}}, default: {{action: Allow}}}}],
  rules: [{{default: {{deny: [{{spiffeID: {{type: Exact, value: 'spiffe://default/evil'}}}}]}}}}]}}}}
---
{{type: MeshTrafficPermission, name: others, spec: {{targetRef: {{kind: MeshService, name: there}}, from: [
  {{targetRef: {{kind: Mesh}}, default: {{action: Allow}}}}]}}}}
---
"
    );
    let permissions = plan(&documents).mtls.unwrap().permissions;
    let tags = |key: &str, value: &str| Who::Tags(Tags([(key.into(), value.into())].into()));
    let one = |who, action| Permission { who, action };
    assert_eq!(
        permissions,
        Permissions {
            restricted: true,
            ordered: vec![
                one(tags(SERVICE, "web"), Action::Allow),
                one(tags(SERVICE, "web"), Action::Deny),
                one(tags("version", "2"), Action::AllowWithShadowDeny),
                one(Who::Everyone, Action::Deny),
            ],
            unordered: vec![one(Who::Exactly("spiffe://default/evil".into()), Action::Deny)],
        }
    );
}

#[test]
fn a_permission_that_chooses_pods_is_told_where_nobody_knows_which_pod_this_is() {
    let policy = |target: &str| {
        format!(
            "{STRICT}{{type: MeshTrafficPermission, name: p, spec: {{targetRef: {target}, from: [\
                {{targetRef: {{kind: Mesh}}, default: {{action: Deny}}}}]}}}}\n---\n"
        )
    };
    let config = Options::try_parse_from(["culvert-sidecar", "--resources=/test"]).unwrap().check().unwrap();
    for (target, told) in [
        ("{kind: MeshSubset, tags: {version: '1'}}", true),
        ("{kind: MeshService, name: web}", true),
        ("{kind: Mesh}", false),
    ] {
        let warnings = compile(&config, &read(&policy(target)).unwrap()).unwrap().warnings;
        assert_eq!(
            warnings.iter().any(|one| one.contains("MeshTrafficPermission")),
            told,
            "{target}: {warnings:?}"
        );
    }
}

#[test]
fn a_gateway_is_there_for_strangers() {
    let arguments = ["culvert-sidecar", "--resources=/test", "--dataplane=edge"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let edge = "{type: Dataplane, name: edge, networking: {address: 10.0.0.3, gateway: {tags: {kuma.io/service: edge}}}}\n";
    let plan = compile(&config, &read(&format!("{STRICT}{edge}")).unwrap()).unwrap();
    assert_eq!(plan.mtls.unwrap().mode, TlsMode::Permissive);
    assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
}
