// SPDX-License-Identifier: Apache-2.0
//! Groups of options, each with its own check. An error does not end a check: each adds to one list.

use crate::options::OptionError;
use crate::options::app_probes::AppProbes;
use crate::options::config::{AccessLog, IdentitySource, LogFormat, LogLevel, Thresholds, VerifyRedirect};
use crate::options::error::MAX_WORKERS;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use culvert_mesh::load::is_variable;
use culvert_mesh::model::duration;
use culvert_mesh::model::spiffe::TrustDomain;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Mesh")]
pub(super) struct MeshOptions {
    /// Mesh documents: a file or a folder; repeat the option, or separate paths by commas
    // The comma is for the variable, which cannot be repeated.
    #[arg(long, value_name = "PATH", value_delimiter = ',', env = "CULVERT_RESOURCES", hide_env = true)]
    pub(super) resources: Vec<PathBuf>,

    /// Mesh that this pod belongs to
    #[arg(long, value_name = "NAME", default_value = "default", value_parser = NonEmptyStringValueParser::new(), global = true, env = "CULVERT_MESH", hide_env = true)]
    pub(super) mesh: String,

    /// Name of the Dataplane document that describes this pod
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), global = true, env = "CULVERT_DATAPLANE", hide_env = true)]
    pub(super) dataplane: Option<String>,

    /// Value of {{ KEY }} in that document; repeat the option, or separate pairs by commas
    // As Kuma's option of this name, which takes several pairs too.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = variable, global = true, env = "CULVERT_DATAPLANE_VAR", hide_env = true)]
    pub(super) dataplane_var: Vec<(String, String)>,

    /// Keep the API server (KUBERNETES_SERVICE_HOST and _PORT) reachable where a mesh closes the passthrough
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = ["on", "off"], hide_possible_values = true, env = "CULVERT_API_SERVER_BYPASS", hide_env = true)]
    api_server_bypass: String,

    /// Host and port of the API server, from the variables that Kubernetes sets in each container.
    #[arg(skip)]
    pub(super) api_server: Option<(String, String)>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Ports")]
pub(super) struct PortOptions {
    // 15001 and 15006 are the ports of Istio and Kuma, 15020 is Istio's, 9901 is Kuma's.
    /// Port of the inbound listener, for redirected connections; 0 = off
    #[arg(long, value_name = "PORT", default_value_t = 15006, env = "CULVERT_INBOUND_PORT", hide_env = true)]
    pub(super) inbound_port: u16,

    /// Port of the outbound listener, for redirected connections; 0 = off
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 15001,
        env = "CULVERT_OUTBOUND_PORT",
        hide_env = true
    )]
    pub(super) outbound_port: u16,

    /// Address of the admin interface; loopback only
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:9901",
        env = "CULVERT_ADMIN_ADDRESS",
        hide_env = true
    )]
    pub(super) admin_address: SocketAddr,

    /// Address of /ready, /live and /metrics; [::] serves IPv4 too, and becomes 0.0.0.0 on a host without IPv6
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "[::]:15020",
        global = true,
        env = "CULVERT_STATUS_ADDRESS",
        hide_env = true
    )]
    pub(super) status_address: SocketAddr,

    /// Port of the DNS server on 127.0.0.1 and ::1, for redirected queries; 0 = off
    // The rules lead to 15053 unless an annotation says otherwise, as Kuma's do.
    #[arg(long, value_name = "PORT", default_value_t = 0, env = "CULVERT_DNS_PORT", hide_env = true)]
    pub(super) dns_port: u16,

    /// File with the name servers that are asked for all names but the mesh's; read again when it changes
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/etc/resolv.conf",
        env = "CULVERT_RESOLV_CONF",
        hide_env = true
    )]
    pub(super) resolv_conf: PathBuf,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TLS between workloads")]
pub(super) struct TlsOptions {
    /// Folder with tls.crt, tls.key and ca.crt; checked for new files each second
    #[arg(long, value_name = "DIR", env = "CULVERT_IDENTITY", hide_env = true)]
    identity: Option<PathBuf>,

    /// SPIFFE trust domain of the mesh [default: the mesh's name; spiffe://MESH/SERVICE then names the service]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), env = "CULVERT_TRUST_DOMAIN", hide_env = true)]
    trust_domain: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Readiness and probes")]
pub(super) struct PodOptions {
    /// Proof of redirected connections that /ready requires: on (in each IP family of the pod), ipv4, ipv6 or off
    #[arg(
        long,
        value_name = "on|ipv4|ipv6|off",
        default_value = "on",
        hide_possible_values = true,
        env = "CULVERT_VERIFY_REDIRECT",
        hide_env = true
    )]
    pub(super) verify_redirect: VerifyRedirect,

    /// Probes of the pod's containers that the status port passes on to the application, as JSON:
    /// {"/app-health/web/readyz": {"httpGet": {"port": 8080, "path": "/ready"}}}
    #[arg(long, value_name = "JSON", default_value = "{}", env = "CULVERT_APP_PROBES", hide_env = true)]
    app_probes: String,
}

