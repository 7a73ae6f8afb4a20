// SPDX-License-Identifier: Apache-2.0
//! The command line and its environment twins: arguments → [`Options`] → [`Config`].
//!
//! Clap reads one argument at a time; [`Options::check`] then looks at them together and reports everything that is
//! wrong, not only the first. What the contract promises and this version does not have is an error that says so.

pub mod app_probes;
pub mod cgroup;
pub mod config;
mod error;

pub use error::OptionError;

use crate::options::app_probes::AppProbes;
use crate::options::config::IdentitySource;
use crate::options::config::Thresholds;
use crate::options::config::{AccessLog, Config, LogFormat, LogLevel, VerifyRedirect};
use clap::builder::NonEmptyStringValueParser;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use culvert_mesh::model::duration;
use culvert_mesh::model::spiffe::TrustDomain;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Most worker threads that make sense; more is a typing error.
pub(super) const MAX_WORKERS: usize = 1024;

/// Transparent sidecar proxy: takes redirected connections, asks the kernel for their original destination, and
/// forwards them there.
#[derive(Clone, Debug, Parser)]
#[command(name = "culvert-sidecar", version, max_term_width = 110)]
#[command(
    after_help = "Each option is also an environment variable: --inbound-port is CULVERT_INBOUND_PORT.\n\
    Durations: 500ms, 5s, 1m30s, 1h; 0 = none."
)]
pub struct Options {
    /// Mesh documents: a file or a folder (repeatable, or several with commas between them)
    // The comma is for the variable, which cannot be repeated.
    #[arg(long, value_name = "PATH", value_delimiter = ',', env = "CULVERT_RESOURCES", hide_env = true)]
    resources: Vec<PathBuf>,

