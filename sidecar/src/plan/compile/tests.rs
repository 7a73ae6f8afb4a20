// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::options::Options;
use crate::options::config::Thresholds;
use clap::Parser;
use culvert_mesh::load::Loaded;
use std::path::Path;
use std::time::{Duration, Instant};

fn config(arguments: &[&str]) -> Config {
    let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(arguments);
    Options::try_parse_from(arguments).unwrap().check().unwrap()
}

fn read(arguments: &[&str], documents: &str) -> (Config, Loaded) {
    let config = config(arguments);
    let loaded = read_with_mesh(&config, documents, "mesh.yaml");
    (config, loaded)
}

fn plan(arguments: &[&str], documents: &str) -> Plan {
    let (config, loaded) = read(arguments, documents);
    assert_eq!(loaded.errors, []);
    compile(&config, &loaded.found).unwrap()
}

fn errors(arguments: &[&str], documents: &str) -> Vec<String> {
    let (config, loaded) = read(arguments, documents);
    let mut errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
    if let Err(more) = compile(&config, &loaded.found) {
        errors.extend(more.iter().map(ToString::to_string));
    }
    assert!(!errors.is_empty(), "{documents}");
    errors
}

fn cluster<'p>(plan: &'p Plan, name: &str) -> &'p ClusterPlan {
    plan.cluster_named(name).unwrap_or_else(|| panic!("no cluster {name}"))
}

fn listener<'p>(plan: &'p Plan, name: &str) -> &'p ListenerPlan {
    plan.listeners
        .iter()
        .find(|listener| &*listener.name == name)
        .unwrap_or_else(|| panic!("no listener {name}"))
}

macro_rules! page {
    ($name:literal) => {
        include_str!(concat!("../../../tests/documents/", $name, ".yaml"))
    };
}

/// Checks the plan of both spellings of one page's YAML.
fn in_both_spellings(kubernetes: &str, universal: &str, check: impl Fn(&Plan)) {
    for text in [kubernetes, universal] {
        check(&plan(&[], text));
    }
}

#[test]
fn this_behavior_can_be_changed_by_setting_the_networking_outbound_passthrough_in_the_mesh_resource() {
    let (kubernetes, universal) = (page!("mesh-passthrough.kubernetes"), page!("mesh-passthrough.universal"));
    in_both_spellings(kubernetes, universal, |plan| {
        assert!(!plan.passthrough);
        for family in ["ipv4", "ipv6"] {
            // The listener stays, and has nowhere to go.
            assert_eq!(listener(plan, &format!("outbound:passthrough:{family}")).cluster, None);
            assert!(listener(plan, &format!("inbound:passthrough:{family}")).cluster.is_some());
        }
    });
    assert!(
        plan(&[], "type: Mesh\nname: default\n").passthrough,
        "the passthrough mode is enabled by default"
    );
}

#[test]
fn proxy_template_to_change_the_defaults_of_the_circuit_breaker() {
    let defaults =
        Thresholds { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3 };
    let changed =
        Thresholds { max_connections: 2048, max_pending_requests: 2048, max_requests: 2048, max_retries: 4 };
    in_both_spellings(
        page!("proxy-template-circuit-breaker.kubernetes"),
        page!("proxy-template-circuit-breaker.universal"),
        |plan| {
            assert_eq!(cluster(plan, "outbound:passthrough:ipv4").thresholds, changed);
            assert_eq!(cluster(plan, "outbound:passthrough:ipv6").thresholds, defaults);
            assert_eq!(cluster(plan, "inbound:passthrough:ipv4").thresholds, defaults);
            assert_eq!(plan.warnings, [] as [&str; 0]);
        },
    );
}

#[test]
fn proxy_template_to_change_the_defaults_of_the_timeouts() {
    in_both_spellings(
        page!("proxy-template-timeouts.kubernetes"),
        page!("proxy-template-timeouts.universal"),
        |plan| {
            for (name, connect, idle) in
                [("outbound:passthrough:ipv4", 99, 3), ("outbound:passthrough:ipv6", 10, 1)]
            {
                assert_eq!(cluster(plan, name).connect_timeout, Some(Duration::from_secs(connect)), "{name}");
                assert_eq!(listener(plan, name).idle_timeout, Some(Duration::from_hours(idle)), "{name}");
            }
        },
    );
}

