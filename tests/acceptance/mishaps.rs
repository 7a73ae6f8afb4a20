//! An ADD is all or nothing: kills, failing system calls, full disks, crowds.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use culvert_tests::kernel::netns::Namespace;
use culvert_tests::pod::plugin::previous_result;
use culvert_tests::{Family, Host, Invocation, Lab, Landed, Landing, Outcome};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::verbs::state;

/// The system calls of the plugin that may fail.
const CALLS: [&str; 13] = [
    "openat",
    "read",
    "write",
    "socket",
    "bind",
    "setsockopt",
    "sendto",
    "recvfrom",
    "setns",
    "clone",
    "fstat,newfstatat,stat,statx,fstatfs",
    "mkdir,rename,unlink",
    "flock",
];

/// More calls of one kind than an ADD makes: a test that gets there has a bug.
const TOO_MANY: usize = 200;

/// An ADD by nftables with something done to the n-th call of this kind; `None` where there are not so many.
fn injected(lab: &Lab, calls: &str, fault: &str, n: usize) -> Result<Option<Outcome>> {
    let trace = lab.folder().join("trace");
    let inject = format!("inject={calls}:{fault}:when={n}");
    let words = [
        "strace",
        "-f",
        "-o",
        trace.to_str().context("no text")?,
        "-e",
        &format!("trace={calls}"),
        "-e",
        &inject,
    ];
    let outcome = lab.invoke("ADD")?.redirect().annotations(&[("engine", "nftables")]).under(words).run()?;
    let traced = fs::read_to_string(&trace).context("strace wrote nothing: is it installed?")?;
    ensure!(!outcome.stderr.contains("strace: "), "{}", outcome.stderr);
    let hit = traced.contains("(INJECTED)") || traced.contains("killed by SIGKILL");
    Ok(hit.then_some(outcome))
}

/// A pod that has what the kernel makes of itself once conntrack is used.
fn used(lab: &Lab) -> Result<Vec<String>> {
    lab.add(&[])?.expect_success();
    lab.del()?.expect_success();
    state(&lab.pod)
}

/// The states of a pod: nothing of ours, or all of it.
fn nothing_and_all(lab: &Lab) -> Result<(Vec<String>, Vec<String>)> {
    let nothing = used(lab)?;
    lab.add(&[("engine", "nftables")])?.expect_success();
    let all = state(&lab.pod)?;
    lab.del()?.expect_success();
    Ok((nothing, all))
}

#[test]
fn a_system_call_that_fails_leaves_all_or_nothing() -> Result<()> {
    let (mut wrong, mut tried) = (Vec::new(), 0);
    let mut lab = Lab::new()?;
    let (nothing, all) = nothing_and_all(&lab)?;
    for calls in CALLS {
        for n in 1..TOO_MANY {
            let Some(outcome) = injected(&lab, calls, "error=EIO", n)? else {
                lab.del()?.expect_success();
                break;
            };
            tried += 1;
            let succeeded = outcome.status.success();
            if !succeeded {
                assert!(outcome.document().is_some_and(|d| d["code"].is_u64()), "{calls} {n}: {outcome}");
            }
            let (name, expected) = if succeeded { ("all", &all) } else { ("nothing", &nothing) };
            let left = state(&lab.pod)?;
            if left != *expected {
                let other: Vec<_> = left.iter().filter(|line| !expected.contains(line)).collect();
                wrong.push(format!("{calls} {n}: {name} expected, found {other:#?} after {outcome}"));
            }
            // As new again, for the next fault; or another one.
            lab.add(&[("engine", "nftables")])?.expect_success();
            lab.del()?.expect_success();
            if state(&lab.pod)? != nothing {
                lab = Lab::new()?;
                used(&lab)?;
            }
        }
    }
    assert!(tried > 50, "only {tried} system calls were made to fail");
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    Ok(())
}

