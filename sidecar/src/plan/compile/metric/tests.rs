// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::Options;
use crate::plan::TlsMode;
use crate::plan::compile::{compile, read_with_mesh};
use clap::Parser;

const REDIRECTED: &str = "transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}, ";

fn here(address: &str, more: &str) -> String {
    format!(
        "---\n{{type: Dataplane, name: here, labels: {{app: here, kuma.io/workload: shop}}, networking: {{address: {address}, {more}inbound: [{{port: 80, servicePort: 8080, tags: {{kuma.io/service: here, kuma.io/zone: z}}}}]}}}}\n"
    )
}

fn compiled(arguments: &[&str], documents: &str) -> Result<Plan, Vec<String>> {
    let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(arguments);
    let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, documents, "mesh.yaml");
    assert_eq!(loaded.errors, [], "{documents}");
    compile(&config, &loaded.found).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn plan(documents: &str) -> Plan {
    compiled(&["--dataplane=here"], &format!("{}{documents}", here("10.0.0.2", REDIRECTED))).unwrap()
}

fn policy(name: &str, target: &str, conf: &str) -> String {
    format!(
        "---\n{{type: MeshMetric, name: {name}, spec: {{targetRef: {{{target}}}, default: {{{conf}}}}}}}\n"
    )
}

const ALL: &str = "kind: Mesh";
const PORT: &str = "backends: [{type: Prometheus, prometheus: {}}]";

fn listener<'p>(plan: &'p Plan, name: &str) -> &'p ListenerPlan {
    plan.listeners.iter().find(|listener| &*listener.name == name).expect(name)
}

#[test]
fn without_a_prometheus_backend_no_port_is_open() {
    let count = plan("").listeners.len();
    for documents in [
        String::new(),
        policy("a", ALL, "applications: [{port: 8080}]"),
        policy("a", ALL, "backends: []"),
        policy("a", ALL, PORT) + &policy("b", "kind: Dataplane, labels: {app: here}", "backends: []"),
        policy("a", "kind: Dataplane, labels: {app: web}", PORT),
    ] {
        let plan = plan(&documents);
        assert_eq!((plan.scrape, plan.listeners.len()), (None, count), "{documents}");
    }
}

#[test]
fn where_calls_are_redirected_the_port_is_open_on_all_addresses_and_15006_leads_to_it() {
    let plan = plan(&policy("a", ALL, PORT));
    let scrape = plan.scrape.as_ref().unwrap();
    let port = ScrapePort { listen: "[::]:5670".parse().unwrap(), paths: vec!["/metrics".into()] };
    assert_eq!(scrape.ports, [port]);
    let listener = listener(&plan, "_kuma:metrics:prometheus:default-backend");
    assert_eq!((listener.address, listener.binds), ("10.0.0.2:5670".parse().unwrap(), false));
    let cluster = plan.cluster_named(listener.cluster.as_deref().unwrap()).unwrap();
    let source = Some("127.0.0.6".parse().unwrap());
    let upstream = Discovery::Application { address: "10.0.0.2:5670".parse().unwrap(), source };
    assert_eq!((cluster.origin, &cluster.upstream), (Origin::Prometheus, &upstream));
    let labels: Vec<_> = scrape.labels.iter().map(|(name, value)| (*name, &**value)).collect();
    assert_eq!(
        labels,
        [
            ("mesh", "default"),
            ("dataplane", "here"),
            ("zone", "z"),
            ("kuma_io_service", "here"),
            ("kuma_workload", "shop")
        ]
    );
}

#[test]
fn where_calls_are_not_redirected_a_listener_stands_before_the_port() {
    for (address, listen) in
        [("10.0.0.2", "127.0.0.1:5670"), ("127.0.0.1", "127.0.0.2:5670"), ("'::1'", "127.0.0.1:5670")]
    {
        let documents = here(address, "") + &policy("a", ALL, PORT);
        let plan = compiled(&["--dataplane=here"], &documents).unwrap();
        assert_eq!(plan.scrape.as_ref().unwrap().ports[0].listen, listen.parse().unwrap(), "{address}");
        let listener = listener(&plan, "_kuma:metrics:prometheus:default-backend");
        let expected: IpAddr = address.trim_matches('\'').parse().unwrap();
        assert_eq!((listener.address, listener.binds), (SocketAddr::new(expected, 5670), true), "{address}");
        let cluster = plan.cluster_named(listener.cluster.as_deref().unwrap()).unwrap();
        let upstream = Discovery::Application { address: listen.parse().unwrap(), source: None };
        assert_eq!(cluster.upstream, upstream, "{address}");
    }
}

