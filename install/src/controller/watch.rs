// SPDX-License-Identifier: Apache-2.0
//! Watches of the cluster. Each brings a list first, then changes, into the world.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;

use culvert_mesh::kinds::Kind;
use futures_util::TryStreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::core::{GroupVersionKind, Resource};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt as _};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::key::Key;
use super::shared::Shared;
use super::world::{MeshDocument, Of, Pod, Put, RawPod, RawService, Service, Slice};

/// Objects a page of a list: a pod has some 7 KiB.
const PAGE: u32 = 250;
/// Group of the mesh's kinds.
pub(crate) const GROUP: &str = "kuma.io";
pub(crate) const VERSION: &str = "v1alpha1";

/// A name of a kind in paths, as Kuma's CRDs have it.
pub(crate) fn plural(kind: Kind) -> String {
    let name = kind.name().to_lowercase();
    if name.ends_with("ch") || name.ends_with('s') || name.ends_with("sh") {
        return format!("{name}es");
    }
    match name.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ => format!("{name}s"),
    }
}

/// The API's name of a kind.
pub(crate) fn resource(kind: Kind) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(GROUP, VERSION, kind.name()), &plural(kind))
}

/// Kinds that the cluster's users write. Pods and Services are told by Kubernetes itself.
pub(crate) fn written(kind: Kind) -> bool {
    !matches!(kind, Kind::Dataplane | Kind::MeshService)
}

