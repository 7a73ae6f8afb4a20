// SPDX-License-Identifier: Apache-2.0
//! The sysctls of the pod's network namespace that redirected connections need (contract §4), each put back on failure.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it. conntrack's exist only once something uses conntrack,
//! so they are set after the rules.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::policy::Policy;

/// Half-closed redirected connections: the kernel forgets them after 60 s, and the server's late answer would leave from
/// the sidecar's port. 12 hours, as long as the longest idle timeout that users ask for.
const CLOSE_WAIT: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_timeout_close_wait", "43200");
/// Segments outside of conntrack's window would pass untranslated and be answered by a reset.
const BE_LIBERAL: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_be_liberal", "1");
/// Without it the hop from `::6` runs out of ports at some 470 connections a second.
const TW_REUSE: (&str, &str) = ("net/ipv4/tcp_tw_reuse", "1");
/// Connections older than the rules stay direct, see [`super::living`].
const LOOSE: (&str, &str) = ("net/netfilter/nf_conntrack_tcp_loose", "0");
/// An outgoing connection must not sit on a port that the sidecar will listen on.
const RESERVED_PORTS: &str = "net/ipv4/ip_local_reserved_ports";
/// The most that a sysctl's value may hold, in bytes; a list of all odd ports is below it.
const MAX_VALUE: u64 = 512 << 10;

/// A sysctl that we changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Its path below `/proc/sys`.
    pub name: String,
    /// What it held.
    pub before: String,
    /// What we wrote.
    pub after: String,
}

/// A sysctl could not be read or set.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} /proc/sys/{name}: {source}{hint}")]
pub struct SysctlError {
    verb: &'static str,
    name: String,
    hint: &'static str,
    source: io::Error,
}

impl SysctlError {
    /// Whether `/proc/sys` is read-only, as in most containers.
    pub(crate) fn is_read_only(&self) -> bool {
        self.source.kind() == io::ErrorKind::ReadOnlyFilesystem
    }

    fn new(verb: &'static str, name: &str, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => ": does this kernel have conntrack (modprobe nf_conntrack)?",
            io::ErrorKind::ReadOnlyFilesystem => {
                ": a container's /proc/sys is read-only unless it is privileged"
            }
            _ => "",
        };
        Self { verb, name: name.to_owned(), hint, source }
    }
}

/// Keep conntrack from taking the next segment of an untracked connection for a new connection.
///
/// Where conntrack is a module that nothing has loaded yet, there is nothing to set: the connections then get the kernel's
/// default once the rules load it.
pub(crate) fn keep_established(changed: &mut Vec<Changed>) -> Result<(), SysctlError> {
    let (name, wanted) = LOOSE;
    match read(name) {
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(before) if before == wanted => Ok(()),
        Ok(before) => {
            write(name, wanted)?;
            changed.push(Changed { name: name.to_owned(), before, after: wanted.to_owned() });
            Ok(())
        }
    }
}

/// Set what `policy` needs; what was changed goes to `changed` as it happens, so that a failure can be undone.
pub(crate) fn set(policy: &Policy, changed: &mut Vec<Changed>) -> Result<(), SysctlError> {
    for (name, wanted) in [CLOSE_WAIT, BE_LIBERAL, TW_REUSE] {
        let before = read(name)?;
        if before != wanted {
            write(name, wanted)?;
            changed.push(Changed { name: name.to_owned(), before, after: wanted.to_owned() });
        }
    }
    let before = read(RESERVED_PORTS)?;
    let reserved = parse_ports(&before);
    let missing: Vec<String> = policy
        .sidecar_ports()
        .into_iter()
        .map(super::policy::Port::get)
        .filter(|port| !reserved.iter().any(|(first, last)| (*first..=*last).contains(port)))
        .map(|port| port.to_string())
        .collect();
    if !missing.is_empty() {
        let separator = if before.is_empty() { "" } else { "," };
        let wanted = format!("{before}{separator}{}", missing.join(","));
        write(RESERVED_PORTS, &wanted)?;
        changed.push(Changed { name: RESERVED_PORTS.to_owned(), before, after: wanted });
        if let Some(last) = changed.last_mut() {
            // The kernel writes its own shape of the list; that is what a later comparison will see.
            last.after = read(RESERVED_PORTS)?;
        }
    }
    Ok(())
}

/// In what the sysctls differ from what `policy` needs, a line each.
pub(crate) fn difference(policy: &Policy) -> Result<Vec<String>, SysctlError> {
    let mut lines = Vec::new();
    for (name, wanted) in [CLOSE_WAIT, BE_LIBERAL, TW_REUSE] {
        match read(name) {
            Ok(found) if found != wanted => lines.push(format!("sysctl {name} is {found}, not {wanted}")),
            Ok(_) => {}
            // conntrack's are not there where nothing uses it: no rules.
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => {
                lines.push(format!("sysctl {name} is not there"));
            }
            Err(error) => return Err(error),
        }
    }
    let reserved = parse_ports(&read(RESERVED_PORTS)?);
    for port in policy.sidecar_ports().into_iter().map(super::policy::Port::get).collect::<BTreeSet<_>>() {
        if !reserved.iter().any(|(first, last)| (*first..=*last).contains(&port)) {
            lines.push(format!("sysctl {RESERVED_PORTS} does not hold {port}"));
        }
    }
    Ok(lines)
}

/// Put back what was changed, last first, where nobody changed it since. Goes on after a failure and says all.
pub(crate) fn restore(changed: &[Changed]) -> Vec<SysctlError> {
    let put_back = |sysctl: &Changed| {
        let found = read(&sysctl.name)?;
        // The kernel writes its own shape of a list of ports, which ours is still in where it could not be read back.
        let is_ours = found == sysctl.after
            || sysctl.name == RESERVED_PORTS && port_set(&found) == port_set(&sysctl.after);
        if is_ours { write(&sysctl.name, &sysctl.before) } else { Ok(()) }
    };
    changed.iter().rev().filter_map(|sysctl| put_back(sysctl).err()).collect()
}

fn port_set(list: &str) -> BTreeSet<u16> {
    parse_ports(list).into_iter().flat_map(|(first, last)| first..=last).collect()
}

fn parse_ports(list: &str) -> Vec<(u16, u16)> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
    };
    list.split(',').filter_map(range).collect()
}

fn read(name: &str) -> Result<String, SysctlError> {
    let mut text = String::new();
    OpenOptions::new()
        .read(true)
        .open(format!("/proc/sys/{name}"))
        .and_then(|file| file.take(MAX_VALUE).read_to_string(&mut text))
        .map_err(|source| SysctlError::new("read", name, source))?;
    Ok(text.trim_end().to_owned())
}

thread_local! {
    /// Where /proc/sys can be written to; see [`write_below`].
    static WRITABLE: RefCell<PathBuf> = RefCell::new(PathBuf::from("/proc/sys"));
}

/// Let this thread write sysctls through another mount of /proc: in a container /proc/sys is read-only, and the host's is
/// mounted elsewhere. Which network namespace is meant is the thread's business in either.
pub fn write_below(proc: &Path) {
    WRITABLE.set(proc.join("sys"));
}

fn write(name: &str, value: &str) -> Result<(), SysctlError> {
    // A line of its own: an empty write would be no write at all, and a list could not be emptied.
    OpenOptions::new()
        .write(true)
        .open(WRITABLE.with_borrow(|sys| sys.join(name)))
        .and_then(|mut file| file.write_all(format!("{value}\n").as_bytes()))
        .map_err(|source| SysctlError::new("set", name, source))
}