#[test]
fn a_pod_without_a_dataplane_has_the_port_and_passthrough_leads_to_it() {
    let plan = compiled(
        &[],
        &policy(
            "a",
            ALL,
            "backends: [{type: Prometheus, prometheus: {port: 8080}}], applications: [{port: 1}]",
        ),
    )
    .unwrap();
    let scrape = plan.scrape.unwrap();
    assert_eq!(scrape.ports[0].listen, "[::]:8080".parse().unwrap());
    assert_eq!(scrape.applications[0].address, None);
    assert_eq!(plan.listeners.len(), 4);
}

#[test]
fn each_port_has_a_listener_and_backends_of_one_port_differ_by_path() {
    let backend = |conf: &str| format!("{{type: Prometheus, prometheus: {{{conf}}}}}");
    let backends = [
        "clientId: one",
        "clientId: two, path: other",
        "clientId: one, port: 5671, path: /a",
        "port: 5671, path: /a",
    ];
    let backends: Vec<_> = backends.map(backend).into();
    let plan = plan(&policy("a", ALL, &format!("backends: [{}]", backends.join(", "))));
    let port = |listen: &str, paths: &[&str]| ScrapePort {
        listen: listen.parse().unwrap(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
    };
    assert_eq!(
        plan.scrape.as_ref().unwrap().ports,
        [port("[::]:5670", &["/metrics", "/other"]), port("[::]:5671", &["/a"])]
    );
    for (name, port) in [("_kuma:metrics:prometheus:one", 5670), ("_kuma:metrics:prometheus:one:5671", 5671)]
    {
        assert_eq!(listener(&plan, name).address.port(), port, "{name}");
    }
}

#[test]
fn under_mtls_the_port_has_the_gate_of_the_whole_pod_and_others_ask_it_by_tls() {
    let mesh = "---\n{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, type: provided}]}}\n";
    let web = "---\n{type: Dataplane, name: web, networking: {address: 10.0.0.3, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}\n";
    let permission = "---\n{type: MeshTrafficPermission, name: p, spec: {from: [{targetRef: {kind: MeshService, name: prometheus}, default: {action: Allow}}]}}\n";
    let plain = "backends: [{type: Prometheus, prometheus: {port: 5671, tls: {mode: Disabled}}}]";
    let documents = format!(
        "{mesh}{web}{permission}{}{}",
        policy("a", ALL, PORT),
        policy("b", "kind: Dataplane, labels: {app: kong}", plain)
    );
    let plan = plan(&documents);
    let mtls = plan.mtls.as_ref().unwrap();
    let gate = mtls.gate(listener(&plan, "_kuma:metrics:prometheus:default-backend"));
    assert_eq!((gate.mode, gate), (TlsMode::Strict, &mtls.others));
    assert!(gate.permissions.restricted);
    let member = |address: &str| {
        plan.members.get(&address.parse::<SocketAddr>().unwrap()).map(|member| &*member.dataplane)
    };
    assert_eq!(member("10.0.0.3:5670"), Some("web"));
    assert_eq!(member("10.0.0.3:5671"), None, "tls: {{mode: Disabled}}");
    assert_eq!(member("10.0.0.2:5670"), None, "its own");
}

#[test]
fn policies_merge_in_kumas_order() {
    let wide = policy(
        "a",
        ALL,
        &format!(
            "{PORT}, applications: [{{name: x, port: 1}}], sidecar: {{includeUnused: true, profiles: {{appendProfiles: [{{name: All}}]}}}}"
        ),
    );
    let narrow = policy(
        "b",
        "kind: Dataplane, labels: {app: here}",
        "applications: [{port: 2, path: m, address: 127.0.0.1}], sidecar: {profiles: {appendProfiles: [{name: None}], exclude: [{type: Prefix, match: envoy_}], include: [{type: Regex, match: 'bytes|cx'}]}}",
    );
    let scrape = plan(&(wide + &narrow)).scrape.unwrap();
    let [application] = &scrape.applications[..] else { panic!("one: {scrape:?}") };
    let ScrapedApplication { name, address, port, path } = application;
    assert_eq!((&**name, *address, *port, &**path), ("2", Some(Ipv4Addr::LOCALHOST.into()), 2, "/m"));
    let Selection { profile, exclude, include, include_unused } = scrape.selection;
    assert_eq!((profile, include_unused), (Profile::All, true), "the widest profile holds");
    assert_eq!(exclude, [NameSelector::Prefix("envoy_".into())]);
    assert_eq!(include, [NameSelector::Regex(Pattern::new("bytes|cx").unwrap())]);
    let alone = plan(&policy("a", ALL, PORT)).scrape.unwrap();
    assert_eq!(alone.selection, Selection::default());
    assert_eq!(alone.selection.profile, Profile::Basic);
}

#[test]
fn wrong_ports_and_expressions_are_told_with_the_document_that_decides() {
    let place = "mesh.yaml: document 2 (MeshMetric a): spec.default.";
    for (conf, expected) in [
        (
            "backends: [{type: Prometheus, prometheus: {port: 15020}}]",
            "backends[0].prometheus.port: found 15020, a port of the sidecar; allowed: a port of its own",
        ),
        (
            "backends: [{type: Prometheus, prometheus: {port: 80}}]",
            "backends[0].prometheus.port: found 80, that of inbound:10.0.0.2:80; allowed: a port of its own",
        ),
        (
            "backends: [{type: Prometheus, prometheus: {}}], applications: [{port: 1}, {port: 5670}]",
            "applications[1].port: found 5670, a port of the sidecar; allowed: a port of an application",
        ),
        (
            "backends: [{type: Prometheus, prometheus: {}}], sidecar: {profiles: {exclude: [{type: Regex, match: '())(!('}]}}",
            "sidecar.profiles.exclude[0].match: found \"())(!(\"; allowed: a regular expression (",
        ),
    ] {
        let documents = here("10.0.0.2", REDIRECTED) + &policy("a", ALL, conf);
        let errors = compiled(&["--dataplane=here"], &documents).unwrap_err();
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].starts_with(&format!("{place}{expected}")), "{errors:?}");
    }
}

