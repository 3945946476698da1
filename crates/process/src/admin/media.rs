//! The choice between text, JSON and HTML by `Accept` (RFC 9110 §12.5.1).

use http::{HeaderMap, header};

/// Returns whether a request prefers JSON to text. Text is sent to a request that says nothing.
pub(super) fn prefers_json(headers: &HeaderMap) -> bool {
    prefers(headers, "application", "json")
}

/// Returns whether a request prefers HTML to text, as browsers do.
pub(super) fn prefers_html(headers: &HeaderMap) -> bool {
    prefers(headers, "text", "html")
}

/// Returns whether a request prefers a media type to text.
fn prefers(headers: &HeaderMap, kind: &str, subtype: &str) -> bool {
    let fields = headers.get_all(header::ACCEPT).iter();
    let ranges: Vec<_> = fields
        .filter_map(|field| field.to_str().ok())
        .flat_map(|field| field.split(','))
        .filter_map(range)
        .collect();
    weight(&ranges, kind, subtype) > weight(&ranges, "text", "plain")
}

/// Returns the type and subtype of a media range, and its weight in thousandths.
fn range(text: &str) -> Option<(String, String, u32)> {
    let mut parts = text.split(';').map(str::trim);
    let (kind, subtype) = parts.next()?.split_once('/')?;
    let weight = parts.find_map(|one| one.strip_prefix(['q', 'Q'])?.strip_prefix('='));
    let weight = match weight {
        Some(text) => text
            .parse::<f32>()
            .ok()
            .filter(|one| (0.0..=1.0).contains(one))?,
        None => 1.0,
    };
    let lower = str::to_ascii_lowercase;
    Some((lower(kind), lower(subtype), (weight * 1000.0) as u32))
}

/// Returns the weight of the most specific range that has a media type, or 0.
fn weight(ranges: &[(String, String, u32)], kind: &str, subtype: &str) -> u32 {
    let specific = |one: &&(String, String, u32)| match (one.0.as_str(), one.1.as_str()) {
        (a, b) if a == kind && b == subtype => Some(2),
        (a, "*") if a == kind => Some(1),
        ("*", "*") => Some(0),
        _ => None,
    };
    let of_type = ranges.iter().filter(|one| specific(one).is_some());
    of_type.max_by_key(specific).map_or(0, |one| one.2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_sent_only_where_it_is_preferred() {
        for (accept, is_json) in [
            ("", false),
            ("*/*", false),
            ("text/plain", false),
            ("application/json", true),
            ("Application/JSON", true),
            ("application/*", true),
            ("application/json, text/plain", false),
            ("application/json, text/plain;q=0.5", true),
            ("application/json;q=0.9, */*;q=0.1", true),
            ("application/json;q=0.1, */*;q=0.9", false),
            ("text/*;q=0, application/json;q=0.1", true),
            ("application/json;q=0", false),
            ("application/json;q=2", false),
            ("application/json;charset=utf-8;q=1", true),
            ("json", false),
            ("text/html,application/xhtml+xml,*/*;q=0.8", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(prefers_json(&headers), is_json, "{accept}");
        }
        assert!(!prefers_json(&HeaderMap::new()) && !prefers_html(&HeaderMap::new()));
    }

    #[test]
    fn html_is_sent_to_browsers_and_text_to_others() {
        let chromium = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8";
        for (accept, is_html) in [(chromium, true), ("text/html", true), ("*/*", false)] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(prefers_html(&headers), is_html, "{accept}");
        }
    }
}
