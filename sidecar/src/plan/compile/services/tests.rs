// SPDX-License-Identifier: Apache-2.0
use super::{Service, Services};
use crate::options::Options;
use crate::plan::compile::security::Names;
use crate::plan::compile::{Documents, compile, read_with_mesh, this_pod};
use crate::plan::{ClusterPlan, Discovery, Plan};
use clap::Parser;
use culvert_mesh::select::Subject;
use std::fmt::Write;
use std::time::Duration;

/// Pods of `backend` in two zones, of a Service of Kubernetes, and of a workload without tags.
const PODS: &str = "
---
{type: Dataplane, name: b1, labels: {app: backend, kuma.io/zone: east}, networking: {address: 10.0.0.3, inbound: [
  {port: 90, name: http, tags: {kuma.io/service: backend}}, {port: 91, name: grpc, tags: {kuma.io/service: backend}}]}}
---
{type: Dataplane, name: b2, labels: {app: backend, kuma.io/zone: west}, networking: {address: 10.0.0.4, advertisedAddress: 192.0.2.4, inbound: [
  {port: 90, name: http, tags: {kuma.io/service: backend}}, {port: 93, name: grpc, state: NotReady, tags: {kuma.io/service: backend}}]}}
---
{type: Dataplane, name: k, labels: {app: redis}, networking: {address: 10.0.0.6, inbound: [
  {port: 8080, name: main, tags: {kuma.io/service: redis_shop_svc_6379}}, {port: 8081, tags: {kuma.io/service: redis_shop_svc_6380}}]}}
---
{type: Dataplane, name: w, labels: {app: w, kuma.io/workload: billing}, networking: {address: 10.0.0.7, inbound: [{port: 7000, name: api}, {port: 7001, state: Ignored}]}}
";

/// The pod's Dataplane with these fields beside its address and inbound.
fn here(more: &str) -> String {
    format!(
        "---\n{{type: Dataplane, name: here, labels: {{app: here, kuma.io/zone: east}}, networking: {{address: 10.0.0.2, inbound: [{{port: 70, tags: {{kuma.io/service: here}}}}]{more}}}}}\n"
    )
}

fn transparent(more: &str) -> String {
    here(&format!(
        ", transparentProxying: {{redirectPortInbound: 15006, redirectPortOutbound: 15001, {more}}}"
    ))
}

fn service(name: &str, labels: &str, spec: &str) -> String {
    format!("---\n{{type: MeshService, name: {name}, labels: {{{labels}}}, spec: {{{spec}}}}}\n")
}

