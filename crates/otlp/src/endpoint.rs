//! The collector that spans are sent to.

use std::str::FromStr;

use forward::outbound::{Protocol, UpstreamUrl, has_bad_port};
use http::{Uri, uri::PathAndQuery};

/// The path of a collector for spans in OTLP over HTTP.
const DEFAULT_PATH: &str = "/v1/traces";

const EXAMPLE: &str = "expected for example http://127.0.0.1:4318";

/// The URL of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    url: UpstreamUrl,
    path: PathAndQuery,
}

impl Endpoint {
    /// Returns the URL to connect to.
    #[must_use]
    pub fn url(&self) -> &UpstreamUrl {
        &self.url
    }

    pub(crate) fn path(&self) -> &PathAndQuery {
        &self.path
    }

    /// Returns whether the connection to the collector has TLS.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.url.protocol() == Protocol::Https
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = |rule: &str| Err(format!("{rule}; {EXAMPLE}"));
        let Ok(uri) = text.parse::<Uri>() else {
            return error("not a URL");
        };
        let protocol = match uri.scheme_str() {
            Some("http") => Protocol::Http,
            Some("https") => Protocol::Https,
            _ => return error("the scheme must be http or https"),
        };
        let Some(authority) = uri.authority().filter(|one| !one.host().is_empty()) else {
            return error("the host is missing");
        };
        if authority.as_str().contains('@') {
            return error("credentials don't belong in a URL");
        }
        if has_bad_port(authority) {
            return error("the port must be from 1 to 65535");
        }
        if uri.query().is_some() || text.contains('#') {
            return error("the URL of a collector has no query and no fragment");
        }
        let path = match uri.path() {
            "" | "/" => PathAndQuery::from_static(DEFAULT_PATH),
            _ => uri.path_and_query().cloned().expect("it has a path"),
        };
        let url = UpstreamUrl::host(protocol, authority.clone());
        Ok(Self { url, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_of_a_collector_is_http_or_https_and_has_a_default_path() {
        for (text, url, path) in [
            (
                "http://127.0.0.1:4318",
                "http://127.0.0.1:4318/",
                DEFAULT_PATH,
            ),
            ("http://[::1]:4318/", "http://[::1]:4318/", DEFAULT_PATH),
            (
                "https://otel.example.org/a/v1/traces",
                "https://otel.example.org/",
                "/a/v1/traces",
            ),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(endpoint.url.to_string(), url);
            assert_eq!(endpoint.path, path);
        }
        for (text, rule) in [
            ("", "not a URL"),
            ("127.0.0.1:4318", "the scheme must be http or https"),
            ("grpc://127.0.0.1:4317", "the scheme must be http or https"),
            ("http:///v1/traces", "not a URL"),
            ("http://a:b@c:1", "credentials don't belong in a URL"),
            ("http://a:0", "the port must be from 1 to 65535"),
            ("http://a:1/?b", "no query and no fragment"),
            ("http://a:1/#b", "no query and no fragment"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err();
            assert!(error.contains(rule) && error.contains(EXAMPLE), "{error}");
        }
    }
}
