// SPDX-License-Identifier: Apache-2.0
//! Rules of Dataplanes and of Meshes as Kuma's validators have them: refused input by its field, and taken input.

use crate::context::Context;
use crate::load::Loaded;
use std::path::Path;

/// Fields and words of the errors.
fn errors(text: &str) -> Vec<String> {
    let mut loaded = Loaded::default();
    let context = Context { mesh: "default".into(), dataplane: Some("this".into()), ..Context::default() };
    loaded.add(&context, text, Path::new("a.yaml"));
    let words = loaded.errors.iter().map(ToString::to_string);
    words.map(|words| words.split_once("): ").map_or(words.clone(), |(_, rest)| rest.into())).collect()
}

fn dataplane(networking: &str) -> String {
    format!("{{type: Dataplane, name: dp-1, networking: {{address: 192.168.0.1, {networking}}}}}")
}

fn assert_rows(rows: &[(&str, String, &[&str])]) {
    for (name, text, expected) in rows {
        let errors = errors(text);
        let fits = errors.len() == expected.len()
            && errors.iter().zip(*expected).all(|(error, expected)| error.starts_with(expected));
        assert!(fits, "{name}: {errors:#?}\nexpected {expected:#?}");
    }
}

const TAGS: &str = "tags: {kuma.io/service: backend}";

#[test]
fn a_gateway_has_a_service_and_takes_its_connections_itself() {
    let of_kind = |name: &str, kind: &str| {
        format!(
            "{{type: Dataplane, name: {name}, networking: {{address: 192.168.0.1, gateway: {{{kind} {TAGS}}}}}}}"
        )
    };
    assert_rows(&[
        (
            "inbounds and a gateway",
            dataplane(&format!("inbound: [{{port: 8080, {TAGS}}}], gateway: {{{TAGS}}}")),
            &["networking.inbound: found a list of 1 beside a gateway; allowed: none, as a gateway takes"],
        ),
        (
            "inbounds and a built-in gateway",
            dataplane(&format!("inbound: [{{port: 8080, {TAGS}}}], gateway: {{type: BUILTIN, {TAGS}}}")),
            &["networking.inbound: found a list of 1 beside a gateway"],
        ),
        (
            "outbounds and a built-in gateway",
            dataplane(&format!("outbound: [{{port: 8080, {TAGS}}}], gateway: {{type: BUILTIN, {TAGS}}}")),
            &["networking.outbound: found a list of 1 beside a built-in gateway"],
        ),
        (
            "probes and a built-in gateway",
            format!(
                "{{type: Dataplane, name: a, networking: {{address: 10.0.0.1, gateway: {{type: BUILTIN, {TAGS}}}}}, probes: {{port: 9000}}}}"
            ),
            &["probes: found probes of a built-in gateway; allowed: none"],
        ),
        (
            "no service",
            dataplane("gateway: {tags: {version: v1}}"),
            &["networking.gateway.tags.\"kuma.io/service\": found nothing; allowed: this field is required"],
        ),
        ("no tags", dataplane("gateway: {}"), &["networking.gateway.tags: found nothing; allowed"]),
        (
            "an empty tag",
            dataplane("gateway: {tags: {kuma.io/service: backend, version: }}"),
            &["networking.gateway.tags.version: found nothing; allowed: text"],
        ),
        (
            "any service",
            dataplane("gateway: {tags: {kuma.io/service: '*'}}"),
            &["networking.gateway.tags.\"kuma.io/service\": found \"*\"; allowed: one value"],
        ),
        (
            "HTTP",
            dataplane("gateway: {tags: {kuma.io/service: backend, kuma.io/protocol: http}}"),
            &["networking.gateway.tags.\"kuma.io/protocol\": found \"http\"; allowed: tcp, for a gateway"],
        ),
        (
            "a slash",
            dataplane("inbound: [{port: 80, tags: {kuma.io/service: a/b, kuma.io/x: c}}]"),
            &["networking.inbound[0].tags.\"kuma.io/service\": found \"a/b\"; allowed: a value without '/'"],
        ),
        ("TCP", dataplane("gateway: {tags: {kuma.io/service: backend, kuma.io/protocol: tcp}}"), &[]),
        (
            "outbounds and a gateway",
            dataplane(&format!("outbound: [{{port: 1, {TAGS}}}], gateway: {{{TAGS}}}")),
            &[],
        ),
        ("another pod's built-in gateway", of_kind("edge", "type: BUILTIN,"), &[]),
        (
            "this pod's built-in gateway",
            of_kind("this", "type: BUILTIN,"),
            &["networking.gateway.type: found \"BUILTIN\"; allowed: DELEGATED for this pod"],
        ),
        ("this pod's gateway", of_kind("this", "type: DELEGATED,"), &[]),
    ]);
}

