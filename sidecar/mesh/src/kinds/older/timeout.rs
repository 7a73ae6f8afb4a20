// SPDX-License-Identifier: Apache-2.0
//! `Timeout`, the ancestor of MeshTimeout.

use super::{OlderPolicy, check_selectors};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_timeout::{HttpTimeouts, TimeoutConf};
use crate::kinds::destination::check_says_something;
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, Span, fields};
use crate::target::Target;

fields! {
    /// Timeouts of the connections of some pods to some services.
    pub struct Timeout {
        /// The pods by their tags.
        sources: required Vec<Selector> = "sources",
        /// The services.
        destinations: required Vec<Selector> = "destinations",
        /// The timeouts.
        conf: required OlderTimeouts = "conf",
    }
}

fields! {
    /// Timeouts by protocol.
    pub struct OlderTimeouts {
        /// Time for a connect, above 0.
        connect_timeout: optional Span = "connectTimeout",
        /// Timeouts of TCP.
        tcp: optional OlderTcpTimeouts = "tcp",
        /// Timeouts of requests, on a port of HTTP.
        http: optional OlderHttpTimeouts = "http",
        /// Timeouts of gRPC, without effect as well.
        grpc: optional OlderGrpcTimeouts = "grpc",
    }
}

fields! {
    /// Timeouts of TCP.
    pub struct OlderTcpTimeouts {
        /// Time after which a connection that moves no byte is reset.
        idle_timeout: required Span = "idleTimeout",
    }
}

fields! {
    /// Timeouts of HTTP.
    pub struct OlderHttpTimeouts {
        /// Time for a whole request and answer.
        request_timeout: optional Span = "requestTimeout",
        /// Time after which a connection without requests ends.
        idle_timeout: optional Span = "idleTimeout",
        /// Time after which a stream that moves no byte ends.
        stream_idle_timeout: optional Span = "streamIdleTimeout",
        /// Longest life of a stream.
        max_stream_duration: optional Span = "maxStreamDuration",
    }
}

fields! {
    /// Timeouts of gRPC.
    pub struct OlderGrpcTimeouts {
        /// Time after which a stream that moves no byte ends.
        stream_idle_timeout: optional Span = "streamIdleTimeout",
        /// Longest life of a stream.
        max_stream_duration: optional Span = "maxStreamDuration",
    }
}

impl OlderHttpTimeouts {
    /// Returns the times as the newer kind has them.
    fn newer(&self) -> HttpTimeouts {
        HttpTimeouts {
            request_timeout: self.request_timeout,
            stream_idle_timeout: self.stream_idle_timeout,
            max_stream_duration: self.max_stream_duration,
            max_connection_duration: None,
            request_headers_timeout: None,
        }
    }
}

impl OlderPolicy for Timeout {
    type Conf = TimeoutConf;

    fn selectors(&self) -> [&[Selector]; 2] {
        [&self.sources, &self.destinations]
    }

    fn conf(&self) -> TimeoutConf {
        TimeoutConf {
            connection_timeout: self.conf.connect_timeout,
            idle_timeout: self.conf.tcp.as_ref().map(|tcp| tcp.idle_timeout),
            http: self.conf.http.as_ref().map(OlderHttpTimeouts::newer),
        }
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let all = [
            ("http.idleTimeout", self.conf.http.as_ref().is_some_and(|http| http.idle_timeout.is_some())),
            ("grpc", self.conf.grpc.is_some()),
        ];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

impl Resource for Timeout {
    const NAME: &'static str = "Timeout";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.sources.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_selectors(part, at);
        let conf = part.field("conf");
        for (section, field) in [
            ("", "connectTimeout"),
            ("tcp", "idleTimeout"),
            ("http", "requestTimeout"),
            ("http", "idleTimeout"),
        ] {
            let section = if section.is_empty() { part.field("conf") } else { conf.field(section) };
            if let Ok(Some(timeout)) = section.get::<Span>(field)
                && timeout.get().is_none()
            {
                section.problem(at, field, "0", "a duration above 0");
            }
        }
        if conf.has("http") == Ok(true) {
            const HTTP: [&str; 4] =
                ["requestTimeout", "idleTimeout", "streamIdleTimeout", "maxStreamDuration"];
            check_says_something(&conf.field("http"), &HTTP, at);
        }
        if conf.has("grpc") == Ok(true) {
            check_says_something(&conf.field("grpc"), &["streamIdleTimeout", "maxStreamDuration"], at);
        }
    }
}
