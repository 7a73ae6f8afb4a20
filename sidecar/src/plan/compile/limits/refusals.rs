// SPDX-License-Identifier: Apache-2.0
//! Documents of the policies about connections that Kuma's control plane refuses, and those that it takes.

use crate::options::Options;
use crate::plan::compile::read_with_mesh;
use clap::Parser;

/// The errors of a policy, each from its field on.
fn errors(kind: &str, spec: &str) -> Vec<String> {
    let config = Options::try_parse_from(["culvert-sidecar", "--resources=/mesh"]).unwrap().check().unwrap();
    let loaded = read_with_mesh(&config, &format!("{{type: {kind}, name: p, spec: {{{spec}}}}}"), "m.yaml");
    let start = format!("m.yaml: document 1 ({kind} p): ");
    let errors = loaded.errors.iter().map(ToString::to_string);
    errors.map(|error| error.strip_prefix(&start).map(str::to_owned).unwrap_or(error)).collect()
}

fn each_is_refused(kind: &str, rows: &[(&str, &str)]) {
    for (spec, expected) in rows {
        let errors = errors(kind, spec);
        assert!(matches!(&errors[..], [one] if one.starts_with(expected)), "{spec}: {errors:#?}");
    }
}

const TO: &str = "to: [{targetRef: {kind: Mesh}, default:";

