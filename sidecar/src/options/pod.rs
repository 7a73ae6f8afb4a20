// SPDX-License-Identifier: Apache-2.0
//! Options by which the sidecar knows its pod without a document, and the controller that tells it more.

use crate::options::OptionError;
use crate::options::facts::{ControlSource, ControlUrl, PodFacts, PodPorts};
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "This pod")]
pub(super) struct PodFactsOptions {
    /// Name of the pod; with --pod-ip it stands for the Dataplane document until that comes
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), global = true, env = "CULVERT_POD_NAME", hide_env = true)]
    pod_name: Option<String>,

    /// Namespace of the pod
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), global = true, env = "CULVERT_POD_NAMESPACE", hide_env = true)]
    pod_namespace: Option<String>,

    /// Addresses of the pod, separated by commas, as in status.podIPs
    #[arg(
        long,
        value_name = "IP",
        value_delimiter = ',',
        global = true,
        env = "CULVERT_POD_IP",
        hide_env = true
    )]
    pod_ip: Vec<IpAddr>,

    /// Service account of the pod
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), global = true, env = "CULVERT_SERVICE_ACCOUNT", hide_env = true)]
    service_account: Option<String>,

    /// Node of the pod, for the log
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new(), global = true, env = "CULVERT_NODE_NAME", hide_env = true)]
    node_name: Option<String>,

    /// File with the pod's labels, as the downward API writes them; read again when it changes
    #[arg(long, value_name = "PATH", global = true, env = "CULVERT_POD_LABELS", hide_env = true)]
    pod_labels: Option<PathBuf>,

    /// Ports of the pod, [NAME:]PORT[/PROTOCOL] separated by commas, as http:8080/http,9090 [default: not known]
    // An empty value says that there are none, which is another statement than none being known.
    #[arg(long, value_name = "PORTS", global = true, env = "CULVERT_POD_PORTS", hide_env = true)]
    pod_ports: Option<PodPorts>,
}

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Controller")]
pub(super) struct ControlOptions {
    /// Controller that tells this pod's documents, as https://NAME:PORT; beside --resources
    #[arg(long, value_name = "URL", env = "CULVERT_CONTROL", hide_env = true)]
    control: Option<ControlUrl>,

    /// Authorities that the controller's certificate is checked against, PEM; read again when the file changes
    #[arg(long, value_name = "PATH", env = "CULVERT_CONTROL_CA", hide_env = true)]
    control_ca: Option<PathBuf>,

    /// Token that is shown to the controller once it is verified; read again for each use
    #[arg(long, value_name = "PATH", env = "CULVERT_CONTROL_TOKEN", hide_env = true)]
    control_token: Option<PathBuf>,
}

// === impl PodFactsOptions ===

impl PodFactsOptions {
    /// Returns the pod, where both name and address are given.
    pub(super) fn check(self, errors: &mut Vec<OptionError>) -> Option<PodFacts> {
        let Self { pod_name, pod_namespace, pod_ip, service_account, node_name, pod_labels, pod_ports } =
            self;
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in pod_ip.into_iter().map(|ip| ip.to_canonical()) {
            if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
                errors.push(OptionError::PodIp(ip));
            } else if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        if addresses.is_empty() {
            return None;
        }
        Some(PodFacts {
            name: pod_name?,
            namespace: pod_namespace,
            addresses,
            account: service_account,
            node: node_name,
            labels: pod_labels,
            ports: pod_ports.map(|PodPorts(ports)| ports),
        })
    }
}

// === impl ControlOptions ===

impl ControlOptions {
    /// Returns true if a controller is given.
    pub(super) fn is_given(&self) -> bool {
        self.control.is_some()
    }

    /// Returns the controller.
    pub(super) fn check(
        self,
        pod: Option<&PodFacts>,
        errors: &mut Vec<OptionError>,
    ) -> Option<ControlSource> {
        let Self { control, control_ca, control_token } = self;
        let url = control?;
        if pod.is_none() {
            errors
                .push(OptionError::ControlWithout("--pod-name and --pod-ip, by which the pod knows itself"));
        }
        let Some(authorities) = control_ca else {
            errors.push(OptionError::ControlWithout("--control-ca, by which the controller is verified"));
            return None;
        };
        Some(ControlSource { url, authorities, token: control_token })
    }
}
