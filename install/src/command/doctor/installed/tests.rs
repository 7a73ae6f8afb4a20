// SPDX-License-Identifier: Apache-2.0
//! Words for each finding about a node.

use super::*;
use crate::conflist::Invalid;
use crate::cri::sandboxes::{Bypass, Handlers};
use crate::host::binary::Identity;

fn identity(byte: &str) -> Identity {
    Identity { sha256: byte.repeat(32), size: 1 }
}

fn well() -> Inventory {
    let plugin = PlacedPlugin { identity: Some(identity("ab")), is_executable: true, is_retired: false };
    Inventory {
        runtime: "containerd, /etc/containerd/config.toml".to_owned(),
        complaints: vec![],
        handlers: Handlers::new(),
        version: Ok(("containerd".to_owned(), "1.7.2".to_owned())),
        conf_dir: "/etc/cni/net.d".into(),
        network: NetworkInUse::Used(Used {
            name: "10-calico.conflist".to_owned(),
            chain: ["calico", "portmap", TYPE].map(str::to_owned).to_vec(),
            version: Ok("0.3.1".to_owned()),
            asks: Some(true),
            drop_in: false,
            stale: None,
            passed_over: vec![],
        }),
        others: vec![],
        renamed_by_cilium: vec![],
        folders: vec![Folder {
            path: "/opt/cni/bin".into(),
            is_there: true,
            is_executable: true,
            is_writable: true,
            plugin: Some(plugin),
        }],
        source: Some(identity("ab")),
        cilium: None,
        agent: true,
        left: false,
        unknown: Some(vec![]),
        ill: vec![],
        beside: vec![],
    }
}

fn broken(rule: InvalidFile) -> NetworkInUse {
    NetworkInUse::Broken { name: "00-x.conf".into(), problem: "half".into(), rule }
}

fn used(inventory: &mut Inventory) -> &mut Used {
    match &mut inventory.network {
        NetworkInUse::Used(used) => used,
        other => panic!("{other:?}"),
    }
}

fn without_culvert(inventory: &mut Inventory) {
    inventory.folders[0].plugin = None;
    inventory.agent = false;
    inventory.unknown = None;
    let used = used(inventory);
    used.asks = None;
    used.chain.pop();
}

fn plugin(inventory: &mut Inventory) -> &mut PlacedPlugin {
    inventory.folders[0].plugin.as_mut().unwrap()
}

#[test]
fn a_node_that_is_well_and_one_without_culvert_need_nothing() {
    let mut bare = well();
    without_culvert(&mut bare);
    for (name, inventory) in [("well", well()), ("bare", bare)] {
        let checks = judge(&inventory);
        insta::assert_snapshot!(
            name,
            checks
                .iter()
                .map(|c| format!("{:9} {:?}: {} ({})\n", c.name, c.status, c.found, c.meaning))
                .collect::<String>()
        );
        for check in checks {
            assert!(!check.status.needs_attention(), "{name}: {check:?}");
        }
    }
}

