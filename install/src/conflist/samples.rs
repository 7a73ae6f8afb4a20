// SPDX-License-Identifier: Apache-2.0
//! Files as primaries write them, each in its own style: `tests/conflists`, a folder a primary.

macro_rules! sample {
    ($folder:literal, $name:literal) => {
        ($folder, $name, include_str!(concat!("../../../tests/conflists/", $folder, "/", $name)))
    };
}

/// Primary, file name and content.
pub(crate) const SAMPLES: [(&str, &str, &str); 12] = [
    sample!("calico", "10-calico.conflist"),
    sample!("cilium", "05-cilium.conflist"),
    sample!("flannel", "10-flannel.conflist"),
    sample!("aws", "10-aws.conflist"),
    sample!("azure", "10-azure.conflist"),
    sample!("gke", "10-gke-ptp.conflist"),
    sample!("kindnet", "10-kindnet.conflist"),
    sample!("k3s", "10-flannel.conflist"),
    sample!("multus", "00-multus.conflist"),
    sample!("canal", "10-canal.conflist"),
    sample!("terway", "10-terway.conflist"),
    sample!("bridge", "10-bridge.conflist"),
];

/// Primaries that write a single plugin's configuration.
pub(crate) const SINGLE: [(&str, &str, &str); 3] = [
    sample!("multus-conf", "00-multus.conf"),
    sample!("openshift", "80-openshift-network.conf"),
    sample!("weave", "10-weave.json"),
];
