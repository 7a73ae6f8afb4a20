// SPDX-License-Identifier: Apache-2.0
//! Names and ports by VirtualOutbounds: templates over the tags of each inbound, and of each ExternalService.
//!
//! A name and port leads to the inbounds that have the tags of the parameters. Of several VirtualOutbounds for it the one
//! holds whose selector says most, then the first by name. (Kuma: the last made; a file has no time.) Of several sets of
//! tags by one the first holds.

use super::generator::LEGAL;
use super::table::{HeldPort, HeldPorts, Holder, Named, Ports, Source, Table, has_tag};
use super::template::{Ask, Fault, Missing, Template};
use crate::plan::compile::services::{ServiceKind, Services};
use crate::plan::names::RefusedName;
use culvert_mesh::document::{Document, DocumentError};
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::dataplane::State;
use culvert_mesh::kinds::older::fit;
use culvert_mesh::kinds::services::VirtualOutbound;
use culvert_mesh::model::host_name::host_name;
use culvert_mesh::model::tags::{SERVICE, Tags};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Field of the names.
const HOST: &str = "conf.host";
const PORT: &str = "conf.port";

/// A VirtualOutbound whose templates were parsed.
struct Virtual<'a> {
    document: &'a Document,
    spec: &'a VirtualOutbound,
    host: Template,
    port: Template,
}

/// What a VirtualOutbound says of a name and port. The lowest holds.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Says {
    rank: Reverse<[usize; 2]>,
    /// Place of the VirtualOutbound, in the order of their names.
    outbound: usize,
    /// Tags of the inbounds that the port leads to.
    tags: Tags,
}

/// What VirtualOutbounds say of each name and port.
type Said = BTreeMap<(String, u16), BTreeSet<Says>>;

/// Tags of inbounds or of an ExternalService, and the first document with them.
type Tagged<'a> = (Arc<Tags>, &'a Document);

/// Names that do not exist: host and reason.
type Without = BTreeSet<(String, String)>;

/// Adds the names of all VirtualOutbounds.
pub(super) fn add<'a>(table: &mut Table<'a>, services: &Services<'a>, ours: &[&'a Document]) {
    let outbounds = parsed(table, ours);
    if outbounds.is_empty() {
        return;
    }
    let said = collected(table, services, &outbounds);
    let reachable = services.all().filter(|service| has_tag(service.kind));
    let reachable: HashMap<&str, bool> = reachable.map(|one| (one.name, one.reachable)).collect();
    let mut lost: BTreeMap<usize, (usize, String)> = BTreeMap::new();
    for ((host, port), said) in said {
        let mut said = said.into_iter();
        let Some(first) = said.next() else { continue };
        let by = outbounds[first.outbound].document;
        for other in said {
            let held = || {
                format!("{host}:{port}, which VirtualOutbound {} leads to {}", by.name, words(&first.tags))
            };
            lost.entry(other.outbound).or_insert_with(|| (0, held())).0 += 1;
        }
        let service = first.tags.service().unwrap_or_default();
        let mut ports = HeldPorts::default();
        ports.add(port, || HeldPort {
            name: None,
            reachable: reachable.get(service).copied().unwrap_or(true),
            by: (by, "conf"),
            to: services.of_tags(first.tags.clone()),
        });
        let holder = table.hold(Holder {
            key: format!("host {host}").into(),
            service: format!("kuma.io/service {service}").into(),
            document: by,
            fixed: Vec::new(),
            shared: Vec::new(),
            ports: Ports::Own(ports),
        });
        let named = format!("VirtualOutbound {}", by.name).into();
        table.claim(
            host,
            Named { holder, by: named, document: Some(by), source: Source::VirtualOutbound },
            HOST,
        );
    }
    for (place, (count, first)) in lost {
        let name = &outbounds[place].document.name;
        let line =
            format!("VirtualOutbound {name}: without effect for {count} sets of tags; the first is {first}");
        table.warnings.push(line);
    }
}

/// Collects what all VirtualOutbounds say, and notes names that do not exist.
fn collected<'a>(table: &mut Table<'a>, services: &Services<'a>, outbounds: &[Virtual<'a>]) -> Said {
    let mut said = Said::new();
    let mut without = Without::new();
    let mut wrong = HashSet::new();
    for one in tagged(services) {
        for (place, outbound) in outbounds.iter().enumerate() {
            let Some(rank) = fit(&outbound.spec.selectors, &[&*one.0]) else { continue };
            match outbound.evaluate(&one, &mut without) {
                Ok(Some(key)) => {
                    let tags = outbound.tags(&one.0);
                    said.entry(key).or_default().insert(Says { rank: Reverse(rank), outbound: place, tags });
                }
                Ok(None) => {}
                // One for each document: the others have the same cause.
                Err(error) if wrong.insert(place) => table.errors.push((*error).into()),
                Err(_) => {}
            }
        }
    }
    let refused = without.into_iter().map(|(host, why)| RefusedName { host: host.into(), why: why.into() });
    table.refused.extend(refused);
    said
}

