use std::time::{Duration, UNIX_EPOCH};

use common::{reason::Reason, throttle::RefusedRequest};
use http::StatusCode;

use super::*;
use crate::admin::conditions::Condition;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn report() -> Report {
    let condition = Condition::new("identity", State::Degraded, "<b>away</b> & \"gone\"");
    Report {
        now: at(1000),
        conditions: vec![condition.since(at(940)).until(Some(at(1090)))],
    }
}

#[test]
fn page_escapes_what_peers_and_callers_say() {
    let (shown, quotas) = (Shown::default(), Arc::<LogQuotas>::default());
    shown.refusals(&quotas);
    let status = StatusCode::UNAUTHORIZED;
    let fault = "<script>alert(1)</script>";
    let refused = RefusedRequest::new(status, Reason::NoToken, fault, "127.0.0.1:1");
    quotas.recent.add(refused.of("GET", "/<img src=x>"));
    let page = render(&report(), &shown, &[("/ready", "the conditions")], true);
    for text in ["<script", "<img", "<b>"] {
        assert!(!page.contains(text), "{text} in {page}");
    }
    assert!(
        page.contains("&lt;b&gt;away&lt;/b&gt; &amp; &quot;gone&quot;"),
        "{page}"
    );
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(
        page.contains(r#"<span class="reason">no_token</span> 401"#),
        "{page}"
    );
}

#[test]
fn page_says_the_state_and_its_times_and_refreshes_unless_it_is_told_not_to() {
    let shown = Shown::default();
    shown.listener("requests", "[::]:8080");
    let pages = [true, false].map(|refreshes| render(&report(), &shown, &[], refreshes));
    for page in &pages {
        assert!(page.contains("degraded, 1 min 30 s left"), "{page}");
        assert!(
            page.contains("<div>1 min 30 s left</div><div>for 1 min</div>"),
            "{page}"
        );
        assert!(page.contains("[::]:8080"), "{page}");
        // The policy of the page forbids these.
        assert!(!page.contains("style=") && !page.contains("<style") && !page.contains(" on"));
    }
    let refresh = r#"<meta http-equiv="refresh" content="5">"#;
    assert_eq!(pages.map(|page| page.contains(refresh)), [true, false]);
}

#[test]
fn duration_has_its_two_largest_units() {
    for (seconds, text) in [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (3661, "1 h 1 min"),
        (86_400, "1 d"),
        (90_061, "1 d 1 h"),
        (40_000_000, "462 d 23 h"),
    ] {
        assert_eq!(duration(Duration::from_secs(seconds)), text);
    }
}

#[test]
fn bar_has_the_part_of_the_life_that_is_over() {
    for (from, until, now, percent) in [
        (0, 100, 0, 0),
        (0, 100, 67, 67),
        (0, 100, 100, 100),
        (0, 100, 900, 100),
        (50, 100, 10, 0),
        (50, 50, 60, 100),
        (0, 3, 1, 33),
    ] {
        assert_eq!(
            parts::percent(at(from), at(until), at(now)),
            percent,
            "{now}"
        );
    }
}
