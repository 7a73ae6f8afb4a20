// SPDX-License-Identifier: Apache-2.0
//! Clusters and listeners of a plan in force, with their counters and limits.

pub mod destinations;
pub mod limits;
pub mod metrics;
pub mod registry;
