// SPDX-License-Identifier: Apache-2.0
//! TLS of listeners and clusters, as Envoy's configuration would have it, in the chains of Kong Mesh's sidecars.

use crate::plan::external::{AltName, Authorities, ExternalTls, Verification};
use crate::plan::tls::{TlsSettings, TlsVersion};
use crate::plan::{Mtls, TlsMode};
use crate::tls::sniff::ALPN;
use rustls::CipherSuite;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};

const EXTENSION: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

/// Makes the one chain of an inbound listener those that it has with TLS.
pub(super) fn secure_listener(listener: &mut Value, mode: TlsMode, mtls: &Mtls) {
    let plain = listener["filter_chains"][0].take();
    let chain = |matching: Value, tls: bool| {
        let mut chain = plain.clone();
        if !matching.is_null() {
            chain["filter_chain_match"] = matching;
        }
        if tls {
            chain["transport_socket"] = socket("DownstreamTlsContext", mtls);
            chain["transport_socket"]["typed_config"]["require_client_certificate"] = true.into();
        }
        chain
    };
    listener["filter_chains"] = match mode {
        TlsMode::Strict => json!([chain(Value::Null, true)]),
        TlsMode::Permissive => {
            listener["listener_filters"] = json!([{"name": "envoy.filters.listener.tls_inspector"}]);
            json!([
                chain(json!({"transport_protocol": "raw_buffer"}), false),
                chain(json!({"transport_protocol": "tls"}), false),
                chain(json!({"transport_protocol": "tls", "application_protocols": [alpn()]}), true),
            ])
        }
    };
}

/// The socket of a cluster whose endpoints are members.
pub(super) fn upstream(mtls: &Mtls) -> Value {
    socket("UpstreamTlsContext", mtls)
}

fn version(version: TlsVersion) -> &'static str {
    match version {
        TlsVersion::V12 => "TLSv1_2",
        TlsVersion::V13 => "TLSv1_3",
    }
}

/// The socket to a server outside of the mesh. Neither certificates nor keys are shown.
pub(super) fn outside(tls: &ExternalTls) -> Value {
    let mut common = json!({"tls_params": {
        "tls_minimum_protocol_version": version(tls.min),
        "tls_maximum_protocol_version": version(tls.max),
    }});
    if tls.client.is_some() {
        let hidden = json!({"inline_string": "[redacted]"});
        common["tls_certificates"] = json!([{"certificate_chain": hidden, "private_key": hidden}]);
    }
    let asked = tls.server_name.to_str();
    let (of, names) = match &tls.verification {
        Verification::Nothing => (None, None),
        Verification::Authorities(of) => (Some(of), None),
        Verification::Names(of, names) => (Some(of), Some(names)),
    };
    if let Some(of) = of {
        common["validation_context"]["trusted_ca"] = match of {
            Authorities::System => json!({"filename": "the system's"}),
            Authorities::These(all) => json!({"inline_string": format!("{} certificates", all.len())}),
        };
    }
    if let Some(names) = names {
        let exact = |name: &str| json!({"matcher": {"exact": name}});
        let other = |name: &AltName| match name {
            AltName::Exact(name) => exact(name),
            AltName::Prefix(begin) => json!({"matcher": {"prefix": begin}}),
        };
        let all = std::iter::once(exact(&asked)).chain(names.iter().map(other));
        common["validation_context"]["match_typed_subject_alt_names"] = all.collect();
    }
    let mut context = json!({
        "@type": format!("{EXTENSION}.UpstreamTlsContext"),
        "common_tls_context": common,
    });
    if matches!(tls.server_name, ServerName::DnsName(_)) {
        context["sni"] = (&*asked).into();
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": context})
}

fn socket(context: &str, mtls: &Mtls) -> Value {
    let mut parameters = json!({
        "tls_minimum_protocol_version": version(mtls.settings.min),
        "tls_maximum_protocol_version": version(mtls.settings.max),
    });
    // As in Envoy: none is a list of its own, and those of TLS 1.3 cannot be chosen.
    if mtls.settings.suites != TlsSettings::default().suites {
        let suites = mtls.settings.suites.iter().filter_map(|suite| openssl_name(*suite));
        parameters["cipher_suites"] = suites.collect();
    }
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": format!("{EXTENSION}.{context}"),
            "common_tls_context": {
                "alpn_protocols": [alpn()],
                "tls_params": parameters,
            },
        },
    })
}

/// Returns the name of a suite of TLS 1.2 as OpenSSL, Envoy and documents spell it.
fn openssl_name(suite: CipherSuite) -> Option<&'static str> {
    Some(match suite {
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        _ => return None,
    })
}

fn alpn() -> String {
    String::from_utf8_lossy(ALPN).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Gate;

    #[test]
    fn chains_are_those_of_kong_mesh() {
        for (mode, chains) in [(TlsMode::Strict, 1), (TlsMode::Permissive, 3)] {
            let settings = TlsSettings::default();
            let others = Gate { mode, permissions: Default::default(), shadow: None };
            let mtls =
                Mtls { others, metrics: None, inbounds: Default::default(), named_only: true, settings };
            let mut listener =
                json!({"filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy"}]}]});
            secure_listener(&mut listener, mode, &mtls);
            let all = listener["filter_chains"].as_array().unwrap();
            assert_eq!(all.len(), chains);
            assert!(all.iter().all(|chain| chain["filters"][0]["name"] == "envoy.filters.network.tcp_proxy"));
            let tls = &all[chains - 1]["transport_socket"]["typed_config"];
            assert_eq!(tls["require_client_certificate"], true);
            assert_eq!(tls["common_tls_context"]["alpn_protocols"][0], "kuma");
            let parameters =
                json!({"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"});
            assert_eq!(tls["common_tls_context"]["tls_params"], parameters);
        }
    }

    #[test]
    fn suites_that_a_document_chose_are_named_as_it_named_them() {
        let suites = vec![
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        ];
        let settings = TlsSettings { suites, ..TlsSettings::default() };
        let others = Gate { mode: TlsMode::Strict, permissions: Default::default(), shadow: None };
        let mtls = Mtls { others, metrics: None, inbounds: Default::default(), named_only: true, settings };
        let context = &upstream(&mtls)["typed_config"]["common_tls_context"];
        assert_eq!(context["tls_params"]["cipher_suites"], json!(["ECDHE-RSA-CHACHA20-POLY1305"]));
    }
}