#[test]
fn here_we_specify_that_we_will_listen_on_the_address_10_119_249_39_15000() {
    let plan = plan(&["--dataplane=demo-app"], page!("dataplane.universal"));
    let listener = listener(&plan, "inbound:10.119.249.39:15000");
    assert!(listener.binds);
    assert_eq!(listener.address, "10.119.249.39:15000".parse().unwrap());
    assert_eq!(listener.service.as_deref(), Some("app"));
    let application = Discovery::Application { address: "127.0.0.1:5000".parse().unwrap(), source: None };
    assert_eq!(cluster(&plan, listener.cluster.as_deref().unwrap()).upstream, application);
}

const TRANSPARENT: &str = "transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";

fn dataplane(name: &str, networking: &str) -> String {
    format!("---\n{{type: Dataplane, name: {name}, networking: {{{networking}}}}}\n")
}

#[test]
fn without_a_redirect_the_application_is_at_the_inbounds_own_address_or_where_that_is_taken_on_loopback() {
    for (networking, name, application) in [
        ("port: 80, servicePort: 8080", "localhost:8080", "10.0.0.2:8080"),
        ("port: 80, address: 10.0.0.9, servicePort: 8080", "localhost:8080", "10.0.0.9:8080"),
        ("port: 80, servicePort: 8080, serviceAddress: 127.0.0.1", "localhost:8080", "127.0.0.1:8080"),
        ("port: 80", "localhost:80", "127.0.0.1:80"),
        ("port: 80, servicePort: 80", "localhost:80", "127.0.0.1:80"),
    ] {
        let inbound = format!("address: 10.0.0.2, inbound: [{{{networking}, tags: {{kuma.io/service: a}}}}]");
        let plan = plan(&["--dataplane=app"], &dataplane("app", &inbound));
        let expected = Discovery::Application { address: application.parse().unwrap(), source: None };
        assert_eq!(cluster(&plan, name).upstream, expected, "{networking}");
    }
}

#[test]
fn an_application_that_is_another_inbound_of_the_sidecar_is_an_error() {
    let tags = "tags: {kuma.io/service: a}";
    let two = |more: &str| {
        dataplane(
            "app",
            &format!(
                "address: 10.0.0.2{more}, inbound: [{{port: 80, servicePort: 81, {tags}}}, {{port: 81, servicePort: 80, {tags}}}]"
            ),
        )
    };
    let errors = errors(&["--dataplane=app"], &two(""));
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(
        errors[0].contains("networking.inbound[0]: found the application at 10.0.0.2:81, another inbound"),
        "{errors:#?}"
    );
    plan(&["--dataplane=app"], &two(&format!(", {TRANSPARENT}")));
}

#[test]
fn where_connections_are_redirected_the_listener_stands_for_the_applications_own_address() {
    let text = dataplane(
        "app",
        &format!(
            "address: 10.244.0.6, {TRANSPARENT}, inbound: [{{port: 5000, tags: {{kuma.io/service: app}}}}]"
        ),
    );
    let plan = plan(&["--dataplane=app"], &text);
    let listener = listener(&plan, "inbound:10.244.0.6:5000");
    assert!(!listener.binds);
    let application =
        Discovery::Application { address: listener.address, source: Some("127.0.0.6".parse().unwrap()) };
    assert_eq!(cluster(&plan, listener.cluster.as_deref().unwrap()).upstream, application);
}

