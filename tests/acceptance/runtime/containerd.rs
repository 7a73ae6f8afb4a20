// SPDX-License-Identifier: Apache-2.0
//! containerd's CRI, as a kubelet calls it, with the chain bridge → portmap → culvert-cni.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use culvert_tests::pod::landing::original_destination;
use culvert_tests::pod::plugin::ANNOTATIONS;
use culvert_tests::pod::sidecar::UID;
use culvert_tests::runtime::{Call, Container, Containerd, PAGE, Pod, SIDECAR, World};
use culvert_tests::server::{Behaviour, Server};
use culvert_tests::until::until_some;
use culvert_tests::{Family, Landed, eventually, http, server};
use serde_json::{Value, json};

use super::{leaving_nothing, leaving_nothing_after_a_panic};

#[test]
fn pods_run_as_annotated_at_cni_version_0_3_1() -> Result<()> {
    pods_run_as_annotated("0.3.1")
}

#[test]
fn pods_run_as_annotated_at_cni_version_0_4_0() -> Result<()> {
    pods_run_as_annotated("0.4.0")
}

#[test]
fn pods_run_as_annotated_at_cni_version_1_0_0() -> Result<()> {
    pods_run_as_annotated("1.0.0")
}

/// From its start to ready, on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// The node's default, which holds for onboarded pods only.
fn entry() -> Value {
    json!({ "redirect": { "excludeInboundPorts": "9090" } })
}

/// Three pods at once: one that asks for it, one that says nothing, one that asks in a namespace that is left alone.
fn pods_run_as_annotated(version: &str) -> Result<()> {
    leaving_nothing(
        || Containerd::start(version, &entry()),
        |node| {
            let world: &World = node.as_ref();
            let meshed = node
                .pod("meshed")
                .annotation("culvert.dev/redirect", "enabled")
                .annotation("culvert.dev/exclude-outbound-ports", "8081,8443")
                .annotation("example.com/of-somebody-else", "with = and ; and \"quotes\"")
                .host_port(18080, 8080)
                .host_port(19090, 9090)
                .run()?;
            let plain = node.pod("plain").host_port(28080, 8080).run()?;
            let system = node
                .pod("system")
                .namespace("kube-system")
                .annotation("culvert.dev/redirect", "enabled")
                .run()?;

            assert_eq!(meshed.host().ruleset()?.tables, ["inet culvert"]);
            for pod in [&plain, &system] {
                assert!(pod.host().ruleset()?.is_empty(), "{}", pod.host().ruleset()?);
            }
            let records = world.records()?;
            assert!(records.len() == 1 && records[0].contains(meshed.id()), "{records:?}");
            added_once(world, version, &meshed, "default", "redirected")?;
            added_once(world, version, &plain, "default", "not onboarded")?;
            added_once(world, version, &system, "kube-system", "namespace excluded")?;

            connections_land(world, &meshed, &plain)?;

            for pod in [&meshed, &plain, &system] {
                pod.stop()?;
                // The namespace outlives the pod as long as it is open here.
                assert!(pod.host().ruleset()?.is_empty(), "{}", pod.host().ruleset()?);
            }
            let ids = [&meshed, &plain, &system].map(|pod| pod.id().to_owned());
            for pod in [meshed, plain, system] {
                pod.remove()?;
            }
            for id in ids {
                deleted_twice(world, version, &id)?;
            }
            assert!(world.records()?.is_empty());
            assert!(world.addresses_in_use()?.is_empty());
            // The chain's DEL went on behind ours.
            for port in [18080, 28080] {
                let refused = world.outside.connect((World::node_address(Family::V4), port));
                assert_eq!(refused.map_err(|e| e.kind()).err(), Some(ErrorKind::ConnectionRefused), "{port}");
            }
            Ok(())
        },
    )
}

fn calls_for(world: &World, id: &str) -> Result<Vec<Call>> {
    Ok(world.own_calls()?.into_iter().filter(|call| call.variable("CNI_CONTAINERID") == id).collect())
}

