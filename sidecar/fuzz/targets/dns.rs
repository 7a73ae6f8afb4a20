// SPDX-License-Identifier: Apache-2.0
//! DNS messages: any query is answered, passed on or dropped without a panic, an answer fits its query, and what a server sends
//! is taken for an answer only with the query's id and question.
#![no_main]

use culvert_sidecar::dns::answer::{Bounds, Decision, decide};
use culvert_sidecar::dns::message::answers;
use culvert_sidecar::dns::names::{Names, Reach};
use culvert_sidecar::plan::names::{MeshName, MeshNames, NamePort};
use std::sync::LazyLock;

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let name = |host: &str, ttl, ports: &[(u16, &str)]| MeshName {
        host: host.into(),
        addresses: ["240.0.0.2", "fd00:fd00::2"].map(|address| address.parse().expect("an address")).into(),
        ttl,
        ports: ports
            .iter()
            .map(|(port, name)| NamePort { port: *port, name: Some((*name).into()) })
            .collect(),
        service: "MeshService web".into(),
        by: "HostnameGenerator local".into(),
    };
    // In the order of hosts.
    let mut mesh = MeshNames::default();
    mesh.names = vec![name("a", 0, &[]), name("b", u32::MAX, &[]), name("web.mesh", 30, &[(80, "http"), (81, "b")])];
    Names::of(mesh.into(), Reach::ALL)
});

libfuzzer_sys::fuzz_target!(|input: (&[u8], &[u8])| {
    let (query, answer) = input;
    for bounds in [Bounds::Datagram, Bounds::Stream] {
        match decide(query, bounds, &NAMES) {
            Decision::Drop => assert!(query.len() < 12 || query[2] & 0x80 != 0),
            Decision::Reply { bytes, .. } => {
                assert_eq!(bytes[..2], query[..2]);
                assert!(bytes[2] & 0x80 != 0, "a response");
                // What has no whole question is answered without one.
                assert!(bytes.len() == 12 || answers(&bytes, query), "{bytes:?}");
                assert!(bounds == Bounds::Stream || bytes.len() <= 4096);
            }
            Decision::Relay => {
                let mut reply = query.to_vec();
                reply[2] |= 0x80;
                assert!(answers(&reply, query), "a server that repeats the query");
            }
        }
    }
    if answers(answer, query) {
        assert_eq!(answer[..2], query[..2]);
        assert!(answer[2] & 0x80 != 0);
    }
});
