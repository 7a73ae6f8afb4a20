// SPDX-License-Identifier: Apache-2.0
//! `--app-probes`: JSON, a probe of a pod's specification under each path that stands for it. Pure.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Timeout of a probe that names none, as the kubelet has it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// What each path begins with.
pub const PREFIX: &str = "/app-health/";
/// A pod of twenty containers with three probes each.
pub const MOST_PROBES: usize = 64;
/// A longer wait would be the kubelet's own business for an hour.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(300);

/// The probes that are passed on, by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppProbes(BTreeMap<String, Probe>);

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What is asked.
    pub what: What,
    /// How long the application may take.
    pub timeout: Duration,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// An HTTP GET.
    Http(HttpGet),
    /// Whether it takes a connection.
    Tcp {
        /// Where.
        port: u16,
    },
    /// gRPC's health service.
    Grpc {
        /// Where.
        port: u16,
        /// Of which service; empty for the whole.
        service: String,
    },
}

/// An HTTP GET.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpGet {
    /// Where.
    pub port: u16,
    /// With its query.
    pub path: String,
    /// By TLS, whose certificate nobody verifies (as the kubelet does not).
    pub tls: bool,
    /// Further header lines; a `Host` among them replaces the usual one.
    pub headers: Vec<(String, String)>,
}

/// Without what its headers say: a probe may carry a password, and options are logged.
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

/// JSON that is no list of probes: everything that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct ProbesError(Vec<String>);

impl What {
    /// The application's port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Http(get) => get.port,
            Self::Tcp { port } | Self::Grpc { port, .. } => *port,
        }
    }
}

impl AppProbes {
    /// The probe that a path stands for.
    pub fn get(&self, path: &str) -> Option<&Probe> {
        self.0.get(path)
    }

    /// All of them with their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Probe)> {
        self.0.iter().map(|(path, probe)| (path.as_str(), probe))
    }
}

/// As in a pod's specification.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    http_get: Option<WrittenHttp>,
    tcp_socket: Option<WrittenTcp>,
    grpc: Option<WrittenGrpc>,
    timeout_seconds: Option<u64>,
    // The kubelet's own, and written along: when and how often it asks.
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
            .map_err(|error| ProbesError(vec![format!("no JSON object: {error}")]))?;
        let mut errors = Vec::new();
        if written.len() > MOST_PROBES {
            errors.push(format!("{} probes; at most {MOST_PROBES} are allowed", written.len()));
        }
        let mut probes = BTreeMap::new();
        for (path, value) in written {
            let name = path.strip_prefix(PREFIX).unwrap_or_default();
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
            if name.is_empty() || !name.bytes().all(fits) {
                errors.push(format!("{path:?} is no path of a probe: {PREFIX} and letters, digits, - _ . /"));
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
        let what = match (self.http_get, self.tcp_socket, self.grpc) {
            (Some(http), None, None) => http.check(&mut wrong),
            (None, Some(WrittenTcp { port, host }), None) => {
                needs_no_host(host, &mut wrong);
                Some(What::Tcp { port })
            }
            (None, None, Some(WrittenGrpc { port, service })) => {
                let service = service.unwrap_or_default();
                if service.len() > 253 {
                    wrong.push("grpc.service has at most 253 bytes".into());
                }
                Some(What::Grpc { port, service })
            }
            _ => {
                wrong.push("one of httpGet, tcpSocket and grpc is needed, and not a second".into());
                None
            }
        };
        if what.as_ref().is_some_and(|what| what.port() == 0) {
            wrong.push("port is 1 to 65535".into());
        }
        what.filter(|_| wrong.is_empty()).map(|what| Probe { what, timeout }).ok_or(wrong)
    }
}

/// Only the pod is asked: another host would make the sidecar a way to it.
fn needs_no_host(host: Option<String>, wrong: &mut Vec<String>) {
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        wrong.push(format!("host {host:?} is not allowed: the pod itself is asked"));
    }
}

impl WrittenHttp {
    fn check(self, wrong: &mut Vec<String>) -> Option<What> {
        let Self { port, path, scheme, host, http_headers } = self;
        needs_no_host(host, wrong);
        let path = path.filter(|path| !path.is_empty()).unwrap_or_else(|| "/".into());
        if !path.starts_with('/') || path.len() > 2048 || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            wrong.push(format!("httpGet.path {path:?} begins with / and holds no space"));
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
                wrong.push(format!("httpGet.httpHeaders: {name:?} is no header line"));
            }
            headers.push((name, value));
        }
        Some(What::Http(HttpGet { port, path, tls, headers }))
    }
}
