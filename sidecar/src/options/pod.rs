// SPDX-License-Identifier: Apache-2.0
//! Options by which the sidecar knows its pod without a document, and the controller that tells it more.

use crate::options::OptionError;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// Most ports of `--pod-ports`. A pod with more is a typing error.
const MOST_PORTS: usize = 512;

/// Protocols that a port may have, as in a Dataplane.
pub(crate) const PROTOCOLS: [&str; 7] = ["tcp", "tls", "http", "http2", "grpc", "kafka", "mysql"];

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

/// The pod, as far as the sidecar knows it without a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodFacts {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    /// At least one.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) account: Option<String>,
    pub(crate) node: Option<String>,
    /// File with its labels.
    pub(crate) labels: Option<PathBuf>,
    /// `None` = they are not known.
    pub(crate) ports: Option<Vec<PodPort>>,
}

impl PodFacts {
    /// Returns the name by which the pod's Dataplane is looked for, as Kuma names Dataplanes on Kubernetes.
    pub(crate) fn dataplane(&self) -> String {
        match &self.namespace {
            Some(namespace) => format!("{}.{namespace}", self.name),
            None => self.name.clone(),
        }
    }
}

/// A port of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodPort {
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    /// One of [`PROTOCOLS`].
    pub(crate) protocol: Option<String>,
}

/// The value of `--pod-ports`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PodPorts(Vec<PodPort>);

impl FromStr for PodPorts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ports: Vec<PodPort> = Vec::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let port = item.parse::<PodPort>()?;
            // Two containers may name one port for TCP and UDP.
            if !ports.iter().any(|one| one.port == port.port) {
                ports.push(port);
            }
        }
        if ports.len() > MOST_PORTS {
            return Err(format!("found {} ports; allowed: at most {MOST_PORTS}", ports.len()));
        }
        Ok(Self(ports))
    }
}

impl FromStr for PodPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{text:?}: {what}; write [NAME:]PORT[/PROTOCOL]");
        let (name, rest) = match text.split_once(':') {
            Some((name, rest)) => (Some(name), rest),
            None => (None, text),
        };
        let (port, protocol) = match rest.split_once('/') {
            Some((port, protocol)) => (port, Some(protocol)),
            None => (rest, None),
        };
        let fits =
            |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if name.is_some_and(|name| !fits(name)) {
            return Err(wrong("the name has other letters than a port's name in Kubernetes"));
        }
        let port = port.parse::<u16>().ok().filter(|port| *port != 0);
        let port = port.ok_or_else(|| wrong("the port is no number from 1 to 65535"))?;
        if protocol.is_some_and(|protocol| !PROTOCOLS.contains(&protocol)) {
            return Err(wrong(&format!("the protocol is none of {}", PROTOCOLS.join(", "))));
        }
        Ok(Self { name: name.map(Into::into), port, protocol: protocol.map(Into::into) })
    }
}

/// The controller, and the files that the sidecar and it know each other by. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlSource {
    pub(crate) url: ControlUrl,
    /// File with the authorities.
    pub(crate) authorities: PathBuf,
    /// File with the token.
    pub(crate) token: Option<PathBuf>,
}

/// Address of a controller. Its name is the one that the controller's certificate has to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ControlUrl {
    /// DNS name, or IP address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl ControlUrl {
    const DEFAULT_PORT: u16 = 443;

    /// Returns name and port as a URL has them.
    pub(crate) fn authority(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]:{}", self.port),
            Err(_) => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for ControlUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const ALLOWED: &str =
            "write https://NAME:PORT, without a path; the controller is spoken to by TLS only";
        let uri = text.parse::<hyper::Uri>().map_err(|_| ALLOWED)?;
        let authority = uri.authority().ok_or(ALLOWED)?;
        let plain =
            !authority.as_str().contains('@') && uri.query().is_none() && matches!(uri.path(), "" | "/");
        if uri.scheme_str() != Some("https") || !plain || authority.host().is_empty() {
            return Err(ALLOWED);
        }
        // By hand: Uri takes a number that no port has for an absent one.
        let rest = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
        let port = rest.strip_prefix(':').map(str::parse::<u16>).transpose().map_err(|_| ALLOWED)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = port.unwrap_or(Self::DEFAULT_PORT);
        if port == 0 { Err(ALLOWED) } else { Ok(Self { host, port }) }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_with_their_names_and_protocols_each_once() {
        let read = |text: &str| {
            let ports = text.parse::<PodPorts>().map_err(|error| error.to_string())?;
            let one = |port: PodPort| {
                format!(
                    "{}:{}/{}",
                    port.name.unwrap_or_default(),
                    port.port,
                    port.protocol.unwrap_or_default()
                )
            };
            Ok::<_, String>(ports.0.into_iter().map(one).collect::<Vec<_>>().join(" "))
        };
        for (text, expected) in [
            ("8080", ":8080/"),
            ("http:8080/http,9090", "http:8080/http :9090/"),
            ("dns:53/tcp, dns-udp:53", "dns:53/tcp"),
            ("", ""),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, words) in [
            ("0", "1 to 65535"),
            ("http", "1 to 65535"),
            (":80", "the name"),
            ("a b:80", "the name"),
            ("80/udp", "the protocol is none of tcp, tls"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(words) && error.contains(&format!("{text:?}")), "{error}");
        }
        let many = (1..=513).map(|port: u16| port.to_string()).collect::<Vec<_>>().join(",");
        assert!(read(&many).unwrap_err().contains("at most 512"));
    }

    #[test]
    fn a_controller_is_a_name_and_a_port_by_tls() {
        let read = |text: &str| text.parse::<ControlUrl>().map(|url| url.authority());
        for (text, expected) in [
            ("https://culvert-controller.culvert.svc:9443", "culvert-controller.culvert.svc:9443"),
            ("https://controller/", "controller:443"),
            ("https://10.0.0.1:1", "10.0.0.1:1"),
            ("https://[fd00::1]:1", "[fd00::1]:1"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "http://a:1",
            "a:1",
            "https://",
            "https://a:0",
            "https://a:1/path",
            "https://a:1?q",
            "https://me@a:1",
            "https://a:99999",
            "",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
