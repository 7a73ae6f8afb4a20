// SPDX-License-Identifier: Apache-2.0
//! The Lease by which one replica writes what must be written once.
//!
//! A replica judges a holder by its own clock: it takes the lease once it has seen the same renewal for longer than its life. So
//! clocks that differ make no second leader.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kube::Api;
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::controller::shared::Shared;
use crate::system::clock;

/// Name of the Lease.
const NAME: &str = "culvert-controller";
/// Annotation of a cluster that has, or had, a Mesh.
const HAD_MESH: &str = "culvert.dev/had-mesh";
/// Life of a lease that is not renewed; client-go's own default.
const LIFE: Duration = Duration::from_secs(15);
/// Time between two renewals.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A leader that could not renew for so long leads no more: before another one may begin.
const LEADS_FOR: Duration = Duration::from_secs(10);
/// Deadline of a call.
const ANSWERS_WITHIN: Duration = Duration::from_secs(4);

/// The lease as a replica sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    holder: String,
    renewed: String,
}

/// A replica's next act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// It writes itself in.
    Take,
    /// It writes the time.
    Renew,
    /// Another one holds it.
    Wait,
}

/// Decides about a lease. `since` is the time for which this replica has seen no other renewal.
fn step(seen: Option<&Seen>, me: &str, since: Duration) -> Step {
    match seen {
        Some(Seen { holder, .. }) if holder == me => Step::Renew,
        // Its holder gave it back.
        Some(Seen { holder, .. }) if holder.is_empty() => Step::Take,
        Some(_) if since <= LIFE => Step::Wait,
        Some(_) | None => Step::Take,
    }
}

/// Holds or awaits the lease for as long as it is polled.
pub(crate) async fn hold(shared: Arc<Shared>) {
    let api = api(&shared);
    let me = shared.settings.instance.clone();
    let mut observed: Option<(Seen, Instant)> = None;
    let mut renewed: Option<Instant> = None;
    loop {
        let began = Instant::now();
        match timeout(ANSWERS_WITHIN, look(&api, &me, &mut observed)).await {
            Ok(Ok(true)) => renewed = Some(began),
            Ok(Ok(false)) => renewed = None,
            Ok(Err(error)) => {
                shared.metrics.failures.inc();
                tracing::warn!(%error, "the lease cannot be read or written; tried again in 5 s");
            }
            Err(_) => tracing::warn!("the API server does not answer about the lease; tried again in 5 s"),
        }
        let leads = renewed.is_some_and(|at| at.elapsed() < LEADS_FOR);
        lead(&shared, leads);
        sleep(RENEW_EVERY).await;
    }
}

fn lead(shared: &Shared, leads: bool) {
    shared.metrics.leader.set(i64::from(leads));
    let changed = shared.leads.send_if_modified(|was| std::mem::replace(was, leads) != leads);
    if changed {
        let words =
            if leads { "leads: this replica writes" } else { "leads no more: another replica writes" };
        tracing::info!("{words}");
    }
}

/// Gives the lease back, so that another replica begins at once.
pub(crate) async fn give_back(shared: &Shared) {
    if !*shared.leads.borrow() {
        return;
    }
    let api = api(shared);
    let give = async {
        let mut lease = api.get(NAME).await?;
        if lease.data["spec"]["holderIdentity"] == *shared.settings.instance {
            lease.data["spec"]["holderIdentity"] = "".into();
            api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok::<_, kube::Error>(())
    };
    if let Ok(Err(error)) = timeout(ANSWERS_WITHIN, give).await {
        tracing::debug!(%error, "the lease could not be given back; it runs out by itself");
    }
}

/// Returns true if the cluster has, or had, a Mesh.
pub(super) async fn had_mesh(shared: &Shared) -> Result<bool, LeaseError> {
    let api = api(shared);
    let lease = timeout(ANSWERS_WITHIN, api.get(NAME)).await.map_err(|_| LeaseError::Late)??;
    Ok(lease.metadata.annotations.unwrap_or_default().contains_key(HAD_MESH))
}

/// Notes that the cluster has a Mesh.
pub(super) async fn note_mesh(shared: &Shared) -> Result<(), LeaseError> {
    let api = api(shared);
    let note = async {
        let mut lease = api.get(NAME).await?;
        let annotations = lease.metadata.annotations.get_or_insert_default();
        if annotations.insert(HAD_MESH.to_owned(), "true".to_owned()).is_none() {
            // By its version: the renewal may be faster, and then it is tried again.
            api.replace(NAME, &PostParams::default(), &lease).await?;
        }
        Ok::<_, LeaseError>(())
    };
    timeout(ANSWERS_WITHIN, note).await.map_err(|_| LeaseError::Late)?
}

/// A call about the lease that failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API server does not answer within {} s", ANSWERS_WITHIN.as_secs())]
    Late,
}

