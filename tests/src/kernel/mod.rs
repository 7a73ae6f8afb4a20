// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, and their links, addresses, routes and rules, by system calls.

pub(crate) mod link;
mod netlink;
pub mod netns;
pub mod nft;
