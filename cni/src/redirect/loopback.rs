// SPDX-License-Identifier: Apache-2.0
//! `::6` on `lo`: the source address of the sidecar's inbound hop over IPv6. (`127.0.0.6` needs no such step: all of
//! `127.0.0.0/8` is local.)

use std::fs;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use serde::{Deserialize, Serialize};

use super::policy::HOP_SOURCE_V6;
use crate::netlink::{ACK, Batch, CREATE, EXCL, NetlinkError, Socket};

const NEW_ADDRESS: u16 = 20; // RTM_NEWADDR
const DELETE_ADDRESS: u16 = 21; // RTM_DELADDR
const FAMILY_INET6: u8 = 10; // AF_INET6
const IFA_F_NODAD: u8 = 0x02;
const SCOPE_HOST: u8 = 254; // RT_SCOPE_HOST
const LOOPBACK_INDEX: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// The state of `::6` after an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HopAddress {
    /// Added to `lo` by this installation.
    Added,
    /// Found on `lo` already.
    Present,
    /// Left out, since IPv6 is off on `lo` or in the kernel.
    Off,
}

/// Add `::6` to `lo`.
pub(crate) fn add() -> Result<HopAddress, NetlinkError> {
    if is_off() {
        return Ok(HopAddress::Off);
    }
    match change(NEW_ADDRESS, CREATE | EXCL) {
        Ok(()) => Ok(HopAddress::Added),
        Err(error) => match error.errno() {
            Some(Errno::EEXIST) => Ok(HopAddress::Present),
            // IPv6 was switched off between the check and the call.
            Some(Errno::EACCES | Errno::EOPNOTSUPP) if is_off() => Ok(HopAddress::Off),
            // The answer was lost, and the address is there. It counts as added: DEL may then remove an address that was
            // there before, which is less harm than leaving one behind.
            _ if !matches!(error, NetlinkError::Refused { .. }) && is_there() => Ok(HopAddress::Added),
            _ => Err(error),
        },
    }
}

/// Remove `::6` from `lo`; a missing address is no error.
pub(crate) fn remove() -> Result<(), NetlinkError> {
    match change(DELETE_ADDRESS, 0) {
        Err(error) if error.errno() == Some(Errno::EADDRNOTAVAIL) || is_off() => Ok(()),
        other => other,
    }
}

/// Returns true if IPv6 is off on `lo`, or not in the kernel at all.
pub(crate) fn is_off() -> bool {
    match fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6") {
        Ok(disabled) => disabled.trim_end() != "0",
        Err(_) => true,
    }
}

/// Returns true if an interface of this thread's network namespace has `::6`.
pub(crate) fn is_there() -> bool {
    // Lines begin with the address as 32 hexadecimal digits. Not /proc/net: it shows the main thread's namespace.
    let hex: String = HOP_SOURCE_V6.octets().iter().map(|byte| format!("{byte:02x}")).collect();
    fs::read_to_string("/proc/thread-self/net/if_inet6")
        .is_ok_and(|addresses| addresses.lines().any(|line| line.starts_with(&hex)))
}

fn change(kind: u16, flags: u16) -> Result<(), NetlinkError> {
    let mut batch = Batch::default();
    // struct ifaddrmsg: family, prefix length, flags, scope, interface
    let mut fixed = [FAMILY_INET6, 128, IFA_F_NODAD, SCOPE_HOST, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&LOOPBACK_INDEX.to_ne_bytes());
    batch.message(kind, flags | ACK, &fixed, |a| {
        a.bytes(IFA_LOCAL, &HOP_SOURCE_V6.octets());
        a.bytes(IFA_ADDRESS, &HOP_SOURCE_V6.octets());
    });
    Socket::open(SockProtocol::NetlinkRoute)?.transact(&batch)
}
