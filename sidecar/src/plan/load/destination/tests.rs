//! What documents of a destination add to a plan, in words.

use super::{Asked, DestinationPlan, read};
use crate::net::addrs::Family;
use crate::options::Options;
use crate::options::config::Config;
use crate::plan::Discovery;
use crate::plan::compile::{compile, read_with_mesh};
use crate::plan::load::PlanError;
use crate::plan::names::{MeshNames, Standing};
use clap::Parser;
use culvert_mesh::document::{Document, Found};
use culvert_mesh::load::Text;

const POD: &str = "control: about\n---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}, inbound: [{port: 80, tags: {kuma.io/service: here}}]}}
";
const SERVICE: &str = "{apiVersion: kuma.io/v1alpha1, kind: MeshService, metadata: {name: web, namespace: shop, labels: {kuma.io/mesh: default}}, spec: {selector: {dataplaneLabels: {matchLabels: {app: web}}}, ports: [{port: 80, targetPort: 8080}, {port: 81, targetPort: 8081}]}, status: {vips: [{ip: 10.96.0.9}]}}";
const HEADLESS: &str = "{apiVersion: kuma.io/v1alpha1, kind: MeshService, metadata: {name: web, namespace: shop, labels: {kuma.io/mesh: default}}, spec: {selector: {dataplaneLabels: {matchLabels: {app: web}}}, ports: [{port: 80, targetPort: 8080}]}}";

fn pod(name: &str, ip: &str, app: &str) -> String {
    format!(
        "{{apiVersion: kuma.io/v1alpha1, kind: Dataplane, mesh: default, metadata: {{name: {name}, namespace: shop, labels: {{app: {app}}}}}, spec: {{networking: {{address: {ip}, inbound: [{{port: 8080, tags: {{kuma.io/service: web_shop_svc_80}}}}]}}}}}}"
    )
}

