// SPDX-License-Identifier: Apache-2.0
//! Judges one check of one pod. Pure: the verifier acts on the verdict, counts, logs and posts events.
//!
//! | the check | pod's row | counted as | reported | follow-up |
//! |---|---|---|---|---|
//! | no rule changed | stays | | | wait |
//! | rules changed | stays | | | verify |
//! | count of changes unreadable, or the pod ends | stays | | | list the pods |
//! | rules unreadable | unknown | unknown | if that is new | wait |
//! | rules intact | redirected | well | | wait |
//! | only reserved ports are missing, to be added | stays | | | repair |
//! | the same, to be reported | redirected | well | | wait |
//! | reserved ports added for the first time | redirected | well | | wait |
//! | added again | redirected | damaged | always | wait |
//! | rules differ, to be repaired | stays | | | repair |
//! | rules differ, to be reported | damaged | damaged | if that is new | wait |
//! | another's rules | damaged | damaged | if that is new | wait |
//! | rules repaired | redirected | damaged | always | wait |

use std::time::{Duration, SystemTime};

use culvert_cni::netns::NetnsId;
use culvert_cni::redirect::engine::Engine;
use culvert_cni::redirect::repair::{Checked, Completed, State as Rules};
use tokio::time::Instant;

use super::check::CheckError;
use super::report::{summary_of_differences, summary_of_repair, with_bypass};
use super::subjects::Desired;
use super::tracked::{CHECK_EVERY, CheckState, PULSE, Tracked};
use crate::agent::metrics::Verified;
use crate::agent::options::OnDamage;
use crate::agent::status::{PodRow, RedirectState};
use crate::system::clock::rfc3339;

/// Reason of a pod whose own list of reserved ports was completed.
const COMPLETED: &str = "completed: the sidecar's ports were added to the pod's own ip_local_reserved_ports";

/// The result of a check.
#[derive(Debug)]
pub(super) enum CheckResult {
    /// Of the pulse: the kernel's count of rule changes.
    Pulse(Result<(NetnsId, Option<u32>), CheckError>),
    /// Of a comparison of the rules with the pod's policy.
    Rules(Result<(NetnsId, Box<Checked>), CheckError>),
}

/// All that follows from one check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub checks: CheckState,
    pub count: Option<Verified>,
    pub report: Option<PodReport>,
    pub follow_up: FollowUp,
}

/// A log line, and an event on the pod.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PodReport {
    Unknown {
        reason: String,
        /// An event is posted only where the pod's own rules are the trouble, such as rules of iptables on a node without
        /// its programs.
        has_event: bool,
    },
    Damaged {
        reason: String,
    },
    Repaired {
        engine: String,
        differences: usize,
        message: String,
    },
}

/// The work that a check calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FollowUp {
    Wait,
    /// Compare the pod's rules now.
    Verify,
    /// Repair the pod's rules, if the pod is still there after a while.
    Repair,
    /// List the pods now.
    List,
}

impl Verdict {
    /// Neither counted nor reported.
    const fn silent(checks: CheckState, follow_up: FollowUp) -> Self {
        Self { checks, count: None, report: None, follow_up }
    }
}

/// Judges `result`, which was had at `now` (`time` on the wall clock).
pub(super) fn judge(
    tracked: &Tracked,
    result: CheckResult,
    on_damage: OnDamage,
    now: Instant,
    time: SystemTime,
) -> Verdict {
    let checks = tracked.checks.clone();
    match result {
        CheckResult::Pulse(Ok((netns, generation))) => {
            let changed = generation != checks.generation;
            let follow_up = if changed { FollowUp::Verify } else { FollowUp::Wait };
            Verdict::silent(CheckState { netns: Some(netns), ..checks }, follow_up)
        }
        // Mostly because the pod has ended, which the next list shows. If it has not, its next check shows more.
        CheckResult::Pulse(Err(_)) => Verdict::silent(CheckState { due: now, ..checks }, FollowUp::List),
        CheckResult::Rules(Err(CheckError::Ended)) => Verdict::silent(checks, FollowUp::List),
        CheckResult::Rules(Err(error)) => {
            judge_unreadable(CheckState { due: now + CHECK_EVERY, ..checks }, &error)
        }
        CheckResult::Rules(Ok((netns, checked))) => {
            let Checked { state, generation, beside } = *checked;
            let row = PodRow { verified: Some(rfc3339(time)), beside, ..checks.row };
            let due = now + CHECK_EVERY;
            let checks = CheckState { netns: Some(netns), generation, due, row, ..checks };
            match &tracked.subject.desired {
                Desired::Redirect(_, setting) => {
                    let verdict = judge_rules(checks, setting, state, on_damage, now);
                    let row = with_bypass(verdict.checks.row, tracked.subject.bypass);
                    Verdict { checks: CheckState { row, ..verdict.checks }, ..verdict }
                }
                Desired::Direct(_) | Desired::Unknown(_) => Verdict::silent(checks, FollowUp::Wait),
            }
        }
    }
}

