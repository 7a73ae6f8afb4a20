//! The contenders of this bench.

use std::fs;

use anyhow::Result;
use culvert_tests::Lab;
use culvert_tests::pod::bench::contender::Contender;

/// All that can be had here, ours first.
pub(crate) fn all(lab: &Lab) -> Result<Vec<Contender>> {
    let identity = lab.folder().join("identity").display().to_string();
    let mesh = lab.folder().join("mesh.yaml");
    fs::write(&mesh, MESH)?;
    let options = [
        "--concurrency=2".to_owned(),
        "--circuit-breaker-max-connections=100000".to_owned(),
        format!("--identity={identity}"),
        format!("--resources={}", mesh.display()),
    ];
    let mut all = vec![Contender::ours("culvert", &options)?];
    all.extend(Contender::other_builds(&options));
    all.extend(Contender::envoy(lab, &ENVOY.replace("IDENTITY", &identity))?);
    Ok(all)
}

const MESH: &str = "
type: Mesh
name: default
mtls:
  enabledBackend: ca
  backends:
    - {name: ca, type: provided, mode: STRICT}
---
type: Dataplane
name: member
networking:
  address: 10.77.0.1
  inbound:
    - {port: 8080, tags: {kuma.io/service: member}}
    - {port: 8081, tags: {kuma.io/service: member}}
    - {port: 8082, tags: {kuma.io/service: member}}
    - {port: 8083, tags: {kuma.io/service: member}}
";

const ENVOY: &str = r#"
static_resources:
  listeners:
  - name: inbound:passthrough:ipv4
    address: {socket_address: {address: 0.0.0.0, port_value: 15006}}
    use_original_dst: true
    traffic_direction: INBOUND
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: inbound_passthrough_ipv4
          cluster: inbound:passthrough:ipv4
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [kuma]
            tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
            tls_certificates:
            - certificate_chain: {filename: "IDENTITY/tls.crt"}
              private_key: {filename: "IDENTITY/tls.key"}
            validation_context:
              trusted_ca: {filename: "IDENTITY/ca.crt"}
              match_typed_subject_alt_names:
              - san_type: URI
                matcher: {prefix: "spiffe://default/"}
  - name: outbound:passthrough:ipv4
    address: {socket_address: {address: 0.0.0.0, port_value: 15001}}
    use_original_dst: true
    traffic_direction: OUTBOUND
    filter_chains:
    - filters:
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: outbound_passthrough_ipv4
          cluster: outbound:passthrough:ipv4
  clusters:
  - name: outbound:passthrough:ipv4
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 10s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000}]}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        max_session_keys: 8
        common_tls_context:
          alpn_protocols: [kuma]
          tls_params: {tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3, ecdh_curves: [X25519]}
          tls_certificates:
          - certificate_chain: {filename: "IDENTITY/tls.crt"}
            private_key: {filename: "IDENTITY/tls.key"}
          validation_context:
            trusted_ca: {filename: "IDENTITY/ca.crt"}
            match_typed_subject_alt_names:
            - san_type: URI
              matcher: {exact: "spiffe://default/member"}
  - name: inbound:passthrough:ipv4
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 10s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000}]}
    upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}}
"#;