#[test]
fn an_application_has_another_address_or_port_than_its_listener() {
    const SAME: &[&str] =
        &["networking.inbound[0].serviceAddress: found \"192.168.0.1\" with the listener's port"];
    let inbound = |more: &str| dataplane(&format!("inbound: [{{port: 10001, {more}, {TAGS}}}]"));
    assert_rows(&[
        ("the workload's address", inbound("serviceAddress: 192.168.0.1"), SAME),
        ("the same port", inbound("serviceAddress: 192.168.0.1, servicePort: 10001"), SAME),
        (
            "the inbound's address",
            inbound("address: 192.168.0.2, serviceAddress: 192.168.0.2"),
            &["networking.inbound[0].serviceAddress: found \"192.168.0.2\" with the listener's port"],
        ),
        (
            "the workload's address beside the inbound's",
            inbound("address: 192.168.0.2, serviceAddress: 192.168.0.1"),
            SAME,
        ),
        ("in IPv6's spelling", inbound("serviceAddress: '::ffff:192.168.0.1'"), SAME),
        (
            "on loopback",
            inbound("address: 127.0.0.1, serviceAddress: 127.0.0.1"),
            &["networking.inbound[0].serviceAddress: found \"127.0.0.1\" with the listener's port"],
        ),
        ("another port", inbound("serviceAddress: 192.168.0.1, servicePort: 10002"), &[]),
        (
            "another port and address",
            inbound("address: 192.168.0.2, serviceAddress: 192.168.0.2, servicePort: 10002"),
            &[],
        ),
        ("loopback", inbound("serviceAddress: 127.0.0.1"), &[]),
    ]);
}

#[test]
fn the_references_of_reachable_backends_name_services() {
    let refs =
        |refs: &str| dataplane(&format!("transparentProxying: {{reachableBackends: {{refs: [{refs}]}}}}"));
    const FIRST: &str = "networking.transparentProxying.reachableBackends.refs[0]";
    let [kind, labels, name, neither] = [
        ".kind: found \"Something\"; allowed: MeshService, ",
        ".labels: found labels beside a name",
        ".name: found ",
        ": found neither name nor labels",
    ]
    .map(|end| format!("{FIRST}{end}"));
    assert_rows(&[
        ("another kind", refs("{kind: Something, name: first}"), &[&kind]),
        ("no kind", refs("{name: first}"), &[&format!("{FIRST}.kind: found nothing")]),
        ("a name and labels", refs("{kind: MeshService, name: a, namespace: b, labels: {c: d}}"), &[&labels]),
        ("no name by RFC 1123", refs("{kind: MeshService, name: first$-.kuma}"), &[&name]),
        ("capitals", refs("{kind: MeshService, name: First}"), &[&name]),
        ("neither", refs("{kind: MeshService}"), &[&neither]),
        ("a namespace alone", refs("{kind: MeshService, namespace: xyz}"), &[&name]),
        (
            "a port that is none",
            refs("{kind: MeshService, name: a, port: 0}"),
            &[&format!("{FIRST}.port: found 0")],
        ),
        (
            "all that is right",
            refs(
                "{kind: MeshService, name: a, port: 9090}, {kind: MeshExternalService, name: es.b, namespace: es1}, {kind: MeshMultiZoneService, labels: {a: b}}",
            ),
            &[],
        ),
        ("none", dataplane("transparentProxying: {reachableBackends: {}}"), &[]),
    ]);
}