/// The API's name of one of Kubernetes' own kinds.
fn builtin(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// Starts all watches, each a task.
pub(crate) fn start(shared: &Arc<Shared>, tasks: &mut JoinSet<()>) -> mpsc::Receiver<Of> {
    // One for each first list.
    let (listed, lists) = mpsc::channel(Kind::ALL.len() + 8);
    let pods = Api::<RawPod>::all_with(shared.client.clone(), &builtin("", "v1", "Pod", "pods"));
    let services =
        Api::<RawService>::all_with(shared.client.clone(), &builtin("", "v1", "Service", "services"));
    let slices = builtin("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices");
    let slices = Api::<DynamicObject>::all_with(shared.client.clone(), &slices);
    let namespaces = builtin("", "v1", "Namespace", "namespaces");
    let namespaces = Api::<DynamicObject>::all_with(shared.client.clone(), &namespaces);
    let task = |tasks: &mut JoinSet<()>, follow: Follow| {
        let (shared, listed) = (Arc::clone(shared), listed.clone());
        tasks.spawn(async move { follow.run(shared, listed).await });
    };
    task(tasks, Follow::Pods(pods));
    task(tasks, Follow::Services(services));
    task(tasks, Follow::Slices(slices));
    task(tasks, Follow::Namespaces(namespaces));
    for (place, kind) in Kind::ALL.into_iter().enumerate().filter(|(_, kind)| written(*kind)) {
        let api = Api::<DynamicObject>::all_with(shared.client.clone(), &resource(kind));
        task(tasks, Follow::Documents(place, api));
    }
    lists
}

/// Number of watches.
pub(crate) fn count() -> usize {
    4 + Kind::ALL.into_iter().filter(|kind| written(*kind)).count()
}

/// A watch of one kind.
enum Follow {
    Pods(Api<RawPod>),
    Services(Api<RawService>),
    Slices(Api<DynamicObject>),
    Namespaces(Api<DynamicObject>),
    Documents(usize, Api<DynamicObject>),
}

impl Follow {
    async fn run(self, shared: Arc<Shared>, listed: mpsc::Sender<Of>) {
        match self {
            Self::Pods(api) => {
                follow(Of::Pods, api, shared, listed, |pod| Pod::read(pod).map(Put::Pod)).await;
            }
            Self::Services(api) => {
                let read = |service| Service::read(service).map(Put::Service);
                follow(Of::Services, api, shared, listed, read).await;
            }
            Self::Slices(api) => {
                let read =
                    |DynamicObject { metadata, data, .. }| Slice::read(&metadata, data).map(Put::Slice);
                follow(Of::Slices, api, shared, listed, read).await;
            }
            Self::Namespaces(api) => {
                let read = |namespace: DynamicObject| {
                    let name = namespace.name_any().into();
                    Some(Put::Namespace(name, namespace.metadata.labels.unwrap_or_default()))
                };
                follow(Of::Namespaces, api, shared, listed, read).await;
            }
            Self::Documents(place, api) => {
                let kind = Kind::ALL[place];
                let read = move |object: DynamicObject| {
                    let key = Key::of(&object.metadata);
                    let generation = object.metadata.generation.unwrap_or_default();
                    let mut value = serde_json::to_value(object).unwrap_or(Value::Null);
                    // Items of a list have neither.
                    value["apiVersion"] = format!("{GROUP}/{VERSION}").into();
                    value["kind"] = kind.name().into();
                    Some(Put::Document(Box::new(MeshDocument::read(place, key, generation, &value))))
                };
                follow(Of::Documents(place), api, shared, listed, read).await;
            }
        }
    }
}

/// Keeps the world as the API server has it, for as long as it is polled. What is known stays while a watch is broken.
async fn follow<K>(
    of: Of,
    api: Api<K>,
    shared: Arc<Shared>,
    listed: mpsc::Sender<Of>,
    read: impl Fn(K) -> Option<Put>,
) where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().page_size(PAGE);
    // Pauses grow from 0.8 s to 30 s, with jitter.
    let mut events = pin!(watcher(api, config).default_backoff());
    // Keys that the list that is being read does not have, so far.
    let mut missing: Option<HashSet<Key>> = None;
    let mut was_missing = false;
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            // The stream has no end.
            Ok(None) => return,
            Err(error) => {
                shared.metrics.watches.inc();
                if is_absent(&error) {
                    // A kind that the cluster does not have. It may come.
                    if !was_missing {
                        was_missing = true;
                        let _ = listed.send(of).await;
                    }
                    tracing::debug!(?of, %error, "a kind cannot be watched");
                } else {
                    tracing::warn!(?of, %error, "a watch broke; what is known stays, and it is begun anew");
                }
                continue;
            }
        };
        match event {
            Event::Init => missing = Some(shared.world().keys(of)),
            Event::InitApply(object) | Event::Apply(object) => {
                let key = key(&object);
                if let Some(missing) = &mut missing {
                    missing.remove(&key);
                }
                shared.change(|world| match read(object) {
                    Some(put) => world.put(put),
                    None => world.remove(of, &key),
                });
            }
            Event::Delete(object) => shared.change(|world| world.remove(of, &key(&object))),
            Event::InitDone => {
                for key in missing.take().unwrap_or_default() {
                    shared.change(|world| world.remove(of, &key));
                }
                let _ = listed.send(of).await;
            }
        }
    }
}

fn key<K: Resource>(object: &K) -> Key {
    Key::of(object.meta())
}

/// Returns true if the API server does not know the kind.
pub(super) fn is_absent(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error)) = error else {
        return false;
    };
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_of_kumas_crds() {
        let names = |kind: &str| Kind::ALL.into_iter().find(|one| one.name() == kind).map(plural);
        for (kind, name) in [
            ("Mesh", "meshes"),
            ("MeshTLS", "meshtlses"),
            ("MeshRetry", "meshretries"),
            ("MeshPassthrough", "meshpassthroughs"),
            ("MeshProxyPatch", "meshproxypatches"),
            ("MeshIdentity", "meshidentities"),
            ("MeshLoadBalancingStrategy", "meshloadbalancingstrategies"),
            ("TrafficPermission", "trafficpermissions"),
            ("HostnameGenerator", "hostnamegenerators"),
        ] {
            assert_eq!(names(kind).as_deref(), Some(name));
        }
    }
}
