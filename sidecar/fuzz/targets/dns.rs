// SPDX-License-Identifier: Apache-2.0
//! DNS messages: any query is answered, passed on or dropped without a panic, an answer fits its query, and what a server sends
//! is taken for an answer only with the query's id and question.
#![no_main]

use culvert_sidecar::dns::answer::{Bounds, Decision, decide};
use culvert_sidecar::dns::message::answers;
use culvert_sidecar::dns::names::{Names, NamesBuilder, SrvTarget};
use std::sync::LazyLock;

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let mut names = NamesBuilder::default();
    let addresses = ["240.0.0.2", "fd00:fd00::2"].map(|address| address.parse().expect("an address"));
    names.host("web.mesh", 30, &addresses).expect("a name");
    names.host("a", 0, &addresses).expect("a name");
    let place = SrvTarget { priority: 1, weight: 2, port: 80, target: "web.mesh".into() };
    names.service("b", u32::MAX, &[place]).expect("names");
    names.build()
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
