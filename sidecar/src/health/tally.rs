// SPDX-License-Identifier: Apache-2.0
//! Checks in a row → the state of a target. Pure.

use crate::plan::health::CheckPlan;

/// The state of a target, and the checks in a row that speak against it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    unhealthy: bool,
    /// True once a check had an outcome.
    decided: bool,
    /// True if the last check failed.
    failed: bool,
    streak: u32,
}

impl Tally {
    /// Begins with the state that an earlier check found.
    pub(super) fn of(unhealthy: bool) -> Self {
        Self { unhealthy, ..Self::default() }
    }

    /// Counts the outcome of a check, and returns true if the state is another one now. As in Envoy the first check decides
    /// at once, so that a start does not send connections to an endpoint that is down.
    pub(super) fn count(&mut self, passed: bool, check: &CheckPlan) -> bool {
        let first = !std::mem::replace(&mut self.decided, true);
        self.failed = !passed;
        if passed != self.unhealthy {
            self.streak = 0;
            return false;
        }
        self.streak = self.streak.saturating_add(1);
        let most = if passed { check.healthy_threshold } else { check.unhealthy_threshold };
        if !first && self.streak < most {
            return false;
        }
        self.unhealthy = !passed;
        self.streak = 0;
        true
    }

    pub(super) fn is_unhealthy(&self) -> bool {
        self.unhealthy
    }

    pub(super) fn last_failed(&self) -> bool {
        self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Letters: `p` passed, `f` failed. Returns `U` where it becomes unhealthy, `H` where healthy again.
    fn states(checks: &str, healthy_threshold: u32, unhealthy_threshold: u32) -> String {
        let check = CheckPlan { healthy_threshold, unhealthy_threshold, ..CheckPlan::default() };
        let mut tally = Tally::default();
        let state = |letter: char| match (tally.count(letter == 'p', &check), tally.is_unhealthy()) {
            (true, true) => 'U',
            (true, false) => 'H',
            (false, _) => '.',
        };
        checks.chars().map(state).collect()
    }

    #[test]
    fn checks_in_a_row_change_the_state_and_the_first_decides_at_once() {
        for (name, checks, thresholds, expected) in [
            ("passes", "pppp", (1, 3), "...."),
            ("fails three times", "pfff", (1, 3), "...U"),
            ("a success between", "pffpfff", (1, 3), "......U"),
            ("the first fails", "fp", (1, 3), "UH"),
            ("comes back after two", "pffffpp", (2, 3), "...U..H"),
            ("a failure between", "fpfpp", (2, 3), "U...H"),
            ("stays unhealthy", "ffff", (2, 2), "U..."),
            ("thresholds of one", "pfpf", (1, 1), ".UHU"),
        ] {
            assert_eq!(states(checks, thresholds.0, thresholds.1), expected, "{name}");
        }
    }
}
