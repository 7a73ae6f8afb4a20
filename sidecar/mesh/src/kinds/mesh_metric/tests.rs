// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::kinds::FromSpec;
use crate::load::Loaded;
use crate::merge::merged;
use std::path::Path;

fn read(spec: &str) -> Loaded {
    let mut loaded = Loaded::default();
    let text = format!("{{type: MeshMetric, name: p, spec: {spec}}}");
    loaded.add(&Context::default(), &text, Path::new("p.yaml"));
    loaded
}

fn conf(default: &str) -> MetricConf {
    let loaded = read(&format!("{{default: {default}}}"));
    assert_eq!(loaded.errors, [], "{default}");
    let policy = MeshMetric::from_spec(&loaded.found.documents[0].spec).unwrap();
    policy.default.clone().unwrap()
}

#[test]
fn each_of_kumas_rules_is_told_with_what_is_allowed() {
    let place = "p.yaml: document 1 (MeshMetric p): spec.";
    for (name, spec, expected) in [
        (
            "no prometheus",
            "{default: {backends: [{type: Prometheus}]}}",
            "default.backends[0].prometheus: found nothing; allowed: the port, as {port: 5670}",
        ),
        (
            "a port for Prometheus",
            "{default: {backends: [{type: Prometheus, prometheus: {port: 95599}}]}}",
            "default.backends[0].prometheus.port: found 95599; allowed: a port from 1 to 65535",
        ),
        (
            "a port of an application",
            "{default: {applications: [{port: 95599}]}}",
            "default.applications[0].port: found 95599; allowed: a port from 1 to 65535",
        ),
        (
            "no port of an application",
            "{default: {applications: [{path: /metrics}]}}",
            "default.applications[0].port: found nothing; allowed: this field is required",
        ),
        (
            "a name as address",
            "{default: {applications: [{port: 80, address: localhost}]}}",
            "default.applications[0].address: found \"localhost\"; allowed: an IPv4 or IPv6 address; names are not looked up",
        ),
        (
            "two lines as path",
            "{default: {applications: [{port: 80, path: \"/a\\r\\nHost: b\"}]}}",
            "default.applications[0].path: found \"/a\\r\\nHost: b\"; allowed: a path of at most 1000 visible ASCII \
             characters without \"#\" and \"?\", as \"/metrics\"",
        ),
        (
            "a type of selectors",
            "{default: {sidecar: {profiles: {include: [{type: not_supported, match: a}]}}}}",
            "default.sidecar.profiles.include[0].type: found \"not_supported\"; allowed: Regex, Prefix, Exact, Contains",
        ),
        (
            "a profile",
            "{default: {sidecar: {profiles: {appendProfiles: [{name: not_supported}]}}}}",
            "default.sidecar.profiles.appendProfiles[0].name: found \"not_supported\"; allowed: All, Basic, None",
        ),
        (
            "OpenTelemetry",
            "{default: {backends: [{type: OpenTelemetry, openTelemetry: {endpoint: 'otel:4317'}}]}}",
            "default.backends[0].type: found \"OpenTelemetry\"; allowed: Prometheus; pushing metrics to a collector is not \
             built, and a collector can scrape the port of a Prometheus backend",
        ),
        (
            "a kind of TLS",
            "{default: {backends: [{type: Prometheus, prometheus: {tls: {mode: Own}}}]}}",
            "default.backends[0].prometheus.tls.mode: found \"Own\"; allowed: Disabled, ProvidedTLS, ActiveMTLSBackend",
        ),
        (
            "an inbound",
            "{targetRef: {kind: Dataplane, name: web, sectionName: http}}",
            "targetRef.sectionName: found an inbound; allowed: whole pods: a sidecar shows the metrics of its pod",
        ),
    ] {
        let errors: Vec<_> =
            read(spec).errors.iter().map(|error| error.to_string().replace(place, "")).collect();
        assert_eq!(errors, [expected], "{name}");
    }
}

#[test]
fn every_list_and_text_is_bounded() {
    let many = |one: &str, count: usize| vec![one; count].join(", ");
    for (default, fits) in [
        (format!("{{applications: [{}]}}", many("{port: 80}", MOST_APPLICATIONS)), true),
        (format!("{{applications: [{}]}}", many("{port: 80}", MOST_APPLICATIONS + 1)), false),
        (format!("{{backends: [{}]}}", many("{type: Prometheus, prometheus: {}}", MOST_BACKENDS + 1)), false),
        (
            format!(
                "{{sidecar: {{profiles: {{exclude: [{}]}}}}}}",
                many("{type: Exact, match: a}", MOST_SELECTORS + 1)
            ),
            false,
        ),
        (
            format!(
                "{{sidecar: {{profiles: {{include: [{{type: Regex, match: {}}}]}}}}}}",
                "a".repeat(MOST_TEXT + 1)
            ),
            false,
        ),
    ] {
        assert_eq!(read(&format!("{{default: {default}}}")).errors.is_empty(), fits, "{default}");
    }
}

#[test]
fn kumas_defaults_stand_for_what_is_absent() {
    let conf = conf(
        "{applications: [{port: 8888}, {port: 1, path: metrics}], backends: [{type: Prometheus, prometheus: {}}]}",
    );
    let [first, second] = conf.applications.as_deref().unwrap() else { panic!("two") };
    assert_eq!((first.path(), second.path()), ("/metrics/prometheus", "/metrics"));
    let backend = conf.backends.as_deref().unwrap()[0].prometheus.as_ref().unwrap();
    assert_eq!(
        (backend.port(), backend.path(), backend.tls()),
        (5670, "/metrics", PrometheusTlsMode::Disabled)
    );
}

#[test]
fn policies_merge_field_by_field_and_profiles_add_up() {
    let wide = "{sidecar: {includeUnused: true, profiles: {appendProfiles: [{name: None}], exclude: [{type: Exact, match: a}]}},
        applications: [{port: 1}, {port: 2}], backends: [{type: Prometheus, prometheus: {port: 5670}}]}";
    let narrow = "{sidecar: {profiles: {appendProfiles: [{name: Basic}], include: [{type: Exact, match: b}]}}, applications: [{port: 3}]}";
    let off = "{backends: []}";
    let all = merged([conf(off), conf(narrow), conf(wide)]).unwrap();
    let sidecar = all.sidecar.unwrap();
    let profiles = sidecar.profiles.unwrap();
    assert_eq!(sidecar.include_unused, Some(true));
    let names: Vec<_> = profiles.append_profiles.iter().map(|profile| profile.name).collect();
    assert_eq!(names, [ProfileName::Basic, ProfileName::None]);
    assert_eq!((profiles.exclude.unwrap().len(), profiles.include.unwrap().len()), (1, 1));
    let ports: Vec<_> = all.applications.unwrap().iter().map(|one| one.port.0).collect();
    assert_eq!(ports, [3], "a list holds as a whole");
    assert_eq!(all.backends.unwrap(), [], "an empty list, too");
}
