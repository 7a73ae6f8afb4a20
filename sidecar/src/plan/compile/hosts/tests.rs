use crate::net::addrs::Direction;
use crate::options::Options;
use crate::options::config::Config;
use crate::plan::compile::{compile_after, read_with_mesh};
use crate::plan::names::Standing;
use crate::plan::{Discovery, Plan};
use clap::Parser;
use std::net::{IpAddr, SocketAddr};

const HERE: &str = "---
{type: Dataplane, name: here, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001},
  inbound: [{port: 80, tags: {kuma.io/service: here}}]}}
";

fn config() -> Config {
    let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

fn compiled(documents: &str, standing: &Standing) -> Result<Plan, Vec<String>> {
    let loaded = read_with_mesh(&config(), documents, "mesh.yaml");
    assert_eq!(loaded.errors, []);
    let plan = compile_after(&config(), &loaded.found, standing);
    plan.map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn plan(documents: &str) -> Plan {
    compiled(&format!("{HERE}{documents}"), &Standing::default()).unwrap()
}

fn errors(documents: &str) -> Vec<String> {
    compiled(&format!("{HERE}{documents}"), &Standing::default()).unwrap_err()
}

fn pod(name: &str, number: u8, inbounds: &[(u16, &str)]) -> String {
    let inbounds: Vec<_> = inbounds
        .iter()
        .map(|(port, tags)| format!("{{port: {port}, tags: {{kuma.io/service: {tags}}}}}"))
        .collect();
    let inbounds = inbounds.join(", ");
    format!(
        "---\n{{type: Dataplane, name: {name}, networking: {{address: 10.0.1.{number}, inbound: [{inbounds}]}}}}\n"
    )
}

/// `HOST PORT: ENDPOINTS`, of the hosts that end so.
fn ways(plan: &Plan, suffix: &str) -> Vec<String> {
    let plan = &plan.clone().made_out();
    let names = plan.names.names.iter().filter(|name| name.host.ends_with(suffix));
    let ports = names.flat_map(|name| name.ports.iter().map(move |port| (name, port)));
    let way = |(name, port): (&crate::plan::names::MeshName, &crate::plan::names::NamePort)| {
        let all = || plan.listeners.iter().filter(|one| one.direction == Direction::Outbound);
        let found: Vec<_> = name
            .addresses
            .iter()
            .map(|address| {
                let address = SocketAddr::new(*address, port.port);
                let (way, own) = (plan.names.ways.get(&address), all().find(|one| one.address == address));
                let way = way.map(|way| all().find(|one| one.name == *way).unwrap());
                assert!(own.is_none() != way.is_none(), "{}: {address}", name.host);
                own.or(way).unwrap()
            })
            .collect();
        assert!(found.iter().all(|one| one.name == found[0].name), "{}", name.host);
        let listener = found[0];
        let cluster = plan.cluster_named(listener.cluster.as_ref().unwrap()).unwrap();
        let endpoints: Vec<_> = match &cluster.upstream {
            Discovery::Endpoints(all) => all.iter().map(|one| one.address.to_string()).collect(),
            other => vec![format!("{other:?}")],
        };
        format!("{} {}: {}", name.host, port.port, endpoints.join(" "))
    };
    ports.map(way).collect()
}

fn addresses(plan: &Plan, host: &str) -> Vec<IpAddr> {
    plan.names.find(host).map_or(Vec::new(), |name| name.addresses.to_vec())
}

fn why(plan: &Plan, host: &str) -> Vec<String> {
    let refused = plan.names.refused.iter().filter(|one| &*one.host == host);
    refused.map(|one| one.why.to_string()).collect()
}

#[test]
fn a_service_has_a_name_with_port_80_and_those_of_its_inbounds() {
    let documents = [
        pod("web-1", 1, &[(8000, "web")]),
        pod("web-2", 2, &[(8000, "web")]),
        pod("api", 3, &[(3001, "api_shop_svc_3001")]),
        pod("odd", 4, &[(80, "a:b")]),
    ];
    let plan = plan(&documents.concat());
    assert_eq!(
        ways(&plan, ".mesh"),
        [
            "api.shop.svc.3001.mesh 80: 10.0.1.3:3001",
            "api.shop.svc.3001.mesh 3001: 10.0.1.3:3001",
            "api_shop_svc_3001.mesh 80: 10.0.1.3:3001",
            "api_shop_svc_3001.mesh 3001: 10.0.1.3:3001",
            "here.mesh 80: 10.0.0.2:80",
            "web.mesh 80: 10.0.1.1:8000 10.0.1.2:8000",
            "web.mesh 8000: 10.0.1.1:8000 10.0.1.2:8000",
        ]
    );
    let web = plan.names.find("WEB.mesh.").unwrap();
    assert_eq!((&*web.by, &*web.service, web.ttl), ("Dataplane web-1", "kuma.io/service web", 30));
    let [v4, v6] = web.addresses[..] else { panic!("{:?}", web.addresses) };
    assert!(matches!(v4, IpAddr::V4(ip) if ip.octets()[0] >= 240), "{v4}");
    assert!(v6.to_string().starts_with("fd00:fd00::"), "{v6}");
    assert_eq!(addresses(&plan, "api.shop.svc.3001.mesh"), addresses(&plan, "api_shop_svc_3001.mesh"));
    assert_eq!(why(&plan, "a:b.mesh"), ["Dataplane odd: kuma.io/service \"a:b\" makes no name of DNS"]);
}

#[test]
fn without_a_redirect_there_are_no_names_and_no_listeners_for_them() {
    let documents = format!(
        "{}{}",
        HERE.replace("redirectPortOutbound: 15001", "redirectPortOutbound: 0"),
        pod("web", 1, &[(80, "web")])
    );
    let plan = compiled(&documents, &Standing::default()).unwrap();
    assert!(plan.names.names.is_empty() && plan.names.ways.is_empty());
    assert_eq!(plan.names.on_demand, Default::default());
    assert!(!plan.listeners.iter().any(|one| one.name.starts_with("outbound:240.")));
}

#[test]
fn a_redirect_of_one_family_leaves_out_the_addresses_of_the_other() {
    let web = pod("web", 1, &[(80, "web")]);
    for (mode, count) in [("IPv4", [1, 0]), ("IPv6", [0, 1]), ("DualStack", [1, 1])] {
        let here =
            HERE.replace("transparentProxying: {", &format!("transparentProxying: {{ipFamilyMode: {mode}, "));
        let plan = compiled(&format!("{here}{web}"), &Standing::default()).unwrap();
        let all = addresses(&plan, "web.mesh");
        let found =
            [all.iter().filter(|ip| ip.is_ipv4()).count(), all.iter().filter(|ip| ip.is_ipv6()).count()];
        assert_eq!(found, count, "{mode}");
    }
}

#[test]
fn a_cut_changes_no_address_and_says_why_a_name_is_missing() {
    let services = [pod("web", 1, &[(80, "web")]), pod("api", 2, &[(80, "api")])].concat();
    let all = plan(&services);
    let here = HERE.replace("transparentProxying: {", "transparentProxying: {reachableServices: [web], ");
    let some = compiled(&format!("{here}{services}"), &Standing::default()).unwrap();
    assert_eq!(addresses(&some, "web.mesh"), addresses(&all, "web.mesh"));
    assert_eq!(addresses(&some, "api.mesh"), [] as [IpAddr; 0]);
    let said = why(&some, "api.mesh");
    assert!(said.len() == 1 && said[0].starts_with("Dataplane here leaves it out: "), "{said:?}");
    assert_eq!(addresses(&all, "api.mesh").len(), 2);
}

#[test]
fn an_address_stays_with_its_name_and_passes_to_no_other() {
    let [web, api, new] = ["web", "api", "new"].map(|name| pod(name, 1, &[(80, name)]));
    let first = plan(&format!("{web}{api}"));
    let again = |documents: &str, before: &Plan| {
        compiled(&format!("{HERE}{documents}"), &Standing::after(&before.names)).unwrap()
    };
    let second = again(&format!("{api}{new}"), &first);
    assert_eq!(addresses(&second, "api.mesh"), addresses(&first, "api.mesh"));
    assert!(addresses(&second, "web.mesh").is_empty());
    let gone = addresses(&first, "web.mesh");
    assert!(addresses(&second, "new.mesh").iter().all(|ip| !gone.contains(ip)));
    assert_eq!(addresses(&again(&format!("{web}{new}"), &second), "web.mesh"), gone);
    // The order of documents and files does not matter.
    assert_eq!(plan(&format!("{api}{web}")).names, first.names);
}

#[test]
fn an_outbound_of_the_dataplane_comes_before_a_name() {
    let web = pod("web", 1, &[(8000, "web")]);
    let v4 = addresses(&plan(&web), "web.mesh")[0];
    let here = HERE.replace(
        "inbound: [",
        &format!("outbound: [{{port: 80, address: {v4}, tags: {{kuma.io/service: web}}}}], inbound: ["),
    );
    let plan = compiled(&format!("{here}{web}"), &Standing::default()).unwrap();
    // The address is the outbound's, so the name has another one.
    assert_ne!(addresses(&plan, "web.mesh")[0], v4);
    let clusters = plan.clusters.iter().filter(|one| one.name.starts_with("web")).count();
    assert_eq!(clusters, 1, "one cluster for both: {:?}", plan.clusters);
}

const SERVICE: &str = "---
{type: MeshService, name: backend, labels: {app: backend, team: blue}, spec: {selector: {dataplaneTags: {kuma.io/service: web}}, ports: [{port: 80, targetPort: 8000, name: http}]},
  status: {vips: [{ip: 10.96.0.7}], addresses: [{hostname: backend.shop.svc.cluster.local, origin: Kubernetes}]}}
";

fn generator(name: &str, template: &str) -> String {
    format!(
        "---\n{{type: HostnameGenerator, name: {name}, spec: {{selector: {{meshService: {{matchLabels: {{app: backend}}}}}}, template: '{template}'}}}}\n"
    )
}

#[test]
fn generators_and_the_status_give_services_names() {
    let documents = [
        pod("web", 1, &[(8000, "web")]),
        SERVICE.into(),
        generator("own", "{{ .Name }}.meshservice.othertld"),
        generator("label", "{{ label \"team\" }}.{{ .Mesh }}.mesh.test"),
        generator("none", "{{ label \"missing\" }}.mesh.test"),
    ];
    let plan = plan(&documents.concat());
    for host in [
        "backend.meshservice.othertld",
        "blue.default.mesh.test",
        "backend.shop.svc.cluster.local",
        // A control plane makes the generator of this one.
        "backend.svc.mesh.local",
    ] {
        assert_eq!(ways(&plan, host), [format!("{host} 80: 10.0.1.1:8000")]);
        assert_eq!(
            addresses(&plan, host)[0],
            "10.96.0.7".parse::<IpAddr>().unwrap(),
            "the address of the status wins"
        );
    }
    assert_eq!(*plan.names.find("backend.meshservice.othertld").unwrap().by, *"HostnameGenerator own");
    assert_eq!(
        why(&plan, "<no value>.mesh.test"),
        ["HostnameGenerator none: MeshService backend has nothing for {{ label \"missing\" }}"]
    );
}

#[test]
fn a_service_of_another_zone_has_its_own_addresses_and_the_names_of_another_zone() {
    const EAST: &str = "{type: Dataplane, name: here, labels: {kuma.io/zone: east}, networking: {address: 10.0.0.2, transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}, inbound: [{port: 80, tags: {kuma.io/service: here}}]}}\n";
    let written = |name: &str, zone: &str, vip: &str| {
        format!(
            "---\n{{type: MeshService, name: {name}, labels: {{kuma.io/zone: {zone}, kuma.io/display-name: backend, kuma.io/origin: zone}}, spec: {{selector: {{dataplaneTags: {{kuma.io/service: backend}}}}, ports: [{{port: 90}}]}}, status: {{vips: [{{ip: {vip}}}]}}}}\n"
        )
    };
    let documents = EAST.to_owned()
        + &pod("b", 1, &[(90, "backend")])
        + &written("backend", "east", "10.96.0.6")
        + &written("backend-x2f", "west", "10.96.0.7")
        + &written("backend-x3f", "south", "8.8.8.8");
    let plan = compiled(&documents, &Standing::default()).unwrap();
    for (host, vip) in [
        ("backend.svc.mesh.local", "10.96.0.6"),
        ("backend.svc.west.mesh.local", "10.96.0.7"),
        ("backend.svc.south.mesh.local", "8.8.8.8"),
    ] {
        assert_eq!(addresses(&plan, host)[0], vip.parse::<IpAddr>().unwrap(), "{host}");
    }
    let public =
        |line: &&String| line.contains("status.vips has 8.8.8.8, neither of a range for names nor private");
    assert_eq!(plan.warnings.iter().filter(public).count(), 1, "{:?}", plan.warnings);
    assert!(!plan.warnings.iter().any(|line| line.contains("10.96.0.")), "{:?}", plan.warnings);
}

#[test]
fn of_two_services_that_generators_give_one_name_the_first_has_it() {
    let second = SERVICE.replace("name: backend", "name: other").replace("10.96.0.7", "10.96.0.8").replace(
        "addresses: [{hostname: backend.shop.svc.cluster.local, origin: Kubernetes}]",
        "addresses: []",
    );
    let documents =
        [pod("web", 1, &[(8000, "web")]), second, SERVICE.into(), generator("one", "one.mesh.test")];
    let plan = plan(&documents.concat());
    assert_eq!(addresses(&plan, "one.mesh.test")[0], "10.96.0.7".parse::<IpAddr>().unwrap());
    let said = why(&plan, "one.mesh.test");
    assert!(said.len() == 1 && said[0].starts_with("HostnameGenerator one asks for it for MeshService other: it is the name of MeshService backend by HostnameGenerator one (mesh.yaml: document "), "{said:?}");
}

const INSTANCES: &str = "---
{type: VirtualOutbound, name: all, selectors: [{match: {kuma.io/service: '*'}}], conf: {host: '{{.svc}}.foo', port: '8080',
  parameters: [{name: svc, tagKey: kuma.io/service}]}}
---
{type: VirtualOutbound, name: inst, selectors: [{match: {kuma.io/service: '*', pod: '*'}}], conf: {host: '{{.svc}}.{{.inst}}', port: '80{{.inst}}',
  parameters: [{name: svc, tagKey: kuma.io/service}, {name: inst, tagKey: pod}]}}
";

#[test]
fn a_virtual_outbound_names_a_service_or_exactly_an_instance() {
    let documents = [
        pod("web-1", 1, &[(8000, "web, pod: '1'")]),
        pod("web-2", 2, &[(8000, "web, pod: '2'")]),
        INSTANCES.into(),
    ];
    let plan = plan(&documents.concat());
    assert_eq!(ways(&plan, "web.foo"), ["web.foo 8080: 10.0.1.1:8000 10.0.1.2:8000"]);
    assert_eq!(ways(&plan, "web.1"), ["web.1 801: 10.0.1.1:8000"]);
    assert_eq!(ways(&plan, "web.2"), ["web.2 802: 10.0.1.2:8000"]);
    assert_eq!(*plan.names.find("web.1").unwrap().by, *"VirtualOutbound inst");
    assert_ne!(addresses(&plan, "web.1"), addresses(&plan, "web.2"));
}

#[test]
fn the_most_specific_virtual_outbound_has_a_name_and_port() {
    let outbound = |name: &str, selector: &str, more: &str, port: u16| {
        format!(
            "---\n{{type: VirtualOutbound, name: {name}, selectors: [{{match: {{{selector}}}}}], conf: {{host: '{{{{.s}}}}.mesh', port: '{port}', parameters: [{{name: s, tagKey: kuma.io/service}}{more}]}}}}\n"
        )
    };
    let documents = [
        pod("web-1", 1, &[(8000, "web, v: '1'")]),
        pod("web-2", 2, &[(8000, "web, v: '2'")]),
        outbound("general", "kuma.io/service: '*'", "", 81),
        outbound("narrow", "kuma.io/service: web", ", {name: v}", 81),
        outbound("other", "kuma.io/service: web", ", {name: v}", 82),
    ];
    let plan = plan(&documents.concat());
    // What they do not say of the service's own name stays.
    assert_eq!(
        ways(&plan, "web.mesh"),
        [
            "web.mesh 80: 10.0.1.1:8000 10.0.1.2:8000",
            "web.mesh 81: 10.0.1.1:8000",
            "web.mesh 82: 10.0.1.1:8000",
            "web.mesh 8000: 10.0.1.1:8000 10.0.1.2:8000",
        ]
    );
    let warned = |start: &str| plan.warnings.iter().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        warned(
            "VirtualOutbound narrow: without effect for 1 sets of tags; the first is web.mesh:81, which VirtualOutbound narrow leads to kuma.io/service=web, v=1"
        ),
        1,
        "{:?}",
        plan.warnings
    );
    assert_eq!(warned("VirtualOutbound general: without effect for 1 sets"), 1, "{:?}", plan.warnings);
    assert_eq!(ways(&plan, "here.mesh"), ["here.mesh 80: 10.0.0.2:80", "here.mesh 81: 10.0.0.2:80"]);
}

#[test]
fn a_tag_that_an_inbound_lacks_makes_no_name() {
    let documents = [pod("web", 1, &[(80, "web")]), INSTANCES.into()].concat();
    let plan = plan(&documents);
    assert!(why(&plan, "web.<no value>").is_empty(), "the selector asks for the tag");
    let any = documents.replace(
        ", pod: '*'}}], conf: {host: '{{.svc}}.{{.inst}}'",
        "}}], conf: {host: '{{.svc}}.{{.inst}}'",
    );
    let plan = compiled(&format!("{HERE}{any}"), &Standing::default()).unwrap();
    assert_eq!(
        why(&plan, "web.<no value>"),
        ["VirtualOutbound inst: Dataplane web has no tag for {{ .inst }}"]
    );
}

#[test]
fn what_makes_no_name_is_an_error_that_names_both_documents() {
    let web = pod("web", 1, &[(80, "web, v: 'a:b', port: none")]);
    let outbound = |host: &str, port: &str| {
        format!(
            "{web}---\n{{type: VirtualOutbound, name: o, selectors: [{{match: {{kuma.io/service: web}}}}], conf: {{host: '{host}', port: '{port}', parameters: [{{name: s, tagKey: kuma.io/service}}, {{name: v}}, {{name: port}}]}}}}\n"
        )
    };
    let generated = |template: &str| format!("{web}{SERVICE}{}", generator("g", template));
    for (documents, parts) in [
        (
            outbound("{{.s}}.{{.v}}", "80"),
            &["VirtualOutbound o", "conf.host", "\"web.a:b\" for Dataplane web (mesh.yaml: document "][..],
        ),
        (
            outbound("{{.s}}.a", "{{.port}}"),
            &["conf.port", "\"none\" for Dataplane web", "a port from 1 to 65535"],
        ),
        (outbound("{{.s}}.a", "0"), &["conf.port", "\"0\" for Dataplane web"]),
        (outbound("{{.s}}.a", "65536"), &["conf.port", "\"65536\" for Dataplane web"]),
        (outbound("{{.x}}.a", "80"), &["conf.host", "{{ .x }}", "a name of conf.parameters: s, v, port"]),
        (outbound("{{ if .s }}a{{ end }}", "80"), &["conf.host", "{{ if .s }}"]),
        (outbound("{{ label \"a\" }}", "80"), &["conf.host", "label"]),
        (
            generated("{{ .Name }}..mesh"),
            &[
                "HostnameGenerator g",
                "spec.template",
                "\"backend..mesh\" for MeshService backend (mesh.yaml: document ",
            ],
        ),
        (generated("{{ .Named }}.mesh"), &["spec.template", "{{ .Named }}", ".DisplayName"]),
        (generated("{{ .Name }.mesh"), &["spec.template", "without its"]),
        (
            generated("web.mesh"),
            &[
                "HostnameGenerator g",
                "spec.template",
                "the name web.mesh for MeshService backend",
                "kuma.io/service web by Dataplane web (mesh.yaml: document ",
            ],
        ),
    ] {
        let errors = errors(&documents);
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(parts.iter().all(|part| errors[0].contains(part)), "{parts:?}: {errors:?}");
    }
}

#[test]
fn addresses_of_a_status_have_to_be_of_one_service_and_of_a_host() {
    let web = pod("web", 1, &[(80, "web")]);
    let vip = |name: &str, ip: &str| {
        format!(
            "---\n{{type: MeshService, name: {name}, spec: {{selector: {{dataplaneTags: {{kuma.io/service: web}}}}, ports: [{{port: 80}}]}}, status: {{vips: [{{ip: '{ip}'}}]}}}}\n"
        )
    };
    let twice = errors(&format!("{web}{}{}", vip("first", "10.96.0.1"), vip("second", "10.96.0.1")));
    assert!(twice[0].contains("MeshService first") && twice[0].contains("MeshService second"), "{twice:?}");
    for ip in ["127.0.0.1", "0.0.0.0", "169.254.1.1", "224.0.0.1", "fe80::1", "::1"] {
        let errors = errors(&format!("{web}{}", vip("first", ip)));
        assert!(errors[0].contains("status.vips") && errors[0].contains(ip), "{errors:?}");
    }
    // Those of the pods of headless services are shared.
    let plan = plan(&format!("{web}{}{}", vip("first", "10.0.1.1"), vip("second", "10.0.1.1")));
    assert_eq!(addresses(&plan, "first.svc.mesh.local"), ["10.0.1.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(ways(&plan, "second.svc.mesh.local"), ["second.svc.mesh.local 80: 10.0.1.1:80"]);
}
