// SPDX-License-Identifier: Apache-2.0
//! `Retry`, the ancestor of MeshRetry.

use super::{OlderPolicy, check_selectors};
use crate::context::Context;
use crate::kinds::Resource;
use crate::kinds::connections::mesh_retry::{BackOff, RetryConf, TcpRetry};
use crate::kinds::destination::{Positive, check_says_something};
use crate::kinds::proxy_template::Selector;
use crate::read::part::Part;
use crate::read::{At, Span, fields, words};
use crate::target::Target;

fields! {
    /// Further attempts of the calls of some pods to some services.
    pub struct Retry {
        /// The pods by their tags.
        sources: required Vec<Selector> = "sources",
        /// The services.
        destinations: required Vec<Selector> = "destinations",
        /// The attempts.
        conf: required OlderRetries = "conf",
    }
}

fields! {
    /// Attempts by protocol.
    pub struct OlderRetries {
        /// Attempts to connect.
        tcp: optional OlderTcpRetry = "tcp",
        /// Attempts of HTTP requests, without effect.
        http: optional OlderHttpRetry = "http",
        /// Attempts of gRPC requests, without effect as well.
        grpc: optional OlderGrpcRetry = "grpc",
    }
}

fields! {
    /// Attempts to connect.
    pub struct OlderTcpRetry {
        /// Endpoints that one connection tries at most.
        max_connect_attempts: required Positive = "maxConnectAttempts",
    }
}

fields! {
    /// Attempts of HTTP requests.
    pub struct OlderHttpRetry {
        /// Attempts after the first.
        num_retries: optional Positive = "numRetries",
        /// Time for each attempt.
        per_try_timeout: optional Span = "perTryTimeout",
        /// Pauses between attempts.
        back_off: optional BackOff = "backOff",
        /// Statuses with which a request is tried again.
        retriable_status_codes: optional Vec<u32> = "retriableStatusCodes",
        /// Methods of requests that may be repeated.
        retriable_methods: optional Vec<OlderMethod> = "retriableMethods",
        /// Failures after which another attempt is made.
        retry_on: optional Vec<OlderHttpRetryOn> = "retryOn",
    }
}

words! {
    /// Methods of requests.
    pub enum OlderMethod {
        /// CONNECT.
        Connect = "CONNECT",
        /// DELETE.
        Delete = "DELETE",
        /// GET.
        Get = "GET",
        /// HEAD.
        Head = "HEAD",
        /// OPTIONS.
        Options = "OPTIONS",
        /// PATCH.
        Patch = "PATCH",
        /// POST.
        Post = "POST",
        /// PUT.
        Put = "PUT",
        /// TRACE.
        Trace = "TRACE",
    }
}

words! {
    /// Failures after which another attempt is made.
    pub enum OlderHttpRetryOn {
        /// Any status from 500 on, and no answer.
        Server = "all_5xx",
        /// Status 502, 503 or 504.
        Gateway = "gateway_error",
        /// No answer.
        Reset = "reset",
        /// Status 409.
        Conflict = "retriable_4xx",
        /// No connection.
        Connect = "connect_failure",
        /// A limit of the rate.
        RateLimited = "envoy_ratelimited",
        /// A stream that the server refused.
        Refused = "refused_stream",
        /// The statuses of retriableStatusCodes.
        Statuses = "retriable_status_codes",
        /// Headers of an answer.
        Headers = "retriable_headers",
        /// A failure of HTTP/3.
        Http3 = "http3_post_connect_failure",
    }
}

fields! {
    /// Attempts of gRPC requests.
    pub struct OlderGrpcRetry {
        /// Attempts after the first.
        num_retries: optional Positive = "numRetries",
        /// Time for each attempt.
        per_try_timeout: optional Span = "perTryTimeout",
        /// Pauses between attempts.
        back_off: optional BackOff = "backOff",
        /// Failures after which another attempt is made.
        retry_on: optional Vec<OlderGrpcRetryOn> = "retryOn",
    }
}

words! {
    /// Statuses with which a gRPC request is tried again.
    pub enum OlderGrpcRetryOn {
        /// Status 1.
        Canceled = "cancelled",
        /// Status 4.
        Deadline = "deadline_exceeded",
        /// Status 13.
        Internal = "internal",
        /// Status 8.
        Exhausted = "resource_exhausted",
        /// Status 14.
        Unavailable = "unavailable",
    }
}

impl OlderPolicy for Retry {
    type Conf = RetryConf;

    fn selectors(&self) -> [&[Selector]; 2] {
        [&self.sources, &self.destinations]
    }

    fn conf(&self) -> RetryConf {
        let tcp = self.conf.tcp.as_ref();
        RetryConf {
            tcp: tcp.map(|tcp| TcpRetry { max_connect_attempt: tcp.max_connect_attempts }),
            http: None,
            grpc: None,
        }
    }

    fn passed_over(&self) -> Vec<&'static str> {
        let all = [("http", self.conf.http.is_some()), ("grpc", self.conf.grpc.is_some())];
        all.into_iter().filter_map(|(name, there)| there.then_some(name)).collect()
    }
}

impl Resource for Retry {
    const NAME: &'static str = "Retry";

    fn target(&self) -> Target<'_> {
        Target::Selectors(self.sources.iter().map(|selector| &selector.tags).collect())
    }

    fn check(part: &Part<'_>, _: Option<&Context>, at: &mut At<'_>) {
        check_selectors(part, at);
        let conf = part.field("conf");
        check_says_something(&conf, &["http", "grpc", "tcp"], at);
        for (protocol, fields) in [("http", &HTTP[..]), ("grpc", &HTTP[..4])] {
            if conf.has(protocol) != Ok(true) {
                continue;
            }
            let requests = conf.field(protocol);
            check_says_something(&requests, fields, at);
            let back_off = requests.field("backOff");
            if requests.has("backOff") == Ok(true) && back_off.has("baseInterval") == Ok(false) {
                back_off.problem(at, "baseInterval", "nothing", "this field is required");
            }
            for (of, field) in
                [(&requests, "perTryTimeout"), (&back_off, "baseInterval"), (&back_off, "maxInterval")]
            {
                if let Ok(Some(time)) = of.get::<Span>(field)
                    && time.get().is_none()
                {
                    of.problem(at, field, "0", "a duration above 0");
                }
            }
            let retry_on = requests.get::<Vec<OlderHttpRetryOn>>("retryOn");
            let wanted = matches!(retry_on, Ok(Some(list)) if list.contains(&OlderHttpRetryOn::Statuses));
            if wanted && requests.has("retriableStatusCodes") == Ok(false) {
                requests.problem(at, "retriableStatusCodes", "nothing", "the statuses that retryOn is about");
            }
        }
        let grpc = conf.field("grpc");
        let statuses = grpc.get::<Vec<OlderGrpcRetryOn>>("retryOn").ok().flatten().unwrap_or_default();
        let again = |(index, status): (usize, &OlderGrpcRetryOn)| statuses[..index].contains(status);
        if statuses.iter().enumerate().any(again) {
            grpc.problem(at, "retryOn", "a status a second time", "each status once");
        }
    }
}

/// Fields of `http` of which one is enough, those first that `grpc` has too.
const HTTP: [&str; 6] =
    ["numRetries", "perTryTimeout", "backOff", "retryOn", "retriableStatusCodes", "retriableMethods"];
