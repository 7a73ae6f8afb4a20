// SPDX-License-Identifier: Apache-2.0
//! The options of the webhook, set once at its start.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::inject::Settings;
use crate::kube::Client;
use crate::kube::service::Service;

/// The options of the webhook.
#[derive(Debug, Clone)]
pub(crate) struct WebhookOptions {
    /// TLS address that the API servers call.
    pub listen: SocketAddr,
    /// Address of `/healthz`, `/ready` and `/metrics`.
    pub status_address: SocketAddr,
    /// Service in front of it.
    pub service: Service,
    /// Secret with its certificates, in the Service's namespace.
    pub secret: String,
    /// MutatingWebhookConfiguration whose bundles of CAs it keeps.
    pub configuration: String,
    /// Life of a certificate.
    pub life: Duration,
    pub settings: Settings,
    pub client: Arc<Client>,
    /// Name of this replica, for events.
    pub instance: String,
}
