//! A virtual machine of KubeVirt, as ANNOTATIONS.md says: its connections and its peers' pass the sidecar.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use culvert_tests::chart::{repository, yaml};
use culvert_tests::server::who;
use culvert_tests::until::{DEADLINE, until_some};
use culvert_tests::{Family, Host, Lab, Landing};
use serde_json::Value;

use crate::support::{Rows, by_every_engine, seen};

/// The rules of KubeVirt's masquerade for a machine in a mesh: what arrives is a sidecar's, and its connection to the pod's own
/// address goes to the guest, with an address of the pod as the source.
const MASQUERADE: &str = "add table ip nat; \
     add chain ip nat output { type nat hook output priority -100; }; \
     add chain ip nat postrouting { type nat hook postrouting priority 100; }; \
     add rule ip nat output ip daddr { 127.0.0.1, 10.77.0.2 } tcp dport 8080 counter dnat to 10.0.2.2; \
     add rule ip nat postrouting oifname k6t-eth0 tcp dport 8080 ip saddr { 127.0.0.1, 127.0.0.6 } counter snat to 10.0.2.1";

fn run(host: &Host, words: &[&str]) -> Result<()> {
    let ran = host.namespace().run(|| Command::new(words[0]).args(&words[1..]).output())?;
    ensure!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// The page's example.
fn example() -> Result<Value> {
    let page = fs::read_to_string(repository().join("cni/ANNOTATIONS.md"))?;
    let (_, section) = page.split_once("\n## Virtual machines").context("no section")?;
    let (_, text) = section.split_once("```yaml\n").context("no example")?;
    let (text, _) = text.split_once("```").context("no end of the example")?;
    yaml(text)
}

/// A pod with a guest behind KubeVirt's bridge, annotated as the example says.
fn with_a_guest(engine: &str) -> Result<(Lab, Host)> {
    let example = example()?;
    ensure!(example["kind"] == "VirtualMachine" && example["apiVersion"] == "kubevirt.io/v1", "{example}");
    let spec = &example["spec"]["template"]["spec"];
    ensure!(spec["domain"]["devices"]["interfaces"][0]["masquerade"].is_object(), "{example}");
    let annotations =
        example["spec"]["template"]["metadata"]["annotations"].as_object().context("no annotations")?;
    // KubeVirt leaves what arrives to a sidecar only so.
    ensure!(annotations["sidecar.istio.io/inject"] == "true", "{annotations:?}");

    let mut lab = Lab::new()?;
    let guest = lab.another_peer()?;
    for words in [
        "ip link set dev eth1 down",
        "ip link set dev eth1 name k6t-eth0",
        "ip link set dev k6t-eth0 up",
        "ip address add 10.0.2.1/24 dev k6t-eth0",
        "ip address add fd10:0:2::1/120 dev k6t-eth0 nodad",
    ] {
        run(&lab.pod, &words.split(' ').collect::<Vec<_>>())?;
    }
    for words in [
        "ip address add 10.0.2.2/24 dev eth0",
        "ip address add fd10:0:2::2/120 dev eth0 nodad",
        "ip route replace default via 10.0.2.1",
        "ip -6 route replace default via fd10:0:2::1",
    ] {
        run(&guest, &words.split(' ').collect::<Vec<_>>())?;
    }
    for (name, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.route_localnet", "1"),
    ] {
        lab.pod.set_sysctl(name, value)?;
    }
    let mut add = lab.invoke("ADD")?.annotation("culvert.dev/engine", engine);
    for (name, value) in annotations {
        add = add.annotation(name, value.as_str().context("no text")?);
    }
    add.run()?.expect_success();
    Ok((lab, guest))
}

fn a_guests_connections_land_on_the_sidecar(engine: &str) -> Result<()> {
    let (lab, guest) = with_a_guest(engine)?;
    let landing = Landing::new(&lab.pod)?;
    let mut rows = Rows::of(&landing);
    for (family, own) in [(Family::V4, "10.0.2.2"), (Family::V6, "fd10:0:2::2")] {
        let guest = guest.as_root().from(own);
        for port in [80, 443, 5432] {
            rows.outbound("the guest, to outside", guest, (family.outside(), port))?;
            rows.inbound("a peer, to the guest", lab.peer.as_root(), (family.pod(), port))?;
        }
    }
    Ok(())
}

fn a_guest_is_reached_through_the_sidecar(engine: &str) -> Result<()> {
    let (lab, guest) = with_a_guest(engine)?;
    run(&lab.pod, &["nft", MASQUERADE])?;
    let sidecar = lab.pod.sidecar().start()?;
    let _application = guest.serve("10.0.2.2:8080", who())?;
    // The link was down a moment ago.
    let client = until_some(DEADLINE, || seen(lab.peer.connect("10.77.0.2:8080").ok()?).ok());
    assert_eq!(client.map(|client| client.ip()), Some("10.0.2.1".parse()?));
    assert!(sidecar.stat("cluster.inbound_passthrough_ipv4.upstream_cx_total")? > 0);
    Ok(())
}

by_every_engine! {
    a_guests_connections_land_on_the_sidecar,
    a_guest_is_reached_through_the_sidecar,
}