fn judge_unreadable(checks: CheckState, error: &CheckError) -> Verdict {
    let reason = error.to_string();
    let (checks, is_new) = with_state(checks, RedirectState::Unknown, reason.clone());
    let has_event = matches!(error, CheckError::Redirect(_));
    Verdict {
        checks,
        count: Some(Verified::Unknown),
        report: is_new.then_some(PodReport::Unknown { reason, has_event }),
        follow_up: FollowUp::Wait,
    }
}

fn judge_rules(
    checks: CheckState,
    setting: &str,
    rules: Rules,
    on_damage: OnDamage,
    now: Instant,
) -> Verdict {
    match rules {
        Rules::Well(engine) => {
            let row = PodRow { engine: Some(engine.name().to_owned()), ..checks.row };
            let checks = CheckState { strikes: 0, row, ..checks };
            let reason =
                if checks.completed { format!("{setting}; {COMPLETED}") } else { setting.to_owned() };
            well(checks, reason)
        }
        Rules::Incomplete(..) if on_damage == OnDamage::Repair => Verdict::silent(checks, FollowUp::Repair),
        Rules::Incomplete(engine, differences) => {
            let row = PodRow { engine: Some(engine.name().to_owned()), ..checks.row };
            let differences = summary_of_differences(&differences);
            let reason = format!("{setting}; by the pod's own securityContext.sysctls, {differences}");
            well(CheckState { strikes: 0, row, ..checks }, reason)
        }
        // The runtime writes a pod's own list once, after ADD. Another time it is another program.
        Rules::Completed(completed) if !checks.completed => {
            let row = PodRow { engine: Some(completed.engine.name().to_owned()), ..checks.row };
            well(CheckState { completed: true, row, ..checks }, format!("{setting}; {COMPLETED}"))
        }
        Rules::Completed(completed) => {
            let Completed { engine, differences, footprint: _ } = *completed;
            let message = format!("completed again: {}", summary_of_differences(&differences));
            judge_repaired(checks, setting, (engine, differences.len(), message), now)
        }
        Rules::Repaired(repaired) => {
            let message = summary_of_repair(&repaired);
            let done = (repaired.installed.engine, repaired.differences.len(), message);
            judge_repaired(checks, setting, done, now)
        }
        Rules::Differs(_) if on_damage == OnDamage::Repair => Verdict::silent(checks, FollowUp::Repair),
        Rules::Differs(differences) => damaged(
            checks,
            format!("--repair is report, so it stays as it is: {}", summary_of_differences(&differences)),
        ),
        Rules::Anothers(owner) => {
            damaged(checks, format!("its rules were written for another, and are left alone: {owner}"))
        }
    }
}

/// The verdict on a pod that is redirected as it should be.
fn well(checks: CheckState, reason: String) -> Verdict {
    let (checks, _) = with_state(checks, RedirectState::Redirected, reason);
    Verdict { count: Some(Verified::Well), ..Verdict::silent(checks, FollowUp::Wait) }
}

fn judge_repaired(
    checks: CheckState,
    setting: &str,
    (engine, differences, message): (Engine, usize, String),
    now: Instant,
) -> Verdict {
    let strikes = checks.strikes + 1;
    // The pulse follows the first repair at once. Each further one doubles the pause, up to the interval of checks: so
    // another program that keeps removing the rules costs one repair in 30 s.
    let pause = match strikes {
        1 => Duration::ZERO,
        more => PULSE.saturating_mul(1 << (more - 1).min(4)).min(CHECK_EVERY),
    };
    let engine = engine.name().to_owned();
    let row = PodRow { engine: Some(engine.clone()), repairs: checks.row.repairs + 1, ..checks.row };
    let checks = CheckState { strikes, quiet_until: now + pause, row, ..checks };
    let (checks, _) = with_state(checks, RedirectState::Redirected, format!("{setting}; {message}"));
    Verdict {
        checks,
        count: Some(Verified::Damaged),
        report: Some(PodReport::Repaired { engine, differences, message }),
        follow_up: FollowUp::Wait,
    }
}

