// SPDX-License-Identifier: Apache-2.0
//! Real container runtimes call the plugin. `cargo test … runtime:: -- --nocapture` shows what they call.

mod containerd;
mod first_hour;
mod node;
mod podman;
mod repair;
mod sandboxes;
mod single;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use anyhow::{Context, Result, ensure};
use culvert_tests::runtime::{Machine, World};

/// Runs a test with a runtime. Whether it passes or not, nothing of it may be left on the machine.
pub(crate) fn leaving_nothing<R: AsRef<World>>(
    start: impl FnOnce() -> Result<R>,
    test: impl FnOnce(&R) -> Result<()>,
) -> Result<()> {
    let before = Machine::now()?;
    let runtime = start()?;
    let traces = runtime.as_ref().traces()?;
    let result = catch_unwind(AssertUnwindSafe(|| test(&runtime)));
    println!("{}", runtime.as_ref());
    drop(runtime);
    let gone = traces.expect_gone().and_then(|()| {
        let after = Machine::now()?;
        ensure!(after == before, "the machine was {before:#?} and is {after:#?}");
        Ok(())
    });
    match (result, gone) {
        (Ok(Err(failed)), Err(left)) => Err(failed.context(left)),
        // What the test panicked with is printed already.
        (_, Err(left)) => Err(left),
        (Ok(result), Ok(())) => result,
        (Err(panic), Ok(())) => resume_unwind(panic),
    }
}

/// The same for a test that panics once `begin` has set something going.
fn leaving_nothing_after_a_panic<R: AsRef<World>>(
    start: impl FnOnce() -> Result<R>,
    begin: impl FnOnce(&R) -> Result<()>,
) -> Result<()> {
    let panics = |runtime: &R| {
        begin(runtime)?;
        panic!("on purpose");
    };
    match catch_unwind(AssertUnwindSafe(|| leaving_nothing(start, panics))) {
        // Another panic would be that of something left.
        Err(panic) => {
            assert_eq!(panic.downcast_ref(), Some(&"on purpose"));
            Ok(())
        }
        Ok(failed) => failed.context("it did not come to the panic"),
    }
}
