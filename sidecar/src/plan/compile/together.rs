// SPDX-License-Identifier: Apache-2.0
//! Documents with several errors: each is reported at the first try, and none twice.

use crate::options::Options;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;

/// All errors of these documents, with `--dataplane app`.
fn errors(documents: &str) -> Vec<String> {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=app"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "m.yaml");
    let together = compile(&config, &loaded.found).err().unwrap_or_default();
    let errors = loaded.errors.iter().map(ToString::to_string);
    errors.chain(together.iter().map(ToString::to_string)).collect()
}

#[test]
fn what_fields_and_documents_say_together_is_told_beside_what_is_wrong_with_single_ones() {
    let text = "
type: Mesh
name: default
networking: {outbound: {passthrough: maybe}}
logging:
  defaultBackend: nowhere
  backends: [{name: a, type: file, conf: {}}, {name: a, type: tcp, format: '%NO%', conf: {}}, {name: c, type: file, conf: {path: /x}, size: 1}]
mtls: {enabledBackend: ca, backends: [{name: x, mode: Loose}, {name: x}]}
---
type: Dataplane
name: app
networking:
  address: 10.0.0.2
  advertisedAddress: 224.0.0.1
  transparentProxying: {redirectPortInbound: 7006, redirectPortOutbound: many}
  inbound:
  - {port: 70000, serviceAddress: 10.9.9.9, tags: {version: 1.0}}
  - {port: 80, address: here, servicePort: 15001, tags: {kuma.io/service: '*'}}
  - {port: 81, address: 127.0.0.3, health: {ready: perhaps}, tags: {kuma.io/service: a}}
  - {port: 81, address: 127.0.0.3, tags: {kuma.io/service: a}}
  outbound:
  - {port: 15001, tags: {kuma.io/service: b, version: ''}}
  - {port: 7100, address: 0.0.0.0, tags: {kuma.io/service: b}}
---
{type: Dataplane, name: app, networking: {address: 10.0.0.2}}
---
{type: Mesh, name: default}
---
{type: MeshAccessLog, name: l, spec: {targetRef: {kind: MeshService, proxyTypes: [Router]}, to: [{targetRef: {kind: MeshService}, default: {backends: [
  {type: File}, {type: Tcp, tcp: {address: nowhere, format: {type: Json}}}, {type: File, file: {path: 5, format: {type: Plain}}},
  {type: OpenTelemetry, openTelemetry: {endpoint: 'otel:4317'}}]}}]}}
---
{type: MeshTLS, name: t, spec: {rules: [{default: {mode: Loose, tlsVersion: {min: TLS13, max: TLS12}}}]}}
---
{type: MeshTrafficPermission, name: p, spec: {from: [{targetRef: {kind: Dataplane}, default: {action: Maybe}}],
  rules: [{default: {deny: [{spiffeID: {type: Exactly, value: web}}]}}]}}
---
{type: ProxyTemplate, name: x, selectors: [{match: {kuma.io/service: '*'}}], conf: {imports: [], modifications: [
  {cluster: {operation: patch, value: 'circuit_breakers: {thresholds: [{max_connections: -1}, {priority: HIGH}]}'}},
  {cluster: {operation: patch, value: 'connect_timeout: soon'}, networkFilter: {operation: patch, value: 'name: x'}}]}}
---
type: MeshAccessLog
name: twice
name: twice
spec: {to: 5}
";
    insta::assert_snapshot!(errors(text).join("\n"));
}

