// SPDX-License-Identifier: Apache-2.0
//! Which policies are about a pod or one of its inbounds, and in which order they hold. Pure.

mod effective;
mod rank;
mod subject;

pub use effective::{Effective, effective};
pub use rank::{Rank, chooses, is_section, rank};
pub use subject::Subject;

#[cfg(test)]
mod tests;
