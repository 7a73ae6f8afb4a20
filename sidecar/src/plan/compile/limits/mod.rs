// SPDX-License-Identifier: Apache-2.0
//! Times and limits of clusters and listeners.
//!
//! Each number is said by the first of these that says it: a ProxyTemplate's patch, which is applied later; the policies in
//! effect (MeshTimeout, MeshCircuitBreaker, MeshRetry), the most specific first; their ancestor (Timeout, CircuitBreaker,
//! Retry); an option that is given; the default. MeshLoadBalancingStrategy is merged by the same rules.
//!
//! Active checks (MeshHealthCheck, HealthCheck) and rates (MeshRateLimit) are found in the same order, by [`health`].

mod health;
mod http;

use self::http::OlderRates;
use crate::options::config::{Config, Thresholds};
use crate::plan::balance::Algorithm;
use crate::plan::compile::balance::{self, Strategy};
use crate::plan::health::HealthPlan;
use crate::plan::listener::http::HttpPlan;
use crate::plan::listener::rate::RatePlan;
use crate::plan::{ClusterPlan, Discovery, FailedAnswers, MOST_ATTEMPTS, Origin, OutlierPlan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::connections::mesh_circuit_breaker::{
    BreakerConf, ConnectionLimits, MeshCircuitBreaker, OutlierDetection, Thousandths,
};
use culvert_mesh::kinds::connections::mesh_load_balancing_strategy::MeshLoadBalancingStrategy;
use culvert_mesh::kinds::connections::mesh_retry::{MeshRetry, RetryConf};
use culvert_mesh::kinds::connections::mesh_timeout::{MeshTimeout, TimeoutConf};
use culvert_mesh::kinds::connections::{HealthConf, MeshHealthCheck, MeshRateLimit};
use culvert_mesh::kinds::dataplane::Inbound;
use culvert_mesh::kinds::destination::{CalledService, ConnectionPolicy, Positive};
use culvert_mesh::kinds::older::{
    self, CircuitBreaker, HealthCheck, OlderPolicy, Retry, Timeout, TrafficRoute,
};
use culvert_mesh::kinds::routes::MeshTcpRoute;
use culvert_mesh::kinds::{FromSpec, Kind};
use culvert_mesh::merge::merged;
use culvert_mesh::model::tags::{SERVICE, Tags};
use culvert_mesh::select::{self, Effective, Subject};
use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

mod reasons;
mod unknown;

pub(super) use reasons::explain_passthrough;
pub(super) use unknown::without_effect;

/// The kinds of policies that are read here.
const KINDS: [Kind; 13] = [
    Kind::MeshTimeout,
    Kind::MeshCircuitBreaker,
    Kind::MeshRetry,
    Kind::Timeout,
    Kind::CircuitBreaker,
    Kind::Retry,
    Kind::MeshLoadBalancingStrategy,
    Kind::MeshHealthCheck,
    Kind::MeshRateLimit,
    Kind::HealthCheck,
    Kind::RateLimit,
    Kind::MeshFaultInjection,
    Kind::FaultInjection,
];

/// Times of a cluster and its listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Times {
    connect: Duration,
    idle: Duration,
}

/// Times where a connection goes by its destination's address, and no document says more. Kuma's page says 10 s; its control
/// plane sets 5 s.
const PASSTHROUGH: Times = Times { connect: Duration::from_secs(10), idle: Duration::from_hours(1) };

/// Times of inbounds, from the MeshTimeout that Kuma makes for each new mesh. The idle timeout is twice that of outbounds, so
/// that a connection between two sidecars is ended by the client's.
const INBOUND: Times = Times { connect: Duration::from_secs(10), idle: Duration::from_hours(2) };

/// Times of outbounds, from the same MeshTimeout.
const OUTBOUND: Times = Times { connect: Duration::from_secs(5), idle: Duration::from_hours(1) };

/// Ejection where a policy says the number of failures: the other numbers are Envoy's, which Kuma leaves as they are.
const ENVOY: OutlierPlan = OutlierPlan {
    consecutive: 5,
    answers: FailedAnswers { all: None, gateway: None },
    ejection_time: Duration::from_secs(30),
    most_ejected: 10,
    panic_threshold: 50_000,
};

