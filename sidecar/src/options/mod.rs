// SPDX-License-Identifier: Apache-2.0
//! The command line and its environment twins: arguments → [`Options`] → [`Config`].
//!
//! Clap reads one argument at a time. [`Options::check`] then looks at all of them together, group by group, and reports
//! every error, not only the first.

pub(crate) mod app_probes;
mod cgroup;
pub(crate) mod config;
mod error;
pub(crate) mod facts;
mod groups;
mod pod;

pub use error::OptionError;

use crate::options::config::{Config, Thresholds, TimeoutOption};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use culvert_mesh::model::duration;
use facts::PodFacts;
use groups::{
    DrainOptions, LimitOptions, LogOptions, MeshOptions, PodOptions, PortOptions, TimeoutOptions, TlsOptions,
};
use pod::{ControlOptions, PodFactsOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Text behind the options in `--help`.
const AFTER_HELP: &str = "\
Each option is also an environment variable: --inbound-port is CULVERT_INBOUND_PORT.
Durations: 500ms, 5s, 1m30s, 1h; 0 = none.

Examples:
  Forward all redirected connections to their original destinations:
    culvert-sidecar
  Run by mesh documents, as the pod of the Dataplane web-1, with TLS between workloads:
    culvert-sidecar --resources /etc/culvert --mesh default --dataplane web-1 --identity /run/culvert/tls
  Check documents before they are used:
    culvert-sidecar validate /etc/culvert --mesh default
  Explain where each timeout, limit and log comes from, and why a member may call, or may not:
    culvert-sidecar inspect /etc/culvert --dataplane web-1 --caller spiffe://default/shop
  Tell what a name of the mesh leads to, asking the sidecar of this pod:
    culvert-sidecar resolve backend.mesh
  Hold the start of an application until the sidecar is ready:
    culvert-sidecar wait --for ready --timeout 60s";

/// Transparent sidecar proxy: takes redirected connections, asks the kernel for their original destination, and
/// forwards them there.
#[derive(Clone, Debug, Parser)]
#[command(name = "culvert-sidecar", version, max_term_width = 110, after_help = AFTER_HELP)]
pub struct Options {
    #[command(flatten)]
    mesh: MeshOptions,
    #[command(flatten)]
    facts: PodFactsOptions,
    #[command(flatten)]
    control: ControlOptions,
    #[command(flatten)]
    ports: PortOptions,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    pod: PodOptions,
    #[command(flatten)]
    drain: DrainOptions,
    #[command(flatten)]
    timeouts: TimeoutOptions,
    #[command(flatten)]
    limits: LimitOptions,
    #[command(flatten)]
    logs: LogOptions,

    /// Task to run instead of the proxy
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Tasks besides running the proxy.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check mesh documents, for --mesh and, if given, as the pod of --dataplane
    Validate {
        /// Files or folders
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Explain which documents decide what for the pod of --dataplane, what lost, and who may call
    Inspect {
        /// Member whose verdict is told, as spiffe://default/web
        #[arg(long, value_name = "ID")]
        caller: Option<String>,
        /// Files or folders
        #[arg(required = true)]
        paths: Vec<PathBuf>,
    },
    /// Tell what a name of the mesh leads to, with the health of its endpoints, or why it does not exist
    Resolve {
        /// Shape of the answer
        #[arg(long, value_name = "text|json", default_value = "text", value_parser = ["text", "json"], hide_possible_values = true)]
        format: String,
        /// Name, or address of names
        name: String,
        /// Files or folders to read instead of asking the sidecar at --admin-address
        paths: Vec<PathBuf>,
    },
    /// Wait until the sidecar of this pod is ready
    Wait {
        /// Condition to wait for
        #[arg(long = "for", value_name = "ready", value_parser = ["ready"], hide_possible_values = true)]
        condition: String,
        /// Longest wait; 0 = no limit
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration::parse)]
        timeout: Duration,
    },
}

// === impl Options ===

