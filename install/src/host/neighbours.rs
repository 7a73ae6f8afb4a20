// SPDX-License-Identifier: Apache-2.0
//! Whose file a chain is, and what its owner has to be told so that our entry may stay in it. Pure.

/// A network plugin that writes its configuration itself.
struct Known {
    /// What its plugins' types begin with.
    kind: &'static str,
    /// For people, and a metric's label.
    name: &'static str,
    /// What to set.
    advice: &'static str,
}

const KNOWN: [Known; 8] = [
    Known {
        kind: "cilium-cni",
        name: "Cilium",
        advice: "set cni.exclusive to false in Cilium's Helm values (cni-exclusive in ConfigMap cilium-config): it else renames \
                 other files away, and it writes its own anew whenever its agent starts",
    },
    Known {
        kind: "multus",
        name: "Multus",
        advice: "Multus writes this file anew when the cluster network's changes: give it a file of your own by \
                 --multus-conf-file, with our entry in its list",
    },
    Known {
        kind: "calico",
        name: "Calico",
        advice: "calico-node's container install-cni writes it when it starts; one that does so again and again is failing, \
                 see its log",
    },
    Known {
        kind: "aws-cni",
        name: "the AWS VPC CNI",
        advice: "aws-node writes it when it starts; one that does so again and again is failing, see its log",
    },
    Known {
        kind: "azure-vnet",
        name: "the Azure CNI",
        advice: "it is written when the node's network is set up anew: look what restarts azure-vnet or azure-cns",
    },
    Known {
        kind: "flannel",
        name: "Flannel",
        advice: "its container install-cni (k3s: the k3s service) writes it when it starts; look what restarts it",
    },
    Known {
        kind: "istio-cni",
        name: "Istio",
        advice: "istio-cni puts itself last in the same file: give us a place before it by --position after:TYPE",
    },
    Known {
        kind: "ptp",
        name: "kindnet or GKE's netd",
        advice: "it is written anew when the node's pod ranges change; look what restarts kindnet or netd",
    },
];

/// What to say about somebody whose plugins we do not know.
const UNKNOWN: &str = "look which DaemonSet mounts the folder and writes there, and tell it to keep entries that it does not \
                       know; where the runtime's libcni is 1.3 or later, --mode drop-in needs no place in its file";

/// The name of the owner of a chain whose first plugin is `kind`: one of a few words.
pub(crate) fn name(kind: &str) -> &'static str {
    known(kind).map_or("its network plugin", |known| known.name)
}

/// What to set so that our entry stays.
pub(crate) fn advice(kind: &str) -> &'static str {
    known(kind).map_or(UNKNOWN, |known| known.advice)
}

fn known(kind: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| kind.starts_with(known.kind))
}
