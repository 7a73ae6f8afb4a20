// SPDX-License-Identifier: Apache-2.0
//! `--app-probes`: JSON, a probe of a pod's specification under each path that stands for it. Pure.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Timeout of a probe that names none, as the kubelet has it.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Prefix of each path.
pub(crate) const PREFIX: &str = "/app-health/";
/// Most probes of a pod: some twenty containers with three each.
pub(crate) const MOST_PROBES: usize = 64;
/// Longest timeout of a probe. A kubelet that waits longer would notice a dead application only after many minutes.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// Probes that the status port passes on, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppProbes(BTreeMap<String, Probe>);

/// A probe of the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) kind: ProbeKind,
    /// Time in which the application must answer.
    pub(crate) timeout: Duration,
}

/// The request of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ProbeKind {
    /// An HTTP GET, good by its status.
    Http(HttpGet),
    /// A connect, good if the port is open.
    Tcp { port: u16 },
    /// A call of gRPC's health service.
    Grpc {
        port: u16,
        /// Name of the service; empty for the whole server.
        service: String,
    },
}

/// The HTTP GET of a probe.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpGet {
    pub(crate) port: u16,
    pub(crate) path: String,
    /// True for HTTPS. The certificate is not verified; the kubelet does not verify it either.
    pub(crate) tls: bool,
    /// Further header lines; `Host`, `User-Agent` and `Accept` replace the default ones.
    pub(crate) headers: Vec<(String, String)>,
}

/// Leaves out the values of the headers: one may be a password, and options are logged.
impl fmt::Debug for HttpGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, path, tls, headers } = self;
        let names: Vec<_> = headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("HttpGet")
            .field("port", port)
            .field("path", path)
            .field("tls", tls)
            .field("headers", &names)
            .finish()
    }
}

/// All errors of a JSON text that is not a list of probes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ProbesError(Vec<String>);

impl ProbeKind {
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Http(get) => get.port,
            Self::Tcp { port } | Self::Grpc { port, .. } => *port,
        }
    }
}

impl AppProbes {
    /// Returns the probe of a path.
    pub(crate) fn get(&self, path: &str) -> Option<&Probe> {
        self.0.get(path)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A probe as a pod's specification has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    http_get: Option<WrittenHttp>,
    tcp_socket: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    timeout_seconds: Option<u64>,
    // Accepted and not used, so that a probe can be copied whole: they are about the kubelet's own timing.
    #[serde(rename = "initialDelaySeconds")]
    _initial_delay: Option<u64>,
    #[serde(rename = "periodSeconds")]
    _period: Option<u64>,
    #[serde(rename = "successThreshold")]
    _success: Option<u64>,
    #[serde(rename = "failureThreshold")]
    _failure: Option<u64>,
    #[serde(rename = "terminationGracePeriodSeconds")]
    _grace: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenHttp {
    port: u16,
    path: Option<String>,
    scheme: Option<String>,
    host: Option<String>,
    #[serde(default)]
    http_headers: Vec<WrittenHeader>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHeader {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTcp {
    port: u16,
    host: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenGrpc {
    port: u16,
    service: Option<String>,
}

impl FromStr for AppProbes {
    type Err = ProbesError;

    fn from_str(text: &str) -> Result<Self, ProbesError> {
        let written: BTreeMap<String, serde_json::Value> = serde_json::from_str(text)
            .map_err(|error| ProbesError(vec![format!("not a JSON object: {error}")]))?;
        let mut errors = Vec::new();
        if written.len() > MOST_PROBES {
            errors.push(format!("{} probes; at most {MOST_PROBES} are allowed", written.len()));
        }
        let mut probes = BTreeMap::new();
        for (path, value) in written {
            let name = path.strip_prefix(PREFIX).unwrap_or_default();
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
            if name.is_empty() || !name.bytes().all(fits) {
                errors.push(format!(
                    "{path:?} is not a path of a probe, which is {PREFIX} and then letters, digits, - _ . /"
                ));
            }
            match serde_json::from_value::<Written>(value) {
                Ok(written) => match written.check() {
                    Ok(probe) => _ = probes.insert(path, probe),
                    Err(wrong) => errors.extend(wrong.into_iter().map(|wrong| format!("{path}: {wrong}"))),
                },
                Err(error) => errors.push(format!("{path}: {error}")),
            }
        }
        if errors.is_empty() { Ok(Self(probes)) } else { Err(ProbesError(errors)) }
    }
}

impl Written {
    fn check(self) -> Result<Probe, Vec<String>> {
        let mut wrong = Vec::new();
        let timeout = self.timeout_seconds.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
        if timeout.is_zero() || timeout > LONGEST_TIMEOUT {
            wrong.push(format!("timeoutSeconds is 1 to {}", LONGEST_TIMEOUT.as_secs()));
        }
        let kind = match (self.http_get, self.tcp_socket, self.grpc) {
            (Some(http), None, None) => http.check(&mut wrong),
            (None, Some(WrittenTcp { port, host }), None) => {
                needs_no_host(host, &mut wrong);
                Some(ProbeKind::Tcp { port })
            }
            (None, None, Some(WrittenGrpc { port, service })) => {
                let service = service.unwrap_or_default();
                if service.len() > 253 {
                    wrong.push("grpc.service has at most 253 bytes".into());
                }
                Some(ProbeKind::Grpc { port, service })
            }
            _ => {
                wrong.push("exactly one of httpGet, tcpSocket and grpc is needed".into());
                None
            }
        };
        if kind.as_ref().is_some_and(|kind| kind.port() == 0) {
            wrong.push("port is 1 to 65535".into());
        }
        kind.filter(|_| wrong.is_empty()).map(|kind| Probe { kind, timeout }).ok_or(wrong)
    }
}

/// Refuses a host: a probe goes to the pod alone, or the sidecar would be an open door to other hosts.
fn needs_no_host(host: Option<String>, wrong: &mut Vec<String>) {
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        wrong.push(format!("host {host:?} is not allowed: the probe goes to the pod itself"));
    }
}

impl WrittenHttp {
    fn check(self, wrong: &mut Vec<String>) -> Option<ProbeKind> {
        let Self { port, path, scheme, host, http_headers } = self;
        needs_no_host(host, wrong);
        let path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into());
        if !path.starts_with('/') || path.len() > 2048 || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            wrong.push(format!("httpGet.path {path:?} must begin with / and have no space"));
        }
        let tls = match scheme.as_deref() {
            None | Some("" | "HTTP") => false,
            Some("HTTPS") => true,
            Some(other) => {
                wrong.push(format!("httpGet.scheme {other:?} is neither HTTP nor HTTPS"));
                false
            }
        };
        if http_headers.len() > 32 {
            wrong.push("httpGet.httpHeaders are at most 32".into());
        }
        let mut headers = Vec::new();
        for WrittenHeader { name, value } in http_headers {
            let name_fits = hyper::header::HeaderName::from_bytes(name.as_bytes()).is_ok();
            if !name_fits || hyper::header::HeaderValue::from_str(&value).is_err() {
                wrong.push(format!("httpGet.httpHeaders: {name:?} is not a header line"));
            }
            headers.push((name, value));
        }
        Some(ProbeKind::Http(HttpGet { port, path, tls, headers }))
    }
}
