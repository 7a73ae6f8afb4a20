// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::kinds::FromSpec;
use crate::load::Loaded;
use std::path::Path;

fn read(spec: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let text = format!("{{type: MeshPassthrough, name: p, spec: {spec}}}");
    loaded.add(&Context::default(), &text, Path::new("p.yaml"));
    loaded
}

/// The errors of a policy, without its place.
fn errors(spec: &str) -> Vec<String> {
    let errors = read(spec).errors;
    let place = "p.yaml: document 1 (MeshPassthrough p): spec.";
    errors.iter().map(|error| error.to_string().replace(place, "")).collect()
}

fn matches(of: &str) -> String {
    format!("{{targetRef: {{kind: Mesh}}, default: {{appendMatch: [{of}]}}}}")
}

#[test]
fn each_of_kumas_rules_is_told_with_what_is_allowed() {
    const ONCE: &str = "allowed: each destination once for a port and protocol";
    let m = "default.appendMatch";
    for (name, of, expected) in [
        (
            "a type",
            "{type: test, value: 1.2.3.4}",
            format!("{m}[0].type: found \"test\"; allowed: Domain, IP, CIDR"),
        ),
        (
            "no type",
            "{value: 1.2.3.4}",
            format!("{m}[0].type: found nothing; allowed: this field is required"),
        ),
        ("no value", "{type: IP}", format!("{m}[0].value: found nothing; allowed: this field is required")),
        (
            "port 0",
            "{type: IP, value: 1.2.3.4, port: 0}",
            format!("{m}[0].port: found 0; allowed: a port from 1 to 65535"),
        ),
        (
            "port 65536",
            "{type: IP, value: 1.2.3.4, port: 65536}",
            format!("{m}[0].port: found 65536; allowed: a port from 1 to 65535"),
        ),
        (
            "a protocol",
            "{type: IP, value: 1.2.3.4, protocol: udp}",
            format!("{m}[0].protocol: found \"udp\"; allowed: tcp, tls, grpc, http, http2, mysql"),
        ),
        (
            "a name for an IP",
            "{type: IP, value: example.com, protocol: tls}",
            format!("{m}[0].value: found \"example.com\"; allowed: an IPv4 or IPv6 address"),
        ),
        (
            "an IP without its range",
            "{type: CIDR, value: 1.2.3.4}",
            format!("{m}[0].value: found \"1.2.3.4\"; allowed: a range of addresses, as 10.0.0.0/8"),
        ),
        (
            "an IP for a name",
            "{type: Domain, value: 1.2.3.4, protocol: tls}",
            format!("{m}[0].value: found \"1.2.3.4\"; allowed: a host's name, or \"*.\" and one"),
        ),
        (
            "a part of a name",
            "{type: Domain, value: '*w.example.com', port: 90, protocol: http}",
            format!("{m}[0].value: found \"*w.example.com\"; allowed: a host's name, or \"*.\" and one"),
        ),
        (
            "every name",
            "{type: Domain, value: '*', port: 90, protocol: http}",
            format!("{m}[0].value: found \"*\"; allowed: a host's name, or \"*.\" and one"),
        ),
        (
            "two stars",
            "{type: Domain, value: '*.*.com', protocol: tls}",
            format!("{m}[0].value: found \"*.*.com\"; allowed: a host's name, or \"*.\" and one"),
        ),
        (
            "a name by tcp",
            "{type: Domain, value: a.b, port: 999, protocol: tcp}",
            format!(
                "{m}[0].protocol: found tcp for a Domain; allowed: tls or http, whose clients say the server's name"
            ),
        ),
        (
            "a name by default",
            "{type: Domain, value: a.b, port: 999}",
            format!(
                "{m}[0].protocol: found tcp for a Domain; allowed: tls or http, whose clients say the server's name"
            ),
        ),
        (
            "a name by mysql",
            "{type: Domain, value: a.b, port: 999, protocol: mysql}",
            format!(
                "{m}[0].protocol: found mysql for a Domain; allowed: tls or http, whose clients say the server's name"
            ),
        ),
        (
            "a name by HTTP/2",
            "{type: Domain, value: a.b, port: 9, protocol: grpc}",
            format!(
                "{m}[0].protocol: found grpc for a Domain; allowed: tls or http; for http2 and grpc an IP or CIDR: names in HTTP/2 are not read"
            ),
        ),
        (
            "mysql on every port",
            "{type: IP, value: 1.2.3.4, protocol: mysql}",
            format!("{m}[0].port: found nothing, for mysql; allowed: the port of the database"),
        ),
        (
            "names below on every port",
            "{type: Domain, value: '*.a.b', protocol: http}",
            format!(
                "{m}[0].port: found nothing, for \"*.\" and http; allowed: a port: such names hold for one port at a time"
            ),
        ),
        (
            "a name twice",
            "{type: Domain, value: a.b, port: 80, protocol: http}, {type: Domain, value: a.b, port: 80, protocol: http}",
            format!("{m}[1].value: found \"a.b\", after \"a.b\" for the same; {ONCE}"),
        ),
        (
            "a name in two spellings",
            "{type: Domain, value: a.b, protocol: tls}, {type: Domain, value: A.B, protocol: tls}",
            format!("{m}[1].value: found \"A.B\", after \"a.b\" for the same; {ONCE}"),
        ),
        (
            "an address and its range",
            "{type: IP, value: 10.0.0.1, port: 80, protocol: http}, {type: CIDR, value: 10.0.0.1/32, port: 80, protocol: http}",
            format!("{m}[1].value: found \"10.0.0.1/32\", after \"10.0.0.1\" for the same; {ONCE}"),
        ),
        (
            "two forms of IPv6",
            "{type: IP, value: '0:0:0:0:0:0:0:1', port: 443, protocol: tls}, {type: CIDR, value: '::1/128', port: 443, protocol: tls}",
            format!("{m}[1].value: found \"::1/128\", after \"0:0:0:0:0:0:0:1\" for the same; {ONCE}"),
        ),
        (
            "a range by http and grpc",
            "{type: CIDR, value: 10.0.0.1/24, port: 8080, protocol: http}, {type: CIDR, value: 10.0.0.0/24, port: 8080, protocol: grpc}",
            format!(
                "{m}[1].protocol: found grpc, after http for the same; allowed: one of these for a destination"
            ),
        ),
        (
            "an address by tcp and mysql",
            "{type: IP, value: 10.1.1.1, port: 3306}, {type: IP, value: 10.1.1.1, port: 3306, protocol: mysql}",
            format!(
                "{m}[1].protocol: found mysql, after tcp for the same; allowed: one of these for a destination"
            ),
        ),
    ] {
        assert_eq!(errors(&matches(of)), [expected], "{name}");
    }
    for (name, target, expected) in [
        (
            "a service",
            "{kind: MeshService, name: web}",
            "targetRef.kind: found a service; allowed: Mesh, MeshSubset or Dataplane: calls leave from a pod",
        ),
        (
            "an inbound",
            "{kind: Dataplane, sectionName: http}",
            "targetRef.sectionName: found an inbound; allowed: whole pods: calls leave from a pod",
        ),
    ] {
        assert_eq!(errors(&format!("{{targetRef: {target}, default: {{}}}}")), [expected], "{name}");
    }
    let mode = "{default: {passthroughMode: Some}}";
    assert_eq!(errors(mode), ["default.passthroughMode: found \"Some\"; allowed: All, None, Matched"]);
}

