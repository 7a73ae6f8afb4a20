// SPDX-License-Identifier: Apache-2.0
//! Certificates by the API server: kubelets ask for pods by PodCertificateRequests, and the leader answers.
//!
//! ```text
//! request ──watch──▶ judge ──▶ Issued, Denied ──PATCH /status──▶ the kubelet writes the pod's files
//!                      └─────▶ later: the list is read again
//! authorities ──▶ ClusterTrustBundle ──▶ the same volume's ca.crt
//! ```
//! An answer is final: a kubelet whose request is denied does not ask again for that pod. So what may pass stays without an
//! answer, and is looked at again.

mod judge;
mod served;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::TryStreamExt as _;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::judge::{Denied, Request, is_long_enough, is_open, judge, life, pod_of};
use self::served::Served;
use crate::controller::authority::{Kept, Signed, sign_key};
use crate::controller::key::Key;
use crate::controller::metrics::Outcome;
use crate::controller::shared::Shared;
use crate::controller::watch::is_absent;
use crate::controller::world::{Pod, RawPod};
use crate::inject::{SIGNER, TRUST_BUNDLE};
use crate::system::clock;

/// Manager of the fields that it writes.
const MANAGER: &str = "culvert-controller";
/// Time between two looks at what is served, after each of which open requests are listed anew.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause after which a pod that asks too often is answered again.
const HELD_FOR: Duration = Duration::from_secs(60);
/// Deadline of a call.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Requests that are answered at a time. The rest waits in the API server.
const AT_ONCE: usize = 16;
/// Requests a page of a list.
const PAGE: u32 = 250;
/// Certificates begin so much before they are signed, for nodes whose clock is behind. The API server allows 5 min, by its clock.
const BEGINS_BEFORE: Duration = Duration::from_secs(60);

/// Answers requests for as long as it is polled, while this replica leads.
pub(crate) async fn keep(shared: Arc<Shared>) {
    if !is_long_enough(shared.identity_life()) {
        tracing::warn!(
            "--identity-life is below 1h: certificates by PodCertificateRequests live 1h, as the API server takes none below"
        );
    }
    let mut leads = shared.leads.subscribe();
    loop {
        if leads.wait_for(|leads| *leads).await.is_err() {
            return;
        }
        tokio::select! {
            () = lead(&shared) => {}
            _ = leads.wait_for(|leads| !*leads) => {}
        }
    }
}

/// Answers requests, and keeps the trust bundle.
async fn lead(shared: &Arc<Shared>) {
    // A request is judged by the whole cluster, and signed by an authority.
    let (mut listed, mut authority) = (shared.listed.subscribe(), shared.served.subscribe());
    let is_over = listed.wait_for(|listed| *listed).await.is_err()
        || authority.wait_for(|served| served.is_some()).await.is_err();
    if is_over {
        return;
    }
    let mut bundle = Bundle { shared, written: None };
    let mut told: Option<Served> = None;
    loop {
        let served = match timeout(ANSWERS_WITHIN, Served::look(&shared.client)).await {
            Ok(Ok(served)) => served,
            Ok(Err(error)) => {
                shared.metrics.failures.inc();
                tracing::warn!(%error, "the API server does not say what it serves; asked again");
                sleep(PAUSE).await;
                continue;
            }
            Err(_) => {
                tracing::warn!("the API server does not answer about what it serves; asked again");
                sleep(PAUSE).await;
                continue;
            }
        };
        if told.as_ref() != Some(&served) {
            tell(&served);
        }
        turn(shared, &served, &mut bundle).await;
        told = Some(served);
    }
}

fn tell(served: &Served) {
    match &served.requests {
        Some(resource) => {
            tracing::info!(version = resource.version, "pods get certificates by PodCertificateRequests");
        }
        None => tracing::warn!(
            "the API server serves no PodCertificateRequest (Kubernetes 1.37; 1.35 and 1.36 by a feature gate): pods that were \
             injected with --identity requests wait until it does"
        ),
    }
    if served.bundles.is_none() {
        tracing::warn!(
            "the API server serves no ClusterTrustBundle: pods that were injected with --identity requests have no authorities"
        );
    }
}

