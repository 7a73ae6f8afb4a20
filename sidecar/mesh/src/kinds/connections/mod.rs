// SPDX-License-Identifier: Apache-2.0
//! Policies about connections that are more than times and limits: active checks of endpoints, and rates of inbounds.

mod mesh_health_check;
mod mesh_rate_limit;
mod payload;

pub use mesh_health_check::*;
pub use mesh_rate_limit::*;
pub use payload::*;

use crate::read::fields;

fields! {
    /// Headers that are set or added, without effect: connections are forwarded as TCP.
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
