// SPDX-License-Identifier: Apache-2.0
//! Requests by the class of their answers, and refusals by rule.

use crate::metrics::{By, Counter, Label, labels, metrics};
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

    fn of(status: u16) -> Self {
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

/// Rule that a message broke, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule(pub(crate) Refusal);

/// Rules in the order of their declaration.
static RULES: [Rule; Refusal::ALL.len()] = {
    let mut rules = [Rule(Refusal::ALL[0]); Refusal::ALL.len()];
    let mut n = 0;
    while n < rules.len() {
        rules[n] = Rule(Refusal::ALL[n]);
        n += 1;
    }
    rules
};

impl Label for Rule {
    const LABEL: &'static str = "rule";
    const VALUES: &'static [Self] = &RULES;

    fn value(self) -> &'static str {
        self.0.name()
    }

    fn index(self) -> usize {
        self.0 as usize
    }
}

metrics! {
    /// HTTP of a direction.
    #[derive(Default)]
    pub(crate) struct HttpMetrics {
        requests: By<Class> = "http_requests", "HTTP requests that were answered, by the class of the status";
        refusals: By<Rule> = "http_refusals", "HTTP connections that ended because a message broke a rule";
        /// Without those that a broken rule of HTTP answered.
        local: By<Local> = "http_local_answers", "HTTP requests that were answered by a document's rule, not by their server";
        delayed: Counter = "http_delayed", "Delays that faults put upon HTTP requests";
        slowed: Counter = "http_slowed", "HTTP responses that faults gave a bandwidth";
        unseen: Counter = "http_unseen",
            "Connections to ports of HTTP that speak HTTP/2 and are relayed as bytes";
        silent: Counter = "http_silent", "Connections to ports of HTTP whose first request did not come in time";
    }
}

// === impl HttpMetrics ===

impl HttpMetrics {
    /// Counts an answer, but for interim ones, which another one follows.
    pub(super) fn answered(&self, status: u16) {
        if !(100..200).contains(&status) || status == 101 {
            self.requests[Class::of(status)].inc();
        }
    }

    /// Counts a connection that a rule ended.
    pub(super) fn refused(&self, rule: Refusal) {
        self.refusals[Rule(rule)].inc();
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
        assert!(Refusal::ALL.iter().all(|rule| metrics.refusals[Rule(*rule)].get() == 1));
        for status in [100, 101, 102, 103, 200, 304, 404, 503, 600, 999] {
            metrics.answered(status);
        }
        let counted = Class::ALL.map(|class| metrics.requests[class].get());
        assert_eq!(counted, [1, 1, 1, 1, 1, 2], "interim answers are none");
    }
}