/// The calls of containerd for a new pod, and the plugin's records of them.
fn added_once(world: &World, version: &str, pod: &Pod<'_>, namespace: &str, decision: &str) -> Result<()> {
    let calls = calls_for(world, pod.id())?;
    let [add] = calls.as_slice() else { bail!("other calls than one: {calls:?}") };
    let name = pod.host().name();
    assert_eq!(add.verb(), "ADD", "{name}");
    assert_eq!(add.variable("CNI_IFNAME"), "eth0", "{name}");
    for (argument, value) in [
        ("K8S_POD_NAMESPACE", namespace),
        ("K8S_POD_NAME", name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.id()),
        ("K8S_POD_UID", &format!("uid-of-{name}")),
    ] {
        assert_eq!(add.argument(argument), Some(value), "{name}");
    }
    assert_eq!(add.config["cniVersion"], version, "{name}");
    assert_eq!(add.config["prevResult"]["cniVersion"], version, "{name}");
    // Every annotation, also those of others; `null` where there is none.
    let passed = add.config["runtimeConfig"].get(ANNOTATIONS).context("the capability is not there")?;
    assert_eq!(*passed, pod.annotations(), "{name}");

    let pod_name = format!("pod={namespace}/{name}");
    let logged = world.logged(&["verb=ADD", &pod_name, pod.id(), decision, "result=ok"]);
    assert_eq!(logged.len(), 1, "{name}:\n{}", world.plugin_log());
    Ok(())
}

/// The calls of containerd for a pod that goes: once with its namespace, once more without.
fn deleted_twice(world: &World, version: &str, id: &str) -> Result<()> {
    let calls = calls_for(world, id)?;
    let [add, stop, remove] = calls.as_slice() else { bail!("other calls than three: {calls:?}") };
    for del in [stop, remove] {
        assert_eq!(del.verb(), "DEL");
        assert_eq!(del.config["cniVersion"], version);
        assert_eq!(del.config["runtimeConfig"], add.config["runtimeConfig"]);
    }
    assert_eq!(stop.variable("CNI_NETNS"), add.variable("CNI_NETNS"));
    assert_eq!(stop.config["prevResult"].is_null(), version == "0.3.1", "prevResult came to DEL with 0.4.0");
    assert_eq!(remove.variable("CNI_NETNS"), "");
    assert_eq!(remove.config["prevResult"], Value::Null);
    assert_eq!(world.logged(&["info", "verb=DEL", id, "result=ok"]).len(), 2, "{}", world.plugin_log());
    Ok(())
}

/// Connections of real containers, and to them by way of a port of the node, land where they should.
fn connections_land(world: &World, meshed: &Pod<'_>, plain: &Pod<'_>) -> Result<()> {
    let _outside = [80, 8081]
        .map(|port| world.outside.serve(("::", port), server::http("outside")))
        .into_iter()
        .collect::<Result<Vec<Server>>>()?;
    let sidecar = meshed.host().as_uid(UID);
    let _outbound = sidecar.serve(("::", 15001), tells(Landed::Outbound))?;
    let _inbound = sidecar.serve(("::", 15006), tells(Landed::Inbound))?;
    let (_app, _admin) = (web_server(meshed, 8080)?, web_server(meshed, 9090)?);
    let application = meshed.container("application", 1000, &["/bin/sleep", "1000"])?;
    let root = meshed.container("root", 0, &["/bin/sleep", "1000"])?;
    let proxy = meshed.container("sidecar", UID, &["/bin/sleep", "1000"])?;
    let neighbour = web_server(plain, 8080)?;

    let (is_outside, is_page) = ("outside".to_owned(), PAGE.to_owned());
    for family in Family::BOTH {
        let outside = |port| SocketAddr::from((family.outside(), port));
        let own = meshed.address(family)?;
        let own = |port| SocketAddr::from((own, port));
        let loopback = |port| SocketAddr::from((family.loopback(), port));
        let outbound = |to| Landed::Outbound(to).to_string();
        let inbound = |to| Landed::Inbound(to).to_string();
        for (who, container, to, lands) in [
            ("an application", &application, outside(80), outbound(outside(80))),
            ("an application, where nobody is", &application, outside(9), outbound(outside(9))),
            ("an application in root's name", &root, outside(80), outbound(outside(80))),
            ("an application, excluded port", &application, outside(8081), is_outside.clone()),
            ("an application, loopback", &application, loopback(8080), is_page.clone()),
            ("an application, own address", &application, own(8080), is_page.clone()),
            ("the sidecar", &proxy, outside(80), is_outside.clone()),
            ("a neighbour that is not onboarded", &neighbour, outside(80), is_outside.clone()),
            ("a neighbour", &neighbour, own(8080), inbound(own(8080))),
            ("a neighbour, excluded port", &neighbour, own(9090), is_page.clone()),
        ] {
            let landed = fetch(container, to).with_context(|| format!("{who} to {to}"))?;
            assert_eq!(landed, lands, "{who} to {to}");
        }
        for (what, port, lands) in [
            ("a port of the node", 18080, inbound(own(8080))),
            ("a port of the node, excluded in the pod by the node's default", 19090, is_page.clone()),
            ("a port of the node for a pod that is not onboarded", 28080, is_page.clone()),
        ] {
            let to = (World::node_address(family), port);
            let stream = world.outside.connect(to).with_context(|| format!("{what}, {to:?}"))?;
            let answer = http::get(stream, "/").with_context(|| format!("{what}, {to:?}"))?;
            assert_eq!(words(&answer.body), lands, "{what}, {to:?}");
        }
    }
    Ok(())
}

