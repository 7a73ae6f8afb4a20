// SPDX-License-Identifier: Apache-2.0
//! How much of what can be done any number of times a run of the tests does.

/// Multiplies the counts of tests that say so; 1 unless set.
pub const VARIABLE: &str = "CULVERT_TEST_SCALE";

/// `count`, or as many times that as [`VARIABLE`] says.
pub fn scaled(count: usize) -> usize {
    let scale = std::env::var(VARIABLE).ok().and_then(|scale| scale.parse().ok()).unwrap_or(1);
    count * std::cmp::max::<usize>(scale, 1)
}
