// SPDX-License-Identifier: Apache-2.0
//! Questions to the API server, page by page.

use std::collections::BTreeMap;

use culvert_mesh::kinds::Kind;
use hyper::StatusCode;
use kube::core::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::gather::{Cluster, Lease, Pods, RawPod};
use crate::command::doctor::cluster::trial::Rules;
use crate::controller::key::Key;
use crate::controller::watch::{GROUP, VERSION, plural, written};
use crate::controller::world::{MeshDocument, Put, World};
use crate::inject::{Names, Namespace, Settings, Shape, concerns_namespace};
use crate::kube::Client;
use crate::kube::http::{ApiError, Call, encoded};

/// Pods a page: some 7 KiB each.
const PODS: usize = 200;
const NAMESPACES: usize = 500;
/// Documents a page: each has at most the API server's 1.5 MiB.
const DOCUMENTS: usize = 50;
/// Times that a list is begun again, its pages having become too old.
const AGAIN: usize = 3;
/// Group of webhook configurations and of policies.
const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
/// Lease of the replica that writes.
const LEASE: &str = "culvert-controller";

/// A part of the cluster that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {what}: {error}{}", advice(right, error))]
pub(super) struct Unread {
    what: String,
    /// Verb and resource of the right that it takes.
    right: String,
    error: ApiError,
}

fn advice(right: &str, error: &ApiError) -> String {
    match error.status() {
        Some(StatusCode::FORBIDDEN) => {
            format!(
                "; this account needs the right to {right} (the chart makes one: injector.doctor.enabled)"
            )
        }
        Some(StatusCode::UNAUTHORIZED) => {
            "; its token is not taken: --service-account names the folder with a current one".to_owned()
        }
        _ => String::new(),
    }
}

