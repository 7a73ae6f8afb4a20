// SPDX-License-Identifier: Apache-2.0
//! `redirect` against a real kernel: each test in its own network namespace, which dies with its thread. Needs root.

mod world;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::owner::Owner;
use culvert_cni::redirect::policy::Policy;
use culvert_cni::redirect::{Namespace, install, nftables};

use self::world::{in_own_namespace, link_up, peer_over_veth, redirect};
use crate::command::answer::Exit;
use crate::probe::facts::SYSCTLS;

/// Every sysctl that is changed, and the addresses on lo.
fn state() -> BTreeMap<String, String> {
    let sysctl = |name: &str| fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).unwrap();
    let mut state: BTreeMap<_, _> = SYSCTLS.iter().map(|name| ((*name).to_owned(), sysctl(name))).collect();
    let addresses = fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    state.insert("addresses".to_owned(), addresses);
    state
}

fn records(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_apply_did_is_verified_and_taken_back() {
    in_own_namespace(|folder| {
        link_up("lo");
        let before = state();
        let options = ["--redirect-dns", "all", "--exclude-outbound-ports", "5432"];

        let missing = redirect(folder, "verify", &options);
        assert_eq!(missing.exit, Exit::Attention);
        assert!(missing.out.contains("table inet culvert is missing"), "{}", missing.out);

        let created = redirect(folder, "apply", &[&options[..], &["--force"]].concat());
        assert_eq!((created.err.as_str(), created.exit), ("", Exit::Well));
        assert!(created.out.starts_with("Redirect created by nftables in the current"), "{}", created.out);
        assert!(created.out.contains("port 22 stays out"), "{}", created.out);
        assert!(created.out.contains("no connection was open"), "{}", created.out);
        assert_ne!(state(), before);
        let kept = records(folder);
        assert_eq!(kept.len(), 1);
        let record = fs::read(folder.join(&kept[0])).unwrap();
        let changed = String::from_utf8_lossy(&record).into_owned();
        for name in SYSCTLS {
            assert!(changed.contains(&name.replace('.', "/")), "{name} is not in {changed}");
        }

        assert_eq!(redirect(folder, "verify", &options).exit, Exit::Well);
        let other = redirect(folder, "verify", &[]);
        assert_eq!(other.exit, Exit::Attention, "other options are a difference");
        assert!(other.out.contains("chain "), "{}", other.out);

        let again = redirect(folder, "apply", &[&options[..], &["--force"]].concat());
        assert!(again.out.starts_with("Redirect unchanged"), "{}", again.out);
        assert_eq!(fs::read(folder.join(&kept[0])).unwrap(), record, "and so is the record");

        let removed = redirect(folder, "remove", &[]);
        assert_eq!((removed.err.as_str(), removed.exit), ("", Exit::Well));
        assert_eq!(state(), before);
        assert_eq!(records(folder), [""; 0]);
        assert_eq!(Engine::Nftables.owner().unwrap(), None);

        let nothing = redirect(folder, "remove", &[]);
        assert_eq!(nothing.exit, Exit::Well);
        assert!(nothing.out.contains("nothing to remove"), "{}", nothing.out);
    });
}

#[test]
fn other_options_replace_the_rules_and_remove_still_knows_the_first_state() {
    in_own_namespace(|folder| {
        link_up("lo");
        let before = state();
        assert_eq!(redirect(folder, "apply", &["--force"]).exit, Exit::Well);
        let options = ["--inbound-port", "16006", "--ip-family", "ipv4", "--force"];
        let replaced = redirect(folder, "apply", &options);
        assert!(replaced.out.starts_with("Redirect replaced"), "{} {}", replaced.out, replaced.err);
        assert_eq!(redirect(folder, "verify", &options[..4]).exit, Exit::Well);
        assert_eq!(redirect(folder, "remove", &[]).exit, Exit::Well);
        assert_eq!(state(), before, "::6 of the first apply is gone too");
    });
}

#[test]
fn damage_is_told_and_mended() {
    in_own_namespace(|folder| {
        link_up("lo");
        assert_eq!(redirect(folder, "apply", &["--force"]).exit, Exit::Well);
        nftables::delete().unwrap();
        fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "0\n").unwrap();
        let told = redirect(folder, "verify", &[]);
        assert_eq!(told.exit, Exit::Attention);
        assert!(told.out.contains("table inet culvert is missing"), "{}", told.out);
        assert!(told.out.contains("tcp_tw_reuse is 0, not 1"), "{}", told.out);
        assert_eq!(redirect(folder, "apply", &["--force"]).exit, Exit::Well);
        assert_eq!(redirect(folder, "verify", &[]).exit, Exit::Well);
        // The rules are gone again: changes beside them are undone all the same.
        nftables::delete().unwrap();
        let removed = redirect(folder, "remove", &[]);
        assert_eq!(removed.exit, Exit::Well);
        assert!(removed.out.contains("rules (none were there), ::6 on lo"), "{}", removed.out);
    });
}

