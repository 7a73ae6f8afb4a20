// SPDX-License-Identifier: Apache-2.0
//! JSON patches (RFC 6902) of clusters and filters, as far as their paths lead to a field that culvert has. Pure.
//!
//! A patch is made on what Kuma's control plane would have: the cluster, or the filter's `typedConfig`, in protobuf's JSON. As
//! there, `add` makes the mappings on its way, and `remove` of what is absent changes nothing.

use crate::kinds::proxy_template::envoy::{CircuitBreakers, ClusterValue, FilterValue, TcpProxy};
use crate::read::{At, Problem, Problems, Read, Span, fields, words};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Paths of a cluster that lead to a field.
const CLUSTER_PATHS: [&str; 10] = [
    "/connectTimeout",
    "/circuitBreakers",
    "/circuitBreakers/thresholds",
    "/circuitBreakers/thresholds/0",
    "/circuitBreakers/thresholds/0/maxConnections",
    "/circuitBreakers/thresholds/0/maxPendingRequests",
    "/circuitBreakers/thresholds/0/maxRequests",
    "/circuitBreakers/thresholds/0/maxRetries",
    "/circuitBreakers/thresholds/0/priority",
    "/circuitBreakers/thresholds/0/trackRemaining",
];

/// Paths of a tcp_proxy that lead to a field.
const FILTER_PATHS: [&str; 1] = ["/idleTimeout"];

words! {
    /// Operations of RFC 6902.
    pub enum JsonOp {
        /// Puts a value in, or in place of another.
        Add = "add",
        /// Takes a value out.
        Remove = "remove",
        /// Puts a value in place of one that is there.
        Replace = "replace",
        /// Takes a value out and puts it elsewhere.
        Move = "move",
        /// Puts a value elsewhere too.
        Copy = "copy",
        /// Compares a value with the one that is there; another one is an error.
        Test = "test",
    }
}

fields! {
    /// One operation of a JSON patch.
    pub struct JsonPatch {
        /// The operation.
        op: required JsonOp = "op",
        /// Path of the value in protobuf's JSON, as /connectTimeout.
        path: required String = "path",
        /// Path of the value that is moved or copied.
        from: optional String = "from",
        /// The value of add, replace and test.
        value: optional AnyValue = "value",
    }
}

/// A value of any type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyValue(pub Value);

impl Read for AnyValue {
    fn read(value: &Value, _: &mut At<'_>) -> Option<Self> {
        Some(Self(value.clone()))
    }

    fn schema() -> Value {
        json!(true)
    }
}

/// An operation that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchFailure {
    /// Number of the operation, from 0.
    pub index: usize,
    /// The value that was found.
    pub found: String,
    /// The values that are allowed.
    pub allowed: String,
}

/// Something that JSON patches change.
pub(super) trait Patched: Clone {
    /// Paths that lead to a field.
    const PATHS: &'static [&'static str];

    /// Returns the value in protobuf's JSON.
    fn tree(&self) -> Value;

    /// Reads the value from protobuf's JSON.
    fn read_tree(tree: &Value, at: &mut At<'_>) -> Option<Self>;
}

impl Patched for ClusterValue {
    const PATHS: &'static [&'static str] = &CLUSTER_PATHS;

    fn tree(&self) -> Value {
        let mut cluster = Map::new();
        if let Some(timeout) = self.connect_timeout {
            cluster.insert("connectTimeout".into(), protobuf(timeout.0).into());
        }
        if let Some(CircuitBreakers { thresholds }) = &self.circuit_breakers {
            let of = thresholds.0.as_ref();
            let limits = [
                ("maxConnections", of.and_then(|of| of.max_connections)),
                ("maxPendingRequests", of.and_then(|of| of.max_pending_requests)),
                ("maxRequests", of.and_then(|of| of.max_requests)),
                ("maxRetries", of.and_then(|of| of.max_retries)),
            ];
            let limits =
                limits.into_iter().filter_map(|(key, limit)| Some((key.to_owned(), json!(limit?.0))));
            let one: Vec<_> = of.map(|_| Value::Object(limits.collect())).into_iter().collect();
            cluster.insert("circuitBreakers".into(), json!({ "thresholds": one }));
        }
        Value::Object(cluster)
    }

    fn read_tree(tree: &Value, at: &mut At<'_>) -> Option<Self> {
        Self::read(tree, at)
    }
}

impl Patched for FilterValue {
    const PATHS: &'static [&'static str] = &FILTER_PATHS;

    fn tree(&self) -> Value {
        let Self { idle_timeout } = self;
        idle_timeout.map_or(json!({}), |Span(timeout)| json!({"idleTimeout": protobuf(timeout)}))
    }

    fn read_tree(tree: &Value, at: &mut At<'_>) -> Option<Self> {
        TcpProxy::read(tree, at).map(|TcpProxy { idle_timeout, .. }| Self { idle_timeout })
    }
}

/// Returns a duration as protobuf's JSON has it: with 0, 3, 6 or 9 decimals.
fn protobuf(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    match nanos {
        0 => format!("{seconds}s"),
        _ if nanos % 1_000_000 == 0 => format!("{seconds}.{:03}s", nanos / 1_000_000),
        _ if nanos % 1_000 == 0 => format!("{seconds}.{:06}s", nanos / 1_000),
        _ => format!("{seconds}.{nanos:09}s"),
    }
}

