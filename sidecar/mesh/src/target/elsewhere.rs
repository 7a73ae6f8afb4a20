// SPDX-License-Identifier: Apache-2.0
//! Targets of policies that no connection of a pod with a sidecar belongs to: built-in gateways, and requests of routes. Pure.

use super::{Target, TargetRef};
use crate::model::labels::Labels;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, Read, fields, words};
use serde_json::{Value, json};

/// Pods of the mesh, or a built-in gateway, or with `ROUTES` the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyTarget<const ROUTES: bool> {
    /// Pods of the mesh.
    Pods(TargetRef),
    /// A gateway or a route: such a policy is about no pod.
    Elsewhere,
}

/// Pods of the mesh, or a built-in gateway.
pub type PodsOrGateway = PolicyTarget<false>;

/// Pods of the mesh, a built-in gateway, or the requests of a route.
pub type PodsOrRoute = PolicyTarget<true>;

fields! {
    /// A built-in gateway.
    pub struct GatewayRef {
        /// Only MeshGateway.
        kind: required GatewayRefKind = "kind",
        /// Name of the gateway.
        name: optional String = "name",
        /// Namespace of the gateway.
        namespace: optional String = "namespace",
        /// Labels of the gateway.
        labels: optional Labels = "labels",
        /// Tags of its listeners.
        tags: default Tags = "tags",
        /// Name of a listener.
        section_name: optional String = "sectionName",
    }
}

words! {
    /// Kinds of gateways that a policy can be about.
    pub enum GatewayRefKind {
        /// A built-in gateway.
        MeshGateway = "MeshGateway",
    }
}

fields! {
    /// The requests of a route.
    pub struct RouteRef {
        /// Only MeshHTTPRoute.
        kind: required RouteRefKind = "kind",
        /// Name of the route.
        name: optional String = "name",
        /// Namespace of the route.
        namespace: optional String = "namespace",
        /// Labels of the route.
        labels: optional Labels = "labels",
    }
}

words! {
    /// Kinds of routes that a policy can be about.
    pub enum RouteRefKind {
        /// A route of HTTP requests.
        MeshHttpRoute = "MeshHTTPRoute",
    }
}

impl<const ROUTES: bool> Read for PolicyTarget<ROUTES> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        match value.get("kind").and_then(Value::as_str) {
            Some("MeshGateway") => _ = GatewayRef::read(value, at)?,
            Some("MeshHTTPRoute") if ROUTES => _ = RouteRef::read(value, at)?,
            _ => return TargetRef::read(value, at).map(Self::Pods),
        }
        // One line for both, as the warnings of a kind and field are counted together.
        at.note_no_effect(if ROUTES {
            "such a policy as a whole: a built-in gateway is a proxy of its own, and HTTP is forwarded as TCP here, which has \
             no requests"
        } else {
            "such a policy as a whole: a built-in gateway is a proxy of its own"
        });
        Some(Self::Elsewhere)
    }

    fn schema() -> Value {
        let mut all = vec![TargetRef::schema(), GatewayRef::schema()];
        if ROUTES {
            all.push(RouteRef::schema());
        }
        json!({"anyOf": all})
    }
}

impl<const ROUTES: bool> PolicyTarget<ROUTES> {
    /// Returns the pods that a policy with this target is about.
    pub(crate) fn target(this: Option<&Self>) -> Target<'_> {
        match this {
            None => Target::Ref(None),
            Some(Self::Pods(pods)) => Target::Ref(Some(pods)),
            // Without a selector no pod fits.
            Some(Self::Elsewhere) => Target::Selectors(Vec::new()),
        }
    }

    /// Returns true if the target is a gateway or a route.
    pub(crate) fn is_elsewhere(part: &Part<'_>) -> bool {
        let route = || matches!(part.get::<RouteRefKind>("kind"), Ok(Some(_)));
        matches!(part.get::<GatewayRefKind>("kind"), Ok(Some(_))) || ROUTES && route()
    }

    /// Notes problems that several fields make together.
    pub(crate) fn check(part: &Part<'_>, at: &mut At<'_>) {
        if !Self::is_elsewhere(part) {
            return TargetRef::check(part, at);
        }
        if part.has("name") == Ok(false) && part.has("labels") == Ok(false) {
            part.problem(at, "name", "nothing", "the name of the gateway or route");
        }
    }
}
