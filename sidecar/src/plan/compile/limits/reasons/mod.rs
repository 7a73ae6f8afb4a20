// SPDX-License-Identifier: Apache-2.0
//! The documents behind times and limits, checks, rates and the choice of endpoints.

mod checks;
mod http;
mod rate;
mod strategy;

use super::http::OlderRates;
use super::{
    BreakerConf, CircuitBreaker, Entry, HealthCheck, INBOUND, Limits, MeshCircuitBreaker, MeshRateLimit,
    MeshTimeout, Numbers, OUTBOUND, PASSTHROUGH, Retry, RetryConf, Timeout, TimeoutConf, Times, entries_from,
    entries_to,
};
use crate::options::config::{Config, Thresholds, TimeoutOption};
use crate::plan::decisions::{Claim, Decisions, field, words};
use crate::plan::{ClusterPlan, OutlierPlan, Plan, Serve};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Spec;
use culvert_mesh::kinds::connections::HealthConf;
use culvert_mesh::kinds::dataplane::Inbound;
use culvert_mesh::kinds::destination::{CalledService, Positive};
use culvert_mesh::select::Subject;

const ATTEMPTS: &str = "endpoints tried at most";
const EJECTION: &str = "ejection";
const FAILURES: &str = "failed connects until ejection";
const ANSWERS: &str = "answers of 5xx until ejection";
const GATEWAY_ANSWERS: &str = "answers of 502 to 504 until ejection";
const EJECTION_TIME: &str = "ejection time";
const MOST_EJECTED: &str = "ejected at most";
const PANIC: &str = "panic threshold";

/// Fields of a cluster, in the order in which they are shown. Those of checks and of the choice of endpoints come behind them.
const FIELDS: [&str; 13] = [
    field::CONNECT_TIMEOUT,
    field::MAX_CONNECTIONS,
    field::MAX_PENDING,
    field::MAX_REQUESTS,
    field::MAX_RETRIES,
    ATTEMPTS,
    EJECTION,
    FAILURES,
    ANSWERS,
    GATEWAY_ANSWERS,
    EJECTION_TIME,
    MOST_EJECTED,
    PANIC,
];

/// Those of them that a cluster of one server has: nothing ejects that.
const OF_ONE: usize = 5;

/// An entry of a policy, or an older policy, that says anything of a cluster or listener.
struct Voice<'d, C> {
    document: &'d Document,
    path: String,
    conf: C,
}

impl<C> Voice<'_, C> {
    fn claim(&self, value: impl Into<String>) -> Claim {
        Claim::of(value, self.document, &self.path)
    }
}

/// Returns those that say anything, the deciding one first.
fn voices<'d, C: Clone>(
    entries: Vec<Entry<'d, C>>,
    list: &str,
    older: Option<(&'d Document, C)>,
) -> Vec<Voice<'d, C>> {
    let entry = |Entry { document, index, conf }: Entry<'d, C>| Voice {
        document,
        path: format!("spec.{list}[{index}]"),
        conf: conf.clone(),
    };
    let older = older.map(|(document, conf)| Voice { document, path: "conf".into(), conf });
    entries.into_iter().map(entry).chain(older).collect()
}

/// Returns the list of a policy that its entries about inbounds stand in. Each policy has only one of the two.
fn inbound_list(document: &Document) -> &'static str {
    let rules = match &document.spec {
        Spec::MeshTimeout(policy) => !policy.rules.is_empty(),
        Spec::MeshCircuitBreaker(policy) => !policy.rules.is_empty(),
        Spec::MeshRateLimit(policy) => !policy.rules.is_empty(),
        _ => false,
    };
    if rules { "rules" } else { "from" }
}

fn percent(thousandths: u32) -> String {
    format!("{} %", f64::from(thousandths) / 1000.0)
}