#[test]
fn a_wait_that_is_interrupted_is_gone_on_with() -> Result<()> {
    let lab = Lab::new()?;
    let (_, all) = nothing_and_all(&lab)?;
    let mut tried = 0;
    // The calls that wait: the kernel ends one so where the process, its cgroup or its machine is stopped and goes on.
    for calls in ["connect", "recvfrom", "poll,ppoll", "sendto", "read", "flock"] {
        for n in 1..TOO_MANY {
            let Some(outcome) = injected(&lab, calls, "error=EINTR", n)? else {
                lab.del()?.expect_success();
                break;
            };
            tried += 1;
            assert!(outcome.status.success(), "{calls} {n}: {outcome}");
            assert_eq!(state(&lab.pod)?, all, "{calls} {n}");
            lab.del()?.expect_success();
        }
    }
    assert!(tried > 10, "only {tried} system calls were interrupted");
    Ok(())
}

#[test]
fn an_add_after_a_kill_at_any_point_makes_the_pod_whole() -> Result<()> {
    let expected = {
        let lab = Lab::new()?;
        lab.add(&[("engine", "nftables")])?.expect_success();
        state(&lab.pod)?
    };
    let mut killed = 0;
    for calls in ["sendto", "recvfrom", "write", "openat", "rename,mkdir", "exit_group"] {
        for n in 1..TOO_MANY {
            let lab = Lab::new()?;
            let Some(outcome) = injected(&lab, calls, "signal=KILL", n)? else { break };
            assert!(!outcome.status.success(), "{calls} {n}: {outcome}");
            killed += 1;
            lab.add(&[("engine", "nftables")])?.expect_success();
            assert_eq!(state(&lab.pod)?, expected, "{calls} {n}");
            lab.del()?.expect_success();
            assert!(lab.pod.ruleset()?.is_empty(), "{calls} {n}");
        }
    }
    assert!(killed > 20, "only {killed} were killed");
    Ok(())
}

