// SPDX-License-Identifier: Apache-2.0
//! The time budget of a verb: together below the 5 s in which every verb answers.

use std::time::Duration;

/// Time limit for the configuration on stdin. The runtime writes it before it waits for the plugin.
pub(super) const STDIN_WITHIN: Duration = Duration::from_secs(2);
/// Time limit for the version in VERSION's stdin; VERSION answers without one too.
pub(super) const VERSION_STDIN_WITHIN: Duration = Duration::from_millis(50);
/// Time limit for the work in a network namespace, the wait for the node agent included.
pub(super) const WORK_WITHIN: Duration = Duration::from_secs(3);
