// SPDX-License-Identifier: Apache-2.0
//! The network plugins that write a chain themselves, with the setting of each that lets our entry stay. Pure.

/// A network plugin that writes its configuration itself.
struct Neighbour {
    /// Prefix of its plugins' types.
    kind: &'static str,
    /// Its name in log lines.
    name: &'static str,
    /// The remedy, for the operator.
    advice: &'static str,
}

const KNOWN: [Neighbour; 8] = [
    Neighbour {
        kind: "cilium-cni",
        name: "Cilium",
        advice: "set cni.exclusive to false in Cilium's Helm values (cni-exclusive in ConfigMap cilium-config): it else renames \
                 other files away, and it writes its own anew whenever its agent starts",
    },
    Neighbour {
        kind: "multus",
        name: "Multus",
        advice: "Multus writes this file anew when the cluster network's changes: give it a file of your own by \
                 --multus-conf-file, with our entry in its list",
    },
    Neighbour {
        kind: "calico",
        name: "Calico",
        advice: "calico-node's container install-cni writes it when it starts; one that does so again and again is failing, \
                 see its log",
    },
    Neighbour {
        kind: "aws-cni",
        name: "the AWS VPC CNI",
        advice: "aws-node writes it when it starts; one that does so again and again is failing, see its log",
    },
    Neighbour {
        kind: "azure-vnet",
        name: "the Azure CNI",
        advice: "it is written when the node's network is set up anew: find out what restarts azure-vnet or azure-cns",
    },
    Neighbour {
        kind: "flannel",
        name: "Flannel",
        advice: "its container install-cni (k3s: the k3s service) writes it when it starts: find out what restarts it",
    },
    Neighbour {
        kind: "istio-cni",
        name: "Istio",
        advice: "istio-cni puts itself last in the same file: give culvert a place before it by --position after:TYPE",
    },
    Neighbour {
        kind: "ptp",
        name: "kindnet or GKE's netd",
        advice: "it is written anew when the node's pod ranges change: find out what restarts kindnet or netd",
    },
];

/// The remedy where the owner of the file is not known.
const UNKNOWN: &str = "find the DaemonSet that mounts the folder and writes there, and configure it to keep entries that it does \
                       not know; where the runtime's libcni is 1.3 or later, --mode drop-in needs no place in its file";

/// Returns the name of the owner of a chain whose first plugin is `kind`.
pub(crate) fn name(kind: &str) -> &'static str {
    known(kind).map_or("its network plugin", |known| known.name)
}

/// Returns the remedy by which our entry stays.
pub(crate) fn advice(kind: &str) -> &'static str {
    known(kind).map_or(UNKNOWN, |known| known.advice)
}

fn known(kind: &str) -> Option<&'static Neighbour> {
    KNOWN.iter().find(|known| kind.starts_with(known.kind))
}
