// SPDX-License-Identifier: Apache-2.0
//! A pod with a MeshIdentity: who it is, whom it believes, and who may call it.

use super::tests::{HERE, STRICT, read};
use super::*;
use crate::options::Options;
use crate::plan::Plan;
use crate::plan::compile::compile;
use crate::plan::openings::openings;
use crate::plan::tls::permissions::{Peer, Verdict};
use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair};

/// The pod, with labels.
fn here(labels: &str) -> String {
    format!(
        "---\n{{type: Dataplane, name: here, labels: {{{labels}}}, networking: {{address: 10.0.0.2, inbound: [{{port: 80, servicePort: 8080, tags: {{kuma.io/service: here}}}}]}}}}\n"
    )
}

fn identity(name: &str, spec: &str) -> String {
    format!(
        "---\n{{type: MeshIdentity, name: {name}, spec: {{{spec}, provider: {{type: Spire, spire: {{}}}}}}}}\n"
    )
}

const ALL: &str = "selector: {dataplane: {matchLabels: {}}}";

fn compiled(arguments: &[&str], documents: &str) -> Result<Plan, Vec<String>> {
    let arguments = ["culvert-sidecar", "--resources=/test"].iter().chain(arguments);
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let plan = compile(&config, &read(documents).unwrap());
    plan.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn plan(documents: &str) -> Plan {
    compiled(&["--dataplane=here", "--identity=/id"], documents).unwrap()
}

fn authority(name: &str) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

fn mesh_trust(name: &str, labels: &str, domain: &str, pems: &[&str]) -> String {
    let bundle = |pem: &&str| format!("{{type: Pem, pem: {{value: {}}}}}", serde_json::Value::from(*pem));
    let bundles = pems.iter().map(bundle).collect::<Vec<_>>().join(", ");
    format!(
        "---\n{{type: MeshTrust, name: {name}, labels: {{{labels}}}, spec: {{trustDomain: {domain}, caBundles: [{bundles}]}}}}\n"
    )
}

#[test]
fn the_most_labels_choose_the_identity_and_then_the_first_name() {
    let named = |name: &str, labels: &str| {
        identity(
            name,
            &format!(
                "selector: {{dataplane: {{matchLabels: {{{labels}}}}}}}, spiffeID: {{trustDomain: {name}}}"
            ),
        )
    };
    let here = here("app: web, version: v1, kuma.io/workload: front, kuma.io/zone: east");
    for (name, documents, domain) in [
        ("none", String::new(), None),
        ("of no pod", identity("i", "selector: {}"), None),
        ("another pod's", named("i", "app: db"), None),
        ("all", identity("i", ALL), Some("default.east.mesh.local")),
        (
            "the most labels",
            named("a", "") + &named("b", "app: web") + &named("c", "version: v1, app: web"),
            Some("c"),
        ),
        ("the first name", named("b", "app: web") + &named("a", "version: v1"), Some("a")),
        (
            "another zone's",
            identity("i", ALL)
                .replace("name: i,", "name: i, labels: {kuma.io/origin: zone, kuma.io/zone: west},"),
            None,
        ),
        (
            "its own zone",
            identity("i", ALL).replace("name: i,", "name: i, labels: {kuma.io/zone: north},"),
            Some("default.north.mesh.local"),
        ),
        ("without a provider", identity("i", ALL).replace(", provider: {type: Spire, spire: {}}", ""), None),
    ] {
        let plan = plan(&format!("{documents}{here}"));
        let trust = plan.mtls.as_ref().and_then(|mtls| mtls.settings.trust.clone());
        assert_eq!(trust.as_ref().map(|trust| trust.domain.as_str()), domain, "{name}");
        let id = domain.map(|domain| format!("spiffe://{domain}/workload/front"));
        assert_eq!(trust.and_then(|trust| trust.id.clone()).map(|id| id.to_string()), id, "{name}");
        assert_eq!(plan.mtls.is_some(), domain.is_some(), "{name}");
    }
    // Labels that do not say the path.
    let unnamed = plan(&(identity("i", ALL) + &self::here("")));
    let trust = unnamed.mtls.unwrap().settings.trust.unwrap();
    assert_eq!((trust.domain.as_str(), &trust.id), ("default.default.mesh.local", &None));
}

#[test]
fn with_an_identity_tls_is_strict_and_closed_until_policies_open_it() {
    const WEB: &str = "spiffe://default.default.mesh.local/workload/web";
    let tls = |mode: &str| {
        format!("---\n{{type: MeshTLS, name: t, spec: {{rules: [{{default: {{mode: {mode}}}}}]}}}}\n")
    };
    let rules = |list: &str, kind: &str, value: &str| {
        format!(
            "---\n{{type: MeshTrafficPermission, name: p, spec: {{rules: [{{default: {{{list}: [{{spiffeID: {{type: {kind}, value: '{value}'}}}}]}}}}]}}}}\n"
        )
    };
    let older = "---\n{type: TrafficPermission, name: old, sources: [{match: {kuma.io/service: '*'}}], destinations: [{match: {kuma.io/service: '*'}}]}\n";
    let permissive = STRICT.replace("enabledBackend: ca-1", "enabledBackend: ca-2");
    for (name, documents, mode, verdict) in [
        ("alone", String::new(), TlsMode::Strict, Verdict::Denied),
        ("a PERMISSIVE Mesh", permissive.clone(), TlsMode::Strict, Verdict::Denied),
        ("a MeshTLS", tls("Permissive"), TlsMode::Permissive, Verdict::Denied),
        ("a TrafficPermission", older.to_owned(), TlsMode::Strict, Verdict::Denied),
        ("exactly", rules("allow", "Exact", WEB), TlsMode::Strict, Verdict::Allowed),
        ("exactly another", rules("allow", "Exact", &format!("{WEB}-2")), TlsMode::Strict, Verdict::Denied),
        (
            "by prefix",
            rules("allow", "Prefix", "spiffe://default.default.mesh.local/workload/"),
            TlsMode::Strict,
            Verdict::Allowed,
        ),
        ("denied", rules("deny", "Exact", WEB), TlsMode::Strict, Verdict::Denied),
        ("on trial", rules("allowWithShadowDeny", "Exact", WEB), TlsMode::Strict, Verdict::ShadowDenied),
    ] {
        let plan = plan(&format!("{documents}{}{}", identity("i", ALL), here("kuma.io/workload: here")));
        let mtls = plan.mtls.unwrap();
        let peer = Peer { ids: [WEB.parse().unwrap()].into(), tags: [].into() };
        for gate in [&mtls.inbounds[&HERE], &mtls.others] {
            assert_eq!((gate.mode, gate.permissions.decide(&peer, false)), (mode, verdict), "{name}");
        }
        let told = plan
            .warnings
            .iter()
            .any(|one| one.contains("no member may call, as the mesh has a MeshIdentity"));
        assert_eq!(told, !documents.contains("MeshTrafficPermission"), "{name}: {:?}", plan.warnings);
    }
    // Without an identity of its own the pod is as before.
    let plan = plan(&format!("{permissive}{}{}", identity("i", "selector: {}"), here("")));
    let gate = plan.mtls.unwrap().others;
    assert!(gate.mode == TlsMode::Permissive && !gate.permissions.restricted);
}

#[test]
fn mesh_trusts_of_a_domain_add_up_and_those_of_another_zone_do_not_count() {
    let [one, two, three] = ["one", "two", "three"].map(authority);
    let documents = format!(
        "{}{}{}{}{}{}",
        identity("i", ALL),
        here("kuma.io/zone: east"),
        mesh_trust("a", "", "a.b", &[&one]),
        mesh_trust("b", "kuma.io/origin: zone, kuma.io/zone: east", "a.b", &[&format!("{two}{one}")]),
        mesh_trust("c", "kuma.io/origin: zone, kuma.io/zone: west", "a.b", &[&three]),
        mesh_trust("d", "", "c.d", &[&three]),
    );
    let trust = plan(&documents).mtls.unwrap().settings.trust.unwrap();
    let counts: Vec<_> = trust.authorities.iter().map(|(domain, all)| (domain.as_str(), all.len())).collect();
    assert_eq!(counts, [("a.b", 2), ("c.d", 1)]);
    // More of them is an opening, and fewer is none.
    let with = |pems: &[&str]| {
        plan(&format!("{}{}{}", identity("i", ALL), here(""), mesh_trust("a", "", "a.b", pems)))
    };
    let (few, many) = (with(&[&one]), with(&[&one, &two]));
    let told = openings(&few, &many);
    assert!(told.len() == 1 && told[0].ends_with("accepted, in the trust domains: a.b"), "{told:?}");
    assert_eq!(openings(&many, &few), <[String; 0]>::default());
    // Without a MeshIdentity nothing asks for them.
    let unused = plan(&format!("{}{}", here(""), mesh_trust("a", "", "a.b", &[&one])));
    assert!(
        unused.mtls.is_none()
            && unused.warnings.iter().any(|one| one.starts_with("MeshTrust a has no effect"))
    );
    let workload = {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "no authority");
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
    };
    let half = one.replace("-----END CERTIFICATE-----", "");
    for (pem, told) in [
        (half.as_str(), "spec.caBundles[1].pem.value: found "),
        (
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            "found certificate 1, which cannot be an authority",
        ),
    ] {
        let documents =
            format!("{}{}{}", identity("i", ALL), here(""), mesh_trust("a", "", "a.b", &[&workload, pem]));
        let errors = compiled(&["--dataplane=here", "--identity=/id"], &documents).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(told), "{errors:?}");
        // So it is for a pod without a MeshIdentity.
        let errors = compiled(&["--dataplane=here"], &documents.replace(ALL, "selector: {}")).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(told), "{errors:?}");
    }
}

