// SPDX-License-Identifier: Apache-2.0
//! As much of a kubelet as turns a container of a manifest into what the CRI is asked for. What it doesn't know is an error:
//! a manifest is run as it stands, or not at all.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::cri::{
    Capability, ContainerConfig, ContainerMetadata, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, Mount, NamespaceOption, SecurityProfile,
};
use crate::chart::strings;

/// The node's name in the pods' environment.
pub(super) const NODE: &str = "node-1";

/// A container of a pod's `spec`. `folder` takes what the kubelet would write down for volumes.
///
/// Probes, `lifecycle`, `restartPolicy` and `resources` are the caller's; ports need nothing. `configMap` volumes hold what the
/// caller adds to the volume under `data`: there is no API server to ask.
pub(super) fn container(spec: &Value, name: &str, folder: &Path) -> Result<ContainerConfig> {
    let lists = ["initContainers", "containers"].map(|list| spec[list].as_array());
    let mut containers = lists.into_iter().flatten().flatten();
    let container = containers.find(|container| container["name"] == name);
    let container = container.with_context(|| format!("no container {name} in {spec}"))?;
    for (key, value) in container.as_object().context("no object")? {
        match key.as_str() {
            "name" | "image" | "command" | "args" | "env" | "volumeMounts" | "securityContext" => {}
            "imagePullPolicy" | "terminationMessagePolicy" | "ports" | "resources" => {}
            "livenessProbe" | "readinessProbe" | "startupProbe" | "lifecycle" | "restartPolicy" => {}
            _ => bail!("{name}: {key}: {value} is not known here"),
        }
    }
    let envs = environment(&container["env"])?;
    let expand = |word: &str| {
        let replaced = |word: String, env: &KeyValue| word.replace(&format!("$({})", env.key), &env.value);
        envs.iter().fold(word.to_owned(), replaced)
    };
    let words = |list: &Value| strings(list).into_iter().map(expand).collect();
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned() }),
        image: Some(ImageSpec { image: container["image"].as_str().context("no image")?.to_owned() }),
        command: words(&container["command"]),
        args: words(&container["args"]),
        mounts: mounts(&container["volumeMounts"], &spec["volumes"], folder)?,
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(security(&container["securityContext"])?),
        }),
        envs,
    })
}

fn environment(list: &Value) -> Result<Vec<KeyValue>> {
    let one = |entry: &Value| -> Result<KeyValue> {
        let value = match (&entry["value"], &entry["valueFrom"]["fieldRef"]["fieldPath"]) {
            (Value::String(value), Value::Null) => value.as_str(),
            (Value::Null, Value::String(path)) if path == "spec.nodeName" => NODE,
            _ => bail!("env {entry} is not known here"),
        };
        Ok(KeyValue { key: entry["name"].as_str().context("no name")?.to_owned(), value: value.to_owned() })
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

fn mounts(list: &Value, volumes: &Value, folder: &Path) -> Result<Vec<Mount>> {
    let named: HashMap<&str, &Value> = volumes
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| Some((volume["name"].as_str()?, volume)))
        .collect();
    let one = |mount: &Value| -> Result<Mount> {
        let name = mount["name"].as_str().context("a mount without a name")?;
        let volume = named.get(name).with_context(|| format!("no volume {name}"))?;
        let host_path = if let Some(path) = volume["hostPath"]["path"].as_str() {
            path.to_owned()
        } else if let Some(data) = volume["configMap"]["data"].as_object() {
            let folder = folder.join("volumes").join(name);
            fs::create_dir_all(&folder)?;
            for (file, content) in data {
                fs::write(folder.join(file), content.as_str().context("no text")?)?;
            }
            folder.to_string_lossy().into_owned()
        } else {
            bail!("volume {volume} is not known here")
        };
        let propagation = match mount["mountPropagation"].as_str() {
            None => 0,
            Some("HostToContainer") => 1,
            Some(other) => bail!("mountPropagation {other} is not known here"),
        };
        Ok(Mount {
            container_path: mount["mountPath"].as_str().context("no mountPath")?.to_owned(),
            host_path,
            readonly: mount["readOnly"] == true,
            propagation,
        })
    };
    list.as_array().into_iter().flatten().map(one).collect()
}

/// The paths that a container may not see, and may not write, of `/proc` and `/sys` unless it is privileged.
const MASKED: [&str; 8] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn security(context: &Value) -> Result<LinuxContainerSecurityContext> {
    let mut asked = LinuxContainerSecurityContext {
        // Each container has processes of its own.
        namespace_options: Some(NamespaceOption { pid: 1 }),
        seccomp: Some(SecurityProfile { kind: 1 }),
        masked_paths: MASKED.map(str::to_owned).into(),
        readonly_paths: READ_ONLY.map(str::to_owned).into(),
        ..LinuxContainerSecurityContext::default()
    };
    for (key, value) in context.as_object().into_iter().flatten() {
        let id = || -> Result<_> { Ok(Some(Int64Value { value: value.as_i64().context("no id")? })) };
        match key.as_str() {
            "runAsUser" => asked.run_as_user = id()?,
            "runAsGroup" => asked.run_as_group = id()?,
            "runAsNonRoot" => ensure!(context["runAsUser"] != 0, "root, and not root: {context}"),
            "readOnlyRootFilesystem" => asked.readonly_rootfs = *value == true,
            "allowPrivilegeEscalation" => asked.no_new_privs = *value == false,
            "privileged" => ensure!(*value == false, "no privileged container is started here"),
            "seccompProfile" => match value["type"].as_str() {
                Some("RuntimeDefault") => asked.seccomp = Some(SecurityProfile { kind: 0 }),
                _ => bail!("{value} is not known here"),
            },
            // The containerd here has AppArmor switched off.
            "appArmorProfile" => {}
            "capabilities" => {
                let names = |list: &str| strings(&value[list]).into_iter().map(str::to_owned).collect();
                asked.capabilities =
                    Some(Capability { add_capabilities: names("add"), drop_capabilities: names("drop") });
            }
            _ => bail!("securityContext.{key}: {value} is not known here"),
        }
    }
    Ok(asked)
}