#[test]
fn fifty_pods_at_once_are_all_redirected() -> Result<()> {
    let lab = Lab::new()?;
    lab.add(&[])?.expect_success();
    let expected = lab.pod.ruleset()?;
    let pods = (0..50).map(|n| Host::new(&format!("pod{n}"))).collect::<Result<Vec<_>>>()?;
    let calls = pods
        .iter()
        .enumerate()
        .map(|(n, pod)| Ok(lab.invoke_for(pod, "ADD")?.redirect().env("CNI_CONTAINERID", format!("pod{n}"))))
        .collect::<Result<Vec<_>>>()?;
    let outcomes = thread::scope(|scope| {
        let running: Vec<_> = calls.into_iter().map(|call| scope.spawn(|| call.run())).collect();
        running.into_iter().map(|call| call.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    for (pod, outcome) in pods.iter().zip(&outcomes) {
        outcome.expect_success();
        assert!(outcome.took < Duration::from_secs(5), "{:?}", outcome.took);
        let found = pod.ruleset()?;
        assert_eq!((found.chains.len(), found.rules.len()), (expected.chains.len(), expected.rules.len()));
        assert!(pod.addresses("lo")?.contains(&Family::V6.hop()));
    }
    assert_eq!(fs::read_dir(lab.folder().join("attachments"))?.count(), 51);
    Ok(())
}

/// A call that has to succeed in spoilt surroundings: an ADD, its CHECK and its DEL.
fn all_is_well(what: &str, spoilt: impl Fn(Invocation<'_>) -> Invocation<'_>) -> Result<()> {
    for engine in ["nftables", "iptables-nft", "iptables-legacy"] {
        let lab = Lab::new()?;
        let add = spoilt(lab.invoke("ADD")?.redirect().annotations(&[("engine", engine)])).run()?;
        assert!(add.status.success(), "{what}, {engine}: {add}");
        assert_eq!(add.expect_success(), previous_result(), "{what}, {engine}");
        let check = spoilt(lab.invoke("CHECK")?.redirect().annotations(&[("engine", engine)])).run()?;
        assert!(check.status.success(), "{what}, {engine}: {check}");
        spoilt(lab.invoke("DEL")?).run()?.expect_success();
        let state = state(&lab.pod)?.join("\n");
        assert!(!state.contains("CULVERT") && !state.contains("culvert"), "{what}, {engine}: {state}");
    }
    Ok(())
}

/// A read-only disk over `/mnt`, for the calling thread and what it starts.
fn read_only_disk() -> Result<()> {
    disk(MsFlags::MS_RDONLY, "size=1m")
}

/// A full disk over `/mnt`.
fn full_disk() -> Result<()> {
    disk(MsFlags::empty(), "size=4k")?;
    fs::write("/mnt/full", [0; 4096])?;
    Ok(())
}

fn disk(flags: MsFlags, options: &str) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing: Option<&str> = None;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("tmpfs"), "/mnt", Some("tmpfs"), flags, Some(options))?;
    Ok(())
}

fn on_mnt(call: Invocation<'_>) -> Invocation<'_> {
    call.config("stateDir", "/mnt/attachments").config("logFile", "/mnt/cni.log")
}

#[test]
fn a_read_only_disk_stops_no_pod() -> Result<()> {
    all_is_well("read-only", |call| on_mnt(call).beforehand(read_only_disk))
}

#[test]
fn a_full_disk_stops_no_pod() -> Result<()> {
    all_is_well("full", |call| on_mnt(call).beforehand(full_disk))?;
    all_is_well("full", |call| call.config("logFile", "/dev/full"))
}

#[test]
fn a_closed_standard_error_stops_no_pod() -> Result<()> {
    all_is_well("closed", |call| call.under(["sh", "-c", "exec \"$0\" 2>&-"]))
}

#[test]
fn sixteen_open_files_are_enough() -> Result<()> {
    all_is_well("16 files", |call| call.under(["sh", "-c", "ulimit -n 16 && exec \"$0\""]))
}

#[test]
fn files_that_may_not_grow_stop_no_pod() -> Result<()> {
    // As by LimitFSIZE=0 of systemd: a write to a file then ends the process by a signal.
    let limited = ["sh", "-c", "ulimit -f 0 && exec \"$0\""];
    all_is_well("RLIMIT_FSIZE", |call| call.under(limited))?;
    let without_rights = ["setpriv", "--bounding-set=-sys_resource"];
    all_is_well("RLIMIT_FSIZE for ever", |call| call.under(without_rights.iter().chain(&limited)))
}

#[test]
fn a_working_folder_that_is_gone_stops_no_pod() -> Result<()> {
    let gone = "folder=$(mktemp -d) && cd \"$folder\" && rmdir \"$folder\" && exec \"$0\"";
    all_is_well("no folder", |call| call.under(["sh", "-c", gone]))
}

/// A pod with `hostUsers: false`: a process holds its user namespace and the network namespace in it.
struct OwnUsers(Child);

impl OwnUsers {
    fn start() -> Result<(Self, Host)> {
        let mut command = Command::new("unshare");
        command.args(["--user", "--net", "sh", "-c", "echo ready && exec cat"]);
        let mut holder = Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        let mut line = String::new();
        BufReader::new(holder.0.stdout.take().context("no output")?).read_line(&mut line)?;
        ensure!(line == "ready\n", "unshare made no user namespace");
        let process = format!("/proc/{}", holder.0.id());
        // As a kubelet does: the pod's root has no rights on the node.
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("{process}/{map}"), "0 100000 65536")?;
        }
        let path = format!("{process}/ns/net");
        let namespace = Namespace::existing("own users", fs::File::open(Path::new(&path))?);
        Ok((holder, Host::existing(namespace)))
    }
}

impl Drop for OwnUsers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pod_in_a_user_namespace_of_its_own_is_redirected_by_nftables() -> Result<()> {
    for engine in ["auto", "nftables"] {
        let lab = Lab::new()?;
        let (_holder, pod) = OwnUsers::start()?;
        let add = lab.invoke_for(&pod, "ADD")?.redirect().annotations(&[("engine", engine)]).run()?;
        assert!(add.status.success(), "{engine}: {add}");
        assert_eq!(pod.ruleset()?.tables, ["inet culvert"]);
        assert_eq!(pod.sysctl("net.ipv4.tcp_tw_reuse")?, "1");
        let check = lab.invoke_for(&pod, "CHECK")?.redirect().annotations(&[("engine", engine)]);
        check.run()?.expect_success();
        lab.invoke_for(&pod, "DEL")?.run()?.expect_success();
        assert!(pod.ruleset()?.is_empty());
    }
    Ok(())
}

#[test]
fn iptables_by_name_is_a_clear_error_in_a_user_namespace_of_its_own() -> Result<()> {
    let lab = Lab::new()?;
    let (_holder, pod) = OwnUsers::start()?;
    for engine in ["iptables", "iptables-nft", "iptables-legacy"] {
        let add = lab.invoke_for(&pod, "ADD")?.redirect().annotations(&[("engine", engine)]).run()?;
        let error = add.expect_error(101);
        assert!(error.msg.contains("user namespace") && error.msg.contains("nftables"), "{}", error.msg);
        assert!(pod.ruleset()?.is_empty(), "{engine}");
    }
    Ok(())
}

#[test]
fn a_held_lock_of_the_hosts_iptables_stops_no_pod() -> Result<()> {
    let held = "mount -t tmpfs own /run && exec 9>/run/xtables.lock && flock 9 && exec \"$0\"";
    all_is_well("lock held", |call| call.under(["unshare", "--mount", "sh", "-c", held]))
}

#[test]
fn a_pod_that_locks_its_own_namespace_keeps_no_rules_out() -> Result<()> {
    let lab = Lab::new()?;
    let by_the_pod = fs::File::open(lab.pod.namespace().path())?;
    by_the_pod.lock()?;
    lab.add(&[])?.expect_success();
    assert!(lab.invoke("CHECK")?.redirect().run()?.status.success());
    lab.del()?.expect_success();
    let rules = lab.pod.ruleset()?;
    assert!(rules.is_empty(), "{rules}");
    Ok(())
}

#[test]
fn auto_goes_on_to_iptables_legacy_where_the_kernel_has_no_nf_tables() -> Result<()> {
    let lab = Lab::new()?;
    // Of each thread's sends the first and every third after it fail. The plugin's are: its rules for nf_tables, a look
    // whether they are there, `::6`, the deletion of such rules. iptables-nft does not get past its first question;
    // iptables-legacy sends nothing.
    let words = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        "trace=sendto",
        "-e",
        "inject=sendto:error=EOPNOTSUPP:when=1+3",
    ];
    lab.invoke("ADD")?.redirect().under(words).run()?.expect_success();
    let state = state(&lab.pod)?.join("\n");
    assert!(state.contains("-A CULVERT_OUTBOUND_REDIRECT -p tcp -j REDIRECT --to-ports 15001"), "{state}");
    assert!(!state.contains("table inet culvert"), "{state}");
    assert!(lab.invoke("CHECK")?.redirect().run()?.status.success());
    let mut landing = Landing::new(&lab.pod)?;
    for family in Family::BOTH {
        landing.target(&lab.peer, (family.outside(), 80))?;
        let outside = SocketAddr::from((family.outside(), 80));
        assert_eq!(landing.of(lab.pod.as_uid(1000), outside)?, Landed::Outbound(outside), "{family}");
    }
    lab.del()?.expect_success();
    let state = self::state(&lab.pod)?.join("\n");
    assert!(!state.contains("CULVERT"), "{state}");
    Ok(())
}
