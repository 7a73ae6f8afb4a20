// SPDX-License-Identifier: Apache-2.0
//! Sandboxes whose packets bypass the netfilter of their network namespace, by the runtime's handlers. Pure.
//!
//! The plugin writes rules into the namespace that the runtime made. The packets of such a sandbox never meet them: a guest's
//! go from its network card to the pod's interface by tc mirred or macvtap, and gVisor's own stack reads the interface itself.

use std::collections::BTreeMap;
use std::fmt;

/// A kind of such a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Bypass {
    Firecracker,
    Gvisor,
    Kata,
    /// CRI-O's `runtime_type = "vm"`, by a program of another name.
    Machine,
}

/// The handlers of such sandboxes, by the name that a RuntimeClass has; `""` is the runtime's default.
pub(crate) type Handlers = BTreeMap<String, Bypass>;

impl Bypass {
    /// Returns the kind by the name of a handler, or by the type or path of its program.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let kinds = [
            ("kata", Self::Kata),
            ("runsc", Self::Gvisor),
            ("gvisor", Self::Gvisor),
            ("firecracker", Self::Firecracker),
        ];
        kinds.into_iter().find(|(word, _)| name.contains(word)).map(|(_, kind)| kind)
    }

    /// The reason in a pod's row.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Gvisor => {
                "its sandbox is gVisor's, whose own network stack bypasses the rules, unless runsc has --network=host"
            }
            Self::Firecracker | Self::Kata | Self::Machine => {
                "its sandbox is a virtual machine, whose packets bypass the rules (tc mirred or macvtap)"
            }
        }
    }
}

impl fmt::Display for Bypass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Firecracker => "Firecracker",
            Self::Gvisor => "gVisor",
            Self::Kata => "Kata",
            Self::Machine => "a virtual machine",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_names_of_handlers_types_and_programs() {
        for (name, expected) in [
            ("kata", Some(Bypass::Kata)),
            ("kata-qemu-tdx", Some(Bypass::Kata)),
            ("io.containerd.kata.v2", Some(Bypass::Kata)),
            ("/opt/kata/bin/containerd-shim-kata-v2", Some(Bypass::Kata)),
            ("runsc", Some(Bypass::Gvisor)),
            ("gVisor", Some(Bypass::Gvisor)),
            ("io.containerd.runsc.v1", Some(Bypass::Gvisor)),
            ("aws.firecracker", Some(Bypass::Firecracker)),
            ("", None),
            ("runc", None),
            ("io.containerd.runc.v2", None),
            ("crun", None),
            ("/usr/bin/youki", None),
            ("nvidia", None),
            ("sysbox-runc", None),
            ("wasmtime", None),
        ] {
            assert_eq!(Bypass::of(name), expected, "{name}");
        }
    }
}