#[test]
fn what_gives_no_identity_is_an_error_that_names_its_field() {
    let all = identity("i", ALL);
    let both = ["--dataplane=here", "--identity=/id"];
    for (name, arguments, documents, told) in [
        (
            "no certificate",
            &["--dataplane=here"][..],
            all.clone(),
            "spec.provider.type: found \"Spire\" and no --identity",
        ),
        (
            "nothing signs",
            &["--dataplane=here"],
            all.replace(
                "{type: Spire, spire: {}}",
                "{type: Bundled, bundled: {autogenerate: {enabled: true}}}",
            ),
            "found \"Bundled\" and no --identity; allowed: --identity with the pod's certificate, or a controller that signs one (--control with --control-token)",
        ),
        (
            "another trust domain",
            &["--dataplane=here", "--identity=/id", "--trust-domain=other"],
            all.clone(),
            "spec.spiffeID.trustDomain: found default.default.mesh.local; allowed: other, as --trust-domain says",
        ),
        (
            "a label that is not there",
            &both,
            identity("i", &format!("{ALL}, spiffeID: {{trustDomain: '{{{{ label \"env\" }}}}.x'}}")),
            "spec.spiffeID.trustDomain: found a label that this document does not have",
        ),
        (
            "a trust domain that is none",
            &both,
            identity("i", ALL).replace("name: i,", "name: i, labels: {kuma.io/zone: East},"),
            "spec.spiffeID.trustDomain: found \"default.East.mesh.local\" of this mesh and zone",
        ),
        (
            "no --dataplane",
            &["--identity=/id"],
            identity("i", "selector: {dataplane: {matchLabels: {app: web}}}"),
            "spec.selector.dataplane.matchLabels: found a choice of pods",
        ),
    ] {
        let errors = compiled(arguments, &(documents + &here(""))).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(told), "{name}: {errors:?}");
    }
    assert!(
        compiled(
            &["--dataplane=here", "--identity=/id", "--trust-domain=default.default.mesh.local"],
            &(all.clone() + &here(""))
        )
        .is_ok()
    );
    assert!(compiled(&["--identity=/id"], &(all + &here(""))).unwrap().mtls.is_some());
}

