// SPDX-License-Identifier: Apache-2.0
//! Upkeep of the Secret with the certificates and of the CAs in the webhook configuration, by looks at both.
//!
//! Replicas share the Secret by its resourceVersion: of two that write, one finds the other's. Each look reads the
//! configuration before the Secret, and writes the configuration only in the version that it read. So a replica that read an
//! older Secret cannot undo the bundle of one that read a newer.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::{Method, StatusCode};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::certificate::{Change, Kept, NotMade, Pair, Plan, Unfit};
use super::metrics::Metrics;
use super::options::WebhookOptions;
use super::pages::Readiness;
use crate::kube::http::{ApiError, Call, Client, encoded};
use crate::kube::service::Service;

/// Interval of looks: a bundle that someone changed is back within that, and each pod of a labelled namespace is refused until
/// then. Two replicas make 0.8 calls a second.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pause after a look that met another replica's write, and after one that failed.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
const FAILED_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Looks in a row that meet another's write, of two replicas two or three; after more of them something refuses ours for good.
const MOST_AGAIN: u32 = 10;

/// The certificate that is served, for TLS.
#[derive(Debug, Default)]
pub(super) struct Served(RwLock<Option<(Pair, Arc<CertifiedKey>)>>);

impl Served {
    /// Returns the certificate that is served.
    fn pair(&self) -> Option<Pair> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(pair, _)| pair.clone())
    }

    /// Takes a certificate from the next connection on; false if it is the one that is served.
    fn take(&self, pair: &Pair) -> Result<bool, Unfit> {
        let mut served = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if served.as_ref().is_some_and(|(current, _)| current == pair) {
            return Ok(false);
        }
        *served = Some((pair.clone(), pair.load()?));
        Ok(true)
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let served = self.0.read().unwrap_or_else(PoisonError::into_inner);
        served.as_ref().map(|(_, key)| Arc::clone(key))
    }
}

/// Reasons why a look fails.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("Secret {0}: {1}")]
    Secret(String, ApiError),
    #[error("MutatingWebhookConfiguration {0}: {1}")]
    Configuration(String, ApiError),
    #[error(transparent)]
    NotMade(#[from] NotMade),
    #[error("the Secret's certificate: {0}")]
    Unfit(#[from] Unfit),
    #[error(
        "{MOST_AGAIN} writes in a row met another's, or the API server refuses them (409, 422): does an admission policy of the \
         cluster, or another program, keep the Secret or the configuration as it is?"
    )]
    Contended,
}

/// State of the upkeep.
pub(super) struct Upkeep {
    plan: Plan,
    service: Service,
    secret: String,
    configuration: String,
    client: Arc<Client>,
    metrics: Arc<Metrics>,
    served: Arc<Served>,
    readiness: Arc<Readiness>,
    /// The bundle that the configuration was first seen with, and when, while a certificate waits for it.
    seen: Option<(String, Instant)>,
}

/// The outcome of a look.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Nothing is left to do, or for this reason nothing can be done.
    Done(Option<String>),
    /// Another replica wrote in between, or a write needs another look.
    Again,
}

impl Upkeep {
    pub(super) fn new(
        options: &WebhookOptions,
        metrics: Arc<Metrics>,
        served: Arc<Served>,
        readiness: Arc<Readiness>,
    ) -> Self {
        let WebhookOptions { service, secret, configuration, life, client, .. } = options;
        Self {
            plan: Plan { names: service.names(), life: *life },
            service: service.clone(),
            secret: secret.clone(),
            configuration: configuration.clone(),
            client: Arc::clone(client),
            metrics,
            served,
            readiness,
            seen: None,
        }
    }