/// A container that serves [`PAGE`].
fn web_server<'a>(pod: &Pod<'a>, port: u16) -> Result<Container<'a>> {
    let command = ["/bin/httpd", "-f", "-p", &port.to_string(), "-h", "/www"];
    pod.container(&format!("httpd-{port}"), 1000, &command)
}

/// In the sidecar's place: answers by HTTP where the connection landed.
fn tells(landed: fn(SocketAddr) -> Landed) -> impl Behaviour {
    move |stream| {
        let landed = original_destination(&stream).map_or(Landed::Lost, landed);
        server::http(&landed.to_string())(stream)
    }
}

/// The first page of a server, as a container sees it.
fn fetch(container: &Container<'_>, at: SocketAddr) -> Result<String> {
    let done = container.exec(&["wget", "-q", "-O", "-", &format!("http://{at}/")])?;
    if done.code != 0 {
        bail!("{done:?}");
    }
    Ok(words(&done.stdout).to_owned())
}

/// Servers of the lab add what they were asked for, and by whom.
fn words(body: &str) -> &str {
    body.split(": GET /").next().unwrap_or_default()
}

type Annotations<'a> = &'a [(&'a str, &'a str)];

#[test]
fn a_wrong_annotation_fails_the_sandbox_with_its_reason() -> Result<()> {
    const ON: (&str, &str) = ("culvert.dev/redirect", "enabled");
    let rows: [(Annotations<'_>, &[&str]); 4] = [
        (&[("culvert.dev/redirect", "enabeld")], &["culvert.dev/redirect", "enabeld", "enabled", "disabled"]),
        (&[("culvert.dev/redirekt", "enabled")], &["culvert.dev/redirekt"]),
        (
            &[ON, ("culvert.dev/exclude-outbound-ports", "80-")],
            &["culvert.dev/exclude-outbound-ports", "80-"],
        ),
        (&[ON, ("culvert.dev/proxy-uid", "0")], &["culvert.dev/proxy-uid", "4294967294"]),
    ];
    leaving_nothing(
        || Containerd::start("1.0.0", &entry()),
        |node| {
            let world: &World = node.as_ref();
            for (number, (annotations, said)) in rows.into_iter().enumerate() {
                let name = format!("wrong-{number}");
                let pod = || {
                    annotations.iter().fold(node.pod(&name), |pod, (key, value)| pod.annotation(key, value))
                };
                let error = match pod().run() {
                    Ok(_) => bail!("{annotations:?}: the sandbox runs"),
                    Err(error) => format!("{error:#}"),
                };
                for words in [&["culvert-cni"], said].concat() {
                    assert!(error.contains(words), "{annotations:?}: no {words:?} in {error}");
                }
                let logged = world.logged(&["error", "verb=ADD", &format!("pod=default/{name}"), "code=7"]);
                assert_eq!(logged.len(), 1, "{annotations:?}:\n{}", world.plugin_log());
                assert!(world.records()?.is_empty(), "{annotations:?}");
                assert!(world.addresses_in_use()?.is_empty(), "{annotations:?}");

                // Nothing of the failed one is in the way, not even its name.
                let pod = node.pod(&name).annotation(ON.0, ON.1).run()?;
                assert_eq!(pod.host().ruleset()?.tables, ["inet culvert"], "{annotations:?}");
                pod.stop()?;
                pod.remove()?;
            }
            Ok(())
        },
    )
}

/// An engine that runs programs finds them in the environment that the runtime has, in the namespaces that it has.
#[test]
fn each_engine_works_under_a_runtime() -> Result<()> {
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            let world: &World = node.as_ref();
            for engine in ["nftables", "iptables"] {
                let pod = node.pod(engine).annotation("culvert.dev/redirect", "enabled");
                let pod = pod.annotation("culvert.dev/engine", engine).run()?;
                let application = pod.container("app", 1000, &["/bin/sleep", "1000"])?;
                let outbound = pod.host().as_uid(UID).serve(("::", 15001), tells(Landed::Outbound))?;
                for family in Family::BOTH {
                    let to = SocketAddr::from((family.outside(), 80));
                    assert_eq!(fetch(&application, to)?, Landed::Outbound(to).to_string(), "{engine}");
                }
                drop(outbound);
                pod.stop()?;
                let left = pod.host().ruleset()?;
                let ours = |name: &str| name.to_lowercase().contains("culvert");
                assert!(
                    !left.chains.iter().any(|chain| ours(&chain.table) || ours(&chain.name)),
                    "{engine}: {left:?}"
                );
                let engines = world.logged(&["verb=ADD", pod.id(), &format!("engine={engine}")]);
                assert_eq!(engines.len(), 1, "{engine}:\n{}", world.plugin_log());
                pod.remove()?;
            }
            Ok(())
        },
    )
}

