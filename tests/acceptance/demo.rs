// SPDX-License-Identifier: Apache-2.0
//! `cargo demo`, with the release programs.

use std::process::Command;

use anyhow::Result;
use culvert_tests::process::binaries::{Binaries, FOLDER_VARIABLE};
use culvert_tests::process::lab_exec::beside_current_program;

#[test]
fn the_demo_shows_every_connection_and_ends_well() -> Result<()> {
    let programs = Binaries::built()?.sidecar.parent().expect("a program is in a folder");
    let ran = Command::new(beside_current_program("demo")?).env(FOLDER_VARIABLE, programs).output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{stdout}\n{stderr}");
    // Seven connections in each family, and what the metrics say of both directions.
    assert_eq!(stdout.matches("  ok\n").count(), 2 * 7 + 2 * 2, "{stdout}");
    Ok(())
}
