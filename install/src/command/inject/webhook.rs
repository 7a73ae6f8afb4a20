// SPDX-License-Identifier: Apache-2.0
//! `culvert-install inject --service`: the admission webhook, until SIGTERM.

use std::sync::Arc;

use super::asked;
use crate::cli::inject::{InjectArgs, WebhookArgs};
use crate::command::answer::{Answer, Exit};
use crate::command::logging::start_logging;
use crate::command::settings::node_entry;
use crate::kube::Client;
use crate::kube::service::Service;
use crate::webhook;
use crate::webhook::options::WebhookOptions;

/// The process does not run in a pod.
#[derive(Debug, thiserror::Error)]
#[error("KUBERNETES_SERVICE_HOST is not set: the webhook runs in a pod, where the kubelet sets it")]
struct NoApiServer;

pub(super) fn run(args: &InjectArgs, service: &Service) -> Answer {
    let WebhookArgs { listen, status_address, secret, webhook, certificate_life, service_account } =
        &args.webhook;
    let node = match node_entry(args.conflist.as_deref()) {
        Ok(node) => node,
        Err(error) => return Answer::refused(&error, error.exit()),
    };
    let variable = |name: &str| std::env::var(name).ok();
    let Some(client) = Client::in_cluster(service_account, variable) else {
        return Answer::refused(&NoApiServer, Exit::Usage);
    };
    let (_, mut settings) = asked(args, node);
    // A pod of its own must not wait for itself.
    settings.excluded.push(service.namespace.clone());
    let options = WebhookOptions {
        listen: listen.0,
        status_address: status_address.0,
        service: service.clone(),
        secret: secret.clone(),
        configuration: webhook.clone(),
        life: *certificate_life,
        settings,
        client: Arc::new(client),
        // The name of a pod is its host's name.
        instance: variable("HOSTNAME").unwrap_or_else(|| service.name.clone()),
    };
    start_logging();
    match webhook::run(options) {
        Ok(()) => Answer::said("", Exit::Well),
        Err(error) => Answer::refused(&error, Exit::Attention),
    }
}
