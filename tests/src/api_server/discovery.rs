// SPDX-License-Identifier: Apache-2.0
//! Answers about what is served: versions, groups and their kinds.

use serde_json::{Value, json};

use super::encode::Refusal;
use super::kinds::Kinds;

/// Answers a path of discovery; `None` for all other paths.
pub(super) fn answer(path: &str, kinds: &Kinds, version: &str) -> Option<Result<Value, Refusal>> {
    let absent = || Refusal::new(404, "the server could not find the requested resource");
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    Some(match parts.as_slice() {
        ["version"] => Ok(server(version)),
        ["api"] => Ok(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        ["api", "v1"] => resources(kinds, "v1").ok_or_else(absent),
        ["apis"] => {
            let groups = kinds.groups();
            let groups: Vec<Value> = groups.keys().filter_map(|name| group(kinds, name)).collect();
            Ok(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups }))
        }
        ["apis", name] => group(kinds, name).ok_or_else(absent),
        ["apis", name, version] => resources(kinds, &format!("{name}/{version}")).ok_or_else(absent),
        _ => return None,
    })
}

/// `version` is like `1.36.2`.
fn server(version: &str) -> Value {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    json!({
        "major": major, "minor": minor, "gitVersion": format!("v{version}"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.26.0", "compiler": "gc", "platform": "linux/amd64",
    })
}

fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let groups = kinds.groups();
    let version = |version: &&str| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    let versions: Vec<Value> = groups.get(name)?.iter().map(version).collect();
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "preferredVersion": versions.first(), "versions": versions,
    }))
}

fn resources(kinds: &Kinds, api_version: &str) -> Option<Value> {
    let mut all = Vec::new();
    for (resource, kind) in kinds.of(api_version) {
        let entry = |name: String, verbs: &[&str]| {
            json!({
                "name": name, "singularName": kind.name.to_lowercase(), "namespaced": kind.is_namespaced,
                "kind": kind.name, "verbs": verbs,
            })
        };
        let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
        all.push(entry(resource.name.clone(), &verbs));
        if kind.has_status {
            all.push(entry(format!("{}/status", resource.name), &["get", "patch", "update"]));
        }
    }
    let list = json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": all,
    });
    (!all.is_empty()).then_some(list)
}
