// SPDX-License-Identifier: Apache-2.0
//! Documents of services as Kuma writes them, and those that it refuses.

use super::*;
use crate::context::Context;
use crate::document::Document;
use crate::kinds::dataplane::Dataplane;
use crate::kinds::{FromSpec, Kind, Spec};
use crate::load::Loaded;
use std::path::Path;
use std::sync::Arc;

/// PEM with the least that is taken for a certificate and for a key: an empty sequence.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n";
/// The same certificate in base64.
const INLINE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCk1BQT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";

fn load(text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let context = Context { mesh: "default".into(), dataplane: Some("here".into()), ..Context::default() };
    loaded.add(&context, text, Path::new("a.yaml"));
    loaded
}

/// The documents of a text, which is right.
fn read(text: &str) -> Vec<Document> {
    let Loaded { found, errors, .. } = load(text);
    assert!(errors.is_empty(), "{text}: {errors:#?}");
    found.documents
}

fn spec<K: FromSpec + Clone>(text: &str) -> K {
    let documents = read(text);
    K::from_spec(&documents[0].spec).unwrap_or_else(|| panic!("{text}")).clone()
}

/// The contents of a document in both spellings, which have to be the same.
fn both<K: FromSpec + Clone + PartialEq + std::fmt::Debug>(contents: &str) -> K {
    let kubernetes = format!(
        "{{apiVersion: kuma.io/v1alpha1, kind: {0}, metadata: {{name: a, namespace: shop}}, spec: {{{contents}}}}}",
        K::NAME
    );
    let universal = match K::HAS_SPEC {
        true => format!("{{type: {}, name: a, mesh: default, spec: {{{contents}}}}}", K::NAME),
        false => format!("{{type: {}, name: a, mesh: default, {contents}}}", K::NAME),
    };
    let one = spec::<K>(&universal);
    assert_eq!(one, spec::<K>(&kubernetes), "{contents}");
    one
}

#[test]
fn a_mesh_service_selects_dataplanes_in_three_ways() {
    let tags: MeshService = both(
        "selector: {dataplaneTags: {app: cart, k8s.kuma.io/namespace: shop}}, state: Unavailable, ports: [
         {port: 80, targetPort: 8080, appProtocol: http}, {name: admin, port: 9000, targetPort: admin-port, appProtocol: https},
         {port: 9001, targetPort: 0}], identities: [{type: ServiceTag, value: cart}, {type: SpiffeID, value: 'spiffe://a/b'}]",
    );
    assert_eq!(tags.selector.dataplane_tags.as_ref().unwrap().0["app"], "cart");
    let ports: Vec<_> =
        tags.ports.iter().map(|port| format!("{} {} {}", port.port.0, port.name(), port.target())).collect();
    assert_eq!(ports, ["80 80 8080", "9000 admin admin-port", "9001 9001 9001"]);
    for (section, chosen) in
        [("admin", [false, true]), ("9000", [false, true]), ("80", [true, false]), ("8080", [false; 2])]
    {
        assert_eq!([0, 1].map(|index| tags.ports[index].is_section(section)), chosen, "{section}");
    }
    let labels: MeshService =
        both("selector: {dataplaneLabels: {matchLabels: {app: cart}}}, ports: [{port: 80}]");
    assert_eq!(labels.selector.dataplane_labels.unwrap().match_labels.get("app"), Some("cart"));
    let one: MeshService = both("selector: {dataplaneRef: {name: db-0.shop}}, ports: [{port: 5432}]");
    assert_eq!(one.selector.dataplane_ref.unwrap().name.as_deref(), Some("db-0.shop"));
    // Kuma takes one that selects nothing, and one without ports.
    let none: MeshService = both("");
    assert_eq!((none.selector, none.ports), (ServiceSelector::default(), vec![]));
}

