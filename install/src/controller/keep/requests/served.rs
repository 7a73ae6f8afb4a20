// SPDX-License-Identifier: Apache-2.0
//! Kinds that the API server serves: PodCertificateRequest is v1 from Kubernetes 1.37 on, and was v1beta1, off by default, before.

use kube::Client;
use kube::api::ApiResource;
use kube::core::GroupVersionKind;

/// Group of both kinds.
const GROUP: &str = "certificates.k8s.io";
/// Versions, the best one first.
const VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// Kinds that are served, each by its best version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Served {
    /// PodCertificateRequest.
    pub requests: Option<ApiResource>,
    /// ClusterTrustBundle.
    pub bundles: Option<ApiResource>,
}

impl Served {
    /// Asks the API server. A version that it does not serve is no error.
    pub(super) async fn look(client: &Client) -> Result<Self, kube::Error> {
        let mut served = Self::default();
        for version in VERSIONS {
            let listed = match client.list_api_group_resources(&format!("{GROUP}/{version}")).await {
                Ok(listed) => listed,
                Err(kube::Error::Api(status)) if status.code == 404 => continue,
                Err(error) => return Err(error),
            };
            let is_there = |plural: &str| listed.resources.iter().any(|resource| resource.name == plural);
            for (kind, plural, place) in [
                ("PodCertificateRequest", "podcertificaterequests", &mut served.requests),
                ("ClusterTrustBundle", "clustertrustbundles", &mut served.bundles),
            ] {
                if place.is_none() && is_there(plural) {
                    let kind = GroupVersionKind::gvk(GROUP, version, kind);
                    *place = Some(ApiResource::from_gvk_with_plural(&kind, plural));
                }
            }
        }
        Ok(served)
    }
}
