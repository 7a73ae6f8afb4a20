// SPDX-License-Identifier: Apache-2.0
//! Policies in effect for a pod or one of its inbounds, in their order. Pure.

mod effective;
mod rank;
mod subject;

pub use effective::{Effective, effective};
pub use rank::{Rank, chooses, is_of_another_zone, is_section, rank};
pub use subject::Subject;

#[cfg(test)]
mod tests;
