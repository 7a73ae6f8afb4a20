// SPDX-License-Identifier: Apache-2.0
//! The policies in effect for a subject.

use crate::document::Document;
use crate::kinds::FromSpec;
use crate::select::rank::rank;
use crate::select::subject::Subject;
use std::cmp::Reverse;

/// A policy in effect.
#[derive(Clone, Copy, Debug)]
pub struct Effective<'d, P> {
    /// The document that it stands in.
    pub document: &'d Document,
    /// Contents of the policy.
    pub policy: &'d P,
}

/// Returns the policies of a kind that are about each of the subjects, the most specific first.
///
/// A policy counts by the subject that it is least specific about. Of two that are even the first by name comes first; of
/// two namesakes in different namespaces, the later document.
pub fn effective<'d, P: FromSpec>(
    documents: &[&'d Document],
    subjects: &[Subject<'_>],
) -> Vec<Effective<'d, P>> {
    let mut ranked: Vec<_> = documents
        .iter()
        .rev()
        .filter_map(|&document| {
            let policy = P::from_spec(&document.spec)?;
            let target = policy.target();
            let ranks = subjects.iter().map(|subject| rank(&target, document, subject));
            let least = ranks.collect::<Option<Vec<_>>>()?.into_iter().min()?;
            Some((least, Effective { document, policy }))
        })
        .collect();
    ranked.sort_by_key(|(rank, one)| (Reverse(*rank), &one.document.name));
    ranked.into_iter().map(|(_, one)| one).collect()
}
