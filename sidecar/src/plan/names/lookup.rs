// SPDX-License-Identifier: Apache-2.0
//! Names of hosts in documents → the addresses that they have now, before documents are compiled: those of Dataplanes, and
//! those of servers outside of the mesh.

use crate::net::addrs::is_loopback;
use crate::net::resolve::{MOST_NAMES, Names, Wanted};
use crate::options::config::Config;
use culvert_mesh::document::{Document, DocumentError, Found};
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::dataplane::Dataplane;
use culvert_mesh::kinds::services::{EndpointAddress, ExternalEndpoint};
use culvert_mesh::model::address::{BY_NAME, Host};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Notes and errors about names.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) warnings: Vec<String>,
    pub(crate) errors: Vec<DocumentError>,
}

/// Puts addresses in the place of names. Without `names` nothing is looked up, and each name stays as one address that no
/// host has.
pub(crate) fn put_in(found: &mut Found, config: &Config, names: Option<&Names>) -> Outcome {
    let mut outcome = Outcome::default();
    // One that both have is a workload's, whose one address is enough.
    let mut wanted: BTreeMap<Box<str>, Wanted> =
        outside(found, config).map(|(_, name)| (name.into(), Wanted::All)).collect();
    let of_dataplanes = dataplanes(found, config).flat_map(|(_, dataplane)| dataplane.names());
    wanted.extend(of_dataplanes.map(|(_, name)| (name.into(), Wanted::One)));
    let Some(names) = names else {
        let of_dataplanes = || wanted.iter().filter(|(_, wanted)| **wanted == Wanted::One);
        outcome.warnings.extend(of_dataplanes().next().map(|(first, _)| {
            let all = of_dataplanes().count();
            format!("names in Dataplanes are looked up when the sidecar runs: {all}, the first is {first}; here {BY_NAME} stands for them")
        }));
        return outcome;
    };
    if wanted.len() > MOST_NAMES {
        let named = dataplanes(found, config).filter(|(_, dataplane)| dataplane.names().next().is_some());
        let last = named
            .map(|(document, _)| document)
            .chain(outside(found, config).map(|(document, _)| document))
            .last();
        outcome.errors.extend(last.map(|document| {
            let words = format!("{} names of hosts, this and earlier ones", wanted.len());
            let path = match document.spec {
                Spec::MeshExternalService(_) => "spec.endpoints",
                _ => "networking.address",
            };
            document.error(path, words, format!("at most {MOST_NAMES} in a mesh"))
        }));
        return outcome;
    }
    let answers = names.use_only(&wanted);
    let names = outside(found, config).map(|(_, name)| name.into());
    let of_outside: BTreeMap<Box<str>, Vec<IpAddr>> = names
        .map(|name: Box<str>| {
            let addresses = answers.get(&name).cloned().unwrap_or_default();
            (name, addresses)
        })
        .collect();
    found.addresses = of_outside;
    for document in found.documents.iter_mut().filter(|document| document.mesh == config.mesh) {
        one(document, config, &answers, &mut outcome);
    }
    outcome
}

fn dataplanes<'f>(found: &'f Found, config: &Config) -> impl Iterator<Item = (&'f Document, &'f Dataplane)> {
    found.documents.iter().filter(|document| document.mesh == config.mesh).filter_map(|document| {
        match &document.spec {
            Spec::Dataplane(dataplane) => Some((document, dataplane)),
            _ => None,
        }
    })
}

/// Returns the names of servers outside of the mesh.
fn outside<'f>(found: &'f Found, config: &Config) -> impl Iterator<Item = (&'f Document, &'f str)> {
    let ours = found.documents.iter().filter(|document| document.mesh == config.mesh);
    ours.flat_map(|document| {
        let hosts: Vec<&Host> = match &document.spec {
            Spec::MeshExternalService(service) => service.endpoints.iter().filter_map(host).collect(),
            Spec::ExternalService(service) => vec![&service.networking.address.host],
            _ => Vec::new(),
        };
        hosts.into_iter().filter_map(Host::name).map(move |name| (document, name))
    })
}

fn host(endpoint: &ExternalEndpoint) -> Option<&Host> {
    match &endpoint.address {
        EndpointAddress::Host(host) => Some(host),
        EndpointAddress::Unix(_) => None,
    }
}