#[test]
fn every_rule_of_kuma_about_timeouts_is_a_check() {
    for spec in [
        format!("{TO} {{connectionTimeout: 10s, idleTimeout: 1h}}}}]"),
        format!("{TO} {{idleTimeout: 0s, http: {{requestTimeout: 0s, streamIdleTimeout: 1h, maxStreamDuration: 1h, maxConnectionDuration: 1h, requestHeadersTimeout: 500ms}}}}}}]"),
        "targetRef: {kind: MeshSubset, tags: {kuma.io/service: web}}, to: [{targetRef: {kind: MeshExternalService, name: a}, default: {http: {requestTimeout: 1s}}}, \
         {targetRef: {kind: MeshExternalService, labels: {kuma.io/display-name: a}}, default: {http: {requestTimeout: 1s}}}]".into(),
        "to: [{targetRef: {kind: MeshHTTPRoute, name: r}, default: {http: {requestTimeout: 1s}}}]".into(),
        "targetRef: {kind: Dataplane, sectionName: http}, rules: [{default: {idleTimeout: 1h}}]".into(),
        "from: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1h}}], to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1h}}]".into(),
        "rules: [{matches: [{spiffeID: {type: Exact, value: 'spiffe://default/client'}, sni: {type: Exact, value: backend.mesh}}], \
         default: {http: {requestTimeout: 1s, streamIdleTimeout: 2s}}}, {matches: [], default: {idleTimeout: 1h}}]".into(),
    ] {
        assert_eq!(errors("MeshTimeout", &spec), [""; 0], "{spec}");
    }
    each_is_refused(
        "MeshTimeout",
        &[
            ("targetRef: {kind: Mesh}", "spec: found no entry; allowed: at least one in to, from or rules"),
            ("to: [], rules: []", "spec: found no entry; allowed: "),
            (
                "from: [{targetRef: {kind: MeshGatewayRoute}, default: {http: {requestTimeout: 1s}}}]",
                "spec.from[0].targetRef.kind: found \"MeshGatewayRoute\"; allowed: Mesh",
            ),
            (
                "to: [{targetRef: {kind: MeshServiceSubset}, default: {http: {requestTimeout: 1s}}}]",
                "spec.to[0].targetRef.kind: found \"MeshServiceSubset\"; allowed: Mesh, MeshService, ",
            ),
            (
                "targetRef: {kind: Dataplane, sectionName: a}, to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]",
                "spec.targetRef.sectionName: found an inbound; allowed: whole pods",
            ),
            (
                "to: [{targetRef: {kind: MeshService, name: a}}]",
                "spec.to[0].default: found nothing; allowed: this field is required",
            ),
            (
                "to: [{targetRef: {kind: MeshService, name: a}, default: {}}]",
                "spec.to[0].default: found none of its fields; allowed: at least one of connectionTimeout, idleTimeout, http",
            ),
            ("rules: [{default: {}}]", "spec.rules[0].default: found none of its fields; allowed: "),
            (
                "to: [{targetRef: {kind: Mesh}, default: {idleTimeout: -1s}}]",
                "spec.to[0].default.idleTimeout: found \"-1s\"; allowed: a duration",
            ),
            (
                "to: [{targetRef: {kind: Mesh}, default: {connectionTimeout: 0s}}]",
                "spec.to[0].default.connectionTimeout: found 0; allowed: a duration above 0",
            ),
            (
                "to: [{targetRef: {kind: Mesh}, default: {http: {}}}]",
                "spec.to[0].default.http: found none of its fields; allowed: at least one of requestTimeout, ",
            ),
            (
                "to: [{targetRef: {kind: Mesh}, default: {http: {requestHeadersTimeout: 1s}}}]",
                "spec.to[0].default.http: found none",
            ),
            (
                "to: [{targetRef: {kind: Mesh}, default: {http: {requestTimeout: -10s}}}]",
                "spec.to[0].default.http.requestTimeout: found \"-10s\"; allowed: ",
            ),
            (
                "to: [{targetRef: {kind: Mesh, name: a}, default: {idleTimeout: 1s}}]",
                "spec.to[0].targetRef.name: found it beside kind Mesh; allowed: ",
            ),
            (
                "to: [{targetRef: {kind: MeshService}, default: {idleTimeout: 1s}}]",
                "spec.to[0].targetRef.name: found nothing; allowed: the service's name, or labels",
            ),
            (
                "to: [{targetRef: {kind: MeshExternalService, name: a, labels: {kuma.io/display-name: a}}, default: {idleTimeout: 1s}}]",
                "spec.to[0].targetRef.labels: found labels beside a name or namespace; allowed: ",
            ),
            (
                "to: [{targetRef: {kind: MeshService, labels: {}}, default: {idleTimeout: 1s}}]",
                "spec.to[0].targetRef.labels: found none; allowed: ",
            ),
            (
                "to: [{targetRef: {kind: MeshHTTPRoute, name: r, sectionName: s}, default: {http: {requestTimeout: 1s}}}]",
                "spec.to[0].targetRef.sectionName: found it beside kind MeshHTTPRoute; allowed: ",
            ),
            (
                "rules: [{default: {idleTimeout: 1s}}], to: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]",
                "spec: found rules beside to or from; allowed: ",
            ),
            (
                "rules: [{default: {idleTimeout: 1s}}], from: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]",
                "spec: found rules beside to or from; allowed: ",
            ),
            (
                "too: [{targetRef: {kind: Mesh}, default: {idleTimeout: 1s}}]",
                "spec.too: found a field that culvert does not have",
            ),
            (
                "rules: [{matches: [{}], default: {http: {requestTimeout: 1s}}}]",
                "spec.rules[0].matches[0]: found neither spiffeID nor sni",
            ),
            (
                "rules: [{matches: [{spiffeID: {value: 'spiffe://default/client'}}], default: {http: {requestTimeout: 1s}}}]",
                "spec.rules[0].matches[0].spiffeID.type: found nothing",
            ),
            (
                "rules: [{matches: [{spiffeID: {type: Regex, value: 'spiffe://default/client'}}], default: {http: {requestTimeout: 1s}}}]",
                "spec.rules[0].matches[0].spiffeID.type: found \"Regex\"; allowed: Exact, Prefix",
            ),
            (
                "rules: [{matches: [{spiffeID: {type: Exact, value: client}}], default: {http: {requestTimeout: 1s}}}]",
                "spec.rules[0].matches[0].spiffeID.value: found \"client\"",
            ),
            (
                "rules: [{matches: [{sni: {type: Exact, value: a}}], default: {idleTimeout: 1s}}]",
                "spec.rules[0].default.idleTimeout: found it beside matches",
            ),
            (
                "rules: [{matches: [{sni: {type: Exact, value: a}}], default: {http: {requestTimeout: 1s, maxStreamDuration: 3s}}}]",
                "spec.rules[0].default.http.maxStreamDuration: found it beside matches",
            ),
        ],
    );
}

