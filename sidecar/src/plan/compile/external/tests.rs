// SPDX-License-Identifier: Apache-2.0
//! Documents of services outside of the mesh, and what is made of them.

use super::*;
use crate::options::Options;
use crate::plan::compile::read_with_mesh;
use crate::plan::external::{AltName, Authorities, ExternalTls, Verification};
use crate::plan::tls::TlsVersion;
use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;

/// A certificate with its key, both in PEM.
fn certificate(name: &str) -> (String, String) {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn inline(pem: &str) -> String {
    format!("{{inlineString: {}}}", serde_json::Value::from(pem))
}

/// The endpoints of all documents, with warnings and errors.
fn read(text: &str, addresses: &[(&str, &[&str])]) -> (Vec<ExternalEndpoint>, Vec<String>, Vec<String>) {
    let config = Options::try_parse_from(["culvert-sidecar", "--resources=/mesh"]).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, text, "m.yaml");
    let addresses: HostAddresses = addresses
        .iter()
        .map(|(name, all)| ((*name).into(), all.iter().map(|ip| ip.parse().unwrap()).collect()))
        .collect::<BTreeMap<_, _>>();
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    let mut made = Vec::new();
    for document in &loaded.found.documents {
        made.extend(endpoints(document, &addresses, (&mut warnings, &mut errors)));
    }
    let all: Vec<_> = loaded.found.documents.iter().collect();
    warnings.extend(notes(&all));
    let errors = loaded.errors.iter().map(ToString::to_string).chain(errors.iter().map(ToString::to_string));
    (made, warnings, errors.collect())
}

/// TLS of which a document says nothing.
const DEFAULT: &str = "verification: {}";

fn external(name: &str, endpoints: &str, tls: &str) -> String {
    let tls = if tls.is_empty() { String::new() } else { format!(", tls: {{enabled: true, {tls}}}") };
    format!(
        "---\n{{type: MeshExternalService, name: {name}, spec: {{match: {{type: HostnameGenerator, port: 80, protocol: tcp}}, endpoints: [{endpoints}]{tls}}}}}\n"
    )
}

fn older(name: &str, address: &str, rest: &str) -> String {
    format!(
        "---\n{{type: ExternalService, name: {name}, tags: {{kuma.io/service: out}}, networking: {{address: '{address}'{rest}}}}}\n"
    )
}

fn shown(all: &[ExternalEndpoint]) -> Vec<String> {
    let host = |endpoint: &ExternalEndpoint| match &endpoint.host {
        ExternalHost::Address => String::new(),
        ExternalHost::Name(name) => format!(" {name}"),
        ExternalHost::Socket(path) => format!(" {}", path.display()),
    };
    all.iter().map(|one| format!("{}{} {}", one.address, host(one), one.priority)).collect()
}

#[test]
fn servers_are_named_by_address_by_name_and_by_path() {
    let endpoints = "{address: 192.0.2.7, port: 81, priority: 2}, {address: 'fd00::7', port: 82},
        {address: Web.Test, port: 83}, {address: gone.test, port: 84}, {address: later.test, port: 85}";
    let text =
        external("out", endpoints, "") + &older("old", "web.test:90", "") + &older("ip", "[fd00::9]:91", "");
    let (all, warnings, errors) =
        read(&text, &[("web.test", &["192.0.2.1", "192.0.2.2"]), ("gone.test", &[])]);
    assert_eq!(errors, [""; 0]);
    assert_eq!(
        shown(&all),
        [
            "192.0.2.7:81 2",
            "[fd00::7]:82 0",
            "192.0.2.1:83 web.test 0",
            "192.0.2.2:83 web.test 0",
            "192.0.2.1:90 web.test 0",
            "192.0.2.2:90 web.test 0",
            "[fd00::9]:91 0",
        ]
    );
    assert!(all.iter().all(|one| one.tls.is_none()));
    // One that was not looked up is none, and no warning.
    assert_eq!(
        warnings,
        [
            "MeshExternalService out: spec.endpoints[3].address is \"gone.test\", which has no address yet: nothing is sent there until it has"
        ]
    );
    assert_eq!((&*all[0].document, &*all[5].document), ("MeshExternalService out", "ExternalService old"));
    let (all, ..) = read(&external("out", "{address: 'unix:///run/app.sock'}", ""), &[]);
    assert_eq!(all[0].host, ExternalHost::Socket(Path::new("/run/app.sock").into()));
    assert_eq!(all[0].address, stand_in(Path::new("/run/app.sock")));
}