#[test]
fn the_inbounds_behind_a_port_are_found_by_number_or_name() {
    let dataplane: Dataplane = spec(
        "{type: Dataplane, name: d, networking: {address: 10.0.0.1, inbound: [{port: 8080, name: http}, {port: 8081, servicePort: 8080}]}}",
    );
    for (target, fits) in [
        (TargetPort::Number(8080), [true, false]),
        (TargetPort::Number(8081), [false, true]),
        (TargetPort::Name("http".into()), [true, false]),
        (TargetPort::Name("8081".into()), [false, false]),
    ] {
        assert_eq!([0, 1].map(|index| target.fits(&dataplane.networking.inbound[index])), fits, "{target}");
    }
}

#[test]
fn services_of_several_zones_and_outside_of_the_mesh_are_read() {
    let zones: MeshMultiZoneService = both(
        "selector: {meshService: {matchLabels: {kuma.io/display-name: cart}}}, ports: [{port: 80, name: http, appProtocol: http}, {port: 81}]",
    );
    assert_eq!(zones.selector.mesh_service.match_labels.get("kuma.io/display-name"), Some("cart"));
    assert_eq!(zones.ports.len(), 2);

    let external: MeshExternalService = both(&format!(
        "match: {{type: HostnameGenerator, port: 443, protocol: http2}}, endpoints: [{{address: Api.Example.com, port: 443}},
         {{address: 192.0.2.1, port: 8443, priority: 1}}, {{address: '2001:db8::1', port: 1}}, {{address: 'unix:///run/a.sock'}}],
         tls: {{enabled: true, allowRenegotiation: false, version: {{min: TLS12, max: TLS13}}, verification: {{mode: SkipSAN,
         serverName: api.example.com, subjectAltNames: [{{value: a.example.com}}, {{type: Prefix, value: 'spiffe://a/'}}],
         caCert: {{inline: {INLINE}}}, clientCert: {{inlineString: {CERTIFICATE:?}}},
         clientKey: {{type: InsecureInline, insecureInline: {{value: {KEY:?}}}}}}}}}"
    ));
    let addresses: Vec<_> = external.endpoints.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(addresses, ["api.example.com", "192.0.2.1", "2001:db8::1", "unix:///run/a.sock"]);
    assert_eq!(external.endpoints[1].priority, Some(1));
    let verification = external.tls.unwrap().verification.unwrap();
    assert_eq!(verification.mode(), VerificationMode::SkipSan);
    let kinds: Vec<_> = verification.subject_alt_names.iter().map(SanMatch::kind).collect();
    assert_eq!(kinds, [SanMatchKind::Exact, SanMatchKind::Prefix]);
    let pem = |source: Option<DataSource>| String::from_utf8(source.unwrap().pem().to_vec()).unwrap();
    assert_eq!(pem(verification.ca_cert), CERTIFICATE);
    assert_eq!(pem(verification.client_cert), CERTIFICATE);
    assert_eq!(pem(verification.client_key), KEY);

    let least: MeshExternalService = both("match: {port: 80}, endpoints: [{address: 1.1.1.1, port: 12345}]");
    assert_eq!((least.tls, least.listener.protocol), (None, None));

    let older: ExternalService = both(&format!(
        "tags: {{kuma.io/service: pay, kuma.io/protocol: http, kuma.io/zone: east}}, networking: {{address: 'pay.example.com:443',
         disableHostDNSEntry: true, tls: {{enabled: true, serverName: Pay.example.com, allowRenegotiation: true,
         skipHostnameVerification: true, caCert: {{inlineString: {CERTIFICATE:?}}}}}}}"
    ));
    assert_eq!(
        (older.service(), older.networking.address.to_string().as_str()),
        ("pay", "pay.example.com:443")
    );
    assert!(older.networking.disable_host_dns_entry);
    let tls = older.networking.tls.unwrap();
    assert!(tls.enabled && tls.skip_hostname_verification);
    assert_eq!(tls.server_name, Some(ServerName("pay.example.com".into())));
}

