// SPDX-License-Identifier: Apache-2.0
//! Names of clusters in statistics.

use crate::plan;
use std::collections::HashSet;
use std::sync::Arc;

/// Returns the name in statistics: Kuma replaces each of these characters too, for StatsD and Prometheus.
pub(crate) fn stat_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

/// Returns the names of clusters in statistics, in their order, no two alike. Of several that differ only in characters that
/// are replaced, one that needs no replacement keeps its name, else the first by name; the others get a number behind it.
pub(super) fn stat_names(clusters: &[Arc<plan::ClusterPlan>]) -> Vec<Arc<str>> {
    let name = |index: &usize| &*clusters[*index].name;
    let mut order: Vec<_> = (0..clusters.len()).collect();
    order.sort_by_cached_key(|index| (stat_name(name(index)) != name(index), name(index).to_owned()));
    let mut taken = HashSet::new();
    let mut names = vec![Arc::from(""); clusters.len()];
    for index in order {
        let plain = stat_name(name(&index));
        let mut unique: Arc<str> = plain.as_str().into();
        let mut number = 1;
        while !taken.insert(Arc::clone(&unique)) {
            number += 1;
            // No name has this character once it is replaced.
            unique = format!("{plain}#{number}").into();
        }
        names[index] = unique;
    }
    names
}
