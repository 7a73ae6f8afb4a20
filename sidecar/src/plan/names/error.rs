// SPDX-License-Identifier: Apache-2.0
//! Addresses of documents that no service can have.

use std::net::IpAddr;
use std::sync::Arc;

/// An address of a document that no key can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// Two keys have the same.
    #[error("{address} is the address of {first} and of {second}")]
    Twice {
        /// The address.
        address: IpAddr,
        /// First of the two keys, in their order.
        first: Arc<str>,
        /// The other one.
        second: Arc<str>,
    },
    /// No service can have it.
    #[error("{address} of {key} is {why}")]
    Forbidden {
        /// The address.
        address: IpAddr,
        /// Its key.
        key: Arc<str>,
        /// The reason, as in "a loopback address".
        why: &'static str,
    },
}
