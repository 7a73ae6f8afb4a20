// SPDX-License-Identifier: Apache-2.0
//! Counters by member of the mesh. Their label has names that documents and peers say, so it is bounded.

use super::registry::OpenFamily;
use super::{Counter, Declared, Label, Labels, Metric, MetricRegistry, Stats};
use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Name of the label.
const MEMBER: &str = "member";
/// Members that have counters of their own; the ones that come later are counted together.
const MOST_MEMBERS: usize = 64;
/// Name of those together.
const OTHERS: &str = "others";
/// Longest name. An identity has a path of any length.
const LONGEST: usize = 200;

/// A counter for each member and each value of `L`, made by its first count.
#[derive(Debug)]
pub(crate) struct ByMember<L> {
    family: OpenFamily,
    /// Labels of the group.
    labels: Labels,
    members: Mutex<HashMap<Arc<str>, Arc<OfMember<L>>>>,
}

/// The counters of one member.
#[derive(Debug)]
pub(crate) struct OfMember<L> {
    family: OpenFamily,
    labels: Labels,
    member: Arc<str>,
    counters: Box<[OnceLock<Counter>]>,
    label: PhantomData<L>,
}

impl<L: Label> ByMember<L> {
    /// Returns the counters of a member.
    pub(crate) fn of(&self, member: &str) -> Arc<OfMember<L>> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = members.get(member) {
            return Arc::clone(known);
        }
        let is_full = members.len() >= MOST_MEMBERS || member.len() > LONGEST;
        let member: Arc<str> = if is_full { OTHERS.into() } else { member.into() };
        let new = || {
            Arc::new(OfMember {
                family: self.family.clone(),
                labels: self.labels.clone(),
                member: Arc::clone(&member),
                counters: L::VALUES.iter().map(|_| OnceLock::new()).collect(),
                label: PhantomData,
            })
        };
        Arc::clone(members.entry(Arc::clone(&member)).or_insert_with(new))
    }
}

impl<L: Label> OfMember<L> {
    /// Counts one.
    pub(crate) fn inc(&self, value: L) {
        let counter = self.counters[value.index()].get_or_init(|| {
            let own = self.labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
            let more = [(MEMBER, self.member.to_string()), (L::LABEL, value.value().to_owned())];
            self.family.get_or_create_owned(&own.chain(more).collect())
        });
        counter.inc();
    }
}

/// Members that no registry knows.
impl<L> Default for ByMember<L> {
    fn default() -> Self {
        Self { family: OpenFamily::default(), labels: Labels::new(), members: Mutex::default() }
    }
}

impl<L: Label> Metric for ByMember<L> {
    /// Makes no series yet: who calls is not known.
    fn register(registry: &mut MetricRegistry, declared: Declared, labels: &Labels) -> Self {
        let family = registry.open_family(declared);
        Self { family, labels: labels.clone(), members: Mutex::default() }
    }

    /// They are no statistics: Envoy has none by member.
    fn read(&self, _: Declared, _: &[(&str, &str)], _: &mut Stats) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{labels, metrics};

    #[derive(Clone, Copy, Debug)]
    enum Side {
        Left,
        Right,
    }

    impl Side {
        const ALL: [Self; 2] = [Self::Left, Self::Right];

        fn name(self) -> &'static str {
            match self {
                Self::Left => "left",
                Self::Right => "right",
            }
        }
    }

    labels! { Side: "side" }

    metrics! {
        struct Votes {
            cast: ByMember<Side> = "cast", "Votes cast";
        }
    }

    #[test]
    fn a_member_has_the_series_that_it_counted_in_and_no_other() {
        let mut registry = MetricRegistry::new();
        let votes = registry.add::<Votes>();
        assert!(!registry.text().contains("culvert_cast_total"));
        votes.cast.of("ann").inc(Side::Left);
        votes.cast.of("ann").inc(Side::Left);
        votes.cast.of("bob \"b\"\n").inc(Side::Right);
        let text = registry.text();
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("culvert_cast_total")).collect();
        assert_eq!(lines.len(), 2, "{text}");
        for line in [
            "culvert_cast_total{member=\"ann\",side=\"left\"} 2",
            "culvert_cast_total{member=\"bob \\\"b\\\"\\n\",side=\"right\"} 1",
        ] {
            assert!(lines.contains(&line), "{text}");
        }
    }

    #[test]
    fn members_are_bounded_by_number_and_by_length() {
        let votes = ByMember::<Side>::default();
        let long = "x".repeat(LONGEST + 1);
        assert_eq!(&*votes.of(&long).member, OTHERS);
        for number in 0..1_000 {
            votes.of(&number.to_string()).inc(Side::Left);
        }
        assert_eq!(&*votes.of("0").member, "0");
        assert_eq!(&*votes.of("999").member, OTHERS);
        assert!(votes.members.lock().unwrap().len() <= MOST_MEMBERS + 1);
    }
}
