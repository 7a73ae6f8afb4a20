// SPDX-License-Identifier: Apache-2.0
//! Faults of an inbound's requests, by MeshFaultInjection and FaultInjection.
//!
//! | documents | faults that a caller's requests have |
//! |---|---|
//! | FaultInjection | those of all that are about the inbound, by name; then no MeshFaultInjection holds |
//! | MeshFaultInjection, `from` | those of the last entry that fits the caller, of the most specific policy |
//! | MeshFaultInjection, `rules` | those of all that fit: exact identities first, then prefixes, then the others |

use super::members::{Members, tagged};
use super::named;
use crate::plan::listener::http::{FaultPlan, FaultSet, Faults};
use crate::plan::tls::permissions::Who;
use culvert_mesh::document::Document;
use culvert_mesh::kinds::connections::InboundMatch;
use culvert_mesh::kinds::connections::faults::{FaultCallers, FaultEntry, HttpFault, MeshFaultInjection};
use culvert_mesh::kinds::mesh_traffic_permission::MatchKind;
use culvert_mesh::kinds::older::FaultInjection;
use culvert_mesh::select::{self, Effective, Subject};
use culvert_mesh::target::Pods;
use std::cmp::Reverse;

/// Faults of some callers, and the entry that says them.
pub(in crate::plan::compile::limits) struct FaultVoice<'a> {
    pub(in crate::plan::compile::limits) document: &'a Document,
    pub(in crate::plan::compile::limits) path: String,
    pub(in crate::plan::compile::limits) set: FaultSet,
}

/// The entries about the requests to an inbound.
#[derive(Default)]
pub(in crate::plan::compile::limits) struct FaultVoices<'a> {
    /// The first that is about the caller holds alone.
    pub(in crate::plan::compile::limits) first: Vec<FaultVoice<'a>>,
    /// Each that is about the caller holds.
    pub(in crate::plan::compile::limits) each: Vec<FaultVoice<'a>>,
}

// === impl FaultVoices ===

impl<'a> FaultVoices<'a> {
    /// Finds those of older policies, which put the others out of force.
    pub(in crate::plan::compile::limits) fn older(
        policies: &[&'a Document],
        inbound: &Subject<'_>,
        members: &Members<'_>,
    ) -> Self {
        let mut older = select::effective::<FaultInjection>(policies, std::slice::from_ref(inbound));
        older.sort_by_key(|one| &one.document.name);
        let voice = |Effective { document, policy, .. }: Effective<'a, FaultInjection>| {
            let who = policy.sources.iter().map(|source| tagged(&source.tags)).collect();
            let (by, from) = (named(document), members.callers(who));
            let set = FaultSet { by, from, faults: vec![fault(&policy.conf)] };
            FaultVoice { document, path: "conf".into(), set }
        };
        Self { first: Vec::new(), each: older.into_iter().map(voice).collect() }
    }

    /// Finds those of newer policies.
    pub(in crate::plan::compile::limits) fn newer(
        policies: &[&'a Document],
        inbound: &Subject<'_>,
        members: &Members<'_>,
    ) -> Self {
        let newer = select::effective::<MeshFaultInjection>(policies, std::slice::from_ref(inbound));
        let voice = |document: &'a Document, entry: &FaultEntry<'_>, who: Who, faults: &[HttpFault]| {
            let (by, from) = (named(document), members.callers(vec![who]));
            let set = FaultSet { by, from, faults: faults.iter().map(fault).collect() };
            FaultVoice { document, path: format!("spec.{}[{}]", entry.list, entry.index), set }
        };
        let (mut first, mut each) = (Vec::new(), Vec::new());
        for Effective { document, policy, .. } in &newer {
            for entry in policy.entries().rev() {
                let FaultEntry { callers: FaultCallers::Tagged(target), conf, .. } = entry else { continue };
                let Some(faults) = &conf.http else { continue };
                let who = match &target.pods {
                    Pods::Tags(tags) => tagged(tags),
                    // The check of the document refuses other targets.
                    _ => Who::Everyone,
                };
                first.push(voice(document, &entry, who, faults));
            }
        }
        for Effective { document, policy, .. } in newer.iter().rev() {
            for entry in policy.entries() {
                let FaultEntry { callers: FaultCallers::Matching(matches), conf, .. } = entry else {
                    continue;
                };
                let Some(faults) = &conf.http else { continue };
                let all = if matches.is_empty() { vec![Who::Everyone] } else { identities(matches) };
                each.extend(
                    all.into_iter().map(|who| (exactness(&who), voice(document, &entry, who, faults))),
                );
            }
        }
        each.sort_by_key(|(exactness, _)| Reverse(*exactness));
        Self { first, each: each.into_iter().map(|(_, voice)| voice).collect() }
    }
}

/// Returns the faults of the requests to an inbound.
pub(in crate::plan::compile::limits) fn faults(
    policies: &[&Document],
    inbound: &Subject<'_>,
    members: &Members<'_>,
) -> Faults {
    let older = FaultVoices::older(policies, inbound, members);
    let FaultVoices { first, each } = match older.each.is_empty() {
        true => FaultVoices::newer(policies, inbound, members),
        false => older,
    };
    let sets = |voices: Vec<FaultVoice<'_>>| voices.into_iter().map(|voice| voice.set).collect();
    Faults { first: sets(first), each: sets(each) }
}

/// Returns the callers of a rule. A match by server name is for gateways of zones and fits no caller of a pod.
fn identities(matches: &[InboundMatch]) -> Vec<Who> {
    let of_pods = matches.iter().filter(|one| one.sni.is_none()).filter_map(|one| one.spiffe_id.as_ref());
    let who = of_pods.map(|id| match id.kind {
        MatchKind::Exact => Who::Exactly(id.value.clone()),
        MatchKind::Prefix => Who::Prefix(id.value.clone()),
    });
    who.collect()
}

fn exactness(who: &Who) -> u8 {
    match who {
        Who::Exactly(_) => 2,
        Who::Prefix(_) => 1,
        Who::Everyone | Who::Tags(_) => 0,
    }
}

fn fault(fault: &HttpFault) -> FaultPlan {
    let delay = fault.delay.as_ref().and_then(|delay| Some((delay.value.get()?, delay.percentage)));
    let abort = fault.abort.as_ref().map(|abort| (abort.http_status.0, abort.percentage));
    let slow = fault.response_bandwidth.as_ref();
    FaultPlan { delay, abort, bandwidth: slow.map(|slow| (slow.limit.kbps, slow.percentage)) }
}
