// SPDX-License-Identifier: Apache-2.0
//! Writes of the leader: the first Mesh, a ConfigMap in each onboarded namespace, conditions of documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use culvert_mesh::kinds::Kind;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::lease;
use crate::controller::authority::Kept;
use crate::controller::key::Key;
use crate::controller::shared::Shared;
use crate::controller::watch::{GROUP, VERSION, resource};
use crate::controller::world::{MeshDocument, Told, first_mesh};
use crate::system::clock;

/// Manager of the fields that it applies, and value of its label.
const MANAGER: &str = "culvert-controller";
const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// ConfigMap of a namespace with its mesh and the authorities.
const CONFIG_MAP: &str = "culvert-mesh";
/// Its keys.
const AUTHORITIES: &str = "ca.crt";
const MESHES: &str = "mesh.yaml";
/// Time for which changes are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// Time after which everything is written again: another program may have changed it.
const AGAIN_AFTER: Duration = Duration::from_secs(300);
/// Pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(5);
/// Deadline of one write.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Longest message of a condition, as Kubernetes takes it.
const MAX_MESSAGE: usize = 32_000;

/// Writes for as long as it is polled, while this replica leads.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut leads = shared.leads.subscribe();
    loop {
        let is_over = leads.wait_for(|leads| *leads).await.is_err();
        if is_over {
            return;
        }
        let mut writer = Writer::new(&shared);
        loop {
            let pause = match writer.all().await {
                Ok(()) => AGAIN_AFTER,
                Err(error) => {
                    shared.metrics.failures.inc();
                    tracing::warn!("{error}; tried again in {} s", PAUSE.as_secs());
                    PAUSE
                }
            };
            tokio::select! {
                () = sleep(pause) => writer.forget_after(AGAIN_AFTER),
                () = shared.wake.notified() => sleep(GATHER).await,
                _ = async { leads.wait_for(|leads| !*leads).await.is_err() } => break,
            }
        }
    }
}

/// A write that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {what}: {why}")]
struct WriteError {
    what: String,
    why: String,
}