#[test]
fn without_listeners_a_machine_of_its_own_is_left_alone() {
    in_own_namespace(|folder| {
        link_up("lo");
        let before = state();
        let refused = redirect(folder, "apply", &[]);
        assert_eq!((refused.out.as_str(), refused.exit), ("", Exit::Attention));
        for part in ["port 15006 (inbound-port)", "port 15001 (outbound-port)", "--force"] {
            assert!(refused.err.contains(part), "{part}: {}", refused.err);
        }
        let inbound = TcpListener::bind("[::]:15006").unwrap();
        let refused = redirect(folder, "apply", &[]);
        assert!(!refused.err.contains("15006") && refused.err.contains("15001"), "{}", refused.err);
        assert_eq!((state(), records(folder)), (before, vec![]));

        let outbound = TcpListener::bind("127.0.0.1:15001").unwrap();
        let applied = redirect(folder, "apply", &[]);
        assert_eq!(applied.exit, Exit::Well, "{}", applied.err);
        assert!(applied.err.contains("runs as uid 0, not as proxy-uid 5678"), "{}", applied.err);
        drop((inbound, outbound));
    });
}

#[test]
fn ssh_goes_to_the_machine_and_everything_else_to_the_sidecar() {
    in_own_namespace(|folder| {
        let peer = peer_over_veth();
        let ssh = TcpListener::bind("10.90.0.1:22").unwrap();
        let web = TcpListener::bind("10.90.0.1:80").unwrap();
        let inbound = TcpListener::bind("0.0.0.0:15006").unwrap();
        let outbound = TcpListener::bind("0.0.0.0:15001").unwrap();
        let applied = redirect(folder, "apply", &[]);
        assert_eq!(applied.exit, Exit::Well, "{}", applied.err);

        let to_ssh = peer.connect("10.90.0.1:22").unwrap();
        assert_eq!(ssh.accept().unwrap().1, to_ssh.local_addr().unwrap());
        let to_web = peer.connect("10.90.0.1:80").unwrap();
        assert_eq!(inbound.accept().unwrap().1, to_web.local_addr().unwrap());
        let out = TcpStream::connect("10.90.0.2:80").unwrap();
        assert_eq!(outbound.accept().unwrap().1, out.local_addr().unwrap());
        web.set_nonblocking(true).unwrap();
        assert!(web.accept().is_err(), "nothing arrives past the sidecar");
    });
}

#[test]
fn open_connections_live_on_in_both_directions() {
    in_own_namespace(|folder| {
        let peer = peer_over_veth();
        let theirs = peer.listen("10.90.0.2:80");
        let ours = TcpListener::bind("10.90.0.1:80").unwrap();
        let mut out = TcpStream::connect("10.90.0.2:80").unwrap();
        let mut out_there = theirs.accept().unwrap().0;
        let mut in_there = peer.connect("10.90.0.1:80").unwrap();
        let mut inside = ours.accept().unwrap().0;

        let applied = redirect(folder, "apply", &["--force"]);
        assert!(applied.out.contains("stay direct until they end: 2 (10.90.0.1:"), "{}", applied.out);

        for (from, to) in [(&mut out, &mut out_there), (&mut inside, &mut in_there)] {
            for _ in 0..3 {
                says(from, to);
                says(to, from);
            }
        }
        // A new connection is redirected, and nothing listens for it here.
        assert_eq!(
            TcpStream::connect("10.90.0.2:80").unwrap_err().kind(),
            std::io::ErrorKind::ConnectionRefused
        );
    });
}