#[test]
fn a_sidecar_in_a_container_carries_the_traffic_of_its_pod() -> Result<()> {
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            let world: &World = node.as_ref();
            let _outside = world.outside.serve(("::", 80), server::http("outside"))?;
            let pod = node.pod("meshed").annotation("culvert.dev/redirect", "enabled").host_port(18080, 8080);
            let pod = pod.run()?;
            let _sidecar = pod.container("sidecar", UID, &[SIDECAR])?;
            let application = web_server(&pod, 8080)?;
            // As a kubelet probes: from the node.
            let ready = || -> Result<http::Response> {
                http::get(world.node.connect((pod.address(Family::V4)?, 15020))?, "/ready")
            };
            eventually!(ready().is_ok_and(|response| response.status == 200), READY_WITHIN);

            for (family, stat) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
                let counted = |cluster: &str| -> Result<u64> {
                    let stats =
                        application.exec(&["wget", "-q", "-O", "-", "http://127.0.0.1:9901/stats"])?;
                    let name = format!("cluster.{cluster}_passthrough_{stat}.upstream_cx_total: ");
                    let line = stats.stdout.lines().find_map(|line| line.strip_prefix(&name));
                    Ok(line.with_context(|| format!("no {name}in {stats:?}"))?.parse()?)
                };
                let before = (counted("outbound")?, counted("inbound")?);
                assert_eq!(fetch(&application, (family.outside(), 80).into())?, "outside");
                let stream = world.outside.connect((World::node_address(family), 18080))?;
                assert_eq!(words(&http::get(stream, "/")?.body), PAGE);
                assert_eq!(
                    (counted("outbound")?, counted("inbound")?),
                    (before.0 + 1, before.1 + 1),
                    "{family}"
                );
            }
            Ok(())
        },
    )
}

#[test]
fn a_sidecar_in_a_pod_that_was_not_onboarded_is_never_ready_and_says_why() -> Result<()> {
    leaving_nothing(
        || Containerd::start("1.0.0", &json!({})),
        |node| {
            let world: &World = node.as_ref();
            let pod = node.pod("missed").run()?;
            let _sidecar = pod.container("sidecar", UID, &[SIDECAR])?;
            let answer = || -> Result<http::Response> {
                http::get(world.node.connect((pod.address(Family::V4)?, 15020))?, "/ready")
            };
            let first = until_some(READY_WITHIN, || answer().ok()).context("no answer")?;
            // Long enough for several attempts to prove the redirect.
            let ready = until_some(Duration::from_secs(3), || {
                answer().ok().filter(|response| response.status == 200)
            });
            assert_eq!((first.status, ready), (503, None));
            let said = answer()?.body;
            assert!(said.contains("redirect"), "{said}");
            Ok(())
        },
    )
}

#[test]
fn nothing_is_left_behind_of_containerd_after_a_panic() -> Result<()> {
    leaving_nothing_after_a_panic(
        || Containerd::start("1.0.0", &entry()),
        |node| {
            let pod = node.pod("meshed").annotation("culvert.dev/redirect", "enabled").host_port(18080, 8080);
            pod.run()?.container("app", 1000, &["/bin/sleep", "1000"]).map(drop)
        },
    )
}
