// SPDX-License-Identifier: Apache-2.0
//! Clusters and listeners of the plan in force, with their counters and limits, and connecting to a cluster.

pub(crate) mod balance;
pub(crate) mod bucket;
pub(crate) mod connect;
pub(crate) mod destinations;
pub(crate) mod endpoint;
pub(crate) mod health;
pub(crate) mod limits;
pub(crate) mod metrics;
pub(crate) mod origination;
pub(crate) mod outsider;
pub(crate) mod registry;
mod remembered;
mod split;
pub(crate) mod stream;
