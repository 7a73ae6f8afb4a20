// SPDX-License-Identifier: Apache-2.0
use super::*;

fn labels(application: bool) -> SeriesLabels {
    let name: Arc<str> = "app".into();
    SeriesLabels::new(
        &[("mesh", "default".into()), ("dataplane", "a\"b".into())],
        application.then_some(("otel_scope_name", &name)),
    )
}

async fn text(page: &str) -> Result<String, ScrapeFailure> {
    let labels = SeriesLabels::new(&[("mesh", "m".into())], None);
    Ok(read(page, &labels, usize::MAX).await?.into_text())
}

#[tokio::test]
async fn every_line_gets_the_labels_and_families_stay_together() {
    let labels = labels(true);
    let page = "# HELP http_requests_total Requests, \\\\ and \\n.\n# TYPE http_requests_total counter\n\
        http_requests_total{method=\"post\",code=\"200\"} 1027 1395066363000\n\
        http_requests_total{method=\"post\",code=\"400\",} 3\n\
        # A comment.\n\nbare 12.47\n\
        # TYPE rpc summary\nrpc{quantile=\"0.5\"} 4773\nrpc_sum 1.7560473e+07\nrpc_count 2693\n\
        \tspaced \t { a = \"x\\\"y\" , mesh=\"theirs\" } \t +Inf\n";
    let ours = "mesh=\"default\",dataplane=\"a\\\"b\",otel_scope_name=\"app\"";
    assert_eq!(
        read(page, &labels, usize::MAX).await.unwrap().into_text(),
        format!(
            "# HELP http_requests_total Requests, \\\\ and \\n.\n# TYPE http_requests_total counter\n\
             http_requests_total{{method=\"post\",code=\"200\",{ours}}} 1027 1395066363000\n\
             http_requests_total{{method=\"post\",code=\"400\",{ours}}} 3\n\
             bare{{{ours}}} 12.47\n\
             # TYPE rpc summary\nrpc{{quantile=\"0.5\",{ours}}} 4773\nrpc_sum{{{ours}}} 1.7560473e+07\nrpc_count{{{ours}}} 2693\n\
             spaced{{a=\"x\\\"y\",{ours}}} +Inf\n"
        )
    );
}

#[tokio::test]
async fn openmetrics_is_read_as_far_as_it_is_text() {
    let page = "# HELP a Bs of a.\n# TYPE a counter\n# UNIT a bs\na_total{x=\"1\"} 1 # {trace=\"t\"} 0.5 1.5\n\
        # TYPE d histogram\nd_bucket{le=\"1.0\"} 3 1520879607.789\nd_count 3\n# TYPE e unknown\ne NaN\n# EOF\n";
    assert_eq!(
        text(page).await.unwrap(),
        "# HELP a_total Bs of a.\n# TYPE a_total counter\na_total{x=\"1\",mesh=\"m\"} 1\n\
         # TYPE d histogram\nd_bucket{le=\"1.0\",mesh=\"m\"} 3 1520879607789\nd_count{mesh=\"m\"} 3\ne{mesh=\"m\"} NaN\n"
    );
}

#[tokio::test]
async fn one_wrong_line_makes_the_page_wrong() {
    for wrong in [
        "<html>",
        "a",
        "a ",
        "a b",
        "1a 1",
        "a-b 1",
        "a{ 1",
        "a{b} 1",
        "a{b=1} 1",
        "a{b=\"1} 1",
        "a{b=\"1\"",
        "a{b=\"\\x\"} 1",
        "a{b=\"1\" c=\"2\"} 1",
        "a{b=\"1\",b=\"2\"} 1",
        "a{__name__=\"b\"} 1",
        "a{1=\"b\"} 1",
        "a{b:c=\"d\"} 1",
        "a{\"b c\"} 1",
        "a 1 x",
        "a 1 2 3",
        "\u{e4} 1",
        "\0",
        "HTTP/1.1 200 OK",
    ] {
        let page = format!("good 1\n{wrong}\n");
        assert_eq!(text(&page).await, Err(ScrapeFailure::Malformed), "{wrong:?}");
    }
    for right in ["", "\n\n", "# anything goes \0 {", "#", "# TYPE", "# HELP a-b c", "a 1\r\n"] {
        assert!(text(right).await.is_ok(), "{right:?}");
    }
}

#[tokio::test]
async fn pages_are_joined_by_families_and_the_first_says_their_type() {
    let own = SeriesLabels::new(&[("mesh", "m".into())], None);
    let name: Arc<str> = "x".into();
    let theirs = SeriesLabels::new(&[("mesh", "m".into())], Some(("otel_scope_name", &name)));
    let mut all = read("# HELP a Ours.\n# TYPE a gauge\na 1\n", &own, usize::MAX).await.unwrap();
    let page = "# HELP a Theirs.\n# TYPE a counter\na 2\n# TYPE b counter\nb 3\n";
    all.append(read(page, &theirs, usize::MAX).await.unwrap());
    assert_eq!(
        all.into_text(),
        "# HELP a Ours.\n# TYPE a gauge\na{mesh=\"m\"} 1\na{mesh=\"m\",otel_scope_name=\"x\"} 2\n\
         # TYPE b counter\nb{mesh=\"m\",otel_scope_name=\"x\"} 3\n"
    );
}

#[tokio::test]
async fn what_comes_of_a_page_is_bounded() {
    let labels = labels(true);
    let lines = |count: usize| "a 1\n".repeat(count);
    let each = read(&lines(1), &labels, usize::MAX).await.unwrap().bytes();
    // Text that grows takes up to twice its length.
    let most = FAMILY + 2 + each * 2000;
    let right = read(&lines(1000), &labels, most).await.unwrap();
    assert!((each * 1000..=most).contains(&right.memory()), "{}", right.memory());
    let larger = read(&lines(2001), &labels, most).await;
    assert_eq!(larger.map(|_| ()), Err(ScrapeFailure::TooLarge));
    let help = format!("# HELP a {}\na 1\n", "x".repeat(most));
    assert_eq!(read(&help, &labels, most).await.map(|_| ()), Err(ScrapeFailure::TooLarge), "help counts");
    let families = |count: usize| (0..count).map(|number| format!("a{number} 1\n")).collect::<String>();
    assert!(read(&families(MOST_FAMILIES), &labels, usize::MAX).await.is_ok());
    let more = read(&families(MOST_FAMILIES + 1), &labels, usize::MAX).await;
    assert_eq!(more.map(|_| ()), Err(ScrapeFailure::TooLarge));
}

#[tokio::test]
async fn the_help_of_a_counter_goes_to_its_samples_once() {
    let help = "x".repeat(1000);
    let page = format!("# HELP a {help}\n# TYPE a counter\n")
        + &(0..1000).map(|n| format!("a_total{{n=\"{n}\"}} 1\n")).collect::<String>();
    let labels = SeriesLabels::new(&[], None);
    let read = read(&page, &labels, usize::MAX).await.unwrap();
    let samples = read.bytes();
    // Twice for the samples as they grow, and twice for the help and the two families.
    assert!(read.memory() < 2 * samples + 2 * (help.len() + FAMILY + 100), "{} of {samples}", read.memory());
    let text = read.into_text();
    assert_eq!((text.matches("# HELP a_total x").count(), text.matches("# HELP").count()), (1, 1));
}
