// SPDX-License-Identifier: Apache-2.0
//! `MeshTCPRoute`: services that the calls of some pods go to. Its ancestor `TrafficRoute` stands beside the other
//! [`older`](super::older) kinds.

mod backend_ref;
mod mesh_tcp_route;

pub use backend_ref::*;
pub use mesh_tcp_route::*;

#[cfg(test)]
mod tests;
