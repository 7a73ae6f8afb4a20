// SPDX-License-Identifier: Apache-2.0
//! Meaning of the facts for culvert, and advice. Pure.

use std::path::Path;

use serde::Serialize;

use crate::probe::facts::{Facts, Ipv6, SYSCTLS, Trial};
use crate::probe::iptables::{Backend, Tool, ToolState};
use crate::probe::kernel::{INET_NAT, Version};
use crate::probe::namespace::NamespaceError;
use crate::probe::nftables::NftablesError;

/// Result of one check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Present and working.
    Ok,
    /// Absent, and nothing needs it.
    Absent,
    /// Works, with less than a pod should have.
    Degraded,
    /// Absent, and culvert needs it.
    Missing,
    /// Could not be determined.
    Unknown,
}

/// One check. Keys and names are stable in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// `kernel`, `nftables`, `conntrack`, `ipv6`, `iptables`, `runtime`, `network`, `plugin`, `entry`, `neighbour`, `agent`,
    /// `pods` or, if there is any to name, `beside`; with `--cluster` `apiserver`, `webhook`, `ca-bundle`, `namespace`,
    /// `dry-run`, `sidecar`, as far as they are reached.
    pub name: &'static str,
    pub status: Status,
    /// Facts that were found.
    pub found: String,
    /// Meaning for pods on this node.
    pub meaning: String,
    /// Advice; none if there is nothing to do.
    pub action: Option<String>,
}

/// The whole answer of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    /// Version of culvert.
    pub version: &'static str,
    /// Root of the node that was checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_root: Option<String>,
    /// API server of the cluster that was checked instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_server: Option<String>,
    /// True if nothing needs attention.
    pub well: bool,
    /// Checks in the order of reading.
    pub checks: Vec<Check>,
}

/// Judges the facts.
pub(crate) fn diagnose(host_root: &Path, facts: &Facts) -> Report {
    let Facts { kernel, trial, ipv6, iptables } = facts;
    let nat = Nat::of(trial);
    let checks = vec![
        judge_kernel(kernel, nat),
        judge_nftables(trial, Version::parse(kernel)),
        judge_conntrack(trial),
        judge_ipv6(*ipv6, trial),
        judge_iptables(iptables, nat),
    ];
    Report {
        version: env!("CARGO_PKG_VERSION"),
        host_root: Some(host_root.to_string_lossy().into_owned()),
        api_server: None,
        well: checks.iter().all(|check| !check.status.needs_attention()),
        checks,
    }
}

/// Result of the trial of nftables, for the checks that depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nat {
    Works,
    Refused,
    NotTried,
}

fn judge_kernel(release: &str, nat: Nat) -> Check {
    let check = |status, meaning: String, action| Check {
        name: "kernel",
        status,
        found: if release.is_empty() { "no release".to_owned() } else { release.to_owned() },
        meaning,
        action,
    };
    match Version::parse(release) {
        None => check(
            Status::Unknown,
            format!("its version cannot be read; {INET_NAT} or later is needed"),
            Some(format!("compare `uname -r` with {INET_NAT} yourself, and report this")),
        ),
        Some(version) if version >= INET_NAT => {
            check(Status::Ok, format!("{INET_NAT} or later: one table redirects both IP families"), None)
        }
        Some(_) if nat == Nat::Works => check(
            Status::Ok,
            format!("older than {INET_NAT}, but what culvert needs was ported back to it"),
            None,
        ),
        Some(_) => check(
            Status::Missing,
            format!("older than {INET_NAT}: no table can redirect both IP families"),
            Some(format!("upgrade the node's kernel to {INET_NAT} or later")),
        ),
    }
}

fn judge_nftables(trial: &Result<Trial, NamespaceError>, kernel: Option<Version>) -> Check {
    let check = |status, found: String, meaning: &str, action| Check {
        name: "nftables",
        status,
        found,
        meaning: meaning.to_owned(),
        action,
    };
    match trial.as_ref().map(|trial| trial.nat) {
        Ok(Ok(())) => check(
            Status::Ok,
            "trial rules accepted in a network namespace of their own".to_owned(),
            "the plugin redirects by itself: no iptables, no nft, no shell is needed",
            None,
        ),
        Ok(Err(refusal)) if refusal.is_about_the_caller() => check(
            Status::Unknown,
            format!("not tried: {refusal}"),
            "whether the plugin can redirect on this node is not known",
            Some(way_to_try(NamespaceError::NeedsRoot)),
        ),
        Ok(Err(refusal)) => check(
            Status::Missing,
            refusal.to_string(),
            "the plugin cannot redirect on this node: onboarded pods would not start",
            Some(remedy(refusal, kernel)),
        ),
        Err(error) => check(
            Status::Unknown,
            format!("not tried: {error}"),
            "whether the plugin can redirect on this node is not known",
            Some(way_to_try(*error)),
        ),
    }
}

