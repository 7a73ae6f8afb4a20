// SPDX-License-Identifier: Apache-2.0
//! Decides what follows from an inspection of the entry. Pure.

use crate::host::entry::{EntryChange, EntryState, UsedFile, Withdrawal};

/// The step that follows from one inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The entry is effective: wait for a change.
    Rest(UsedFile),
    /// The file changed after the inspection: inspect again.
    InspectAgain,
    /// Another program removed the entry, or made the runtime use another file: report it, wait as the backoff demands, then
    /// write.
    Contest { before: UsedFile, file: UsedFile, change: EntryChange },
    /// A file of ours has to go before anything else.
    Withdraw(Withdrawal),
    /// The entry is not there yet: write.
    Write { file: UsedFile, change: EntryChange },
    /// The entry cannot be there, for this reason: wait for a change.
    Block(String),
    /// `uninstall` ran: leave the node alone.
    StandBack,
}

/// Decides by the state that was `found`. With `is_outdated` the file changed since, by another program or by the quick
/// restore; `standing` is the file in which the entry stood until now.
pub(super) fn decide(found: EntryState, is_outdated: bool, standing: Option<UsedFile>) -> Step {
    match (found, standing) {
        (EntryState::Effective(file), _) => Step::Rest(file),
        (EntryState::Blocked(reason), _) => Step::Block(reason),
        (EntryState::Uninstalled, _) => Step::StandBack,
        (EntryState::Leftover(withdrawal), _) => Step::Withdraw(withdrawal),
        (EntryState::Needs(..), _) if is_outdated => Step::InspectAgain,
        // The neighbour wrote its own file anew, and the runtime used ours all the time.
        (EntryState::Needs(file, change), Some(before)) if change.follows() && before.path == file.path => {
            Step::Write { file, change }
        }
        (EntryState::Needs(file, change), Some(before)) => Step::Contest { before, file, change },
        (EntryState::Needs(file, change), None) => Step::Write { file, change },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_state_has_its_step() {
        let file = |name: &str| UsedFile { path: name.into(), primary: "bridge".to_owned() };
        let change = || EntryChange::DropIn { path: "/x".into(), text: String::new() };
        let needs = || EntryState::Needs(file("b"), change());
        let contest = Step::Contest { before: file("a"), file: file("b"), change: change() };
        let follows = || EntryChange::StandIn {
            theirs: "/x.conf".into(),
            from: String::new(),
            list: "/x".into(),
            to: String::new(),
            follows: true,
        };
        let follow = |name: &str| EntryState::Needs(file(name), follows());
        let gone = || Withdrawal::StandIn { list: "/x".into() };
        for (name, found, is_outdated, standing, expected) in [
            ("effective", EntryState::Effective(file("a")), false, Some(file("a")), Step::Rest(file("a"))),
            ("missing", needs(), false, None, Step::Write { file: file("b"), change: change() }),
            ("removed", needs(), false, Some(file("a")), contest),
            ("removed and restored", needs(), true, Some(file("a")), Step::InspectAgain),
            ("missing and changed", needs(), true, None, Step::InspectAgain),
            (
                "its single plugin written anew",
                follow("a"),
                false,
                Some(file("a")),
                Step::Write { file: file("a"), change: follows() },
            ),
            (
                "another single plugin with an old list of ours",
                follow("b"),
                false,
                Some(file("a")),
                Step::Contest { before: file("a"), file: file("b"), change: follows() },
            ),
            ("left over", EntryState::Leftover(gone()), false, Some(file("a")), Step::Withdraw(gone())),
            (
                "blocked while it stood",
                EntryState::Blocked("why".to_owned()),
                false,
                Some(file("a")),
                Step::Block("why".to_owned()),
            ),
            ("uninstalled", EntryState::Uninstalled, false, Some(file("a")), Step::StandBack),
        ] {
            assert_eq!(decide(found, is_outdated, standing), expected, "{name}");
        }
    }
}
