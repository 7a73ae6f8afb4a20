// SPDX-License-Identifier: Apache-2.0
//! Ports of services.

use crate::kinds::dataplane::Inbound;
use crate::read::part::Part;
use crate::read::{At, Port, Read, fields};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

fields! {
    /// A port of a service.
    pub struct ServicePort {
        /// The port that callers dial.
        port: required Port = "port",
        /// Port or name of the inbounds behind it; 0 as absent. Default: port.
        target_port: optional TargetPort = "targetPort",
        /// Name of the port. Default: its number.
        name: optional String = "name",
        /// Protocol that is spoken there. Messages of `http` are read; everything else is forwarded as TCP.
        app_protocol: optional String = "appProtocol",
    }
}

/// The inbounds behind a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetPort {
    /// Those with this port; 0 = the port of the service.
    Number(u16),
    /// Those with this name.
    Name(Box<str>),
}

impl ServicePort {
    /// Returns the name of the port, as `sectionName` chooses it.
    pub fn name(&self) -> Cow<'_, str> {
        match self.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => name.into(),
            None => self.port.0.to_string().into(),
        }
    }

    /// Returns true if `section`, a name or a number, chooses the port.
    pub fn is_section(&self, section: &str) -> bool {
        self.name.as_deref() == Some(section) || section.parse::<u16>() == Ok(self.port.0)
    }

    /// Returns the inbounds behind the port, with the default.
    pub fn target(&self) -> TargetPort {
        match &self.target_port {
            None | Some(TargetPort::Number(0)) => TargetPort::Number(self.port.0),
            Some(target) => target.clone(),
        }
    }
}

impl TargetPort {
    /// Returns true if the inbound is behind the port.
    pub fn fits(&self, inbound: &Inbound) -> bool {
        match self {
            Self::Number(port) => inbound.port.0 == *port,
            Self::Name(name) => inbound.name.as_deref() == Some(name),
        }
    }
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(port) => port.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Read for TargetPort {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let number = value.as_u64().and_then(|number| u16::try_from(number).ok()).map(Self::Number);
        let name = value.as_str().filter(|name| !name.is_empty()).map(|name| Self::Name(name.into()));
        number.or(name).or_else(|| at.wrong(value, "a port, or the name of an inbound"))
    }

    fn schema() -> Value {
        json!({"anyOf": [
            {"type": "integer", "minimum": 0, "maximum": u16::MAX},
            {"type": "string", "minLength": 1},
        ]})
    }
}

/// Notes a port that a service has twice: a connection to it could go either way.
pub(super) fn check_ports(part: &Part<'_>, at: &mut At<'_>) {
    let mut seen = HashSet::new();
    for port in part.items("ports").unwrap_or_default() {
        if let Ok(Some(Port(number))) = port.get("port")
            && !seen.insert(number)
        {
            port.problem(at, "port", format!("{number} a second time"), "each port once");
        }
    }
}