fn unread(what: impl Into<String>, right: impl Into<String>) -> impl FnOnce(ApiError) -> Unread {
    let (what, right) = (what.into(), right.into());
    move |error| Unread { what, right, error }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListMeta {
    #[serde(rename = "continue")]
    next: Option<String>,
}

/// Reads a list, a page at a time. A list whose pages have become too old is begun again, with nothing of what came so far.
async fn list<T, S>(
    client: &Client,
    path: &str,
    mut limit: usize,
    take: impl Fn(&mut S, T),
) -> Result<S, ApiError>
where
    T: for<'de> Deserialize<'de>,
    S: Default,
{
    let (mut state, mut next, mut begun) = (S::default(), String::new(), 0);
    loop {
        let follows = if next.is_empty() { String::new() } else { format!("&continue={}", encoded(&next)) };
        let call = format!("{path}?limit={limit}{follows}");
        let page = match client.json::<Page<T>>(Call::get(&call)).await {
            Ok(page) => page,
            Err(error) if error.status() == Some(StatusCode::GONE) && begun < AGAIN => {
                (state, next, begun) = (S::default(), String::new(), begun + 1);
                continue;
            }
            Err(ApiError::TooLong(_)) if limit > 1 => {
                limit /= 2;
                continue;
            }
            Err(error) => return Err(error),
        };
        page.items.into_iter().flatten().for_each(|item| take(&mut state, item));
        next = page.metadata.next.unwrap_or_default();
        if next.is_empty() {
            return Ok(state);
        }
    }
}

/// Asks everything. What can be missing is a problem in the answer; without pods and namespaces there is none.
pub(super) async fn ask(client: &Client, webhook: &str) -> Result<Cluster, Unread> {
    let mut problems = Vec::new();
    let mut noted = |result: Result<(), Unread>| problems.extend(result.err().map(|error| error.to_string()));
    let rules = match rules(client, webhook).await {
        Ok(rules) => rules,
        Err(error) => {
            noted(Err(error));
            Rules::default()
        }
    };
    let namespaces = list(client, "/api/v1/namespaces", NAMESPACES, take_namespace).await;
    let namespaces: BTreeMap<String, Namespace> =
        namespaces.map_err(unread("namespaces", "list namespaces"))?;
    let mut world = World::default();
    for (place, kind) in Kind::ALL.into_iter().enumerate().filter(|(_, kind)| written(*kind)) {
        noted(documents(client, &mut world, place, kind).await);
    }
    let settings = settings(rules);
    let take = |pods: &mut Pods, pod: RawPod| pods.take(pod, &namespaces, &settings);
    let pods: Pods = list(client, "/api/v1/pods", PODS, take)
        .await
        .map_err(unread("pods", "list pods of all namespaces"))?;
    let lease = match pods.namespace_of_controller() {
        None => None,
        Some(namespace) => match lease(client, namespace).await {
            Ok(lease) => lease,
            Err(error) => {
                noted(Err(error));
                None
            }
        },
    };
    Ok(Cluster { world, pods, lease, problems })
}

/// The rules of the injector, as its webhooks or its policy tell them; those of none where there is none.
async fn rules(client: &Client, name: &str) -> Result<Rules, Unread> {
    for kind in ["mutatingwebhookconfigurations", "mutatingadmissionpolicies"] {
        let path = format!("{ADMISSION}/{kind}/{}", encoded(name));
        match client.json::<Value>(Call::get(&path)).await {
            Ok(found) if kind == "mutatingadmissionpolicies" => return Ok(Rules::of_policy(&found)),
            Ok(found) => {
                return Ok(Rules::of_webhooks(found["webhooks"].as_array().into_iter().flatten()));
            }
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
            Err(error) => {
                return Err(unread("the namespaces that the injector leaves out", format!("get {kind}"))(
                    error,
                ));
            }
        }
    }
    Ok(Rules::default())
}

/// Settings of the decision, of which whether a pod is asked for is all that counts here.
fn settings(rules: Rules) -> Settings {
    Settings {
        image: String::new(),
        shape: Shape::Native,
        excluded: rules.excluded,
        kuma_label: rules.kuma_label,
        node: culvert_cni::pod::Settings::default(),
        control: None,
    }
}

/// An object of which the metadata count.
#[derive(Deserialize)]
struct Named {
    metadata: ObjectMeta,
}

fn take_namespace(all: &mut BTreeMap<String, Namespace>, Named { metadata }: Named) {
    let ours = |names: Option<BTreeMap<String, String>>| -> Names {
        names.unwrap_or_default().into_iter().filter(|(name, _)| concerns_namespace(name)).collect()
    };
    let name = metadata.name.unwrap_or_default();
    let (labels, annotations) = (ours(metadata.labels), ours(metadata.annotations));
    all.insert(name.clone(), Namespace { name: Some(name), labels, annotations });
}

/// Reads the documents of a kind into the world.
async fn documents(client: &Client, world: &mut World, place: usize, kind: Kind) -> Result<(), Unread> {
    let plural = plural(kind);
    let take = |documents: &mut Vec<MeshDocument>, mut object: Value| {
        let Ok(metadata) = serde_json::from_value::<ObjectMeta>(object["metadata"].clone()) else { return };
        // Items of a list have neither.
        object["apiVersion"] = format!("{GROUP}/{VERSION}").into();
        object["kind"] = kind.name().into();
        let generation = metadata.generation.unwrap_or_default();
        documents.push(MeshDocument::read(place, Key::of(&metadata), generation, &object));
    };
    let all: Vec<MeshDocument> =
        match list(client, &format!("/apis/{GROUP}/{VERSION}/{plural}"), DOCUMENTS, take).await {
            Ok(all) => all,
            // The cluster has no such kind.
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => return Ok(()),
            Err(error) => {
                return Err(unread(
                    format!("documents of kind {}", kind.name()),
                    format!("list {plural}.{GROUP}"),
                )(error));
            }
        };
    for document in all {
        world.put(Put::Document(Box::new(document)));
    }
    Ok(())
}

/// The Lease of the controller; `None` where no replica has ever led.
async fn lease(client: &Client, namespace: &str) -> Result<Option<Lease>, Unread> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{LEASE}", encoded(namespace));
    match client.json::<Value>(Call::get(&path)).await {
        Ok(lease) => Ok(Some(Lease::read(&lease["spec"]))),
        Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(unread(
            format!("Lease {namespace}/{LEASE}"),
            format!("get leases {LEASE} in {namespace}"),
        )(error)),
    }
}