#[test]
fn a_wrong_expression_is_an_error_whatever_the_policy_decides() {
    let wrong = "sidecar: {profiles: {include: [{type: Exact, match: '('}, {type: Regex, match: '('}]}}";
    for (name, policies, count) in [
        ("no backend", policy("a", ALL, wrong), 1),
        ("another pod", policy("a", "kind: Dataplane, labels: {app: web}", wrong), 1),
        ("another decides", policy("a", ALL, wrong) + &policy("b", "kind: Dataplane", wrong), 2),
    ] {
        let documents = here("10.0.0.2", REDIRECTED) + &policies;
        let errors = compiled(&["--dataplane=here"], &documents).unwrap_err();
        assert_eq!(errors.len(), count, "{name}: {errors:?}");
        let start = "mesh.yaml: document 2 (MeshMetric a): spec.default.sidecar.profiles.include[1].match: found \"(\"";
        assert!(errors[0].starts_with(start), "{name}: {errors:?}");
    }
}

#[test]
fn a_certificate_of_the_users_own_is_a_warning() {
    let plan =
        plan(&policy("a", ALL, "backends: [{type: Prometheus, prometheus: {tls: {mode: ProvidedTLS}}}]"));
    let warnings: Vec<_> = plan.warnings.iter().filter(|line| line.contains("ProvidedTLS")).collect();
    assert_eq!(warnings.len(), 1, "{:?}", plan.warnings);
}

fn mesh(conf: &str) -> String {
    format!(
        "---\n{{type: Mesh, name: default, metrics: {{enabledBackend: p, backends: [{{name: p, type: prometheus, conf: {{{conf}}}}}]}}}}\n"
    )
}