#[test]
fn every_rule_of_kuma_about_breakers_is_a_check() {
    let all = "connectionLimits: {maxConnections: 2, maxConnectionPools: 3, maxPendingRequests: 8, maxRetries: 2, maxRequests: 2}, \
        outlierDetection: {disabled: false, interval: 5s, baseEjectionTime: 30s, maxEjectionPercent: 20, splitExternalAndLocalErrors: true, healthyPanicThreshold: 50, \
        detectors: {totalFailures: {consecutive: 10}, gatewayFailures: {consecutive: 10}, localOriginFailures: {consecutive: 10}, \
        successRate: {minimumHosts: 5, requestVolume: 10, standardDeviationFactor: '1.9'}, failurePercentage: {requestVolume: 10, minimumHosts: 5, threshold: 85}}}";
    for spec in [
        format!("{TO} {{{all}}}}}]"),
        format!("from: [{{targetRef: {{kind: Mesh}}, default: {{{all}}}}}]"),
        format!("rules: [{{default: {{{all}}}}}]"),
        format!("{TO} {{outlierDetection: {{healthyPanicThreshold: '33.3'}}}}}}]"),
    ] {
        assert_eq!(errors("MeshCircuitBreaker", &spec), [""; 0], "{spec}");
    }
    let limits = |text: &str| format!("{TO} {{connectionLimits: {{{text}}}}}}}]");
    let outlier = |text: &str| format!("{TO} {{outlierDetection: {{{text}}}}}}}]");
    let rows = [
        ("targetRef: {kind: Mesh}".into(), "spec: found no entry"),
        (format!("{TO} {{}}}}]"), "spec.to[0].default: found none of its fields; allowed: at least one of connectionLimits, outlierDetection"),
        ("to: [{targetRef: {kind: MeshHTTPRoute, name: r}, default: {connectionLimits: {maxConnections: 1}}}]".into(), "spec.to[0].targetRef.kind: found \"MeshHTTPRoute\"; allowed: "),
        (limits("maxConnections: 0"), "spec.to[0].default.connectionLimits.maxConnections: found 0; allowed: a number from 1"),
        (limits("maxConnectionPools: 0"), "spec.to[0].default.connectionLimits.maxConnectionPools: found 0"),
        (limits("maxPendingRequests: 0"), "spec.to[0].default.connectionLimits.maxPendingRequests: found 0"),
        (limits("maxRetries: 0"), "spec.to[0].default.connectionLimits.maxRetries: found 0"),
        (limits("maxRequests: 0"), "spec.to[0].default.connectionLimits.maxRequests: found 0"),
        (outlier("interval: 0s, detectors: {totalFailures: {}}"), "spec.to[0].default.outlierDetection.interval: found 0; allowed: a duration above 0"),
        (outlier("baseEjectionTime: 0s, detectors: {totalFailures: {}}"), "spec.to[0].default.outlierDetection.baseEjectionTime: found 0"),
        (outlier("maxEjectionPercent: 101, detectors: {totalFailures: {}}"), "spec.to[0].default.outlierDetection.maxEjectionPercent: found 101; allowed: a number from 0 to 100"),
        (outlier("healthyPanicThreshold: 101"), "spec.to[0].default.outlierDetection.healthyPanicThreshold: found more than 100"),
        (outlier("healthyPanicThreshold: half"), "spec.to[0].default.outlierDetection.healthyPanicThreshold: found \"half\"; allowed: a number"),
        (outlier("disabled: true"), "spec.to[0].default.outlierDetection.detectors: found nothing; allowed: at least one"),
        (outlier("detectors: {}"), "spec.to[0].default.outlierDetection.detectors: found none of its fields"),
        (outlier("detectors: {totalFailures: {consecutive: 0}}"), "spec.to[0].default.outlierDetection.detectors.totalFailures.consecutive: found 0"),
        (outlier("detectors: {successRate: {standardDeviationFactor: 0}}"), "spec.to[0].default.outlierDetection.detectors.successRate.standardDeviationFactor: found 0; allowed: a number above 0"),
        (outlier("detectors: {failurePercentage: {threshold: 101}}"), "spec.to[0].default.outlierDetection.detectors.failurePercentage.threshold: found 101"),
    ];
    let rows: Vec<_> =
        rows.iter().map(|(spec, expected): &(String, &str)| (spec.as_str(), *expected)).collect();
    each_is_refused("MeshCircuitBreaker", &rows);
}

