// SPDX-License-Identifier: Apache-2.0
//! Requests and limits of the sidecar: annotations over the template's. A request above a limit that nothing asked for
//! moves it, since Kubernetes would refuse the pod.

use serde_json::{Map, Value, json};

use super::Refusal;
use super::options::{Options, RESOURCES};
use super::pod::Pod;

/// Requests and limits where nothing else is asked for.
pub(super) fn default() -> Value {
    json!({ "requests": { "cpu": "10m", "memory": "32Mi" }, "limits": { "memory": "256Mi" } })
}

/// Resources of the sidecar. `None` in a pod with resources of its own: a container's would be counted against them.
pub(super) fn resources(pod: &Pod<'_>, options: &Options<'_>) -> Result<Option<Value>, Refusal> {
    if pod.spec.get("resources").and_then(Value::as_object).is_some_and(|map| !map.is_empty()) {
        return Ok(None);
    }
    let mut refusal = Refusal::default();
    let mut resources = default();
    for (name, list, resource) in RESOURCES {
        match options.get(name) {
            None => {}
            // Without this one.
            Some("") => _ = resources[list].as_object_mut().and_then(|map| map.remove(resource)),
            Some(value) if amount(value).is_some() => resources[list][resource] = value.into(),
            Some(value) => {
                let Refusal(words) = Options::wrong(name, "an amount, as in 100m or 64Mi", value);
                refusal.0.extend(words);
            }
        }
    }
    for (request, limit, resource) in
        [("cpu-request", "cpu-limit", "cpu"), ("memory-request", "memory-limit", "memory")]
    {
        let of = |list: &str| amount(resources[list][resource].as_str()?);
        let (Some(least), Some(most)) = (of("requests"), of("limits")) else { continue };
        if least <= most {
            continue;
        }
        match (options.get(request), options.get(limit)) {
            (Some(_), Some(_)) => refusal.0.push(format!(
                "annotations inject.culvert.dev/{request} and {limit}: the request is above the limit"
            )),
            (Some(_), None) => resources["limits"][resource] = resources["requests"][resource].clone(),
            (None, _) => resources["requests"][resource] = resources["limits"][resource].clone(),
        }
    }
    refusal.check()?;
    let empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    if let Some(map) = resources.as_object_mut() {
        map.retain(|_, list| !empty(list));
    }
    Ok(Some(resources))
}

/// An amount of Kubernetes in thousandths. `None` for a text that is none.
fn amount(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    // More digits than any machine has bytes.
    if number.len() > 20 || (whole.is_empty() && part.is_empty()) {
        return None;
    }
    let thousandths: u128 = match unit {
        "m" => 1,
        "" => 1_000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "Ki" => 1_000 << 10,
        "Mi" => 1_000 << 20,
        "Gi" => 1_000 << 30,
        "Ti" => 1_000 << 40,
        _ => return None,
    };
    let read = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    Some(read(whole)? * thousandths + read(part)? * thousandths / scale)
}
