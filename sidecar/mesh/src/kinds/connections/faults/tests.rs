// SPDX-License-Identifier: Apache-2.0
use super::*;
use crate::kinds::FromSpec;
use crate::kinds::older::FaultInjection;
use crate::load::Loaded;
use crate::merge::merged;
use crate::model::percentage::Denominator::{self, Hundred, Million, TenThousand};
use crate::target::Pods;
use std::path::Path;
use std::time::Duration;

fn read(text: &str) -> Loaded {
    let mut loaded = Loaded::default();
    loaded.add(&Context::default(), text, Path::new("p.yaml"));
    loaded
}

fn of_spec(spec: &str) -> Loaded {
    read(&format!("{{type: MeshFaultInjection, name: p, spec: {{{spec}}}}}"))
}

fn policy(spec: &str) -> MeshFaultInjection {
    let loaded = of_spec(spec);
    assert_eq!(loaded.errors, [], "{spec}");
    MeshFaultInjection::from_spec(&loaded.found.documents[0].spec).unwrap().clone()
}

/// The errors, each from its field on.
fn errors(loaded: &Loaded, kind: &str) -> Vec<String> {
    let start = format!("p.yaml: document 1 ({kind} p): ");
    let all = loaded.errors.iter().map(ToString::to_string);
    all.map(|error| error.strip_prefix(&start).map(str::to_owned).unwrap_or(error)).collect()
}

fn share(numerator: u32, denominator: Denominator) -> Percentage {
    Percentage { numerator, denominator }
}

const FAULTS: &str = "[{abort: {httpStatus: 444, percentage: 12}, delay: {value: 5s, percentage: '0.5'}, \
                      responseBandwidth: {limit: 50mbps, percentage: '33.3'}}, \
                      {responseBandwidth: {limit: 100 kbps, percentage: 62.9}}, {}]";

/// The same faults as types.
fn faults() -> Vec<HttpFault> {
    let abort = Some(AbortFault { http_status: FaultStatus(444), percentage: share(12, Hundred) });
    let delay = Some(DelayFault { value: Span(Duration::from_secs(5)), percentage: share(50, TenThousand) });
    let slow = |kbps, percentage| Some(BandwidthFault { limit: Bandwidth { kbps }, percentage });
    vec![
        HttpFault { abort, delay, response_bandwidth: slow(50_000, share(333_000, Million)) },
        HttpFault { abort: None, delay: None, response_bandwidth: slow(100, share(6_290, TenThousand)) },
        HttpFault { abort: None, delay: None, response_bandwidth: None },
    ]
}

#[test]
fn entries_keep_their_callers_and_the_order_of_the_document() {
    let from = policy(&format!(
        "targetRef: {{kind: MeshService, name: backend}}, from: [\
         {{targetRef: {{kind: Mesh}}, default: {{http: {FAULTS}}}}}, \
         {{targetRef: {{kind: MeshServiceSubset, name: web, tags: {{version: '1'}}}}, default: {{http: []}}}}, \
         {{targetRef: {{kind: MeshSubset, tags: {{team: a}}}}}}]"
    ));
    let entries: Vec<_> = from.entries().collect();
    assert_eq!(
        entries.iter().map(|one| (one.list, one.index)).collect::<Vec<_>>(),
        [("from", 0), ("from", 1), ("from", 2)]
    );
    let confs: Vec<_> = entries.iter().map(|one| one.conf.http.clone()).collect();
    assert_eq!(confs, [Some(faults()), Some(vec![]), None], "an empty list is not an absent one");
    let tags = entries.iter().map(|one| match one.callers {
        FaultCallers::Tagged(TargetRef { pods: Pods::Tags(tags), .. }) => {
            tags.0.iter().map(|(tag, value)| format!("{tag}={value}")).collect::<Vec<_>>().join(" ")
        }
        FaultCallers::Tagged(TargetRef { pods, .. }) => format!("{pods:?}"),
        FaultCallers::Matching(_) => "a rule".into(),
    });
    assert_eq!(tags.collect::<Vec<_>>(), ["Mesh", "kuma.io/service=web version=1", "team=a"]);

    let rules = policy(&format!(
        "rules: [{{default: {{http: []}}}}, {{matches: [{{spiffeID: {{type: Exact, value: 'spiffe://default/web'}}}}, \
         {{spiffeID: {{type: Prefix, value: 'spiffe://default/ops'}}}}], default: {{http: {FAULTS}}}}}]"
    ));
    let matches = rules.entries().map(|one| match one.callers {
        FaultCallers::Matching(all) => all.iter().map(|one| one.spiffe_id.clone().unwrap().value).collect(),
        FaultCallers::Tagged(_) => vec!["from".to_owned()],
    });
    assert_eq!(
        matches.collect::<Vec<_>>(),
        [vec![], vec!["spiffe://default/web".to_owned(), "spiffe://default/ops".into()]]
    );
    assert_eq!(rules.entries().next_back().map(|last| (last.list, last.index)), Some(("rules", 1)));
}