/// Times and limits of one cluster and its listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    connect_timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    thresholds: Thresholds,
    most_attempts: usize,
    outlier: Option<OutlierPlan>,
    strategy: Strategy,
    /// The algorithm of the TrafficRoute about an outbound: it holds for all clusters that the outbound leads to.
    of_route: Option<Algorithm>,
    health: Option<Arc<HealthPlan>>,
    pub(super) rate: Option<RatePlan>,
    pub(super) http: Option<Arc<HttpPlan>>,
}

impl Numbers {
    fn new(config: &Config, times: Times) -> Self {
        Self {
            connect_timeout: config.connect_timeout.or(times.connect),
            idle_timeout: config.idle_timeout.or(times.idle),
            thresholds: config.thresholds,
            most_attempts: MOST_ATTEMPTS,
            outlier: Some(OutlierPlan::default()),
            strategy: Strategy::default(),
            of_route: None,
            health: None,
            rate: None,
            http: None,
        }
    }

    /// Returns the numbers of connections that go by their destination's address. As in Kuma no policy about destinations is
    /// about them, not even one for `Mesh`.
    pub(super) fn of_passthrough(config: &Config) -> Self {
        Self::new(config, PASSTHROUGH)
    }

    /// Returns the numbers of a cluster that the outbound with the numbers `outbound` leads to.
    pub(super) fn led_to_by(mut self, outbound: &Self) -> Self {
        self.strategy.or_of_route(outbound.of_route);
        self
    }

    /// Returns true if a TrafficRoute says the algorithm of the clusters that the outbound leads to.
    pub(super) fn has_algorithm_of_route(&self) -> bool {
        self.of_route.is_some()
    }

    /// Returns a cluster with these numbers.
    pub(super) fn cluster(&self, name: Arc<str>, origin: Origin, upstream: Discovery) -> ClusterPlan {
        let Self {
            connect_timeout,
            idle_timeout: _,
            thresholds,
            most_attempts,
            outlier,
            ref strategy,
            of_route: _,
            ref health,
            rate: _,
            http: _,
        } = *self;
        let (upstream, balance) = strategy.arrange(upstream);
        let health = health.clone();
        ClusterPlan {
            name,
            origin,
            upstream,
            thresholds,
            connect_timeout,
            most_attempts,
            outlier,
            balance,
            health,
        }
    }

    fn timeouts(mut self, conf: Option<TimeoutConf>) -> Self {
        let Some(TimeoutConf { connection_timeout, idle_timeout, http }) = conf else { return self };
        if let Some(timeout) = connection_timeout {
            self.connect_timeout = timeout.get();
        }
        if let Some(timeout) = idle_timeout {
            self.idle_timeout = timeout.get();
        }
        let times = http.as_ref().map(http::times).unwrap_or_default();
        self.http = http::rules(HttpPlan { times, ..HttpPlan::default() });
        self
    }

    fn breaker(mut self, conf: Option<BreakerConf>) -> Self {
        let Some(BreakerConf { limits, outlier }) = conf else { return self };
        if let Some(limits) = limits {
            // Pools are a part of Envoy that culvert does not have.
            let ConnectionLimits {
                max_connections,
                max_connection_pools: _,
                max_pending_requests,
                max_retries,
                max_requests,
            } = limits;
            let of = &mut self.thresholds;
            for (limit, new) in [
                (&mut of.max_connections, max_connections),
                (&mut of.max_pending_requests, max_pending_requests),
                (&mut of.max_requests, max_requests),
                (&mut of.max_retries, max_retries),
            ] {
                *limit = new.map_or(*limit, |Positive(new)| new);
            }
        }
        if let Some(outlier) = outlier {
            self.outlier = ejection(&outlier);
        }
        self
    }

    fn retry(mut self, conf: Option<RetryConf>) -> Self {
        if let Some(tcp) = conf.and_then(|conf| conf.tcp) {
            self.most_attempts = usize::try_from(tcp.max_connect_attempt.0).unwrap_or(usize::MAX);
        }
        self
    }

