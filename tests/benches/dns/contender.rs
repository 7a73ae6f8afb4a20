//! The contenders of this bench.

use std::fs;
use std::net::SocketAddr;

use anyhow::Result;
use culvert_tests::pod::bench::contender::Contender;
use culvert_tests::{Host, Lab};

/// The server at the other end of the cable.
pub(crate) const SERVER: &str = "192.0.2.10:53";

/// Each contender listens here.
const AT: &str = "127.0.0.1:15053";

/// All that can be had here.
pub(crate) fn all(lab: &Lab) -> Result<Vec<Contender>> {
    let folder = lab.folder().display().to_string();
    let mut all = vec![Contender::direct()];
    let arguments = ["--keep-in-foreground", "--conf-file=CONFIG"];
    all.extend(Contender::peer(lab, "dnsmasq", ("dnsmasq.conf", DNSMASQ), &arguments)?);
    let config = UNBOUND.replace("FOLDER", &folder);
    all.extend(Contender::peer(lab, "unbound", ("unbound.conf", &config), &["-d", "-p", "-c", "CONFIG"])?);
    all.extend(Contender::envoy(lab, ENVOY)?);
    fs::write(lab.folder().join("mesh.yaml"), MESH)?;
    fs::write(lab.folder().join("resolv.conf"), "nameserver 192.0.2.10\n")?;
    let options = [
        "--concurrency=2",
        "--dns-port=15053",
        "--verify-redirect=off",
        "--dataplane=web-1",
        &format!("--resolv-conf={folder}/resolv.conf"),
        &format!("--resources={folder}/mesh.yaml"),
    ]
    .map(str::to_owned);
    all.push(Contender::ours("culvert", &options)?);
    all.extend(Contender::other_builds(&options));
    Ok(all)
}

/// Returns the address to ask.
pub(crate) fn address(of: &Contender) -> SocketAddr {
    let at = if of.is_direct() { SERVER } else { AT };
    at.parse().expect("an address")
}

/// Returns true once the port is bound.
pub(crate) fn is_bound(pod: &Host) -> Result<bool> {
    let text = pod.proc_net("udp")?;
    // 15053 in hexadecimal digits.
    Ok(text.lines().any(|line| line.contains("0100007F:3ACD ")))
}

const MESH: &str = "
type: Mesh
name: default
---
type: Dataplane
name: web-1
mesh: default
networking:
  address: 10.77.0.1
  transparentProxying: {redirectPortInbound: 15006, redirectPortOutbound: 15001}
  inbound: [{port: 8080, tags: {kuma.io/service: web}}]
";

const DNSMASQ: &str = "
port=15053
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
no-poll
server=192.0.2.10
cache-size=0
dns-forward-max=10000
host-record=web.mesh,240.0.0.2,fd00:fd00::2,30
user=
pid-file=
log-facility=-
";

const UNBOUND: &str = r#"
server:
  interface: 127.0.0.1@15053
  do-ip6: no
  num-threads: 2
  so-reuseport: yes
  username: ""
  chroot: ""
  directory: "FOLDER"
  pidfile: ""
  logfile: ""
  use-syslog: no
  module-config: "iterator"
  msg-cache-size: 0
  rrset-cache-size: 0
  cache-max-ttl: 0
  outgoing-range: 4096
  num-queries-per-thread: 2048
  local-zone: "mesh." static
  # By default it knows that there is no test.
  local-zone: "test." nodefault
  local-data: "web.mesh. 30 IN A 240.0.0.2"
  local-data: "web.mesh. 30 IN AAAA fd00:fd00::2"
forward-zone:
  name: "."
  forward-addr: 192.0.2.10
remote-control:
  control-enable: no
"#;

const ENVOY: &str = r#"
static_resources:
  listeners:
  - name: dns
    address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: 15053}}
    listener_filters:
    - name: envoy.filters.udp.dns_filter
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.filters.udp.dns_filter.v3.DnsFilterConfig
        stat_prefix: dns
        client_config:
          max_pending_lookups: 4096
          resolver_timeout: 5s
          typed_dns_resolver_config:
            name: envoy.network.dns_resolver.cares
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
              resolvers: [{socket_address: {address: 192.0.2.10, port_value: 53}}]
              dns_resolver_options: {no_default_search_domain: true}
        server_config:
          inline_dns_table:
            virtual_domains:
            - name: web.mesh
              endpoint: {address_list: {address: [240.0.0.2, "fd00:fd00::2"]}}
"#;