/// Values of a policy, each with its field.
trait Says {
    fn says(&self) -> Vec<(&'static str, String)>;
}

impl Says for TimeoutConf {
    fn says(&self) -> Vec<(&'static str, String)> {
        let Self { connection_timeout, idle_timeout, http } = self;
        let connect = connection_timeout.map(|timeout| (field::CONNECT_TIMEOUT, words(timeout.get())));
        let idle = idle_timeout.map(|timeout| (field::IDLE_TIMEOUT, words(timeout.get())));
        let times = http.as_ref().map(http::times).unwrap_or_default();
        connect.into_iter().chain(idle).chain(times).collect()
    }
}

impl Says for RetryConf {
    fn says(&self) -> Vec<(&'static str, String)> {
        let tcp = self.tcp.as_ref().map(|tcp| (ATTEMPTS, tcp.max_connect_attempt.0.to_string()));
        tcp.into_iter().collect()
    }
}

impl Says for BreakerConf {
    fn says(&self) -> Vec<(&'static str, String)> {
        let Self { limits, outlier } = self;
        let mut said: Vec<(&'static str, Option<String>)> = Vec::new();
        if let Some(limits) = limits {
            let number = |limit: Option<Positive>| limit.map(|Positive(number)| number.to_string());
            said.extend([
                (field::MAX_CONNECTIONS, number(limits.max_connections)),
                (field::MAX_PENDING, number(limits.max_pending_requests)),
                (field::MAX_REQUESTS, number(limits.max_requests)),
                (field::MAX_RETRIES, number(limits.max_retries)),
            ]);
        }
        if let Some(outlier) = outlier {
            let [all, gateway] = outlier.failed_answers().map(|of| of.map(|number| number.to_string()));
            let on = |disabled: bool| if disabled { "off" } else { "on" }.to_owned();
            said.extend([
                (EJECTION, outlier.disabled.map(on)),
                (FAILURES, outlier.failed_connects().map(|number| number.to_string())),
                (ANSWERS, all),
                (GATEWAY_ANSWERS, gateway),
                (EJECTION_TIME, outlier.base_ejection_time.map(|time| words(Some(time.0)))),
                (MOST_EJECTED, outlier.max_ejection_percent.map(|share| format!("{} %", share.0))),
                (PANIC, outlier.healthy_panic_threshold.map(|share| percent(share.0))),
            ]);
        }
        said.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
    }
}

/// Claims about the numbers of a cluster and a listener; of those of a field the deciding one comes first.
#[derive(Default)]
struct Said(Vec<(&'static str, Claim)>);

impl Said {
    fn document(&mut self, conf: &impl Says, document: &Document, path: &str) {
        let claim = |(field, value): (_, String)| (field, Claim::of(value, document, path));
        self.0.extend(conf.says().into_iter().map(claim));
    }

    fn voices<C: Says>(&mut self, voices: Vec<Voice<'_, C>>) {
        for Voice { document, path, conf } in voices {
            self.document(&conf, document, &path);
        }
    }

    /// Adds the entries of policies about an inbound.
    fn inbound<C: Says>(&mut self, entries: Vec<Entry<'_, C>>) {
        for Entry { document, index, conf } in entries {
            self.document(conf, document, &format!("spec.{}[{index}]", inbound_list(document)));
        }
    }

    /// Adds the shares of endpoints in service below which health does not count, as a MeshHealthCheck says them. They have an
    /// effect beside active checks, and beside an ejection with such a share.
    fn panic(&mut self, voices: &[Voice<'_, HealthConf>], is_checked: bool) {
        if is_checked || self.0.iter().any(|(field, _)| [FAILURES, ANSWERS, GATEWAY_ANSWERS].contains(field))
        {
            let said = voices.iter().filter_map(|voice| {
                let share = voice.conf.healthy_panic_threshold?;
                Some((PANIC, voice.claim(percent(share.0))))
            });
            self.0.extend(said);
        }
    }

    /// Adds what options and defaults say. `outlier` is the ejection in force, whose defaults differ by what a policy says, and
    /// `panic` the share of endpoints in service below which health does not count.
    fn base(&mut self, config: &Config, times: Times, outlier: Option<OutlierPlan>, panic: Option<u32>) {
        let Numbers { connect_timeout, idle_timeout, thresholds, most_attempts, .. } =
            Numbers::new(config, times);
        let by = |option: TimeoutOption, name: &str| match option {
            TimeoutOption::Given(_) => name.to_owned(),
            TimeoutOption::Absent => "default".into(),
        };
        let default = Thresholds::default();
        let limit = |limit: u32, default: u32, name: &str| {
            let by = if limit == default { "default" } else { name };
            Claim::new(limit.to_string(), by)
        };
        let Thresholds { max_connections, max_pending_requests, max_requests, max_retries } = thresholds;
        self.0.extend([
            (
                field::CONNECT_TIMEOUT,
                Claim::new(words(connect_timeout), by(config.connect_timeout, "--connect-timeout")),
            ),
            (field::IDLE_TIMEOUT, Claim::new(words(idle_timeout), by(config.idle_timeout, "--idle-timeout"))),
            (
                field::MAX_CONNECTIONS,
                limit(max_connections, default.max_connections, "--circuit-breaker-max-connections"),
            ),
            (
                field::MAX_PENDING,
                limit(
                    max_pending_requests,
                    default.max_pending_requests,
                    "--circuit-breaker-max-pending-requests",
                ),
            ),
            (
                field::MAX_REQUESTS,
                limit(max_requests, default.max_requests, "--circuit-breaker-max-requests"),
            ),
            (field::MAX_RETRIES, limit(max_retries, default.max_retries, "--circuit-breaker-max-retries")),
            (ATTEMPTS, Claim::new(most_attempts.to_string(), "default")),
            (EJECTION, Claim::new("on", "default")),
        ]);
        let ejection = outlier.map(|OutlierPlan { consecutive, ejection_time, most_ejected, .. }| {
            [
                (FAILURES, consecutive.to_string()),
                (EJECTION_TIME, words(Some(ejection_time))),
                (MOST_EJECTED, format!("{most_ejected} %")),
            ]
        });
        self.0.extend(http::TIMES.map(|field| (field, Claim::new(words(None), "default"))));
        let panic = panic.map(|share| (PANIC, percent(share)));
        for (field, value) in ejection.into_iter().flatten().chain(panic) {
            if !self.0.iter().any(|(said, _)| *said == field) {
                self.0.push((field, Claim::new(value, "default")));
            }
        }
    }

    /// Detectors of several policies make one number together, which none of them may say by itself.
    fn merge_failures(&mut self, outlier: Option<OutlierPlan>) {
        let (failures, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|(field, _)| *field == FAILURES);
        self.0 = others;
        match (&failures[..], outlier) {
            ([], _) | (_, None) => {}
            (all, Some(OutlierPlan { consecutive, .. })) => {
                let by: Vec<_> = all.iter().map(|(_, claim)| claim.by.clone()).collect();
                self.0.push((FAILURES, Claim::new(consecutive.to_string(), by.join(", and "))));
            }
        }
    }

    /// Notes the claims about the times of a listener.
    fn note_times(&self, decisions: &mut Decisions, subject: &str, serve: Serve) {
        self.note(decisions, subject, &[field::IDLE_TIMEOUT]);
        if serve.is_http() {
            self.note(decisions, subject, &http::TIMES);
        }
    }

    /// Notes the claims about some fields of a listener or cluster.
    fn note(&self, decisions: &mut Decisions, subject: &str, fields: &[&str]) {
        for field in fields {
            let of = self.0.iter().filter(|(said, _)| said == field).map(|(_, claim)| claim.clone());
            decisions.first(subject, field, || of.collect());
        }
    }
}

/// Notes claims, each with its field; of those of a field the deciding one comes first.
fn note_all(decisions: &mut Decisions, subject: &str, claims: Vec<(&'static str, Claim)>) {
    let mut fields: Vec<&str> = Vec::new();
    for (field, _) in &claims {
        if !fields.contains(field) {
            fields.push(field);
        }
    }
    Said(claims).note(decisions, subject, &fields);
}

/// Returns the share of endpoints in service below which health does not count.
fn panic_threshold(cluster: &ClusterPlan) -> Option<u32> {
    let ejection = || cluster.outlier.map(|outlier| outlier.panic_threshold);
    cluster.health.as_ref().map(|health| health.panic_threshold).or_else(ejection)
}

/// Notes where the numbers of those listeners and clusters come from that no policy is about.
pub(in crate::plan::compile) fn explain_passthrough(plan: &mut Plan, config: &Config) {
    if !plan.decisions.are_kept() {
        return;
    }
    let mut said = Said::default();
    said.base(config, PASSTHROUGH, None, None);
    let Plan { listeners, clusters, decisions, .. } = plan;
    for cluster in clusters.iter() {
        said.note(decisions, &format!("cluster {}", cluster.name), &FIELDS[..OF_ONE]);
    }
    for listener in listeners.iter() {
        said.note(decisions, &format!("listener {}", listener.name), &[field::IDLE_TIMEOUT]);
    }
}

impl Limits<'_> {
    /// Notes where the idle timeout of the plan's last listener comes from, an outbound's to a service.
    pub(in crate::plan::compile) fn explain_outbound(&self, plan: &mut Plan, own: &CalledService<'_>) {
        let Some(listener) = plan.listeners.last().filter(|_| plan.decisions.are_kept()) else { return };
        let (subject, serve) = (format!("listener {}", listener.name), listener.serve);
        let mut said = Said::default();
        said.voices(voices(entries_to(&self.timeouts, own), "to", self.older::<Timeout>(own)));
        said.base(self.config, OUTBOUND, None, None);
        said.note_times(&mut plan.decisions, &subject, serve);
    }

    /// Notes where the numbers of a cluster of the plan's last listener come from, which was made under this name for a
    /// service.
    pub(in crate::plan::compile) fn explain_cluster(
        &self,
        plan: &mut Plan,
        called: &CalledService<'_>,
        made_as: &str,
    ) {
        if !plan.decisions.are_kept() {
            return;
        }
        let name = plan.listeners.last().and_then(|listener| listener.cluster_made_as(made_as));
        let Some(cluster) = name.and_then(|name| plan.cluster_named(name)).cloned() else { return };
        let subject = format!("cluster {}", cluster.name);
        let mut said = Said::default();
        said.voices(voices(entries_to(&self.timeouts, called), "to", self.older::<Timeout>(called)));
        said.voices(voices(entries_to(&self.breakers, called), "to", self.older::<CircuitBreaker>(called)));
        said.voices(voices(entries_to(&self.retries, called), "to", self.older::<Retry>(called)));
        let checks = voices(entries_to(&self.checks, called), "to", self.older::<HealthCheck>(called));
        said.panic(&checks, cluster.health.is_some());
        said.merge_failures(cluster.outlier);
        said.base(self.config, OUTBOUND, cluster.outlier, panic_threshold(&cluster));
        said.note(&mut plan.decisions, &subject, &FIELDS);
        note_all(&mut plan.decisions, &subject, checks::claims(&checks, cluster.health.as_deref()));
        let strategies = voices(entries_to(&self.strategies, called), "to", None);
        note_all(&mut plan.decisions, &subject, strategy::claims(&strategies, &cluster.balance));
    }

    /// Notes where the numbers of the plan's last listener, an inbound's, and of its cluster come from.
    pub(in crate::plan::compile) fn explain_inbound(&self, plan: &mut Plan, inbound: &Inbound) {
        let Some(listener) = plan.listeners.last().filter(|_| plan.decisions.are_kept()).cloned() else {
            return;
        };
        let tags = [&*inbound.tags];
        let subject = Subject { tags: &tags, inbound: Some(inbound), ..self.pod };
        let mut said = Said::default();
        said.inbound(entries_from::<MeshTimeout>(&self.policies, &subject));
        said.inbound(entries_from::<MeshCircuitBreaker>(&self.policies, &subject));
        said.base(self.config, INBOUND, None, None);
        let rates = entries_from::<MeshRateLimit>(&self.policies, &subject);
        let decisions = &mut plan.decisions;
        let name = format!("listener {}", listener.name);
        said.note_times(decisions, &name, listener.serve);
        let older = OlderRates::find(&self.policies, &subject, &self.members);
        rate::explain(decisions, &name, &rates, &older, listener.serve.is_http());
        if listener.serve.is_http() {
            http::explain_faults(self, decisions, &name, &subject);
        }
        if let Some(cluster) = &listener.cluster {
            said.note(decisions, &format!("cluster {cluster}"), &FIELDS[..OF_ONE]);
        }
    }
}
