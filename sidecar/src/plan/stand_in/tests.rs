use crate::net::addrs::{Direction, OrigDst};
use crate::options::Options;
use crate::options::config::Config;
use crate::plan::load::{PlanSources, read};
use crate::plan::names::Standing;
use crate::plan::stand_in::StandIns;
use crate::plan::{Plan, TlsMode};
use crate::{Registry, route};
use clap::Parser;
use culvert_mesh::load::Text;
use std::net::SocketAddr;
use std::path::PathBuf;

const POD: [&str; 5] = [
    "--pod-name=web-1",
    "--pod-namespace=shop",
    "--pod-ip=10.0.0.2,fd00::2",
    "--service-account=web",
    "--pod-ports=http:8080/http,9090,15020",
];
const CONTROL: [&str; 2] = ["--control=https://controller", "--control-ca=/ca.crt"];

fn config(arguments: &[&[&str]]) -> Config {
    let arguments = std::iter::once("culvert-sidecar").chain(arguments.concat());
    let mut config = Options::try_parse_from(arguments).unwrap().check().unwrap();
    config.api_server = Some("10.96.0.1:443".parse().unwrap());
    config
}

fn plan(config: &Config, texts: &[(&str, &str)], had_mesh: bool) -> Result<Plan, Vec<String>> {
    let text = |(name, text): &(&str, &str)| Text { name: (*name).into(), text: (*text).into() };
    let texts: Vec<_> = texts.iter().map(text).collect();
    let from = PlanSources { texts: &texts, paths: &config.resources, had_mesh, ..PlanSources::default() };
    let words = |errors: Vec<_>| errors.iter().map(ToString::to_string).collect();
    read(config, &from, &Standing::default()).map(|(plan, _)| plan).map_err(words)
}

const MESH: (&str, &str) = (
    "control: Mesh/default",
    "{type: Mesh, name: default, mtls: {enabledBackend: ca, backends: [{name: ca, mode: PERMISSIVE}]}}",
);

fn way(plan: &Plan, original: &str) -> Option<String> {
    let running = Registry::default().open(plan.clone());
    let original = OrigDst::new(original.parse().unwrap());
    let route = route(&running, Direction::Outbound, original);
    route.cluster.map(|cluster| cluster.plan.name.to_string())
}

#[test]
fn without_a_word_of_the_controller_the_mesh_is_closed_but_for_the_api_server() {
    let config = config(&[&POD, &CONTROL]);
    let plan = plan(&config, &[], false).unwrap();
    assert_eq!(plan.stand_ins, StandIns { mesh: true, dataplane: true });
    assert_eq!((plan.passthrough, plan.documents), (false, 0));
    let mtls = plan.mtls.as_ref().unwrap();
    assert_eq!(mtls.mode(), TlsMode::Strict);
    assert_eq!(way(&plan, "192.0.2.1:443"), None);
    assert_eq!(way(&plan, "10.96.0.1:443").as_deref(), Some("kube_api_server_bypass"));
}

#[test]
fn the_pod_is_a_member_with_a_listener_for_each_port_and_address() {
    let config = config(&[&POD, &CONTROL]);
    let plan = plan(&config, &[MESH], false).unwrap();
    assert_eq!(plan.stand_ins, StandIns { mesh: false, dataplane: true });
    let inbound: Vec<_> = plan.listeners.iter().map(|listener| &*listener.name).collect();
    // 15020 is the sidecar's own.
    for name in ["10.0.0.2:8080", "[fd00::2]:8080", "10.0.0.2:9090", "[fd00::2]:9090"] {
        assert!(inbound.contains(&&*format!("inbound:{name}")), "{name}: {inbound:?}");
    }
    assert!(!inbound.iter().any(|name| name.ends_with(":15020")), "{inbound:?}");
    assert_eq!((plan.mtls.as_ref().unwrap().mode(), plan.passthrough), (TlsMode::Permissive, true));
    assert!(plan.mtls.unwrap().named_only);
}