/// The leader's writes, with what was written last.
struct Writer<'a> {
    shared: &'a Shared,
    /// Data of ConfigMaps, by their namespaces.
    maps: BTreeMap<String, BTreeMap<String, String>>,
    /// True once the Lease says that there was a Mesh.
    remembered: bool,
    /// True once its loss was told.
    missed: bool,
    whole_since: Instant,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self { shared, maps: BTreeMap::new(), remembered: false, missed: false, whole_since: Instant::now() }
    }

    /// Forgets what was written, once that is old.
    fn forget_after(&mut self, age: Duration) {
        if self.whole_since.elapsed() >= age {
            *self = Self::new(self.shared);
        }
    }

    /// Writes everything that is not as it should be. One failure stops none of the others.
    async fn all(&mut self) -> Result<(), WriteError> {
        if !*self.shared.listed.borrow() {
            return Ok(());
        }
        let mesh = self.mesh().await;
        let maps = self.config_maps().await;
        let conditions = self.conditions().await;
        mesh.and(maps).and(conditions)
    }

    /// Makes the default Mesh where there never was one. A Mesh that is deleted stays deleted: one that was STRICT must not come back
    /// as PERMISSIVE, and sidecars keep the last one that they were told.
    async fn mesh(&mut self) -> Result<(), WriteError> {
        let kind = Kind::ALL.iter().position(|kind| *kind == Kind::Mesh).unwrap_or_default();
        let is_there = self.shared.world().documents.current().any(|document| document.kind == kind);
        if is_there {
            return self.remember_mesh().await;
        }
        let had =
            lease::had_mesh(self.shared).await.map_err(|error| failed("the Lease".to_owned(), error))?;
        if had {
            if !std::mem::replace(&mut self.missed, true) {
                tracing::warn!(
                    "there is no Mesh any more: sidecars keep the last one, and new pods wait for one"
                );
            }
            return Ok(());
        }
        let api = Api::<DynamicObject>::all_with(self.shared.client.clone(), &resource(Kind::Mesh));
        let what = || "Mesh default".to_owned();
        let mesh = serde_json::from_value(first_mesh()).map_err(|error| failed(what(), error))?;
        match within(api.create(&PostParams::default(), &mesh)).await {
            Ok(_) => tracing::info!("Mesh default was made, with mTLS PERMISSIVE: there was no Mesh"),
            Err(error) if error.is(409) => {}
            // The cluster has no such kind.
            Err(error) if error.is(404) => {
                tracing::warn!(
                    "the cluster has no kind Mesh: no Mesh can be made (--crds auto makes the kinds)"
                );
            }
            Err(error) => return Err(failed(what(), error)),
        }
        Ok(())
    }

    /// Notes once in the Lease that there was a Mesh.
    async fn remember_mesh(&mut self) -> Result<(), WriteError> {
        self.missed = false;
        if !self.remembered {
            let noted = lease::note_mesh(self.shared).await;
            noted.map_err(|error| failed("the Lease".to_owned(), error))?;
            self.remembered = true;
        }
        Ok(())
    }

    /// Puts the meshes and the authorities into each onboarded namespace, and takes them out of others.
    async fn config_maps(&mut self) -> Result<(), WriteError> {
        let Some(bundle) = self.shared.authority().as_ref().map(Kept::bundle) else { return Ok(()) };
        let (namespaces, meshes) = {
            let world = self.shared.world();
            let namespaces: BTreeSet<String> =
                world.onboarded_namespaces().into_iter().map(str::to_owned).collect();
            (namespaces, world.documents.meshes())
        };
        let mut result = Ok(());
        let mut data = BTreeMap::from([(AUTHORITIES.to_owned(), bundle)]);
        if !meshes.is_empty() {
            // A file without a document is an error to a sidecar.
            data.insert(MESHES.to_owned(), meshes);
        }
        for namespace in &namespaces {
            if self.maps.get(namespace) == Some(&data) {
                continue;
            }
            match self.config_map(namespace, &data).await {
                Ok(()) => _ = self.maps.insert(namespace.clone(), data.clone()),
                Err(error) => result = Err(error),
            }
        }
        let left: Vec<String> =
            self.maps.keys().filter(|name| !namespaces.contains(*name)).cloned().collect();
        for namespace in left {
            match self.no_config_map(&namespace).await {
                Ok(()) => _ = self.maps.remove(&namespace),
                Err(error) => result = Err(error),
            }
        }
        result
    }

    fn maps(&self, namespace: &str) -> Api<DynamicObject> {
        let resource =
            ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "ConfigMap"), "configmaps");
        Api::namespaced_with(self.shared.client.clone(), namespace, &resource)
    }

    async fn config_map(&self, namespace: &str, data: &BTreeMap<String, String>) -> Result<(), WriteError> {
        let what = || format!("ConfigMap {namespace}/{CONFIG_MAP}");
        let api = self.maps(namespace);
        let found = within(api.get_opt(CONFIG_MAP)).await.map_err(|error| failed(what(), error))?;
        let mut data = data.clone();
        let is_ours = found.is_none_or(|map| is_ours(&map));
        if !is_ours {
            // Its owner writes the documents; the authorities are ours to say.
            data.remove(MESHES);
        }
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": CONFIG_MAP, "namespace": namespace,
                          "labels": if is_ours { json!({ MANAGED_BY: MANAGER }) } else { json!({}) } },
            "data": data,
        });
        let apply = PatchParams::apply(MANAGER).force();
        let applied = within(api.patch(CONFIG_MAP, &apply, &Patch::Apply(&map))).await;
        match applied {
            // The namespace is going.
            Err(error) if error.is(404) || error.is(403) && error.is_terminating() => Ok(()),
            applied => applied.map(drop).map_err(|error| failed(what(), error)),
        }
    }

    async fn no_config_map(&self, namespace: &str) -> Result<(), WriteError> {
        let what = || format!("ConfigMap {namespace}/{CONFIG_MAP}");
        let api = self.maps(namespace);
        let found = within(api.get_opt(CONFIG_MAP)).await.map_err(|error| failed(what(), error))?;
        if found.is_none_or(|map| !is_ours(&map)) {
            return Ok(());
        }
        match within(api.delete(CONFIG_MAP, &DeleteParams::default())).await {
            Err(error) if !error.is(404) => Err(failed(what(), error)),
            _ => Ok(()),
        }
    }

    /// Tells documents whether they are accepted.
    async fn conditions(&self) -> Result<(), WriteError> {
        let (mut invalid, mut differ) = (0, Vec::new());
        for document in self.shared.world().documents.current() {
            invalid += i64::from(document.read.is_err());
            let wanted = Told { accepted: document.read.is_ok(), generation: document.generation };
            if document.told != Some(wanted) {
                differ.push((document.kind, document.key.clone(), condition(document)));
            }
        }
        self.shared.metrics.invalid.set(invalid);
        let mut result = Ok(());
        for (kind, key, condition) in differ {
            result = result.and(self.condition(Kind::ALL[kind], &key, condition).await);
        }
        result
    }

    async fn condition(&self, kind: Kind, key: &Key, condition: Value) -> Result<(), WriteError> {
        let resource = resource(kind);
        let client = self.shared.client.clone();
        let api = match key.namespace() {
            "" => Api::<DynamicObject>::all_with(client, &resource),
            namespace => Api::namespaced_with(client, namespace, &resource),
        };
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), key.name().into());
        let status = json!({
            "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind.name(), "metadata": metadata,
            "status": { "conditions": [condition] },
        });
        let apply = PatchParams::apply(MANAGER).force();
        match within(api.patch_status(key.name(), &apply, &Patch::Apply(&status))).await {
            Ok(_) => Ok(()),
            // Gone meanwhile, or a kind of another program's without a status.
            Err(error) if error.is(404) => Ok(()),
            Err(error) => Err(failed(format!("the status of {} {key}", kind.name()), error)),
        }
    }
}

fn is_ours(object: &DynamicObject) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

fn condition(document: &MeshDocument) -> Value {
    let (status, reason, message) = match &document.read {
        Ok(_) => ("True", "Valid", "culvert has read it".to_owned()),
        Err(refused) => ("False", "Invalid", refused.0.join("\n").chars().take(MAX_MESSAGE).collect()),
    };
    json!({
        "type": "Accepted", "status": status, "reason": reason, "message": message,
        "observedGeneration": document.generation,
        "lastTransitionTime": clock::rfc3339(SystemTime::now()),
    })
}

/// A call that failed.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Api(kube::Error),
    #[error("the API server does not answer within {} s", ANSWERS_WITHIN.as_secs())]
    Late,
}

impl CallError {
    fn is(&self, code: u16) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.code == code)
    }

    fn is_terminating(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if status.message.contains("being terminated"))
    }
}

async fn within<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    timeout(ANSWERS_WITHIN, call).await.map_err(|_| CallError::Late)?.map_err(CallError::Api)
}

fn failed(what: String, why: impl std::fmt::Display) -> WriteError {
    WriteError { what, why: why.to_string() }
}
