// SPDX-License-Identifier: Apache-2.0
//! Entries of the policies about connections: `to[]`, `from[]` and `rules[]`, each with its `default`.

use super::InboundMatch;
use crate::kinds::destination::ToRef;
use crate::read::{At, Fields, Read, object_schema};
use crate::target::WholeMesh;
use serde_json::Value;

/// Values of an entry, and the words about them in schemas.
pub trait EntryDefault: Read {
    /// Description of an entry for destinations.
    const TO: &'static str = "Connections to some destinations.";
    /// Description of its values.
    const DEFAULT: &'static str;
    /// Description of the values of a rule.
    const OF_RULE: &'static str = Self::DEFAULT;
    /// True if a rule may be about some callers only.
    const HAS_MATCHES: bool = false;
}

/// Connections to some destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToEntry<C> {
    /// The destinations.
    pub target_ref: ToRef,
    /// Values of these connections.
    pub default: C,
}

/// Connections from all clients: `targetRef` is `Mesh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FromEntry<C> {
    /// Values of these connections.
    pub default: C,
}

/// Connections from all clients, in the newer spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleEntry<C> {
    /// Requests of these callers only, which TCP has not. Empty: the rule is about every connection.
    pub matches: Vec<InboundMatch>,
    /// Values of these connections.
    pub default: C,
}

impl<C: EntryDefault> Read for ToEntry<C> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let before = at.count();
        let mut fields = Fields::of(value, at)?;
        let target_ref = fields.require(&["targetRef"], at);
        let default = fields.require(&["default"], at);
        fields.finish(at);
        let right = at.count() == before;
        Some(Self { target_ref: target_ref.filter(|_| right)?, default: default? })
    }

    fn schema() -> Value {
        object_schema(
            C::TO,
            &[
                (&["targetRef"], "The destinations.", true, ToRef::schema()),
                (&["default"], C::DEFAULT, true, C::schema()),
            ],
        )
    }
}

impl<C: EntryDefault> Read for FromEntry<C> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let before = at.count();
        let mut fields = Fields::of(value, at)?;
        fields.require::<WholeMesh>(&["targetRef"], at);
        let default = fields.require(&["default"], at);
        fields.finish(at);
        let right = at.count() == before;
        Some(Self { default: default.filter(|_| right)? })
    }

    fn schema() -> Value {
        object_schema(
            "Connections from some clients.",
            &[
                (&["targetRef"], "The clients: only Mesh.", true, WholeMesh::schema()),
                (&["default"], C::DEFAULT, true, C::schema()),
            ],
        )
    }
}

impl<C: EntryDefault> Read for RuleEntry<C> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let before = at.count();
        let mut fields = Fields::of(value, at)?;
        let matches = if C::HAS_MATCHES { fields.take(&["matches"], at) } else { None };
        let default = fields.require(&["default"], at);
        fields.finish(at);
        let right = at.count() == before;
        Some(Self { matches: matches.unwrap_or_default(), default: default.filter(|_| right)? })
    }

    fn schema() -> Value {
        let matches = (
            &["matches"][..],
            "Requests of these callers only, which TCP has not.",
            false,
            Vec::<InboundMatch>::schema(),
        );
        let default = (&["default"][..], C::OF_RULE, true, C::schema());
        let all = [matches, default];
        object_schema("Connections from any client.", &all[usize::from(!C::HAS_MATCHES)..])
    }
}

/// Returns the values of connections to pods, in the order of the document: those of rules about every connection.
pub(super) fn inbound<'p, C>(
    from: &'p [FromEntry<C>],
    rules: &'p [RuleEntry<C>],
) -> impl DoubleEndedIterator<Item = &'p C> {
    let rules = rules.iter().filter(|rule| rule.matches.is_empty());
    from.iter().map(|from| &from.default).chain(rules.map(|rule| &rule.default))
}

/// Returns the values of connections to destinations, in the order of the document.
pub(super) fn to<C>(to: &[ToEntry<C>]) -> impl DoubleEndedIterator<Item = (&ToRef, &C)> {
    to.iter().map(|to| (&to.target_ref, &to.default))
}
