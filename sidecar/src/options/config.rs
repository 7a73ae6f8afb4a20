// SPDX-License-Identifier: Apache-2.0
//! The checked options as plain data. They hold no secret, and are logged once at start.

use crate::net::addrs::{Direction, Family};
use crate::options::app_probes::AppProbes;
use crate::options::facts::{ControlSource, PodFacts};
use clap::ValueEnum;
use culvert_mesh::context::Context;
use culvert_mesh::model::spiffe::TrustDomain;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The checked options. Written by [`super::Options::check`], read by every room, never changed.
#[derive(Clone, Debug)]
pub struct Config {
    /// Files and folders with mesh documents.
    pub(crate) resources: Vec<PathBuf>,
    /// Name of the mesh that this pod belongs to.
    pub(crate) mesh: String,
    /// Name of the Dataplane document that describes this pod.
    pub(crate) dataplane: Option<String>,
    /// The pod, where options tell its name and address.
    pub(crate) pod: Option<PodFacts>,
    /// The controller, if there is one.
    pub(crate) control: Option<ControlSource>,
    /// Values of variables in that document, by name.
    pub(crate) variables: BTreeMap<String, String>,
    /// True for `validate` without a Dataplane: documents are checked for any pod of the mesh.
    pub(crate) any_pod: bool,
    /// True for `validate` and `inspect`: nothing runs, so no certificate is needed.
    pub(crate) checks_only: bool,
    /// Source of the workload's identity, if it has one.
    pub(crate) identity: Option<IdentitySource>,
    /// Probes that the status port passes on to the application.
    pub(crate) app_probes: AppProbes,
    /// True if the API server stays reachable where the mesh closes the passthrough.
    pub(crate) api_server_bypass: bool,
    /// Address of the API server, from the variables that Kubernetes sets in each container.
    pub(crate) api_server: Option<SocketAddr>,
    /// Port of the inbound listener; 0 = off.
    pub(crate) inbound_port: u16,
    /// Port of the outbound listener; 0 = off.
    pub(crate) outbound_port: u16,
    /// Port of the DNS server on loopback; 0 = off.
    pub(crate) dns_port: u16,
    /// File that names the servers for all names but the mesh's.
    pub(crate) resolv_conf: PathBuf,
    /// Address of the admin interface, on loopback.
    pub(crate) admin: SocketAddr,
    /// Address of the status port.
    pub(crate) status: SocketAddr,
    /// Time after SIGTERM for which both listeners still accept.
    pub(crate) drain_delay: Duration,
    /// Time for which open connections may continue after that.
    pub(crate) drain_time: Duration,
    /// Proof of redirected connections that `/ready` requires.
    pub(crate) verify_redirect: VerifyRedirect,
    /// Deadline of a connect; none = the kernel's.
    pub(crate) connect_timeout: TimeoutOption,
    /// Time without a byte after which a connection is reset; none = never.
    pub(crate) idle_timeout: TimeoutOption,
    /// TCP keepalive idle time; `None` = off.
    pub(crate) tcp_keepalive: Option<Duration>,
    /// Circuit breaker of each cluster, before documents change it.
    pub(crate) thresholds: Thresholds,
    /// Destination of the closing records.
    pub(crate) access_log: AccessLog,
    /// Destination of the DNS server's log.
    pub(crate) dns_log: AccessLog,
    /// Level of the log on stderr.
    pub log_level: LogLevel,
    /// Format of the log on stderr.
    pub log_format: LogFormat,
    /// Number of worker threads.
    pub(crate) workers: usize,
}

impl Config {
    /// Returns the port of a listener; 0 = off.
    pub(crate) fn listen_port(&self, direction: Direction) -> u16 {
        match direction {
            Direction::Inbound => self.inbound_port,
            Direction::Outbound => self.outbound_port,
        }
    }

    /// Returns the pod as the reader of mesh documents knows it.
    pub fn context(&self) -> Context {
        Context {
            mesh: self.mesh.clone(),
            dataplane: self.dataplane.clone(),
            variables: self.variables.clone(),
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            own_ports: self.sidecar_ports().0,
        }
    }

    /// Returns the ports to which no connection may be forwarded.
    pub(crate) fn sidecar_ports(&self) -> SidecarPorts {
        let pages = [self.admin.port(), self.status.port()];
        SidecarPorts::new([self.inbound_port, self.outbound_port, self.dns_port].into_iter().chain(pages))
    }
}

/// Proof of redirected connections that `/ready` requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyRedirect {
    /// In each IP family of the pod.
    On,
    /// In IPv4 only, for a pod whose IPv6 is not redirected on purpose.
    #[value(name = "ipv4")]
    V4,
    #[value(name = "ipv6")]
    V6,
    /// Not at all.
    Off,
}

impl VerifyRedirect {
    /// Returns the families to prove, as far as the pod has them.
    pub(crate) fn families(self) -> &'static [Family] {
        match self {
            Self::On => &Family::ALL,
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Off => &[],
        }
    }
}

/// A timeout that an option may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeoutOption {
    /// The option is not given: each listener and cluster has a default of its own.
    Absent,
    /// The same for all of them; `None` = no timeout.
    Given(Option<Duration>),
}

impl TimeoutOption {
    /// Returns the option's timeout, or the default where it is not given.
    pub(crate) fn or(self, default: Duration) -> Option<Duration> {
        match self {
            Self::Absent => Some(default),
            Self::Given(timeout) => timeout,
        }
    }
}

/// Destination of the closing records, or of those of DNS queries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    Off,
    Stdout,
    /// A file, to which records are appended.
    File(PathBuf),
}

impl FromStr for AccessLog {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" => Err("name a file, or stdout, or off"),
            "off" => Ok(Self::Off),
            "stdout" => Ok(Self::Stdout),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// Level of the log on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Faults that stop the sidecar, or that users notice.
    #[value(alias = "critical")]
    Error,
    /// Conditions that an operator should act on. Envoy's name for it is accepted, too.
    #[value(alias = "warning")]
    Warn,
    /// Events of the process.
    Info,
    /// Events of each connection.
    Debug,
    /// Steps of each connection.
    Trace,
}

impl From<LogLevel> for tracing::level_filters::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
            LogLevel::Trace => Self::TRACE,
        }
    }
}

/// Format of the log on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines of text for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Ports that the sidecar itself listens on; a listener that is off has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SidecarPorts(Vec<u16>);

impl SidecarPorts {
    /// Collects the ports, without the zeros of listeners that are off.
    pub(crate) fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        Self(ports.into_iter().filter(|&port| port != 0).collect())
    }

    pub(crate) fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

/// The circuit breaker of a cluster, with the names and defaults of Kuma's.
///
/// Retries exist in the clusters of a Dataplane's outbounds. Requests are those of HTTP, which the sidecar does not speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections to the upstream, connects in progress included.
    pub(crate) max_connections: u32,
    pub(crate) max_pending_requests: u32,
    pub(crate) max_requests: u32,
    pub(crate) max_retries: u32,
}

impl Default for Thresholds {
    /// Returns Envoy's defaults, which are Kuma's, too.
    fn default() -> Self {
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3 }
    }
}

/// Source of the workload's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdentitySource {
    /// Folder with `tls.crt`, `tls.key` and `ca.crt`; `None` = the controller signs, and the key is in memory alone.
    pub(crate) folder: Option<PathBuf>,
    /// Trust domain of the mesh's identities.
    pub(crate) trust_domain: TrustDomain,
    /// True if the path of an identity is the service's name. False for identities of another authority than the mesh's.
    pub(crate) names_services: bool,
}
