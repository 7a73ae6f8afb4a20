// SPDX-License-Identifier: Apache-2.0
//! The endpoints that a connection tries, where a policy says more than that they take turns.
//!
//! ```text
//! trial that is due? ─▶ group by its share ─▶ endpoint by the algorithm ─▶ others of the group ─▶ other groups in order ─▶ ejected ones
//! ```
//! A group is the endpoints of one priority, or of one weight among them. [`shares`] says how many connections it gets, by
//! the number of its endpoints in service; that is computed when an endpoint is ejected or returns, and a connection only
//! looks it up (by binary search). Within the group:
//!
//! | algorithm | first endpoint | and then |
//! |---|---|---|
//! | RoundRobin | the next | the next ones |
//! | Random | a random one | in steps of random size, each once |
//! | LeastRequest | of some random ones the one with the fewest open connections | as Random |
//! | RingHash, Maglev | by the hash | clockwise, as if the ring had been made without those before |
//!
//! So each algorithm passes over endpoints that are ejected or slow, and a connection tries each endpoint once. Without such
//! a policy a cluster has no [`Balancer`], and [`crate::cluster::endpoint::Turns`] alone decides.
//!
//! An ejected endpoint returns by a trial. Its group may get no connection at all meanwhile, so trials are not left to
//! those that would choose the endpoint: the next connection of the cluster makes one that is due, if the endpoint's
//! priority is one that connections go to or one before it.

mod balancer;
mod hash;
mod picks;
mod random;
mod shares;
mod table;

pub(crate) use balancer::{Balancer, Checks, Request};
pub(crate) use picks::{Order, Picks};
pub(crate) use random::{Random, seed};

#[cfg(test)]
mod tests;
