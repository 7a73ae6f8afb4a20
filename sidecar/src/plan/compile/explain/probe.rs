// SPDX-License-Identifier: Apache-2.0
//! The active check of an application, by the `serviceProbe` of its inbound.

use crate::plan::decisions::{Claim, words};
use crate::plan::{ClusterPlan, Plan};
use culvert_mesh::document::Document;
use culvert_mesh::kinds::Spec;

/// Notes the probe of an inbound's application: no policy is about it.
pub(super) fn explain(plan: &mut Plan, cluster: &ClusterPlan, dataplane: &Document, index: usize) {
    let Some(check) = cluster.health.as_ref().and_then(|health| health.check.as_ref()) else { return };
    let Spec::Dataplane(this) = &dataplane.spec else { return };
    let Some(probe) = this.networking.inbound.get(index).and_then(|inbound| inbound.service_probe.as_deref())
    else {
        return;
    };
    let path = format!("networking.inbound[{index}].serviceProbe");
    let subject = format!("cluster {}", cluster.name);
    for (field, value, said) in [
        ("active check", "by TCP: a connect".to_owned(), true),
        ("check interval", words(Some(check.interval)), probe.interval.is_some()),
        ("check timeout", words(Some(check.timeout)), probe.timeout.is_some()),
        (
            "failed checks until it is down",
            check.unhealthy_threshold.to_string(),
            probe.unhealthy_threshold.is_some(),
        ),
        (
            "passed checks until it is up",
            check.healthy_threshold.to_string(),
            probe.healthy_threshold.is_some(),
        ),
    ] {
        plan.decisions.first(&subject, field, || {
            vec![if said { Claim::of(value, dataplane, &path) } else { Claim::new(value, "default") }]
        });
    }
}
