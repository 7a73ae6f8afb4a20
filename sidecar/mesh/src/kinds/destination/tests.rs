// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::read::Problems;

fn to(value: Value) -> ToRef {
    ToRef::read(&value, &mut At::root(&mut Problems::default())).unwrap()
}

#[test]
fn a_destination_fits_by_name_namespace_labels_and_port() {
    let universal = "backend";
    let cluster = "backend_shop_svc_3001";
    for (target, policy, service, fits) in [
        (json!({"kind": "Mesh"}), None, universal, true),
        (json!({"kind": "MeshService", "name": "backend"}), None, universal, true),
        (json!({"kind": "MeshService", "name": "backend"}), Some("shop"), universal, true),
        (json!({"kind": "MeshService", "name": "web"}), None, universal, false),
        (json!({"kind": "MeshService", "name": "backend", "namespace": "shop"}), None, universal, false),
        (json!({"kind": "MeshService", "name": "backend_shop_svc_3001"}), None, cluster, true),
        (json!({"kind": "MeshService", "name": "backend"}), None, cluster, false),
        (json!({"kind": "MeshService", "name": "backend"}), Some("shop"), cluster, true),
        (json!({"kind": "MeshService", "name": "backend"}), Some("web"), cluster, false),
        (json!({"kind": "MeshService", "name": "backend", "namespace": "shop"}), Some("web"), cluster, true),
        (json!({"kind": "MeshService", "name": "backend", "sectionName": "http"}), None, universal, true),
        (json!({"kind": "MeshService", "name": "backend", "sectionName": "grpc"}), None, universal, false),
        (
            json!({"kind": "MeshService", "name": "backend", "namespace": "shop", "sectionName": "3001"}),
            None,
            cluster,
            true,
        ),
        (
            json!({"kind": "MeshService", "name": "backend", "namespace": "shop", "sectionName": "3002"}),
            None,
            cluster,
            false,
        ),
        (
            json!({"kind": "MeshService", "labels": {"kuma.io/display-name": "backend"}}),
            None,
            universal,
            true,
        ),
        (json!({"kind": "MeshService", "labels": {"kuma.io/display-name": "backend"}}), None, cluster, true),
        (
            json!({"kind": "MeshService", "labels": {"k8s.kuma.io/service-name": "backend"}}),
            None,
            cluster,
            true,
        ),
        (
            json!({"kind": "MeshService", "labels": {"k8s.kuma.io/service-name": "backend"}}),
            None,
            universal,
            false,
        ),
        (
            json!({"kind": "MeshService", "labels": {"k8s.kuma.io/namespace": "shop", "kuma.io/mesh": "default"}}),
            None,
            cluster,
            true,
        ),
        (json!({"kind": "MeshService", "labels": {"k8s.kuma.io/namespace": "web"}}), None, cluster, false),
        (json!({"kind": "MeshExternalService", "name": "backend"}), None, universal, false),
        (json!({"kind": "MeshMultiZoneService", "name": "backend"}), None, universal, false),
        (json!({"kind": "MeshHTTPRoute", "name": "backend"}), None, universal, false),
    ] {
        let has_inbound = |section: &str| section == "http";
        let called = CalledService { mesh: "default", service, has_inbound: &has_inbound, known: None };
        assert_eq!(to(target.clone()).fits(&called, policy), fits, "{target} of {policy:?} for {service}");
    }
}

