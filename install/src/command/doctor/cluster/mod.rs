// SPDX-License-Identifier: Apache-2.0
//! `doctor --cluster`: the way of a pod to its sidecar, hop by hop, up to a pod that is created as a dry run.

mod judge;
#[cfg(test)]
mod tests;
pub(crate) mod trial;

use std::time::SystemTime;

use hyper::StatusCode;
use serde_json::Value;

use self::judge::{Bundle, Tried, judge};
use self::trial::{Rules, Untried, namespace, pod};
use super::diagnosis::{Check, Report};
use crate::cli::doctor::DoctorArgs;
use crate::kube::Client;
use crate::kube::http::{ApiError, Call, encoded};
use crate::webhook::certificate::Kept;
use crate::webhook::upkeep::texts;

/// Group of webhook configurations and of policies.
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
/// End of the name of each of the injector's webhooks.
const OURS: &str = ".inject.culvert.dev";

/// Reasons why nothing can be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("KUBERNETES_SERVICE_HOST is not set: --cluster runs in a pod, where the kubelet sets it")]
    NoApiServer,
    #[error("cannot begin: {0}")]
    Runtime(#[from] std::io::Error),
}

/// The answers of the API server.
#[derive(Debug)]
struct Facts {
    /// MutatingWebhookConfiguration.
    configuration: Result<Value, ApiError>,
    /// MutatingAdmissionPolicy of the same name, asked for where there is no configuration.
    policy: Option<Result<Value, ApiError>>,
    bundle: Bundle,
    /// Name of the namespace that is tried, and the reason why none is.
    namespace: Result<String, Untried>,
    /// The pod as the API server would create it.
    tried: Option<Tried>,
}

/// Asks the API server, and judges.
pub(crate) fn report(args: &DoctorArgs) -> Result<Report, ClusterError> {
    let client = Client::in_cluster(&args.service_account, |name| std::env::var(name).ok());
    let client = client.ok_or(ClusterError::NoApiServer)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let facts = runtime.block_on(ask(&client, args));
    let checks = judge(&facts, &args.webhook);
    Ok(Report {
        version: env!("CARGO_PKG_VERSION"),
        host_root: None,
        api_server: Some(client.server()),
        well: !checks.iter().any(|Check { status, .. }| status.needs_attention()),
        checks,
    })
}

async fn ask(client: &Client, args: &DoctorArgs) -> Facts {
    let name = encoded(&args.webhook);
    let path = format!("{ADMISSION}/mutatingwebhookconfigurations/{name}");
    let configuration = client.json::<Value>(Call::get(&path)).await;
    let mut facts = Facts {
        configuration,
        policy: None,
        bundle: Bundle::Unread("it was not asked for".to_owned()),
        namespace: Err(Untried::NotReached),
        tried: None,
    };
    let rules = match &facts.configuration {
        Ok(configuration) => {
            facts.bundle = bundle(client, configuration, &args.secret).await;
            Rules::of_webhooks(ours(configuration).into_iter())
        }
        Err(error) if judge::is_silent(error) => return facts,
        Err(_) => {
            let path = format!("{ADMISSION}/mutatingadmissionpolicies/{name}");
            let policy = client.json::<Value>(Call::get(&path)).await;
            let rules = policy.as_ref().map(Rules::of_policy).unwrap_or_default();
            facts.policy = Some(policy);
            rules
        }
    };
    facts.namespace = namespace(client, args.namespace.as_deref(), &rules).await;
    if let Ok(namespace) = &facts.namespace {
        facts.tried = Some(dry_run(client, namespace).await);
    }
    facts
}

/// The injector's own webhooks: someone may have added one of another program to the configuration.
fn ours(configuration: &Value) -> Vec<&Value> {
    let all = configuration["webhooks"].as_array().into_iter().flatten();
    all.filter(|webhook| judge::is_ours(webhook["name"].as_str().unwrap_or_default())).collect()
}

/// The bundle of the configuration beside the certificate in the Secret, where that may be read.
async fn bundle(client: &Client, configuration: &Value, secret: &str) -> Bundle {
    let ours = ours(configuration);
    let Some(service) = ours.first().map(|webhook| &webhook["clientConfig"]["service"]) else {
        return Bundle::Empty;
    };
    let pems: Option<Vec<_>> =
        ours.iter().map(|webhook| judge::bundle_of(&webhook["clientConfig"])).collect();
    let Some(pems) = pems else { return Bundle::Empty };
    let (Some(name), Some(namespace)) = (service["name"].as_str(), service["namespace"].as_str()) else {
        return Bundle::Unread("its webhooks call no Service".to_owned());
    };
    let path = format!("/api/v1/namespaces/{}/secrets/{}", encoded(namespace), encoded(secret));
    let kept = match client.json::<Value>(Call::get(&path)).await {
        Ok(secret) => Kept::read(&texts(&secret["data"])),
        Err(error) => match error.status() {
            Some(StatusCode::NOT_FOUND) => return Bundle::NoSecret(format!("{namespace}/{secret}")),
            Some(StatusCode::FORBIDDEN) => return Bundle::Closed,
            _ => return Bundle::Unread(error.to_string()),
        },
    };
    let Some(kept) = kept else { return Bundle::NoCertificate };
    if let Err(unfit) = kept.current.check(&format!("{name}.{namespace}.svc"), SystemTime::now()) {
        return Bundle::Unfit(unfit.to_string());
    }
    if pems.iter().all(|pem| kept.is_trusted_by(pem)) { Bundle::Fits } else { Bundle::Other }
}

async fn dry_run(client: &Client, namespace: &str) -> Tried {
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", encoded(namespace));
    let body = Some(("application/json", pod().to_string().into_bytes()));
    let call = Call { method: hyper::Method::POST, path: &path, accept: "application/json", body };
    Tried::of(client.json(call).await)
}
