//! The contenders of this bench.

use std::fs;

use anyhow::Result;
use culvert_tests::Lab;
use culvert_tests::pod::bench::contender::Contender;
use culvert_tests::pod::sidecar;

use super::servers::{HTTP_2, SINK, SMALL, nginx_config, writable};

/// The protocol of the sidecar's ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http,
    Tcp,
}

impl Protocol {
    fn tag(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Tcp => "tcp",
        }
    }

    /// Returns the protocol that our own contenders are to read; `None` for all others.
    pub(crate) fn of(contender: &Contender) -> Option<Self> {
        match contender.name() {
            "culvert" => Some(Self::Http),
            "tcp" => Some(Self::Tcp),
            _ => None,
        }
    }
}

/// All that can be had here, ours first.
pub(crate) fn all(lab: &Lab) -> Result<Vec<Contender>> {
    let messages = options(lab, Protocol::Http)?;
    let mut all =
        vec![Contender::ours("culvert", &messages)?, Contender::ours("tcp", &options(lab, Protocol::Tcp)?)?];
    all.extend(Contender::other_builds(&messages));
    all.extend(Contender::envoy(lab, &envoy())?);
    all.extend(Contender::peer(lab, "haproxy", ("haproxy.cfg", HAPROXY), &["-db", "-f", "CONFIG"])?);
    let folder = writable(lab, "nginx", sidecar::UID)?;
    let config = nginx_config(&folder, NGINX_PROCESSES, NGINX);
    let arguments = ["-e", "stderr", "-c", "CONFIG"];
    all.extend(Contender::peer(lab, "nginx", ("nginx.conf", &config), &arguments)?);
    Ok(all)
}

/// Options of a sidecar, whose documents are written.
pub(crate) fn options(lab: &Lab, protocol: Protocol) -> Result<Vec<String>> {
    let tag = protocol.tag();
    let inbound =
        |port: u16| format!("{{port: {port}, tags: {{kuma.io/service: app, kuma.io/protocol: {tag}}}}}");
    let transparent = "transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}";
    let text = format!(
        "{{type: Mesh, name: default}}
---
{{type: Dataplane, name: app-1, networking: {{address: 10.77.0.2, {transparent}, inbound: [{}]}}}}
",
        [SMALL, SINK, HTTP_2].map(inbound).join(", ")
    );
    let file = lab.folder().join(format!("{tag}.yaml"));
    fs::write(&file, text)?;
    Ok(vec![
        "--concurrency=2".into(),
        "--circuit-breaker-max-connections=100000".into(),
        "--dataplane=app-1".into(),
        format!("--resources={}", file.display()),
    ])
}

/// Envoy as Kuma configures it for inbounds of HTTP: a listener per port behind the one that is redirected to.
fn envoy() -> String {
    let listeners: String = [(SMALL, "http"), (SINK, "http"), (HTTP_2, "http2")]
        .map(|(port, cluster)| ENVOY_LISTENER.replace("PORT", &port.to_string()).replace("CLUSTER", cluster))
        .concat();
    let clusters = ["http", "http2"].map(|cluster| ENVOY_CLUSTER.replace("NAME", cluster)).concat();
    ENVOY.replace("LISTENERS", &listeners).replace("CLUSTERS", &clusters)
}

const ENVOY_LISTENER: &str = r#"
  - name: inbound:10.77.0.2:PORT
    address: {socket_address: {address: 10.77.0.2, port_value: PORT}}
    bind_to_port: false
    traffic_direction: INBOUND
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: localhost_PORT
          forward_client_cert_details: SANITIZE_SET
          set_current_client_cert_details: {uri: true}
          common_http_protocol_options: {idle_timeout: 7200s}
          stream_idle_timeout: 3600s
          route_config:
            name: inbound:app
            validate_clusters: false
            request_headers_to_remove: [x-kuma-tags]
            virtual_hosts:
            - name: app
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: CLUSTER, timeout: 0s}
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
"#;

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
          cluster: http
LISTENERS
  clusters:
CLUSTERS"#;

const ENVOY_CLUSTER: &str = r#"
  - name: NAME
    type: ORIGINAL_DST
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 10s
    circuit_breakers: {thresholds: [{max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}]}
    upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {idle_timeout: 7200s}
        explicit_http_config: {NAME_protocol_options: {}}
"#;

/// It tells HTTP/2 by the preface; servers want to be told.
const HAPROXY: &str = "
global
  maxconn 7000
  nbthread 2
defaults
  mode http
  option splice-auto
  timeout connect 10s
  timeout client 1h
  timeout server 1h
frontend inbound
  bind 0.0.0.0:15006
  use_backend http2 if { req.ver 2.0 }
  default_backend http1
backend http1
  server app 0.0.0.0:0 source 127.0.0.6
backend http2
  server app 0.0.0.0:0 source 127.0.0.6 proto h2
";

/// It cannot ask for the port that a client meant; the path says it.
const NGINX_PROCESSES: &str = "worker_processes 2; worker_rlimit_nofile 20000;";
const NGINX: &str = r#"
  client_max_body_size 0;
  upstream app { server 10.77.0.2:8080; keepalive 256; keepalive_requests 1000000000; }
  upstream sink { server 10.77.0.2:8081; keepalive 256; keepalive_requests 1000000000; }
  proxy_http_version 1.1;
  proxy_set_header Connection "";
  proxy_bind 127.0.0.6;
  server {
    listen 15006 backlog=4096;
    location / { proxy_pass http://app; }
    location /up { proxy_pass http://sink; }
  }
"#;