/// One turn between two looks at what is served. It ends sooner where a request is to be looked at again.
async fn turn(shared: &Arc<Shared>, served: &Served, bundle: &mut Bundle<'_>) {
    let mut authority = shared.served.subscribe();
    let mut until = Instant::now() + LOOK_EVERY;
    // First, so that no pod has a certificate and nothing to check others by.
    until = until.min(bundle.keep(served.bundles.as_ref()).await);
    let Some(resource) = &served.requests else {
        while timeout_at(until, authority.changed()).await {
            until = until.min(bundle.keep(served.bundles.as_ref()).await);
        }
        return;
    };
    let api = Api::<Request>::all_with(shared.client.clone(), resource);
    let config = watcher::Config::default().page_size(PAGE).fields(&format!("spec.signerName={SIGNER}"));
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let mut answers: JoinSet<Option<Duration>> = JoinSet::new();
    loop {
        tokio::select! {
            event = events.try_next(), if answers.len() < AT_ONCE => match event {
                Ok(Some(Event::Apply(request) | Event::InitApply(request))) if is_open(&request) => {
                    let signer = Signer { shared: Arc::clone(shared), resource: resource.clone() };
                    answers.spawn(async move { signer.answer(request).await });
                }
                Ok(Some(_)) => {}
                // The stream has no end.
                Ok(None) => break,
                Err(error) => {
                    shared.metrics.watches.inc();
                    if is_absent(&error) {
                        break;
                    }
                    tracing::warn!(%error, "the watch of PodCertificateRequests broke; it is begun anew");
                }
            },
            Some(done) = answers.join_next(), if !answers.is_empty() => {
                let pause = done.unwrap_or(Some(PAUSE));
                until = pause.map_or(until, |pause| until.min(Instant::now() + pause));
            }
            Ok(()) = authority.changed() => until = until.min(bundle.keep(served.bundles.as_ref()).await),
            () = sleep_until(until) => break,
        }
    }
    // Each has a deadline.
    while answers.join_next().await.is_some() {}
}

/// Waits for a change until a time. False once that is over.
async fn timeout_at<T, E>(until: Instant, change: impl Future<Output = Result<T, E>>) -> bool {
    tokio::time::timeout_at(until, change).await.is_ok_and(|changed| changed.is_ok())
}

/// A failure that may pass.
#[derive(Debug, thiserror::Error)]
enum Later {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("there is no authority that could sign")]
    NoAuthority,
    #[error("the authority cannot sign: {0}")]
    Signing(#[from] crate::controller::authority::AuthorityError),
    #[error("the authority ends within the hour that a certificate has to live")]
    Ends,
}

/// The answer to one request.
struct Signer {
    shared: Arc<Shared>,
    resource: ApiResource,
}

impl Signer {
    /// Answers a request. Returns the pause after which it is to be looked at again.
    async fn answer(self, request: Request) -> Option<Duration> {
        let pod = pod_of(&request);
        // Each is work, a write, and a line of the log.
        if !self.shared.signatures.spend(pod.clone()) {
            tracing::debug!(%pod, "the pod asks for certificates too often: its requests wait");
            return Some(HELD_FOR);
        }
        let failed = match timeout(ANSWERS_WITHIN, self.answered(&request, &pod)).await {
            Ok(Ok(())) => return None,
            // It is gone, or another replica was faster.
            Ok(Err(Later::Api(kube::Error::Api(status)))) if status.code == 404 => return None,
            Ok(Err(Later::Api(kube::Error::Api(status)))) if status.code == 409 => return Some(PAUSE),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the API server does not answer within {} s", ANSWERS_WITHIN.as_secs()),
        };
        self.shared.metrics.failures.inc();
        tracing::warn!(%pod, "a PodCertificateRequest has no answer yet: {failed}");
        Some(PAUSE)
    }

    async fn answered(&self, request: &Request, pod: &Key) -> Result<(), Later> {
        let found = self.pod(request, pod).await?;
        let key = match judge(request, found.as_ref()) {
            Ok(key) => key,
            Err(denied) => {
                tracing::info!(%pod, reason = denied.reason(), "a PodCertificateRequest is denied: {denied}");
                self.write(request, denial(&denied)).await?;
                self.shared.metrics.signatures(Outcome::Refused);
                return Ok(());
            }
        };
        let id = self.shared.identities().id(pod.namespace(), &request.spec.service_account_name);
        let begin = SystemTime::now() - BEGINS_BEFORE;
        let end = begin + life(&request.spec, self.shared.identity_life());
        let signed = {
            let kept = self.shared.authority();
            let kept = kept.as_ref().ok_or(Later::NoAuthority)?;
            if !is_long_enough(kept.end()?.min(end).duration_since(begin).unwrap_or_default()) {
                return Err(Later::Ends);
            }
            sign_key(kept, &key, &id, (begin, end))?
        };
        let not_after = signed.end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        tracing::info!(
            target: "audit", %pod, pod_uid = request.spec.pod_uid, identity = id, serial = signed.serial, not_after,
            "a certificate was signed"
        );
        self.write(request, issue(&signed)).await?;
        self.shared.metrics.signatures(Outcome::Signed);
        Ok(())
    }