#[test]
fn fields_without_effect_are_checked() {
    let inbound = |more: &str| dataplane(&format!("inbound: [{{port: 8080, {TAGS}, {more}}}]"));
    let beside = |more: &str| {
        let networking = format!("networking: {{address: 10.0.0.1, inbound: [{{port: 1, {TAGS}}}]}}");
        format!("{{type: Dataplane, name: dp-1, {networking}, {more}}}")
    };
    assert_rows(&[
        (
            "a service probe",
            inbound(
                "serviceProbe: {timeout: 1s, interval: '0', healthyThreshold: 5, unhealthyThreshold: 0, tcp: {}}",
            ),
            &[
                "networking.inbound[0].serviceProbe.interval: found 0; allowed: a duration over 0",
                "networking.inbound[0].serviceProbe.unhealthyThreshold: found 0; allowed: a number of at least 1",
            ],
        ),
        (
            "a service probe of another type",
            inbound("serviceProbe: {tcp: 80}"),
            &["networking.inbound[0].serviceProbe.tcp: found 80"],
        ),
        (
            "virtual probes",
            beside(
                "probes: {port: 0, endpoints: [{inboundPort: 99999999, inboundPath: healthz, path: 8080/healthz}, {inboundPort: 1000}]}",
            ),
            &[
                "probes.port: found 0",
                "probes.endpoints[0].inboundPort: found 99999999",
                "probes.endpoints[0].inboundPath: found \"healthz\"; allowed: the path of a URL",
                "probes.endpoints[0].path: found \"8080/healthz\"; allowed: the path of a URL",
                "probes.endpoints[1].inboundPath: found nothing",
                "probes.endpoints[1].path: found nothing",
            ],
        ),
        (
            "metrics",
            beside("metrics: {type: custom-backend}"),
            &["metrics.type: found \"custom-backend\"; allowed: prometheus"],
        ),
        (
            "an inbound on admin's port",
            dataplane(&format!("admin: {{port: 80}}, inbound: [{{port: 80, address: 127.0.0.1, {TAGS}}}]")),
            &["networking.admin.port: found 80; allowed: a port that no listener on 127.0.0.1 has"],
        ),
        (
            "an outbound on admin's port",
            dataplane(&format!("admin: {{port: 80}}, outbound: [{{port: 80, {TAGS}}}]")),
            &["networking.admin.port: found 80; allowed: a port that no listener"],
        ),
        (
            "admin on another address",
            dataplane(&format!(
                "admin: {{port: 80}}, inbound: [{{port: 80, {TAGS}}}], outbound: [{{port: 80, address: 10.0.0.1, {TAGS}}}]"
            )),
            &[],
        ),
        (
            "a protocol",
            inbound("protocol: smtp"),
            &["networking.inbound[0].protocol: found \"smtp\"; allowed: tcp, tls, http"],
        ),
        (
            "a protocol as tag",
            dataplane("inbound: [{port: 1, tags: {kuma.io/service: a, kuma.io/protocol: smtp}}]"),
            &["networking.inbound[0].tags.\"kuma.io/protocol\": found \"smtp\"; allowed: tcp, tls, http"],
        ),
        (
            "all that is right",
            beside(
                "metrics: {type: prometheus, conf: {port: 1}}, probes: {port: 9000, endpoints: [{inboundPort: 80, inboundPath: /a, path: /80/a}]}",
            ),
            &[],
        ),
        ("a zone's proxy", dataplane("listeners: [{type: ZoneIngress, port: 10001}]"), &[]),
        (
            "listeners of another type",
            dataplane("listeners: [80]"),
            &["networking.listeners[0]: found 80; allowed: a mapping"],
        ),
    ]);
}

#[test]
fn an_inbound_without_tags_is_one_of_kuma_3() {
    let labelled = "{type: Dataplane, name: this, labels: {app: web}, networking: {address: 10.0.0.1, \
                    inbound: [{port: 80, name: http, protocol: http}]}}";
    assert_rows(&[
        ("without tags", labelled.into(), &[]),
        (
            "without the service's",
            dataplane("inbound: [{port: 80, tags: {}}]"),
            &["networking.inbound[0].tags.\"kuma.io/service\": found nothing"],
        ),
    ]);
}

