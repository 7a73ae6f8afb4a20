// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::connection::metrics::Metrics;
use crate::plan::scrape::Pattern;
use crate::scrape::exposition::{SeriesLabels, read};
use culvert_serve::metrics::text_format;
use std::collections::BTreeSet;

/// The names of the sidecar's own series.
fn names() -> BTreeSet<String> {
    let text = text_format(&Metrics::default().registry.text());
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn every_series_of_basic_is_one_and_the_page_lists_the_same() {
    let names = names();
    let missing: Vec<_> = BASIC.iter().filter(|name| !names.contains(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    let page = include_str!("../../../METRICS.md");
    let section = page.split("\n## ").find(|section| section.starts_with("Profiles\n")).expect("a section");
    let listed: BTreeSet<_> = section.split('`').filter(|word| word.starts_with("culvert_")).collect();
    assert_eq!(listed, BASIC.into_iter().collect());
}

fn selection(profile: Profile, exclude: &[NameSelector], include: &[NameSelector]) -> Selection {
    Selection { profile, exclude: exclude.into(), include: include.into(), include_unused: true }
}

#[test]
fn include_comes_before_exclude_and_both_before_the_profile() {
    let exact = |name: &str| NameSelector::Exact(name.to_owned());
    let regex = |text: &str| NameSelector::Regex(Pattern::new(text).unwrap());
    let (basic, other) = ("culvert_bytes_total", "culvert_splice_pipes");
    for (name, selection, shown) in [
        (basic, selection(Profile::Basic, &[], &[]), true),
        (other, selection(Profile::Basic, &[], &[]), false),
        (other, selection(Profile::All, &[], &[]), true),
        (basic, selection(Profile::None, &[], &[]), false),
        (basic, selection(Profile::Basic, &[regex("bytes")], &[]), false),
        (basic, selection(Profile::Basic, &[regex("bytes")], &[exact(basic)]), true),
        (other, selection(Profile::None, &[], &[regex("^culvert_splice_")]), true),
        ("envoy_cluster_upstream_cx_total", selection(Profile::Basic, &[], &[]), true),
        ("envoy_cluster_upstream_rq_retry", selection(Profile::Basic, &[], &[]), true),
        ("envoy_server_uptime", selection(Profile::Basic, &[], &[]), true),
        ("envoy_cluster_manager_active_clusters", selection(Profile::Basic, &[], &[]), false),
    ] {
        assert_eq!(shows(&selection, name), shown, "{name} {selection:?}");
    }
}

const PAGE: &str = "# TYPE envoy_cluster_upstream_cx_total counter
envoy_cluster_upstream_cx_total{envoy_cluster_name=\"web\"} 2
envoy_cluster_upstream_cx_total{envoy_cluster_name=\"idle\"} 0
envoy_cluster_upstream_cx_total{envoy_cluster_name=\"_kuma_metrics_prometheus_x\"} 9
# TYPE culvert_ready gauge
culvert_ready 0
# TYPE culvert_connect_duration_seconds histogram
culvert_connect_duration_seconds_sum{family=\"ipv4\"} 0.0
culvert_connect_duration_seconds_count{family=\"ipv4\"} 0
culvert_connect_duration_seconds_bucket{le=\"+Inf\",family=\"ipv4\"} 0
culvert_connect_duration_seconds_sum{family=\"ipv6\"} 0.5
culvert_connect_duration_seconds_count{family=\"ipv6\"} 1
culvert_connect_duration_seconds_bucket{le=\"+Inf\",family=\"ipv6\"} 1
# TYPE culvert_ejections_total counter
culvert_ejections_total 0
# TYPE culvert_splice_pipes gauge
culvert_splice_pipes 1
";

async fn shown(selection: &Selection) -> Vec<String> {
    let labels = SeriesLabels::new(&[], None);
    let mut families = read(PAGE, &labels, usize::MAX).await.unwrap();
    choose(&mut families, selection);
    let text = families.into_text();
    text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
}

#[tokio::test]
async fn unused_counters_and_histograms_are_left_out_and_gauges_stay() {
    let unused = Selection { include_unused: false, ..selection(Profile::Basic, &[], &[]) };
    assert_eq!(
        shown(&unused).await,
        [
            "envoy_cluster_upstream_cx_total{envoy_cluster_name=\"web\",} 2",
            "culvert_ready{} 0",
            "culvert_connect_duration_seconds_sum{family=\"ipv6\",} 0.5",
            "culvert_connect_duration_seconds_count{family=\"ipv6\",} 1",
            "culvert_connect_duration_seconds_bucket{le=\"+Inf\",family=\"ipv6\",} 1",
        ]
    );
    assert_eq!(shown(&selection(Profile::Basic, &[], &[])).await.len(), 10);
    assert_eq!(shown(&selection(Profile::All, &[], &[])).await.len(), 12);
    assert_eq!(shown(&selection(Profile::None, &[], &[])).await.len(), 0);
}