#[test]
fn names_by_templates_are_read() {
    let generator: HostnameGenerator = both(
        "selector: {meshService: {matchLabels: {team: shop}}}, template: '{{ .DisplayName }}.{{ label \"env\" }}.mesh.local'",
    );
    assert!(
        matches!(generator.selected(), Some(Generates::MeshService(labels)) if labels.get("team") == Some("shop"))
    );
    let all: HostnameGenerator = both("selector: {meshExternalService: {}}, template: '{{ .Name }}.ext'");
    assert!(matches!(all.selected(), Some(Generates::MeshExternalService(labels)) if labels.0.is_empty()));
    let zones: HostnameGenerator =
        both("selector: {meshMultiZoneService: {matchLabels: {a: b}}}, template: x");
    assert!(matches!(zones.selected(), Some(Generates::MeshMultiZoneService(_))));

    let outbound: VirtualOutbound = both(
        "selectors: [{match: {kuma.io/service: '*'}}], conf: {host: '{{.svc}}.{{.version}}.mesh', port: '{{.port}}', parameters: [
         {name: svc, tagKey: kuma.io/service}, {name: version}, {name: port, tagKey: ''}]}",
    );
    let tags: Vec<_> = outbound.conf.parameters.iter().map(TemplateParameter::tag).collect();
    assert_eq!(tags, ["kuma.io/service", "version", "port"]);
}

#[test]
fn a_template_without_a_dot_is_no_variable_of_the_pod() {
    let text = "type: HostnameGenerator\nname: a\nspec:\n  selector: {meshService: {}}\n  template: '{{ name }}.mesh'\n";
    assert_eq!(spec::<HostnameGenerator>(text).template, "{{ name }}.mesh");
}

#[test]
fn what_has_no_effect_is_told() {
    let generator = "{type: HostnameGenerator, name: g, spec: {selector: {meshService: {}}, template: x.y, extension: {type: Route53, config: {zone: z}}}}";
    let external = "{type: MeshExternalService, name: e, spec: {match: {port: 1}, endpoints: [{address: a.b, port: 1}], tls: {enabled: true, allowRenegotiation: RENEGOTIATION}}}";
    for (text, expected) in [
        (generator.to_owned(), Some("without effect here: extension of 1 HostnameGenerator document")),
        (
            external.replace("RENEGOTIATION", "true"),
            Some("without effect here: tls.allowRenegotiation of 1 MeshExternalService document"),
        ),
        (external.replace("RENEGOTIATION", "false"), None),
    ] {
        let Loaded { found, errors, .. } = load(&text);
        assert!(errors.is_empty(), "{errors:?}");
        let warnings = found.left_out.warnings();
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{warnings:?}");
        assert!(warnings.iter().all(|one| one.starts_with(expected.unwrap())), "{warnings:?}");
    }
}

/// Asserts the one error that the contents of a document make.
fn assert_error<K: FromSpec>(contents: &str, expected: &str) {
    let text = match K::HAS_SPEC {
        true => format!("{{type: {}, name: x, spec: {{{contents}}}}}", K::NAME),
        false => format!("{{type: {}, name: x, {contents}}}", K::NAME),
    };
    let errors: Vec<_> = load(&text).errors.iter().map(ToString::to_string).collect();
    let start = format!("a.yaml: document 1 ({} x): {expected}", K::NAME);
    assert!(matches!(&errors[..], [one] if one.starts_with(&start)), "{text}: {errors:#?}\nexpected {start}");
}

fn assert_errors<K: FromSpec>(rows: &[(&str, &str)]) {
    rows.iter().for_each(|(contents, expected)| assert_error::<K>(contents, expected));
}