fn judge_conntrack(trial: &Result<Trial, NamespaceError>) -> Check {
    let check = |status, found: String, meaning: &str, action| Check {
        name: "conntrack",
        status,
        found,
        meaning: meaning.to_owned(),
        action,
    };
    let Trial { nat, missing_sysctls, .. } = match trial {
        Ok(trial) => trial,
        Err(error) => {
            return check(
                Status::Unknown,
                format!("not tried: {error}"),
                "whether pods can keep half-closed and long connections is not known",
                Some(way_to_try(*error)),
            );
        }
    };
    let missing = missing_sysctls.join(", ");
    match (missing_sysctls.len(), nat) {
        (0, _) => check(
            Status::Ok,
            format!("all {} sysctls are there in a pod's namespace", SYSCTLS.len()),
            "half-closed connections are kept for 12 h rather than 60 s",
            None,
        ),
        (_, Err(_)) => check(
            Status::Unknown,
            format!("not there: {missing}"),
            "they appear with the first NAT rule, which was refused",
            Some("put nftables right first, then run doctor again".to_owned()),
        ),
        (_, Ok(())) => check(
            Status::Degraded,
            format!("not there: {missing}"),
            "connections are redirected, but half-closed or busy ones may be cut",
            Some("boot a kernel with CONFIG_NF_CONNTRACK_PROCFS and CONFIG_SYSCTL, 4.15 or later".to_owned()),
        ),
    }
}

fn judge_ipv6(ipv6: Ipv6, trial: &Result<Trial, NamespaceError>) -> Check {
    let check = |status, found: String, meaning: &str, action: Option<&str>| Check {
        name: "ipv6",
        status,
        found,
        meaning: meaning.to_owned(),
        action: action.map(str::to_owned),
    };
    const IPV4_ONLY: &str = "pods have IPv4 only; rules are written for both families all the same";
    match (ipv6, trial.as_ref().map(|trial| trial.ipv6_on_lo)) {
        (Ipv6::Supported, Ok(true)) => check(
            Status::Ok,
            "on in a new network namespace".to_owned(),
            "both families are redirected",
            None,
        ),
        (Ipv6::Supported, Ok(false)) => check(
            Status::Absent,
            "off in a new network namespace".to_owned(),
            IPV4_ONLY,
            Some("nothing; for IPv6 in pods, start the kernel without ipv6.disable_ipv6=1"),
        ),
        (Ipv6::Supported, Err(_)) => check(
            Status::Ok,
            "in the kernel; a new network namespace was not tried".to_owned(),
            "both families are redirected where a pod has both",
            None,
        ),
        (Ipv6::NotInKernel, _) => check(
            Status::Absent,
            "not in the kernel, or off by ipv6.disable=1".to_owned(),
            IPV4_ONLY,
            Some("nothing; for IPv6 in pods, boot a kernel with CONFIG_IPV6 and without ipv6.disable=1"),
        ),
        (Ipv6::Refused(errno), _) => check(
            Status::Unknown,
            format!("no IPv6 socket: {}", errno.desc()),
            "whether pods have IPv6 is not known",
            Some("look what keeps this process from making sockets (seccomp, LSM)"),
        ),
    }
}

fn judge_iptables(tools: &[Tool], nat: Nat) -> Check {
    let there = tools.iter().any(|tool| matches!(tool.answer, ToolState::Runs { .. } | ToolState::Found));
    let (status, meaning, action) = match (nat, there) {
        (Nat::Works, true) => (Status::Ok, "not needed: nftables works", None),
        (Nat::Works, false) => (Status::Absent, "not needed: nftables works", None),
        (Nat::NotTried, true) => (Status::Ok, "needed only where nftables is missing", None),
        (Nat::NotTried, false) => (Status::Absent, "needed only where nftables is missing", None),
        (Nat::Refused, true) => (
            Status::Ok,
            "carries the rules where nftables cannot: slower, and each pod runs a few programs",
            None,
        ),
        (Nat::Refused, false) => (
            Status::Missing,
            "nftables cannot do NAT here, and there is no iptables to fall back to",
            Some("put nftables right, or install iptables 1.8 or later on the node"),
        ),
    };
    Check {
        name: "iptables",
        status,
        found: describe(tools),
        meaning: meaning.to_owned(),
        action: action.map(str::to_owned),
    }
}