#[test]
fn the_most_specific_list_of_faults_holds_as_a_whole_also_an_empty_one() {
    let conf = |http: Option<Vec<HttpFault>>| FaultConf { http };
    let one = |index: usize| conf(Some(vec![faults()[index].clone()]));
    for (name, most_specific_first, expected) in [
        ("not added up", vec![one(0), one(1)], one(0)),
        ("left open", vec![FaultConf::default(), one(1)], one(1)),
        ("turned off", vec![conf(Some(vec![])), one(1)], conf(Some(vec![]))),
        ("nothing said", vec![FaultConf::default(); 2], FaultConf::default()),
    ] {
        assert_eq!(merged(most_specific_first), Some(expected), "{name}");
    }
}

#[test]
fn policies_that_kuma_takes_are_taken() {
    for spec in [
        "targetRef: {kind: Mesh, proxyTypes: [Gateway]}, to: [{targetRef: {kind: Mesh}, default: {http: []}}]",
        "targetRef: {kind: Mesh}, to: [{targetRef: {kind: Mesh}, default: {http: []}}]",
        "targetRef: {kind: MeshGateway, name: edge}, to: [{targetRef: {kind: Mesh}}]",
        "targetRef: {kind: Dataplane, labels: {kuma.io/proxy-type: gateway}}, to: [{targetRef: {kind: Mesh}}]",
        "targetRef: {kind: Dataplane, labels: {app: a}, sectionName: http}, rules: [{default: {http: []}}]",
        "targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, from: [{targetRef: {kind: Mesh}, default: {}}]",
        "rules: [{matches: [{sni: {type: Exact, value: backend.mesh}}], default: {http: [{responseBandwidth: {limit: 1000Mbps, percentage: 50}}]}}]",
        "rules: [{default: {http: [{delay: {value: 0s, percentage: 100}}, {delay: {value: 1.5s, percentage: '100.0'}}]}}]",
    ] {
        let loaded = of_spec(spec);
        assert_eq!(loaded.errors, [], "{spec}");
        let told = loaded.found.left_out.warnings();
        assert_eq!(
            told.iter().any(|line| line.contains(": to of 1 Mesh")),
            spec.contains("to: ["),
            "{told:?}"
        );
    }
}

#[test]
fn each_of_kumas_rules_is_told_with_what_is_allowed() {
    let fault = |fault: &str| format!("rules: [{{default: {{http: [{{{fault}}}]}}}}]");
    const FAULT: &str = "spec.rules[0].default.http[0].";
    for (name, spec, field, expected) in [
        (
            "a status",
            fault("abort: {httpStatus: 677, percentage: 1}"),
            FAULT,
            "abort.httpStatus: found 677; allowed: a status from 200 to 599",
        ),
        (
            "an interim status",
            fault("abort: {httpStatus: 103, percentage: 1}"),
            FAULT,
            "abort.httpStatus: found 103; allowed: ",
        ),
        (
            "a share",
            fault("abort: {httpStatus: 500, percentage: 111}"),
            FAULT,
            "abort.percentage: found 111; allowed: a number from 0 to 100, as 50 or \"0.5\"",
        ),
        (
            "a word",
            fault("delay: {value: 5s, percentage: xyz}"),
            FAULT,
            "delay.percentage: found \"xyz\"; allowed: ",
        ),
        (
            "a time before",
            fault("delay: {value: -5s, percentage: 1}"),
            FAULT,
            "delay.value: found \"-5s\"; allowed: a duration",
        ),
        (
            "no unit",
            fault("responseBandwidth: {limit: '1000', percentage: 1}"),
            FAULT,
            "responseBandwidth.limit: found \"1000\"; allowed: a bandwidth above 0",
        ),
        (
            "no share",
            fault("responseBandwidth: {limit: 1kbps}"),
            FAULT,
            "responseBandwidth.percentage: found nothing; allowed: this field is required",
        ),
        ("another field", fault("abortion: {}"), FAULT, "abortion: found a field that culvert does not have"),
        (
            "no entry",
            "targetRef: {kind: Mesh}".into(),
            "spec",
            ": found no entry; allowed: at least one in to, from or rules",
        ),
        (
            "both lists",
            "from: [{targetRef: {kind: Mesh}}], rules: [{default: {}}]".into(),
            "spec",
            ": found rules beside to or from",
        ),
        (
            "an identity",
            "rules: [{matches: [{spiffeID: {type: Exact, value: web}}]}]".into(),
            "spec.rules[0].matches[0].",
            "spiffeID.value: found \"web\"; allowed: spiffe://",
        ),
        (
            "one pod as caller",
            "from: [{targetRef: {kind: Dataplane, name: a}}]".into(),
            "spec.from[0].",
            "targetRef: found kind Dataplane; allowed: Mesh, MeshSubset, ",
        ),
        (
            "no name",
            "from: [{targetRef: {kind: MeshService}}]".into(),
            "spec.from[0].",
            "targetRef.name: found nothing",
        ),
        (
            "a service behind",
            "targetRef: {kind: Mesh}, to: [{targetRef: {kind: MeshService, name: a}}]".into(),
            "spec.to[0].",
            "targetRef.kind: found \"MeshService\"; allowed: Mesh",
        ),
        (
            "sidecars",
            "targetRef: {kind: MeshService, name: a}, to: [{targetRef: {kind: Mesh}}]".into(),
            "spec.",
            "to: found entries; allowed: from or rules",
        ),
        (
            "sidecars by kind",
            "targetRef: {kind: Mesh, proxyTypes: [Sidecar]}, to: [{targetRef: {kind: Mesh}}]".into(),
            "spec.",
            "to: found entries",
        ),
    ] {
        let errors = errors(&of_spec(&spec), "MeshFaultInjection");
        let expected = format!("{field}{expected}");
        assert!(errors.first().is_some_and(|one| one.starts_with(&expected)), "{name}: {errors:#?}");
        let more = usize::from(name == "a service behind");
        assert!(errors.len() <= 1 + more, "{name}: {errors:#?}");
    }
}

