// SPDX-License-Identifier: Apache-2.0
//! The documents that decide where calls may go that no document names.

use super::pod::explain_pod;
use crate::plan::Plan;
use crate::plan::decisions::Claim;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::mesh_passthrough::{MeshPassthrough, PassthroughMatch, PassthroughMode};
use culvert_mesh::kinds::{Kind, Spec};
use culvert_mesh::select::{self, Effective, Subject};

const SUBJECT: &str = "outbound passthrough";

/// Notes the mode of passthrough and its matches, and the words for this pod.
pub(in crate::plan::compile) fn explain_passthrough(plan: &mut Plan, ours: &[&Document], pod: &Subject<'_>) {
    if !plan.decisions.are_kept() {
        return;
    }
    explain_pod(plan, pod.pod.map(|(document, _)| document));
    let policies = select::effective::<MeshPassthrough>(ours, std::slice::from_ref(pod));
    let mut claims: Vec<_> = policies
        .iter()
        .filter_map(|one| {
            let mode = one.policy.default.as_ref()?.mode?;
            Some(Claim::of(format!("{mode:?}"), one.document, "spec.default.passthroughMode"))
        })
        .collect();
    if let Some(first) = policies.first().filter(|_| claims.is_empty()) {
        claims.push(Claim::of("Matched", first.document, "without a mode"));
    }
    claims.extend(mesh(ours));
    let none = claims.first().is_some_and(|claim| claim.value == format!("{:?}", PassthroughMode::None));
    plan.decisions.first(SUBJECT, "mode", || claims);
    // Under None, matches have no effect.
    if !policies.is_empty() && !none {
        let shown = if plan.passthrough { ", without effect as passthrough is open" } else { "" };
        plan.decisions
            .each(SUBJECT, "match", || policies.iter().flat_map(|one| matches(one, shown)).collect());
    }
}

fn mesh(ours: &[&Document]) -> Option<Claim> {
    let document = ours.iter().find(|document| document.kind() == Kind::Mesh)?;
    let Spec::Mesh(mesh) = &document.spec else { return None };
    let mode = if mesh.passthrough() { PassthroughMode::All } else { PassthroughMode::None };
    Some(Claim::of(format!("{mode:?}"), document, "networking.outbound.passthrough"))
}

fn matches(one: &Effective<'_, MeshPassthrough>, shown: &str) -> Vec<Claim> {
    let matches = one.policy.default.iter().flat_map(|conf| &conf.append_match).enumerate();
    let claim = |(index, one_match): (usize, &PassthroughMatch)| {
        let port = one_match.port.map_or("every port".into(), |port| format!("port {}", port.0));
        let value = format!("{} {} {port}{shown}", one_match.protocol().name(), one_match.value);
        Claim::of(value, one.document, &format!("spec.default.appendMatch[{index}]"))
    };
    matches.map(claim).collect()
}