/// Calls a function with the services and the errors of documents.
fn with<T>(documents: &str, then: impl FnOnce(&Services<'_>, &[String]) -> T) -> T {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "m.yaml");
    assert_eq!(loaded.errors, [], "{documents}");
    let ours: Vec<_> = loaded.found.documents.iter().collect();
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    let pod = this_pod("here", &config, &ours, &Documents::of(&loaded.found), &mut errors);
    let pod = Subject { pod, tags: &[], inbound: None };
    let known = (&ours[..], &loaded.found.addresses);
    let names = Names::new(&config, &ours, &pod);
    let pod = (&pod, &names, &Default::default());
    let services = Services::new(known, pod, &config.mesh, (&mut warnings, &mut errors));
    let errors: Vec<_> = errors.iter().map(ToString::to_string).collect();
    then(&services, &errors)
}

/// A service with its ports: `PLACE PORT/NAME CLUSTER ADDRESS ADDRESS; PORT …`, an unreachable one in brackets.
fn line(services: &Services<'_>, service: &Service<'_>) -> String {
    let mut text = service.place();
    for (at, port) in service.ports.iter().enumerate() {
        let name = port.name.as_deref().map(|name| format!("/{name}")).unwrap_or_default();
        let comma = if at == 0 { "" } else { ";" };
        let addresses = match services.upstream(&port.destination) {
            Discovery::Endpoints(all) => all.iter().map(|one| one.address.to_string()).collect(),
            Discovery::External(all) => all.iter().map(|one| one.address.to_string()).collect(),
            other => vec![format!("{other:?}")],
        };
        let shown = format!("{}{name} {} {}", port.port, port.destination.cluster, addresses.join(" "));
        let shown = shown.trim_end();
        let shown = if port.reachable { shown.to_owned() } else { format!("[{shown}]") };
        write!(text, "{comma} {shown}").unwrap();
    }
    text
}

fn lines(documents: &str) -> Vec<String> {
    with(documents, |services, errors| {
        assert_eq!(errors, [""; 0], "{documents}");
        services.all().map(|service| line(services, service)).collect()
    })
}

/// The lines of the services of a kind.
fn of_kind(documents: &str, kind: &str) -> Vec<String> {
    lines(documents).into_iter().filter(|line| line.starts_with(&format!("{kind} "))).collect()
}

#[test]
fn dataplanes_stand_for_services_where_no_document_says_them() {
    assert_eq!(
        lines(&(here("") + PODS)),
        [
            "kuma.io/service backend 90/http default_backend__east_msvc_90 10.0.0.3:90 192.0.2.4:90; \
         91/grpc default_backend__east_msvc_91 10.0.0.3:91; 93/grpc default_backend__east_msvc_93",
            "kuma.io/service here 70 here 10.0.0.2:70",
            "kuma.io/service redis_shop_svc_6379 6379 redis_shop_svc_6379 10.0.0.6:8080; \
         8080/main redis_shop_svc_6379 10.0.0.6:8080",
            "kuma.io/service redis_shop_svc_6380 6380 redis_shop_svc_6380 10.0.0.6:8081; \
         8081 redis_shop_svc_6380 10.0.0.6:8081",
            "MeshService backend 90/http default_backend__east_msvc_90 10.0.0.3:90 192.0.2.4:90; \
         91/grpc default_backend__east_msvc_91 10.0.0.3:91; 93/grpc default_backend__east_msvc_93",
            "MeshService billing 7000/api default_billing__east_msvc_7000 10.0.0.7:7000",
            "MeshService here 70 default_here__east_msvc_70 10.0.0.2:70",
            "MeshService redis 6379/main default_redis_shop_east_msvc_6379 10.0.0.6:8080; \
         6380 default_redis_shop_east_msvc_6380 10.0.0.6:8081",
        ]
    );
    let odd = "---\n{type: Dataplane, name: o, networking: {address: 10.0.0.8, inbound: [{port: 1, tags: {kuma.io/service: a_b}}]}}\n";
    let odd = lines(&(here("") + odd));
    assert!(odd.iter().any(|line| line.starts_with("kuma.io/service a_b 1 a_b ")), "{odd:?}");
    assert!(!odd.iter().any(|line| line.starts_with("MeshService a_b")), "no name of DNS: {odd:?}");
}

#[test]
fn a_mesh_service_has_the_ready_inbounds_behind_its_ports() {
    let ports = "ports: [{port: 80, targetPort: 90, name: http}]";
    for (selector, ports, expected) in [
        ("dataplaneLabels: {matchLabels: {app: backend}}", ports, "80/http C_80 10.0.0.3:90 192.0.2.4:90"),
        ("dataplaneTags: {kuma.io/service: backend}", ports, "80/http C_80 10.0.0.3:90 192.0.2.4:90"),
        ("dataplaneTags: {kuma.io/service: '*'}", ports, "80/http C_80 10.0.0.3:90 192.0.2.4:90"),
        ("dataplaneRef: {name: b1}", ports, "80/http C_80 10.0.0.3:90"),
        ("dataplaneRef: {name: nobody}", ports, "80/http C_80"),
        (
            "dataplaneLabels: {matchLabels: {app: backend, kuma.io/zone: west}}",
            ports,
            "80/http C_80 192.0.2.4:90",
        ),
        ("dataplaneLabels: {matchLabels: {app: nobody}}", ports, "80/http C_80"),
        ("dataplaneLabels: {matchLabels: {app: b, nobody: b}}", ports, "80/http C_80"),
        ("dataplaneTags: {kuma.io/service: backend, version: v1}", ports, "80/http C_80"),
        ("dataplaneLabels: {matchLabels: {kuma.io/display-name: b1}}", ports, "80/http C_80 10.0.0.3:90"),
        (
            "dataplaneLabels: {matchLabels: {app: backend}}",
            "ports: [{port: 443, targetPort: grpc}, {port: 90}]",
            "90/90 C_90 10.0.0.3:90 192.0.2.4:90; 443/443 C_443 10.0.0.3:91",
        ),
        ("dataplaneLabels: {matchLabels: {app: backend}}", "ports: []", ""),
        ("", ports, "80/http C_80"),
    ] {
        let document = service("s", "", &format!("selector: {{{selector}}}, {ports}"));
        let found = lines(&(here("") + PODS + &document));
        let line = found.iter().find(|line| *line == "MeshService s" || line.starts_with("MeshService s "));
        let expected = format!("MeshService s {expected}").replace("C_", "default_s__east_msvc_");
        assert_eq!(line.map(String::as_str), Some(expected.trim_end()), "{selector} {ports}: {found:?}");
    }
}

#[test]
fn a_mesh_service_of_one_pod_finds_it_by_its_name_and_by_that_with_the_namespace() {
    let pod = |namespace: &str, last: u8| {
        format!(
            "---\n{{apiVersion: kuma.io/v1alpha1, kind: Dataplane, mesh: default, metadata: {{name: db-0, namespace: {namespace}}}, spec: {{networking: {{address: 10.0.1.{last}, inbound: [{{port: 90, tags: {{kuma.io/service: db_{namespace}_svc_90}}}}]}}}}}}\n"
        )
    };
    let headless = |namespace: &str, name: &str| {
        format!(
            "---\n{{apiVersion: kuma.io/v1alpha1, kind: MeshService, metadata: {{name: s, namespace: {namespace}, labels: {{kuma.io/mesh: default}}}}, spec: {{selector: {{dataplaneRef: {{name: {name}}}}}, ports: [{{port: 90}}]}}}}\n"
        )
    };
    for (namespace, name, expected) in [
        ("shop", "db-0.shop", " 10.0.1.1:90"),
        ("shop", "db-0.pay", " 10.0.1.2:90"),
        // An older control plane writes the name alone.
        ("shop", "db-0", " 10.0.1.1:90"),
        ("pay", "db-0", " 10.0.1.2:90"),
        ("none", "db-0", ""),
        ("shop", "db-1.shop", ""),
    ] {
        let documents = here("") + &pod("shop", 1) + &pod("pay", 2) + &headless(namespace, name);
        let found = of_kind(&documents, "MeshService s");
        let cluster = format!("default_s_{namespace}_east_msvc_90");
        assert_eq!(found, [format!("MeshService s 90/90 {cluster}{expected}")], "{namespace} {name}");
    }
}

#[test]
fn a_written_mesh_service_stands_before_the_dataplanes_of_its_name_and_zone() {
    let spec =
        "selector: {dataplaneLabels: {matchLabels: {app: backend}}}, ports: [{port: 80, targetPort: 90}]";
    let derived = "MeshService backend 90/http";
    for (labels, written, stands_in) in [
        ("", "default_backend__east_msvc_80 10.0.0.3:90 192.0.2.4:90", false),
        ("kuma.io/zone: east", "default_backend__east_msvc_80 10.0.0.3:90", false),
        // Of another zone: its endpoints are that zone's.
        ("kuma.io/zone: west", "default_backend__west_msvc_80 192.0.2.4:90", true),
        (
            "kuma.io/zone: east, k8s.kuma.io/namespace: shop",
            "default_backend_shop_east_msvc_80 10.0.0.3:90",
            true,
        ),
    ] {
        let found = of_kind(&(here("") + PODS + &service("backend", labels, spec)), "MeshService");
        assert!(found.contains(&format!("MeshService backend 80/80 {written}")), "{labels}: {found:#?}");
        assert_eq!(found.iter().any(|line| line.starts_with(derived)), stands_in, "{labels}: {found:#?}");
    }
    let synced = service("backend-x2f", "kuma.io/zone: west, kuma.io/display-name: backend", spec);
    let found = of_kind(&(here("") + PODS + &synced), "MeshService backend-x2f");
    assert_eq!(found, ["MeshService backend-x2f 80/80 default_backend__west_msvc_80 192.0.2.4:90"]);
}

#[test]
fn a_mesh_multi_zone_service_is_all_mesh_services_with_its_labels() {
    let spec =
        "selector: {dataplaneLabels: {matchLabels: {app: backend}}}, ports: [{port: 80, targetPort: 90}]";
    let zones = service("backend", "team: a, kuma.io/zone: east", spec)
        + &service("backend-x2f", "team: a, kuma.io/zone: west, kuma.io/display-name: backend", spec);
    let multi = |labels: &str, ports: &str| {
        format!(
            "---\n{{type: MeshMultiZoneService, name: m, spec: {{selector: {{meshService: {{matchLabels: {{{labels}}}}}}}, ports: [{ports}]}}}}\n"
        )
    };
    for (labels, ports, expected) in [
        ("team: a", "{port: 80, name: http}", "80/http C_80 10.0.0.3:90 192.0.2.4:90"),
        ("kuma.io/display-name: backend", "{port: 80}", "80/80 C_80 10.0.0.3:90 192.0.2.4:90"),
        ("team: a, kuma.io/zone: west", "{port: 80}", "80/80 C_80 192.0.2.4:90"),
        ("team: b", "{port: 80}", "80/80 C_80"),
        ("team: a", "{port: 81}", "81/81 C_81"),
        // Dataplanes that stand for MeshServices.
        ("k8s.kuma.io/namespace: shop", "{port: 6380}", "6380/6380 C_6380 10.0.0.6:8081"),
        (
            "kuma.io/env: universal",
            "{port: 7000}, {port: 70}",
            "70/70 C_70 10.0.0.2:70; 7000/7000 C_7000 10.0.0.7:7000",
        ),
    ] {
        let found = of_kind(&(here("") + PODS + &zones + &multi(labels, ports)), "MeshMultiZoneService");
        let expected = format!("MeshMultiZoneService m {expected}").replace("C_", "default_m___mzsvc_");
        assert_eq!(found, [expected], "{labels} {ports}");
    }
}

#[test]
fn services_outside_of_the_mesh_have_the_ports_that_callers_dial() {
    let outside = "
---
{type: MeshExternalService, name: httpbin, labels: {kuma.io/zone: east}, spec: {match: {type: HostnameGenerator, port: 80}, endpoints: [{address: 192.0.2.9, port: 8000}]}}
---
{type: ExternalService, name: es-2, tags: {kuma.io/service: es, version: v2}, networking: {address: '192.0.2.8:444'}}
---
{type: ExternalService, name: es-1, tags: {kuma.io/service: es, version: v1}, networking: {address: '192.0.2.8:443'}}
";
    assert_eq!(
        of_kind(&(here("") + outside), "MeshExternalService"),
        ["MeshExternalService httpbin 80 default_httpbin__east_extsvc_80 192.0.2.9:8000"]
    );
    assert_eq!(
        of_kind(&(here("") + outside), "ExternalService"),
        ["ExternalService es 443 es 192.0.2.8:443 192.0.2.8:444; 444 es 192.0.2.8:443 192.0.2.8:444"]
    );
}

#[test]
fn two_documents_that_claim_one_service_are_named_both() {
    let spec = "selector: {dataplaneRef: {name: b1}}, ports: [{port: 80}]";
    for (documents, expected) in [
        (
            service("a", "kuma.io/zone: east", spec)
                + &service("a-x2f", "kuma.io/zone: east, kuma.io/display-name: a", spec),
            "(MeshService a-x2f): name: found the service a of MeshService a (m.yaml: document 1); allowed: one",
        ),
        (
            "---\n{type: ExternalService, name: e, tags: {kuma.io/service: backend}, networking: {address: '192.0.2.8:443'}}\n"
                .to_owned(),
            "(ExternalService e): tags: found backend, which Dataplane b1 (m.yaml: document 3) offers; allowed: ",
        ),
    ] {
        with(&(documents.clone() + &here("") + PODS), |_, errors| {
            assert!(matches!(errors, [one] if one.contains(expected)), "{documents}: {errors:#?}");
        });
    }
    // The same name in another zone or namespace is another service.
    let apart = service("a", "kuma.io/zone: east", spec)
        + &service("a-x2f", "kuma.io/zone: west, kuma.io/display-name: a", spec)
        + &service("a-x3f", "kuma.io/zone: east, k8s.kuma.io/namespace: shop, kuma.io/display-name: a", spec);
    let found = lines(&(apart + &here("") + PODS));
    assert_eq!(found.iter().filter(|line| line.starts_with("MeshService a")).count(), 3, "{found:#?}");
}

#[test]
fn the_order_of_documents_changes_nothing() {
    let spec =
        "selector: {dataplaneLabels: {matchLabels: {app: backend}}}, ports: [{port: 80, targetPort: 90}]";
    let all = here("") + PODS + &service("s", "", spec) + &service("r", "", spec);
    let mut backwards: Vec<_> = all.split("---\n").collect();
    backwards.reverse();
    assert_eq!(lines(&all), lines(&backwards.join("\n---\n")));
}

#[test]
fn the_pods_dataplane_cuts_what_it_reaches_and_no_service_is_forgotten() {
    let multi = "---\n{type: MeshMultiZoneService, name: m, spec: {selector: {meshService: {matchLabels: {kuma.io/display-name: backend}}}, ports: [{port: 90}]}}\n";
    let reached = |more: &str| {
        let documents = transparent(more) + PODS + multi;
        let reached = |services: &Services<'_>, _: &[String]| {
            let ports = |service: &Service<'_>| -> Vec<String> {
                let ports = service.ports.iter().filter(|port| port.reachable);
                let ports: Vec<_> = ports.map(|port| format!("{} {}", service.place(), port.port)).collect();
                assert_eq!(service.reachable, !ports.is_empty());
                ports
            };
            assert_eq!(services.all().count(), 9, "{more}");
            services.all().flat_map(ports).collect::<Vec<_>>()
        };
        with(&documents, reached)
    };
    let all = reached("reachableServices: []");
    let (of_tags, of_documents): (Vec<_>, Vec<_>) =
        all.iter().cloned().partition(|line| line.starts_with("kuma.io/service"));
    assert_eq!(reached("reachableServices: ['*']"), all);
    assert_eq!(reached("reachableServices: [here]"), ["kuma.io/service here 70"]);
    let both = "reachableServices: [here], reachableBackends: {refs: [{kind: MeshService, name: redis}]}";
    assert_eq!(reached(both), ["kuma.io/service here 70"]);
    let every = reached("reachableServices: ['*'], reachableBackends: {refs: []}");
    assert_eq!(every, of_tags);
    assert_ne!(every, of_documents);
    for (references, expected) in [
        ("", &[][..]),
        ("{kind: MeshService, name: here}", &["MeshService here 70"]),
        ("{kind: MeshService, name: backend, port: 91}", &["MeshService backend 91"]),
        ("{kind: MeshService, name: backend, port: 1}", &[]),
        (
            "{kind: MeshService, labels: {k8s.kuma.io/namespace: shop}}",
            &["MeshService redis 6379", "MeshService redis 6380"],
        ),
        ("{kind: MeshService, name: redis, namespace: shop, port: 6380}", &["MeshService redis 6380"]),
        ("{kind: MeshService, name: redis}", &[]),
        ("{kind: MeshMultiZoneService, name: m}", &["MeshMultiZoneService m 90"]),
        ("{kind: MeshExternalService, name: m}", &[]),
    ] {
        let found = reached(&format!("reachableBackends: {{refs: [{references}]}}"));
        assert_eq!(found, expected, "{references}");
    }
}

