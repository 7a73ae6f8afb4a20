// SPDX-License-Identifier: Apache-2.0
//! The documents behind times and limits.

use super::{
    BreakerConf, CircuitBreaker, Entry, INBOUND, Limits, MeshCircuitBreaker, MeshTimeout, Numbers, OUTBOUND,
    PASSTHROUGH, Retry, RetryConf, Timeout, TimeoutConf, Times, entries_from, entries_to,
};
use crate::options::config::{Config, Thresholds, TimeoutOption};
use crate::plan::decisions::{Claim, Decisions, field, words};
use crate::plan::{OutlierPlan, Plan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::dataplane::Inbound;
use culvert_mesh::kinds::destination::{CalledService, Positive};
use culvert_mesh::select::Subject;

const ATTEMPTS: &str = "endpoints tried at most";
const EJECTION: &str = "ejection";
const FAILURES: &str = "failed connects until ejection";
const EJECTION_TIME: &str = "ejection time";
const MOST_EJECTED: &str = "ejected at most";
const PANIC: &str = "panic threshold";

/// All fields, in the order in which they are shown.
const FIELDS: [&str; 12] = [
    field::CONNECT_TIMEOUT,
    field::IDLE_TIMEOUT,
    field::MAX_CONNECTIONS,
    field::MAX_PENDING,
    field::MAX_REQUESTS,
    field::MAX_RETRIES,
    ATTEMPTS,
    EJECTION,
    FAILURES,
    EJECTION_TIME,
    MOST_EJECTED,
    PANIC,
];

fn percent(thousandths: u32) -> String {
    format!("{} %", f64::from(thousandths) / 1000.0)
}

/// Values of a policy, each with its field.
trait Says {
    fn says(&self) -> Vec<(&'static str, String)>;
}

impl Says for TimeoutConf {
    fn says(&self) -> Vec<(&'static str, String)> {
        let Self { connection_timeout, idle_timeout, http: _ } = self;
        let connect = connection_timeout.map(|timeout| (field::CONNECT_TIMEOUT, words(timeout.get())));
        connect
            .into_iter()
            .chain(idle_timeout.map(|timeout| (field::IDLE_TIMEOUT, words(timeout.get()))))
            .collect()
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
            let on = |disabled: bool| if disabled { "off" } else { "on" }.to_owned();
            said.extend([
                (EJECTION, outlier.disabled.map(on)),
                (FAILURES, outlier.failed_connects().map(|number| number.to_string())),
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

    fn entries<C: Says>(&mut self, entries: Vec<Entry<'_, C>>, list: &str) {
        for Entry { document, index, conf } in entries {
            self.document(conf, document, &format!("spec.{list}[{index}]"));
        }
    }

    fn older<C: Says>(&mut self, policy: Option<(&Document, C)>) {
        if let Some((document, conf)) = policy {
            self.document(&conf, document, "conf");
        }
    }

    /// Adds what options and defaults say. `outlier` is the ejection in force, whose defaults differ by what a policy says.
    fn base(&mut self, config: &Config, times: Times, outlier: Option<OutlierPlan>) {
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
        if let Some(OutlierPlan { consecutive, ejection_time, most_ejected, panic_threshold }) = outlier {
            for (field, value) in [
                (FAILURES, consecutive.to_string()),
                (EJECTION_TIME, words(Some(ejection_time))),
                (MOST_EJECTED, format!("{most_ejected} %")),
                (PANIC, percent(panic_threshold)),
            ] {
                if !self.0.iter().any(|(said, _)| *said == field) {
                    self.0.push((field, Claim::new(value, "default")));
                }
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

    /// Notes the claims: of a listener its idle timeout, of its cluster the others.
    fn note(&self, decisions: &mut Decisions, listener: &str, cluster: Option<&str>, fields: &[&str]) {
        for field in fields {
            let subject = match (*field, cluster) {
                (field::IDLE_TIMEOUT, _) => format!("listener {listener}"),
                (_, Some(cluster)) => format!("cluster {cluster}"),
                (_, None) => continue,
            };
            let of = self.0.iter().filter(|(said, _)| said == field).map(|(_, claim)| claim.clone());
            decisions.first(&subject, field, || of.collect());
        }
    }
}

/// Returns the names of the last listener and its cluster, and the cluster's ejection.
fn last(plan: &Plan) -> Option<(String, Option<String>, Option<OutlierPlan>)> {
    let listener = plan.listeners.last()?;
    let cluster = listener.cluster.as_deref();
    let outlier = cluster.and_then(|name| plan.cluster_named(name)).and_then(|cluster| cluster.outlier);
    Some((listener.name.to_string(), cluster.map(str::to_owned), outlier))
}

/// Notes where the numbers of passthrough come from: no policy is about them.
pub(in crate::plan::compile) fn explain_passthrough(plan: &mut Plan, config: &Config) {
    if !plan.decisions.are_kept() {
        return;
    }
    let mut said = Said::default();
    said.base(config, PASSTHROUGH, None);
    let Plan { listeners, clusters, decisions, .. } = plan;
    for cluster in clusters.iter() {
        said.note(
            decisions,
            "",
            Some(&cluster.name),
            &[field::CONNECT_TIMEOUT, field::MAX_CONNECTIONS, field::MAX_PENDING],
        );
    }
    for listener in listeners.iter() {
        said.note(decisions, &listener.name, None, &[field::IDLE_TIMEOUT]);
    }
}

impl Limits<'_> {
    /// Notes where the numbers of the plan's last listener, an outbound's, and of one of its clusters come from.
    pub(in crate::plan::compile) fn explain_outbound(
        &self,
        plan: &mut Plan,
        called: &CalledService<'_>,
        cluster: &str,
    ) {
        if !plan.decisions.are_kept() {
            return;
        }
        let Some((listener, first, _)) = last(plan) else { return };
        // Of a cluster without its wanted name another one has the name.
        let cluster = if plan.listeners.last().is_some_and(|last| last.split.is_empty()) {
            first
        } else {
            Some(cluster.into())
        };
        let outlier =
            cluster.as_deref().and_then(|name| plan.cluster_named(name)).and_then(|one| one.outlier);
        let mut said = Said::default();
        said.entries(entries_to(&self.timeouts, called), "to");
        said.older(self.older::<Timeout>(called));
        said.entries(entries_to(&self.breakers, called), "to");
        said.older(self.older::<CircuitBreaker>(called));
        said.entries(entries_to(&self.retries, called), "to");
        said.older(self.older::<Retry>(called));
        said.merge_failures(outlier);
        said.base(self.config, OUTBOUND, outlier);
        said.note(&mut plan.decisions, &listener, cluster.as_deref(), &FIELDS);
    }

    /// Notes where the numbers of the plan's last listener, an inbound's, and of its cluster come from.
    pub(in crate::plan::compile) fn explain_inbound(&self, plan: &mut Plan, inbound: &Inbound) {
        if !plan.decisions.are_kept() {
            return;
        }
        let Some((listener, cluster, _)) = last(plan) else { return };
        let tags = [&*inbound.tags];
        let subject = Subject { tags: &tags, inbound: Some(inbound), ..self.pod };
        let mut said = Said::default();
        // Each policy has only one of the two lists.
        const LIST: &str = "from or rules";
        said.entries(entries_from::<MeshTimeout>(&self.policies, &subject), LIST);
        said.entries(entries_from::<MeshCircuitBreaker>(&self.policies, &subject), LIST);
        said.base(self.config, INBOUND, None);
        // An application is one endpoint, which nothing ejects.
        said.note(&mut plan.decisions, &listener, cluster.as_deref(), &FIELDS[..6]);
    }
}
