// SPDX-License-Identifier: Apache-2.0
//! References to services → their destinations, by maps.

use super::destination::Behind;
use super::names::{ClusterService, by_port};
use super::{Destination, Service, ServiceKind, Services};
use culvert_mesh::kinds::destination::{ToKind, ToRef};
use culvert_mesh::model::labels::Labels;
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// The places of services among all, by what references say.
pub(super) struct Index<'a> {
    /// Those of documents and those that stand for one, by both of their names.
    by_name: HashMap<&'a str, Vec<usize>>,
    /// Those that stand for a document, by the tags of their inbounds.
    by_tag: HashMap<&'a str, usize>,
    outside: HashMap<&'a str, usize>,
    /// By the hash of a label with its value. Most meshes have no reference by labels.
    by_label: OnceCell<HashMap<u64, Vec<usize>>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(all: &[Service<'a>]) -> Self {
        let mut index = Self {
            by_name: HashMap::new(),
            by_tag: HashMap::new(),
            outside: HashMap::new(),
            by_label: OnceCell::new(),
        };
        for (at, service) in all.iter().enumerate() {
            if service.kind == ServiceKind::ExternalService {
                index.outside.insert(service.name, at);
            }
            if service.kind.reference().is_none() {
                continue;
            }
            index.by_name.entry(service.name).or_default().push(at);
            if service.display_name() != service.name {
                index.by_name.entry(service.display_name()).or_default().push(at);
            }
            index.by_tag.extend(service.tags.iter().map(|tag| (*tag, at)));
        }
        index
    }

    /// Returns the place of the service of an ExternalService's tag.
    pub(super) fn outside(&self, service: &str) -> Option<usize> {
        self.outside.get(service).copied()
    }

    /// Returns the places of the services that may have these labels, in their order.
    fn by_labels(&self, all: &[Service<'_>], labels: &Labels) -> &[usize] {
        let collect = || {
            let mut map: HashMap<u64, Vec<usize>> = HashMap::new();
            for (at, service) in all.iter().enumerate().filter(|(_, one)| one.kind.reference().is_some()) {
                for (label, value) in service.pairs() {
                    let places = map.entry(hash(label, value)).or_default();
                    // A document says what its name says too.
                    if places.last() != Some(&at) {
                        places.push(at);
                    }
                }
            }
            map
        };
        let map = self.by_label.get_or_init(collect);
        let list =
            |(label, value): (&String, &String)| map.get(&hash(label, value)).map_or(&[][..], Vec::as_slice);
        let lists = labels.0.iter().map(list);
        lists.min_by_key(|list| list.len()).unwrap_or_default()
    }
}

fn hash(label: &str, value: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (label, value).hash(&mut hasher);
    hasher.finish()
}

/// Returns the words of a reference, for a service that is not found.
fn words(to: &ToRef) -> String {
    let labels = || {
        let labels = to.labels.iter().flat_map(|labels| &labels.0);
        labels.map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    };
    to.name.clone().unwrap_or_else(labels)
}

impl<'a> Services<'a> {
    /// Returns the service that a reference names, or a part of it: the port `section`, inbounds with `tags`. `own` is the
    /// namespace of the reference's document. A service that no document knows is one without endpoints.
    pub(in crate::plan::compile) fn resolve(
        &self,
        to: &ToRef,
        section: Option<&str>,
        tags: &Tags,
        own: Option<&str>,
    ) -> Destination {
        let found = self.referred(to, own);
        let tagged = self.tag(to, &found);
        let with = |service: &str| {
            let mut all = tags.clone();
            all.0.insert(SERVICE.to_owned(), service.to_owned());
            self.of_tags(all)
        };
        if !tags.0.is_empty() {
            return tagged.map_or_else(|| with(&words(to)), with);
        }
        let Some(section) = section else {
            let first = || found.iter().find_map(|service| service.ports.first());
            return match tagged {
                Some(tag) => with(tag),
                None => first().map_or_else(|| self.unknown(to, None), |port| port.destination.clone()),
            };
        };
        let port = found.iter().find_map(|service| service.port(section));
        if let Some(port) = port.or_else(|| self.port_of_tag(to, section)) {
            return port.destination.clone();
        }
        let inbounds = found.iter().flat_map(|service| &service.tags).copied().chain(tagged);
        let outside = || tagged.filter(|tag| self.index.outside(tag).is_some()).map(with);
        self.inbounds_of(inbounds, section)
            .or_else(outside)
            .unwrap_or_else(|| self.unknown(to, Some(section)))
    }

    /// Returns the services of documents, and those that stand for one, that a reference names. Those of this pod's zone and of
    /// none come first.
    fn referred(&self, to: &ToRef, own: Option<&str>) -> Vec<&Service<'a>> {
        let candidates = match (&to.labels, &to.name) {
            (Some(labels), _) => self.index.by_labels(&self.all, labels),
            (None, Some(name)) => self.index.by_name.get(name.as_str()).map_or(&[][..], Vec::as_slice),
            (None, None) => &[],
        };
        let candidates = candidates.iter().map(|at| &self.all[*at]);
        let names =
            |service: &&Service<'_>| service.known().is_some_and(|known| to.names_service(&known, own));
        let mut found: Vec<_> = candidates.filter(names).collect();
        found.sort_by_key(|service| service.zone.is_some_and(|zone| zone != self.zone));
        found
    }

    /// Returns the `kuma.io/service` that a reference names.
    fn tag<'t>(&'t self, to: &'t ToRef, found: &[&'t Service<'a>]) -> Option<&'t str> {
        if to.kind != ToKind::MeshService {
            return None;
        }
        let is_there =
            |tag: &&str| !self.inbounds.of_service(tag).is_empty() || self.index.outside(tag).is_some();
        let named = to.name.as_deref().filter(|_| to.namespace.is_none()).filter(is_there);
        named.or_else(|| found.iter().find_map(|service| service.tags.first()).copied())
    }

    /// Returns the port of a service that stands for a document, by the tag of the port's inbounds.
    fn port_of_tag(&self, to: &ToRef, section: &str) -> Option<&super::ServicePort> {
        let tag = to.name.as_deref().filter(|_| to.namespace.is_none() && to.kind == ToKind::MeshService)?;
        let port = self.all[*self.index.by_tag.get(tag)?].port(section)?;
        (*port.destination.service == *tag).then_some(port)
    }

    /// Returns the inbounds that a section names, of the first of these tags that has some.
    fn inbounds_of<'t>(&self, tags: impl Iterator<Item = &'t str>, section: &str) -> Option<Destination> {
        let mut tags = tags.filter(|tag| {
            let mut inbounds = self.inbounds.of_service(tag).iter().map(|at| self.inbounds.at(*at).inbound);
            // A MeshService that is written says its ports itself.
            self.index.by_tag.contains_key(*tag)
                && inbounds.any(|inbound| select::is_section(inbound, section))
        });
        let tag = tags.next()?;
        let name = ClusterService::of(tag).map_or((tag, None), |of| (of.name, Some(of.namespace)));
        let cluster = by_port(self.mesh, (name.0, name.1, self.zone), ServiceKind::MeshService, section);
        let tags = Arc::new(Tags([(SERVICE.to_owned(), tag.to_owned())].into()));
        Some(Destination::new(cluster, tag, Behind::Tags { tags, section: Some(section.into()) }))
    }

    /// Returns a destination without endpoints.
    fn unknown(&self, to: &ToRef, section: Option<&str>) -> Destination {
        let words = words(to);
        let kind = match to.kind {
            ToKind::MeshExternalService => ServiceKind::MeshExternalService,
            ToKind::MeshMultiZoneService => ServiceKind::MeshMultiZoneService,
            ToKind::Mesh | ToKind::MeshService | ToKind::MeshHttpRoute => ServiceKind::MeshService,
        };
        let of = ClusterService::of(&words);
        let name = of.map_or((&*words, to.namespace.as_deref()), |of| (of.name, Some(of.namespace)));
        let (cluster, port) = match section {
            Some(section) => (by_port(self.mesh, (name.0, name.1, self.zone), kind, section), section),
            None => (words.clone(), ""),
        };
        let port = if port.is_empty() { String::new() } else { format!("port {port} of ") };
        let meant = format!("{port}{} {words}", kind.name());
        Destination::new(cluster, &words, Behind::Nothing(meant.into()))
    }
}
