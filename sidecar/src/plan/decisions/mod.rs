// SPDX-License-Identifier: Apache-2.0
//! The documents behind the numbers, logs and ways of a plan: the answer to "where does this timeout come from?". Pure.
//!
//! Each room that compiles a plan says here what it decided: the subject, the field, and what several documents say of it,
//! the deciding one first. While a plan is made for use nothing is kept, and what would be said is not even put together.

pub(crate) mod trial;

use culvert_mesh::document::Document;
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// Names of fields that more than one room decides.
pub(crate) mod field {
    pub(crate) const CONNECT_TIMEOUT: &str = "connect timeout";
    pub(crate) const IDLE_TIMEOUT: &str = "idle timeout";
    pub(crate) const MAX_CONNECTIONS: &str = "max connections";
    pub(crate) const MAX_PENDING: &str = "max pending requests";
    pub(crate) const MAX_REQUESTS: &str = "max requests";
    pub(crate) const MAX_RETRIES: &str = "max retries";
}

/// Something that a document, an option or a default says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Claim {
    /// The value that it says.
    pub(crate) value: String,
    /// Kind, name, place and field of the document; or the option; or the default.
    pub(crate) by: String,
}

impl Claim {
    /// Returns the claim of an option or a default.
    pub(crate) fn new(value: impl Into<String>, by: impl Into<String>) -> Self {
        Self { value: value.into(), by: by.into() }
    }

    /// Returns the claim of a document, by a field or an item of it.
    pub(crate) fn of(value: impl Into<String>, document: &Document, path: &str) -> Self {
        Self { value: value.into(), by: place(document, path) }
    }
}

/// Names a document, its place and a field of it. Without a field the document as a whole.
pub(crate) fn place(document: &Document, path: &str) -> String {
    let path = if path.is_empty() { String::new() } else { format!(", {path}") };
    format!("{} {} ({}{path})", document.kind().name(), document.name, document.place)
}

/// Returns a timeout as a claim has it.
pub(crate) fn words(timeout: Option<Duration>) -> String {
    timeout.map_or_else(|| "none".into(), |timeout| format!("{timeout:?}"))
}

/// A field of a subject, the claim that decides it, and those that lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Decision {
    /// The listener, cluster or connections that it is about.
    pub(crate) subject: String,
    /// The field.
    pub(crate) field: String,
    /// The claim that holds.
    #[serde(flatten)]
    pub(crate) holds: Claim,
    /// The claims that do not, the next one first.
    pub(crate) lost: Vec<Claim>,
}

/// Decisions in the order in which they were made; or nothing, for a plan that is made for use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decisions(Option<Kept>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kept {
    list: Vec<Decision>,
    /// Places in the list by subject and field; of fields that have several values there is none.
    places: HashMap<(String, String), usize>,
}

// === impl Decisions ===

impl Decisions {
    /// Returns an empty list that keeps what is said.
    pub(crate) fn kept() -> Self {
        Self(Some(Kept::default()))
    }

    /// Returns true if what is said is kept.
    pub(crate) fn are_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what is said of a field, the deciding claim first. Of a field that was noted before nothing changes: equal
    /// clusters of several outbounds are one.
    pub(crate) fn first(&mut self, subject: &str, field: &str, claims: impl FnOnce() -> Vec<Claim>) {
        let Some(kept) = &mut self.0 else { return };
        let key = (subject.to_owned(), field.to_owned());
        if kept.places.contains_key(&key) {
            return;
        }
        let mut claims = claims().into_iter();
        let Some(holds) = claims.next() else { return };
        kept.places.insert(key, kept.list.len());
        kept.list.push(Decision {
            subject: subject.into(),
            field: field.into(),
            holds,
            lost: claims.collect(),
        });
    }

    /// Notes values of a field that has several, which hold beside each other.
    pub(crate) fn each(&mut self, subject: &str, field: &str, claims: impl FnOnce() -> Vec<Claim>) {
        let Some(kept) = &mut self.0 else { return };
        kept.list.extend(claims().into_iter().map(|holds| Decision {
            subject: subject.into(),
            field: field.into(),
            holds,
            lost: Vec::new(),
        }));
    }

    /// Notes a claim that takes the place of all before it, as a patch does.
    pub(crate) fn instead(&mut self, subject: &str, field: &str, claim: impl FnOnce() -> Claim) {
        let Some(kept) = &mut self.0 else { return };
        match kept.places.get(&(subject.to_owned(), field.to_owned())) {
            Some(&place) => {
                let decision = &mut kept.list[place];
                let before = std::mem::replace(&mut decision.holds, claim());
                decision.lost.insert(0, before);
            }
            None => self.first(subject, field, || vec![claim()]),
        }
    }