#[test]
fn wrong_services_of_the_mesh_are_told() {
    assert_errors::<MeshService>(&[
        (
            "selector: {dataplaneTags: {a: b}, dataplaneRef: {name: c}}",
            "spec.selector: found dataplaneRef beside dataplaneTags; allowed: one of dataplaneTags, dataplaneLabels, dataplaneRef",
        ),
        (
            "selector: {dataplaneRef: {}}",
            "spec.selector.dataplaneRef.name: found nothing; allowed: the name of a Dataplane",
        ),
        ("selector: {dataplane: {}}", "spec.selector.dataplane: found a field that culvert does not have"),
        (
            "selector: {dataplaneLabels: {matchLabels: {a: true}}}",
            "spec.selector.dataplaneLabels.matchLabels.a: found true",
        ),
        ("ports: [{port: 0}]", "spec.ports[0].port: found 0; allowed: a port from 1 to 65535"),
        ("ports: [{targetPort: 80}]", "spec.ports[0].port: found nothing"),
        (
            "ports: [{port: 1, targetPort: 65536}]",
            "spec.ports[0].targetPort: found 65536; allowed: a port, or the name",
        ),
        ("ports: [{port: 1, targetPort: ''}]", "spec.ports[0].targetPort: found \"\""),
        ("ports: [{port: 80}, {port: 80, appProtocol: http}]", "spec.ports[1].port: found 80 a second time"),
        ("state: Ready", "spec.state: found \"Ready\"; allowed: Available, Unavailable"),
        (
            "identities: [{type: Name, value: a}]",
            "spec.identities[0].type: found \"Name\"; allowed: ServiceTag, SpiffeID",
        ),
    ]);
    assert_errors::<MeshMultiZoneService>(&[
        ("ports: [{port: 1}]", "spec.selector: found nothing"),
        ("selector: {}, ports: [{port: 1}]", "spec.selector.meshService: found nothing"),
        (
            "selector: {meshService: {}}, ports: [{port: 1}]",
            "spec.selector.meshService.matchLabels: found none",
        ),
        (
            "selector: {meshService: {matchLabels: {}}}, ports: [{port: 1}]",
            "spec.selector.meshService.matchLabels: found none",
        ),
        ("selector: {meshService: {matchLabels: {a: b}}}, ports: []", "spec.ports: found an empty list"),
        ("selector: {meshService: {matchLabels: {a: b}}}", "spec.ports: found nothing"),
        (
            "selector: {meshService: {matchLabels: {a: b}}}, ports: [{port: 1, name: ''}]",
            "spec.ports[0].name: found \"\"",
        ),
        (
            "selector: {meshService: {matchLabels: {a: b}}}, ports: [{port: 1, appProtocol: udp}]",
            "spec.ports[0].appProtocol: found \"udp\"; allowed: tcp, tls, http,",
        ),
    ]);
}

#[test]
fn wrong_services_outside_of_the_mesh_are_told() {
    const ENDPOINT: &str = "endpoints: [{address: a.example.com, port: 1}]";
    for (contents, expected) in [
        (
            format!("match: {{type: Port, port: 1}}, {ENDPOINT}"),
            "spec.match.type: found \"Port\"; allowed: HostnameGenerator",
        ),
        (format!("match: {{port: 0}}, {ENDPOINT}"), "spec.match.port: found 0"),
        (
            format!("match: {{port: 1, protocol: kafka}}, {ENDPOINT}"),
            "spec.match.protocol: found \"kafka\"; allowed: tcp, grpc, http, http2",
        ),
        (ENDPOINT.to_owned(), "spec.match: found nothing"),
        ("match: {port: 1}".to_owned(), "spec.endpoints: found no endpoint; allowed: at least one"),
        (
            "match: {port: 1}, endpoints: []".to_owned(),
            "spec.endpoints: found no endpoint; allowed: at least one",
        ),
        (
            "match: {port: 1}, extension: {type: Lambda, config: {}}".to_owned(),
            "spec.extension: found endpoints that a program knows",
        ),
    ] {
        assert_error::<MeshExternalService>(&contents, expected);
    }
    for (endpoint, expected) in [
        ("{address: a.example.com}", "port: found nothing; allowed: the port of the host"),
        ("{address: 192.0.2.1}", "port: found nothing; allowed: the port of the host"),
        ("{address: 192.0.2.1, port: 0}", "port: found 0; allowed: a port from 1 to 65535"),
        ("{address: 'unix:///a.sock', port: 80}", "port: found a port of a Unix socket"),
        ("{address: 'unix://a.sock'}", "address: found \"unix://a.sock\"; allowed: an IPv4 or IPv6 address"),
        ("{address: 'unix:///'}", "address: found \"unix:///\""),
        ("{address: 'https://a.example.com', port: 443}", "address: found \"https://a.example.com\""),
        ("{address: '*.example.com', port: 443}", "address: found \"*.example.com\""),
        ("{address: 10.0.0, port: 443}", "address: found \"10.0.0\""),
        ("{address: a.b, port: 1, priority: 129}", "priority: found 129; allowed: 0 to 128"),
        ("{port: 1}", "address: found nothing"),
    ] {
        let contents = format!("match: {{port: 1}}, endpoints: [{endpoint}]");
        assert_error::<MeshExternalService>(&contents, &format!("spec.endpoints[0].{expected}"));
    }
    let long = format!("unix:///{}", "a".repeat(107));
    assert_eq!((long.len() - 7, EndpointAddress::parse(&long)), (108, None));
    assert!(EndpointAddress::parse(&long[..long.len() - 1]).is_some());
    assert_eq!(EndpointAddress::parse("unix:///run/a/"), None);
}

