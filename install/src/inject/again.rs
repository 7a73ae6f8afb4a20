// SPDX-License-Identifier: Apache-2.0
//! The operations of a second call, which puts right what others changed.

use std::collections::BTreeSet;

use culvert_cni::pod::Settings as NodeSettings;

use super::control::{POD_PORTS, pod_ports};
use super::options::Options;
use super::patch::Operation;
use super::pod::{LISTS, Place, Pod};
use super::probes::{Rewritten, rewrite};
use super::sidecar::{APP_PROBES, OF_POLICY, STATUS, of_policy};
use super::write::{Additions, Redirect, annotated, notes};
use super::{DECISION, Injected, Namespace, Refusal, SIDECAR, Shape, uid};

/// Looks at a pod that has the sidecar from an earlier call. Without changes by others there is nothing to do.
pub(super) fn again(
    pod: &Pod<'_>,
    place: Place<'_>,
    namespace: &Namespace,
    node: &NodeSettings,
) -> Result<Injected, Refusal> {
    Options::read(pod, namespace)?;
    let redirect = Redirect::of(pod, node)?;
    let own = pod.uid_of(&place).unwrap_or_else(|| redirect.policy.proxy_uid.get());
    let shape = if place.list == LISTS[0] { Shape::Native } else { Shape::Plain };
    uid::choose(pod, &Namespace::default(), shape, Some(own), own)?;
    let args: Vec<String> = place.container["args"].as_array().map_or_else(Vec::new, |args| {
        args.iter().filter_map(serde_json::Value::as_str).map(str::to_owned).collect()
    });
    still_fits(pod, &place, &redirect, own, &args)?;
    let rewritten = rewrite(pod, &redirect.policy, shape, &args)?;
    let mut container = place.container.clone();
    let updated = updated(pod, &args, &rewritten)?;
    if updated != args {
        container["args"] = updated.into();
    }
    let mut operations = rewritten.operations;
    if place.index != 0 {
        operations.push(Operation::Remove { path: place.path() });
        operations.push(Operation::add(format!("/spec/{}/0", place.list), container));
    } else if container != *place.container {
        operations.push(Operation::replace(format!("{}/args", place.path()), container["args"].take()));
    }
    let missing = redirect.annotations(pod, own)?;
    if !missing.is_empty() {
        operations.extend(annotated(pod, missing));
    }
    let words = pod.annotations.get(DECISION).cloned().unwrap_or_default();
    Ok(Injected { operations, is_first: false, words, notes: notes(pod, shape) })
}

/// Arguments with the probes and the ports that others have added.
fn updated(pod: &Pod<'_>, args: &[String], rewritten: &Rewritten) -> Result<Vec<String>, Refusal> {
    let mut updated = args.to_vec();
    if !rewritten.originals.is_empty() {
        updated.retain(|arg| !arg.starts_with(APP_PROBES));
        updated.extend(rewritten.option(args)?);
    }
    if let Some(ports) = pod_ports(pod) {
        updated.iter_mut().filter(|arg| arg.starts_with(POD_PORTS)).for_each(|arg| arg.clone_from(&ports));
    }
    Ok(updated)
}

/// Refuses a sidecar that was made for other annotations of the pod: rewritten probes cannot be made anew, as their
/// originals are only in its arguments.
fn still_fits(
    pod: &Pod<'_>,
    place: &Place<'_>,
    redirect: &Redirect<'_>,
    own: u32,
    args: &[String],
) -> Result<(), Refusal> {
    let mut differ = Vec::new();
    let wanted: BTreeSet<_> = of_policy(&redirect.policy).into_iter().collect();
    let is_of_policy = |arg: &&String| OF_POLICY.iter().any(|option| arg.starts_with(option));
    let has: BTreeSet<_> = args.iter().filter(is_of_policy).cloned().collect();
    differ.extend(has.difference(&wanted).map(|arg| format!("has {arg}")));
    differ.extend(wanted.difference(&has).map(|arg| format!("lacks {arg}")));
    // A namespace's defaults may be others than at the first call, and so may the injector's settings.
    let alone = Namespace::default();
    let more = Additions::of(pod, &Options::read(pod, &alone)?, &Rewritten::default(), None)?;
    differ.extend(more.args.iter().filter(|arg| !args.contains(arg)).map(|arg| format!("lacks {arg}")));
    if redirect.given_uid().is_some_and(|given| given != own) {
        differ.push(format!("runs as uid {own}"));
    }
    let status = redirect.policy.inbound.status_port.get();
    let ports = place.container["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let declared = ports.iter().filter(|port| port["name"] == STATUS).map(|port| &port["containerPort"]);
    differ.extend(declared.filter(|port| **port != status).map(|port| format!("has status port {port}")));
    if differ.is_empty() {
        return Ok(());
    }
    Err(Refusal::of(format!(
        "container {SIDECAR} was made for other annotations than the pod has now: it {}. Change them where the pod has no \
         sidecar yet, and inject that",
        differ.join(", ")
    )))
}