#[test]
fn every_error_of_a_match_is_told_at_once() {
    let of =
        "{type: CIDR, value: 1.2.3.4, port: 0, protocol: 1}, {type: Domain, value: '*w', protocol: mysql}";
    assert_eq!(
        errors(&matches(of)),
        [
            "default.appendMatch[0].port: found 0; allowed: a port from 1 to 65535",
            "default.appendMatch[0].protocol: found 1; allowed: tcp, tls, grpc, http, http2, mysql",
            "default.appendMatch[0].value: found \"1.2.3.4\"; allowed: a range of addresses, as 10.0.0.0/8",
            "default.appendMatch[1].protocol: found mysql for a Domain; allowed: tls or http, whose clients say the server's name",
            "default.appendMatch[1].value: found \"*w\"; allowed: a host's name, or \"*.\" and one",
        ]
    );
}

#[test]
fn as_many_matches_as_are_allowed_are_taken() {
    let all = |count: usize| {
        (0..count)
            .map(|n| format!("{{type: IP, value: 10.0.{}.{}}}", n / 256, n % 256))
            .collect::<Vec<_>>()
            .join(",")
    };
    assert_eq!(errors(&matches(&all(MOST_MATCHES))), [""; 0]);
    let expected = "default.appendMatch: found 1001 matches; allowed: at most 1000";
    assert_eq!(errors(&matches(&all(MOST_MATCHES + 1))), [expected]);
}