    /// `threshold` is the one that a MeshCircuitBreaker says.
    fn health(mut self, conf: Option<HealthConf>, threshold: Option<Thousandths>) -> Self {
        let Some(conf) = conf else { return self };
        // The cluster has one threshold, for ejections too where a policy ejects.
        if let (None, Some(Thousandths(said)), Some(outlier)) =
            (threshold, conf.healthy_panic_threshold, &mut self.outlier)
            && outlier.panic_threshold != 0
        {
            outlier.panic_threshold = said;
        }
        self.health = health::of_outbound(&conf, threshold);
        self
    }
}

/// Returns the ejection that a policy says. Without a detector that says a number, culvert's own stays.
fn ejection(policy: &OutlierDetection) -> Option<OutlierPlan> {
    if policy.disabled == Some(true) {
        return None;
    }
    let [all, gateway] = policy.failed_answers();
    let default = match (policy.failed_connects(), all.or(gateway)) {
        (Some(consecutive), _) => OutlierPlan { consecutive, ..ENVOY },
        (None, Some(_)) => ENVOY,
        (None, None) => OutlierPlan::default(),
    };
    Some(OutlierPlan {
        consecutive: default.consecutive,
        answers: FailedAnswers { all, gateway },
        ejection_time: policy.base_ejection_time.map_or(default.ejection_time, |time| time.0),
        most_ejected: policy.max_ejection_percent.map_or(default.most_ejected, |percent| percent.0),
        panic_threshold: policy
            .healthy_panic_threshold
            .map_or(default.panic_threshold, |threshold| threshold.0),
    })
}

/// A policy in effect for the calls of the pod.
pub(super) struct ForCalls<'a, P> {
    /// Policies of one number differ by their names alone.
    group: usize,
    pub(super) one: Effective<'a, P>,
}

/// The policies about times and limits, for one pod.
pub(super) struct Limits<'a> {
    config: &'a Config,
    /// Each inbound goes through the policies, so they are picked out of thousands of Dataplanes once.
    policies: Vec<&'a Document>,
    pod: Subject<'a>,
    timeouts: Vec<ForCalls<'a, MeshTimeout>>,
    breakers: Vec<ForCalls<'a, MeshCircuitBreaker>>,
    retries: Vec<ForCalls<'a, MeshRetry>>,
    strategies: Vec<ForCalls<'a, MeshLoadBalancingStrategy>>,
    checks: Vec<ForCalls<'a, MeshHealthCheck>>,
    /// TrafficRoutes, for their algorithms; none where a MeshTCPRoute about the pod puts them out of force.
    routes: Vec<&'a Document>,
    newer_routes: Vec<ForCalls<'a, MeshTcpRoute>>,
    members: http::Members<'a>,
    /// Lines about rates of calls of servers outside of the mesh.
    outside: Vec<String>,
}

