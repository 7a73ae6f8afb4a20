// SPDX-License-Identifier: Apache-2.0
//! Documents of the cluster that concern a pod.

use std::cmp::Reverse;

use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::identity::MeshIdentity;
use culvert_mesh::kinds::{FromSpec as _, Kind};
use culvert_mesh::select::{Subject, is_of_another_zone, rank};
use culvert_mesh::target::Target;

use super::callers::Account;
use super::dataplane::read;
use super::permissions::{Permissions, rules};
use super::{Identities, Named, mesh_of};
use crate::controller::world::{Good, Pod, World};

/// Returns the Mesh of a pod, the policies that select it or one of its inbounds, and the documents that are no policy.
pub(super) fn about(
    world: &World,
    identities: &Identities,
    accounts: Option<&[Account]>,
    pod: &Pod,
    own: &Named,
) -> Option<Vec<Named>> {
    let mesh = mesh_of(pod);
    let read = read(mesh, &own.text);
    let this = read.as_ref().and_then(|document| Some((document, Dataplane::from_spec(&document.spec)?)));
    let subjects = this.map(|(document, dataplane)| subjects(document, dataplane)).unwrap_or_default();
    let concern: Vec<(String, &Good)> =
        world.documents.of_mesh(mesh).filter(|(_, good)| concerns(&good.document, &subjects)).collect();
    let ours: Vec<&Document> = concern.iter().map(|(_, good)| &*good.document).collect();
    let views: Vec<Subject<'_>> = subjects.iter().map(OwnedSubject::view).collect();
    let has_identity = views.first().is_some_and(|pod| has_identity(&ours, pod));
    let permissions = Permissions::of(&ours, has_identity);
    let by_accounts = if permissions.are_by_identity() {
        Vec::new()
    } else {
        rules(accounts?, identities, mesh, &permissions, &views)
    };
    let as_they_are = concern.iter().filter(|(_, good)| !permissions.replace(&good.document));
    let as_they_are =
        as_they_are.map(|(name, good)| Named { name: name.clone(), text: good.text.to_string() });
    Some(as_they_are.chain(by_accounts).collect())
}

/// Returns true if a document is no policy, or one about the pod or one of its inbounds. Pods and Services are the cluster's to
/// say, so documents of these are passed over.
fn concerns(document: &Document, subjects: &[OwnedSubject<'_>]) -> bool {
    if matches!(document.kind(), Kind::Dataplane | Kind::MeshService) {
        return false;
    }
    let target = document.spec.target();
    match target {
        Target::NoPolicy => true,
        _ => subjects.iter().any(|subject| rank(&target, document, &subject.view()).is_some()),
    }
}

/// Returns true if the pod's sidecar goes by a MeshIdentity: the one with the most labels, then the first by name, if that one
/// issues certificates.
pub(super) fn has_identity(ours: &[&Document], pod: &Subject<'_>) -> bool {
    let labels = pod.pod.map(|(this, _)| this.labels.clone()).unwrap_or_default();
    let about = ours.iter().filter_map(|document| {
        let identity =
            MeshIdentity::from_spec(&document.spec).filter(|_| !is_of_another_zone(document, pod))?;
        Some((identity.chooses(&labels)?, document, identity))
    });
    let best = about.min_by_key(|(labels, document, _)| (Reverse(*labels), document.name.as_str()));
    best.is_some_and(|(_, _, identity)| identity.issuer().is_some())
}

/// A subject with the list that it borrows.
pub(super) struct OwnedSubject<'a> {
    pod: (&'a Document, &'a Dataplane),
    tags: Vec<&'a culvert_mesh::model::tags::Tags>,
    inbound: Option<&'a culvert_mesh::kinds::dataplane::Inbound>,
}

impl OwnedSubject<'_> {
    pub(super) fn view(&self) -> Subject<'_> {
        Subject { pod: Some(self.pod), tags: &self.tags, inbound: self.inbound }
    }
}

/// The pod, and each of its inbounds.
pub(super) fn subjects<'a>(document: &'a Document, dataplane: &'a Dataplane) -> Vec<OwnedSubject<'a>> {
    let pod = (document, dataplane);
    let inbounds = dataplane.networking.inbound.iter();
    let all = inbounds.clone().map(|inbound| &*inbound.tags).collect();
    let each =
        inbounds.map(|inbound| OwnedSubject { pod, tags: vec![&inbound.tags], inbound: Some(inbound) });
    std::iter::once(OwnedSubject { pod, tags: all, inbound: None }).chain(each).collect()
}
