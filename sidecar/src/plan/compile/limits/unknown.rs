// SPDX-License-Identifier: Apache-2.0
//! What policies say without effect: fields that are passed over, and entries for destinations that no connection of this pod is
//! known to go to.

use super::ForCalls;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::destination::{ConnectionPolicy, ToKind, ToRef};
use culvert_mesh::kinds::older::OlderPolicy;

/// Returns a line about the entries of a policy that are about no destination of this pod.
pub(in crate::plan::compile) fn without_effect<'p>(
    document: &Document,
    to: impl Iterator<Item = &'p ToRef>,
) -> Option<String> {
    // Connections are not taken apart into requests.
    let unknown = to.enumerate().filter(|(_, to)| to.kind == ToKind::MeshHttpRoute);
    let entries: Vec<_> = unknown.map(|(index, to)| format!("to[{index}] ({})", to.kind.name())).collect();
    let (kind, name) = (document.kind().name(), &document.name);
    (!entries.is_empty()).then(|| {
        format!(
            "{kind} {name}: without effect, as no connection of this pod is known to go there: {}",
            entries.join(", ")
        )
    })
}

/// Returns such a line for each policy of a kind.
pub(super) fn of_all<P: ConnectionPolicy>(policies: &[ForCalls<'_, P>]) -> Vec<String> {
    let line = |ForCalls { one, .. }: &ForCalls<'_, P>| {
        without_effect(one.document, one.policy.to().map(|(to, _)| to))
    };
    policies.iter().filter_map(line).collect()
}

/// Returns a line about the fields of a policy that the sidecar does nothing by.
pub(super) fn passed_over(policy: &Document) -> Option<String> {
    let fields = match &policy.spec {
        Spec::MeshTimeout(spec) => spec.passed_over(),
        Spec::MeshCircuitBreaker(spec) => spec.passed_over(),
        Spec::MeshRetry(spec) => spec.passed_over(),
        Spec::MeshLoadBalancingStrategy(spec) => spec.passed_over(),
        Spec::Timeout(spec) => spec.passed_over(),
        Spec::CircuitBreaker(spec) => spec.passed_over(),
        Spec::Retry(spec) => spec.passed_over(),
        Spec::MeshHealthCheck(spec) => spec.passed_over(),
        Spec::MeshRateLimit(spec) => spec.passed_over(),
        Spec::HealthCheck(spec) => spec.passed_over(),
        _ => return None,
    };
    let (kind, name) = (policy.kind().name(), &policy.name);
    (!fields.is_empty()).then(|| {
        format!("{kind} {name}: passed over, as the sidecar does nothing by it: {}", fields.join(", "))
    })
}