#[test]
fn every_rule_of_kuma_about_retries_is_a_check() {
    let all = "tcp: {maxConnectAttempt: 5}, http: {numRetries: 11, perTryTimeout: 12s, backOff: {baseInterval: 13s, maxInterval: 14m}, \
        rateLimitedBackOff: {resetHeaders: [{name: a, format: Seconds}, {name: b, format: UnixTimestamp}], maxInterval: 16m}, \
        retryOn: [5xx, GatewayError, Reset, ConnectFailure, HttpMethodGet, '429', 503], retriableResponseHeaders: [{type: Exact, name: c, value: d}], \
        retriableRequestHeaders: [{name: c, type: Present}], hostSelection: [{predicate: OmitPreviousHosts}, {predicate: OmitHostsWithTags, tags: {a: b}}, \
        {predicate: OmitPreviousPriorities, updateFrequency: 2}], hostSelectionMaxAttempts: 3}, \
        grpc: {numRetries: 11, perTryTimeout: 12s, backOff: {baseInterval: 13s}, retryOn: [Canceled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable]}";
    assert_eq!(errors("MeshRetry", &format!("{TO} {{{all}}}}}]")), [""; 0]);
    let of = |text: &str| format!("{TO} {{{text}}}}}]");
    let rows = [
        ("targetRef: {kind: Mesh}".into(), "spec.to: found no entry; allowed: at least one"),
        ("targetRef: {kind: Dataplane, sectionName: a}, to: [{targetRef: {kind: Mesh}, default: {tcp: {maxConnectAttempt: 5}}}]".into(), "spec.targetRef.sectionName: found an inbound"),
        (of(""), "spec.to[0].default: found none of its fields; allowed: at least one of tcp, http, grpc"),
        (of("tcp: {}"), "spec.to[0].default.tcp.maxConnectAttempt: found nothing; allowed: this field"),
        (of("tcp: {maxConnectAttempt: 0}"), "spec.to[0].default.tcp.maxConnectAttempt: found 0; allowed: a number from 1"),
        (of("numRetries: 3"), "spec.to[0].default.numRetries: found a field that culvert does not have"),
        (of("http: {}"), "spec.to[0].default.http: found none of its fields"),
        (of("grpc: {}"), "spec.to[0].default.grpc: found none of its fields"),
        (of("http: {backOff: {}}"), "spec.to[0].default.http.backOff: found none of its fields"),
        (of("http: {retryOn: ['123']}"), "spec.to[0].default.http.retryOn[0]: found \"123\"; allowed: 5xx, "),
        (of("http: {retryOn: [952]}"), "spec.to[0].default.http.retryOn[0]: found 952; allowed: 5xx, "),
        (of("http: {retryOn: [sometimes]}"), "spec.to[0].default.http.retryOn[0]: found \"sometimes\"; allowed: 5xx, "),
        (of("grpc: {retryOn: [Sometimes]}"), "spec.to[0].default.grpc.retryOn[0]: found \"Sometimes\"; allowed: Canceled, "),
        (of("http: {rateLimitedBackOff: {maxInterval: 1s}}"), "spec.to[0].default.http.rateLimitedBackOff.resetHeaders: found nothing"),
        (of("http: {rateLimitedBackOff: {maxInterval: 0s, resetHeaders: [{name: a, format: Seconds}]}}"), "spec.to[0].default.http.rateLimitedBackOff.maxInterval: found 0"),
        (of("http: {rateLimitedBackOff: {resetHeaders: [{name: '', format: Seconds}]}}"), "spec.to[0].default.http.rateLimitedBackOff.resetHeaders[0].name: found an empty text"),
        (of("http: {hostSelection: [{predicate: OmitHostsWithTags}]}"), "spec.to[0].default.http.hostSelection[0].tags: found nothing"),
        (of("http: {hostSelection: [{predicate: OmitPreviousPriorities, updateFrequency: 0}]}"), "spec.to[0].default.http.hostSelection[0].updateFrequency: found 0"),
        (of("http: {hostSelection: [{predicate: OmitPreviousPriorities}, {predicate: OmitPreviousPriorities}]}"), "spec.to[0].default.http.hostSelection[1].predicate: found OmitPreviousPriorities again"),
        (of("http: {hostSelection: [{predicate: OmitAll}]}"), "spec.to[0].default.http.hostSelection[0].predicate: found \"OmitAll\""),
    ];
    let rows: Vec<_> =
        rows.iter().map(|(spec, expected): &(String, &str)| (spec.as_str(), *expected)).collect();
    each_is_refused("MeshRetry", &rows);
}