fn older(sources: &str, destinations: &str, conf: &str) -> Loaded {
    read(&format!(
        "{{type: FaultInjection, name: p, sources: [{sources}], destinations: [{destinations}], conf: {{{conf}}}}}"
    ))
}

const ANY: &str = "{match: {kuma.io/service: '*'}}";
const HTTP: &str = "{match: {kuma.io/service: backend, kuma.io/protocol: http}}";

#[test]
fn the_ancestor_is_read_with_both_ends() {
    let conf = "abort: {httpStatus: 500, percentage: 50}, delay: {percentage: 50.5, value: 5s}, \
                responseBandwidth: {limit: 50 mbps, percentage: 50}";
    let loaded = older(&format!("{ANY}, {{match: {{kuma.io/service: web, version: '1'}}}}"), HTTP, conf);
    assert_eq!(loaded.errors, []);
    let policy = FaultInjection::from_spec(&loaded.found.documents[0].spec).unwrap();
    assert_eq!(policy.sources.len(), 2);
    assert_eq!(policy.conf.delay.as_ref().unwrap().percentage, share(5_050, TenThousand));
    assert_eq!(policy.conf.response_bandwidth.as_ref().unwrap().limit.kbps, 50_000);
    let Target::Selectors(pods) = loaded.found.documents[0].spec.target() else { panic!("no selectors") };
    assert_eq!(pods[0].service(), Some("backend"));

    let delay = "delay: {percentage: 1, value: 1s}";
    for (sources, destinations, conf, expected) in [
        ("", HTTP, delay, "sources: found no selector; allowed: at least one"),
        ("{match: {}}", HTTP, delay, "sources[0].match: found no tags"),
        (
            ANY,
            ANY,
            delay,
            "destinations[0].match.\"kuma.io/protocol\": found nothing; allowed: http, http2 or grpc",
        ),
        (
            ANY,
            "{match: {kuma.io/protocol: tcp}}",
            delay,
            "destinations[0].match.\"kuma.io/protocol\": found \"tcp\"",
        ),
        (
            ANY,
            HTTP,
            "",
            "conf: found none of its fields; allowed: at least one of delay, abort, responseBandwidth",
        ),
        (
            ANY,
            HTTP,
            "abort: {httpStatus: 499, percentage: 1}",
            "conf.abort.httpStatus: found 499; allowed: a status that HTTP has",
        ),
        (ANY, HTTP, "abort: {httpStatus: 500, percentage: 100.1}", "conf.abort.percentage: found 100.1"),
        (
            ANY,
            HTTP,
            "delay: {percentage: 1}",
            "conf.delay.value: found nothing; allowed: this field is required",
        ),
    ] {
        let errors = errors(&older(sources, destinations, conf), "FaultInjection");
        assert!(matches!(&errors[..], [one] if one.starts_with(expected)), "{expected}: {errors:#?}");
    }
}
