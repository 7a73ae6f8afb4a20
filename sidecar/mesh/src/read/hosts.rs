// SPDX-License-Identifier: Apache-2.0
//! Readers of hosts, by address or by name.

use crate::model::address::{Host, HostPort};
use crate::read::{At, Read};
use serde_json::{Value, json};

impl Read for Host {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let host = value.as_str().and_then(Self::parse);
        host.or_else(|| at.wrong(value, "an IPv4 or IPv6 address, or the name of a host"))
    }

    fn schema() -> Value {
        json!({"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}, {"format": "hostname"}]})
    }
}

impl Read for HostPort {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let found = value.as_str().and_then(Self::parse);
        found.or_else(|| {
            at.wrong(value, "a host and a port, as 127.0.0.1:5000, [::1]:5000 or logstash.logging:5000")
        })
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}
