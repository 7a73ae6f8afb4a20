// SPDX-License-Identifier: Apache-2.0
//! The documents behind the ports of this pod's metrics, and behind what is found there.

use super::MetricPolicies;
use crate::plan::decisions::{Claim, Decisions};
use crate::plan::{Origin, Plan};
use culvert_mesh::kinds::mesh_metric::{
    Application, Backend, MetricConf, MetricSelector, ProfileName, Profiles, Prometheus, SelectorKind,
};
use std::cmp::Reverse;

const SUBJECT: &str = "metrics for Prometheus";

impl MetricPolicies<'_> {
    /// Notes what the policies decide.
    pub(super) fn explain(&self, plan: &mut Plan) {
        if !plan.decisions.are_kept() {
            return;
        }
        let Plan { decisions, listeners, .. } = plan;
        self.note(decisions, ("ports", true), "backends", |conf| conf.backends.as_deref().map(ports), "none");
        let applications = |conf: &MetricConf| conf.applications.as_deref().map(applications);
        self.note(decisions, ("applications", false), "applications", applications, "none");
        decisions.first(SUBJECT, "profile", || self.profiles());
        let exclude = |conf: &MetricConf| profiles(conf)?.exclude.as_deref().map(selectors);
        self.note(decisions, ("left out", false), "sidecar.profiles.exclude", exclude, "none");
        let include = |conf: &MetricConf| profiles(conf)?.include.as_deref().map(selectors);
        self.note(decisions, ("shown all the same", false), "sidecar.profiles.include", include, "none");
        let unused = |conf: &MetricConf| {
            let yes = conf.sidecar.as_ref()?.include_unused?;
            Some(if yes { "shown" } else { "left out" }.to_owned())
        };
        self.note(
            decisions,
            ("those that never counted", false),
            "sidecar.includeUnused",
            unused,
            "left out",
        );
        let document = self.says(|conf| conf.backends.is_some());
        for listener in listeners.iter().filter(|listener| listener.origin == Origin::Prometheus) {
            let way = if listener.binds { "bound by the sidecar" } else { "redirected connections" };
            decisions.first(&format!("listener {}", listener.name), "port", || {
                let claim = document
                    .map(|of| Claim::of(format!("{}, {way}", listener.address), of, &self.path("backends")));
                claim.into_iter().collect()
            });
        }
    }

    /// Notes what each policy says of a field, and the default behind it. `always`: also where no policy says anything.
    fn note(
        &self,
        decisions: &mut Decisions,
        (field, always): (&str, bool),
        path: &str,
        says: impl Fn(&MetricConf) -> Option<String>,
        default: &str,
    ) {
        let path = self.path(path);
        let said = self.confs().filter_map(|(document, conf)| Some(Claim::of(says(conf)?, document, &path)));
        let mut claims: Vec<_> = said.collect();
        if always || !claims.is_empty() {
            claims.push(Claim::new(default, "default"));
            decisions.first(SUBJECT, field, || claims);
        }
    }

    /// Returns the profiles: those of all policies count together, and the widest holds.
    fn profiles(&self) -> Vec<Claim> {
        let width = |name: ProfileName| match name {
            ProfileName::None => 0,
            ProfileName::Basic => 1,
            ProfileName::All => 2,
        };
        let path = self.path("sidecar.profiles.appendProfiles");
        let said = self.confs().filter_map(|(document, conf)| {
            let name =
                profiles(conf)?.append_profiles.iter().map(|one| one.name).max_by_key(|name| width(*name))?;
            Some((width(name), Claim::of(format!("{name:?}"), document, &path)))
        });
        let mut said: Vec<_> = said.collect();
        // Stable, so that of even ones the deciding policy's comes first.
        said.sort_by_key(|(width, _)| Reverse(*width));
        said.into_iter().map(|(_, claim)| claim).chain([Claim::new("Basic", "default")]).collect()
    }
}

fn profiles(conf: &MetricConf) -> Option<&Profiles> {
    conf.sidecar.as_ref()?.profiles.as_ref()
}

fn listed(words: Vec<String>) -> String {
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

fn ports(backends: &[Backend]) -> String {
    let all = backends.iter().filter_map(|backend| backend.prometheus.as_ref());
    listed(all.map(|one: &Prometheus| format!("{}{}", one.port(), one.path())).collect())
}

fn applications(applications: &[Application]) -> String {
    let one = |one: &Application| {
        let name = one.name.as_ref().map(|name| format!("{} at ", name.0)).unwrap_or_default();
        format!("{name}{}{}", one.port.0, one.path())
    };
    listed(applications.iter().map(one).collect())
}

fn selectors(selectors: &[MetricSelector]) -> String {
    let one = |MetricSelector { kind, text }: &MetricSelector| match kind {
        SelectorKind::Exact => text.0.clone(),
        SelectorKind::Prefix => format!("{}…", text.0),
        SelectorKind::Contains => format!("…{}…", text.0),
        SelectorKind::Regex => format!("/{}/", text.0),
    };
    listed(selectors.iter().map(one).collect())
}