#[test]
fn workloads_of_this_zone_have_the_trust_domains_that_its_documents_say() {
    let one = authority("one");
    let own = "default.east.mesh.local";
    let next = identity("next", &format!("{ALL}, spiffeID: {{trustDomain: next}}"));
    for (name, documents, domains) in [
        ("alone", String::new(), vec!["default", own]),
        (
            "another identity's",
            next.replace("matchLabels: {}", "matchLabels: {app: db}"),
            vec!["default", own, "next"],
        ),
        ("of no pod", identity("next", "selector: {}, spiffeID: {trustDomain: next}"), vec!["default", own]),
        (
            "that issues nothing",
            next.replace(", provider: {type: Spire, spire: {}}", "")
                .replace("matchLabels: {}", "matchLabels: {app: db}"),
            vec!["default", own],
        ),
        ("a MeshTrust", mesh_trust("t", "", "west", &[&one]), vec!["default", own]),
        ("of this zone", mesh_trust("t", "kuma.io/zone: east", "old", &[&one]), vec!["default", own, "old"]),
        ("of another zone", mesh_trust("t", "kuma.io/zone: west", "west", &[&one]), vec!["default", own]),
    ] {
        let documents = format!("{}{documents}{}", identity("i", ALL), here("kuma.io/zone: east, app: web"));
        let trust = plan(&documents).mtls.unwrap().settings.trust.clone().unwrap();
        assert_eq!(trust.local.zone.as_deref(), Some("east"), "{name}");
        let said: Vec<_> = trust.local.domains.iter().map(|domain| domain.as_str()).collect();
        assert_eq!(said, domains, "{name}");
    }
}

