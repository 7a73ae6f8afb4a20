// SPDX-License-Identifier: Apache-2.0
//! Names of the clusters that routes lead to, as Kuma 2.x has them.

use culvert_mesh::model::tags::Tags;
use ring::digest::{SHA256, digest};
use std::fmt::Write;

/// Bytes of the digest in a name.
const SHOWN: usize = 8;

/// Returns the name by tags: that of the service, with a digest of all tags where there are others.
pub(super) fn by_tags(tags: &Tags) -> String {
    let mut name = tags.service().unwrap_or_default().to_owned();
    if tags.0.len() > 1 {
        let text: String = tags.0.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]).collect();
        name.push('-');
        for byte in &digest(&SHA256, text.as_bytes()).as_ref()[..SHOWN] {
            // Writing to a String does not fail.
            let _ = write!(name, "{byte:02x}");
        }
    }
    name
}

/// Returns the name of a port of a MeshService: `MESH_NAME_NAMESPACE_ZONE_msvc_PORT`.
pub(super) fn by_port(mesh: &str, service: &str, zone: &str, port: &str) -> String {
    let parts: Vec<_> = service.split('_').collect();
    // A Service of Kubernetes, whose names have no underscores.
    let (name, namespace) = match parts[..] {
        [name, namespace, "svc"] | [name, namespace, "svc", _] => (name, namespace),
        _ => (service, ""),
    };
    format!("{mesh}_{name}_{namespace}_{zone}_msvc_{port}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_mesh::model::tags::SERVICE;

    #[test]
    fn names_are_kumas() {
        let tags = |more: &[(&str, &str)]| {
            let all = [(SERVICE, "backend")].iter().chain(more);
            Tags(all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        // From the expected output of Kuma's own tests of MeshTCPRoute, split-traffic.
        for (more, name) in [
            (&[][..], "backend"),
            (&[("region", "eu")], "backend-bb38a94289f18fb9"),
            (&[("region", "us")], "backend-c72efb5be46fae6b"),
        ] {
            assert_eq!(by_tags(&tags(more)), name);
        }
        for (service, zone, port, name) in [
            ("backend", "", "80", "default_backend___msvc_80"),
            ("backend", "east", "80", "default_backend__east_msvc_80"),
            ("backend_shop_svc_3001", "", "3001", "default_backend_shop__msvc_3001"),
            ("backend_shop_svc", "", "http", "default_backend_shop__msvc_http"),
            ("a_b", "", "80", "default_a_b___msvc_80"),
        ] {
            assert_eq!(by_port("default", service, zone, port), name);
        }
    }
}
