// SPDX-License-Identifier: Apache-2.0
//! Metrics as text, for agent and webhook alike.

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// Encodes all metrics of a registry in the OpenMetrics text format.
pub(crate) fn openmetrics(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing to a String does not fail.
    if encode(&mut out, registry).is_err() {
        out.push_str("# EOF\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn a_page_has_every_metric_and_an_end() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("culvert_fights", "Removals", counter.clone());
        counter.inc();
        assert_eq!(
            openmetrics(&registry),
            "# HELP culvert_fights Removals.\n# TYPE culvert_fights counter\nculvert_fights_total 1\n# EOF\n"
        );
        assert_eq!(openmetrics(&Registry::default()), "# EOF\n");
    }
}
