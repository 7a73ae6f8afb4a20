// SPDX-License-Identifier: Apache-2.0
//! Policies about connections: times, limits, attempts, the choice of an endpoint, active checks, rates of inbounds,
//! and faults of requests.

mod entries;
pub mod faults;
mod inbound_match;
pub mod mesh_circuit_breaker;
mod mesh_health_check;
pub mod mesh_load_balancing_strategy;
mod mesh_rate_limit;
pub mod mesh_retry;
pub mod mesh_timeout;
mod payload;

pub use entries::{EntryDefault, FromEntry, RuleEntry, ToEntry};
pub use faults::MeshFaultInjection;
pub use inbound_match::{InboundMatch, ServerNameMatch, ServerNameMatchKind};
pub use mesh_circuit_breaker::MeshCircuitBreaker;
pub use mesh_health_check::*;
pub use mesh_load_balancing_strategy::MeshLoadBalancingStrategy;
pub use mesh_rate_limit::*;
pub use mesh_retry::MeshRetry;
pub use mesh_timeout::MeshTimeout;
pub use payload::*;

pub(super) use mesh_rate_limit::check_header;

use crate::read::fields;

fields! {
    /// Headers that are set or added.
    pub struct Headers {
        /// Headers that take the place of others of their name.
        set: optional Vec<NamedHeader> = "set",
        /// Headers that are added to others of their name.
        add: optional Vec<NamedHeader> = "add",
    }
}

fields! {
    /// A header.
    pub struct NamedHeader {
        /// Name of the header.
        name: required String = "name",
        /// Its value.
        value: required String = "value",
    }
}