/// The identities of the member at an address, as the plan has them.
fn ids(plan: &Plan, address: &str) -> Option<Vec<String>> {
    let member = &plan.members[&address.parse().unwrap()];
    member.ids.as_deref().map(|ids| ids.iter().map(ToString::to_string).collect())
}

#[test]
fn a_members_labels_say_the_identities_that_it_may_prove() {
    let web = |labels: &str| {
        format!(
            "---\n{{type: Dataplane, name: web, labels: {{{labels}}}, networking: {{address: 10.0.0.3, inbound: [{{port: 80, tags: {{kuma.io/service: web}}}}]}}}}\n"
        )
    };
    const ACCOUNT: &str = "k8s.kuma.io/namespace: shop, k8s.kuma.io/service-account: cart";
    const HERE: &str = "k8s.kuma.io/namespace: shop, k8s.kuma.io/service-account: here";
    let domain = |name: &str| format!("{ALL}, spiffeID: {{trustDomain: {name}}}");
    let next = identity("next", &domain("next").replace("matchLabels: {}", "matchLabels: {app: web}"));
    for (name, identities, labels, expected) in [
        ("no MeshIdentity", String::new(), ACCOUNT, None),
        (
            "by its account",
            identity("i", &domain("a")),
            ACCOUNT,
            Some(vec!["spiffe://a/ns/shop/sa/cart", "spiffe://default/ns/shop/sa/cart"]),
        ),
        ("no account", identity("i", &domain("a")), "k8s.kuma.io/namespace: shop", None),
        ("another zone's", identity("i", &domain("a")), &format!("{ACCOUNT}, kuma.io/zone: west"), None),
        (
            "two that choose it",
            identity("i", &domain("a")) + &next,
            &format!("{ACCOUNT}, app: web"),
            Some(vec![
                "spiffe://a/ns/shop/sa/cart",
                "spiffe://default/ns/shop/sa/cart",
                "spiffe://next/ns/shop/sa/cart",
            ]),
        ),
    ] {
        let plan =
            plan(&format!("{identities}{}{}", here(&format!("{HERE}, kuma.io/zone: east")), web(labels)));
        let expected = expected.map(|ids| ids.into_iter().map(str::to_owned).collect());
        assert_eq!(ids(&plan, "10.0.0.3:80"), expected, "{name}");
    }
}

