// SPDX-License-Identifier: Apache-2.0
//! The counters under Envoy's names, where Envoy has one, so that the runbooks of Kong Mesh hold.

use crate::addrs::{Direction, Family};
use crate::close_reason::CloseReason;
use crate::config::Config;
use crate::guard::Guard;
use crate::limits::{Limit, Limits};
use crate::metrics::Metrics;
use crate::route::ClusterId;

/// A statistic: its name and value.
pub type Stat = (String, i64);

/// All statistics, sorted by name.
pub fn collect(config: &Config, metrics: &Metrics, limits: &Limits) -> Vec<Stat> {
    let mut stats = Vec::new();
    for id in ClusterId::ALL {
        cluster(&mut stats, id, metrics, limits);
        listener(&mut stats, id, config, metrics);
    }
    let mut loop_rejected = 0;
    for direction in Direction::ALL {
        let of = metrics.direction(direction);
        let total = Guard::ALL.into_iter().map(|guard| of.loop_rejected(guard).get()).sum::<u64>();
        loop_rejected += total;
        stats.push((format!("listener_manager.{direction}.loop_rejected"), signed(total)));
        for reason in CloseReason::ALL {
            stats.push((
                format!("listener_manager.{direction}.closed.{reason}"),
                signed(of.closed(reason).get()),
            ));
        }
    }
    stats.push(("loop_rejected".into(), signed(loop_rejected)));
    stats.push(("access_log.dropped".into(), signed(metrics.access_log_dropped.get())));
    stats.push(("server.ready".into(), metrics.ready.get()));
    stats.sort();
    stats
}

fn cluster(stats: &mut Vec<Stat>, id: ClusterId, metrics: &Metrics, limits: &Limits) {
    let of = metrics.cluster(id);
    let name = id.stat_name();
    let mut put = |stat: &str, value: i64| stats.push((format!("cluster.{name}.{stat}"), value));
    put("upstream_cx_total", signed(of.upstream_total.get()));
    put("upstream_cx_active", of.upstream_active.get());
    put("upstream_cx_connect_fail", signed(of.connect_failed.get()));
    put("upstream_cx_connect_timeout", signed(of.connect_timed_out.get()));
    put("upstream_cx_overflow", signed(of.overflow.get()));
    put("upstream_rq_pending_overflow", signed(of.pending_overflow.get()));
    // Envoy's point of view is its own: it receives from the server and transmits to it.
    put("upstream_cx_rx_bytes_total", signed(of.to_client.get()));
    put("upstream_cx_tx_bytes_total", signed(of.to_server.get()));
    put("upstream_cx_idle_timeout", signed(of.idle_timeout.get()));
    let breaker = limits.cluster(id);
    let full = |limit: &Limit| i64::from(limit.used() >= limit.max());
    put("circuit_breakers.default.cx_open", full(&breaker.connections));
    put("circuit_breakers.default.rq_pending_open", full(&breaker.pending));
    put("circuit_breakers.default.rq_open", full(&breaker.requests));
    put("circuit_breakers.default.rq_retry_open", full(&breaker.retries));
    let left = |limit: &Limit| i64::from(limit.max().saturating_sub(limit.used()));
    put("circuit_breakers.default.remaining_cx", left(&breaker.connections));
    put("circuit_breakers.default.remaining_pending", left(&breaker.pending));
    put("circuit_breakers.default.remaining_rq", left(&breaker.requests));
    put("circuit_breakers.default.remaining_retries", left(&breaker.retries));
}

fn listener(stats: &mut Vec<Stat>, id: ClusterId, config: &Config, metrics: &Metrics) {
    let port = config.listen_port(id.direction);
    if port == 0 {
        return;
    }
    let of = metrics.cluster(id);
    let address = match id.family {
        Family::V4 => "0.0.0.0",
        Family::V6 => "[__]",
    };
    let tcp = id.stat_name();
    stats.push((format!("listener.{address}_{port}.downstream_cx_total"), signed(of.opened.get())));
    stats.push((format!("listener.{address}_{port}.downstream_cx_active"), of.active.get()));
    stats.push((format!("tcp.{tcp}.downstream_cx_total"), signed(of.opened.get())));
    stats.push((format!("tcp.{tcp}.downstream_cx_rx_bytes_total"), signed(of.to_server.get())));
    stats.push((format!("tcp.{tcp}.downstream_cx_tx_bytes_total"), signed(of.to_client.get())));
    stats.push((format!("tcp.{tcp}.idle_timeout"), signed(of.idle_timeout.get())));
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use clap::Parser;

    #[test]
    fn names_are_envoys() {
        let config = Options::try_parse_from(["culvert-sidecar"]).unwrap().check().unwrap();
        let limits = Limits::new(&config.thresholds, 20_000);
        let names: Vec<_> = collect(&config, &Metrics::default(), &limits)
            .into_iter()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        insta::assert_snapshot!(names.join("\n"));
    }
}