fn config() -> Config {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

fn base(more: &str) -> Found {
    let text = POD.strip_prefix("control: about\n").unwrap();
    let loaded = read_with_mesh(&config(), &format!("{text}{more}"), "control: about");
    assert_eq!(loaded.errors, []);
    compile(&config(), &loaded.found).expect("the base is right");
    loaded.found
}

fn plan(more: &str, asked: &str, texts: &[&str]) -> Result<DestinationPlan, Vec<PlanError>> {
    let text = |(number, text): (usize, &&str)| Text {
        name: format!("control: {number}").into(),
        text: (*text).into(),
    };
    let texts: Vec<_> = texts.iter().enumerate().map(text).collect();
    let told = |document: &Document| document.place.file.starts_with("control: ");
    let standing = Standing::after(&MeshNames::default());
    read(&config(), (&base(more), told), (&Asked::read(asked), &texts), &standing)
}

/// `ADDRESS → LISTENER → CLUSTER: ENDPOINTS`
fn ways(plan: &DestinationPlan) -> Vec<String> {
    let endpoints = |upstream: &Discovery| match upstream {
        Discovery::Endpoints(all) => {
            all.iter().map(|one| one.address.to_string()).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    };
    let of = |call: &super::CallPlan| {
        let clusters = call.clusters.iter().map(|one| format!("{}: {}", one.name, endpoints(&one.upstream)));
        format!("{} → {} → {}", call.at, call.listener.name, clusters.collect::<Vec<_>>().join(", "))
    };
    plan.calls.iter().map(of).collect()
}

#[test]
fn an_address_of_a_service_leads_to_its_pods_and_its_other_ports_are_other_destinations() {
    let documents = [SERVICE, &pod("web-1", "10.0.0.3", "web"), &pod("web-2", "10.0.0.4", "web")];
    let found = plan("", "10.96.0.9:80", &documents).unwrap();
    let cluster = "10.96.0.9:80 → outbound:10.96.0.9:80 → default_web_shop__msvc_80";
    assert_eq!(ways(&found), [format!("{cluster}: 10.0.0.3:8080 10.0.0.4:8080")]);
    assert!(found.member.is_none() && found.name.is_none() && found.on_trial.is_none());
    let mut workloads = found.workloads.to_vec();
    workloads.sort();
    assert_eq!(workloads, ["10.0.0.3", "10.0.0.4"].map(|ip| ip.parse::<std::net::IpAddr>().unwrap()));
    assert_eq!(ways(&plan("", "10.96.0.9:82", &documents).unwrap()), [""; 0], "it has no such port");
    assert_eq!(plan("", "10.96.0.9:80", &[]).unwrap(), DestinationPlan::default());
}

#[test]
fn a_pod_is_a_member_at_its_address() {
    let found = plan("", "10.0.0.3:8080", &[&pod("web-1", "10.0.0.3", "web")]).unwrap();
    assert_eq!(ways(&found), [""; 0]);
    let (member, log) = found.member.unwrap();
    assert_eq!((&*member.dataplane, member.service(), log), ("web-1", "web_shop_svc_80", None));
}

#[test]
fn policies_of_the_plan_are_about_destinations_too() {
    let to = "to: [{targetRef: {kind: MeshService, name: web_shop_svc_80}, default: {connectionLimits: {maxConnections: 7}}}]";
    let limit = |more: &str| {
        format!("---\n{{type: MeshCircuitBreaker, name: c, {more}spec: {{{to}}}}}\n")
            .replace("web_shop_svc_80", "web")
    };
    let service = SERVICE.replace(
        "metadata: {name: web, namespace: shop, labels: {kuma.io/mesh: default}}",
        "metadata: {name: web, labels: {kuma.io/mesh: default}}",
    );
    let documents = [&*service, &pod("web-1", "10.0.0.3", "web")];
    let found = plan(&limit(""), "10.96.0.9:80", &documents).unwrap();
    assert_eq!(found.calls[0].clusters[0].thresholds.max_connections, 7, "{found:?}");
    // On trial it is not in force, and counted.
    let found = plan(&limit("labels: {kuma.io/effect: shadow}, "), "10.96.0.9:80", &documents).unwrap();
    let cluster = &found.calls[0].clusters[0];
    assert!(cluster.thresholds.max_connections > 7);
    assert_eq!(found.on_trial.unwrap().most_connections.get(&cluster.name), Some(&7));
}

#[test]
fn a_name_leads_to_the_address_of_its_service_or_to_one_of_its_own() {
    let generator = "---\n{type: HostnameGenerator, name: g, spec: {selector: {meshService: {}}, template: '{{ .DisplayName }}.in.mesh'}}\n";
    let pod = pod("web-1", "10.0.0.3", "web");
    for (service, asked, expected) in [
        (SERVICE, "web.in.mesh", Some("10.96.0.9")),
        (HEADLESS, "web.in.mesh", None),
        (SERVICE, "web_shop_svc_80.mesh", None),
    ] {
        let found = plan(generator, asked, &[service, &pod]).unwrap();
        let (name, key) = found.name.as_ref().unwrap_or_else(|| panic!("{asked}"));
        assert_eq!(&*name.host, asked);
        let v4 = name.addresses.iter().find(|ip| Family::of(**ip) == Family::V4).unwrap();
        match expected {
            Some(ip) => assert_eq!(v4.to_string(), ip),
            None => assert!(v4.to_string().starts_with("2") && key.is_some(), "{v4} {key:?}"),
        }
        for ip in name.addresses.iter() {
            for port in name.ports.iter() {
                let at = std::net::SocketAddr::new(*ip, port.port);
                let way = found.calls.iter().find(|call| call.at == at).unwrap_or_else(|| panic!("{at}"));
                assert!(!way.clusters.is_empty() || port.port == 81, "{at}");
            }
        }
    }
    let found = plan(generator, "db.in.mesh", &[SERVICE, &pod]).unwrap();
    assert!(found.name.is_none() && found.calls.is_empty(), "the documents make no such name");
}

#[test]
fn of_two_of_a_document_the_pods_own_stands_and_one_of_a_file_gives_way() {
    let own = "{type: Dataplane, name: here, networking: {address: 10.0.0.2, inbound: [{port: 99, tags: {kuma.io/service: other}}]}}";
    let found = plan("", "10.0.0.2:99", &[own]).unwrap();
    assert!(found.member.is_none(), "what was told about the pod itself is newer: {found:?}");
    let of_a_file = read_with_mesh(
        &config(),
        &format!("{}---\n{}", POD.strip_prefix("control: about\n").unwrap(), pod("web-1", "10.0.0.3", "db")),
        "mesh.yaml",
    );
    let texts = [Text { name: "control: 1".into(), text: pod("web-1", "10.0.0.7", "web").into() }];
    let told = |document: &Document| document.place.file.starts_with("control: ");
    let standing = Standing::after(&MeshNames::default());
    let of = |asked: &str| {
        let base = (&of_a_file.found, told);
        read(&config(), base, (&Asked::read(asked), &texts), &standing).unwrap().member
    };
    assert!(of("10.0.0.7:8080").is_some() && of("10.0.0.3:8080").is_none());
}

#[test]
fn errors_name_the_document() {
    for (asked, text, expected) in [
        ("10.0.0.3:8080", "{type: Dataplane, name: 5}", "control: 0: document 1"),
        ("10.0.0.3:8080", "# nothing", "control: 0: found no document"),
        (
            "127.0.0.1:80",
            &*SERVICE.replace("10.96.0.9", "127.0.0.1"),
            "control: 0: document 1 (MeshService web): ",
        ),
    ] {
        let errors = plan("", asked, &[text]).unwrap_err();
        let words = errors[0].to_string();
        assert!(words.starts_with(expected), "{words}");
        assert_eq!(errors[0].source(), Some("control: 0"), "{words}");
    }
}

#[test]
fn a_name_of_the_pods_own_service_leads_to_all_of_its_pods() {
    let config = Options::try_parse_from([
        "culvert-sidecar",
        "--dataplane=here",
        "--pod-name=here",
        "--pod-ip=10.0.0.2",
        "--control=https://controller",
        "--control-ca=/ca.crt",
    ]);
    let config = config.unwrap().check().unwrap();
    let text = POD.strip_prefix("control: about\n").unwrap();
    let found = read_with_mesh(&config, text, "control: about").found;
    let plan = compile(&config, &found).unwrap();
    assert_eq!(plan.names.find("here.mesh"), None, "the controller knows the others");
    let told = |document: &Document| document.place.file.starts_with("control: ");
    let other = pod("here-2", "10.0.0.3", "here").replace("web_shop_svc_80", "here");
    let texts = [Text { name: "control: 1".into(), text: other.into() }];
    let standing = Standing::after(&MeshNames::default());
    let plan = read(&config, (&found, told), (&Asked::read("here.mesh"), &texts), &standing).unwrap();
    let ways = ways(&plan);
    assert!(ways.iter().any(|way| way.contains("10.0.0.2:80") && way.contains("10.0.0.3:8080")), "{ways:?}");
}