fn plan(documents: &str) -> Plan {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "m.yaml");
    assert_eq!(loaded.errors, [], "{documents}");
    compile(&config, &loaded.found).unwrap_or_else(|errors| panic!("{documents}: {errors:#?}"))
}

fn cluster(plan: &Plan, port: u16) -> &ClusterPlan {
    let name = format!("outbound:127.0.0.1:{port}");
    let listener = plan.listeners.iter().find(|one| *one.name == *name).unwrap();
    plan.cluster_named(listener.cluster.as_deref().unwrap()).unwrap()
}

/// A pod with an outbound to a service of each kind, and the services.
fn calls_each() -> String {
    let refer = |port: u16, kind: &str, to: &str| {
        format!("{{port: {port}, backendRef: {{kind: {kind}, name: {to}, port: 80}}}}")
    };
    let outbounds = [
        refer(1, "MeshService", "s"),
        refer(2, "MeshMultiZoneService", "m"),
        refer(3, "MeshExternalService", "e"),
        "{port: 4, tags: {kuma.io/service: es, version: v1}}".into(),
    ];
    here(&format!(", outbound: [{}]", outbounds.join(", "))) + PODS + &service(
        "s",
        "team: a",
        "selector: {dataplaneLabels: {matchLabels: {app: backend}}}, ports: [{port: 80, targetPort: 90, name: http}]",
    ) + "
---
{type: MeshMultiZoneService, name: m, labels: {team: m}, spec: {selector: {meshService: {matchLabels: {team: a}}}, ports: [{port: 80}]}}
---
{type: MeshExternalService, name: e, labels: {team: e}, spec: {match: {type: HostnameGenerator, port: 80}, endpoints: [{address: 192.0.2.9, port: 8000}]}}
---
{type: ExternalService, name: es-1, tags: {kuma.io/service: es, version: v1}, networking: {address: '192.0.2.8:443'}}
---
{type: ExternalService, name: es-2, tags: {kuma.io/service: es, version: v2}, networking: {address: '192.0.2.8:444'}}
"
}

