// SPDX-License-Identifier: Apache-2.0
//! The runtime's handlers whose sandboxes bypass the rules, in the answer of `doctor`.

use super::*;

const CONTAINERD: &str = r#"
version = 2
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.secure]
runtime_type = "io.containerd.kata.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gvisor]
runtime_type = "io.containerd.runsc.v1"
"#;

const CRIO: &str = r#"
[crio.runtime]
default_runtime = "machine"
[crio.runtime.runtimes.crun]
runtime_path = "/usr/bin/crun"
[crio.runtime.runtimes.machine]
runtime_path = "/opt/own/shim"
runtime_type = "vm"
"#;

#[test]
fn doctor_names_the_handlers_whose_sandboxes_bypass_the_rules() -> Result<()> {
    for (path, text, expected) in [
        ("etc/containerd/config.toml", CONTAINERD, "runtime classes: gvisor (gVisor), secure (Kata)"),
        (
            "etc/crio/crio.conf",
            CRIO,
            "runtime classes: the default (a virtual machine), machine (a virtual machine)",
        ),
        ("etc/containerd/config.toml", "version = 2\n", ""),
    ] {
        let node = with_list()?;
        let file = node.at(path);
        fs::create_dir_all(file.parent().context("no folder")?)?;
        fs::write(&file, text)?;
        let found = looks::found(&node, "runtime")?;
        let named = found.contains("runtime classes");
        ensure!(found.contains(expected) && named != expected.is_empty(), "{found}");
    }
    Ok(())
}