/// Returns all VirtualOutbounds in the order of their names, and reports templates that cannot be parsed.
fn parsed<'a>(table: &mut Table<'a>, ours: &[&'a Document]) -> Vec<Virtual<'a>> {
    let mut all = Vec::new();
    for document in ours.iter().copied() {
        let Spec::VirtualOutbound(spec) = &document.spec else { continue };
        let mut template = |field: &str, text: &str| match parse(spec, text) {
            Ok(template) => Some(template),
            Err(Fault { found, allowed }) => {
                table.errors.push(document.error(field, found, allowed).into());
                None
            }
        };
        let both = (template(HOST, &spec.conf.host), template(PORT, &spec.conf.port));
        if let (Some(host), Some(port)) = both {
            all.push(Virtual { document, spec, host, port });
        }
    }
    all.sort_by_key(|one| &one.document.name);
    all
}

/// Returns the ends of the names that VirtualOutbounds make.
pub(super) fn ends(ours: &[&Document]) -> BTreeSet<Box<str>> {
    // What is wrong with them is told where they are used.
    let all = parsed(&mut Table::default(), ours);
    all.iter().filter_map(|one| one.host.end()).map(|end| end.to_ascii_lowercase().into()).collect()
}

/// Parses a template, whose fields are parameters.
fn parse(spec: &VirtualOutbound, text: &str) -> Result<Template, Fault> {
    let template = Template::parse(text)?;
    let names: Vec<&str> = spec.conf.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    let is_parameter = |ask: &&Ask| matches!(ask, Ask::Field(name) if names.contains(&name.as_str()));
    let unknown = template.asks().find(|ask| !is_parameter(ask)).map(ToString::to_string);
    match unknown {
        Some(found) => {
            Err(Fault { found, allowed: format!("a name of conf.parameters: {}", names.join(", ")) })
        }
        None => Ok(template),
    }
}

/// Returns the tags of all inbounds and ExternalServices, each set once.
fn tagged<'a>(services: &Services<'a>) -> Vec<Tagged<'a>> {
    let mut seen: HashSet<Arc<Tags>> = HashSet::new();
    let inbounds = services.inbounds().filter(|offer| offer.inbound.state != Some(State::Ignored));
    let mut all: Vec<Tagged<'a>> = inbounds
        .filter(|offer| {
            offer.inbound.tags.service().is_some() && seen.insert(Arc::clone(&offer.inbound.tags))
        })
        .map(|offer| (Arc::clone(&offer.inbound.tags), offer.document))
        .collect();
    let external = services.all().filter(|service| service.kind == ServiceKind::ExternalService);
    all.extend(external.map(|service| {
        let tags = Tags([(SERVICE.to_owned(), service.name.to_owned())].into());
        (Arc::new(tags), service.by)
    }));
    all
}

impl Virtual<'_> {
    /// Returns the name and port for tags; `None` where the tags of a parameter are missing, which is noted.
    fn evaluate(
        &self,
        (tags, by): &Tagged<'_>,
        without: &mut Without,
    ) -> Result<Option<(String, u16)>, Box<DocumentError>> {
        let value = |ask: &Ask| match ask {
            Ask::Field(name) => {
                let parameter = self.spec.conf.parameters.iter().find(|one| one.name == *name)?;
                tags.0.get(parameter.tag()).map(String::as_str)
            }
            Ask::Label(_) => None,
        };
        let whose = format!("{} {}", by.kind().name(), by.name);
        let mut missing = |text: String, Missing { first, .. }: Missing| {
            let why = format!("VirtualOutbound {}: {whose} has no tag for {first}", self.document.name);
            without.insert((text, why));
        };
        let text = match self.host.render(value) {
            Ok(text) => text,
            Err(none) => {
                missing(none.text.clone(), none);
                return Ok(None);
            }
        };
        let place = &by.place;
        let Some(host) = host_name(&text) else {
            return Err(self.document.error(HOST, format!("{text:?} for {whose} ({place})"), LEGAL).into());
        };
        let port = match self.port.render(value) {
            Ok(port) => port,
            Err(none) => {
                missing(host, none);
                return Ok(None);
            }
        };
        match port.parse() {
            Ok(number @ 1..) => Ok(Some((host, number))),
            _ => {
                let found = format!("{port:?} for {whose} ({place})");
                Err(self.document.error(PORT, found, "a port from 1 to 65535").into())
            }
        }
    }

    /// Returns the tags of the parameters, which are what the name stands for. A service has its name in any case.
    fn tags(&self, of: &Tags) -> Tags {
        let keys = self.spec.conf.parameters.iter().map(|parameter| parameter.tag()).chain([SERVICE]);
        let tags = keys.filter_map(|key| Some((key.to_owned(), of.0.get(key)?.clone())));
        Tags(tags.collect())
    }
}

/// Returns tags in words.
fn words(tags: &Tags) -> String {
    tags.0.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}
