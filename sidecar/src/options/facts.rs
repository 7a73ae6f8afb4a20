// SPDX-License-Identifier: Apache-2.0
//! The pod and its controller as plain data, read from the values of options.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// Most ports of `--pod-ports`. A pod with more is a typing error.
const MOST_PORTS: usize = 512;

/// Protocols that a port may have, as in a Dataplane.
pub(crate) const PROTOCOLS: [&str; 7] = ["tcp", "tls", "http", "http2", "grpc", "kafka", "mysql"];

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
pub(super) struct PodPorts(pub(super) Vec<PodPort>);

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
