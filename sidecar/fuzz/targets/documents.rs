//! Mesh documents: whatever a file says, it is read or refused with words, and what was read leads to a plan in which
//! every connection has its place.

#![no_main]

use clap::Parser;
use culvert_sidecar::cluster::registry::Registry;
use culvert_sidecar::connection::route::route;
use culvert_sidecar::net::addrs::{Direction, OrigDst};
use culvert_sidecar::options::Options;
use culvert_sidecar::plan::{Plan, Upstream};
use culvert_sidecar::resources::compile::compile;
use culvert_sidecar::resources::files::Loaded;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

/// Where connections go in a plan, for every address that it knows and for one that it does not.
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
                if let Upstream::Application { address, .. } = &cluster.plan.upstream {
                    assert!(![15001, 15006, 15020, 9901].contains(&address.port()), "{address} is the sidecar");
                }
            } else {
                assert!(!plan.passthrough && direction == Direction::Outbound, "nothing else denies");
            }
        }
    }
    for listener in plan.listeners.iter().filter(|listener| listener.binds) {
        assert!(!listener.address.ip().is_unspecified(), "{} is open to everybody", listener.name);
        let outbound = listener.direction == Direction::Outbound;
        assert!(!outbound || listener.address.ip().is_loopback(), "{} is open to peers", listener.name);
    }
}

fuzz_target!(|text: &str| {
    for pod in [&[][..], &["--dataplane=fuzz"]] {
        let arguments = ["culvert-sidecar", "--resources=/mesh"].iter().chain(pod);
        let config = Options::try_parse_from(arguments).expect("good options").check().expect("good options");
        let mut loaded = Loaded::default();
        loaded.add(&config, text, Path::new("fuzz.yaml"));
        for error in &loaded.errors {
            let words = error.to_string();
            assert!(words.starts_with("fuzz.yaml: document "), "{words}");
        }
        match compile(&config, &loaded.found) {
            // What is wrong with one of them is no reason to fall over the rest, but nothing that runs.
            Ok(plan) if loaded.errors.is_empty() => walk(plan),
            Ok(_) => {}
            Err(errors) => assert!(!errors.is_empty()),
        }
    }
});
