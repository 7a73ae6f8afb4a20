// SPDX-License-Identifier: Apache-2.0
//! Meaning of an inventory: is the next pod covered, what could undo that, and what to do. Pure.

use super::diagnosis::{Check, Status};
use crate::conflist::TYPE;
use crate::conflist::effective::InvalidFile;
use crate::cri::sandboxes::Bypass;
use crate::host::neighbours;
use crate::probe::inventory::{Cilium, Folder, Inventory, NetworkInUse, PlacedPlugin, Used};

/// Pods that are named one by one.
const MAX_NAMED: usize = 5;
/// First releases that pass annotations to plugins: containerd 1.5, CRI-O 1.28.
const ANNOTATIONS_SINCE: [(&str, u32, u32); 2] = [("containerd", 1, 5), ("cri-o", 1, 28)];
/// First releases with libcni 1.3, which reads drop-in folders.
const DROP_INS_SINCE: [(&str, u32, u32); 2] = [("containerd", 2, 1), ("cri-o", 1, 33)];

/// Judges the inventory in the order in which a pod meets its parts.
pub(crate) fn judge(inventory: &Inventory) -> Vec<Check> {
    let mut checks = vec![
        runtime(inventory),
        network(inventory),
        plugin(inventory),
        entry(inventory),
        neighbour(inventory),
        agent(inventory),
        pods(inventory),
    ];
    checks.extend(beside(inventory));
    checks
}

fn check(
    name: &'static str,
    status: Status,
    found: impl Into<String>,
    meaning: impl Into<String>,
    action: Option<&str>,
) -> Check {
    Check { name, status, found: found.into(), meaning: meaning.into(), action: action.map(str::to_owned) }
}

/// Returns true if this version of a runtime is older than one of `since`. None if the version is unknown.
fn is_older(version: &Result<(String, String), String>, since: &[(&str, u32, u32)]) -> Option<bool> {
    let (name, version) = version.as_ref().ok()?;
    let (_, major, minor) = since.iter().find(|(runtime, ..)| name.eq_ignore_ascii_case(runtime))?;
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    Some((parts.next()??, parts.next()??) < (*major, *minor))
}

fn runtime(inventory: &Inventory) -> Check {
    let (found, meaning) = handlers(inventory);
    let check = annotations(inventory);
    Check { found: check.found + &found, meaning: check.meaning + &meaning, ..check }
}

/// What the runtime's handlers add to its check: pods of theirs are no fault of the node.
fn handlers(inventory: &Inventory) -> (String, String) {
    let named = |(name, kind): (&String, &Bypass)| {
        if name.is_empty() { format!("the default ({kind})") } else { format!("{name} ({kind})") }
    };
    let handlers: Vec<_> = inventory.handlers.iter().map(named).collect();
    if handlers.is_empty() {
        return (String::new(), String::new());
    }
    (
        format!("; handlers of runtime classes: {}", handlers.join(", ")),
        "; pods of these handlers bypass the rules, and are not redirected".to_owned(),
    )
}

fn annotations(inventory: &Inventory) -> Check {
    let Inventory { runtime, complaints, version, .. } = inventory;
    let found = match version {
        Ok((name, version)) => format!("{name} {version}; {runtime}"),
        Err(why) => format!("{runtime}; not asked: {why}"),
    };
    if !complaints.is_empty() {
        let meaning = format!("a part of its configuration cannot be read: {}", complaints.join("; "));
        let action = "make it readable, or name the folders by --cni-conf-dir and --cni-bin-dir";
        return check("runtime", Status::Degraded, found, meaning, Some(action));
    }
    match is_older(version, &ANNOTATIONS_SINCE) {
        Some(true) => check(
            "runtime",
            Status::Degraded,
            found,
            "too old to hand pods' annotations to a plugin: the agent's socket is asked for each pod instead",
            Some(
                "upgrade to containerd 1.5 or CRI-O 1.28; until then run the agent with --node-name, and onUnknown deny",
            ),
        ),
        Some(false) => check("runtime", Status::Ok, found, "hands pods' annotations to the plugin", None),
        None => check(
            "runtime",
            Status::Absent,
            found,
            "whether it hands pods' annotations to the plugin is not known",
            None,
        ),
    }
}