    /// Looks again and again; never ends.
    pub(super) async fn run(mut self) {
        let mut said: Option<Option<String>> = None;
        let mut again = 0_u32;
        loop {
            let look = match self.look().await {
                Ok(Look::Again) if again >= MOST_AGAIN => Err(LookError::Contended),
                look => look,
            };
            again = if matches!(look, Ok(Look::Again) | Err(LookError::Contended)) {
                again.saturating_add(1)
            } else {
                0
            };
            let (pause, trouble) = match look {
                Ok(Look::Again) => (AGAIN_AFTER, None),
                Ok(Look::Done(trouble)) => {
                    self.readiness.set(trouble.clone());
                    (LOOK_EVERY.min(self.plan.settles_within()), Some(trouble))
                }
                Err(error) => {
                    self.metrics.failures.inc();
                    let words = error.to_string();
                    self.readiness.set(Some(words.clone()));
                    (FAILED_AGAIN_AFTER, Some(Some(words)))
                }
            };
            // Once for each trouble, not at each look.
            if trouble.is_some() && trouble != said {
                match trouble.iter().flatten().next() {
                    Some(words) => tracing::warn!("API servers may not be able to call: {words}"),
                    None => tracing::info!("the webhook configuration trusts the certificate that is served"),
                }
                said = trouble;
            }
            sleep(pause).await;
        }
    }

    async fn look(&mut self) -> Result<Look, LookError> {
        // Without it the certificate is made and served all the same.
        let configuration = self.configuration().await;
        let object = self.secret().await?;
        let kept = object.as_ref().and_then(|object| Kept::read(&texts(&object["data"])));
        let bundle = kept.as_ref().map(Kept::bundle);
        let is_settled =
            self.is_settled(configuration.as_ref().ok().and_then(Option::as_ref), bundle.as_ref());
        if let Some((next, change)) =
            self.plan.next((kept.as_ref(), self.served.pair()), is_settled, SystemTime::now())?
        {
            if self.write_secret(object, &next).await? {
                match &change {
                    Change::Made(reason) => tracing::info!(reason, "made a certificate"),
                    Change::Announced => {
                        tracing::info!("made the next certificate, which waits for its CA to be known")
                    }
                    Change::Serves => {
                        tracing::info!("the next certificate takes the place of the current one")
                    }
                }
            }
            return Ok(Look::Again);
        }
        // Whatever was made was written before, and is read back by this look.
        let (Some(kept), Some(bundle)) = (kept, bundle) else { return Ok(Look::Again) };
        if self.served.take(&kept.current)? {
            self.metrics.certificates.inc();
            tracing::info!("serving with the Secret's certificate");
        }
        let Some(configuration) = configuration? else {
            let words = format!("there is no MutatingWebhookConfiguration {}", self.configuration);
            return Ok(Look::Done(Some(words)));
        };
        self.keep_bundle(&configuration, &bundle).await
    }

    /// True once the configuration was seen with the bundle of a coming certificate for long enough.
    fn is_settled(&mut self, configuration: Option<&Value>, bundle: Option<&String>) -> bool {
        let has_it = |(configuration, bundle): (&Value, &String)| {
            let ours = ours(configuration, &self.service);
            let wanted = STANDARD.encode(bundle);
            !ours.is_empty() && ours.iter().all(|(_, webhook)| webhook["clientConfig"]["caBundle"] == wanted)
        };
        let Some(bundle) = configuration.zip(bundle).filter(|both| has_it(*both)).map(|(_, bundle)| bundle)
        else {
            self.seen = None;
            return false;
        };
        match &self.seen {
            Some((seen, since)) if seen == bundle => since.elapsed() >= self.plan.settles_within(),
            _ => {
                self.seen = Some((bundle.clone(), Instant::now()));
                false
            }
        }
    }

    async fn configuration(&self) -> Result<Option<Value>, LookError> {
        let path = configuration_path(&self.configuration);
        absent_or(self.client.json(Call::get(&path)).await)
            .map_err(|error| LookError::Configuration(self.configuration.clone(), error))
    }

    fn secret_name(&self) -> String {
        format!("{}/{}", self.service.namespace, self.secret)
    }

    async fn secret(&self) -> Result<Option<Value>, LookError> {
        let path = format!("{}/{}", secrets_path(&self.service.namespace), encoded(&self.secret));
        absent_or(self.client.json(Call::get(&path)).await)
            .map_err(|error| LookError::Secret(self.secret_name(), error))
    }

