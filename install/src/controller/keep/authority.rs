// SPDX-License-Identifier: Apache-2.0
//! The authority in its Secret: read by every replica, written by the leader.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use kube::Api;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::controller::authority::{AuthorityError, Change, Kept, Plan, serving};
use crate::controller::shared::Shared;

/// Time between two looks at the Secret. A replica that does not lead hears of a next authority so much later, long before it
/// signs.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Deadline of a look.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Life of the certificate that streams are served with.
const SERVED_FOR: Duration = Duration::from_secs(24 * 3600);
/// Label of a Secret that the controller made. One without it is its owner's, and is never changed.
const MANAGED: (&str, &str) = ("app.kubernetes.io/managed-by", "culvert-controller");

/// Reasons why the authority is not as it should be.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    #[error("the authority: {0}")]
    Authority(#[from] AuthorityError),
    #[error(
        "Secret {0} is not the controller's, and its authority cannot be used: {1}. Put a good one there, or delete it"
    )]
    Foreign(String, String),
    #[error("Secret {0} is not there yet: the leader makes it")]
    NotYet(String),
}

/// Keeps the authority for as long as it is polled.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Secret"), "secrets");
    let namespace = &shared.settings.service.namespace;
    let api = Api::<DynamicObject>::namespaced_with(shared.client.clone(), namespace, &resource);
    let plan =
        Plan { trust_domain: shared.settings.trust_domain.clone(), life: shared.settings.authority_life };
    // Often enough for an authority that lives seconds, as in a test.
    let look_every = LOOK_EVERY.min(plan.life / 40);
    let mut served_until: Option<Instant> = None;
    let mut leads = shared.leads.subscribe();
    loop {
        match timeout(ANSWERS_WITHIN, look(&shared, &api, &plan)).await {
            Ok(Ok(kept)) => {
                if let Err(error) = take(&shared, kept, &mut served_until) {
                    tracing::error!(%error, "the authority cannot be used; the one before stays in use");
                }
            }
            Ok(Err(error @ KeepError::NotYet(_))) => tracing::debug!("{error}"),
            Ok(Err(error)) => {
                shared.metrics.failures.inc();
                tracing::warn!(
                    "{error}; what is known stays in use, tried again in {} s",
                    LOOK_EVERY.as_secs()
                );
            }
            Err(_) => tracing::warn!("the API server does not answer about the authority; tried again"),
        }
        tokio::select! {
            () = sleep(look_every) => {}
            _ = leads.changed() => {}
        }
    }
}

/// Takes an authority into use.
fn take(shared: &Shared, kept: Kept, served_until: &mut Option<Instant>) -> Result<(), AuthorityError> {
    let now = SystemTime::now();
    kept.check(now)?;
    let differs = shared.authority().as_ref() != Some(&kept);
    let mut served = None;
    if differs || served_until.is_none_or(|until| until <= Instant::now()) {
        // Half its life is left when it is renewed.
        let life = SERVED_FOR.min(shared.settings.authority_life / 4);
        served = Some(serving(&kept, &shared.settings.service.names(), (now, life))?);
        *served_until = Some(Instant::now() + life / 2);
    }
    if differs {
        *shared.authority() = Some(kept);
    }
    // Behind the authority, which others look at once they hear of this.
    if served.is_some() {
        shared.served.send_replace(served);
    }
    if differs {
        shared.wake.notify_one();
        shared.followers().tell_all();
    }
    Ok(())
}

/// Reads the Secret, and writes it where the leader has to.
async fn look(shared: &Shared, api: &Api<DynamicObject>, plan: &Plan) -> Result<Kept, KeepError> {
    let name = &shared.settings.secret;
    let found = api.get_opt(name).await?;
    let kept = found.as_ref().and_then(|secret| Kept::read(&data(secret)));
    let labels = found.as_ref().and_then(|secret| secret.metadata.labels.as_ref());
    let is_ours =
        found.is_none() || labels.and_then(|labels| labels.get(MANAGED.0)).is_some_and(|by| by == MANAGED.1);
    if !is_ours {
        let foreign = |why: String| KeepError::Foreign(name.clone(), why);
        let kept = kept.ok_or_else(|| foreign("it has no tls.crt and tls.key".to_owned()))?;
        kept.check(SystemTime::now()).map_err(|error| foreign(error.to_string()))?;
        return Ok(kept);
    }
    let next = match *shared.leads.borrow() {
        true => plan.next(kept.as_ref(), SystemTime::now())?,
        false => None,
    };
    let Some((next, change)) = next else { return kept.ok_or_else(|| KeepError::NotYet(name.clone())) };
    let data: Map<String, Value> =
        next.data().into_iter().map(|(key, text)| (key, BASE64_STANDARD.encode(text).into())).collect();
    let written = match found {
        // By its version: a replica that only believes that it leads changes nothing.
        Some(mut secret) => {
            secret.data["data"] = data.into();
            api.replace(name, &PostParams::default(), &secret).await
        }
        None => {
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Secret"));
            let mut secret =
                DynamicObject::new(name, &resource).data(json!({ "type": "Opaque", "data": data }));
            secret.metadata.labels = Some([(MANAGED.0.to_owned(), MANAGED.1.to_owned())].into());
            api.create(&PostParams::default(), &secret).await
        }
    };
    match written {
        Ok(_) => {
            match change {
                Change::Made(why) => tracing::info!("a mesh authority was made: {why}"),
                Change::Published => tracing::info!("the next mesh authority is published; it signs later"),
                Change::Signs => tracing::info!("the next mesh authority signs from now on"),
            }
            Ok(next)
        }
        // Another replica was faster; the next look reads what it wrote.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            kept.ok_or_else(|| KeepError::NotYet(name.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

fn data(secret: &DynamicObject) -> BTreeMap<String, String> {
    let texts = secret.data["data"].as_object().into_iter().flatten();
    let decoded = texts.filter_map(|(key, value)| {
        let bytes = BASE64_STANDARD.decode(value.as_str()?).ok()?;
        Some((key.clone(), String::from_utf8(bytes).ok()?))
    });
    decoded.collect()
}
