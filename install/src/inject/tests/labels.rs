// SPDX-License-Identifier: Apache-2.0
use super::*;

#[test]
fn labels_of_the_pod_count_before_those_of_the_namespace() {
    let own = "culvert.dev/inject";
    let kumas = "kuma.io/sidecar-injection";
    for (of_pod, of_namespace, expected) in [
        (&[][..], &[][..], "skipped: neither"),
        (&[], &[(own, "enabled")], "injected: label culvert.dev/inject: enabled of the namespace"),
        (&[], &[(own, "disabled")], "skipped: label culvert.dev/inject: disabled of the namespace"),
        (&[(own, "enabled")], &[], "injected: label culvert.dev/inject: enabled of the pod"),
        (&[(own, "enabled")], &[(own, "disabled")], "injected"),
        (&[(own, "disabled")], &[(own, "enabled")], "skipped: label culvert.dev/inject: disabled of the pod"),
        (&[(own, "disabled")], &[(own, "bogus")], "skipped"),
        (&[(own, "enabled"), (kumas, "disabled")], &[], "injected"),
        (&[(kumas, "true")], &[], "injected: label kuma.io/sidecar-injection: true of the pod"),
        (&[(kumas, "disabled")], &[(own, "enabled")], "skipped"),
        (&[], &[(kumas, "enabled")], "injected"),
        (
            &[(own, "yes")],
            &[],
            "refused: label culvert.dev/inject of the pod must be enabled or disabled: it is \"yes\"",
        ),
        (
            &[(own, "enabled"), (kumas, "no")],
            &[],
            "must be enabled or true or disabled or false: it is \"no\"",
        ),
        (&[], &[(own, "")], "refused: label culvert.dev/inject of the namespace must be"),
    ] {
        let mut pod = pod(json!({}), web());
        pod["metadata"]["labels"] = of_pod.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let namespace = Namespace { labels: names(of_namespace), ..Namespace::default() };
        let said = match decide(&pod, &namespace, &settings(Shape::Native)) {
            Decision::Injected(injected) => injected.words,
            Decision::Skipped(skipped) => format!("skipped: {skipped}"),
            Decision::Refused(refusal) => format!("refused: {refusal}"),
        };
        assert!(said.contains(expected), "{of_pod:?} {of_namespace:?}: {said}");
    }
}

/// Kuma's injector reads it in that cluster: it may be there with any value, and say yes or no to Kuma alone.
#[test]
fn kumas_label_counts_for_nothing_where_it_is_off() {
    let own = "culvert.dev/inject";
    let kumas = "kuma.io/sidecar-injection";
    let off = Settings { kuma_label: KumaLabel::Off, ..settings(Shape::Native) };
    for (of_pod, of_namespace, expected) in [
        (
            &[(kumas, "disabled")][..],
            &[(own, "enabled")][..],
            "injected: label culvert.dev/inject: enabled of the namespace",
        ),
        (&[(kumas, "enabled")], &[], "skipped: neither"),
        (&[], &[(kumas, "enabled")], "skipped: neither"),
        (
            &[(kumas, "enabled")],
            &[(own, "disabled")],
            "skipped: label culvert.dev/inject: disabled of the namespace",
        ),
        (&[(kumas, "bogus")], &[(own, "enabled")], "injected"),
        (&[(own, "enabled")], &[(kumas, "bogus")], "injected"),
    ] {
        for in_annotations in [false, true] {
            let annotations = if in_annotations { json!({ kumas: "enabled" }) } else { json!({}) };
            let mut pod = pod(annotations, web());
            pod["metadata"]["labels"] = of_pod.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
            let namespace = Namespace { labels: names(of_namespace), ..Namespace::default() };
            let said = match decide(&pod, &namespace, &off) {
                Decision::Injected(injected) => injected.words,
                Decision::Skipped(skipped) => format!("skipped: {skipped}"),
                Decision::Refused(refusal) => format!("refused: {refusal}"),
            };
            assert!(said.contains(expected), "{of_pod:?} {of_namespace:?}: {said}");
        }
    }
}
