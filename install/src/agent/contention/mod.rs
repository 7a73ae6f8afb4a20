// SPDX-License-Identifier: Apache-2.0
//! What the agent does about a neighbour that keeps taking the entry out.

pub(crate) mod answer;
pub(crate) mod patience;