#[test]
fn a_destination_fits_the_service_of_a_document_by_name_namespace_labels_and_port() {
    let labels = Labels([("team".to_owned(), "a".to_owned())].into());
    let service = |kind, namespace| KnownService {
        kind,
        name: "backend-x2f",
        display_name: "backend",
        namespace,
        labels: &labels,
    };
    use ToKind::{MeshExternalService, MeshMultiZoneService, MeshService};
    for (target, policy, kind, namespace, fits) in [
        (json!({"kind": "Mesh"}), None, MeshExternalService, None, true),
        (json!({"kind": "MeshService", "name": "backend"}), None, MeshService, None, true),
        (json!({"kind": "MeshService", "name": "backend-x2f"}), None, MeshService, None, true),
        (json!({"kind": "MeshService", "name": "backend"}), Some("web"), MeshService, None, true),
        (json!({"kind": "MeshService", "name": "web"}), None, MeshService, None, false),
        (json!({"kind": "MeshService", "name": "backend"}), None, MeshExternalService, None, false),
        (json!({"kind": "MeshExternalService", "name": "backend"}), None, MeshService, None, false),
        (json!({"kind": "MeshService", "name": "backend"}), None, MeshService, Some("shop"), false),
        (json!({"kind": "MeshService", "name": "backend"}), Some("shop"), MeshService, Some("shop"), true),
        (json!({"kind": "MeshService", "name": "backend"}), Some("web"), MeshService, Some("shop"), false),
        (
            json!({"kind": "MeshService", "name": "backend", "namespace": "shop"}),
            Some("web"),
            MeshService,
            Some("shop"),
            true,
        ),
        // Kuma keeps these in its own namespace, and policies of others name them.
        (
            json!({"kind": "MeshExternalService", "name": "backend"}),
            Some("web"),
            MeshExternalService,
            Some("kuma-system"),
            true,
        ),
        (
            json!({"kind": "MeshMultiZoneService", "name": "backend", "namespace": "web"}),
            None,
            MeshMultiZoneService,
            Some("kuma-system"),
            false,
        ),
        (json!({"kind": "MeshService", "labels": {"team": "a"}}), None, MeshService, Some("shop"), true),
        (json!({"kind": "MeshService", "labels": {"team": "b"}}), None, MeshService, None, false),
        (
            json!({"kind": "MeshService", "labels": {"team": "a", "k8s.kuma.io/namespace": "shop"}}),
            None,
            MeshService,
            Some("shop"),
            true,
        ),
        (
            json!({"kind": "MeshService", "labels": {"k8s.kuma.io/service-name": "backend"}}),
            None,
            MeshService,
            None,
            false,
        ),
        (
            json!({"kind": "MeshService", "name": "backend", "sectionName": "http"}),
            None,
            MeshService,
            None,
            true,
        ),
        (
            json!({"kind": "MeshService", "name": "backend", "sectionName": "grpc"}),
            None,
            MeshService,
            None,
            false,
        ),
    ] {
        let has_inbound = |section: &str| section == "http";
        let known = Some(service(kind, namespace));
        let called = CalledService { mesh: "default", service: "backend", has_inbound: &has_inbound, known };
        assert_eq!(
            to(target.clone()).fits(&called, policy),
            fits,
            "{target} of {policy:?} for {kind:?} of {namespace:?}"
        );
    }
}

#[test]
fn the_dataplanes_of_a_service_are_named_by_their_tag_too() {
    let labels = Labels::default();
    let known = KnownService {
        kind: ToKind::MeshService,
        name: "backend",
        display_name: "backend",
        namespace: Some("shop"),
        labels: &labels,
    };
    let service = "backend_shop_svc_80";
    let called = CalledService { mesh: "default", service, has_inbound: &|_| true, known: Some(known) };
    for (target, fits) in [
        (json!({"kind": "MeshService", "name": service}), true),
        (json!({"kind": "MeshService", "name": service, "namespace": "shop"}), false),
        (json!({"kind": "MeshMultiZoneService", "name": service}), false),
    ] {
        assert_eq!(to(target.clone()).fits(&called, None), fits, "{target}");
    }
}

#[test]
fn of_the_entries_of_even_policies_the_narrower_decides() {
    let ranks = [
        json!({"kind": "Mesh"}),
        json!({"kind": "MeshService", "name": "a"}),
        json!({"kind": "MeshService", "name": "a", "sectionName": "http"}),
    ];
    assert_eq!(ranks.map(|value| to(value).rank()), [0, 1, 2]);
}