fn network(inventory: &Inventory) -> Check {
    let Inventory { conf_dir, network, .. } = inventory;
    let folder = conf_dir.display();
    let missing = |found: String, meaning: &str, action: &str| {
        check("network", Status::Missing, found, meaning, Some(action))
    };
    match network {
        NetworkInUse::Used(Used { name, stale: Some(stale), .. }) => check(
            "network",
            Status::Degraded,
            format!("{folder}/{name} {stale}"),
            "the runtime uses culvert's list, and not what the network plugin wants",
            Some(
                "start the agent, which follows the network plugin's file; or run `culvert-install uninstall`",
            ),
        ),
        NetworkInUse::Used(Used { name, passed_over, version: Ok(_), .. }) if !passed_over.is_empty() => {
            check(
                "network",
                Status::Degraded,
                format!("{folder}/{name}, behind {}", passed_over.join("; ")),
                "the runtime passes files over that come before the one that it uses",
                Some(
                    "put them right or remove them; where a plugin is missing, see why its network plugin did not place it",
                ),
            )
        }
        NetworkInUse::Used(Used { name, chain, version: Ok(version), .. }) => check(
            "network",
            Status::Ok,
            format!("{folder}/{name}: {}", chain.join(" → ")),
            format!("the file that the runtime uses, cniVersion {version}"),
            None,
        ),
        NetworkInUse::Used(Used { name, version: Err(problem), .. }) => missing(
            format!("{folder}/{name}"),
            &problem.to_string(),
            "upgrade the network plugin, or have it write a cniVersion from 0.3.0 to 1.1.0",
        ),
        NetworkInUse::Empty(Some(wanted)) => missing(
            format!("{folder} holds no configuration of the network {wanted:?}"),
            "no pod can start: the runtime is set to use this network only (cni_default_network)",
            "look at the network plugin's DaemonSet, or at the runtime's setting",
        ),
        NetworkInUse::Broken { name, problem, rule: InvalidFile::PassedOver } => missing(
            format!("{folder}/{name}: {problem}"),
            "no pod can start: the runtime passes over every file of the folder, this one first",
            "put the file right; where a plugin is missing, see why its network plugin did not place it",
        ),
        NetworkInUse::Empty(None) => missing(
            format!("{folder} holds no configuration"),
            "no pod can start: the network plugin has not come yet, or writes elsewhere",
            "look at the network plugin's DaemonSet; if it writes elsewhere, name the folder by --cni-conf-dir",
        ),
        NetworkInUse::Broken { name, problem, rule: InvalidFile::Stops } => missing(
            format!("{folder}/{name}: {problem}"),
            "the runtime cannot load it, and takes no other: it works by what it loaded before, and by nothing after a restart",
            "put the file right, or move it out of the folder",
        ),
        NetworkInUse::Unreadable(problem) => missing(
            format!("{folder}: {problem}"),
            "nobody knows what the runtime uses",
            "run doctor as root; if the folder is another, name it by --cni-conf-dir",
        ),
    }
}

/// The plugin that the runtime finds, and its folder.
fn placed(inventory: &Inventory) -> Option<(&Folder, &PlacedPlugin)> {
    inventory.folders.iter().find_map(|folder| Some((folder, folder.plugin.as_ref()?)))
}

fn used(inventory: &Inventory) -> Option<&Used> {
    match &inventory.network {
        NetworkInUse::Used(used) => Some(used),
        NetworkInUse::Empty(_) | NetworkInUse::Broken { .. } | NetworkInUse::Unreadable(_) => None,
    }
}

fn has_entry(inventory: &Inventory) -> bool {
    used(inventory).is_some_and(|used| used.asks.is_some())
}

fn plugin(inventory: &Inventory) -> Check {
    let folders = || {
        let paths: Vec<_> =
            inventory.folders.iter().map(|folder| folder.path.display().to_string()).collect();
        paths.join(", ")
    };
    let Some((folder, PlacedPlugin { identity, is_executable, is_retired })) = placed(inventory) else {
        let found = format!("not in {}", folders());
        if has_entry(inventory) {
            let meaning = "the network names a plugin that is not there: no pod can start, and none can go";
            let action = "start the agent, which places it, or run `culvert-install uninstall`, which takes the name out";
            return check("plugin", Status::Missing, found, meaning, Some(action));
        }
        return match inventory.folders.iter().find(|folder| folder.is_there) {
            None => check(
                "plugin",
                Status::Missing,
                format!("{found}: no such folder"),
                "there is no place for it",
                Some("name the folder that the runtime takes plugins from by --cni-bin-dir"),
            ),
            Some(Folder { is_writable: false, .. }) => check(
                "plugin",
                Status::Missing,
                format!("{found}: mounted read-only"),
                "it cannot be placed there",
                Some(
                    "have the runtime take plugins from a folder that can be written, and name it by --cni-bin-dir",
                ),
            ),
            Some(Folder { is_executable: false, .. }) => check(
                "plugin",
                Status::Missing,
                format!("{found}: mounted noexec"),
                "it could not run from there",
                Some(
                    "have the runtime take plugins from a folder that programs run from, and name it by --cni-bin-dir",
                ),
            ),
            Some(_) => check("plugin", Status::Absent, found, "culvert is not on this node", None),
        };
    };
    let path = folder.path.join(TYPE);
    let hash = identity.as_ref().map_or("unreadable", |identity| &identity.sha256[..12]);
    let found = format!("{}, sha256 {hash}…", path.display());
    if !is_executable || !folder.is_executable {
        let meaning = "it cannot be run: no pod can start, and none can go";
        let action = "start the agent, which puts it right; where the folder is mounted noexec, name another by --cni-bin-dir";
        return check("plugin", Status::Missing, found, meaning, Some(action));
    }
    if *is_retired {
        let meaning =
            "retired by an uninstall: it redirects nobody, and goes with the last pod that was made with it";
        let action = "nothing; `culvert-install uninstall` once more looks whether it can go";
        return check("plugin", Status::Degraded, found, meaning, Some(action));
    }
    match (&inventory.source, identity) {
        (Some(source), Some(identity)) if source != identity => check(
            "plugin",
            Status::Degraded,
            found,
            format!("another than the one beside this program (sha256 {}…)", &source.sha256[..12]),
            Some("start the agent of this version, or run the doctor of the version that is installed"),
        ),
        _ => check("plugin", Status::Ok, found, "there, and it can be run", None),
    }
}