#[test]
fn a_service_has_the_endpoints_of_every_dataplane_with_its_tags_this_one_by_its_own_address() {
    let inbound = |port: u16, more: &str| {
        format!("inbound: [{{port: {port}, tags: {{kuma.io/service: web, version: v{port}}}{more}}}]")
    };
    let outbound = "outbound: [{port: 1000, tags: {kuma.io/service: web}}, {port: 1001, tags: {kuma.io/service: web, version: v81}}, \
         {port: 1002, tags: {kuma.io/service: nobody}}]";
    let text = [
        dataplane("here", &format!("address: 10.0.0.1, advertisedAddress: 192.0.2.1, {}, {outbound}", inbound(80, ""))),
        dataplane("b", &format!("address: 10.0.0.3, {}", inbound(81, ""))),
        dataplane("a", &format!("address: 10.0.0.2, advertisedAddress: 192.0.2.2, {}", inbound(82, ""))),
        dataplane("sick", &format!("address: 10.0.0.4, {}", inbound(83, ", health: {ready: false}"))),
        dataplane("gone", &format!("address: 10.0.0.5, {}", inbound(84, ", state: NotReady"))),
        "---\n{type: Dataplane, mesh: other, name: x, networking: {address: 10.0.0.6, inbound: [{port: 1, tags: {kuma.io/service: web}}]}}\n".into(),
    ]
    .concat();
    let plan = plan(&["--dataplane=here"], &text);
    let endpoints = |name: &str| match &cluster(&plan, name).upstream {
        Discovery::Endpoints(endpoints) => endpoints
            .iter()
            .map(|one| format!("{} {}", one.address, one.member.dataplane))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(endpoints("web"), ["10.0.0.1:80 here", "10.0.0.3:81 b", "192.0.2.2:82 a"]);
    assert_eq!(endpoints("web[version=v81]"), ["10.0.0.3:81 b"]);
    assert_eq!(endpoints("nobody"), [] as [&str; 0]);
    assert_eq!(plan.warnings.len(), 1);
    let listener = listener(&plan, "outbound:127.0.0.1:1000");
    assert!(listener.binds && listener.service.as_deref() == Some("web"));
    let member = &plan.members[&"192.0.2.2:82".parse::<SocketAddr>().unwrap()];
    assert_eq!((&*member.dataplane, member.service()), ("a", "web"));
    assert!(
        plan.members.contains_key(&"10.0.0.2:82".parse::<SocketAddr>().unwrap()),
        "by its own address too"
    );
}

#[test]
fn the_output_of_kubectl_loads() {
    let text = "
apiVersion: v1
kind: List
items:
- apiVersion: kuma.io/v1alpha1
  kind: Mesh
  metadata: {name: default, uid: 1, resourceVersion: '5', managedFields: [{manager: x}]}
  spec: {networking: {outbound: {passthrough: false}}}
  status: {}
- apiVersion: kuma.io/v1alpha1
  kind: Dataplane
  mesh: default
  metadata: {name: app, namespace: demo}
  spec: {networking: {address: 10.0.0.2, inbound: [{port: 80, health: {ready: true}, tags: {kuma.io/service: app}}],
    transparentProxying: {ipFamilyMode: DualStack, redirectPortInbound: 15006, redirectPortInboundV6: 15010, redirectPortOutbound: 15001, directAccessServices: ['*']}}}
metadata: {resourceVersion: ''}
";
    let kumactl = "total: 1\nnext: null\nitems:\n- {type: Mesh, name: default, networking: {outbound: {passthrough: false}}, creationTime: '2026-01-01T00:00:00Z'}\n";
    assert!(!plan(&[], kumactl).passthrough);
    for name in ["app", "app.demo"] {
        assert!(!plan(&[&format!("--dataplane={name}")], text).passthrough);
    }
    assert!(errors(&["--dataplane=app.other"], text)[0].contains("there are: app"));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = "
type: Mesh
name: default
networking: {outbound: {passthrough: 'no'}}
mtls: {enabledBackend: ca-1}
---
kind: Dataplane
apiVersion: kuma.io/v2
metadata: {}
spec: {networking: {address: 10.0.0, inbound: [{port: 0, servicePort: 5, tags: {}}], outbound: [{tags: {kuma.io/service: '*'}}]}}
---
type: MeshOPA
name: x
---
- 1
---
a: [
---
type: ProxyTemplate
name: p
selectors: [{match: {kuma.io/service: '*'}}]
conf:
  imports: [gateway-proxy]
  modifications:
  - listener: {operation: add}
  - cluster: {operation: add, match: {name: x, labels: {}}, value: 'name: x'}
  - cluster: {operation: patch, value: 'lb_policy: RANDOM'}
  - networkFilter: {operation: patch, match: {name: envoy.filters.network.rbac}, value: '{name: x, typedConfig: {idleTimeout: soon}}'}
---
type: MeshAccessLog
name: l
spec:
  to: [{targetRef: {kind: MeshService}, default: {backends: [{type: Tcp, tcp: {address: log.example}}, {type: File}, {type: OpenTelemetry}]}}]
";
    insta::assert_snapshot!(errors(&[], text).join("\n"));
}

#[test]
fn a_kind_that_culvert_has_not_is_told_with_the_one_that_does_it() {
    for (kind, hint) in [("MeshOPA", "a decision of OPA"), ("MeshHTTPRoute", "is not built yet")] {
        let errors = errors(&[], &format!("{{type: {kind}, mesh: default, name: x, conf: {{}}}}"));
        let start =
            format!("mesh.yaml: document 1 ({kind} x): type: found \"{kind}\"; allowed: Mesh, Dataplane, ");
        assert!(errors.len() == 1 && errors[0].starts_with(&start) && errors[0].contains(hint), "{errors:?}");
    }
}

#[test]
fn what_fields_say_together_is_checked() {
    let same = dataplane("x", "address: 10.0.0.1");
    let inbound = |more: &str| {
        dataplane(
            "app",
            &format!("address: 10.0.0.2, inbound: [{{port: 80, tags: {{kuma.io/service: a}}, {more}}}]"),
        )
    };
    for (name, arguments, text, expected) in [
        ("twice", &[][..], format!("{same}{same}"), "name: found the same Dataplane again, after mesh.yaml: document 1"),
        ("not there", &["--dataplane=y"], same.clone(), "--dataplane y: no document is a Dataplane of this name in mesh \"default\" (--mesh); there are: x"),
        ("no mesh", &["--dataplane=x", "--mesh=prod"], same.clone(), "in mesh \"prod\" (--mesh); there is none in that mesh"),
        ("a way to others", &["--dataplane=app"], inbound("serviceAddress: 10.0.0.3"), "networking.inbound[0].serviceAddress: found \"10.0.0.3\"; allowed: 127.0.0.1, ::1, or"),
        ("loopback of another kind", &["--dataplane=app"], inbound("serviceAddress: 127.0.0.2"), "serviceAddress: found \"127.0.0.2\""),
        ("the sidecar as application", &["--dataplane=app"], inbound("servicePort: 15006"), "networking.inbound[0].servicePort: found 15006; allowed: a port that is not one of"),
        ("itself", &["--dataplane=app"], inbound("serviceAddress: 10.0.0.2"), "networking.inbound[0].serviceAddress: found \"10.0.0.2\" with the listener's port"),
        ("the wildcard", &["--dataplane=app"], inbound("address: '::'"), "networking.inbound[0].address: found \"::\"; allowed: the address of one host"),
        ("other ports", &["--dataplane=app", "--inbound-port=7006"], dataplane("app", &format!("address: 10.0.0.2, {TRANSPARENT}")), "networking.transparentProxying.redirectPortInbound: found 15006; allowed: 7006, which is --inbound-port"),
        ("for peers", &["--dataplane=app"], dataplane("app", "address: 10.0.0.2, outbound: [{port: 1, address: 10.0.0.2, tags: {kuma.io/service: a}}]"), "networking.outbound[0].address: found \"10.0.0.2\"; allowed: an address of loopback"),
        ("one port twice", &[], dataplane("app", "address: 10.0.0.2, outbound: [{port: 1, tags: {kuma.io/service: a}}, {port: 1, tags: {kuma.io/service: b}}]"), "networking.outbound[1].port: found 127.0.0.1:1 again"),
        ("twice, by kubectl", &[], "apiVersion: kuma.io/v1alpha1\nkind: Mesh\nmetadata: {name: a}\n---\n".repeat(2), "document 2 (Mesh a): metadata.name: found the same Mesh again, after mesh.yaml: document 1"),
        ("two of a name", &["--dataplane=x"], "{kind: List, items: [{apiVersion: kuma.io/v1alpha1, kind: Dataplane, metadata: {name: x, namespace: a}, spec: {networking: {address: 10.0.0.1}}}, {apiVersion: kuma.io/v1alpha1, kind: Dataplane, metadata: {name: x, namespace: b}, spec: {networking: {address: 10.0.0.1}}}]}".into(), "--dataplane x: found several Dataplanes of this name in mesh \"default\"; allowed: one of x.a, x.b"),
        ("no backend", &[], "{type: Mesh, name: default, logging: {defaultBackend: f, backends: [{name: g, type: file, conf: {}}]}}".into(), "logging.defaultBackend: found \"f\"; allowed: a backend of the list: g"),
    ] {
        let errors = errors(arguments, &text);
        assert!(errors.iter().any(|error| error.contains(expected)), "{name}: {errors:#?}");
    }
}

#[test]
fn of_several_templates_the_one_holds_whose_selector_says_most() {
    let template = |name: &str, selector: &str, seconds: u32| {
        format!(
            "---\ntype: ProxyTemplate\nname: {name}\nselectors: [{{match: {{{selector}}}}}]\nconf: {{imports: [default-proxy], modifications: \
             [{{cluster: {{operation: patch, match: {{origin: transparent}}, value: 'connect_timeout: {seconds}s'}}}}]}}\n"
        )
    };
    let app = dataplane(
        "app",
        "address: 10.0.0.2, inbound: [{port: 80, servicePort: 81, tags: {kuma.io/service: app, team: blue}}]",
    );
    let all = [
        app,
        template("b-any", "kuma.io/service: '*'", 1),
        template("a-any", "kuma.io/service: '*'", 2),
        template("blue", "kuma.io/service: '*', team: blue", 3),
        template("app", "kuma.io/service: app, team: blue", 4),
        template("green", "kuma.io/service: app, team: green, zone: x", 5),
    ];
    let seconds = |arguments: &[&str], documents: &[String]| {
        let plan = plan(arguments, &documents.concat());
        let timeout = cluster(&plan, "inbound:passthrough:ipv6").connect_timeout.unwrap();
        // Of the application's own cluster, which comes from its inbound, the template says nothing.
        if !arguments.is_empty() {
            assert_eq!(cluster(&plan, "localhost:81").connect_timeout, Some(Duration::from_secs(10)));
        }
        timeout.as_secs()
    };
    assert_eq!(seconds(&["--dataplane=app"], &all), 4);
    assert_eq!(seconds(&["--dataplane=app"], &all[..4]), 3);
    assert_eq!(seconds(&["--dataplane=app"], &all[..3]), 2);
    assert_eq!(seconds(&[], &all), 2, "without a Dataplane only selectors that take any value fit");
}

#[test]
fn a_patch_that_fits_nothing_is_a_warning() {
    let text = "{type: ProxyTemplate, name: p, selectors: [{match: {kuma.io/service: '*'}}], conf: {imports: [default-proxy], \
        modifications: [{cluster: {operation: patch, match: {name: outbound:passthrough:ipv5}, value: 'connect_timeout: 1s'}}]}}";
    let warnings = plan(&[], text).warnings;
    assert!(warnings[0].contains("conf.modifications[0] changes nothing"), "{warnings:?}");
}

#[test]
fn what_does_not_hold_because_nobody_knows_this_pod_is_a_warning() {
    let template = |selector: &str| {
        format!(
            "{{type: ProxyTemplate, name: p, selectors: [{{match: {{kuma.io/service: {selector}}}}}], conf: {{imports: [default-proxy]}}}}\n---\n"
        )
    };
    let log = |target: &str| {
        format!(
            "{{type: MeshAccessLog, name: l, spec: {{targetRef: {{{target}}}, rules: [{{default: {{backends: []}}}}]}}}}\n---\n"
        )
    };
    let app = "{type: Dataplane, name: app, networking: {address: 10.0.0.2}}\n";
    for (arguments, documents, expected) in [
        (&[][..], template("app"), Some("ProxyTemplate p chooses pods, and without --dataplane")),
        (&[], template("'*'"), None),
        (&[], log("kind: MeshService, name: app"), Some("MeshAccessLog l chooses pods")),
        (&[], log("kind: Mesh"), None),
        (&["--dataplane=app"], log("kind: MeshService, name: web") + &template("web"), None),
    ] {
        let warnings = plan(arguments, &format!("{documents}{app}")).warnings;
        assert_eq!(warnings.len(), usize::from(expected.is_some()), "{warnings:?}");
        assert!(warnings.iter().all(|warning| warning.starts_with(expected.unwrap_or("-"))), "{warnings:?}");
    }
}

#[test]
fn a_mesh_that_is_lost_is_an_error_and_one_that_may_be_wrong_is_none() {
    const APP: &str = "{type: Dataplane, name: app, networking: {address: 10.0.0.2}}";
    let no_mesh = |arguments: &[&str], documents: &str| {
        let (config, mut loaded) = (config(arguments), Loaded::default());
        loaded.add(&config.context(), documents, Path::new("mesh.yaml"));
        let errors = compile(&config, &loaded.found).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).find(|error| error.starts_with("--mesh "))
    };
    let lost =
        |mesh: &str, there: &str| Some(format!("--mesh {mesh}: no document is a Mesh of this name; {there}"));
    for (arguments, documents, expected) in [
        (&[][..], "", lost("default", "there is no Mesh")),
        (&[], APP, lost("default", "there is no Mesh")),
        (&[], "{type: Mesh, name: prod}", lost("default", "there are: prod")),
        (&["--mesh=prod"], "{type: Mesh, name: default}", lost("prod", "there are: default")),
        (&[], "{kind: List, items: []}", lost("default", "there is no Mesh")),
        (&[], "{type: MeshTLS, name: default, spec: {rules: []}}", lost("default", "there is no Mesh")),
        (&[], "{type: Mesh, name: default}", None),
        // These are errors by themselves, and may be the Mesh.
        (&[], "{type: Mesh, name: default, mtls: 5}", None),
        (&[], "{type: Mash, name: default}", None),
        (&[], "{type: Mesh, name: 5}", None),
        (&[], "type: Mesh\nname: default\nmtls: [", None),
    ] {
        assert_eq!(no_mesh(arguments, documents), expected, "{arguments:?} {documents}");
    }
    // Without documents and identity there is no mesh to lose.
    let bare = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
    assert!(compile(&bare, &Default::default()).is_ok());
}

#[test]
fn an_inbound_without_tags_is_served_and_belongs_to_no_service() {
    let text = "{type: Dataplane, name: app, labels: {app: web, kuma.io/zone: east}, networking: {address: 10.0.0.2, inbound: \
                [{port: 80, servicePort: 8080, name: http, protocol: http}], outbound: [{port: 1, tags: {kuma.io/service: web}}]}}
---
{type: MeshTrafficPermission, name: web, spec: {targetRef: {kind: Dataplane, labels: {app: web}, sectionName: http},
  rules: [{default: {deny: [{spiffeID: {type: Exact, value: spiffe://default/x}}]}}]}}
---
{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, type: builtin}]}}
";
    let plan = plan(&["--dataplane=app"], text);
    assert_eq!(listener(&plan, "inbound:10.0.0.2:80").service, None);
    assert_eq!(cluster(&plan, "localhost:8080").origin, Origin::Inbound);
    assert_eq!(cluster(&plan, "web").upstream, Discovery::Endpoints(vec![]));
    let address = "10.0.0.2:80".parse().unwrap();
    assert_eq!(plan.members[&address].service(), "");
    assert_eq!((plan.zone.as_deref(), plan.workload.as_deref(), plan.service), (Some("east"), None, None));
    let mtls = plan.mtls.unwrap();
    assert_ne!(mtls.inbounds[&address].permissions, mtls.others.permissions, "a policy chose it by labels");
}

#[test]
fn five_thousand_dataplanes_load_in_less_than_a_second() {
    let mut text = String::new();
    for n in 0..5000 {
        let address = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        text.push_str(&format!(
            "---\ntype: Dataplane\nmesh: default\nname: web-{n}\nnetworking:\n  address: {address}\n  inbound:\n  - port: 8080\n    \
             servicePort: 80\n    tags:\n      kuma.io/service: web-{}\n      kuma.io/protocol: http\n  outbound:\n  - port: 1000\n    \
             tags: {{kuma.io/service: web-1}}\n",
            n % 50
        ));
    }
    let start = Instant::now();
    let plan = plan(&["--dataplane=web-0"], &text);
    let took = start.elapsed();
    assert_eq!(plan.members.len(), 5000);
    // The benchmark has the figure; this bound holds for an unoptimised build on a busy machine.
    assert!(took < Duration::from_secs(20), "{took:?}");
}