/// The verdict on damage that stays.
fn damaged(checks: CheckState, reason: String) -> Verdict {
    let (checks, is_new) = with_state(checks, RedirectState::Damaged, reason.clone());
    Verdict {
        checks,
        count: Some(Verified::Damaged),
        report: is_new.then_some(PodReport::Damaged { reason }),
        follow_up: FollowUp::Wait,
    }
}

/// Sets state and reason of the row; true where either is new.
fn with_state(mut checks: CheckState, state: RedirectState, reason: String) -> (CheckState, bool) {
    let is_new = (checks.row.state, &checks.row.reason) != (state, &reason);
    (checks.row.state, checks.row.reason) = (state, reason);
    (checks, is_new)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use culvert_cni::pod::Annotations;
    use culvert_cni::redirect::repair::Repaired;
    use culvert_cni::redirect::{Footprint, Installed, Outcome, RedirectError};

    use super::super::report::row;
    use super::super::subjects::{Defaults, subjects};
    use super::*;
    use crate::cri::sandboxes::Bypass;
    use crate::cri::{Network, Sandbox};

    const NETNS: NetnsId = NetnsId { device: 4, inode: 7 };

    /// An onboarded pod that was last checked at generation 5.
    fn tracked() -> Tracked {
        let on: Annotations = [("culvert.dev/redirect".to_owned(), "enabled".to_owned())].into();
        let sandbox = Sandbox {
            id: "s1".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            uid: "u1".to_owned(),
            annotations: on,
            created_at: 1,
            handler: String::new(),
        };
        let subject = subjects(Some(vec![sandbox]), Vec::new(), &Defaults::default()).remove(0);
        let network = Network::default();
        let row = row(&subject, &network, None);
        let mut tracked = Tracked::new(subject, network, row);
        tracked.checks.generation = Some(5);
        tracked
    }

    fn rules(state: Rules) -> CheckResult {
        CheckResult::Rules(Ok((NETNS, Box::new(Checked { state, generation: Some(6), beside: Vec::new() }))))
    }

    fn repaired() -> Rules {
        let installed = Installed {
            engine: Engine::Nftables,
            outcome: Outcome::Replaced,
            footprint: Footprint::nothing(),
            left_out: Vec::new(),
        };
        let differences = vec!["a rule is missing".to_owned()];
        Rules::Repaired(Box::new(Repaired { differences, installed, established: Vec::new() }))
    }

    fn completed() -> Rules {
        let (differences, footprint) = (vec!["15001 is missing".to_owned()], Footprint::nothing());
        Rules::Completed(Box::new(Completed { engine: Engine::Nftables, differences, footprint }))
    }

    fn incomplete() -> Rules {
        Rules::Incomplete(Engine::Nftables, vec!["15001 is missing".to_owned()])
    }

    fn differs() -> Rules {
        Rules::Differs(["1", "2", "3", "4"].map(str::to_owned).to_vec())
    }

    fn verdict(tracked: &Tracked, result: CheckResult, on_damage: OnDamage) -> Verdict {
        judge(tracked, result, on_damage, tracked.checks.due, UNIX_EPOCH)
    }

    #[test]
    fn intact_rules_are_no_redirect_where_packets_bypass_them() {
        let mut bypassed = tracked();
        bypassed.subject.bypass = Some(Bypass::Kata);
        for result in [Rules::Well(Engine::Nftables), repaired()] {
            let verdict = verdict(&bypassed, rules(result), OnDamage::Repair);
            let row = verdict.checks.row;
            assert_eq!(row.state, RedirectState::Bypassed);
            assert!(row.reason.contains("virtual machine") && row.is_ill(), "{row:?}");
        }
    }

    #[test]
    fn each_result_has_its_row_count_report_and_follow_up() {
        use FollowUp::{List, Repair, Verify, Wait};
        use OnDamage::{Off, Repair as Mend, Report as Inform};
        use RedirectState::{Damaged, Redirected, Unknown};
        let nowhere = || CheckError::Nowhere("no path".to_owned());
        let no_program = || CheckError::Redirect(RedirectError::ReadBack(vec!["x".to_owned()]));
        for (name, result, on_damage, follow_up, count, state, reason) in [
            (
                "quiet",
                CheckResult::Pulse(Ok((NETNS, Some(5)))),
                Mend,
                Wait,
                None,
                Unknown,
                "not verified yet",
            ),
            (
                "changed",
                CheckResult::Pulse(Ok((NETNS, Some(6)))),
                Mend,
                Verify,
                None,
                Unknown,
                "not verified yet",
            ),
            (
                "uncounted",
                CheckResult::Pulse(Ok((NETNS, None))),
                Mend,
                Verify,
                None,
                Unknown,
                "not verified yet",
            ),
            ("gone", CheckResult::Pulse(Err(nowhere())), Mend, List, None, Unknown, "not verified yet"),
            (
                "ends",
                CheckResult::Rules(Err(CheckError::Ended)),
                Mend,
                List,
                None,
                Unknown,
                "not verified yet",
            ),
            (
                "nowhere",
                CheckResult::Rules(Err(nowhere())),
                Mend,
                Wait,
                Some(Verified::Unknown),
                Unknown,
                "no path",
            ),
            (
                "no program",
                CheckResult::Rules(Err(no_program())),
                Mend,
                Wait,
                Some(Verified::Unknown),
                Unknown,
                "what was written: x",
            ),
            (
                "intact",
                rules(Rules::Well(Engine::Nftables)),
                Mend,
                Wait,
                Some(Verified::Well),
                Redirected,
                "culvert.dev/redirect",
            ),
            ("completes", rules(incomplete()), Mend, Repair, None, Unknown, "not verified yet"),
            (
                "lacks",
                rules(incomplete()),
                Inform,
                Wait,
                Some(Verified::Well),
                Redirected,
                "15001 is missing",
            ),
            ("completed", rules(completed()), Mend, Wait, Some(Verified::Well), Redirected, "completed: the"),
            ("repairs", rules(differs()), Mend, Repair, None, Unknown, "not verified yet"),
            ("reports", rules(differs()), Inform, Wait, Some(Verified::Damaged), Damaged, "1; 2; 3; 1 more"),
            ("off", rules(differs()), Off, Wait, Some(Verified::Damaged), Damaged, "1; 2; 3; 1 more"),
            (
                "another's",
                rules(Rules::Anothers("x".to_owned())),
                Mend,
                Wait,
                Some(Verified::Damaged),
                Damaged,
                ": x",
            ),
            (
                "repaired",
                rules(repaired()),
                Mend,
                Wait,
                Some(Verified::Damaged),
                Redirected,
                "a rule is missing",
            ),
        ] {
            let verdict = verdict(&tracked(), result, on_damage);
            assert_eq!((verdict.follow_up, verdict.count), (follow_up, count), "{name}");
            let PodRow { state: row_state, reason: row_reason, .. } = &verdict.checks.row;
            assert_eq!(*row_state, state, "{name}");
            assert!(row_reason.contains(reason), "{name}: {row_reason}");
        }
    }

    #[test]
    fn damage_and_ignorance_are_reported_once_and_each_repair_anew() {
        for (name, result, reports) in [
            (
                "unreadable",
                (|| CheckResult::Rules(Err(CheckError::Another))) as fn() -> CheckResult,
                [true, false],
            ),
            ("differs", || rules(differs()), [true, false]),
            ("another's", || rules(Rules::Anothers("x".to_owned())), [true, false]),
            ("repaired", || rules(repaired()), [true, true]),
            ("incomplete", || rules(incomplete()), [false, false]),
            // Once, as a runtime does it.
            ("completed", || rules(completed()), [false, true]),
            ("intact", || rules(Rules::Well(Engine::Nftables)), [false, false]),
        ] {
            let mut tracked = tracked();
            let reported = [0, 1].map(|_| {
                let verdict = verdict(&tracked, result(), OnDamage::Report);
                tracked.checks = verdict.checks;
                verdict.report.is_some()
            });
            assert_eq!(reported, reports, "{name}");
        }
    }

    #[test]
    fn repairs_in_a_row_are_followed_ever_later_until_the_rules_stay() {
        let mut tracked = tracked();
        let mut pause = |rules_found: Rules| {
            let now = tracked.checks.due;
            tracked.checks = verdict(&tracked, rules(rules_found), OnDamage::Repair).checks;
            assert_eq!(tracked.checks.due, now + CHECK_EVERY);
            tracked.checks.quiet_until.saturating_duration_since(now)
        };
        let pauses: Vec<_> = (0..6).map(|_| pause(repaired()).as_secs()).collect();
        assert_eq!(pauses, [0, 6, 12, 24, 30, 30]);
        pause(Rules::Well(Engine::Nftables));
        assert_eq!(pause(repaired()), Duration::ZERO);
        assert_eq!(tracked.checks.row.repairs, 7);
    }

    #[test]
    fn a_check_leaves_identity_generation_and_time() {
        let checks = verdict(&tracked(), rules(Rules::Well(Engine::Nftables)), OnDamage::Repair).checks;
        assert_eq!((checks.netns, checks.generation), (Some(NETNS), Some(6)));
        assert_eq!(checks.row.verified.as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(checks.row.engine.as_deref(), Some("nftables"));
    }
}
