// SPDX-License-Identifier: Apache-2.0
//! What replicas keep in the cluster: the lease, the authority, and what the leader writes.

pub(crate) mod authority;
pub(crate) mod crds;
pub(crate) mod lease;
pub(crate) mod written;