fn entry(inventory: &Inventory) -> Check {
    let Inventory { others, version, .. } = inventory;
    let elsewhere = if others.is_empty() {
        String::new()
    } else {
        format!("; {} also name it, which the runtime does not use", others.join(", "))
    };
    let is_placed = placed(inventory).is_some_and(|(_, plugin)| !plugin.is_retired);
    let Some(used) = used(inventory) else {
        let (found, meaning) = ("no file that it could stand in", "see network");
        let status = if is_placed { Status::Missing } else { Status::Absent };
        return check("entry", status, found, meaning, is_placed.then_some("put the network right first"));
    };
    let Used { name, chain, asks, drop_in, .. } = used;
    let places: Vec<_> = (0..chain.len()).filter(|index| chain[*index] == TYPE).collect();
    let degraded = |found: String, meaning: &str, action: &str| {
        check("entry", Status::Degraded, found + &elsewhere, meaning, Some(action))
    };
    match (places.as_slice(), drop_in) {
        ([], false) if !is_placed => check(
            "entry",
            Status::Absent,
            format!("not in {name}{elsewhere}"),
            "culvert is not on this node",
            None,
        ),
        ([], false) => check(
            "entry",
            Status::Missing,
            format!("not in {name}{elsewhere}"),
            "the runtime does not call the plugin: onboarded pods start without rules",
            Some("start the agent, which puts it in; if it runs, its log says who takes it out"),
        ),
        ([], true) if is_older(version, &DROP_INS_SINCE) == Some(true) => check(
            "entry",
            Status::Missing,
            format!("in a drop-in beside {name}{elsewhere}"),
            "this runtime's libcni reads no drop-ins: onboarded pods start without rules",
            Some("run the agent with --mode chained, or upgrade to containerd 2.1 or CRI-O 1.33"),
        ),
        ([_], true) | ([_, _, ..], _) => degraded(
            format!("more than once in {name} and its drop-ins"),
            "the plugin is called for each: harmless, but not as it should be",
            "start the agent, which leaves one",
        ),
        ([0], false) => degraded(
            format!("the first of {name}"),
            "it has nothing to redirect: there is no pod's network yet, so no pod can start",
            "start the agent, which puts it behind the others",
        ),
        ([_], false) | ([], true) if *asks == Some(false) => degraded(
            format!("in {name}, without the capability for annotations"),
            "the runtime hands no annotations over: the agent's socket is asked for each pod",
            "start the agent, which puts it right",
        ),
        ([_], false) => {
            check("entry", Status::Ok, format!("in {name}{elsewhere}"), "the next pod is covered", None)
        }
        ([], true) => check(
            "entry",
            Status::Ok,
            format!("in a drop-in beside {name}{elsewhere}"),
            "the next pod is covered",
            None,
        ),
    }
}

/// Findings about a neighbour, of which several may hold.
struct Finding {
    found: String,
    meaning: &'static str,
    action: &'static str,
}