#[test]
fn what_is_wrong_itself_makes_no_second_error() {
    let with = |networking: &str| format!("{{type: Dataplane, name: app, networking: {{{networking}}}}}");
    let mesh =
        |rest: &str| format!("{{type: Mesh, name: default, {rest}}}\n---\n{}", with("address: 10.0.0.2"));
    let log = |rest: &str| {
        format!("{{type: MeshAccessLog, name: l, spec: {{{rest}}}}}\n---\n{}", with("address: 10.0.0.2"))
    };
    let tags = "tags: {kuma.io/service: a}";
    for (name, documents, only) in [
        (
            "a backend's name",
            mesh("mtls: {enabledBackend: a, backends: [{name: 5}]}"),
            "mtls.backends[0].name",
        ),
        ("a list of backends", mesh("mtls: {enabledBackend: a, backends: a}"), "mtls.backends"),
        ("the chosen backend", mesh("logging: {defaultBackend: 5, backends: []}"), "logging.defaultBackend"),
        ("a misspelt list", mesh("mtls: {enabledBackend: a, backend: [{name: a}]}"), "mtls.backend"),
        (
            "a backend's type",
            mesh("logging: {backends: [{name: a, type: kafka, conf: {}}]}"),
            "logging.backends[0].type",
        ),
        (
            "a backend's path",
            mesh("logging: {backends: [{name: a, type: file, conf: {path: 5}}]}"),
            "logging.backends[0].conf.path",
        ),
        (
            "a misspelt path",
            mesh("logging: {backends: [{name: a, type: file, conf: {pth: /x}}]}"),
            "logging.backends[0].conf.pth",
        ),
        (
            "the address",
            with(&format!("address: here!, inbound: [{{port: 80, serviceAddress: 10.0.0.2, {tags}}}]")),
            "networking.address",
        ),
        (
            "an inbound's address",
            with(&format!(
                "address: 10.0.0.1, inbound: [{{port: 80, address: x, serviceAddress: 10.0.0.2, {tags}}}]"
            )),
            "networking.inbound[0].address",
        ),
        (
            "a port twice",
            with(&format!("address: 10.0.0.1, inbound: [{{port: x, {tags}}}, {{port: x, {tags}}}]")),
            "networking.inbound[0].port networking.inbound[1].port",
        ),
        (
            "a tag",
            with("address: 10.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: 5}}]"),
            "networking.inbound[0].tags.\"kuma.io/service\"",
        ),
        ("tags", with("address: 10.0.0.1, inbound: [{port: 80, tags: []}]"), "networking.inbound[0].tags"),
        ("no tags", with("address: 10.0.0.1, outbound: [{port: 80}]"), "networking.outbound[0].tags"),
        (
            "a gateway's tags",
            with("address: 10.0.0.1, gateway: {tags: {kuma.io/service: 5}}"),
            "networking.gateway.tags.\"kuma.io/service\"",
        ),
        (
            "a protocol of another type",
            with("address: 10.0.0.1, inbound: [{port: 80, tags: {kuma.io/service: a, kuma.io/protocol: 5}}]"),
            "networking.inbound[0].tags.\"kuma.io/protocol\"",
        ),
        (
            "a reference's labels",
            with(
                "address: 10.0.0.1, transparentProxying: {reachableBackends: {refs: [{kind: MeshService, labels: 5}]}}",
            ),
            "networking.transparentProxying.reachableBackends.refs[0].labels",
        ),
        (
            "a reference's misspelt name",
            with(
                "address: 10.0.0.1, transparentProxying: {reachableBackends: {refs: [{kind: MeshService, nam: a}]}}",
            ),
            "networking.transparentProxying.reachableBackends.refs[0].nam",
        ),
        (
            "the redirect",
            with(&format!(
                "address: 10.0.0.1, transparentProxying: on, outbound: [{{port: 80, address: 1.1.1.1, {tags}}}]"
            )),
            "networking.transparentProxying",
        ),
        (
            "its port",
            with(&format!(
                "address: 10.0.0.1, transparentProxying: {{redirectPortOutbound: x}}, outbound: [{{port: 80, address: 1.1.1.1, {tags}}}]"
            )),
            "networking.transparentProxying.redirectPortOutbound",
        ),
        (
            "a misspelt redirect",
            with(&format!(
                "address: 10.0.0.1, transparentProxing: {{}}, outbound: [{{port: 80, address: 1.1.1.1, {tags}}}]"
            )),
            "networking.transparentProxing",
        ),
        (
            "a listener and application",
            with(&format!(
                "address: 10.0.0.1, inbound: [{{port: 80, serviceAddress: 10.0.0.1, servicePort: x, {tags}}}]"
            )),
            "networking.inbound[0].servicePort",
        ),
        ("this pod itself", with("address: here!"), "networking.address"),
        ("its kind", "{type: DataPlane, name: app}".into(), "type"),
        ("its name", "{type: Dataplane, name: [app], networking: {address: 10.0.0.1}}".into(), "name"),
        (
            "a service without a name",
            log("targetRef: {kind: MeshService, nam: a}, rules: [{default: {backends: []}}]"),
            "spec.targetRef.nam",
        ),
        (
            "a target",
            log("to: [{targetRef: {kind: Service}, default: {backends: []}}]"),
            "spec.to[0].targetRef.kind",
        ),
        (
            "a format",
            log("rules: [{default: {backends: [{type: File, file: {path: /x, format: {type: Xml}}}]}}]"),
            "spec.rules[0].default.backends[0].file.format.type",
        ),
        (
            "OpenTelemetry",
            log("rules: [{default: {backends: [{type: OpenTelemetry, openTelemetry: {endpoint: 'o:1'}}]}}]"),
            "spec.rules[0].default.backends[0].type",
        ),
    ] {
        let errors = errors(&documents);
        let paths: Vec<_> = errors.iter().map(|error| error.split(": ").nth(2).unwrap_or(error)).collect();
        assert_eq!(paths.join(" "), only, "{name}: {errors:#?}");
    }
}