    /// Returns the decisions in the order in which they were made.
    pub(crate) fn list(&self) -> &[Decision] {
        self.0.as_ref().map_or(&[], |kept| &kept.list)
    }
}

/// A value that a policy on trial would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    pub(crate) subject: String,
    pub(crate) field: String,
    /// The values in force; none where there would be a new field.
    pub(crate) is: Vec<Claim>,
    /// The values with the policies on trial in force; none where the field would go.
    pub(crate) would_be: Vec<Claim>,
}

/// Compares decisions with those that the policies on trial would make. A subject that would go makes one change.
pub(crate) fn changes(is: &Decisions, would_be: &Decisions) -> Vec<Change> {
    type Values<'d> = HashMap<(&'d str, &'d str), Vec<&'d Claim>>;
    fn by_field(decisions: &Decisions) -> Values<'_> {
        let mut values = Values::new();
        for Decision { subject, field, holds, .. } in decisions.list() {
            values.entry((subject.as_str(), field.as_str())).or_default().push(holds);
        }
        values
    }
    fn of<'d>(values: &Values<'d>, key: &(&'d str, &'d str)) -> Vec<&'d Claim> {
        values.get(key).cloned().unwrap_or_default()
    }
    let (before, after) = (by_field(is), by_field(would_be));
    let stay: HashSet<&str> = after.keys().map(|(subject, _)| *subject).collect();
    let mut seen = HashSet::new();
    let mut gone = HashSet::new();
    let mut changes = Vec::new();
    for Decision { subject, field, .. } in is.list().iter().chain(would_be.list()) {
        let key = (subject.as_str(), field.as_str());
        // Of a listener or cluster that would go as a whole its first field says so.
        if !seen.insert(key) || !stay.contains(subject.as_str()) && !gone.insert(subject) {
            continue;
        }
        let values = |claims: &[&Claim]| claims.iter().map(|claim| claim.value.clone()).collect::<Vec<_>>();
        let (is, would_be) = (of(&before, &key), of(&after, &key));
        // The same value by another document changes nothing for a connection.
        if values(&is) != values(&would_be) {
            let owned = |claims: Vec<&Claim>| claims.into_iter().cloned().collect();
            changes.push(Change {
                subject: subject.clone(),
                field: field.clone(),
                is: owned(is),
                would_be: owned(would_be),
            });
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(values: &[&str]) -> Vec<Claim> {
        values.iter().map(|value| Claim::new(*value, format!("by {value}"))).collect()
    }

    #[test]
    fn nothing_is_kept_or_put_together_for_a_plan_that_is_made_for_use() {
        let mut decisions = Decisions::default();
        decisions.first("a", "f", || unreachable!());
        decisions.each("a", "f", || unreachable!());
        decisions.instead("a", "f", || unreachable!());
        assert_eq!((decisions.list(), decisions.are_kept()), (&[][..], false));
    }

    #[test]
    fn the_first_claim_holds_until_one_takes_its_place() {
        let mut decisions = Decisions::kept();
        decisions.first("a", "f", || claims(&["1", "2"]));
        decisions.first("a", "f", || claims(&["3"]));
        decisions.first("a", "g", Vec::new);
        decisions.instead("a", "f", || claims(&["4"]).remove(0));
        decisions.instead("b", "f", || claims(&["5"]).remove(0));
        decisions.each("b", "h", || claims(&["6", "7"]));
        let shown: Vec<_> = decisions
            .list()
            .iter()
            .map(|one| {
                let lost: Vec<_> = one.lost.iter().map(|claim| claim.value.as_str()).collect();
                format!("{} {} {} {}", one.subject, one.field, one.holds.value, lost.join(","))
            })
            .collect();
        assert_eq!(shown, ["a f 4 1,2", "b f 5 ", "b h 6 ", "b h 7 "]);
    }

    #[test]
    fn a_trial_changes_what_has_another_value_after_it() {
        let mut is = Decisions::kept();
        is.first("a", "same", || claims(&["1"]));
        is.first("a", "other", || claims(&["1", "2"]));
        is.first("a", "gone", || claims(&["1"]));
        is.first("b", "gone as a whole", || claims(&["1"]));
        is.first("b", "with its", || claims(&["2"]));
        let mut would_be = Decisions::kept();
        would_be.first("a", "same", || vec![Claim::new("1", "another document")]);
        would_be.first("a", "other", || claims(&["3", "1"]));
        would_be.each("a", "new", || claims(&["4", "5"]));
        let shown: Vec<_> = changes(&is, &would_be)
            .iter()
            .map(|one| format!("{} {} {}", one.field, one.is.len(), one.would_be.len()))
            .collect();
        assert_eq!(shown, ["other 1 1", "gone 1 0", "gone as a whole 1 0", "new 0 2"]);
    }
}