#[test]
fn certificates_and_backends_of_a_mesh_are_checked() {
    let mesh = |more: &str| format!("{{type: Mesh, name: default, {more}}}");
    let mtls = |more: &str| mesh(&format!("mtls: {{enabledBackend: ca, backends: [{{name: ca, {more}}}]}}"));
    assert_rows(&[
        (
            "a rotation",
            mtls("type: builtin, dpCert: {rotation: {expiration: 2e}}"),
            &["mtls.backends[0].dpCert.rotation.expiration: found \"2e\"; allowed: a lifetime"],
        ),
        (
            "an authority of Kuma's own",
            mtls("type: builtin, conf: {caCert: {RSAbits: 2048, expiration: 10x}}"),
            &["mtls.backends[0].conf.caCert.expiration: found \"10x\"; allowed: a lifetime"],
        ),
        (
            "its time",
            mtls("rootChain: {requestTimeout: soon}"),
            &["mtls.backends[0].rootChain.requestTimeout: found \"soon\""],
        ),
        (
            "a request",
            mtls("dpCert: {requestTimeout: 1x}"),
            &["mtls.backends[0].dpCert.requestTimeout: found \"1x\""],
        ),
        (
            "a misspelt rotation",
            mtls("dpCert: {rotations: {}}"),
            &["mtls.backends[0].dpCert.rotations: found a field"],
        ),
        (
            "a conf that is none",
            mtls("type: builtin, conf: ca"),
            &["mtls.backends[0].conf: found \"ca\"; allowed: a mapping"],
        ),
        (
            "what is right",
            mtls(
                "type: builtin, dpCert: {rotation: {expiration: 1d}, requestTimeout: 10s}, conf: {caCert: {expiration: 10y}}",
            ),
            &[],
        ),
        ("an authority of others", mtls("type: acmpca, conf: {arn: x, caCert: {secret: s}}"), &[]),
        (
            "metrics that are on",
            mesh("metrics: {enabledBackend: a, backends: [{name: b, type: prometheus}]}"),
            &["metrics.enabledBackend: found \"a\"; allowed: a backend of the list: b"],
        ),
        (
            "traces",
            mesh(
                "tracing: {defaultBackend: a, backends: [{name: b, type: zipkin, sampling: 101}, {name: b, type: jaeger}]}",
            ),
            &[
                "tracing.backends[0].sampling: found 101; allowed: a number from 0 to 100",
                "tracing.backends[1].type: found \"jaeger\"; allowed: zipkin, datadog",
                "tracing.defaultBackend: found \"a\"; allowed: a backend of the list: b",
                "tracing.backends[1].name: found \"b\" again",
            ],
        ),
        (
            "a mode",
            mesh("meshServices: {mode: Always}"),
            &["meshServices.mode: found \"Always\"; allowed: Disabled, "],
        ),
        (
            "policies",
            mesh("skipCreatingInitialPolicies: '*'"),
            &["skipCreatingInitialPolicies: found \"*\"; allowed: a list"],
        ),
        (
            "constraints",
            mesh(
                "constraints: {dataplaneProxy: {requirements: [{tag: {}}], restrictions: [{tags: {a: '*'}}]}}",
            ),
            &[
                "constraints.dataplaneProxy.requirements[0].tags: found nothing",
                "constraints.dataplaneProxy.requirements[0].tag: found a field",
            ],
        ),
        (
            "all that is right",
            mesh(
                "metrics: {enabledBackend: a, backends: [{name: a, type: prometheus}]}, routing: {zoneEgress: true, localityAwareLoadBalancing: false}, skipCreatingInitialPolicies: ['*'], meshServices: {mode: Exclusive}",
            ),
            &[],
        ),
    ]);
}

