// SPDX-License-Identifier: Apache-2.0
//! Capabilities of this thread.

use std::fs;

/// `CAP_NET_ADMIN` of linux/capability.h: rules, addresses and sysctls of the network.
const NET_ADMIN: Capability = Capability { bit: 12, name: "CAP_NET_ADMIN" };
/// `CAP_SYS_ADMIN`: entering another namespace.
const SYS_ADMIN: Capability = Capability { bit: 21, name: "CAP_SYS_ADMIN" };

struct Capability {
    bit: u32,
    name: &'static str,
}

/// Namespace that is to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The namespace of this thread.
    Current,
    /// Any other namespace.
    Other,
}

/// Capabilities that are missing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("this needs root: {} missing", .0.join(" and "))]
pub(crate) struct Lacking(Vec<&'static str>);

/// Checks that this thread may change `target`. If /proc does not tell, the kernel decides later.
pub(crate) fn check(target: Target) -> Result<(), Lacking> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    lacking(&status, target)
}

fn lacking(status: &str, target: Target) -> Result<(), Lacking> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(bits) = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()) else {
        return Ok(());
    };
    let needed = match target {
        Target::Current => &[NET_ADMIN][..],
        Target::Other => &[NET_ADMIN, SYS_ADMIN],
    };
    let missing: Vec<_> =
        needed.iter().filter(|needed| bits & (1 << needed.bit) == 0).map(|needed| needed.name).collect();
    if missing.is_empty() { Ok(()) } else { Err(Lacking(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let status = |bits: &str| format!("Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t{bits}\n");
        for (bits, target, missing) in [
            ("000001ffffffffff", Target::Other, None),
            ("0000000000001000", Target::Current, None),
            ("0000000000001000", Target::Other, Some("this needs root: CAP_SYS_ADMIN missing")),
            ("0000000000000000", Target::Current, Some("this needs root: CAP_NET_ADMIN missing")),
            (
                "0000000000000000",
                Target::Other,
                Some("this needs root: CAP_NET_ADMIN and CAP_SYS_ADMIN missing"),
            ),
            ("?", Target::Other, None),
        ] {
            let said = lacking(&status(bits), target).err().map(|lacking| lacking.to_string());
            assert_eq!(said.as_deref(), missing, "{bits} {target:?}");
        }
    }
}
