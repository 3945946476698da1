//! The request that the flags describe.

use std::{fs, io::Read};

use anyhow::Context;
use http::{HeaderName, HeaderValue, Method, Request, header};
use http_body_util::Full;
use hyper::body::Bytes;

use super::Config;

/// Fields that other parts of the request determine, each with the reason.
const NOT_SETTABLE: [(HeaderName, &str); 5] = [
    (header::AUTHORIZATION, "it carries the JWT-SVID"),
    (header::HOST, "it comes from --url"),
    (header::CONTENT_LENGTH, "it comes from -d"),
    (header::TRANSFER_ENCODING, "it comes from -d"),
    (header::CONNECTION, "it is this hop's own"),
];

impl Config {
    /// Returns the method and the URL of the request.
    pub(crate) fn request(&self) -> Request<()> {
        let default = match self.data {
            Some(_) => Method::POST,
            None => Method::GET,
        };
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone().unwrap_or(default);
        *request.uri_mut() = self.url.clone();
        request
    }

    /// Reads the body of the request, and returns the request without its token.
    ///
    /// # Errors
    /// Fails when the body is in a file, or on standard input, that can't be read.
    pub(crate) fn read_request(&self) -> anyhow::Result<Request<Full<Bytes>>> {
        let mut request = self.request().map(|()| Full::default());
        if let Some(data) = &self.data {
            *request.body_mut() = read_data(data)?.into();
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(header::CONTENT_TYPE, form);
        }
        for (name, _) in &self.headers {
            request.headers_mut().remove(name);
        }
        request.headers_mut().extend(
            self.headers
                .iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        Ok(request)
    }
}

/// Parses a request method.
pub(super) fn method(text: &str) -> Result<Method, String> {
    text.parse()
        .map_err(|_| "not a request method; expected for example PUT".into())
}

/// Parses a header field, and refuses fields that other parts of the request determine.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    const EXAMPLE: &str = "expected for example 'Accept: application/json'";
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("the colon is missing; {EXAMPLE}"))?;
    let name: HeaderName = name
        .parse()
        .map_err(|_| format!("not a header name; {EXAMPLE}"))?;
    if let Some((_, reason)) = NOT_SETTABLE.iter().find(|(reserved, _)| *reserved == name) {
        return Err(format!("{name} can't be set: {reason}; {EXAMPLE}"));
    }
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("not a header value; {EXAMPLE}"))?;
    Ok((name, value))
}

/// Reads the request body from the value of `-d`.
fn read_data(data: &str) -> anyhow::Result<Vec<u8>> {
    match data.strip_prefix('@') {
        None => Ok(data.as_bytes().to_vec()),
        Some("-") => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("cannot read the request body from standard input")?;
            Ok(bytes)
        }
        Some(path) => {
            fs::read(path).with_context(|| format!("cannot read the request body (-d @{path})"))
        }
    }
}
