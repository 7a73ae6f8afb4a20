// SPDX-License-Identifier: Apache-2.0
//! The name that first bytes ask for: an answer without a panic, the same for every cut, from `MOST` bytes on always one, and a
//! name that matches of a MeshPassthrough can have.
#![no_main]

use culvert_mesh::model::host_name::host_name;
use culvert_sidecar::plan::outside::{Asks, Says};
use culvert_sidecar::tls::asked::{Asked, MOST, read};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let both = Asks { tls: true, http: true };
    let whole = read(bytes, both);
    assert!(whole != Asked::NeedMore || bytes.len() < MOST);
    if let Asked::Name { says, name, .. } = &whole {
        assert_eq!(host_name(name).as_ref(), Some(name), "one spelling");
        assert_eq!(*says == Says::Tls, bytes[0] == 22);
        let other = Asks { tls: *says != Says::Tls, http: *says != Says::Http };
        assert!(matches!(read(bytes, other), Asked::Nothing(_)), "not what is asked for");
    }
    // An answer stays the same, also if other bytes follow.
    let mut given: Option<Asked> = None;
    for at in [1, 2, 4, 5, 6, 9, 16, bytes.len() / 3, bytes.len() / 2, bytes.len().saturating_sub(1), bytes.len()] {
        let part = read(&bytes[..at.min(bytes.len())], both);
        match &given {
            // The numbers do not ascend in short inputs.
            Some(before) if *before != part => assert_eq!(part, Asked::NeedMore, "{at} bytes, before: {before:?}"),
            Some(_) => {}
            None if part != Asked::NeedMore => given = Some(part),
            None => {}
        }
    }
});
