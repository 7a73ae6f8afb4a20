// SPDX-License-Identifier: Apache-2.0
//! `doctor --cluster`: the way of a pod to its sidecar, hop by hop, up to a pod that is created as a dry run.

mod judge;
#[cfg(test)]
mod tests;

use std::time::SystemTime;

use serde_json::{Value, json};

use self::judge::{Bundle, Tried, judge};
use super::diagnosis::{Check, Report};
use crate::cli::doctor::DoctorArgs;
use crate::inject::{Decision, KumaLabel, Namespace, Settings, Shape, concerns_namespace, decide};
use crate::kube::Client;
use crate::kube::http::{ApiError, Call, encoded};
use crate::webhook::certificate::Kept;
use crate::webhook::upkeep::texts;

/// Group of webhook configurations and of policies.
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
/// Namespaces a page; each with its labels is some 500 bytes.
const PAGE: usize = 500;

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
    namespace: Result<String, String>,
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
    let is_reached = match &configuration {
        Ok(_) => true,
        Err(error) => error.status().is_some(),
    };
    let mut facts = Facts {
        configuration,
        policy: None,
        bundle: Bundle::Unknown,
        namespace: Err("the API server was not asked".to_owned()),
        tried: None,
    };
    if !is_reached {
        return facts;
    }
    match &facts.configuration {
        Ok(configuration) => facts.bundle = bundle(client, configuration, &args.secret).await,
        Err(_) => {
            let path = format!("{ADMISSION}/mutatingadmissionpolicies/{name}");
            facts.policy = Some(client.json::<Value>(Call::get(&path)).await);
        }
    }
    facts.namespace = namespace(client, args.namespace.as_deref()).await;
    if let Ok(namespace) = &facts.namespace {
        facts.tried = Some(dry_run(client, namespace).await);
    }
    facts
}

/// The bundle of the configuration beside the certificate in the Secret, where that may be read.
async fn bundle(client: &Client, configuration: &Value, secret: &str) -> Bundle {
    let webhooks = configuration["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    // The injector's own: someone may have added a webhook of another to the configuration.
    let Some(service) = webhooks.first().map(|webhook| &webhook["clientConfig"]["service"]) else {
        return Bundle::Empty;
    };
    let ours = webhooks.iter().filter(|webhook| webhook["clientConfig"]["service"] == *service);
    let pems: Option<Vec<_>> = ours.map(|webhook| judge::bundle_of(&webhook["clientConfig"])).collect();
    let Some(pems) = pems else { return Bundle::Empty };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (text(&service["name"]), text(&service["namespace"]));
    let path = format!("/api/v1/namespaces/{}/secrets/{}", encoded(&namespace), encoded(secret));
    let Ok(secret) = client.json::<Value>(Call::get(&path)).await else { return Bundle::Unknown };
    let Some(kept) = Kept::read(&texts(&secret["data"])) else { return Bundle::NoCertificate };
    if let Err(unfit) = kept.current.check(&format!("{name}.{namespace}.svc"), SystemTime::now()) {
        return Bundle::Unfit(unfit.to_string());
    }
    if pems.iter().all(|pem| kept.is_trusted_by(pem)) { Bundle::Fits } else { Bundle::Other }
}

/// The namespace to try: the given one, or the first that asks for sidecars.
async fn namespace(client: &Client, given: Option<&str>) -> Result<String, String> {
    if let Some(name) = given {
        let path = format!("/api/v1/namespaces/{}", encoded(name));
        let namespace: Value = client.json(Call::get(&path)).await.map_err(|error| error.to_string())?;
        return asks(&namespace).map(|()| name.to_owned());
    }
    // By the label, as a cluster may have more namespaces than a page.
    for label in ["culvert.dev/inject", "kuma.io/sidecar-injection"] {
        let path = format!("/api/v1/namespaces?limit={PAGE}&labelSelector={}", encoded(label));
        let list: Value = client.json(Call::get(&path)).await.map_err(|error| error.to_string())?;
        let all = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
        let found = all.iter().find(|namespace| asks(namespace).is_ok());
        if let Some(name) = found.and_then(|namespace| namespace["metadata"]["name"].as_str()) {
            return Ok(name.to_owned());
        }
    }
    Err("no namespace has the label culvert.dev/inject: enabled".to_owned())
}

/// Decides about a plain pod of a namespace as the injector does; the error is its reason.
fn asks(namespace: &Value) -> Result<(), String> {
    let metadata = &namespace["metadata"];
    let of = |names: &Value| {
        let all = names.as_object().into_iter().flatten();
        let ours = all.filter(|(name, _)| concerns_namespace(name));
        ours.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    };
    let namespace = Namespace {
        name: metadata["name"].as_str().map(str::to_owned),
        labels: of(&metadata["labels"]),
        annotations: of(&metadata["annotations"]),
    };
    let settings = Settings {
        image: String::new(),
        shape: Shape::Native,
        excluded: Vec::new(),
        kuma_label: KumaLabel::On,
        node: culvert_cni::pod::Settings::default(),
    };
    match decide(&pod(), &namespace, &settings) {
        Decision::Injected(_) => Ok(()),
        Decision::Skipped(skipped) => Err(skipped.to_string()),
        Decision::Refused(refusal) => Err(refusal.to_string()),
    }
}

/// A pod that every namespace takes, whatever its Pod Security, quota or limits ask for.
fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "culvert-doctor-", "labels": { "app.kubernetes.io/name": "culvert-doctor" } },
        "spec": {
            "containers": [{
                "name": "app", "image": "registry.k8s.io/pause:3.10",
                "resources": { "requests": { "cpu": "1m", "memory": "1Mi" }, "limits": { "cpu": "10m", "memory": "8Mi" } },
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] }, "runAsNonRoot": true,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
            }],
        },
    })
}

async fn dry_run(client: &Client, namespace: &str) -> Tried {
    let path = format!("/api/v1/namespaces/{}/pods?dryRun=All", encoded(namespace));
    let body = Some(("application/json", pod().to_string().into_bytes()));
    let call = Call { method: hyper::Method::POST, path: &path, accept: "application/json", body };
    Tried::of(client.json(call).await)
}
