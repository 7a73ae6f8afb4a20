// SPDX-License-Identifier: Apache-2.0
//! Requests by the class of their answers, and refusals by rule.

use crate::metrics::{By, ByMember, Counter, Label, labels, metrics};
use culvert_http::Refusal;

/// Class of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// 101 alone: other 1xx are no answers.
    Informational,
    Successful,
    Redirection,
    ClientError,
    ServerError,
    /// 600 to 999, which no document defines.
    Other,
}

impl Class {
    pub(crate) const ALL: [Self; 6] = [
        Self::Informational,
        Self::Successful,
        Self::Redirection,
        Self::ClientError,
        Self::ServerError,
        Self::Other,
    ];

    /// Value of the metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Successful => "2xx",
            Self::Redirection => "3xx",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
            Self::Other => "other",
        }
    }

    /// Returns the class of a status.
    pub(crate) fn of(status: u16) -> Self {
        match status / 100 {
            1 => Self::Informational,
            2 => Self::Successful,
            3 => Self::Redirection,
            4 => Self::ClientError,
            5 => Self::ServerError,
            _ => Self::Other,
        }
    }
}

/// Rule of a document by which a request was answered in place of its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Local {
    Permission,
    Fault,
    Rate,
    Breaker,
}

impl Local {
    pub(crate) const ALL: [Self; 4] = [Self::Permission, Self::Fault, Self::Rate, Self::Breaker];

    /// Value of the metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Permission => "permission",
            Self::Fault => "fault",
            Self::Rate => "rate",
            Self::Breaker => "breaker",
        }
    }
}

labels! { Class: "class", Local: "by" }

/// Rule of HTTP/2 that has no like among those of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http2Rule {
    /// The client's frames broke the protocol.
    Frames,
    /// More streams were reset than a client may reset.
    ResetFlood,
    /// More frames of control came than may come.
    ControlFlood,
    /// The server's frames broke the protocol.
    ServerFrames,
}

impl Http2Rule {
    pub(crate) const ALL: [Self; 4] =
        [Self::Frames, Self::ResetFlood, Self::ControlFlood, Self::ServerFrames];

    /// Value of the metric's label.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Frames => "http2_frames",
            Self::ResetFlood => "http2_reset_flood",
            Self::ControlFlood => "http2_control_flood",
            Self::ServerFrames => "http2_server_frames",
        }
    }
}

/// Rule that a message broke, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    Message(Refusal),
    Http2(Http2Rule),
}

const MESSAGES: usize = Refusal::ALL.len();

/// Rules in the order of their declaration.
static RULES: [Rule; MESSAGES + Http2Rule::ALL.len()] = {
    let mut rules = [Rule::Message(Refusal::ALL[0]); MESSAGES + Http2Rule::ALL.len()];
    let mut n = 0;
    while n < MESSAGES {
        rules[n] = Rule::Message(Refusal::ALL[n]);
        n += 1;
    }
    while n < rules.len() {
        rules[n] = Rule::Http2(Http2Rule::ALL[n - MESSAGES]);
        n += 1;
    }
    rules
};

impl Label for Rule {
    const LABEL: &'static str = "rule";
    const VALUES: &'static [Self] = &RULES;

    fn value(self) -> &'static str {
        match self {
            Self::Message(rule) => rule.name(),
            Self::Http2(rule) => rule.name(),
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Message(rule) => rule as usize,
            Self::Http2(rule) => MESSAGES + rule as usize,
        }
    }
}

impl From<Refusal> for Rule {
    fn from(rule: Refusal) -> Self {
        Self::Message(rule)
    }
}

impl From<Http2Rule> for Rule {
    fn from(rule: Http2Rule) -> Self {
        Self::Http2(rule)
    }
}

metrics! {
    /// HTTP of a direction.
    #[derive(Default)]
    pub(crate) struct HttpMetrics {
        requests: By<Class> = "http_requests", "HTTP requests that were answered, by the class of the status";
        /// By the caller or the called service.
        by_member: ByMember<Class> = "http_member_requests",
            "HTTP requests that were answered, by the member that called or was called";
        refusals: By<Rule> = "http_refusals", "HTTP connections, and streams of HTTP/2, that ended because a message broke a rule";
        /// Without those that a broken rule of HTTP answered.
        local: By<Local> = "http_local_answers", "HTTP requests that were answered by a document's rule, not by their server";
        delayed: Counter = "http_delayed", "Delays that faults put upon HTTP requests";
        slowed: Counter = "http_slowed", "HTTP responses that faults gave a bandwidth";
        http2: Counter = "http2_connections", "Connections to ports of HTTP whose clients speak HTTP/2";
        silent: Counter = "http_silent", "Connections to ports of HTTP whose first request did not come in time";
    }
}

// === impl HttpMetrics ===

impl HttpMetrics {
    /// Counts an answer, but for interim ones, which another one follows.
    pub(crate) fn answered(&self, status: u16) {
        if !(100..200).contains(&status) || status == 101 {
            self.requests[Class::of(status)].inc();
        }
    }

    /// Counts a connection or a stream that a rule ended.
    pub(crate) fn refused(&self, rule: impl Into<Rule>) {
        self.refusals[rule.into()].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_and_class_has_a_counter_of_its_own() {
        let metrics = HttpMetrics::default();
        for rule in Refusal::ALL {
            metrics.refused(*rule);
        }
        for rule in Http2Rule::ALL {
            metrics.refused(rule);
        }
        assert!(RULES.iter().all(|rule| metrics.refusals[*rule].get() == 1));
        let names: std::collections::HashSet<_> = RULES.iter().map(|rule| rule.value()).collect();
        assert_eq!(names.len(), RULES.len());
        for status in [100, 101, 102, 103, 200, 304, 404, 503, 600, 999] {
            metrics.answered(status);
        }
        let counted = Class::ALL.map(|class| metrics.requests[class].get());
        assert_eq!(counted, [1, 1, 1, 1, 1, 2], "interim answers are none");
    }
}
