// SPDX-License-Identifier: Apache-2.0
//! Names of clusters in statistics.

use crate::plan::{ClusterPlan, Plan};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Returns the name in statistics: Kuma replaces each of these characters too, for StatsD and Prometheus.
pub(crate) fn stat_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

/// Returns the names of clusters in statistics, in their order, no two alike. Of several that differ only in characters that
/// are replaced, one that needs no replacement keeps its name, else the first by name; the others get a number behind it.
pub(super) fn stat_names(clusters: &[Arc<ClusterPlan>]) -> Vec<Arc<str>> {
    let names: Vec<_> = clusters.iter().map(|cluster| &*cluster.name).collect();
    of_all(&names)
}

/// Returns those of clusters on demand that differ from the usual ones, by their places.
pub(super) fn numbered(plan: &Plan) -> HashMap<usize, Arc<str>> {
    let lines = &plan.names.on_demand;
    let on_demand = || lines.new_clusters().map(|at| &**lines.cluster_name(at));
    // Only what is replaced can make two names alike, and as a rule nothing is.
    let mut all = on_demand().chain(plan.clusters.iter().map(|cluster| &*cluster.name));
    if all.all(|name| stat_name(name) == name) {
        return HashMap::new();
    }
    let names: Vec<_> = plan.clusters.iter().map(|cluster| &*cluster.name).chain(on_demand()).collect();
    let unique = of_all(&names).into_iter().skip(plan.clusters.len());
    let all = lines.new_clusters().zip(unique);
    all.filter(|(at, unique)| stat_name(lines.cluster_name(*at)) != **unique).collect()
}

fn of_all(names: &[&str]) -> Vec<Arc<str>> {
    let name = |index: &usize| names[*index];
    let mut order: Vec<_> = (0..names.len()).collect();
    order.sort_by_cached_key(|index| (stat_name(name(index)) != name(index), name(index).to_owned()));
    let mut taken = HashSet::new();
    let mut unique_names = vec![Arc::from(""); names.len()];
    for index in order {
        let plain = stat_name(name(&index));
        let mut unique: Arc<str> = plain.as_str().into();
        let mut number = 1;
        while !taken.insert(Arc::clone(&unique)) {
            number += 1;
            // No name has this character once it is replaced.
            unique = format!("{plain}#{number}").into();
        }
        unique_names[index] = unique;
    }
    unique_names
}
