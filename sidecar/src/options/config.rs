// SPDX-License-Identifier: Apache-2.0
//! What the sidecar was told, checked: plain data. It holds no secret, and is logged once at start.

use crate::net::addrs::{Direction, Family};
use crate::options::app_probes::AppProbes;
use clap::ValueEnum;
use culvert_mesh::context::Context;
use culvert_mesh::model::spiffe::TrustDomain;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The checked options.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where mesh documents lie.
    pub resources: Vec<PathBuf>,
    /// The mesh that this pod belongs to.
    pub mesh: String,
    /// The Dataplane document that is about this pod.
    pub dataplane: Option<String>,
    /// Documents are checked for any pod of the mesh, and nothing runs by them.
    pub any_pod: bool,
    /// Who this workload is, where it has an identity.
    pub identity: Option<IdentitySource>,
    /// The probes that the status port passes on to the application.
    pub app_probes: AppProbes,
    /// Whether the API server stays reachable where the mesh closes the passthrough.
    pub api_server_bypass: bool,
    /// The API server, as Kubernetes tells each pod.
    pub api_server: Option<SocketAddr>,
    /// Port of the inbound listener; 0 = off.
    pub inbound_port: u16,
    /// Port of the outbound listener; 0 = off.
    pub outbound_port: u16,
    /// Admin interface, on loopback.
    pub admin: SocketAddr,
    /// Status port.
    pub status: SocketAddr,
    /// How long both listeners serve on after SIGTERM.
    pub drain_delay: Duration,
    /// How long open connections may go on after that.
    pub drain_time: Duration,
    /// What `/ready` wants proved.
    pub verify_redirect: VerifyRedirect,
    /// Deadline of a connect; `None` leaves it to the kernel.
    pub connect_timeout: Option<Duration>,
    /// How long a connection may move no byte.
    pub idle_timeout: Option<Duration>,
    /// After how long a silence the kernel asks whether a peer is still there.
    pub tcp_keepalive: Option<Duration>,
    /// The circuit breaker of each cluster.
    pub thresholds: Thresholds,
    /// Where closing records go.
    pub access_log: AccessLog,
    /// How much is logged.
    pub log_level: LogLevel,
    /// How it is logged.
    pub log_format: LogFormat,
    /// Worker threads.
    pub workers: usize,
}

impl Config {
    /// The port of a listener; 0 = off.
    pub fn listen_port(&self, direction: Direction) -> u16 {
        match direction {
            Direction::Inbound => self.inbound_port,
            Direction::Outbound => self.outbound_port,
        }
    }

    /// The pod, as the reader of mesh documents knows it.
    pub fn context(&self) -> Context {
        Context {
            mesh: self.mesh.clone(),
            dataplane: self.dataplane.clone(),
            inbound_port: self.inbound_port,
            outbound_port: self.outbound_port,
            own_ports: self.sidecar_ports().0,
        }
    }

    /// The ports that no connection may be forwarded to.
    pub fn sidecar_ports(&self) -> SidecarPorts {
        SidecarPorts::new([self.inbound_port, self.outbound_port, self.admin.port(), self.status.port()])
    }
}

/// What `/ready` wants proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyRedirect {
    /// Each family that the pod has.
    On,
    /// IPv4 only, for a pod whose IPv6 is left direct on purpose.
    #[value(name = "ipv4")]
    V4,
    /// IPv6 only.
    #[value(name = "ipv6")]
    V6,
    /// Nothing.
    Off,
}

impl VerifyRedirect {
    /// The families to prove, where the pod has them.
    pub fn families(self) -> &'static [Family] {
        match self {
            Self::On => &Family::ALL,
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Off => &[],
        }
    }
}

/// Where closing records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// A file, appended to.
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

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What stops the sidecar or breaks a promise.
    #[value(alias = "critical")]
    Error,
    /// What an operator should act on. Envoy's word is taken, too.
    #[value(alias = "warning")]
    Warn,
    /// The life of the process.
    Info,
    /// The life of each connection.
    Debug,
    /// Everything.
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

/// How it is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The ports that the sidecar itself listens on; a listener that is off has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SidecarPorts(Vec<u16>);

impl SidecarPorts {
    /// Collects the ports; 0 stands for "off".
    pub fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        Self(ports.into_iter().filter(|&port| port != 0).collect())
    }

    /// Whether it is one of them.
    pub fn contains(&self, port: u16) -> bool {
        self.0.contains(&port)
    }
}

/// The circuit breaker of a cluster, with the names and defaults of Kuma's.
///
/// Retries are made by the clusters of a Dataplane's outbounds, and counted there. Requests are HTTP's; nothing here makes any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Connections to the upstream, those being made included.
    pub max_connections: u32,
    /// Connections being made.
    pub max_pending_requests: u32,
    /// Requests under way.
    pub max_requests: u32,
    /// Retries under way.
    pub max_retries: u32,
}

impl Default for Thresholds {
    /// The seeds' defaults, which are Envoy's.
    fn default() -> Self {
        Self { max_connections: 1024, max_pending_requests: 1024, max_requests: 1024, max_retries: 3 }
    }
}

/// Where the identity is, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitySource {
    /// The folder with [`FILES`].
    pub folder: PathBuf,
    /// Whose identities are this mesh's.
    pub trust_domain: TrustDomain,
    /// Whether the path is the service: not where another authority than the mesh's own gives the identities.
    pub names_services: bool,
}
