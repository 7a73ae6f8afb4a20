// SPDX-License-Identifier: Apache-2.0
//! Keeps the binary and the entry where they belong.

use super::agent::{Context, Told};

/// Runs until the agent ends.
pub async fn run(context: Context, told: Told) {
    let Told { layout: _, readiness: _ } = &told;
    context.shutdown().await;
}
