// SPDX-License-Identifier: Apache-2.0
//! From a pod's annotations and the node's defaults to a [`Decision`]. Pure.

mod decide;
mod decision;
mod grammar;
mod kuma;
#[cfg(test)]
mod promises;
mod settings;

pub use self::decide::decide;
pub(crate) use self::decide::{DecisionError, Resolved};
pub use self::decision::{Decided, Decision, Reason};
pub use self::settings::{Settings, SettingsError, concerns_us, decide_policy, names};
pub use crate::metadata::Annotations;