impl<'a> Limits<'a> {
    pub(super) fn new(config: &'a Config, ours: &[&'a Document], pod: Subject<'a>) -> Self {
        let policies: Vec<_> = ours.iter().copied().filter(|one| KINDS.contains(&one.kind())).collect();
        let of_kind = |kind| ours.iter().copied().filter(move |one: &&Document| one.kind() == kind);
        let newer: Vec<_> = of_kind(Kind::MeshTcpRoute).collect();
        let newer = for_calls::<MeshTcpRoute>(&newer, &pod);
        Self {
            config,
            routes: of_kind(Kind::TrafficRoute).filter(|_| newer.is_empty()).collect(),
            newer_routes: newer,
            timeouts: for_calls(&policies, &pod),
            breakers: for_calls(&policies, &pod),
            retries: for_calls(&policies, &pod),
            strategies: for_calls(&policies, &pod),
            checks: for_calls(&policies, &pod),
            members: http::Members::find(ours),
            outside: http::of_calls_outside(ours, pod.tags),
            policies,
            pod,
        }
    }

    /// Returns the numbers of an outbound.
    pub(super) fn outbound(&self, called: &CalledService<'_>) -> Numbers {
        let timeouts =
            of_destination(&self.timeouts, called).into_iter().chain(conf(self.older::<Timeout>(called)));
        let breakers = of_destination(&self.breakers, called)
            .into_iter()
            .chain(conf(self.older::<CircuitBreaker>(called)));
        let retries =
            of_destination(&self.retries, called).into_iter().chain(conf(self.older::<Retry>(called)));
        let checks =
            of_destination(&self.checks, called).into_iter().chain(conf(self.older::<HealthCheck>(called)));
        let strategy = Strategy::new(of_destination(&self.strategies, called), &self.pod);
        let breaker = merged(breakers);
        let threshold = breaker.as_ref().and_then(|conf| conf.outlier.as_ref()?.healthy_panic_threshold);
        let numbers =
            Numbers { strategy, of_route: self.of_route(called), ..Numbers::new(self.config, OUTBOUND) };
        numbers
            .timeouts(merged(timeouts))
            .breaker(breaker)
            .retry(merged(retries))
            .health(merged(checks), threshold)
    }

    /// Returns the algorithm of the TrafficRoute about a destination.
    fn of_route(&self, called: &CalledService<'_>) -> Option<Algorithm> {
        let (_, route) = older_policy::<TrafficRoute>(&self.routes, self.pod.tags, called)?;
        route.conf.load_balancer.as_ref()?.algorithm().as_ref().map(balance::algorithm)
    }

    /// Returns what the older policy of a kind says of a destination, and its document.
    fn older<P: OlderPolicy + 'a>(&self, called: &CalledService<'_>) -> Option<(&'a Document, P::Conf)> {
        let held = older_policy::<P>(&self.policies, self.pod.tags, called);
        held.map(|(document, policy)| (document, policy.conf()))
    }

    /// Returns the numbers of an inbound.
    pub(super) fn inbound(&self, inbound: &Inbound) -> Numbers {
        let tags = [&*inbound.tags];
        let subject = Subject { tags: &tags, inbound: Some(inbound), ..self.pod };
        let numbers = Numbers::new(self.config, INBOUND)
            .timeouts(of_inbound::<MeshTimeout>(&self.policies, &subject))
            .breaker(of_inbound::<MeshCircuitBreaker>(&self.policies, &subject));
        let older = OlderRates::find(&self.policies, &subject, &self.members);
        let (rate, rates) = match older.about {
            Some(_) => (None, older.in_force()),
            None => {
                let said = entries_from::<MeshRateLimit>(&self.policies, &subject);
                let newer = merged(said.iter().map(|entry| entry.conf.clone()));
                let rates = http::rate(&said, newer.as_ref()).into_iter().collect();
                (health::rate(newer), rates)
            }
        };
        let times = numbers.http.as_ref().map(|plan| plan.times).unwrap_or_default();
        let faults = http::faults(&self.policies, &subject, &self.members);
        Numbers {
            http: http::rules(HttpPlan { faults, rates, times }),
            health: inbound.service_probe.as_deref().and_then(health::of_application),
            rate,
            ..numbers
        }
    }

    /// Returns a line for each policy about this pod that says more than takes effect.
    pub(super) fn warnings(&self) -> Vec<String> {
        let said = |policy: &&&Document| self.is_about_the_pod(policy);
        let passed_over = self.policies.iter().filter(said).filter_map(|policy| unknown::passed_over(policy));
        let no_zone = self.strategies.iter().filter_map(|ForCalls { one, .. }| {
            balance::without_a_zone((one.document, one.policy), &self.pod)
        });
        let unknown = [
            unknown::of_all(&self.timeouts),
            unknown::of_all(&self.breakers),
            unknown::of_all(&self.retries),
            unknown::of_all(&self.strategies),
            unknown::of_all(&self.checks),
            unknown::of_all(&self.newer_routes),
        ];
        let outside = self.outside.iter().cloned();
        passed_over.chain(no_zone).chain(outside).chain(unknown.into_iter().flatten()).collect()
    }

    fn is_about_the_pod(&self, policy: &Document) -> bool {
        let target = policy.spec.target();
        let is_about = |subject: &Subject<'_>| select::rank(&target, policy, subject).is_some();
        let inbounds = self.pod.pod.map_or(&[][..], |(_, this)| this.networking.inbound.as_slice());
        let mut inbounds = inbounds.iter();
        is_about(&self.pod)
            || inbounds.any(|inbound| {
                is_about(&Subject { tags: &[&inbound.tags], inbound: Some(inbound), ..self.pod })
            })
    }
}

