// SPDX-License-Identifier: Apache-2.0
//! What can be wrong with options.

use super::MAX_WORKERS;
use crate::options::app_probes::ProbesError;
use culvert_mesh::model::spiffe::SpiffeError;
use std::net::SocketAddr;

/// Something wrong with the options, in words for whoever set them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The contract promises it; this version cannot do it.
    #[error("{what} is not built yet: {instead}")]
    NotBuilt {
        /// The option and its value.
        what: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// Two things want one port.
    #[error("{first} and {second} both use port {port}; give one of them another port")]
    SamePort {
        /// The option named first.
        first: &'static str,
        /// The option named second.
        second: &'static str,
        /// The port.
        port: u16,
    },
    /// The admin interface may not be reachable by peers.
    #[error(
        "--admin-address {0} is not a loopback address; peers could reach it, so choose 127.0.0.1 or [::1]"
    )]
    AdminNotLoopback(SocketAddr),
    /// A port that has to be a real one.
    #[error("{option} {address} has port 0; name a port")]
    NoPort {
        /// The option.
        option: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// An option that means nothing without another.
    #[error("{what} needs mesh documents; say where they lie with --resources")]
    NoResources {
        /// The option and its value.
        what: String,
    },
    /// Whose identities are the mesh's.
    #[error("{0}; say --trust-domain and what the identities' URIs have behind spiffe://")]
    TrustDomain(SpiffeError),
    /// The probes that are passed on.
    #[error("--app-probes: {0}")]
    AppProbes(ProbesError),
    /// The API server, which is to stay reachable.
    #[error("{0}; correct it, or say --api-server-bypass off")]
    ApiServer(String),
    /// A number outside its range.
    #[error("--concurrency {0} is out of range; 1 to {MAX_WORKERS} is allowed")]
    Concurrency(usize),
}
