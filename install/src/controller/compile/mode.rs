// SPDX-License-Identifier: Apache-2.0
//! The mode of mTLS that holds for a pod, by Mesh, MeshIdentity and MeshTLS. Pure.

use culvert_mesh::document::Document;
use culvert_mesh::kinds::FromSpec as _;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::mesh::{Mesh, MtlsMode};
use culvert_mesh::kinds::mesh_tls::{MeshTls, TlsModeWord};
use culvert_mesh::select::{Subject, effective};

use super::dataplane::{dataplane, read};
use super::mesh_of;
use super::policies::{OwnedSubject, has_identity, subjects};
use crate::controller::world::{Pod, World};

/// Mode of mTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// There is no Mesh of the name, so that nobody is let in.
    NoMesh,
    /// No TLS.
    Off,
    /// Members by TLS, and others plainly.
    Permissive,
    /// Members alone.
    Strict,
    /// Inbounds differ.
    Mixed,
}

/// The mode of a Mesh, where no other document says another one.
pub(crate) fn base_mode(world: &World, mesh: &str) -> Mode {
    let Some(good) = world.documents.mesh(mesh) else { return Mode::NoMesh };
    let mtls = Mesh::from_spec(&good.document.spec).and_then(|mesh| mesh.mtls.as_ref());
    match mtls.and_then(|mtls| mtls.enabled()) {
        None => Mode::Off,
        Some(backend) if backend.mode == Some(MtlsMode::Permissive) => Mode::Permissive,
        Some(_) => Mode::Strict,
    }
}

/// The mode that holds for a pod's inbounds, as its sidecar finds it.
pub(crate) fn mode(world: &World, pod: &Pod) -> Mode {
    let mesh = mesh_of(pod);
    let base = base_mode(world, mesh);
    let own = read(mesh, &dataplane(world, None, pod).text);
    let this = own.as_ref().and_then(|document| Some((document, Dataplane::from_spec(&document.spec)?)));
    let Some((document, dataplane)) = this else { return base };
    let all: Vec<&Document> = world.documents.of_mesh(mesh).map(|(_, good)| &*good.document).collect();
    let subjects = subjects(document, dataplane);
    let views: Vec<Subject<'_>> = subjects.iter().map(OwnedSubject::view).collect();
    let Some((pod, inbounds)) = views.split_first() else { return base };
    let base = match base {
        Mode::NoMesh => return base,
        _ if has_identity(&all, pod) => Mode::Strict,
        // A MeshTLS is about the TLS that a Mesh switches on.
        Mode::Off => return base,
        _ => base,
    };
    let policies: Vec<&Document> = all.into_iter().filter(|document| !document.is_shadow()).collect();
    let of = |subject: &Subject<'_>| {
        let effective = effective::<MeshTls>(&policies, std::slice::from_ref(subject));
        let said = effective.iter().flat_map(|one| one.policy.confs()).find_map(|conf| conf.mode);
        said.map_or(base, |mode| match mode {
            TlsModeWord::Strict => Mode::Strict,
            TlsModeWord::Permissive => Mode::Permissive,
        })
    };
    let mut modes = if inbounds.is_empty() { std::slice::from_ref(pod) } else { inbounds }.iter().map(of);
    let first = modes.next().unwrap_or(base);
    if modes.all(|mode| mode == first) { first } else { Mode::Mixed }
}
