// SPDX-License-Identifier: Apache-2.0
//! Facts about a node, for `doctor` to judge.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::utsname::uname;

use super::iptables::{self, Tool};
use super::namespace::{NamespaceError, in_namespace};
use super::nftables::{self, NftablesError};

/// Facts about a node.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// Output of `uname -r`; empty if the kernel gives none.
    pub kernel: String,
    /// Abilities of a fresh network namespace, such as a pod's.
    pub trial: Result<Trial, NamespaceError>,
    /// IPv6 in this kernel.
    pub ipv6: Ipv6,
    /// Every iptables program, absent ones too.
    pub iptables: Vec<Tool>,
}

/// Result of a trial in a fresh network namespace.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// Result of writing rules such as the plugin's.
    pub nat: Result<(), NftablesError>,
    /// Names of [`SYSCTLS`] that do not exist.
    pub missing_sysctls: Vec<&'static str>,
    /// True if `lo` has IPv6.
    pub ipv6_on_lo: bool,
}

/// IPv6 in a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    /// The kernel gives out IPv6 sockets.
    Supported,
    /// The kernel was built without IPv6 or started with `ipv6.disable=1`.
    NotInKernel,
    /// The kernel refuses IPv6 sockets for another reason.
    Refused(Errno),
}

/// Sysctls that the plugin sets in each onboarded pod.
pub(crate) const SYSCTLS: [&str; 7] = [
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_timeout_close",
    "net.netfilter.nf_conntrack_tcp_timeout_syn_sent",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_loose",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.ip_local_reserved_ports",
];

/// A namespace takes a few milliseconds, the first load of nf_tables' modules up to a second.
const LIMIT: Duration = Duration::from_secs(10);

/// Gathers the facts. They are of the running kernel, even for another `host_root`.
pub(crate) fn gather(host_root: &Path) -> Facts {
    Facts {
        kernel: uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
        trial: in_namespace(LIMIT, try_namespace),
        ipv6: ipv6(),
        iptables: iptables::find(host_root),
    }
}

/// Rules go first: where conntrack is a module, its sysctls exist only after them.
fn try_namespace() -> Trial {
    let nat = nftables::try_nat();
    // /proc/sys/net shows the namespace of the calling thread; /proc/net does not.
    let missing = |name: &&str| !Path::new("/proc/sys").join(name.replace('.', "/")).exists();
    let ipv6_off = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    Trial {
        nat,
        missing_sysctls: SYSCTLS.into_iter().filter(missing).collect(),
        ipv6_on_lo: ipv6_off.is_ok_and(|off| off.trim() == "0"),
    }
}

fn ipv6() -> Ipv6 {
    match socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) {
        Ok(_) => Ipv6::Supported,
        Err(Errno::EAFNOSUPPORT) => Ipv6::NotInKernel,
        Err(errno) => Ipv6::Refused(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Holds with root and without: the trial either ran in its own namespace or gives the reason.
    #[test]
    fn the_machine_answers() {
        let facts = gather(Path::new("/"));
        assert!(!facts.kernel.is_empty());
        assert_eq!(facts.iptables.len(), iptables::COMMANDS.len());
        match facts.trial {
            Ok(trial) if trial.nat.is_ok() => assert_eq!(trial.missing_sysctls, [""; 0]),
            Ok(trial) => {
                assert!(matches!(trial.nat, Err(NftablesError::Part(..) | NftablesError::Transaction(_))))
            }
            Err(error) => assert_eq!(error, NamespaceError::NeedsRoot),
        }
    }
}