#[test]
fn every_rule_of_kuma_about_the_older_kinds_is_a_check() {
    let of = |selectors: &str, conf: &str| {
        let config =
            Options::try_parse_from(["culvert-sidecar", "--resources=/mesh"]).unwrap().check().unwrap();
        let (kind, conf) = conf.split_once(' ').unwrap();
        let text = format!("{{type: {kind}, name: p, {selectors}, conf: {{{conf}}}}}");
        let loaded = read_with_mesh(&config, &text, "m.yaml");
        let errors: Vec<_> = loaded.errors.iter().map(ToString::to_string).collect();
        let start = format!("m.yaml: document 1 ({kind} p): ");
        errors.iter().map(|error| error.replace(&start, "")).collect::<Vec<_>>()
    };
    const ANY: &str = "sources: [{match: {kuma.io/service: '*', version: '1'}}], destinations: [{match: {kuma.io/service: '*'}}]";
    for conf in [
        "Timeout connectTimeout: 5s, tcp: {idleTimeout: 1h}, http: {requestTimeout: 15s, idleTimeout: 1h, streamIdleTimeout: 30m, maxStreamDuration: 0s}, grpc: {streamIdleTimeout: 1s}",
        "CircuitBreaker interval: 5s, baseEjectionTime: 30s, maxEjectionPercent: 20, splitExternalAndLocalErrors: false, \
         thresholds: {maxConnections: 2, maxPendingRequests: 2, maxRequests: 2, maxRetries: 2}, detectors: {totalErrors: {consecutive: 20}, gatewayErrors: {consecutive: 10}, \
         localErrors: {consecutive: 7}, standardDeviation: {requestVolume: 10, minimumHosts: 5, factor: 1.9}, failure: {requestVolume: 10, minimumHosts: 5, threshold: 85}}",
        "CircuitBreaker detectors: {totalErrors: {}, standardDeviation: {}}",
        "Retry http: {numRetries: 5, perTryTimeout: 200ms, backOff: {baseInterval: 20ms, maxInterval: 1s}, retriableStatusCodes: [500, 504], retriableMethods: [GET, DELETE]}, \
         grpc: {numRetries: 5, retryOn: [cancelled, deadline_exceeded, internal, resource_exhausted, unavailable]}, tcp: {maxConnectAttempts: 3}",
    ] {
        assert_eq!(of(ANY, conf), [""; 0], "{conf}");
    }
    for (selectors, conf, expected) in [
        (
            "sources: [], destinations: [{match: {kuma.io/service: '*'}}]",
            "Timeout connectTimeout: 1s",
            "sources: found no selector",
        ),
        (
            "sources: [{match: {version: '1'}}], destinations: [{match: {kuma.io/service: '*'}}]",
            "Timeout connectTimeout: 1s",
            "sources[0].match.\"kuma.io/service\": found nothing",
        ),
        (
            "sources: [{match: {kuma.io/service: a}}], destinations: [{match: {kuma.io/service: b, version: '1'}}]",
            "Timeout connectTimeout: 1s",
            "destinations[0].match.version: found a tag beside the service",
        ),
        (ANY, "Timeout connectTimeout: 0s", "conf.connectTimeout: found 0"),
        (ANY, "Timeout tcp: {}", "conf.tcp.idleTimeout: found nothing"),
        (ANY, "Timeout tcp: {idleTimeout: 0s}", "conf.tcp.idleTimeout: found 0"),
        (ANY, "Timeout http: {}", "conf.http: found none of its fields"),
        (ANY, "Timeout http: {requestTimeout: 0s}", "conf.http.requestTimeout: found 0"),
        (ANY, "Timeout grpc: {}", "conf.grpc: found none of its fields"),
        (
            ANY,
            "CircuitBreaker interval: 1s",
            "conf: found none of its fields; allowed: at least one of thresholds, detectors",
        ),
        (ANY, "CircuitBreaker detectors: {}", "conf.detectors: found none of its fields"),
        (ANY, "CircuitBreaker thresholds: {}", "conf.thresholds: found none of its fields"),
        (
            ANY,
            "CircuitBreaker maxEjectionPercent: 101, detectors: {totalErrors: {}}",
            "conf.maxEjectionPercent: found 101",
        ),
        (ANY, "Retry tcp: {maxConnectAttempts: 0}", "conf.tcp.maxConnectAttempts: found 0"),
        (ANY, "Retry http: {}", "conf.http: found none of its fields"),
        (ANY, "Retry http: {numRetries: 0}", "conf.http.numRetries: found 0"),
        (ANY, "Retry http: {backOff: {maxInterval: 1s}}", "conf.http.backOff.baseInterval: found nothing"),
        (
            ANY,
            "Retry http: {retryOn: [retriable_status_codes]}",
            "conf.http.retriableStatusCodes: found nothing",
        ),
        (ANY, "Retry grpc: {perTryTimeout: 0s}", "conf.grpc.perTryTimeout: found 0"),
        (
            ANY,
            "Retry grpc: {retryOn: [internal, unavailable, internal]}",
            "conf.grpc.retryOn: found a status a second time",
        ),
        (
            "sources: [{match: {}}], destinations: [{match: {kuma.io/service: '*'}}]",
            "RateLimit http: {requests: 1, interval: 1s}",
            "sources[0].match: found no tags",
        ),
        (
            ANY,
            "RateLimit http: {requests: 1, interval: 1s, onRateLimit: {headers: [{key: '', value: a}]}}",
            "conf.http.onRateLimit.headers[0].key: found \"\"; allowed: a name of letters",
        ),
        (
            ANY,
            "RateLimit http: {requests: 1, interval: 1s, onRateLimit: {headers: [{key: a, value: ''}]}}",
            "conf.http.onRateLimit.headers[0].value: found an empty text",
        ),
        (
            ANY,
            "RateLimit http: {requests: 1, interval: 1s, onRateLimit: {headers: [{key: Content-Length, value: '9'}]}}",
            "conf.http.onRateLimit.headers[0].key: found \"Content-Length\"",
        ),
        (
            ANY,
            "RateLimit http: {requests: 1, interval: 1s, onRateLimit: {headers: [{key: a, value: \"b\\r\\nc: d\"}]}}",
            "conf.http.onRateLimit.headers[0].value: found",
        ),
        (ANY, "RateLimit http: {requests: 0, interval: 1s}", "conf.http.requests: found 0"),
        (ANY, "RateLimit http: {requests: 1, interval: 0s}", "conf.http.interval: found 0"),
        (ANY, "RateLimit http: {requests: 1}", "conf.http.interval: found nothing"),
    ] {
        let errors = of(selectors, conf);
        assert!(matches!(&errors[..], [one] if one.starts_with(expected)), "{conf}: {errors:#?}");
    }
}