#[test]
fn ports_that_are_not_known_are_not_closed() {
    let config = config(&[&POD[..4], &CONTROL]);
    let plan = plan(&config, &[MESH], false).unwrap();
    assert!(!plan.mtls.unwrap().named_only);
}

#[test]
fn policies_choose_the_pod_by_labels_namespace_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let labels = folder.path().join("labels");
    std::fs::write(&labels, "app=\"web\"\nk8s.kuma.io/namespace=\"forged\"\n").unwrap();
    let option = format!("--pod-labels={}", labels.display());
    let config = config(&[&POD, &CONTROL, &[&option]]);
    for (target, is_meant) in [
        ("labels: {app: web}", true),
        ("labels: {app: web, k8s.kuma.io/namespace: shop}", true),
        ("labels: {k8s.kuma.io/namespace: forged}", false),
        ("labels: {k8s.kuma.io/service-account: web}", true),
        ("name: web-1, namespace: shop", true),
        ("name: web-2, namespace: shop", false),
        ("labels: {app: api}", false),
    ] {
        let policy = format!(
            "{{type: MeshPassthrough, name: p, spec: {{targetRef: {{kind: Dataplane, {target}}}, default: {{passthroughMode: None}}}}}}"
        );
        let plan = plan(&config, &[MESH, ("control: MeshPassthrough/p", &policy)], false);
        assert_eq!(plan.unwrap().passthrough, !is_meant, "{target}");
    }
    std::fs::remove_file(&labels).unwrap();
    let error = plan(&config, &[MESH], false).unwrap_err();
    assert!(error[0].starts_with("--pod-labels "), "{error:?}");
}

#[test]
fn a_document_replaces_what_stands_in_for_it() {
    let own = "{apiVersion: kuma.io/v1alpha1, kind: Dataplane, mesh: default, metadata: {name: web-1, namespace: shop}, spec: \
               {networking: {address: 10.0.0.2, inbound: [{port: 7000, tags: {kuma.io/service: web}}]}}}";
    let other = own.replace("web-1", "web-2").replace("10.0.0.2", "10.0.0.3");
    for dataplane in [&[][..], &["--dataplane=web-1"], &["--dataplane=web-1.shop"]] {
        let config = config(&[&POD, &CONTROL, dataplane]);
        let made = plan(&config, &[MESH, ("control: Dataplane/web-1.shop", own)], false).unwrap();
        assert_eq!(made.stand_ins, StandIns::default(), "{dataplane:?}");
        assert_eq!((made.service.as_deref(), made.documents), (Some("web"), 2));
        let made = plan(&config, &[MESH, ("control: Dataplane/web-2.shop", &other)], false).unwrap();
        assert!(made.stand_ins.dataplane, "{dataplane:?}");
        let member: SocketAddr = "10.0.0.3:7000".parse().unwrap();
        assert!(made.members.contains_key(&member));
    }
}

#[test]
fn a_mesh_that_was_there_and_is_lost_is_an_error() {
    let config = config(&[&POD, &CONTROL]);
    let error = plan(&config, &[], true).unwrap_err();
    assert!(error[0].starts_with("--mesh default: no document is a Mesh"), "{error:?}");
    // One that cannot be read is no reason to stand in for it.
    let error = plan(&config, &[("control: Mesh/default", "{type: Mesh, name: default, mtls: 5}")], false);
    let error = error.unwrap_err();
    assert!(error.len() == 1 && error[0].starts_with("control: Mesh/default: document 1"), "{error:?}");
}

#[test]
fn the_volume_of_the_controllers_documents_may_be_empty_and_without_a_controller_it_may_not() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path().to_owned(), folder.path().join("gone")] {
        let mut config = config(&[&POD, &CONTROL]);
        config.resources = Vec::from([PathBuf::from(&path)]);
        assert!(plan(&config, &[], false).unwrap().stand_ins.mesh);
        config.control = None;
        assert!(plan(&config, &[], false).is_err());
    }
}
