// SPDX-License-Identifier: Apache-2.0
//! `MeshExternalService`: endpoints outside of the mesh that are one service, and the TLS that is spoken there.

use super::DataSource;
use super::data_source::check_sources;
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::mesh_tls::{Version, VersionRange};
use crate::model::address::Host;
use crate::model::host_name::host_name;
use crate::read::part::Part;
use crate::read::{At, Mapping, Port, Read, fields, words};
use serde_json::{Value, json};
use std::fmt;
use std::path::{Path, PathBuf};

/// Begin of the address of a Unix socket.
const UNIX: &str = "unix://";
/// Longest path of a Unix socket: `sun_path` has 108 bytes, of which the last is 0 (unix(7)).
const LONGEST_PATH: usize = 107;
/// Highest priority number of an endpoint, as in Envoy.
const MOST_PRIORITY: u32 = 128;

fields! {
    /// Endpoints outside of the mesh that are one service.
    pub struct MeshExternalService {
        /// The port that callers dial.
        listener: required ExternalMatch = "match",
        /// Endpoints that a program beside the control plane knows; not built.
        extension: optional ServiceExtension = "extension",
        /// Endpoints of the service, at least one.
        endpoints: default Vec<ExternalEndpoint> = "endpoints",
        /// TLS with the endpoints. Absent: the application's bytes as they are.
        tls: optional ExternalTls = "tls",
    }
}

fields! {
    /// The port that callers dial.
    pub struct ExternalMatch {
        /// Only HostnameGenerator: callers know the service by the names of HostnameGenerators.
        kind: optional ExternalMatchKind = "type",
        /// The port.
        port: required Port = "port",
        /// Protocol that is spoken there. Everything is forwarded as TCP. Default: tcp.
        protocol: optional ExternalProtocol = "protocol",
    }
}

words! {
    /// Ways by which callers know a service outside of the mesh.
    pub enum ExternalMatchKind {
        /// By the names that HostnameGenerators make.
        HostnameGenerator = "HostnameGenerator",
    }
}

words! {
    /// Protocols of a service outside of the mesh.
    pub enum ExternalProtocol {
        /// Bytes.
        Tcp = "tcp",
        /// gRPC.
        Grpc = "grpc",
        /// HTTP/1.
        Http = "http",
        /// HTTP/2.
        Http2 = "http2",
    }
}

fields! {
    /// A program beside the control plane that does something with the document.
    pub struct ServiceExtension {
        /// Name of the program.
        kind: required String = "type",
        /// Settings of the program.
        config: optional Mapping = "config",
    }
}

fields! {
    /// An endpoint outside of the mesh.
    pub struct ExternalEndpoint {
        /// An IP address, the name of a host, which is looked up, or a Unix socket, as unix:///run/app.sock.
        address: required EndpointAddress = "address",
        /// The port; a Unix socket has none.
        port: optional Port = "port",
        /// Endpoints with the lowest number are called while one of them is healthy; 0 to 128. Default: 0.
        priority: optional u32 = "priority",
    }
}

/// Address of an endpoint outside of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// A host, which has a port.
    Host(Host),
    /// An absolute path of a Unix socket.
    Unix(PathBuf),
}

fields! {
    /// TLS with endpoints outside of the mesh.
    pub struct ExternalTls {
        /// True if the sidecar speaks TLS with the endpoints. Default: false.
        enabled: default bool = "enabled",
        /// Versions of TLS. Default: TLS12 to TLS13.
        version: optional VersionRange = "version",
        /// Handshakes that a server asks for within TLS 1.2. They are refused, true or not.
        allow_renegotiation: optional Renegotiation = "allowRenegotiation",
        /// Certificates of both sides. Default: the server's name, by the system's authorities.
        verification: optional ExternalVerification = "verification",
    }
}

/// Handshakes that a server asks for within a connection of TLS 1.2; true makes a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renegotiation;

fields! {
    /// Certificates of both sides.
    pub struct ExternalVerification {
        /// Checks of the server's certificate. Default: Secured.
        mode: optional VerificationMode = "mode",
        /// Name in the ClientHello and of the server. Default: the name of the endpoint.
        server_name: optional ServerName = "serverName",
        /// Names of the server: its certificate has one of them. Default: serverName.
        subject_alt_names: default Vec<SanMatch> = "subjectAltNames",
        /// Authorities of the server's certificate. Default: those of the system.
        ca_cert: optional DataSource = "caCert",
        /// Certificate of the sidecar, with the certificates of its authorities behind it.
        client_cert: optional DataSource = "clientCert",
        /// Private key of that certificate.
        client_key: optional DataSource = "clientKey",
    }
}

