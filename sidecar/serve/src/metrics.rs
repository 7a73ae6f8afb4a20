// SPDX-License-Identifier: Apache-2.0
//! Metrics in the format that the reader asks for: OpenMetrics, or Prometheus' text format 0.0.4.

use crate::reply::{Reply, of_type};
use hyper::StatusCode;
use hyper::header::{ACCEPT, HeaderMap};
use std::collections::HashSet;

/// Content type of OpenMetrics, as Prometheus asks for it.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Content type of the format before it, which has a name of its own only by its version.
pub const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Makes an answer of metrics: OpenMetrics, unless the request prefers `text/plain`.
pub fn metrics(headers: &HeaderMap, openmetrics: impl Into<String>) -> Reply {
    let openmetrics = openmetrics.into();
    if prefers_text(headers) {
        return of_type(StatusCode::OK, TEXT, text_format(&openmetrics));
    }
    of_type(StatusCode::OK, OPENMETRICS, openmetrics)
}

/// Returns true if `text/plain` has a higher weight than OpenMetrics. `*/*` asks for neither.
fn prefers_text(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut text, mut openmetrics) = (0.0_f32, 0.0_f32);
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q=")?.trim().parse().ok()).unwrap_or(1.0);
        match kind.as_str() {
            "text/plain" | "text/*" => text = text.max(weight),
            "application/openmetrics-text" | "application/*" => openmetrics = openmetrics.max(weight),
            _ => {}
        }
    }
    text > openmetrics
}

/// Rewrites OpenMetrics: there a counter's family lacks the `_total` that its series has, and the page has an end.
pub fn text_format(openmetrics: &str) -> String {
    let types = || openmetrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let counters: HashSet<_> = types().filter(|(_, kind)| *kind == "counter").map(|(name, _)| name).collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let described =
            ["# HELP ", "# TYPE "].iter().find_map(|start| Some((*start, line.strip_prefix(start)?)));
        match described.and_then(|(start, rest)| Some((start, rest.split_once(' ')?))) {
            Some((start, (name, rest))) => {
                let total = if counters.contains(name) { "_total" } else { "" };
                let untyped = start == "# TYPE " && rest == "unknown";
                let rest = if untyped { "untyped" } else { rest };
                text.extend([start, name, total, " ", rest, "\n"]);
            }
            None if line == "# EOF" || line.starts_with("# UNIT ") => {}
            None => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    #[test]
    fn the_format_is_the_one_that_is_asked_for() {
        for (accept, text) in [
            (&[][..], false),
            (&["*/*"], false),
            (&["text/plain"], true),
            (&["Text/Plain; version=0.0.4"], true),
            (&["text/*"], true),
            (&["text/plain, */*;q=0.1"], true),
            (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], false),
            (&["application/openmetrics-text"], false),
            (&["application/openmetrics-text;version=1.0.0,text/plain"], false),
            // Prometheus' own, by its versions.
            (
                &[
                    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1",
                ],
                false,
            ),
            (&["text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5"], true),
            (&["application/openmetrics-text;q=0.1", "text/plain"], true),
            (&["text/plain;q=0"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(prefers_text(&headers), text, "{accept:?}");
        }
    }

    #[test]
    fn the_text_format_names_counters_by_their_series_and_has_no_end() {
        let openmetrics = "# HELP a_b Bs of a.\n# TYPE a_b counter\n# UNIT a_b bs\na_b_total{x=\"# EOF\"} 1\n\
            # TYPE c gauge\nc 2\n# TYPE d histogram\nd_bucket{le=\"1.0\"} 3\n# TYPE e unknown\ne 4\n# EOF\n";
        assert_eq!(
            text_format(openmetrics),
            "# HELP a_b_total Bs of a.\n# TYPE a_b_total counter\na_b_total{x=\"# EOF\"} 1\n\
             # TYPE c gauge\nc 2\n# TYPE d histogram\nd_bucket{le=\"1.0\"} 3\n# TYPE e untyped\ne 4\n"
        );
    }
}