#[test]
fn a_mesh_turns_metrics_on_where_no_mesh_metric_is_about_the_pod() {
    let ports = |plan: &Plan| {
        let ports = plan.scrape.iter().flat_map(|scrape| &scrape.ports);
        ports.map(|port| format!("{} {}", port.listen.port(), port.paths.join(","))).collect::<Vec<_>>()
    };
    for (name, documents, expected) in [
        ("the Mesh", mesh(""), vec!["5670 /metrics"]),
        ("its port", mesh("port: 1234, path: /m"), vec!["1234 /m"]),
        ("a MeshMetric", mesh("port: 1234") + &policy("a", ALL, PORT), vec!["5670 /metrics"]),
        ("a MeshMetric that closes", mesh("") + &policy("a", ALL, "backends: []"), vec![]),
        (
            "a MeshMetric about others",
            mesh("port: 1234") + &policy("a", "kind: Dataplane, labels: {app: web}", PORT),
            vec!["1234 /metrics"],
        ),
        ("a backend that is off", mesh("").replace("enabledBackend: p, ", ""), vec![]),
        ("no settings", mesh("").replace(", conf: {}", ""), vec!["5670 /metrics"]),
    ] {
        let plan = plan(&documents);
        assert_eq!(ports(&plan), expected, "{name}");
    }
    let on = plan(&mesh("aggregate: [{name: a, port: 8081}, {name: b, port: 8082, enabled: false}]"));
    assert_eq!(&*listener(&on, "_kuma:metrics:prometheus").name, "_kuma:metrics:prometheus");
    let scrape = on.scrape.unwrap();
    let applications: Vec<_> =
        scrape.applications.iter().map(|one| (&*one.name, one.port, &*one.path)).collect();
    assert_eq!(applications, [("a", 8081, "/metrics")]);
    assert_eq!((scrape.selection.profile, scrape.selection.include_unused), (Profile::All, true));
    // As in Kuma a port that is taken is none.
    let taken = plan(&mesh("port: 80"));
    assert_eq!(taken.scrape, None);
    let told = taken
        .warnings
        .iter()
        .any(|one| one.starts_with("Mesh default: metrics have no port, as 80 is that of "));
    assert!(told, "{:?}", taken.warnings);
}

#[test]
fn the_pods_dataplane_changes_what_its_mesh_says() {
    let own = here("10.0.0.2", REDIRECTED)
        .replace("networking:", "metrics: {type: prometheus, conf: {port: 1234, aggregate: [{name: a, enabled: false}]}}, networking:");
    let documents = format!("{own}{}", mesh("path: /m, aggregate: [{name: a, port: 8081}]"));
    let plan = compiled(&["--dataplane=here"], &documents).unwrap();
    let scrape = plan.scrape.unwrap();
    assert_eq!((scrape.ports[0].listen.port(), &scrape.ports[0].paths[..]), (1234, &["/m".to_owned()][..]));
    assert_eq!(scrape.applications, []);
    // Without the Mesh it says nothing.
    assert_eq!(compiled(&["--dataplane=here"], &own).unwrap().scrape, None);
}

#[test]
fn permissions_choose_the_port_of_a_mesh_by_its_tags() {
    let mtls = |tags: &str| {
        mesh(tags).replace("metrics:", "mtls: {enabledBackend: ca, backends: [{name: ca}]}, metrics:")
    };
    let permission = |service: &str| {
        format!(
            "---\n{{type: TrafficPermission, name: p, sources: [{{match: {{kuma.io/service: prometheus}}}}], destinations: [{{match: {{kuma.io/service: {service}}}}}]}}\n"
        )
    };
    for (documents, restricted) in [
        (mtls("") + &permission("dataplane-metrics"), [true, false]),
        (mtls("tags: {kuma.io/service: own}") + &permission("dataplane-metrics"), [false, false]),
        (mtls("tags: {kuma.io/service: own}") + &permission("own"), [true, false]),
        (mtls("") + &permission("here"), [false, true]),
        (mtls("") + &permission("'*'"), [true, true]),
    ] {
        let plan = plan(&documents);
        let mtls = plan.mtls.as_ref().unwrap();
        let of = |name: &str| mtls.gate(listener(&plan, name)).permissions.restricted;
        assert_eq!([of("_kuma:metrics:prometheus"), of("inbound:10.0.0.2:80")], restricted, "{documents}");
        assert_eq!(mtls.of_metrics().mode, TlsMode::Strict);
    }
}