impl Options {
    /// Reads the arguments and the environment of the process.
    ///
    /// An option that needs a value takes the next argument, also one that begins with a hyphen: the error for
    /// `--inbound-port -1` then names a wrong port, not an unknown option `-1`.
    ///
    /// # Errors
    /// Clap's, for the first argument that is wrong. A request for help or the version comes in the same way.
    pub fn read() -> Result<Self, clap::Error> {
        let with_values = |argument: clap::Arg| {
            let takes_values = argument.get_action().takes_values();
            if takes_values { argument.allow_hyphen_values(true) } else { argument }
        };
        let mut options = Self::from_arg_matches(&Self::command().mut_args(with_values).try_get_matches()?)?;
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        options.mesh.api_server =
            variable("KUBERNETES_SERVICE_HOST").zip(variable("KUBERNETES_SERVICE_PORT"));
        Ok(options)
    }

    /// Address of the status port.
    pub fn status_address(&self) -> SocketAddr {
        self.ports.status_address
    }

    /// Address of the admin interface.
    pub fn admin_address(&self) -> SocketAddr {
        self.ports.admin_address
    }

    /// Replaces the paths of the mesh documents.
    pub(crate) fn with_resources(mut self, paths: &[PathBuf]) -> Self {
        self.mesh.resources = paths.to_vec();
        self
    }

    /// Checks all options together.
    ///
    /// # Errors
    /// All that are found, in the order of the groups.
    pub fn check(self) -> Result<Config, Vec<OptionError>> {
        // A field of a group that is not used below is dead code, and the compiler says so.
        let Self { mesh, facts, control, ports, tls, pod, drain, timeouts, limits, logs, command: _ } = self;
        let mut errors = Vec::new();
        let controlled = control.is_given();
        let facts = facts.check(&mut errors);
        let control = control.check(facts.as_ref(), &mut errors);
        let api_server = mesh.check((controlled, facts.is_some()), &mut errors);
        ports.check(&mut errors);
        let signs = control.as_ref().is_some_and(|control| control.token.is_some());
        let identity = tls.check((&mesh, controlled, signs), &mut errors);
        let app_probes = pod.check(&mut errors);
        limits.check(&mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let some_if_set = |duration: Duration| (!duration.is_zero()).then_some(duration);
        let option = |given: Option<Duration>| {
            given.map_or(TimeoutOption::Absent, |duration| TimeoutOption::Given(some_if_set(duration)))
        };
        Ok(Config {
            api_server_bypass: mesh.bypasses_api_server(),
            resources: mesh.resources,
            mesh: mesh.mesh,
            dataplane: mesh.dataplane.or_else(|| facts.as_ref().map(PodFacts::dataplane)),
            pod: facts,
            control,
            variables: mesh.dataplane_var.into_iter().collect(),
            any_pod: false,
            checks_only: false,
            identity,
            app_probes,
            api_server,
            inbound_port: ports.inbound_port,
            outbound_port: ports.outbound_port,
            dns_port: ports.dns_port,
            resolv_conf: ports.resolv_conf,
            admin: ports.admin_address,
            status: ports.status_address,
            drain_delay: drain.drain_delay,
            drain_time: drain.drain_time,
            verify_redirect: pod.verify_redirect,
            connect_timeout: option(timeouts.connect_timeout),
            idle_timeout: option(timeouts.idle_timeout),
            tcp_keepalive: some_if_set(timeouts.tcp_keepalive),
            thresholds: Thresholds {
                max_connections: limits.circuit_breaker_max_connections,
                max_pending_requests: limits.circuit_breaker_max_pending_requests,
                max_requests: limits.circuit_breaker_max_requests,
                max_retries: limits.circuit_breaker_max_retries,
            },
            access_log: logs.access_log,
            dns_log: logs.dns_log,
            log_level: logs.log_level,
            log_format: logs.log_format,
            workers: limits.concurrency.unwrap_or_else(cgroup::cores),
        })
    }
}

#[cfg(test)]
mod tests;