/// Describes tools, such as `ip(6)tables 1.8.9 (nft), ip(6)tables-nft 1.8.9`: a pair with equal results in one word,
/// without absent ones.
fn describe(tools: &[Tool]) -> String {
    let answer = |command: &str| tools.iter().find(|tool| tool.command == command).map(|tool| &tool.answer);
    let mut found = Vec::new();
    for suffix in ["", "-nft", "-legacy"] {
        let [v4, v6] = ["iptables", "ip6tables"].map(|prefix| format!("{prefix}{suffix}"));
        let (answer_v4, answer_v6) = (answer(&v4), answer(&v6));
        if answer_v4 == answer_v6 {
            found.extend(describe_tool(&format!("ip(6)tables{suffix}"), answer_v4));
        } else {
            found.extend(describe_tool(&v4, answer_v4));
            found.extend(describe_tool(&v6, answer_v6));
        }
    }
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

fn describe_tool(command: &str, answer: Option<&ToolState>) -> Option<String> {
    match answer? {
        ToolState::Absent => None,
        ToolState::Found => Some(format!("{command} (not run)")),
        ToolState::Broken(reason) => Some(format!("{command} (broken: {reason})")),
        // The name contains the backend already.
        ToolState::Runs { version, .. } if command.contains('-') => Some(format!("{command} {version}")),
        ToolState::Runs { version, backend: Backend::Nft } => Some(format!("{command} {version} (nft)")),
        ToolState::Runs { version, backend: Backend::Legacy } => {
            Some(format!("{command} {version} (legacy)"))
        }
    }
}

fn remedy(refusal: NftablesError, kernel: Option<Version>) -> String {
    match refusal {
        NftablesError::Part(..) if kernel.is_some_and(|version| version < INET_NAT) => {
            "upgrade the kernel, see above: no module brings this to it".to_owned()
        }
        NftablesError::Part(part, _) => format!(
            "`modprobe {}` on the node (and list it in /etc/modules-load.d); where there is no such module, boot a \
             kernel with {}",
            part.module, part.option
        ),
        NftablesError::Socket(_) | NftablesError::Transaction(_) => {
            "`modprobe nf_tables` on the node; where there is no such module, boot a kernel with CONFIG_NF_TABLES; \
             in a container, also look for a seccomp profile that forbids netlink"
                .to_owned()
        }
        NftablesError::Garbled => "report this with the kernel's version".to_owned(),
    }
}

fn way_to_try(error: NamespaceError) -> String {
    match error {
        NamespaceError::NeedsRoot => "run doctor as root (CAP_SYS_ADMIN and CAP_NET_ADMIN)".to_owned(),
        NamespaceError::Refused(_) => {
            "boot a kernel with CONFIG_NET_NS, and look at the limit user.max_net_namespaces".to_owned()
        }
        NamespaceError::Unanswered(_) => {
            "look in dmesg for a netfilter module that hangs while loading, then run doctor again".to_owned()
        }
    }
}

// === impl Report ===

impl Report {
    /// Adds checks behind its own.
    pub(crate) fn with(mut self, checks: Vec<Check>) -> Self {
        self.well &= !checks.iter().any(|check| check.status.needs_attention());
        self.checks.extend(checks);
        self
    }
}

// === impl Status ===

impl Status {
    /// Returns true if this result alone makes the node need attention.
    pub(crate) fn needs_attention(self) -> bool {
        match self {
            Self::Ok | Self::Absent => false,
            Self::Degraded | Self::Missing | Self::Unknown => true,
        }
    }
}

// === impl Nat ===

impl Nat {
    fn of(trial: &Result<Trial, NamespaceError>) -> Self {
        match trial {
            Ok(Trial { nat: Ok(()), .. }) => Self::Works,
            Ok(Trial { nat: Err(refusal), .. }) if !refusal.is_about_the_caller() => Self::Refused,
            Ok(_) | Err(_) => Self::NotTried,
        }
    }
}
