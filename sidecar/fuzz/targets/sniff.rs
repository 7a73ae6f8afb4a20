// SPDX-License-Identifier: Apache-2.0
//! First bytes of a client: an answer without a panic, the same for every cut, and from `MOST` bytes on always one.
#![no_main]

use culvert_sidecar::tls::sniff::{First, MOST, sniff};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let whole = sniff(bytes);
    assert!(whole != First::NeedMore || bytes.len() < MOST);
    // An answer stays the same, also if other bytes follow.
    let mut given = None;
    for at in [1, 2, 3, 4, 5, 6, 9, 10, bytes.len() / 3, bytes.len() / 2, bytes.len()] {
        let part = sniff(&bytes[..at.min(bytes.len())]);
        if let Some((before, length)) = given
            && at >= length
        {
            assert_eq!(part, before, "{at} bytes");
        } else if part != First::NeedMore {
            given = Some((part, at));
        }
    }
});
