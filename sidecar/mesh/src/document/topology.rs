// SPDX-License-Identifier: Apache-2.0
//! Labels of a Dataplane that say where it runs.

use crate::document::ZONE;
use crate::model::labels::Labels;
use crate::model::tags::Tags;
use std::sync::Arc;

/// Label with the node of a workload.
const NODE: &str = "kubernetes.io/hostname";

fn says_where(label: &str) -> bool {
    label == ZONE || label == NODE || label.starts_with("topology.")
}

/// Adds these labels to the tags of an inbound that lacks them, as Kuma's control plane does up to 2.x.
pub(super) fn add(labels: Option<&Labels>, tags: &mut Arc<Tags>) {
    let labels = labels.iter().flat_map(|labels| &labels.0);
    let missing: Vec<_> =
        labels.filter(|(label, _)| says_where(label) && !tags.0.contains_key(*label)).collect();
    // Most inbounds share their tags with others, so they are not copied for nothing.
    if missing.is_empty() {
        return;
    }
    let tags = &mut Arc::make_mut(tags).0;
    for (label, value) in missing {
        tags.insert(label.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_places_become_tags_and_replace_none() {
        let map =
            |all: &[(&str, &str)]| all.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let labels = Labels(map(&[
            ("app", "web"),
            ("kuma.io/zone", "east"),
            ("kubernetes.io/hostname", "node-1"),
            ("topology.kubernetes.io/zone", "a"),
        ]));
        let mut tags = Arc::new(Tags(map(&[("kuma.io/service", "web"), ("kuma.io/zone", "west")])));
        let before = Arc::clone(&tags);
        add(None, &mut tags);
        add(Some(&Labels(map(&[("app", "web")]))), &mut tags);
        assert!(Arc::ptr_eq(&before, &tags), "nothing to add");
        add(Some(&labels), &mut tags);
        let expected = map(&[
            ("kuma.io/service", "web"),
            ("kuma.io/zone", "west"),
            ("kubernetes.io/hostname", "node-1"),
            ("topology.kubernetes.io/zone", "a"),
        ]);
        assert_eq!(tags.0, expected);
    }
}