fn one(
    document: &mut Document,
    config: &Config,
    answers: &BTreeMap<Box<str>, Vec<IpAddr>>,
    outcome: &mut Outcome,
) {
    let own = config.dataplane.as_deref().is_some_and(|name| document.is_named(name));
    let Spec::Dataplane(dataplane) = &mut document.spec else { return };
    let named: Vec<(&'static str, String)> =
        dataplane.names().map(|(field, name)| (field, name.to_owned())).collect();
    if named.is_empty() {
        return;
    }
    let answer = |name: &str| answers.get(name).and_then(|all| all.first()).copied();
    dataplane.put_in(answer);
    if !own {
        dataplane.leave_out_unknown();
    }
    for (field, name) in named {
        let problem = match answer(&name) {
            // Its gates would be missing, so that the wrong callers could come in.
            None if own && field == "networking.address" => Some((
                format!("{name:?}, a name without an address now"),
                "an IP address, or a name that can be looked up; the log has the reason",
            )),
            None => {
                outcome.warnings.push(format!(
                    "Dataplane {}: {field} is {name:?}, which has no address yet: nothing is sent there until it has",
                    document.name
                ));
                None
            }
            Some(ip) if own && is_loopback(ip) => Some((
                format!("{name:?}, which is {ip} here"),
                "an address outside of loopback; is there a line for the name in /etc/hosts?",
            )),
            Some(_) => None,
        };
        outcome.errors.extend(problem.map(|(found, allowed)| document.error(field, found, allowed)));
    }
}

#[cfg(test)]
mod tests {
    use super::put_in;
    use crate::net::resolve::Names;
    use crate::options::Options;
    use crate::plan::compile::{compile, read_with_mesh};
    use clap::Parser;

    const PODS: &str = "
{type: Dataplane, name: here, networking: {address: ADDRESS, inbound: [{port: 80, servicePort: 81, tags: {kuma.io/service: here}}],
  outbound: [{port: 7100, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: web-1, networking: {address: localhost, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: web-2, networking: {address: 10.0.0.3, inbound: [{port: 80, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: web-3, networking: {address: 'nowhere', inbound: [{port: 80, tags: {kuma.io/service: web}},
  {port: 81, address: 10.0.0.4, tags: {kuma.io/service: web}}]}}
---
{type: Dataplane, name: foreign, mesh: other, networking: {address: 'not-asked'}}
";

    /// Endpoints of `web`, listeners of the pod, warnings and errors.
    fn read(address: &str, looks: bool) -> [Vec<String>; 4] {
        let arguments = ["culvert-sidecar", "--resources=/mesh", "--dataplane=here"];
        let config = Options::try_parse_from(arguments).unwrap().check().unwrap();
        let mut loaded = read_with_mesh(&config, &PODS.replace("ADDRESS", address), "m.yaml");
        assert_eq!(loaded.errors, []);
        let names = Names::of_table(&[("localhost", "127.0.0.1"), ("here.test", "10.0.0.2")]);
        let outcome = put_in(&mut loaded.found, &config, Some(&names).filter(|_| looks));
        let errors = outcome.errors.iter().map(ToString::to_string).collect();
        let plan = compile(&config, &loaded.found).unwrap();
        let endpoints = match &plan.cluster_named("web").unwrap().upstream {
            crate::plan::Discovery::Endpoints(all) => all.iter().map(|one| one.address.to_string()).collect(),
            other => panic!("{other:?}"),
        };
        let listeners = plan.listeners.iter().map(|one| one.name.to_string());
        let listeners =
            listeners.filter(|name| name.starts_with("inbound:") && !name.contains("passthrough"));
        [endpoints, listeners.collect(), outcome.warnings, errors]
    }

    #[test]
    fn addresses_take_the_place_of_names_and_unknown_ones_are_no_endpoints() {
        let [endpoints, listeners, warnings, errors] = read("here.test", true);
        assert_eq!(endpoints, ["10.0.0.3:80", "10.0.0.4:81", "127.0.0.1:80"]);
        assert_eq!(listeners, ["inbound:10.0.0.2:80"]);
        assert_eq!(errors, [""; 0]);
        assert_eq!(
            warnings,
            [
                "Dataplane web-3: networking.address is \"nowhere\", which has no address yet: nothing is sent there until it has"
            ]
        );
    }

    #[test]
    fn the_pods_own_name_has_to_have_an_address_outside_of_loopback() {
        for (address, error) in [
            (
                "gone.test",
                "networking.address: found \"gone.test\", a name without an address now; allowed: an IP address",
            ),
            (
                "localhost",
                "networking.address: found \"localhost\", which is 127.0.0.1 here; allowed: an address outside",
            ),
        ] {
            let [.., errors] = read(address, true);
            assert!(errors.len() == 1 && errors[0].contains(error), "{errors:?}");
        }
    }

    #[test]
    fn a_check_looks_nothing_up() {
        let [endpoints, listeners, warnings, errors] = read("gone.test", false);
        assert_eq!((endpoints.len(), listeners, errors), (3, vec!["inbound:240.0.0.1:80".into()], vec![]));
        assert_eq!(
            warnings,
            [
                "names in Dataplanes are looked up when the sidecar runs: 3, the first is gone.test; here 240.0.0.1 stands for them"
            ]
        );
    }
}