fn says(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"still here").unwrap();
    to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut heard = [0; 10];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"still here");
}

#[test]
fn a_pod_of_the_plugin_is_not_touched_unless_forced() {
    in_own_namespace(|folder| {
        link_up("lo");
        let pod = Owner::new("0123abc", "eth0");
        install(&Policy::default(), &pod, None, Namespace::New).unwrap();
        for verb in [&["apply"][..], &["remove"]] {
            let refused = redirect(folder, verb[0], &[]);
            assert_eq!(refused.exit, Exit::Attention, "{verb:?}");
            assert!(refused.err.contains("container 0123abc"), "{}", refused.err);
            assert!(refused.err.contains("--force"), "{}", refused.err);
        }
        assert_eq!(Engine::Nftables.owner().unwrap(), Some(Some(pod)));
        let pods_options = ["--exclude-inbound-ports", ""];
        assert_eq!(redirect(folder, "verify", &pods_options).exit, Exit::Well, "verify asks for no owner");

        assert_eq!(redirect(folder, "apply", &["--force"]).exit, Exit::Well);
        assert_eq!(Engine::Nftables.owner().unwrap(), Some(Some(super::own())));
        assert_eq!(redirect(folder, "remove", &[]).exit, Exit::Well);
        assert_eq!(Engine::Nftables.owner().unwrap(), None);
    });
}

#[test]
fn another_namespace_is_reached_by_its_path() {
    in_own_namespace(|folder| {
        let peer = peer_over_veth();
        let here = state();
        let netns = ["--netns", peer.netns()];
        // Nothing listens there: only the current namespace is checked for that.
        let applied = redirect(folder, "apply", &netns);
        assert_eq!((applied.err.as_str(), applied.exit), ("", Exit::Well));
        assert!(!applied.out.contains("port 22"), "a pod's SSH is its own affair: {}", applied.out);
        assert_eq!(redirect(folder, "verify", &netns).exit, Exit::Well);
        assert_eq!((state(), Engine::Nftables.owner().unwrap()), (here, None), "nothing happened here");
        assert_eq!(redirect(folder, "verify", &[]).exit, Exit::Attention);
        assert!(redirect(folder, "remove", &[]).out.contains("nothing to remove"));
        assert_eq!(redirect(folder, "remove", &netns).exit, Exit::Well);

        for (path, named) in [
            ("/proc/thread-self/ns/net", "without --netns the current one is meant"),
            ("/dev/null", "is no network namespace"),
            ("/does/not/exist", "/run/netns/NAME"),
        ] {
            let refused = redirect(folder, "apply", &["--netns", path]);
            assert_eq!(refused.exit, Exit::Usage);
            assert!(refused.err.contains(named), "{}", refused.err);
        }
    });
}

#[test]
fn where_no_record_can_be_kept_nothing_is_changed() {
    in_own_namespace(|_| {
        link_up("lo");
        let before = state();
        let refused = redirect(Path::new("/dev/null/x"), "apply", &["--force"]);
        assert_eq!(refused.exit, Exit::Attention);
        assert!(refused.err.contains("--state-dir"), "{}", refused.err);
        assert_eq!((state(), Engine::Nftables.owner().unwrap()), (before, None));
    });
}

#[test]
fn iptables_writes_and_forgets_the_same() {
    in_own_namespace(|folder| {
        link_up("lo");
        let before = state();
        let options = ["--engine", "iptables-nft"];
        let applied = redirect(folder, "apply", &[&options[..], &["--force"]].concat());
        assert!(
            applied.out.starts_with("Redirect created by iptables-nft"),
            "{}{}",
            applied.out,
            applied.err
        );
        assert_eq!(redirect(folder, "verify", &options).exit, Exit::Well);
        assert_eq!(redirect(folder, "verify", &[]).exit, Exit::Well, "auto: whoever wrote them");
        let nftables = redirect(folder, "verify", &["--engine", "nftables"]);
        assert!(nftables.out.contains("rules of iptables-nft are there as well"), "{}", nftables.out);
        assert_eq!(redirect(folder, "remove", &[]).exit, Exit::Well);
        assert_eq!(state(), before);
        assert_eq!(redirect(folder, "verify", &options).exit, Exit::Attention);
    });
}