// Both defaults are the neighbours': Istio's terminationDrainDuration is 5s, Kuma's --drain-time 30s.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Drain")]
pub(super) struct DrainOptions {
    /// After SIGTERM: time for which both listeners still accept, while the pod is removed from its services
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration::parse, env = "CULVERT_DRAIN_DELAY", hide_env = true)]
    pub(super) drain_delay: Duration,

    /// After the delay: longest time for which outbound serves on, until no connection is open and no other user of the
    /// pod holds a TCP socket; what is open then is reset
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration::parse, env = "CULVERT_DRAIN_TIME", hide_env = true)]
    pub(super) drain_time: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Timeouts")]
pub(super) struct TimeoutOptions {
    // Without the options each number is Kuma's; DOCUMENTS.md has the table.
    /// Time for a connect to a server; 0 = as long as the kernel tries [default: 10s; 5s to services of documents]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, env = "CULVERT_CONNECT_TIMEOUT", hide_env = true)]
    pub(super) connect_timeout: Option<Duration>,

    /// Time after which a connection that moves no byte is reset; 0 = never [default: 1h; 2h of inbounds of documents]
    #[arg(long, value_name = "TIME", value_parser = duration::parse, env = "CULVERT_IDLE_TIMEOUT", hide_env = true)]
    pub(super) idle_timeout: Option<Duration>,

    /// TCP keepalive idle time; nine probes follow over the same time again; 0 = off
    // The default is ztunnel's: below the 350 s after which the NAT gateways of the large clouds forget a connection.
    #[arg(long, value_name = "TIME", default_value = "3m", value_parser = duration::parse, env = "CULVERT_TCP_KEEPALIVE", hide_env = true)]
    pub(super) tcp_keepalive: Duration,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitOptions {
    /// Open connections per cluster
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().max_connections, env = "CULVERT_CIRCUIT_BREAKER_MAX_CONNECTIONS", hide_env = true)]
    pub(super) circuit_breaker_max_connections: u32,

    /// Connects in progress per cluster
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().max_pending_requests, env = "CULVERT_CIRCUIT_BREAKER_MAX_PENDING_REQUESTS", hide_env = true)]
    pub(super) circuit_breaker_max_pending_requests: u32,

    /// HTTP requests in flight per cluster; no effect yet
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().max_requests, env = "CULVERT_CIRCUIT_BREAKER_MAX_REQUESTS", hide_env = true)]
    pub(super) circuit_breaker_max_requests: u32,

    /// Retries in progress per cluster: connects to another endpoint that failed lately
    #[arg(long, value_name = "N", default_value_t = Thresholds::default().max_retries, env = "CULVERT_CIRCUIT_BREAKER_MAX_RETRIES", hide_env = true)]
    pub(super) circuit_breaker_max_retries: u32,

    /// Worker threads [default: the CPUs that the cgroup allows]
    #[arg(long, value_name = "N", env = "CULVERT_CONCURRENCY", hide_env = true)]
    pub(super) concurrency: Option<usize>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logs")]
pub(super) struct LogOptions {
    /// Access log, one line for each connection that ended
    #[arg(
        long,
        value_name = "off|stdout|PATH",
        default_value = "off",
        env = "CULVERT_ACCESS_LOG",
        hide_env = true
    )]
    pub(super) access_log: AccessLog,

    /// DNS log, one line for each query to the DNS server
    #[arg(
        long,
        value_name = "off|stdout|PATH",
        default_value = "off",
        env = "CULVERT_DNS_LOG",
        hide_env = true
    )]
    pub(super) dns_log: AccessLog,

    /// Level of the log on stderr: error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        hide_possible_values = true,
        env = "CULVERT_LOG_LEVEL",
        hide_env = true
    )]
    pub(super) log_level: LogLevel,

    /// Format of the log on stderr: text or json
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true,
        env = "CULVERT_LOG_FORMAT",
        hide_env = true
    )]
    pub(super) log_format: LogFormat,
}