#[test]
fn the_lowest_priority_comes_first_and_an_address_once() {
    let endpoints = "{address: 192.0.2.3, port: 80, priority: 7}, {address: 192.0.2.2, port: 80}, {address: 192.0.2.1, port: 80},
        {address: 192.0.2.2, port: 80, priority: 9}";
    let (all, ..) = read(&external("out", endpoints, ""), &[]);
    let (all, localities) = arranged(all);
    assert_eq!(shown(&all), ["192.0.2.1:80 0", "192.0.2.2:80 0", "192.0.2.3:80 7"]);
    let groups = localities.unwrap().all.into_iter();
    let groups: Vec<_> = groups.map(|one| (one.sub_zone.unwrap().to_string(), one.endpoints)).collect();
    assert_eq!(groups, [("priority-0".to_owned(), 2), ("priority-7".to_owned(), 1)]);
    let (all, ..) = read(&external("out", "{address: 192.0.2.3, port: 80, priority: 7}", ""), &[]);
    assert_eq!(arranged(all).1, None, "one group is none");
}

/// The TLS to each endpoint.
fn tls(text: &str) -> Vec<ExternalTls> {
    let (all, _, errors) = read(text, &[("a.test", &["192.0.2.1"]), ("b.test", &["192.0.2.2"])]);
    assert_eq!(errors, [""; 0], "{text}");
    all.iter().map(|one| (**one.tls.as_ref().unwrap()).clone()).collect()
}

fn asked(tls: &ExternalTls) -> String {
    tls.server_name.to_str().into_owned()
}

#[test]
fn modes_mean_what_kumas_control_plane_makes_of_them() {
    let ca = certificate("ca").0;
    let (chain, key) = certificate("client");
    let der = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    let (ca, pair) = (inline(&ca), format!("clientCert: {}, clientKey: {}", inline(&chain), inline(&key)));
    let these = || Authorities::These(vec![der.clone()]);
    let alt = "subjectAltNames: [{type: Exact, value: x.test}, {type: Prefix, value: 'spiffe://x/'}, {value: y.test}]";
    let names = vec![
        AltName::Exact("x.test".into()),
        AltName::Prefix("spiffe://x/".into()),
        AltName::Exact("y.test".into()),
    ];
    for (name, verification, accepted, server_name, client) in [
        ("nothing said", String::new(), Verification::Names(Authorities::System, vec![]), "a.test", false),
        (
            "all said",
            format!("mode: Secured, serverName: S.test, caCert: {ca}, {alt}, {pair}"),
            Verification::Names(these(), names),
            "s.test",
            true,
        ),
        (
            "the name is not verified",
            format!("mode: SkipSAN, serverName: s.test, caCert: {ca}, {alt}, {pair}"),
            Verification::Authorities(these()),
            "a.test",
            true,
        ),
        (
            "by the system's authorities",
            "mode: SkipSAN".into(),
            Verification::Authorities(Authorities::System),
            "a.test",
            false,
        ),
        (
            "the authority is not verified",
            format!("mode: SkipCA, serverName: s.test, caCert: {ca}, {alt}, {pair}"),
            Verification::Nothing,
            "s.test",
            true,
        ),
        (
            "nothing is verified",
            format!("mode: SkipAll, serverName: s.test, caCert: {ca}, {alt}, {pair}"),
            Verification::Nothing,
            "a.test",
            false,
        ),
    ] {
        let document =
            external("out", "{address: a.test, port: 443}", &format!("verification: {{{verification}}}"));
        let tls = tls(&document).remove(0);
        assert_eq!(tls.verification, accepted, "{name}");
        assert_eq!((asked(&tls).as_str(), tls.client.is_some()), (server_name, client), "{name}");
        assert!(!format!("{tls:?}").contains("secret") && !format!("{tls:?}").contains("PrivateKeyDer"));
    }
}

#[test]
fn a_server_is_asked_for_its_own_name_else_for_the_first_else_for_its_address() {
    let endpoints = "{address: 192.0.2.9, port: 1}, {address: a.test, port: 2}, {address: b.test, port: 3}";
    let names: Vec<_> = tls(&external("out", endpoints, DEFAULT)).iter().map(asked).collect();
    assert_eq!(names, ["a.test", "a.test", "b.test"]);
    let two = external("out", "{address: 192.0.2.9, port: 1}, {address: 'fd00::1', port: 2}", DEFAULT);
    let names: Vec<_> = tls(&two).iter().map(asked).collect();
    assert_eq!(names, ["192.0.2.9", "fd00::1"]);
    let named = "verification: {serverName: s.test}";
    let two = external("out", "{address: 192.0.2.9, port: 1}, {address: 'unix:///run/a'}", named);
    assert_eq!(tls(&two).iter().map(asked).collect::<Vec<_>>(), ["s.test", "s.test"]);
}

#[test]
fn versions_are_a_range_within_those_that_are_spoken() {
    for (version, range) in [
        (DEFAULT, [TlsVersion::V12, TlsVersion::V13]),
        ("version: {min: TLSAuto, max: TLSAuto}", [TlsVersion::V12, TlsVersion::V13]),
        ("version: {min: TLS13}", [TlsVersion::V13, TlsVersion::V13]),
        ("version: {max: TLS12}", [TlsVersion::V12, TlsVersion::V12]),
        ("version: {min: TLS12, max: TLS13}", [TlsVersion::V12, TlsVersion::V13]),
    ] {
        let tls = tls(&external("out", "{address: a.test, port: 443}", version)).remove(0);
        assert_eq!([tls.min, tls.max], range, "{version}");
    }
}