/// Kuma's own examples of good ones, those of 2.x and of 3.0.
#[test]
fn what_kuma_takes_is_taken() {
    for (name, spec) in [
        ("nothing", "{}".to_owned()),
        ("no matches", "{targetRef: {kind: Dataplane}, default: {passthroughMode: None}}".to_owned()),
        ("2.x", "{targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, default: {appendMatch: [
            {type: IP, value: 192.168.1.1, port: 8000, protocol: tcp}, {type: Domain, value: example.com, protocol: tls},
            {type: CIDR, value: 1.2.3.4/24, port: 9900, protocol: tcp}, {type: Domain, value: example.com, port: 9999, protocol: http},
            {type: Domain, value: '*.example.com', port: 9090, protocol: http}]}}".to_owned()),
        ("distinct", matches("{type: IP, value: 10.0.0.1, protocol: tls, port: 443}, {type: IP, value: 10.0.0.1, protocol: http, port: 443},
            {type: IP, value: 10.0.0.1, protocol: tcp, port: 443}, {type: CIDR, value: 10.0.0.0/24, protocol: http, port: 443},
            {type: IP, value: 10.0.0.1, protocol: http, port: 8080}, {type: Domain, value: example.com, protocol: tls, port: 443},
            {type: IP, value: 192.168.0.1, protocol: tcp}, {type: CIDR, value: 192.168.0.1/32, protocol: tcp, port: 9090}")),
        ("the same for every port", matches("{type: IP, value: 10.0.0.1}, {type: IP, value: 10.0.0.1}")),
        ("tags", "{targetRef: {kind: MeshSubset, tags: {a: b}}, default: {passthroughMode: All}}".to_owned()),
    ] {
        assert_eq!(errors(&spec), [""; 0], "{name}");
    }
}

#[test]
fn absent_fields_have_kumas_defaults() {
    let loaded = read(&matches(
        "{type: IP, value: '::ffff:10.0.0.1'}, {type: Domain, value: '*.Example.com.', protocol: tls}",
    ));
    let policy = MeshPassthrough::from_spec(&loaded.found.documents[0].spec).unwrap();
    let conf = policy.default.as_ref().unwrap();
    assert_eq!(conf.mode, None);
    let [address, name] = &conf.append_match[..] else { panic!("{conf:?}") };
    assert_eq!((address.protocol(), address.port), (MatchProtocol::Tcp, None));
    let network = Network::host("10.0.0.1".parse().unwrap());
    assert_eq!(address.destination(), Some(Destination::Network(network)));
    let domain = Domain { name: "example.com".into(), below: true };
    assert_eq!(domain.to_string(), "*.example.com");
    assert_eq!(name.destination(), Some(Destination::Domain(domain)));
}