    /// The mesh that this pod belongs to
    #[arg(
        long,
        value_name = "NAME",
        default_value = "default",
        value_parser = NonEmptyStringValueParser::new(),
        global = true,
        env = "CULVERT_MESH",
        hide_env = true
    )]
    mesh: String,

    /// The Dataplane document that is about this pod
    #[arg(
        long,
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        global = true,
        env = "CULVERT_DATAPLANE",
        hide_env = true
    )]
    dataplane: Option<String>,

    /// Port for redirected inbound connections; 0 = off
    #[arg(long, value_name = "PORT", default_value_t = 15006, env = "CULVERT_INBOUND_PORT", hide_env = true)]
    inbound_port: u16,

    /// Port for redirected outbound connections; 0 = off
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 15001,
        env = "CULVERT_OUTBOUND_PORT",
        hide_env = true
    )]
    outbound_port: u16,

    /// Where the admin interface listens; loopback only
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:9901",
        env = "CULVERT_ADMIN_ADDRESS",
        hide_env = true
    )]
    admin_address: SocketAddr,

    /// Where /ready, /live and /metrics are served; [::] takes IPv4 too, and is 0.0.0.0 where there is no IPv6
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "[::]:15020",
        global = true,
        env = "CULVERT_STATUS_ADDRESS",
        hide_env = true
    )]
    status_address: SocketAddr,

    /// Folder with tls.crt, tls.key and ca.crt; looked at each second
    #[arg(long, value_name = "DIR", env = "CULVERT_IDENTITY", hide_env = true)]
    identity: Option<PathBuf>,

    /// Whose SPIFFE identities are the mesh's [default: the mesh's name, and then spiffe://MESH/SERVICE is the service]
    #[arg(
        long,
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        env = "CULVERT_TRUST_DOMAIN",
        hide_env = true
    )]
    trust_domain: Option<String>,

    /// The probes of the pod's containers that the status port passes on, as JSON:
    /// {"/app-health/web/readyz": {"httpGet": {"port": 8080, "path": "/ready"}}}
    #[arg(long, value_name = "JSON", default_value = "{}", env = "CULVERT_APP_PROBES", hide_env = true)]
    app_probes: String,

    /// Port of the DNS server on 127.0.0.1 and ::1; 0 = off
    #[arg(long, value_name = "PORT", default_value_t = 0, env = "CULVERT_DNS_PORT", hide_env = true)]
    dns_port: u16,

    /// After SIGTERM: how long both listeners serve on while the pod is taken out of its services
    #[arg(
        long,
        value_name = "TIME",
        default_value = "5s",
        value_parser = duration::parse,
        env = "CULVERT_DRAIN_DELAY",
        hide_env = true
    )]
    drain_delay: Duration,

    /// After the delay: how long open connections may go on before they are reset
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = duration::parse,
        env = "CULVERT_DRAIN_TIME",
        hide_env = true
    )]
    drain_time: Duration,

    /// Whether /ready asks for a proof that the pod's connections are redirected: in each family that the pod has, in
    /// one family only, or not at all
    #[arg(
        long,
        value_name = "on|ipv4|ipv6|off",
        default_value = "on",
        hide_possible_values = true,
        env = "CULVERT_VERIFY_REDIRECT",
        hide_env = true
    )]
    verify_redirect: VerifyRedirect,

    /// Whether the API server (KUBERNETES_SERVICE_HOST and _PORT) stays reachable where a mesh closes the passthrough
    #[arg(
        long,
        value_name = "on|off",
        default_value = "on",
        value_parser = ["on", "off"],
        hide_possible_values = true,
        env = "CULVERT_API_SERVER_BYPASS",
        hide_env = true
    )]
    api_server_bypass: String,

    /// How long a server may take to answer a connect; 0 = as long as the kernel tries
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = duration::parse,
        env = "CULVERT_CONNECT_TIMEOUT",
        hide_env = true
    )]
    connect_timeout: Duration,

    /// How long a connection may move no byte; 0 = for ever
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1h",
        value_parser = duration::parse,
        env = "CULVERT_IDLE_TIMEOUT",
        hide_env = true
    )]
    idle_timeout: Duration,

    /// How long a peer may be silent before the kernel asks whether it is still there, nine times within as long
    /// again; 0 = never
    // The default is ztunnel's: below the 350 s after which the NAT gateways of the large clouds forget a connection.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "3m",
        value_parser = duration::parse,
        env = "CULVERT_TCP_KEEPALIVE",
        hide_env = true
    )]
    tcp_keepalive: Duration,

    /// Connections per cluster
    #[arg(
        long,
        value_name = "N",
        default_value_t = Thresholds::default().max_connections,
        env = "CULVERT_CIRCUIT_BREAKER_MAX_CONNECTIONS",
        hide_env = true
    )]
    circuit_breaker_max_connections: u32,

    /// Connects under way per cluster
    #[arg(
        long,
        value_name = "N",
        default_value_t = Thresholds::default().max_pending_requests,
        env = "CULVERT_CIRCUIT_BREAKER_MAX_PENDING_REQUESTS",
        hide_env = true
    )]
    circuit_breaker_max_pending_requests: u32,

    /// HTTP requests per cluster; none are made so far
    #[arg(
        long,
        value_name = "N",
        default_value_t = Thresholds::default().max_requests,
        env = "CULVERT_CIRCUIT_BREAKER_MAX_REQUESTS",
        hide_env = true
    )]
    circuit_breaker_max_requests: u32,

    /// Connects to a further endpoint of a service under way, per cluster
    #[arg(
        long,
        value_name = "N",
        default_value_t = Thresholds::default().max_retries,
        env = "CULVERT_CIRCUIT_BREAKER_MAX_RETRIES",
        hide_env = true
    )]
    circuit_breaker_max_retries: u32,

    /// Where each connection's closing record goes
    #[arg(
        long,
        value_name = "off|stdout|PATH",
        default_value = "off",
        env = "CULVERT_ACCESS_LOG",
        hide_env = true
    )]
    access_log: AccessLog,

    /// How much is logged to stderr: error, warn, info, debug or trace
    #[arg(
        long,
        value_name = "LEVEL",
        default_value = "info",
        hide_possible_values = true,
        env = "CULVERT_LOG_LEVEL",
        hide_env = true
    )]
    log_level: LogLevel,

    /// How it is logged: text or json
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        hide_possible_values = true,
        env = "CULVERT_LOG_FORMAT",
        hide_env = true
    )]
    log_format: LogFormat,

    /// Worker threads [default: the cores of the cgroup]
    #[arg(long, value_name = "N", env = "CULVERT_CONCURRENCY", hide_env = true)]
    concurrency: Option<usize>,

    /// Where Kubernetes' variables say that the API server is.
    #[arg(skip)]
    api_server: Option<(String, String)>,

    /// What to do instead of running the proxy
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Subcommands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check mesh documents, for --mesh and, if given, as the pod of --dataplane
    Validate {
        /// Files or folders
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Wait until the sidecar of this pod is ready
    Wait {
        /// What to wait for
        #[arg(long = "for", value_name = "ready", value_parser = ["ready"], hide_possible_values = true)]
        condition: String,
        /// How long; 0 = for ever
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
        timeout: Duration,
    },
}

