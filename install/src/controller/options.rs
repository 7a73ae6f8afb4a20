// SPDX-License-Identifier: Apache-2.0
//! The options of the controller, set once at its start.

use std::net::SocketAddr;
use std::time::Duration;

use crate::inject::Identity;
use crate::kube::service::Service;

/// Kinds of the mesh as CRDs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crds {
    /// Made where the cluster has none of them.
    Auto,
    /// Made, and kept as this version has them.
    Always,
    /// Left to others.
    Never,
}

/// Settings that the controller's tasks share.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Service in front of it, whose names its certificate has.
    pub service: Service,
    /// Trust domain of all identities.
    pub trust_domain: String,
    /// Secret with the authority, in the Service's namespace.
    pub secret: String,
    /// Life of members' certificates.
    pub identity_life: Duration,
    /// Life of an authority that the controller makes.
    pub authority_life: Duration,
    /// Kinds of the mesh as CRDs.
    pub crds: Crds,
    /// Source of pods' identities.
    pub identity: Identity,
    /// Name of this replica, for the lease and events.
    pub instance: String,
}

/// The options of the controller.
#[derive(Debug, Clone)]
pub(crate) struct ControllerOptions {
    /// TLS address of the streams.
    pub listen: SocketAddr,
    /// Address of `/healthz`, `/ready` and `/metrics`.
    pub status_address: SocketAddr,
    /// Settings that its tasks share.
    pub settings: Settings,
}
