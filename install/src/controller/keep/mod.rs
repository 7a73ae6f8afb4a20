// SPDX-License-Identifier: Apache-2.0
//! Objects that replicas keep in the cluster: the lease, the authority, and the leader's writes and answers.

pub(crate) mod authority;
mod call;
mod conditions;
pub(crate) mod crds;
pub(crate) mod lease;
pub(crate) mod requests;
pub(crate) mod written;