#[test]
fn policies_choose_services_of_every_kind_by_name_labels_and_section() {
    let default = Duration::from_secs(5);
    for (target, timed) in [
        ("kind: Mesh", &[1, 2, 3, 4][..]),
        ("kind: MeshService, name: s", &[1]),
        ("kind: MeshService, labels: {team: a}", &[1]),
        ("kind: MeshService, labels: {team: a}, sectionName: http", &[1]),
        ("kind: MeshService, labels: {team: a}, sectionName: '80'", &[1]),
        ("kind: MeshService, labels: {team: a}, sectionName: grpc", &[]),
        ("kind: MeshService, labels: {team: m}", &[]),
        ("kind: MeshService, name: m", &[]),
        ("kind: MeshService, name: es", &[4]),
        ("kind: MeshMultiZoneService, name: m", &[2]),
        ("kind: MeshMultiZoneService, labels: {team: m}, sectionName: '80'", &[2]),
        ("kind: MeshExternalService, name: e", &[3]),
        ("kind: MeshExternalService, labels: {team: e}", &[3]),
        ("kind: MeshExternalService, labels: {team: a}", &[]),
        ("kind: MeshExternalService, name: s", &[]),
    ] {
        let policy = format!(
            "---\n{{type: MeshTimeout, name: t, spec: {{to: [{{targetRef: {{{target}}}, default: {{connectionTimeout: 1s}}}}]}}}}\n"
        );
        let plan = plan(&(calls_each() + &policy));
        assert_eq!(plan.warnings, [""; 0], "{target}");
        for port in [1, 2, 3, 4] {
            let expected = if timed.contains(&port) { Duration::from_secs(1) } else { default };
            assert_eq!(cluster(&plan, port).connect_timeout, Some(expected), "{target}, {port}");
        }
    }
}