fn api(shared: &Shared) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease");
    let resource = ApiResource::from_gvk_with_plural(&kind, "leases");
    Api::namespaced_with(shared.client.clone(), &shared.settings.service.namespace, &resource)
}

/// Looks at the lease once; true if this replica holds it now.
async fn look(
    api: &Api<DynamicObject>,
    me: &str,
    observed: &mut Option<(Seen, Instant)>,
) -> Result<bool, kube::Error> {
    let found = api.get_opt(NAME).await?;
    let seen = found.as_ref().map(|lease| seen(&lease.data));
    if seen.as_ref() != observed.as_ref().map(|(seen, _)| seen) {
        *observed = seen.clone().map(|seen| (seen, Instant::now()));
    }
    let since = observed.as_ref().map(|(_, at)| at.elapsed()).unwrap_or_default();
    let next = step(seen.as_ref(), me, since);
    if next == Step::Wait {
        return Ok(false);
    }
    let now = clock::micro(SystemTime::now());
    let written = match found {
        Some(mut lease) => {
            let spec = &mut lease.data["spec"];
            if next == Step::Take {
                let transitions = spec["leaseTransitions"].as_u64().unwrap_or_default();
                spec["leaseTransitions"] = (transitions + 1).into();
                spec["acquireTime"] = now.clone().into();
            }
            spec["holderIdentity"] = me.into();
            spec["renewTime"] = now.into();
            spec["leaseDurationSeconds"] = LIFE.as_secs().into();
            api.replace(NAME, &PostParams::default(), &lease).await
        }
        None => api.create(&PostParams::default(), &first(me, &now)).await,
    };
    match written {
        Ok(_) => Ok(true),
        // Another replica was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn first(me: &str, now: &str) -> DynamicObject {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("coordination.k8s.io", "v1", "Lease"));
    DynamicObject::new(NAME, &resource).data(json!({ "spec": {
        "holderIdentity": me, "acquireTime": now, "renewTime": now, "leaseDurationSeconds": LIFE.as_secs(), "leaseTransitions": 0,
    } }))
}

fn seen(data: &Value) -> Seen {
    let text = |name: &str| data["spec"][name].as_str().unwrap_or_default().to_owned();
    Seen { holder: text("holderIdentity"), renewed: text("renewTime") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps() {
        let of = |holder: &str| Some(Seen { holder: holder.to_owned(), renewed: "t".to_owned() });
        let second = Duration::from_secs(1);
        for (name, seen, since, expected) in [
            ("there is none", None, Duration::ZERO, Step::Take),
            ("it is ours", of("me"), LIFE * 2, Step::Renew),
            ("another's, just seen", of("other"), Duration::ZERO, Step::Wait),
            ("another's, at its end", of("other"), LIFE, Step::Wait),
            ("another's, run out", of("other"), LIFE + second, Step::Take),
            ("given back", of(""), Duration::ZERO, Step::Take),
        ] {
            assert_eq!(step(seen.as_ref(), "me", since), expected, "{name}");
        }
        assert!(
            LEADS_FOR + ANSWERS_WITHIN < LIFE,
            "a leader knows that it is none before another one begins"
        );
    }
}
