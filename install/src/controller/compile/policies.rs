// SPDX-License-Identifier: Apache-2.0
//! Documents of the cluster that concern a pod.

use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::{FromSpec as _, Kind, Spec};
use culvert_mesh::select::{Subject, rank};
use culvert_mesh::target::Target;

use super::dataplane::read;
use super::{Callers, Identities, Named, callers, mesh_of};
use crate::controller::world::{Pod, World};

/// Returns the Mesh of a pod, the policies that select it or one of its inbounds, and the documents that are no policy.
pub(super) fn about(
    world: &World,
    identities: &Identities,
    callers: &Callers,
    pod: &Pod,
    own: &Named,
) -> Vec<Named> {
    let mesh = mesh_of(pod);
    let read = read(mesh, &own.text);
    let this = read.as_ref().and_then(|document| Some((document, Dataplane::from_spec(&document.spec)?)));
    let subjects = this.map(|(document, dataplane)| subjects(document, dataplane)).unwrap_or_default();
    let mut documents = Vec::new();
    let mut permissions = Vec::new();
    for (name, good) in world.documents.of_mesh(mesh) {
        let document = &*good.document;
        // Pods and Services are the cluster's to say.
        if matches!(document.kind(), Kind::Dataplane | Kind::MeshService) {
            continue;
        }
        let target = document.spec.target();
        let concerns = match target {
            Target::NoPolicy => true,
            _ => subjects.iter().any(|subject| rank(&target, document, &subject.view()).is_some()),
        };
        if !concerns {
            continue;
        }
        match &document.spec {
            Spec::MeshTrafficPermission(permission) if !permission.from.is_empty() => {
                permissions.push(document);
            }
            _ => documents.push(Named { name, text: good.text.to_string() }),
        }
    }
    let subjects: Vec<Subject<'_>> = subjects.iter().map(OwnedSubject::view).collect();
    if !permissions.is_empty() {
        let accounts = callers.of(world, identities, mesh);
        documents.extend(callers::rules(&accounts, identities, mesh, &permissions, &subjects));
    }
    documents
}

/// A subject with the list that it borrows.
struct OwnedSubject<'a> {
    pod: (&'a Document, &'a Dataplane),
    tags: Vec<&'a culvert_mesh::model::tags::Tags>,
    inbound: Option<&'a culvert_mesh::kinds::dataplane::Inbound>,
}

impl OwnedSubject<'_> {
    fn view(&self) -> Subject<'_> {
        Subject { pod: Some(self.pod), tags: &self.tags, inbound: self.inbound }
    }
}

/// The pod, and each of its inbounds.
fn subjects<'a>(document: &'a Document, dataplane: &'a Dataplane) -> Vec<OwnedSubject<'a>> {
    let pod = (document, dataplane);
    let inbounds = dataplane.networking.inbound.iter();
    let all = inbounds.clone().map(|inbound| &*inbound.tags).collect();
    let each =
        inbounds.map(|inbound| OwnedSubject { pod, tags: vec![&inbound.tags], inbound: Some(inbound) });
    std::iter::once(OwnedSubject { pod, tags: all, inbound: None }).chain(each).collect()
}
