// SPDX-License-Identifier: Apache-2.0
//! Writes of the leader: the first Mesh, a ConfigMap in each onboarded namespace, conditions of documents.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use culvert_mesh::kinds::Kind;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::call::{MANAGER, WriteError, failed, within};
use super::conditions::Conditions;
use super::lease;
use crate::controller::authority::Kept;
use crate::controller::shared::Shared;
use crate::controller::watch::resource;
use crate::controller::world::first_mesh;

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
            // Others may have changed it. A live cluster wakes this loop all the time, so that no pause may be waited for.
            writer.forget_after(AGAIN_AFTER);
            let pause = match writer.all().await {
                Ok(()) => writer.conditions.due().unwrap_or(AGAIN_AFTER),
                Err(error) => {
                    shared.metrics.failures.inc();
                    tracing::warn!("{error}; tried again in {} s", PAUSE.as_secs());
                    PAUSE
                }
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = shared.wake.notified() => sleep(GATHER).await,
                _ = async { leads.wait_for(|leads| !*leads).await.is_err() } => break,
            }
        }
    }
}

/// The leader's writes, with what was written last.
struct Writer<'a> {
    shared: &'a Shared,
    /// Data of ConfigMaps, by their namespaces.
    maps: BTreeMap<String, BTreeMap<String, String>>,
    conditions: Conditions,
    /// True once the Lease says that there was a Mesh.
    remembered: bool,
    /// True once its loss was told.
    missed: bool,
    whole_since: Instant,
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            maps: BTreeMap::new(),
            conditions: Conditions::default(),
            remembered: false,
            missed: false,
            whole_since: Instant::now(),
        }
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
        let conditions = self.conditions.write(self.shared).await;
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
}

fn is_ours(object: &DynamicObject) -> bool {
    let labels = object.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}
