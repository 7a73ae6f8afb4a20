// SPDX-License-Identifier: Apache-2.0
//! Every script gives what stands in its row.

use crate::scripts::{cases, vectors};
use crate::wire::Wire;

#[test]
fn messages_pass_as_they_came_or_as_the_table_says() {
    let cases = cases::all();
    assert!(cases.len() >= 33, "{}", cases.len());
    for case in &cases {
        let seen = Wire::play(&case.events);
        assert_eq!(seen.verdict, case.verdict, "{}: {seen:?}", case.name);
        assert!(seen.to_server == case.to_server, "{}: {seen:?}", case.name);
        assert!(seen.to_client == case.to_client, "{}: {seen:?}", case.name);
    }
}

#[test]
fn what_two_readers_could_read_differently_does_not_pass() {
    let vectors = vectors::all();
    assert!(vectors.len() >= 39, "{}", vectors.len());
    for vector in &vectors {
        let seen = Wire::play(&vector.events);
        assert_eq!(seen.verdict, vector.verdict, "{}: {seen:?}", vector.name);
        assert!(seen.to_server == vector.to_server, "{}: {seen:?}", vector.name);
        assert!(seen.to_client == vector.to_client, "{}: {seen:?}", vector.name);
        assert!(!seen.to_server.windows(9).any(|bytes| bytes == b"/smuggled"), "{}: {seen:?}", vector.name);
    }
}
