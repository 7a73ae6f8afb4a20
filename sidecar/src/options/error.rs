// SPDX-License-Identifier: Apache-2.0
//! Errors of options, in words for the person who set them.

use crate::options::app_probes::ProbesError;
use culvert_mesh::model::spiffe::SpiffeError;
use std::net::{IpAddr, SocketAddr};

/// Most worker threads that are accepted. More than the cores of any node is a typing error.
pub(crate) const MAX_WORKERS: usize = 1024;

/// An option that cannot be used, alone or beside another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Two listeners on one port.
    #[error("{first} and {second} both use port {port}; give one of them another port")]
    SamePort {
        /// The option named first in `--help`.
        first: &'static str,
        /// The option named second in `--help`.
        second: &'static str,
        /// The port of both.
        port: u16,
    },
    /// An admin interface that other hosts could reach.
    #[error(
        "--admin-address {0} is not a loopback address; peers could reach it, so choose 127.0.0.1 or [::1]"
    )]
    AdminNotLoopback(SocketAddr),
    /// Port 0 for a listener that cannot be off.
    #[error("{option} {address} has port 0; name a port")]
    NoPort {
        /// Name of the option.
        option: &'static str,
        /// Value of the option.
        address: SocketAddr,
    },
    /// An option that needs mesh documents where there are none.
    #[error(
        "{what} needs mesh documents; name their files or folders with --resources, or a controller with --control"
    )]
    NoResources {
        /// The option and its value.
        what: String,
    },
    /// A controller without what it needs.
    #[error("--control needs {0}")]
    ControlWithout(&'static str),
    /// An address that no pod has.
    #[error("--pod-ip {0} is no address of one pod; give the addresses of status.podIPs")]
    PodIp(IpAddr),
    /// A variable with two values.
    #[error("--dataplane-var {0} is given twice; give it once")]
    SameVariable(String),
    /// A mesh's name, or `--trust-domain`, that is not a trust domain.
    #[error("{0}; set --trust-domain to the part of the identities' URIs that follows spiffe://")]
    TrustDomain(SpiffeError),
    /// Probes that cannot be passed on.
    #[error("--app-probes: {0}")]
    AppProbes(ProbesError),
    /// Variables of Kubernetes that hold something else than an address and a port.
    #[error(
        "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are {host} and {port}, not an IP address and a port; \
         correct them, or set --api-server-bypass off"
    )]
    ApiServer {
        /// Value of the first variable.
        host: String,
        /// Value of the second variable.
        port: String,
    },
    /// A number of threads outside its range.
    #[error("--concurrency {0} is out of range; 1 to {MAX_WORKERS} is allowed")]
    Concurrency(usize),
}
