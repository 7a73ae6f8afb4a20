// SPDX-License-Identifier: Apache-2.0
//! Names of the clusters that calls go to, as Kuma 2.x has them.

use super::ServiceKind;
use culvert_mesh::model::tags::{SERVICE, Tags};
use ring::digest::{SHA256, digest};
use std::fmt::{Display, Write};

/// Bytes of the digest in a name.
const SHOWN: usize = 8;

/// Bytes of a label of DNS.
const LONGEST_LABEL: usize = 63;

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

/// Returns the name of an outbound's cluster: its service, with its other tags.
pub(super) fn by_outbound(tags: &Tags) -> String {
    let others = tags.0.iter().filter(|(key, _)| *key != SERVICE);
    let service = tags.service().unwrap_or_default().to_owned();
    others.fold(service, |name, (key, value)| format!("{name}[{key}={value}]"))
}

/// Returns the name of a port of a document's service, as `MESH_NAME_NAMESPACE_ZONE_msvc_PORT`.
pub(super) fn by_port(
    mesh: &str,
    (name, namespace, zone): (&str, Option<&str>, &str),
    kind: ServiceKind,
    port: impl Display,
) -> String {
    let kind = match kind {
        ServiceKind::MeshExternalService | ServiceKind::ExternalService => "extsvc",
        ServiceKind::MeshMultiZoneService => "mzsvc",
        ServiceKind::MeshService | ServiceKind::Tagged => "msvc",
    };
    format!("{mesh}_{name}_{}_{zone}_{kind}_{port}", namespace.unwrap_or_default())
}

/// A Service of Kubernetes, whose names have no underscores: `NAME_NAMESPACE_svc_PORT`, and without ports
/// `NAME_NAMESPACE_svc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClusterService<'a> {
    pub(super) name: &'a str,
    pub(super) namespace: &'a str,
    pub(super) port: Option<u16>,
}

impl<'a> ClusterService<'a> {
    pub(super) fn of(service: &'a str) -> Option<Self> {
        let mut parts = service.split('_');
        let (name, namespace, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let port = parts.next().map(str::parse);
        let right = kind == "svc" && parts.next().is_none() && !matches!(port, Some(Err(_)));
        right.then(|| Self { name, namespace, port: port.and_then(Result::ok) })
    }
}

/// Returns true if Kuma makes a MeshService of this name: it is a label of DNS (RFC 1035).
pub(super) fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= LONGEST_LABEL
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.bytes().all(inner)
        && !name.ends_with('-')
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
        for (service, kind, name) in [
            (("backend", None, ""), ServiceKind::MeshService, "default_backend___msvc_80"),
            (("backend", None, "east"), ServiceKind::MeshService, "default_backend__east_msvc_80"),
            (("backend", Some("shop"), ""), ServiceKind::MeshService, "default_backend_shop__msvc_80"),
            (("backend", None, ""), ServiceKind::MeshMultiZoneService, "default_backend___mzsvc_80"),
            (("es", None, "kuma-4"), ServiceKind::MeshExternalService, "default_es__kuma-4_extsvc_80"),
        ] {
            assert_eq!(by_port("default", service, kind, 80), name);
        }
    }

    #[test]
    fn a_service_of_kubernetes_says_its_name_namespace_and_port() {
        let of =
            |service: &'static str| ClusterService::of(service).map(|of| (of.name, of.namespace, of.port));
        assert_eq!(of("backend_shop_svc_3001"), Some(("backend", "shop", Some(3001))));
        assert_eq!(of("backend_shop_svc"), Some(("backend", "shop", None)));
        for other in ["backend", "a_b", "a_b_c", "a_b_svc_http", "a_b_svc_1_2", "a_b_svc_70000", ""] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn kuma_makes_services_of_names_that_dns_has() {
        let long = "a".repeat(63);
        for name in ["backend", "b-1", "a", &long] {
            assert!(is_label(name), "{name}");
        }
        for name in ["", "a_b", "Backend", "1a", "-a", "a-", "a.b", &format!("{long}a")] {
            assert!(!is_label(name), "{name}");
        }
    }
}