#[test]
fn an_external_service_of_2x_without_authorities_is_not_verified_and_says_so() {
    let ca = inline(&certificate("ca").0);
    for (rest, names, verified) in [
        ("tls: {enabled: true}".to_owned(), "a.test", None),
        ("tls: {enabled: true, serverName: s.test}".to_owned(), "s.test", None),
        (format!("tls: {{enabled: true, caCert: {ca}}}"), "a.test", Some(true)),
        (
            format!("tls: {{enabled: true, caCert: {ca}, skipHostnameVerification: true}}"),
            "a.test",
            Some(false),
        ),
    ] {
        let text = older("old", "a.test:443", &format!(", {rest}"));
        let made = tls(&text).remove(0);
        let of_names = match made.verification {
            Verification::Nothing => None,
            Verification::Authorities(_) => Some(false),
            Verification::Names(..) => Some(true),
        };
        assert_eq!((asked(&made).as_str(), of_names), (names, verified), "{rest}");
        let (_, warnings, _) = read(&text, &[("a.test", &["192.0.2.1"])]);
        let told = warnings.iter().any(|one| one.contains("certificate is not verified"));
        assert_eq!(told, verified.is_none(), "{rest}: {warnings:?}");
    }
    let (all, warnings, errors) = read(&older("old", "a.test:443", ", tls: {enabled: false}"), &[]);
    assert_eq!((all.len(), warnings.len(), errors.len()), (0, 0, 0));
}

#[test]
fn what_is_forwarded_as_tcp_is_told_once_for_all() {
    let http = |name: &str, protocol: &str| {
        external(name, "{address: 192.0.2.1, port: 80}", "")
            .replace("protocol: tcp", &format!("protocol: {protocol}"))
    };
    let (_, warnings, _) = read(&http("a", "tcp"), &[]);
    assert_eq!(warnings, [""; 0]);
    let (_, warnings, _) = read(&(http("a", "tcp") + &http("b", "http") + &http("c", "grpc")), &[]);
    assert_eq!(
        warnings,
        [
            "MeshExternalService b and 1 more: HTTP and gRPC are forwarded as TCP: the Host of a request stays as its caller wrote it"
        ]
    );
}

#[test]
fn certificates_and_keys_that_cannot_be_used_name_their_field() {
    let (chain, key) = certificate("client");
    let other = certificate("other").1;
    let der = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let cut = &chain[..chain.len() / 2];
    let verified = |rest: String| {
        external("out", "{address: 192.0.2.1, port: 443}", &format!("verification: {{{rest}}}"))
    };
    for (name, text, words) in [
        (
            "no certificate of an authority",
            verified(format!("caCert: {}", inline(der))),
            "(MeshExternalService out): spec.tls.verification.caCert: found certificate 1, which cannot be an authority",
        ),
        (
            "the key of another",
            verified(format!("clientCert: {}, clientKey: {}", inline(&chain), inline(&other))),
            "spec.tls.verification.clientKey: found a key of another certificate",
        ),
        (
            "a certificate that is cut off",
            verified(format!("clientCert: {}, clientKey: {}", inline(cut), inline(&key))),
            "spec.tls.verification.clientCert: found",
        ),
        (
            "the same in 2.x",
            older(
                "old",
                "192.0.2.1:443",
                &format!(
                    ", tls: {{enabled: true, clientCert: {}, clientKey: {}}}",
                    inline(&chain),
                    inline(&other)
                ),
            ),
            "(ExternalService old): networking.tls.clientKey: found a key of another certificate",
        ),
        (
            "a secret of the control plane",
            verified("caCert: {secret: mine}".into()),
            "caCert.secret: found a secret of the control plane",
        ),
        (
            "a certificate without its key",
            verified(format!("clientCert: {}", inline(&chain))),
            "clientKey: found nothing",
        ),
        (
            "a version that is too old",
            external("out", "{address: 192.0.2.1, port: 443}", "version: {max: TLS11}"),
            "spec.tls.version.max: found \"TLS11\"",
        ),
        (
            "a socket without a name",
            external("out", "{address: 'unix:///run/a'}", DEFAULT),
            "spec.endpoints[0].address: found a Unix socket, which has no name",
        ),
    ] {
        let (_, _, errors) = read(&text, &[]);
        assert!(errors.len() == 1 && errors[0].contains(words), "{name}: {errors:#?}");
        assert!(!errors[0].contains("PRIVATE KEY-----\n"), "{name}: no part of a key is shown");
    }
}
