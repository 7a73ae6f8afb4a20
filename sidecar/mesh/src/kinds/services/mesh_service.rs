// SPDX-License-Identifier: Apache-2.0
//! `MeshService`: Dataplanes that are one service, and its ports.

use super::ServicePort;
use super::port::check_ports;
use crate::context::Context;
use crate::kinds::Resource;
use crate::model::labels::Labels;
use crate::model::spiffe::SpiffeId;
use crate::model::tags::Tags;
use crate::read::part::Part;
use crate::read::{At, fields, words};

fields! {
    /// Dataplanes that are one service, and its ports.
    pub struct MeshService {
        /// The Dataplanes.
        selector: default ServiceSelector = "selector",
        /// Ports that callers dial, and the inbounds behind them.
        ports: default Vec<ServicePort> = "ports",
        /// Identities that its endpoints prove.
        identities: default Vec<ServiceIdentity> = "identities",
        /// Available or Unavailable, as the control plane that handed it on found it.
        state: optional ServiceState = "state",
    }
}

fields! {
    /// Dataplanes, in one of three ways. None: no Dataplane.
    pub struct ServiceSelector {
        /// Inbounds with these tags; "*" takes any value.
        dataplane_tags: optional Tags = "dataplaneTags",
        /// Dataplanes with these labels.
        dataplane_labels: optional LabelSelector = "dataplaneLabels",
        /// One Dataplane.
        dataplane_ref: optional DataplaneRef = "dataplaneRef",
    }
}

impl Default for ServiceSelector {
    /// Selects no Dataplane.
    fn default() -> Self {
        Self { dataplane_tags: None, dataplane_labels: None, dataplane_ref: None }
    }
}

fields! {
    /// Documents by their labels.
    pub struct LabelSelector {
        /// Labels that they have. None: all documents.
        match_labels: default Labels = "matchLabels",
    }
}

fields! {
    /// One Dataplane.
    pub struct DataplaneRef {
        /// Its name, in Kubernetes also name.namespace.
        name: optional String = "name",
    }
}

fields! {
    /// An identity that the endpoints of a service prove.
    pub struct ServiceIdentity {
        /// ServiceTag or SpiffeID.
        kind: required ServiceIdentityKind = "type",
        /// The kuma.io/service or the SPIFFE ID.
        value: required String = "value",
    }
}

words! {
    /// Kinds of identities.
    pub enum ServiceIdentityKind {
        /// The identity of kuma.io/service.
        ServiceTag = "ServiceTag",
        /// A SPIFFE ID.
        SpiffeId = "SpiffeID",
    }
}

words! {
    /// State of a service, as its control plane found it.
    pub enum ServiceState {
        /// At least one endpoint is healthy.
        Available = "Available",
        /// No endpoint is healthy.
        Unavailable = "Unavailable",
    }
}

impl Resource for MeshService {
    const NAME: &'static str = "MeshService";
    const HAS_SPEC: bool = true;
    const HAS_STATUS: bool = true;

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        const FORMS: [&str; 3] = ["dataplaneTags", "dataplaneLabels", "dataplaneRef"];
        let selector = part.field("selector");
        let there: Vec<_> = FORMS.into_iter().filter(|form| selector.has(form) == Ok(true)).collect();
        if let [first, second, ..] = there[..] {
            let found = format!("{second} beside {first}");
            part.problem(at, "selector", found, format!("one of {}", FORMS.join(", ")));
        }
        let reference = selector.field("dataplaneRef");
        if selector.has("dataplaneRef") == Ok(true) && reference.has("name") == Ok(false) {
            reference.problem(at, "name", "nothing", "the name of a Dataplane");
        }
        check_ports(part, at);
        for identity in part.items("identities").unwrap_or_default() {
            if identity.get("type") == Ok(Some(ServiceIdentityKind::SpiffeId))
                && let Ok(Some(value)) = identity.get::<String>("value")
                && value.parse::<SpiffeId>().is_err()
            {
                identity.problem(at, "value", format!("{value:?}"), "spiffe://TRUST-DOMAIN/PATH");
            }
        }
    }
}

impl MeshService {
    /// Returns the SPIFFE identities of its endpoints.
    pub fn spiffe_ids(&self) -> impl Iterator<Item = SpiffeId> {
        let ids = self.identities.iter().filter(|one| one.kind == ServiceIdentityKind::SpiffeId);
        ids.filter_map(|one| one.value.parse().ok())
    }
}