/// Returns the older policy of a kind that holds for a destination. As in Kuma one does: the one whose selectors say most of
/// both ends together, and of even ones the first by name.
pub(super) fn older_policy<'a, P: OlderPolicy>(
    policies: &[&'a Document],
    pod: &[&Tags],
    called: &CalledService<'_>,
) -> Option<(&'a Document, &'a P)> {
    let service = Tags([(SERVICE.to_owned(), called.service.to_owned())].into());
    let ranked = policies.iter().filter_map(|one| {
        let policy = P::from_spec(&one.spec)?;
        let [sources, destinations] = policy.selectors();
        let (source, destination) = (older::fit(sources, pod)?, older::fit(destinations, &[&service])?);
        let sum = [source[0] + destination[0], source[1] + destination[1]];
        Some(((Reverse(sum), &one.name), (*one, policy)))
    });
    ranked.min_by_key(|(place, _)| *place).map(|(_, held)| held)
}

pub(super) fn for_calls<'a, P: FromSpec>(
    policies: &[&'a Document],
    pod: &Subject<'_>,
) -> Vec<ForCalls<'a, P>> {
    let mut group = 0;
    let mut last = None;
    let number = |one: Effective<'a, P>| {
        let rank = select::rank(&one.document.spec.target(), one.document, pod);
        if last.is_some_and(|last| last != rank) {
            group += 1;
        }
        last = Some(rank);
        ForCalls { group, one }
    };
    select::effective::<P>(policies, std::slice::from_ref(pod)).into_iter().map(number).collect()
}

fn conf<C>(older: Option<(&Document, C)>) -> Option<C> {
    older.map(|(_, conf)| conf)
}

/// An entry of a policy.
pub(super) struct Entry<'a, C> {
    pub(super) document: &'a Document,
    /// Place among the entries of its list.
    pub(super) index: usize,
    pub(super) conf: &'a C,
}

/// Merges the entries about a destination.
fn of_destination<P: ConnectionPolicy>(
    policies: &[ForCalls<'_, P>],
    called: &CalledService<'_>,
) -> Option<P::Conf> {
    merged(entries_to(policies, called).into_iter().map(|entry| entry.conf.clone()))
}

/// Returns the entries about a destination, the deciding one first.
///
/// Kuma sorts entries by their policy's target, then by their own, then by the policy's name. So the entry for `Mesh` of a
/// policy about this pod decides before the entry for the service of a policy about the mesh; but of two policies about the
/// mesh the entry for the service decides before their names. Of two such entries of one policy the later decides.
pub(super) fn entries_to<'a, P: ConnectionPolicy>(
    policies: &[ForCalls<'a, P>],
    called: &CalledService<'_>,
) -> Vec<Entry<'a, P::Conf>> {
    let mut said = Vec::new();
    for ForCalls { group, one } in policies {
        let &Effective { document, policy, .. } = one;
        let (namespace, count) = (document.namespace.as_deref(), policy.to().count());
        for (back, (to, conf)) in policy.to().rev().enumerate() {
            if to.fits(called, namespace) {
                said.push(((*group, Reverse(to.rank())), Entry { document, index: count - 1 - back, conf }));
            }
        }
    }
    // Stable, so that policies stay in the order of their names.
    said.sort_by_key(|(place, _)| *place);
    said.into_iter().map(|(_, entry)| entry).collect()
}

/// Merges the entries about an inbound.
fn of_inbound<P: ConnectionPolicy>(policies: &[&Document], inbound: &Subject<'_>) -> Option<P::Conf> {
    merged(entries_from::<P>(policies, inbound).into_iter().map(|entry| entry.conf.clone()))
}

/// Returns the entries about an inbound, the deciding one first; of those of one policy the later decides.
fn entries_from<'a, P: ConnectionPolicy + 'a>(
    policies: &[&'a Document],
    inbound: &Subject<'_>,
) -> Vec<Entry<'a, P::Conf>> {
    let effective = select::effective::<P>(policies, std::slice::from_ref(inbound));
    let entries = effective.iter().flat_map(|&Effective { document, policy, .. }| {
        let count = policy.inbound().count();
        let of = move |(back, conf)| Entry { document, index: count - 1 - back, conf };
        policy.inbound().rev().enumerate().map(of)
    });
    entries.collect()
}

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod tests;