/// Makes the operations on a value, in order. What is absent in the answer was removed.
///
/// # Errors
/// The first operation that cannot be made, or after which the value is none that culvert has.
pub(super) fn patched<T: Patched>(patches: &[JsonPatch], now: &T) -> Result<T, PatchFailure> {
    let mut tree = now.tree();
    let mut read = None;
    for (index, patch) in patches.iter().enumerate() {
        let failure = |(found, allowed)| PatchFailure { index, found, allowed };
        patch.apply(&mut tree).map_err(failure)?;
        // After each one, so that a tree that repeated copies blow up is refused while it is small.
        let mut problems = Problems::default();
        read = T::read_tree(&tree, &mut At::root(&mut problems));
        if let Some(Problem { path, found, allowed }) = problems.into_all().into_iter().next() {
            return Err(failure((format!("{path} as {found} after it"), allowed)));
        }
    }
    Ok(read.unwrap_or_else(|| now.clone()))
}

type Refusal = (String, String);

impl JsonPatch {
    /// Notes fields that do not belong to the operation, and paths and values that lead to nothing that culvert has.
    pub(super) fn check<T: Patched>(&self, at: &mut At<'_>) {
        let takes_from = matches!(self.op, JsonOp::Move | JsonOp::Copy);
        let takes_value = matches!(self.op, JsonOp::Add | JsonOp::Replace | JsonOp::Test);
        for (field, there, takes) in
            [("from", self.from.is_some(), takes_from), ("value", self.value.is_some(), takes_value)]
        {
            match (there, takes) {
                (true, false) => at.field(field, |at| at.problem("it beside this op", "the op's own fields")),
                (false, true) => at.field(field, |at| at.problem("nothing", "this field, for this op")),
                _ => {}
            }
        }
        let known = |path: &str| T::PATHS.contains(&path);
        let allowed = || format!("a field that culvert has: {}", T::PATHS.join(", "));
        if let Some(from) = self.from.as_deref().filter(|from| !known(from)) {
            at.field("from", |at| at.problem(format!("{from:?}"), allowed()));
        }
        if !known(&self.path) {
            at.field("path", |at| at.problem(format!("{:?}", self.path), allowed()));
        } else if let Some(AnyValue(value)) = self.value.as_ref().filter(|_| takes_value) {
            at.field("value", |at| drop(T::read_tree(&nested(&self.path, value), at)));
        }
    }

    fn apply(&self, tree: &mut Value) -> Result<(), Refusal> {
        let path = self.path.as_str();
        let value = || self.value.clone().map_or(Value::Null, |AnyValue(value)| value);
        let from = self.from.as_deref().unwrap_or_default();
        match self.op {
            JsonOp::Add => add(tree, path, value()),
            JsonOp::Remove => {
                let _ = remove(tree, path);
                Ok(())
            }
            JsonOp::Replace => {
                *tree.pointer_mut(path).ok_or_else(|| absent(path))? = value();
                Ok(())
            }
            JsonOp::Move => {
                let value = remove(tree, from).ok_or_else(|| absent(from))?;
                add(tree, path, value)
            }
            JsonOp::Copy => {
                let value = tree.pointer(from).cloned().ok_or_else(|| absent(from))?;
                add(tree, path, value)
            }
            JsonOp::Test => {
                let found = tree.pointer(path).ok_or_else(|| absent(path))?;
                let expected = value();
                if *found == expected {
                    Ok(())
                } else {
                    Err((format!("{found} at {path}"), expected.to_string()))
                }
            }
        }
    }
}

fn absent(path: &str) -> Refusal {
    (format!("nothing at {path}"), "a field that is there".into())
}

/// Returns a value below mappings and lists, so that its reader finds it where the path leads.
fn nested(path: &str, value: &Value) -> Value {
    path.split('/')
        .skip(1)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .fold(value.clone(), |value, key| if key == "0" { json!([value]) } else { json!({key: value}) })
}

/// Puts a value in. Paths were checked: their only number is the 0 of thresholds.
fn add(tree: &mut Value, path: &str, value: Value) -> Result<(), Refusal> {
    let (parents, last) = path.rsplit_once('/').ok_or_else(|| absent(path))?;
    let mut place = tree;
    for key in parents.split('/').skip(1) {
        if key == "0" {
            place = place.get_mut(0).ok_or_else(|| absent(path))?;
            continue;
        }
        let new = match (key, last) {
            ("thresholds", "0") => json!([]),
            ("thresholds", _) => json!([{}]),
            _ => json!({}),
        };
        let map = place.as_object_mut().ok_or_else(|| absent(path))?;
        place = map.entry(key).or_insert(new);
    }
    match place {
        Value::Object(map) => _ = map.insert(last.into(), value),
        Value::Array(list) => list.insert(0, value),
        _ => return Err(absent(path)),
    }
    Ok(())
}

/// Takes a value out; `None` where there is none.
fn remove(tree: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = path.rsplit_once('/')?;
    match tree.pointer_mut(parent)? {
        Value::Object(map) => map.remove(last),
        Value::Array(list) => (!list.is_empty()).then(|| list.remove(0)),
        _ => None,
    }
}