/// The API server's address, from Kubernetes' variables.
fn api_server_address(host: &str, port: &str) -> Result<SocketAddr, String> {
    match (host.parse::<IpAddr>(), port.parse::<u16>()) {
        (Ok(ip), Ok(port)) => Ok(SocketAddr::new(ip.to_canonical(), port)),
        _ => Err(format!(
            "KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT say {host} and {port}, no address and port"
        )),
    }
}

// === impl Options ===

impl Options {
    /// Read the process's arguments and environment.
    ///
    /// What begins with a hyphen counts as a value where one is due: `--inbound-port -1` is then told as a wrong port
    /// rather than as an unknown option `-1`.
    pub fn read() -> Result<Self, clap::Error> {
        let with_values = |argument: clap::Arg| {
            let takes_values = argument.get_action().takes_values();
            if takes_values { argument.allow_hyphen_values(true) } else { argument }
        };
        let mut options = Self::from_arg_matches(&Self::command().mut_args(with_values).try_get_matches()?)?;
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        options.api_server = variable("KUBERNETES_SERVICE_HOST").zip(variable("KUBERNETES_SERVICE_PORT"));
        Ok(options)
    }

    /// Where the status pages are served.
    pub fn status_address(&self) -> SocketAddr {
        self.status_address
    }

    /// The same with documents elsewhere.
    pub fn with_resources(self, paths: &[PathBuf]) -> Self {
        Self { resources: paths.to_vec(), ..self }
    }

    /// Looks at all options together.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the options.
    pub fn check(self) -> Result<Config, Vec<OptionError>> {
        // Exhaustive, so that a new option cannot be forgotten here.
        let Self {
            resources,
            mesh,
            dataplane,
            inbound_port,
            outbound_port,
            admin_address,
            status_address,
            identity,
            trust_domain,
            app_probes,
            dns_port,
            drain_delay,
            drain_time,
            verify_redirect,
            api_server_bypass,
            connect_timeout,
            idle_timeout,
            tcp_keepalive,
            circuit_breaker_max_connections,
            circuit_breaker_max_pending_requests,
            circuit_breaker_max_requests,
            circuit_breaker_max_retries,
            access_log,
            log_level,
            log_format,
            concurrency,
            api_server,
            command: _,
        } = self;

        let mut errors = Vec::new();
        let mut not_built = |what: String, instead| errors.push(OptionError::NotBuilt { what, instead });
        if dns_port != 0 {
            not_built(
                format!("--dns-port {dns_port}"),
                "the DNS server comes in a later version; leave it at 0",
            );
        }
        let named = trust_domain.is_some();
        let identity = identity.and_then(|folder| {
            let trust_domain: TrustDomain = trust_domain
                .as_ref()
                .unwrap_or(&mesh)
                .parse()
                .map_err(|error| errors.push(OptionError::TrustDomain(error)))
                .ok()?;
            Some(IdentitySource { folder, trust_domain, names_services: !named })
        });
        let app_probes = app_probes
            .parse::<AppProbes>()
            .map_err(|error| errors.push(OptionError::AppProbes(error)))
            .unwrap_or_default();
        if resources.is_empty()
            && let Some(name) = &dataplane
        {
            errors.push(OptionError::NoResources { what: format!("--dataplane {name}") });
        }
        let api_server_bypass = api_server_bypass == "on";
        let api_server = api_server.filter(|_| api_server_bypass).and_then(|(host, port)| {
            api_server_address(&host, &port).map_err(|what| errors.push(OptionError::ApiServer(what))).ok()
        });

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
        if let Some(workers) = concurrency.filter(|workers| !(1..=MAX_WORKERS).contains(workers)) {
            errors.push(OptionError::Concurrency(workers));
        }

        if !errors.is_empty() {
            return Err(errors);
        }
        let some_if_set = |duration: Duration| (!duration.is_zero()).then_some(duration);
        Ok(Config {
            resources,
            mesh,
            dataplane,
            any_pod: false,
            identity,
            app_probes,
            api_server_bypass,
            api_server,
            inbound_port,
            outbound_port,
            admin: admin_address,
            status: status_address,
            drain_delay,
            drain_time,
            verify_redirect,
            connect_timeout: some_if_set(connect_timeout),
            idle_timeout: some_if_set(idle_timeout),
            tcp_keepalive: some_if_set(tcp_keepalive),
            thresholds: Thresholds {
                max_connections: circuit_breaker_max_connections,
                max_pending_requests: circuit_breaker_max_pending_requests,
                max_requests: circuit_breaker_max_requests,
                max_retries: circuit_breaker_max_retries,
            },
            access_log,
            log_level,
            log_format,
            workers: concurrency.unwrap_or_else(crate::options::cgroup::cores),
        })
    }
}

#[cfg(test)]
mod tests;