words! {
    /// Checks of a server's certificate, as Kuma makes them.
    pub enum VerificationMode {
        /// Both the authority and the name.
        Secured = "Secured",
        /// The authority, and not the name; serverName is not used.
        SkipSan = "SkipSAN",
        /// Neither the authority nor the name.
        SkipCa = "SkipCA",
        /// Neither; serverName, clientCert and clientKey are not used.
        SkipAll = "SkipAll",
    }
}

fields! {
    /// A name that a server's certificate has.
    pub struct SanMatch {
        /// Exact or Prefix. Default: Exact.
        kind: optional SanMatchKind = "type",
        /// The name or its begin: of a host, a URI as spiffe://example.com/web, or an IP address.
        value: required String = "value",
    }
}

words! {
    /// Comparisons of a name.
    pub enum SanMatchKind {
        /// The whole name.
        Exact = "Exact",
        /// The begin of the name.
        Prefix = "Prefix",
    }
}

/// The name of a server, in lower case and without a dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerName(pub Box<str>);

// === impl EndpointAddress ===

impl EndpointAddress {
    /// Reads an IP address, the name of a host, or `unix:///path`.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(path) = text.strip_prefix(UNIX) else { return Host::parse(text).map(Self::Host) };
        let fits = path.starts_with('/') && path.len() <= LONGEST_PATH && !path.contains('\0');
        let names_a_file = Path::new(path).file_name().is_some() && !path.ends_with('/');
        (fits && names_a_file).then(|| Self::Unix(path.into()))
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host) => host.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Read for EndpointAddress {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        const ALLOWED: &str =
            "an IPv4 or IPv6 address, the name of a host, or unix:// and a path of at most 107 bytes";
        let address = value.as_str().and_then(Self::parse);
        address.or_else(|| at.wrong(value, ALLOWED))
    }

    fn schema() -> Value {
        json!({"type": "string", "minLength": 1})
    }
}

impl Read for ServerName {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let name = value.as_str().and_then(host_name).map(|name| Self(name.into()));
        name.or_else(|| at.wrong(value, "the name of a host"))
    }

    fn schema() -> Value {
        json!({"type": "string", "format": "hostname"})
    }
}

impl Read for Renegotiation {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        if bool::read(value, at)? {
            at.note_no_effect("handshakes within a connection of TLS 1.2, which the sidecar refuses");
        }
        Some(Self)
    }

    fn schema() -> Value {
        bool::schema()
    }
}

// === impl ExternalVerification ===

impl ExternalVerification {
    /// Returns the checks of the server's certificate, with the default.
    pub fn mode(&self) -> VerificationMode {
        self.mode.unwrap_or(VerificationMode::Secured)
    }
}

impl SanMatch {
    /// Returns the comparison, with the default.
    pub fn kind(&self) -> SanMatchKind {
        self.kind.unwrap_or(SanMatchKind::Exact)
    }
}

// === impl MeshExternalService ===

impl Resource for MeshExternalService {
    const NAME: &'static str = "MeshExternalService";
    const HAS_SPEC: bool = true;
    const HAS_STATUS: bool = true;

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        match part.has("extension") {
            Ok(true) => part.problem(at, "extension", "endpoints that a program knows", "endpoints"),
            Ok(false) => check_endpoints(part, at),
            Err(_) => {}
        }
        let tls = part.field("tls");
        let range = tls.field("version");
        if range.get("min") == Ok(Some(Version::V13)) && range.get("max") == Ok(Some(Version::V12)) {
            tls.problem(at, "version", "min TLS13 and max TLS12", "a min that is not above max");
        }
        let verification = tls.field("verification");
        check_sources(&verification, at);
        for name in verification.items("subjectAltNames").unwrap_or_default() {
            if name.get("value") == Ok(Some(String::new())) {
                name.problem(at, "value", "\"\"", "a name, or its begin");
            }
        }
    }
}

fn check_endpoints(part: &Part<'_>, at: &mut At<'_>) {
    let Ok(endpoints) = part.items("endpoints") else { return };
    if endpoints.is_empty() {
        part.problem(at, "endpoints", "no endpoint", "at least one");
    }
    for endpoint in endpoints {
        match (endpoint.get("address"), endpoint.has("port")) {
            (Ok(Some(EndpointAddress::Unix(_))), Ok(true)) => {
                endpoint.problem(at, "port", "a port of a Unix socket", "no port, or a host");
            }
            (Ok(Some(EndpointAddress::Host(_))), Ok(false)) => {
                endpoint.problem(at, "port", "nothing", "the port of the host");
            }
            _ => {}
        }
        if let Ok(Some(priority)) = endpoint.get::<u32>("priority")
            && priority > MOST_PRIORITY
        {
            endpoint.problem(at, "priority", priority.to_string(), format!("0 to {MOST_PRIORITY}"));
        }
    }
}
