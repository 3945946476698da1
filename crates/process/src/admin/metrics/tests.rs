use std::{collections::BTreeMap, sync::Arc, time::Duration};

use common::workload::tokens::TokenStatus;
use serve::Limits;

use super::*;

/// Returns a page with all metrics that need no identity.
fn page() -> String {
    let metrics = Metrics::new(Conditions::default());
    metrics.role("server");
    metrics.listener(&Shared::new(Limits::new(9)));
    metrics.callers(&Arc::default());
    metrics.identity(&Monitor::new());
    metrics.text()
}

#[test]
fn each_sample_follows_its_help_and_its_type_and_has_the_role() {
    let page = page();
    let mut kinds = BTreeMap::new();
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(help.ends_with('.'), "{line}");
            family = name;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(kinds.insert(name, kind).is_none(), "{name} is there twice");
        } else {
            let (name, rest) = line.split_once('{').unwrap();
            assert!(name.starts_with(family), "{line}");
            assert!(rest.starts_with("role=\"server\""), "{line}");
        }
    }
    assert_eq!(kinds["spiffe_refusals_total"], "counter");
    assert_eq!(kinds["spiffe_request_duration_seconds"], "histogram");
    assert_eq!(kinds["process_open_fds"], "gauge");
}

#[test]
fn values_of_labels_are_escaped_and_tokens_for_one_audience_counted_together() {
    let mut page = Page::new("client");
    let status = TokenStatus {
        fetched: 2,
        failed: 1,
        ..TokenStatus::default()
    };
    let tokens = [("a\"b\\c\nd", status.clone()), ("a\"b\\c\nd", status)];
    token::write(tokens.into_iter(), &mut page);
    let text = page.into_text();
    let line =
        r#"spiffe_jwt_svid_fetches_total{role="client",audience="a\"b\\c\nd",result="failure"} 2"#;
    assert!(text.lines().any(|one| one == line), "{text}");
}

#[test]
fn a_histogram_has_its_buckets_their_sum_and_their_count() {
    let histogram = common::count::Histogram::new(&[500, 1_000_000]);
    for millis in [0, 600, 2000] {
        histogram.add(Duration::from_millis(millis));
    }
    let mut page = Page::new("proxy");
    page.histogram("a_seconds", "Help.", &histogram.read());
    let expected = "\
# HELP a_seconds Help.
# TYPE a_seconds histogram
a_seconds_bucket{role=\"proxy\",le=\"0.0005\"} 1
a_seconds_bucket{role=\"proxy\",le=\"1\"} 2
a_seconds_bucket{role=\"proxy\",le=\"+Inf\"} 3
a_seconds_sum{role=\"proxy\"} 2.6
a_seconds_count{role=\"proxy\"} 3
";
    assert_eq!(page.into_text(), expected);
}