fn neighbour(inventory: &Inventory) -> Check {
    let kind = used(inventory).and_then(|used| used.chain.first()).map(String::as_str).unwrap_or_default();
    let found = if kind.is_empty() {
        "no network plugin".to_owned()
    } else {
        format!("{kind} ({})", neighbours::name(kind))
    };
    let socket_lb =
        matches!(inventory.cilium, Some(Cilium::Says { socket_lb: true, host_namespace_only: false }));
    let in_pods = socket_lb.then(|| Finding {
        found: "Cilium's socket load balancer works in pods".to_owned(),
        meaning: "it turns a service's address into a pod's before any rule sees it: the sidecar does not learn the service",
        action: "set socketLB.hostNamespaceOnly to true in Cilium's Helm values (bpf-lb-sock-hostns-only in cilium-config)",
    });
    let exclusive = (!inventory.renamed_by_cilium.is_empty()).then(|| Finding {
        found: format!("Cilium renamed {} away", inventory.renamed_by_cilium.join(", ")),
        meaning: "Cilium runs in exclusive mode: what others write into the folder it renames, and its own file it writes anew",
        action: neighbours::advice("cilium-cni"),
    });
    let silent = (inventory.cilium == Some(Cilium::Silent)).then(|| Finding {
        found: "what it runs with cannot be read".to_owned(),
        meaning: "whether its socket load balancer works in pods is not known",
        action: "see that bpf-lb-sock-hostns-only is \"true\" in ConfigMap cilium-config, or run doctor as root on the node",
    });
    let is_known = in_pods.is_some() || exclusive.is_some();
    let findings: Vec<_> = [in_pods, exclusive, silent].into_iter().flatten().collect();
    if !findings.is_empty() {
        let all = |part: fn(&Finding) -> &str| findings.iter().map(part).collect::<Vec<_>>().join("; ");
        return check(
            "neighbour",
            if is_known { Status::Degraded } else { Status::Unknown },
            format!("{found}; {}", all(|finding| &finding.found)),
            all(|finding| finding.meaning),
            Some(&all(|finding| finding.action)),
        );
    }
    check(
        "neighbour",
        if kind.is_empty() { Status::Absent } else { Status::Ok },
        found,
        "nothing known against it",
        None,
    )
}

fn agent(inventory: &Inventory) -> Check {
    let Inventory { agent, left, .. } = inventory;
    match (agent, left, has_entry(inventory)) {
        (true, true, _) => check(
            "agent",
            Status::Degraded,
            "runs, and leaves this node alone since an uninstall",
            "pods are not covered",
            Some("delete its DaemonSet, or restart it to bring culvert back"),
        ),
        (true, false, _) => check("agent", Status::Ok, "runs", "what is taken away is put back", None),
        (false, _, true) => check(
            "agent",
            Status::Degraded,
            "does not run",
            "pods are covered, but nobody puts back what is taken away, and nobody repairs",
            Some("start culvert-install agent: the chart's DaemonSet does"),
        ),
        (false, _, false) => {
            check("agent", Status::Absent, "does not run", "culvert is not on this node", None)
        }
    }
}

fn pods(inventory: &Inventory) -> Check {
    let (first, named) = (inventory.ill.first(), inventory.ill.len());
    if let Some(first) = first {
        let more = if named > 1 { format!(" and {} more", named - 1) } else { String::new() };
        return check(
            "pods",
            Status::Degraded,
            format!("onboarded and not known to be redirected: {first}{more}"),
            "their connections may pass the sidecar by",
            Some(
                "see status and the agent's log for each; a pod that the agent cannot put right has to be made anew",
            ),
        );
    }
    match inventory.unknown.as_deref() {
        None => check(
            "pods",
            Status::Absent,
            "no agent to ask",
            "how this node's pods are is told by status",
            None,
        ),
        Some([]) => check(
            "pods",
            Status::Ok,
            "of each is known whether it is onboarded",
            "how each one is: culvert-install status",
            None,
        ),
        Some(pods) => {
            let more = pods.len().saturating_sub(MAX_NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let named = pods.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
            check(
                "pods",
                Status::Degraded,
                format!("let through unknown: {named}{more}"),
                "the runtime passed no annotations and nobody else knew them: by onUnknown allow they run without rules",
                Some(
                    "see status for each; to keep such pods from starting, set onUnknown to deny in --entry's file",
                ),
            )
        }
    }
}

/// Rules of other programs in pods. Most are meant, so they need no attention.
fn beside(inventory: &Inventory) -> Option<Check> {
    let named = inventory.beside.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>();
    let more = inventory.beside.len().saturating_sub(named.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!named.is_empty()).then(|| {
        check(
            "beside",
            Status::Ok,
            format!("{}{more}", named.join("; ")),
            "redirected connections pass that NAT by, and show that filter the sidecar's ports: see \"Beside other NAT and \
             filters\" in cni/ANNOTATIONS.md",
            None,
        )
    })
}

#[cfg(test)]
mod tests;