#[test]
fn an_outbound_says_its_service_by_tags_or_by_reference() {
    let to = |fields: &str| dataplane(&format!("outbound: [{{port: 3000, {fields}}}]"));
    let reference = |fields: &str| to(&format!("backendRef: {{{fields}}}"));
    assert_rows(&[
        ("by name", reference("kind: MeshService, name: postgres, port: 5432"), &[]),
        ("by labels", reference("kind: MeshService, labels: {kuma.io/display-name: a}, port: 80"), &[]),
        ("of another pod", reference("kind: MeshExternalService, name: httpbin"), &[]),
        ("of several zones", reference("kind: MeshMultiZoneService, name: a, port: 80"), &[]),
        (
            "neither",
            to("address: 127.0.0.2"),
            &[
                "networking.outbound[0].tags: found nothing; allowed: tags with kuma.io/service, or a backendRef",
            ],
        ),
        (
            "tags without a service",
            to("tags: {version: v1}"),
            &[
                "networking.outbound[0].tags.\"kuma.io/service\": found nothing; allowed: this field is required",
            ],
        ),
        (
            "no name",
            reference("kind: MeshService, port: 80"),
            &["networking.outbound[0].backendRef: found neither name nor labels; allowed: a name, or labels"],
        ),
        (
            "both",
            reference("kind: MeshService, name: a, labels: {kuma.io/display-name: a}, port: 80"),
            &["networking.outbound[0].backendRef.labels: found labels beside a name"],
        ),
        (
            "no port",
            reference("kind: MeshService, name: a"),
            &["networking.outbound[0].backendRef.port: found nothing; allowed: the port of the service"],
        ),
        (
            "a wrong port",
            reference("kind: MeshService, name: a, port: 0"),
            &["networking.outbound[0].backendRef.port: found 0; allowed: a port from 1 to 65535"],
        ),
        (
            "another kind",
            reference("kind: Service, name: a, port: 80"),
            &["networking.outbound[0].backendRef.kind: found \"Service\"; allowed: MeshService, "],
        ),
        (
            "a misspelt field",
            reference("kind: MeshService, nam: a, port: 80"),
            &["networking.outbound[0].backendRef.nam: found a field that culvert does not have"],
        ),
    ]);
}

#[test]
fn an_address_of_the_workload_may_be_a_name_and_no_other() {
    let named = |networking: &str| {
        format!(
            "{{type: Dataplane, name: dp-1, networking: {{address: web.example.internal, {networking}}}}}"
        )
    };
    let inbound = |more: &str| named(&format!("inbound: [{{port: 8080, {more} {TAGS}}}]"));
    assert_rows(&[
        ("names", named("advertisedAddress: Web.Example.Com."), &[]),
        ("an application on loopback", inbound("serviceAddress: 127.0.0.1,"), &[]),
        (
            "a listener at an address",
            inbound("address: 10.0.0.1, serviceAddress: 10.0.0.1, servicePort: 80,"),
            &[],
        ),
        (
            "an application elsewhere",
            inbound("serviceAddress: 10.0.0.9,"),
            &[
                "networking.inbound[0].serviceAddress: found \"10.0.0.9\"; allowed: 127.0.0.1, ::1, or this workload's own",
            ],
        ),
        (
            "the address that stands for a name",
            inbound("serviceAddress: 240.0.0.1, servicePort: 80,"),
            &[
                "networking.inbound[0].serviceAddress: found \"240.0.0.1\"; allowed: 127.0.0.1, ::1, or this workload's own",
            ],
        ),
        (
            "a listener twice",
            named(&format!("inbound: [{{port: 80, {TAGS}}}, {{port: 80, {TAGS}}}]")),
            &["networking.inbound[1].port: found port 80 again"],
        ),
        (
            "a listener by name",
            inbound("address: web.example.internal,"),
            &[
                "networking.inbound[0].address: found \"web.example.internal\"; allowed: an IPv4 or IPv6 address; names are not",
            ],
        ),
        (
            "no address and no name",
            named("advertisedAddress: 10.0.0"),
            &[
                "networking.advertisedAddress: found \"10.0.0\"; allowed: an IPv4 or IPv6 address, or the name of a host",
            ],
        ),
    ]);
}