#[test]
fn outbounds_and_routes_lead_to_services_of_every_kind() {
    let addresses = |cluster: &ClusterPlan| {
        let all: Vec<_> = match &cluster.upstream {
            Discovery::Endpoints(all) => all.iter().map(|one| one.address.to_string()).collect(),
            Discovery::External(all) => all.iter().map(|one| one.address.to_string()).collect(),
            other => panic!("{other:?}"),
        };
        format!("{} {}", cluster.name, all.join(" "))
    };
    let own = [
        "default_s__east_msvc_80 10.0.0.3:90 192.0.2.4:90",
        "default_m___mzsvc_80 10.0.0.3:90 192.0.2.4:90",
        "default_e___extsvc_80 192.0.2.9:8000",
        "es[version=v1] 192.0.2.8:443",
    ];
    let of = |plan: &Plan| [1, 2, 3, 4].map(|port| addresses(cluster(plan, port)));
    assert_eq!(of(&plan(&calls_each())), own);
    for (backend, leads_to) in [
        ("{kind: MeshService, name: s, port: 80}", own[0]),
        ("{kind: MeshService, labels: {team: a}, sectionName: http}", own[0]),
        ("{kind: MeshMultiZoneService, name: m, port: 80}", own[1]),
        ("{kind: MeshExternalService, name: e}", own[2]),
        ("{kind: MeshExternalService, labels: {team: e}, port: 80}", own[2]),
        ("{kind: MeshService, name: es}", "es 192.0.2.8:443 192.0.2.8:444"),
        ("{kind: MeshService, name: s, port: 81}", "default_s__east_msvc_81 "),
        ("{kind: MeshExternalService, name: s}", "s "),
    ] {
        let route = format!(
            "---\n{{type: MeshTCPRoute, name: r, spec: {{to: [{{targetRef: {{kind: MeshMultiZoneService, name: m}}, rules: [{{default: {{backendRefs: [{backend}]}}}}]}}]}}}}\n"
        );
        let plan = plan(&(calls_each() + &route));
        assert_eq!(of(&plan), [own[0], leads_to, own[2], own[3]], "{backend}");
        let warned =
            plan.warnings.iter().any(|warning| warning.contains("127.0.0.1:2: no Dataplane offers "));
        assert_eq!(warned, leads_to.ends_with(' '), "{backend}: {:?}", plan.warnings);
    }
}
