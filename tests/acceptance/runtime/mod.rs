// SPDX-License-Identifier: Apache-2.0
//! Real container runtimes call the plugin. `cargo test … runtime:: -- --nocapture` shows what they call.

mod containerd;
mod podman;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::Result;
use culvert_tests::runtime::{Machine, World};

/// Runs a test with a runtime. Whether it passes or not, nothing of it may be left on the machine.
fn leaving_nothing<R: AsRef<World>>(
    start: impl FnOnce() -> Result<R>,
    test: impl FnOnce(&R) -> Result<()>,
) -> Result<()> {
    let before = Machine::now()?;
    let runtime = start()?;
    let traces = runtime.as_ref().traces()?;
    let result = catch_unwind(AssertUnwindSafe(|| test(&runtime)));
    println!("{}", runtime.as_ref());
    drop(runtime);
    traces.expect_gone()?;
    assert_eq!(Machine::now()?, before);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
