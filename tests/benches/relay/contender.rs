//! The contenders of this bench.

use anyhow::Result;
use culvert_tests::Lab;
use culvert_tests::pod::bench::contender::Contender;

/// Where outbound connections are redirected to.
pub(crate) const OUTBOUND: u16 = 15001;

/// All that can be had here.
pub(crate) fn all(lab: &Lab) -> Result<Vec<Contender>> {
    let mut all = vec![Contender::direct()];
    all.extend(Contender::envoy(lab, ENVOY)?);
    all.extend(Contender::peer(lab, "haproxy", ("haproxy.cfg", HAPROXY), &["-db", "-f", "CONFIG"])?);
    let options = ["--concurrency=2", "--circuit-breaker-max-connections=100000"].map(str::to_owned);
    all.push(Contender::ours("culvert", &options)?);
    all.extend(Contender::other_builds(&options));
    Ok(all)
}

const ENVOY: &str = r#"
static_resources:
  listeners:
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
"#;

const HAPROXY: &str = "
global
  maxconn 7000
  nbthread 2
defaults
  mode tcp
  option splice-auto
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen outbound
  bind 0.0.0.0:15001
  server orig 0.0.0.0:0
";
