//! Mesh documents: any text is read or refused with words, and the documents that are read make a plan in which every
//! connection has its listener and cluster.

#![no_main]

use clap::Parser;
use culvert_mesh::kinds::Kind;
use culvert_mesh::load::Loaded;
use culvert_sidecar::net::addrs::{Direction, OrigDst};
use culvert_sidecar::options::Options;
use culvert_sidecar::plan::compile::compile;
use culvert_sidecar::plan::outside::Place;
use culvert_sidecar::plan::{Plan, Discovery};
use culvert_sidecar::{Registry, route};
use libfuzzer_sys::fuzz_target;
use std::net::SocketAddr;
use std::path::Path;

/// Routes connections to every address of the plan, and to one that it does not have.
fn walk(plan: Plan) {
    let running = Registry::default().open(plan);
    let plan = &running.plan;
    let named = plan.listeners.iter().map(|listener| listener.address);
    let known = named.chain(plan.members.keys().copied());
    for address in known.chain(["192.0.2.1:1".parse().expect("an address")]) {
        for direction in Direction::ALL {
            let route = route(&running, direction, OrigDst::new(address));
            assert_eq!(route.listener.plan.direction, direction);
            if let Some(cluster) = route.cluster {
                if let Discovery::Application { address, .. } = &cluster.plan.upstream {
                    assert!(![15001, 15006, 15020, 9901].contains(&address.port()), "{address} is the sidecar");
                }
            } else {
                assert!(!plan.passthrough && direction == Direction::Outbound, "nothing else denies");
            }
        }
    }
    for exit in plan.outside.exits() {
        let Place::Network(network) = &exit.place else { continue };
        let address = SocketAddr::new(network.address(), exit.port.unwrap_or(1));
        let route = route(&running, Direction::Outbound, OrigDst::new(address));
        assert!(route.cluster.is_some(), "{exit} lets nothing out");
    }
    for listener in plan.listeners.iter().filter(|listener| listener.binds) {
        assert!(!listener.address.ip().is_unspecified(), "{} is open to all peers", listener.name);
        let outbound = listener.direction == Direction::Outbound;
        assert!(!outbound || listener.address.ip().is_loopback(), "{} is open to peers", listener.name);
    }
}

fuzz_target!(|text: &str| {
    for pod in [&[][..], &["--dataplane=fuzz"]] {
        let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(pod);
        let config = Options::try_parse_from(arguments).expect("good options").check().expect("good options");
        let mut loaded = Loaded::default();
        loaded.add(&config.context(), text, Path::new("fuzz.yaml"));
        // Without a Mesh there is no plan; a second one of the text's own name is an error that hides the rest.
        if !loaded.found.documents.iter().any(|one| one.kind() == Kind::Mesh && one.mesh == config.context().mesh) {
            loaded.add(&config.context(), "{type: Mesh, name: default}", Path::new("fuzz.yaml"));
        }
        for error in &loaded.errors {
            let words = error.to_string();
            assert!(words.starts_with("fuzz.yaml: document "), "{words}");
        }
        match compile(&config, &loaded.found) {
            // With an error in one document the others are still compiled, but such a plan never runs.
            Ok(plan) if loaded.errors.is_empty() => walk(plan),
            Ok(_) => {}
            Err(errors) => assert!(!errors.is_empty()),
        }
    }
});
