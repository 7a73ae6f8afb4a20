// SPDX-License-Identifier: Apache-2.0
//! The state of a pod between two checks.

use std::time::Duration;

use culvert_cni::netns::NetnsId;
use culvert_cni::redirect::policy::Policy;
use tokio::time::Instant;

use super::subjects::{Desired, Subject};
use crate::agent::status::PodRow;
use crate::cri::Network;

/// Interval of the pulse, which asks whether any rule changed.
pub(super) const PULSE: Duration = Duration::from_secs(3);
/// Interval between two checks of a pod's rules.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(30);

/// A pod of this node, as the last list of pods and the last check left it.
#[derive(Debug, Clone)]
pub(super) struct Tracked {
    pub subject: Subject,
    pub network: Network,
    pub checks: CheckState,
}

/// The part of a pod that each check updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckState {
    /// The namespace's identity at the first check.
    pub netns: Option<NetnsId>,
    /// The kernel's count of rule changes at the last check.
    pub generation: Option<u32>,
    /// Time of the next check.
    pub due: Instant,
    /// Until then the pulse skips the pod, since it was repaired often of late.
    pub quiet_until: Instant,
    /// True once the pod's own list of reserved ports was completed.
    pub completed: bool,
    /// Repairs since a check last found the rules intact.
    pub strikes: u32,
    pub row: PodRow,
}

impl Tracked {
    /// A pod that was never checked, so that its first check is due at once.
    pub(super) fn new(subject: Subject, network: Network, row: PodRow) -> Self {
        let now = Instant::now();
        let checks = CheckState {
            netns: None,
            generation: None,
            due: now,
            quiet_until: now,
            completed: false,
            strikes: 0,
            row,
        };
        Self { subject, network, checks }
    }

    /// The policy that the pod's rules must match; `None` where the pod is not to be redirected, or cannot be.
    pub(super) fn policy(&self) -> Option<&Policy> {
        match &self.subject.desired {
            Desired::Redirect(policy, _) if !self.network.of_node => Some(policy),
            _ => None,
        }
    }
}
