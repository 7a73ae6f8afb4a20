// SPDX-License-Identifier: Apache-2.0
//! Whether the runtime has read its folder again.

use std::time::Duration;

use super::layout::Layout;

/// What the runtime works by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loaded {
    /// A configuration that does not name us, for new pods and for those that end.
    WithoutUs,
    /// It does not say.
    Unknown,
}

/// Waits until the runtime works without us.
pub async fn await_without_us(_layout: &Layout, _limit: Duration) -> Loaded {
    Loaded::Unknown
}