/// Name, change, name of the check, its status, and words that its reader needs.
type Row = (&'static str, fn(&mut Inventory), &'static str, Status, &'static str);

const ROWS: [Row; 33] = [
    (
        "old containerd",
        |i| i.version = Ok(("containerd".into(), "1.4.13".into())),
        "runtime",
        Status::Degraded,
        "1.5",
    ),
    ("old CRI-O", |i| i.version = Ok(("cri-o".into(), "1.27.1".into())), "runtime", Status::Degraded, "1.28"),
    ("new CRI-O", |i| i.version = Ok(("cri-o".into(), "1.31.0".into())), "runtime", Status::Ok, "hands"),
    (
        "Kata and gVisor",
        |i| {
            i.handlers =
                [("a", Bypass::Kata), ("b", Bypass::Gvisor)].map(|(n, kind)| (n.to_owned(), kind)).into()
        },
        "runtime",
        Status::Ok,
        "runtime classes: a (Kata), b (gVisor)",
    ),
    ("unreadable", |i| i.complaints = vec!["x.toml: no".into()], "runtime", Status::Degraded, "x.toml"),
    ("empty", |i| i.network = NetworkInUse::Empty(None), "network", Status::Missing, "not come yet"),
    ("broken", |i| i.network = broken(InvalidFile::Stops), "network", Status::Missing, "takes no other"),
    (
        "all broken",
        |i| i.network = broken(InvalidFile::PassedOver),
        "network",
        Status::Missing,
        "passes over every file",
    ),
    (
        "another network",
        |i| i.network = NetworkInUse::Empty(Some("blue".into())),
        "network",
        Status::Missing,
        "network \"blue\"",
    ),
    (
        "passed over",
        |i| used(i).passed_over = vec!["05-x.conflist: no plugin x".into()],
        "network",
        Status::Degraded,
        "05-x.conflist: no plugin x",
    ),
    (
        "unreadable folder",
        |i| i.network = NetworkInUse::Unreadable("no".into()),
        "network",
        Status::Missing,
        "as root",
    ),
    (
        "a list of ours that stayed",
        |i| used(i).stale = Some("stands before 10-a.conf, which is gone".into()),
        "network",
        Status::Degraded,
        "which is gone",
    ),
    (
        "a version",
        |i| used(i).version = Err(Invalid::Version("0.2.0".into())),
        "network",
        Status::Missing,
        "0.2.0",
    ),
    (
        "no plugin",
        |i| i.folders[0].plugin = None,
        "plugin",
        Status::Missing,
        "no pod can start, and none can go",
    ),
    ("not executable", |i| plugin(i).is_executable = false, "plugin", Status::Missing, "cannot be run"),
    ("noexec", |i| i.folders[0].is_executable = false, "plugin", Status::Missing, "noexec"),
    ("retired", |i| plugin(i).is_retired = true, "plugin", Status::Degraded, "goes with the last pod"),
    ("another", |i| i.source = Some(identity("cd")), "plugin", Status::Degraded, "cdcdcdcdcdcd"),
    (
        "read-only",
        |i| {
            without_culvert(i);
            i.folders[0].is_writable = false;
        },
        "plugin",
        Status::Missing,
        "read-only",
    ),
    (
        "no entry",
        |i| {
            used(i).chain.pop();
            used(i).asks = None;
        },
        "entry",
        Status::Missing,
        "start without rules",
    ),
    ("twice", |i| used(i).chain.push(TYPE.into()), "entry", Status::Degraded, "more than once"),
    (
        "first",
        |i| used(i).chain = vec![TYPE.into(), "calico".into()],
        "entry",
        Status::Degraded,
        "behind the others",
    ),
    ("no capability", |i| used(i).asks = Some(false), "entry", Status::Degraded, "capability"),
    (
        "a drop-in that nobody reads",
        |i| {
            used(i).chain.pop();
            used(i).drop_in = true;
        },
        "entry",
        Status::Missing,
        "--mode chained",
    ),
    ("elsewhere too", |i| i.others = vec!["05-x.conflist".into()], "entry", Status::Ok, "05-x.conflist"),
    (
        "socket load balancer",
        |i| i.cilium = Some(Cilium::Says { socket_lb: true, host_namespace_only: false }),
        "neighbour",
        Status::Degraded,
        "hostNamespaceOnly",
    ),
    (
        "socket load balancer, host only",
        |i| i.cilium = Some(Cilium::Says { socket_lb: true, host_namespace_only: true }),
        "neighbour",
        Status::Ok,
        "nothing known",
    ),
    (
        "exclusive",
        |i| i.renamed_by_cilium = vec!["10-x.conflist.cilium_bak".into()],
        "neighbour",
        Status::Degraded,
        "cni.exclusive",
    ),
    ("left", |i| i.left = true, "agent", Status::Degraded, "restart it"),
    ("no agent", |i| i.agent = false, "agent", Status::Degraded, "DaemonSet"),
    (
        "ill pods",
        |i| i.ill = vec!["a/b: no iptables-nft-restore".into(); 3],
        "pods",
        Status::Degraded,
        "no iptables-nft-restore and 2 more",
    ),
    (
        "NAT of a pod",
        |i| i.beside = vec!["a/b: NAT in table ip nat, chain PREROUTING: 2 rules".into(); 6],
        "beside",
        Status::Ok,
        "2 rules and 1 more",
    ),
    ("unknown pods", |i| i.unknown = Some(vec!["a/b".into(); 7]), "pods", Status::Degraded, "and 2 more"),
];

#[test]
fn what_is_wrong_is_told_by_the_check_that_is_about_it() {
    for (name, change, of, status, words) in ROWS {
        let mut inventory = well();
        change(&mut inventory);
        let check = judge(&inventory).into_iter().find(|check| check.name == of).unwrap();
        assert_eq!(check.status, status, "{name}: {check:?}");
        let said = format!("{} {} {}", check.found, check.meaning, check.action.clone().unwrap_or_default());
        assert!(said.contains(words), "{name}: {said}");
        assert_eq!(check.action.is_some(), check.status.needs_attention(), "{name}: what to do: {check:?}");
    }
}
