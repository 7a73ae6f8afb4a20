// SPDX-License-Identifier: Apache-2.0
//! Names of clusters in statistics.

use crate::plan::{ListenerPlan, Plan};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Returns the name in statistics: Kuma replaces each of these characters too, for StatsD and Prometheus.
pub(crate) fn stat_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).collect()
}

/// Returns the name that statistics of a listener of HTTP have: that of its cluster, as in Kong Mesh.
pub(crate) fn stat_prefix(of: &ListenerPlan) -> String {
    stat_name(of.cluster.as_ref().unwrap_or(&of.name))
}

/// Returns the names of clusters in statistics, in their order, no two alike. Of several that differ only in characters that
/// are replaced, one that needs no replacement keeps its name, else the first by name; the others get a number behind it.
///
/// Of clusters on demand those are returned that differ from the usual ones, by their places.
pub(super) fn stat_names(plan: &Plan) -> (Vec<Arc<str>>, HashMap<usize, Arc<str>>) {
    let lines = &plan.names.on_demand;
    let planned = || plan.clusters.iter().map(|cluster| &*cluster.name);
    let on_demand = || lines.new_clusters().map(|at| &**lines.cluster_name(at));
    // Only what is replaced can make two names alike, and of thousands on demand as a rule nothing is.
    if planned().chain(on_demand()).all(|name| stat_name(name) == name) {
        return (planned().map(Arc::from).collect(), HashMap::new());
    }
    let mut unique = of_all(&planned().chain(on_demand()).collect::<Vec<_>>());
    let numbered = lines.new_clusters().zip(unique.split_off(plan.clusters.len()));
    let numbered = numbered.filter(|(at, unique)| stat_name(lines.cluster_name(*at)) != **unique);
    (unique, numbered.collect())
}

fn of_all(names: &[&str]) -> Vec<Arc<str>> {
    let name = |index: &usize| names[*index];
    let mut order: Vec<_> = (0..names.len()).collect();
    order.sort_by_cached_key(|index| (stat_name(name(index)) != name(index), name(index).to_owned()));
    let mut taken: HashSet<Arc<str>> = HashSet::new();
    let mut unique_names = vec![Arc::from(""); names.len()];
    for index in order {
        let unique = free(&stat_name(name(&index)), |name| taken.contains(name));
        taken.insert(Arc::clone(&unique));
        unique_names[index] = unique;
    }
    unique_names
}

/// Returns a name that is not taken: the plain one if it can be.
pub(super) fn free(plain: &str, is_taken: impl Fn(&str) -> bool) -> Arc<str> {
    let mut unique: Arc<str> = plain.into();
    let mut number = 1;
    while is_taken(&unique) {
        number += 1;
        // No name has this character once it is replaced.
        unique = format!("{plain}#{number}").into();
    }
    unique
}
