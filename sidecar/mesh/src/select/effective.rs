// SPDX-License-Identifier: Apache-2.0
//! The policies in effect for a subject.

use crate::document::Document;
use crate::kinds::FromSpec;
use crate::select::rank::{Rank, rank};
use crate::select::subject::Subject;
use std::cmp::Reverse;

/// A policy in effect.
#[derive(Clone, Copy, Debug)]
pub struct Effective<'d, P> {
    /// The document that it stands in.
    pub document: &'d Document,
    /// Contents of the policy.
    pub policy: &'d P,
    /// Rank among those of its kind.
    pub rank: Rank,
}

/// Returns the policies of a kind that are about each of the subjects, the one that decides first.
///
/// A policy counts by the subject that it is least specific about. Of two that are even the first by display name comes
/// first, which a policy keeps when Kuma hands it on under another name; of two namesakes, the later document.
pub fn effective<'d, P: FromSpec>(
    documents: &[&'d Document],
    subjects: &[Subject<'_>],
) -> Vec<Effective<'d, P>> {
    let mut effective: Vec<_> = documents
        .iter()
        .rev()
        .filter_map(|&document| {
            let policy = P::from_spec(&document.spec)?;
            let target = policy.target();
            let ranks = subjects.iter().map(|subject| rank(&target, document, subject));
            let rank = ranks.collect::<Option<Vec<_>>>()?.into_iter().min()?;
            Some(Effective { document, policy, rank })
        })
        .collect();
    effective.sort_by_key(|one| (Reverse(one.rank), one.document.display_name()));
    effective
}