    /// The request's pod, as it is known, or else as the API server has it: the kubelet may know it before the watch does.
    async fn pod(&self, request: &Request, key: &Key) -> Result<Option<Pod>, kube::Error> {
        let known = self.shared.world().pod(key).filter(|pod| *pod.uid == *request.spec.pod_uid).cloned();
        // A pod that is bound to its node may be known as it was before that.
        if known.as_ref().is_some_and(|pod| !pod.node.is_empty()) {
            return Ok(known);
        }
        let pods = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Pod"), "pods");
        let api = Api::<RawPod>::namespaced_with(self.shared.client.clone(), key.namespace(), &pods);
        // By a list: the controller has no right to get one.
        let named = ListParams::default().fields(&format!("metadata.name={}", key.name()));
        Ok(api.list(&named).await?.items.into_iter().next().and_then(Pod::read))
    }

    async fn write(&self, request: &Request, status: Value) -> Result<(), kube::Error> {
        let metadata = &request.metadata;
        let (name, namespace) = (metadata.name.as_deref(), metadata.namespace.as_deref());
        let (name, namespace) = (name.unwrap_or_default(), namespace.unwrap_or_default());
        let api =
            Api::<DynamicObject>::namespaced_with(self.shared.client.clone(), namespace, &self.resource);
        // By its version: a replica that only believes that it leads changes nothing.
        let patch = json!({
            "metadata": { "resourceVersion": metadata.resource_version, "uid": metadata.uid },
            "status": status,
        });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        api.patch_status(name, &params, &Patch::Merge(&patch)).await.map(drop)
    }
}

fn condition(kind: &str, reason: &str, message: &str) -> Value {
    json!([{ "type": kind, "status": "True", "reason": reason, "message": message,
             "lastTransitionTime": clock::rfc3339(SystemTime::now()) }])
}

fn denial(denied: &Denied) -> Value {
    json!({ "conditions": condition("Denied", denied.reason(), &format!("culvert: {denied}")) })
}

fn issue(signed: &Signed) -> Value {
    let half = signed.end.duration_since(signed.begin).unwrap_or_default() / 2;
    json!({
        "certificateChain": pem(&signed.certificate),
        "notBefore": clock::rfc3339(signed.begin),
        "notAfter": clock::rfc3339(signed.end),
        "beginRefreshAt": clock::rfc3339(signed.begin + half),
        "conditions": condition("Issued", "Signed", "culvert has signed it"),
    })
}

fn pem(der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned() + "\n");
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

/// The ClusterTrustBundle, with what was written last.
struct Bundle<'a> {
    shared: &'a Shared,
    written: Option<(String, Instant)>,
}

impl Bundle<'_> {
    /// Writes the authorities where they differ from what was written, or that is long ago. Returns the time of the next look.
    async fn keep(&mut self, resource: Option<&ApiResource>) -> Instant {
        let text = self.shared.authority().as_ref().map(Kept::bundle);
        let (Some(resource), Some(text)) = (resource, text) else { return Instant::now() + LOOK_EVERY };
        let is_written =
            self.written.as_ref().is_some_and(|(written, at)| *written == text && at.elapsed() < LOOK_EVERY);
        if is_written {
            return Instant::now() + LOOK_EVERY;
        }
        let api = Api::<DynamicObject>::all_with(self.shared.client.clone(), resource);
        let bundle = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "metadata": { "name": TRUST_BUNDLE, "labels": { "app.kubernetes.io/managed-by": MANAGER } },
            "spec": { "signerName": SIGNER, "trustBundle": text },
        });
        let apply = PatchParams::apply(MANAGER).force();
        let failed =
            match timeout(ANSWERS_WITHIN, api.patch(TRUST_BUNDLE, &apply, &Patch::Apply(&bundle))).await {
                Ok(Ok(_)) => {
                    self.written = Some((text, Instant::now()));
                    return Instant::now() + LOOK_EVERY;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {} s", ANSWERS_WITHIN.as_secs()),
            };
        self.shared.metrics.failures.inc();
        tracing::warn!("cannot write ClusterTrustBundle {TRUST_BUNDLE}: {failed}; tried again");
        Instant::now() + PAUSE
    }
}