/// Reads `KEY=VALUE`. A line break in a value would be text of other fields.
fn variable(text: &str) -> Result<(String, String), &'static str> {
    const ALLOWED: &str = "write KEY=VALUE, with a key of letters, digits, '_', '-' and '.' that begins with \
                           a letter or '_', and a value without control characters";
    let (key, value) = text.split_once('=').ok_or(ALLOWED)?;
    let fits = is_variable(key) && !value.chars().any(char::is_control);
    if fits { Ok((key.to_owned(), value.to_owned())) } else { Err(ALLOWED) }
}

// === impl MeshOptions ===

impl MeshOptions {
    /// Returns the API server's address, if there is one and the bypass is on.
    ///
    /// Documents may come from a controller too, and the pod's Dataplane from what is known of the pod.
    pub(super) fn check(
        &self,
        (controlled, knows_pod): (bool, bool),
        errors: &mut Vec<OptionError>,
    ) -> Option<SocketAddr> {
        let none = self.resources.is_empty() && !controlled;
        if none
            && !knows_pod
            && let Some(name) = &self.dataplane
        {
            errors.push(OptionError::NoResources { what: format!("--dataplane {name}") });
        }
        for (at, (key, value)) in self.dataplane_var.iter().enumerate() {
            if none {
                errors.push(OptionError::NoResources { what: format!("--dataplane-var {key}={value}") });
            }
            if self.dataplane_var[..at].iter().any(|(before, _)| before == key) {
                errors.push(OptionError::SameVariable(key.clone()));
            }
        }
        let (host, port) = self.api_server.as_ref().filter(|_| self.bypasses_api_server())?;
        match (host.parse::<IpAddr>(), port.parse::<u16>()) {
            (Ok(ip), Ok(port)) => Some(SocketAddr::new(ip.to_canonical(), port)),
            _ => {
                errors.push(OptionError::ApiServer { host: host.clone(), port: port.clone() });
                None
            }
        }
    }

    pub(super) fn bypasses_api_server(&self) -> bool {
        self.api_server_bypass == "on"
    }
}

// === impl PortOptions ===

impl PortOptions {
    pub(super) fn check(&self, errors: &mut Vec<OptionError>) {
        let &Self { inbound_port, outbound_port, admin_address, status_address, dns_port, resolv_conf: _ } =
            self;
        if !admin_address.ip().is_loopback() {
            errors.push(OptionError::AdminNotLoopback(admin_address));
        }
        for (option, address) in [("--admin-address", admin_address), ("--status-address", status_address)] {
            if address.port() == 0 {
                errors.push(OptionError::NoPort { option, address });
            }
        }
        let ports = [
            ("--inbound-port", inbound_port),
            ("--outbound-port", outbound_port),
            ("--admin-address", admin_address.port()),
            ("--status-address", status_address.port()),
            ("--dns-port", dns_port),
        ];
        for (at, &(first, port)) in ports.iter().enumerate() {
            for &(second, other) in &ports[at + 1..] {
                if port == other && port != 0 {
                    errors.push(OptionError::SamePort { first, second, port });
                }
            }
        }
    }
}

// === impl TlsOptions ===

impl TlsOptions {
    /// Returns the source of this pod's identity, if it has one.
    pub(super) fn check(
        self,
        (mesh, controlled, signs): (&MeshOptions, bool, bool),
        errors: &mut Vec<OptionError>,
    ) -> Option<IdentitySource> {
        let Self { identity: folder, trust_domain } = self;
        if folder.is_none() && !signs {
            return None;
        }
        if let Some(folder) = folder.as_ref().filter(|_| mesh.resources.is_empty() && !controlled) {
            errors.push(OptionError::NoResources { what: format!("--identity {}", folder.display()) });
        }
        match trust_domain.as_deref().unwrap_or(&mesh.mesh).parse::<TrustDomain>() {
            Ok(domain) => {
                Some(IdentitySource { folder, trust_domain: domain, names_services: trust_domain.is_none() })
            }
            Err(error) => {
                errors.push(OptionError::TrustDomain(error));
                None
            }
        }
    }
}

// === impl PodOptions ===

impl PodOptions {
    pub(super) fn check(&self, errors: &mut Vec<OptionError>) -> AppProbes {
        self.app_probes
            .parse()
            .map_err(|error| errors.push(OptionError::AppProbes(error)))
            .unwrap_or_default()
    }
}

// === impl LimitOptions ===

impl LimitOptions {
    pub(super) fn check(&self, errors: &mut Vec<OptionError>) {
        if let Some(workers) = self.concurrency.filter(|workers| !(1..=MAX_WORKERS).contains(workers)) {
            errors.push(OptionError::Concurrency(workers));
        }
    }
}
