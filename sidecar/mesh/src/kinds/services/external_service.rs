// SPDX-License-Identifier: Apache-2.0
//! `ExternalService` of Kuma up to 2.x: an endpoint outside of the mesh with the tags of a service.

use super::data_source::check_sources;
use super::{DataSource, Renegotiation, ServerName};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::dataplane::Protocol;
use crate::model::address::HostPort;
use crate::model::tags::{SERVICE, Tags};
use crate::read::part::Part;
use crate::read::{At, fields};

/// Tag with the protocol of a service.
const PROTOCOL: &str = "kuma.io/protocol";

fields! {
    /// An endpoint outside of the mesh. Several with the same kuma.io/service are one service.
    pub struct ExternalService {
        /// Name of the service (kuma.io/service, required), and tags that its endpoints differ by.
        tags: required Tags = "tags",
        /// Address of the endpoint.
        networking: required ExternalNetworking = "networking",
    }
}

fields! {
    /// Address of an endpoint outside of the mesh.
    pub struct ExternalNetworking {
        /// Host and port, as example.com:443; the name of a host is looked up.
        address: required HostPort = "address",
        /// TLS with the endpoint. Absent: the application's bytes as they are.
        tls: optional OlderExternalTls = "tls",
        /// True if the name of the host leads to the host itself, not to this service. Default: false.
        disable_host_dns_entry: default bool = "disableHostDNSEntry",
    }
}

fields! {
    /// TLS with an endpoint outside of the mesh.
    pub struct OlderExternalTls {
        /// True if the sidecar speaks TLS with the endpoint. Default: false.
        enabled: default bool = "enabled",
        /// Authorities of the server's certificate. Default: none, as in Kuma: its certificate is not verified.
        ca_cert: optional DataSource = "caCert",
        /// Certificate of the sidecar, with the certificates of its authorities behind it.
        client_cert: optional DataSource = "clientCert",
        /// Private key of that certificate.
        client_key: optional DataSource = "clientKey",
        /// Handshakes that a server asks for within TLS 1.2. They are refused, true or not.
        allow_renegotiation: optional Renegotiation = "allowRenegotiation",
        /// Name in the ClientHello and of the server. Default: the host of address.
        server_name: optional ServerName = "serverName",
        /// True if the server may have any name. Default: false.
        skip_hostname_verification: default bool = "skipHostnameVerification",
    }
}

impl ExternalService {
    /// Returns the name of the service.
    pub fn service(&self) -> &str {
        self.tags.service().unwrap_or_default()
    }
}

impl Resource for ExternalService {
    const NAME: &'static str = "ExternalService";

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        let tags = part.field("tags");
        if tags.has(SERVICE) == Ok(false) {
            tags.problem(at, SERVICE, "nothing", "this field is required");
        }
        tags.check::<Protocol>(PROTOCOL, at);
        for (tag, _) in tags.texts().filter(|(_, value)| *value == "*") {
            tags.problem(at, tag, "\"*\"", "the value of the service's tag");
        }
        let networking = part.field("networking");
        if let (Ok(Some(service)), Ok(Some(address))) =
            (tags.get::<String>(SERVICE), networking.get::<HostPort>("address"))
            && service == address.host.to_string()
        {
            let found = format!("{service:?}, the host of networking.address");
            tags.problem(at, SERVICE, found, "a name that is not the host's, which would be hidden by it");
        }
        check_sources(&networking.field("tls"), at);
    }
}