    /// Writes the Secret in the version that was read; false if another replica was first.
    async fn write_secret(&self, object: Option<Value>, kept: &Kept) -> Result<bool, LookError> {
        let data: BTreeMap<_, _> =
            kept.data().into_iter().map(|(key, text)| (key, STANDARD.encode(text))).collect();
        let secrets = secrets_path(&self.service.namespace);
        let (method, path, object) = match object {
            Some(mut object) => {
                object["data"] = json!(data);
                (Method::PUT, format!("{secrets}/{}", encoded(&self.secret)), object)
            }
            None => {
                let metadata = json!({
                    "name": self.secret,
                    "namespace": self.service.namespace,
                    "labels": { "app.kubernetes.io/managed-by": "culvert-injector" },
                });
                let secret = json!({
                    "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data,
                });
                (Method::POST, secrets, secret)
            }
        };
        let body = Some(("application/json", object.to_string().into_bytes()));
        let call = Call { method, path: &path, accept: "application/json", body };
        match self.client.call(call).await {
            Ok(_) => Ok(true),
            Err(error) if error.status() == Some(StatusCode::CONFLICT) => Ok(false),
            Err(error) => Err(LookError::Secret(self.secret_name(), error)),
        }
    }

    /// Writes the bundle where the configuration has another.
    async fn keep_bundle(&self, configuration: &Value, bundle: &str) -> Result<Look, LookError> {
        let ours = ours(configuration, &self.service);
        if ours.is_empty() {
            return Ok(Look::Done(Some(format!(
                "no webhook of MutatingWebhookConfiguration {} calls Service {}",
                self.configuration, self.service
            ))));
        }
        let wanted = STANDARD.encode(bundle);
        let other: Vec<_> =
            ours.iter().filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != wanted).collect();
        if other.is_empty() {
            return Ok(Look::Done(None));
        }
        let version = &configuration["metadata"]["resourceVersion"];
        let mut patch = vec![json!({ "op": "test", "path": "/metadata/resourceVersion", "value": version })];
        patch.extend(other.iter().map(|(index, _)| {
            json!({ "op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": wanted })
        }));
        let path = configuration_path(&self.configuration);
        let body = Some(("application/json-patch+json", json!(patch).to_string().into_bytes()));
        let call = Call { method: Method::PATCH, path: &path, accept: "application/json", body };
        match self.client.call(call).await {
            Ok(_) => {
                self.metrics.bundles.inc();
                tracing::info!(webhooks = other.len(), "wrote the CAs into the webhook configuration");
                Ok(Look::Again)
            }
            // Written by another in between: 409, or 422 for a failed test.
            Err(error)
                if matches!(
                    error.status(),
                    Some(StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY)
                ) =>
            {
                Ok(Look::Again)
            }
            Err(error) => Err(LookError::Configuration(self.configuration.clone(), error)),
        }
    }
}

/// Webhooks of a configuration that call this Service, each with its place.
fn ours<'a>(configuration: &'a Value, service: &Service) -> Vec<(usize, &'a Value)> {
    let webhooks = configuration["webhooks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_ours = |webhook: &Value| {
        let called = &webhook["clientConfig"]["service"];
        called["name"] == service.name.as_str() && called["namespace"] == service.namespace.as_str()
    };
    webhooks.iter().enumerate().filter(|(_, webhook)| is_ours(webhook)).collect()
}

fn absent_or(read: Result<Value, ApiError>) -> Result<Option<Value>, ApiError> {
    match read {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

fn configuration_path(name: &str) -> String {
    format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{}", encoded(name))
}

fn secrets_path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets", encoded(namespace))
}

/// The values of a Secret that are text.
pub(crate) fn texts(data: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| String::from_utf8(STANDARD.decode(value.as_str()?).ok()?).ok();
    let all = data.as_object().into_iter().flatten();
    all.filter_map(|(key, value)| Some((key.clone(), text(value)?))).collect()
}
