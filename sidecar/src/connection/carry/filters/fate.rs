// SPDX-License-Identifier: Apache-2.0
//! Faults that come upon a request: each is tried by itself, the delay before the abort.

use crate::plan::listener::http::FaultPlan;
use culvert_http::Words;
use culvert_mesh::model::percentage::Percentage;
use std::sync::Arc;
use std::time::Duration;

/// Shares of requests are counted in millionths.
const MILLION: u64 = 1_000_000;

/// The way of one request through the faults.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::connection::carry) struct Fate {
    /// The fault that is tried next.
    fault: usize,
    /// True if its delay was tried.
    delayed: bool,
    /// Least bandwidth that a fault before it left.
    most: Option<u64>,
}

/// The next thing that comes upon a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connection::carry) enum Next {
    Wait(Duration),
    /// Status of the answer.
    Abort(u16),
    /// Nothing more before the server; its response has at most so many KiB a second.
    Go {
        most: Option<u64>,
    },
}

/// Returns an answer of its own.
pub(in crate::connection::carry) fn words(status: u16, text: &'static str) -> Words {
    Words { status, text, last: false, fields: Arc::default() }
}

// === impl Fate ===

impl Fate {
    /// Returns the number of the fault that is tried next, or that ended the request.
    pub(super) fn at(self) -> usize {
        self.fault
    }

    /// Goes on through the faults. Each share of requests is a throw of the dice of its own.
    pub(in crate::connection::carry) fn next(
        &mut self,
        faults: &[FaultPlan],
        mut dice: impl FnMut() -> u64,
    ) -> Next {
        let mut takes = |share: Percentage| dice() % MILLION < u64::from(share.of_million());
        while let Some(fault) = faults.get(self.fault) {
            if let Some((time, share)) = fault.delay.filter(|_| !self.delayed) {
                self.delayed = true;
                if takes(share) {
                    return Next::Wait(time);
                }
            }
            if let Some((status, _)) = fault.abort.filter(|(_, share)| takes(*share)) {
                return Next::Abort(status);
            }
            if let Some((most, _)) = fault.bandwidth.filter(|(_, share)| takes(*share)) {
                self.most = Some(self.most.map_or(most, |least| least.min(most)));
            }
            self.fault += 1;
            self.delayed = false;
        }
        Next::Go { most: self.most }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(percent: f64) -> Percentage {
        Percentage::of(percent).expect("a percentage")
    }

    /// All that comes upon a request, with these throws of the dice.
    fn all(faults: &[FaultPlan], throws: &[u64]) -> Vec<Next> {
        let (mut fate, mut throws) = (Fate::default(), throws.iter().copied());
        let mut came = Vec::new();
        loop {
            came.push(fate.next(faults, || throws.next().expect("no throw too many")));
            if !matches!(came.last(), Some(Next::Wait(_))) {
                assert_eq!(throws.next(), None, "a throw that was not made");
                return came;
            }
        }
    }

    #[test]
    fn a_request_is_delayed_before_it_is_aborted_by_each_fault_in_turn() {
        let second = Duration::from_secs(1);
        let wait = Next::Wait(second);
        let go = |most| Next::Go { most };
        let fault = FaultPlan::default;
        let (all_of, none, half) = (percent(100.0), percent(0.0), percent(50.0));
        let delay = |share| FaultPlan { delay: Some((second, share)), ..fault() };
        let abort = |status, share| FaultPlan { abort: Some((status, share)), ..fault() };
        let slow = |most, share| FaultPlan { bandwidth: Some((most, share)), ..fault() };
        let both = FaultPlan { delay: Some((second, all_of)), abort: Some((503, all_of)), ..fault() };
        for (name, faults, throws, came) in [
            ("none", vec![], vec![], vec![go(None)]),
            ("a delay", vec![delay(all_of)], vec![7], vec![wait, go(None)]),
            ("a delay of no request", vec![delay(none)], vec![0], vec![go(None)]),
            ("the half that is delayed", vec![delay(half)], vec![499_999], vec![wait, go(None)]),
            ("the other half", vec![delay(half)], vec![500_000], vec![go(None)]),
            ("both", vec![both], vec![1, 2], vec![wait, Next::Abort(503)]),
            ("an abort ends it", vec![abort(418, all_of), delay(all_of)], vec![1], vec![Next::Abort(418)]),
            ("two delays", vec![delay(all_of), delay(all_of)], vec![1, 2], vec![wait, wait, go(None)]),
            (
                "the least",
                vec![slow(9, all_of), slow(5, all_of), slow(7, all_of)],
                vec![1, 2, 3],
                vec![go(Some(5))],
            ),
        ] {
            assert_eq!(all(&faults, &throws), came, "{name}");
        }
    }
}