#[test]
fn wrong_certificates_and_keys_are_told_and_never_repeated() {
    let text = |pem: &str| format!("{{inlineString: {pem:?}}}");
    let (certificate, key) = (text(CERTIFICATE), text(KEY));
    let rows = [
        ("caCert: {inline: '%%%'}".to_owned(), "caCert.inline: found text that is no base64"),
        ("caCert: {inline: aGVsbG8=}".to_owned(), "caCert: found bytes without a certificate in PEM"),
        (
            format!("caCert: {key}"),
            "caCert: found bytes without a certificate in PEM; allowed: a certificate in PEM",
        ),
        (
            format!("caCert: {}", text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----")),
            "caCert: found bytes without a certificate",
        ),
        (
            format!("caCert: {}", text("-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----")),
            "caCert: found bytes without a certificate",
        ),
        (
            "caCert: {secret: ca}".to_owned(),
            "caCert.secret: found a secret of the control plane; allowed: inline, inlineString",
        ),
        (
            "caCert: {type: Secret, secretRef: {kind: Secret, name: ca}}".to_owned(),
            "caCert.secretRef: found a secret of the control plane",
        ),
        (
            "caCert: {type: File, file: {path: /etc/ca}}".to_owned(),
            "caCert.file: found a file of the control plane",
        ),
        (
            "caCert: {type: EnvVar, envVar: {name: CA}}".to_owned(),
            "caCert.envVar: found a variable of the control plane's",
        ),
        ("caCert: {type: InsecureInline}".to_owned(), "caCert.type: found a type without its value"),
        ("caCert: {}".to_owned(), "caCert: found no value"),
        (format!("caCert: {{inline: {INLINE}, inlineString: {CERTIFICATE:?}}}"), "caCert: found two values"),
        (format!("clientCert: {certificate}"), "clientKey: found nothing; allowed: it beside clientCert"),
        (format!("clientKey: {key}"), "clientCert: found nothing; allowed: it beside clientKey"),
        (
            format!("clientCert: {certificate}, clientKey: {certificate}"),
            "clientKey: found bytes without a private key in PEM; allowed: a private key in PEM",
        ),
        ("serverName: 'a b'".to_owned(), "serverName: found \"a b\"; allowed: the name of a host"),
        ("serverName: ''".to_owned(), "serverName: found \"\""),
        ("serverName: 192.0.2.1".to_owned(), "serverName: found \"192.0.2.1\""),
    ];
    for (field, expected) in &rows {
        let newer = format!(
            "match: {{port: 1}}, endpoints: [{{address: a.b, port: 1}}], tls: {{verification: {{{field}}}}}"
        );
        assert_error::<MeshExternalService>(&newer, &format!("spec.tls.verification.{expected}"));
        let older =
            format!("tags: {{kuma.io/service: a}}, networking: {{address: 'a.b:1', tls: {{{field}}}}}");
        assert_error::<ExternalService>(&older, &format!("networking.tls.{expected}"));
    }
    for (tls, expected) in [
        ("version: {min: TLS13, max: TLS12}", "version: found min TLS13 and max TLS12"),
        ("version: {min: TLS11}", "version.min: found \"TLS11\"; allowed: TLSAuto, TLS12, TLS13"),
        (
            "verification: {mode: None}",
            "verification.mode: found \"None\"; allowed: Secured, SkipSAN, SkipCA, SkipAll",
        ),
        (
            "verification: {subjectAltNames: [{type: Suffix, value: a}]}",
            "verification.subjectAltNames[0].type: found \"Suffix\"; allowed: Exact, Prefix",
        ),
        (
            "verification: {subjectAltNames: [{value: ''}]}",
            "verification.subjectAltNames[0].value: found \"\"",
        ),
    ] {
        let contents = format!("match: {{port: 1}}, endpoints: [{{address: a.b, port: 1}}], tls: {{{tls}}}");
        assert_error::<MeshExternalService>(&contents, &format!("spec.tls.{expected}"));
    }
    let secret = "match: {port: 1}, endpoints: [{address: a.b, port: 1}], tls: {verification: {clientCert: {inlineString: {}}, clientKey: {inline: c2VjcmV0!}}}";
    let words =
        format!("{:?}", load(&format!("{{type: MeshExternalService, name: x, spec: {{{secret}}}}}")).errors);
    assert!(!words.contains("c2VjcmV0"), "{words}");
    let shown = format!(
        "{:?}",
        both::<ExternalService>(&format!(
            "tags: {{kuma.io/service: a}}, networking: {{address: 'a.b:1', tls: {{clientCert: {certificate}, clientKey: {key}}}}}"
        ))
    );
    assert!(shown.contains("DataSource(") && !shown.contains("MAA="), "{shown}");
}

#[test]
fn wrong_external_services_of_kuma_2_are_told() {
    assert_errors::<ExternalService>(&[
        (
            "tags: {version: v1}, networking: {address: 'a.b:1'}",
            "tags.\"kuma.io/service\": found nothing; allowed: this field is required",
        ),
        (
            "tags: {kuma.io/service: a, kuma.io/protocol: udp}, networking: {address: 'a.b:1'}",
            "tags.\"kuma.io/protocol\": found \"udp\"",
        ),
        (
            "tags: {kuma.io/service: '*'}, networking: {address: 'a.b:1'}",
            "tags.\"kuma.io/service\": found \"*\"",
        ),
        (
            "tags: {kuma.io/service: a.b}, networking: {address: 'a.b:1'}",
            "tags.\"kuma.io/service\": found \"a.b\", the host of",
        ),
        (
            "tags: {kuma.io/service: a}, networking: {address: a.b}",
            "networking.address: found \"a.b\"; allowed: a host and a port",
        ),
        ("tags: {kuma.io/service: a}, networking: {address: 'a.b:0'}", "networking.address: found \"a.b:0\""),
        ("tags: {kuma.io/service: a}, networking: {}", "networking.address: found nothing"),
        ("tags: {kuma.io/service: a}", "networking: found nothing"),
        ("networking: {address: 'a.b:1'}", "tags: found nothing"),
    ]);
}

#[test]
fn wrong_names_by_templates_are_told() {
    assert_errors::<HostnameGenerator>(&[
        ("template: x", "spec.selector: found nothing"),
        ("selector: {}, template: x", "spec.selector: found 0 selectors; allowed: one of meshService"),
        (
            "selector: {meshService: {}, meshExternalService: {}}, template: x",
            "spec.selector: found 2 selectors",
        ),
        ("selector: {meshService: {}}", "spec.template: found nothing"),
        ("selector: {meshService: {}}, template: ''", "spec.template: found \"\"; allowed: a name"),
        (
            "selector: {meshService: {matchLabels: {a: false}}}, template: x",
            "spec.selector.meshService.matchLabels.a: found false",
        ),
    ]);
    const SERVICE: &str = "parameters: [{name: s, tagKey: kuma.io/service}]";
    const SELECTORS: &str = "selectors: [{match: {kuma.io/service: '*'}}]";
    for (contents, expected) in [
        (
            format!("{SELECTORS}, conf: {{host: x, port: '80'}}"),
            "conf.parameters: found no parameter of kuma.io/service",
        ),
        (
            format!("{SELECTORS}, conf: {{host: x, port: '80', parameters: [{{name: service}}]}}"),
            "conf.parameters: found no parameter",
        ),
        (
            format!("{SELECTORS}, conf: {{host: '', port: '80', {SERVICE}}}"),
            "conf.host: found \"\"; allowed: a template",
        ),
        (format!("{SELECTORS}, conf: {{host: x, port: '', {SERVICE}}}"), "conf.port: found \"\""),
        (
            format!("{SELECTORS}, conf: {{host: x, port: 80, {SERVICE}}}"),
            "conf.port: found 80; allowed: text; put it in quotes",
        ),
        (format!("{SELECTORS}, conf: {{port: '80', {SERVICE}}}"), "conf.host: found nothing"),
        (SELECTORS.to_owned(), "conf: found nothing"),
        (format!("conf: {{host: x, port: '80', {SERVICE}}}"), "selectors: found nothing"),
        (format!("selectors: [], conf: {{host: x, port: '80', {SERVICE}}}"), "selectors: found no selector"),
        (
            format!("selectors: [{{match: {{}}}}], conf: {{host: x, port: '80', {SERVICE}}}"),
            "selectors[0].match: found no tag",
        ),
    ] {
        assert_error::<VirtualOutbound>(&contents, expected);
    }
    for (parameters, expected) in [
        ("{name: s, tagKey: kuma.io/service}, {name: s, tagKey: b}", "[1].name: found \"s\" a second time"),
        (
            "{name: s, tagKey: kuma.io/service}, {name: a-b, tagKey: b}",
            "[1].name: found \"a-b\"; allowed: letters and digits",
        ),
        (
            "{name: s, tagKey: kuma.io/service}, {name: a, tagKey: 'b c'}",
            "[1].tagKey: found \"b c\"; allowed: a tag",
        ),
        ("{name: s, tagKey: kuma.io/service}, {tagKey: b}", "[1].name: found nothing"),
        ("{name: s, tagKey: 1}", "[0].tagKey: found 1; allowed: text"),
    ] {
        let contents = format!("{SELECTORS}, conf: {{host: x, port: '80', parameters: [{parameters}]}}");
        assert_error::<VirtualOutbound>(&contents, &format!("conf.parameters{expected}"));
    }
}

#[test]
fn the_status_of_a_service_is_kept_in_both_spellings() {
    const STATUS: &str = "status: {vips: [{ip: 240.0.0.7}, {ip: ''}, {ip: 'fd00:fd00::7'}], addresses: [
        {hostname: Cart.mesh, origin: HostnameGenerator, hostnameGeneratorRef: {coreName: local}},
        {hostname: cart.shop.svc.cluster.local, origin: Kubernetes}, {origin: HostnameGenerator}],
        hostnameGenerators: [{hostnameGeneratorRef: {coreName: local}, conditions: []}], tls: {status: NotReady},
        dataplaneProxies: {total: 1}, meshServices: [{name: a}], newer: {field: 1}}";
    let kubernetes = format!(
        "{{apiVersion: kuma.io/v1alpha1, kind: MeshService, metadata: {{name: cart, namespace: shop}}, spec: {{}}, {STATUS}}}"
    );
    for text in [kubernetes, format!("{{type: MeshService, name: cart, spec: {{}}, {STATUS}}}")] {
        let documents = read(&text);
        let vips: Vec<_> = documents[0].vips().iter().map(ToString::to_string).collect();
        assert_eq!(vips, ["240.0.0.7", "fd00:fd00::7"]);
        let addresses = &documents[0].status.as_ref().unwrap().addresses;
        let names: Vec<_> =
            addresses.iter().map(|one| (one.hostname.as_str(), one.generator.as_deref())).collect();
        assert_eq!(names, [("cart.mesh", Some("local")), ("cart.shop.svc.cluster.local", None)]);
        assert_eq!(addresses[1].origin.as_deref(), Some("Kubernetes"));
    }
    const EXTERNAL: &str = "match: {port: 1}, endpoints: [{address: a.b, port: 1}]";
    let one = read(&format!(
        "{{type: MeshExternalService, name: a, spec: {{{EXTERNAL}}}, status: {{vip: {{ip: 242.0.0.1}}}}}}"
    ));
    assert_eq!(one[0].vips(), ["242.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    // The status of another kind is passed over, whatever it is.
    let other = read("{type: Mesh, name: default, status: [1]}");
    assert_eq!((&other[0].status, other[0].vips().len()), (&None, 0));
    for (status, expected) in [
        (
            "{vips: [{ip: 10.0.0.1}, {ip: a.b}]}",
            "status.vips[1].ip: found \"a.b\"; allowed: an IPv4 or IPv6 address",
        ),
        ("{vip: {ip: 10.0.0}}", "status.vip.ip: found \"10.0.0\""),
        (
            "{addresses: [{hostname: 'a b'}]}",
            "status.addresses[0].hostname: found \"a b\"; allowed: the name of a host",
        ),
        ("{vips: 1}", "status.vips: found 1; allowed: a list"),
        ("[]", "status: found a list of 0; allowed: a mapping"),
    ] {
        let Loaded { found, errors, .. } =
            load(&format!("{{type: MeshService, name: x, spec: {{}}, status: {status}}}"));
        let words: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let start = format!("a.yaml: document 1 (MeshService x): {expected}");
        assert!(matches!(&words[..], [one] if one.starts_with(&start)), "{status}: {words:?}");
        assert_eq!(found.documents[0].spec, Spec::Wrong(Kind::MeshService), "{status}");
    }
}

#[test]
fn a_hostname_generator_belongs_to_every_mesh() {
    for (mesh, own) in [("", "default"), ("mesh: other, ", "default")] {
        let text = format!(
            "{{type: HostnameGenerator, name: g, {mesh}spec: {{selector: {{meshService: {{}}}}, template: x}}}}"
        );
        assert_eq!(read(&text)[0].mesh, own, "{text}");
    }
    let kubernetes = "{apiVersion: kuma.io/v1alpha1, kind: HostnameGenerator, metadata: {name: g, labels: {kuma.io/mesh: other}}, spec: {selector: {meshService: {}}, template: x}}";
    assert_eq!(read(kubernetes)[0].mesh, "default");
    assert_eq!(read("{type: MeshService, name: s, mesh: other, spec: {}}")[0].mesh, "other");
}

#[test]
fn labels_of_other_pods_are_kept_and_replicas_share_them() {
    let pod = |name: &str, labels: &str| {
        format!(
            "---\n{{apiVersion: kuma.io/v1alpha1, kind: Dataplane, mesh: default, metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}, spec: {{networking: {{address: 10.0.0.1}}}}}}\n"
        )
    };
    let replica = |name: &str| {
        pod(
            name,
            &format!(
                "app: cart, kuma.io/display-name: {name}, kuma.io/mesh: default, k8s.kuma.io/namespace: shop"
            ),
        )
    };
    let text = replica("cart-1") + &replica("cart-2") + &pod("db-0", "app: db") + &pod("here", "app: here");
    // Items of a list are read apart, and share with each other all the same.
    for list in [false, true] {
        let text = if list { format!("items:\n{}", text.replace("---\n", "- ")) } else { text.clone() };
        let documents = read(&text);
        let wanted = |all: &[(&str, &str)]| {
            crate::model::labels::Labels(
                all.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            )
        };
        for (labels, pods) in [
            (wanted(&[("app", "cart")]), [true, true, false, false]),
            (wanted(&[("app", "cart"), ("kuma.io/display-name", "cart-2")]), [false, true, false, false]),
            (wanted(&[("k8s.kuma.io/namespace", "shop"), ("kuma.io/mesh", "default")]), [true; 4]),
            (wanted(&[]), [true; 4]),
            (wanted(&[("app", "cart"), ("version", "1")]), [false; 4]),
        ] {
            let has: Vec<_> = documents.iter().map(|one| one.has_labels(&labels)).collect();
            assert_eq!(has, pods, "{labels:?}");
        }
        assert!(Arc::ptr_eq(&documents[0].labels, &documents[1].labels));
        assert_eq!(documents[0].labels.0.len(), 1, "{:?}", documents[0].labels);
        assert_eq!(documents[3].labels.get("kuma.io/display-name"), Some("here"));
    }
}
