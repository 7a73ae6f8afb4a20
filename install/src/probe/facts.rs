// SPDX-License-Identifier: Apache-2.0
//! Gathers what `doctor` judges: facts only.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::utsname::uname;

use super::iptables::{self, Tool};
use super::namespace::{NamespaceError, in_namespace};
use super::nftables::{self, NftablesError};

/// What was found on a node.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// As `uname -r` says it; empty when the kernel does not.
    pub kernel: String,
    /// What a network namespace such as a pod's can do.
    pub trial: Result<Trial, NamespaceError>,
    /// Whether the kernel speaks IPv6 at all.
    pub ipv6: Ipv6,
    /// Every iptables, the absent too.
    pub iptables: Vec<Tool>,
}

/// What a fresh network namespace said.
#[derive(Debug, Clone)]
pub(crate) struct Trial {
    /// Rules such as the plugin's.
    pub nat: Result<(), NftablesError>,
    /// Those of [`SYSCTLS`] that are not there.
    pub missing_sysctls: Vec<&'static str>,
    /// Whether `lo` has IPv6.
    pub ipv6_on_lo: bool,
}

/// The kernel's word on IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    /// It gives out IPv6 sockets.
    Supported,
    /// It was built without, or started with `ipv6.disable=1`.
    NotInKernel,
    /// It refuses sockets for another reason.
    Refused(Errno),
}

/// What the plugin sets in each onboarded pod, beside the rules.
pub(crate) const SYSCTLS: [&str; 5] = [
    "net.netfilter.nf_conntrack_tcp_timeout_close_wait",
    "net.netfilter.nf_conntrack_tcp_be_liberal",
    "net.netfilter.nf_conntrack_tcp_loose",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.ip_local_reserved_ports",
];

/// A namespace takes a few milliseconds; loading nf_tables' modules for the first time up to a second.
const LIMIT: Duration = Duration::from_secs(10);

/// Asks the machine. The kernel is the one this process runs on, whatever `host_root` is.
pub(crate) fn gather(host_root: &Path) -> Facts {
    Facts {
        kernel: uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default(),
        trial: in_namespace(LIMIT, try_namespace),
        ipv6: ipv6(),
        iptables: iptables::find(host_root),
    }
}

/// Rules first: where conntrack is a module, its sysctls exist only after them.
fn try_namespace() -> Trial {
    let nat = nftables::try_nat();
    // /proc/sys/net shows the calling thread's namespace, which /proc/net does not.
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

    /// Holds with root and without: a trial that ran speaks of a pod-like namespace, one that did not says why.
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