#[test]
fn an_annotation_or_a_mesh_service_says_what_members_prove() {
    let web = |name: &str, address: &str, annotations: &str| {
        format!(
            "---\n{{apiVersion: kuma.io/v1alpha1, kind: Dataplane, mesh: default, metadata: {{name: {name}, namespace: shop, labels: {{app: web}}, annotations: {{{annotations}}}}}, spec: {{networking: {{address: {address}, inbound: [{{port: 80, tags: {{kuma.io/service: web}}}}]}}}}}}\n"
        )
    };
    let documents = [
        here("app: here").replace(
            "address: 10.0.0.2,",
            "address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},",
        ),
        web("web-0", "10.0.0.3", "culvert.dev/spiffe-id: 'spiffe://cluster.local/ns/shop/sa/cart', other: 1"),
        web("web-1", "10.0.0.4", ""),
        "---\n{apiVersion: kuma.io/v1alpha1, kind: MeshService, metadata: {name: web, namespace: shop, labels: {kuma.io/mesh: default}}, spec: {selector: {dataplaneLabels: {matchLabels: {app: web}}}, ports: [{port: 8080, targetPort: 80}], identities: [{type: SpiffeID, value: 'spiffe://cluster.local/ns/shop/sa/of-service'}, {type: ServiceTag, value: web}]}, status: {vips: [{ip: 10.96.0.1}]}}\n".to_owned(),
    ]
    .concat();
    // Where a MeshIdentity is about the pods, its names and the annotation's count.
    let labels = "labels: {k8s.kuma.io/service-account: cart, app: web}";
    let named = documents.replace("labels: {app: web}", labels)
        + &identity("i", &format!("{ALL}, spiffeID: {{trustDomain: a}}"));
    let plan = plan(&named);
    let mut all = ids(&plan, "10.0.0.3:80").unwrap();
    all.sort();
    assert_eq!(
        all,
        [
            "spiffe://a/ns/shop/sa/cart",
            "spiffe://cluster.local/ns/shop/sa/cart",
            "spiffe://default/ns/shop/sa/cart"
        ]
    );
    // Labels that do not tell a name leave the annotation's alone.
    let untold = documents.clone() + &identity("i", &format!("{ALL}, spiffeID: {{trustDomain: a}}"));
    let cart = Some(vec!["spiffe://cluster.local/ns/shop/sa/cart".to_owned()]);
    let plan = self::plan(&untold);
    assert_eq!((ids(&plan, "10.0.0.3:80"), ids(&plan, "10.0.0.4:80")), (cart, None));
    let arguments = ["--dataplane=here", "--identity=/id", "--trust-domain=cluster.local"];
    let plan = compiled(&arguments, &documents).unwrap();
    let cart = Some(vec!["spiffe://cluster.local/ns/shop/sa/cart".to_owned()]);
    assert_eq!((ids(&plan, "10.0.0.3:80"), ids(&plan, "10.0.0.4:80")), (cart, None));
    let on_demand = &plan.names.on_demand;
    let way = on_demand.find("10.96.0.1:8080".parse().unwrap()).unwrap();
    let endpoints = on_demand.endpoints(on_demand.cluster_of(way)).iter();
    let of_service: Vec<_> = endpoints
        .map(|one| format!("{} {:?}", one.address, one.member.ids.as_deref().unwrap_or_default()))
        .collect();
    assert_eq!(
        of_service,
        [
            "10.0.0.3:80 [spiffe://cluster.local/ns/shop/sa/cart]",
            "10.0.0.4:80 [spiffe://cluster.local/ns/shop/sa/of-service]",
        ]
    );
    for (wrong, told) in [
        ("spiffe://cluster.local/ns/shop/sa/cart", "metadata.annotations.\"culvert.dev/spiffe-id\": found "),
        ("spiffe://cluster.local/ns/shop/sa/of-service", "spec.identities[0].value: found \"http://a\""),
    ] {
        let errors = read(&documents.replace(wrong, "http://a")).unwrap_err();
        assert!(errors.len() == 1 && errors[0].contains(told), "{errors:?}");
    }
}
