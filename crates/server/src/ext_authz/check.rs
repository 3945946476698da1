//! The meaning of a check: the head that it asks about, and the answer to it.

use std::net::{IpAddr, SocketAddr};

use common::bearer::Caller;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header::AUTHORIZATION,
    request::Parts,
};
use serve::grpc;

use super::pb::{
    Action, Allowed, Attributes, CheckRequest, CheckResponse, Denied, Field, FieldChange,
    HttpRequest, HttpStatus, Status, check_response::HttpResponse,
};

/// The choices about the fields of requests that are allowed.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    /// The field that carries the caller's SPIFFE ID.
    pub(super) caller_header: HeaderName,
    /// Set if the application may get `Authorization` too.
    pub(super) forwards_authorization: bool,
}

/// The names of a request's fields that have underscores. Some servers read them as if they had hyphens.
#[derive(Clone, Debug)]
pub(super) struct Underscored(Vec<String>);

/// The error of a check that has no request, or one that no gateway should pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Returns the head of the request that a check asks about. Of its fields, it has `Authorization` only.
///
/// # Errors
/// Fails when there is no request that can be read.
pub(super) fn head(check: &CheckRequest) -> Result<Parts, Malformed> {
    let attributes = check.attributes.as_ref();
    let http = attributes.and_then(|one| one.request.as_ref()?.http.as_ref());
    let http = http.ok_or(Malformed)?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = Method::try_from(http.method.as_str()).map_err(|_| Malformed)?;
    head.uri = target(&http.path)?;
    for value in authorizations(http) {
        let mut value = HeaderValue::from_bytes(value).map_err(|_| Malformed)?;
        value.set_sensitive(true);
        head.headers.append(AUTHORIZATION, value);
    }
    head.extensions.insert(Underscored::of(http));
    Ok(head)
}

/// Parses the target of a request. The gateway forwards these bytes. A target is therefore rejected if the
/// parser would leave a part of it out of the path: a fragment, or a host.
fn target(text: &str) -> Result<Uri, Malformed> {
    let is_whole = (text.starts_with('/') || text == "*") && !text.contains('#');
    let target = is_whole.then(|| Uri::try_from(text).ok());
    target.flatten().ok_or(Malformed)
}

impl Underscored {
    fn of(http: &HttpRequest) -> Self {
        let raw = http.header_map.iter().flat_map(|map| &map.headers);
        let raw = raw.map(|field| &field.key);
        let names = http.headers.iter().map(|field| &field.key).chain(raw);
        Self(names.filter(|name| name.contains('_')).cloned().collect())
    }

    /// Returns the names that some servers read as `name`.
    fn read_as<'a>(&'a self, name: &'a str) -> impl Iterator<Item = String> + 'a {
        let Self(names) = self;
        let is_it = move |one: &&String| one.replace('_', "-").eq_ignore_ascii_case(name);
        names.iter().filter(is_it).cloned()
    }
}

/// Returns the values of `Authorization`, in either form that gateways send.
fn authorizations(http: &HttpRequest) -> impl Iterator<Item = &[u8]> {
    let is_it = |key: &str| key.eq_ignore_ascii_case(AUTHORIZATION.as_str());
    let raw = http.header_map.iter().flat_map(|map| &map.headers);
    let raw = raw.filter(move |field| is_it(&field.key)).map(|field| {
        if field.raw_value.is_empty() {
            field.value.as_bytes()
        } else {
            &field.raw_value
        }
    });
    let text = http.headers.iter().filter(move |field| is_it(&field.key));
    text.map(|field| field.value.as_bytes()).chain(raw)
}

/// Returns the address of the caller, if the gateway tells it.
pub(super) fn source(attributes: Option<&Attributes>) -> Option<SocketAddr> {
    let address = attributes?.source.as_ref()?.address.as_ref()?;
    let address = address.socket_address.as_ref()?;
    let port = u16::try_from(address.port_value).unwrap_or_default();
    Some((address.address.parse::<IpAddr>().ok()?, port).into())
}

impl Fields {
    /// Returns the answer for a request that is let through, with its caller if that is verified.
    ///
    /// The ID replaces all fields of its name, so that none of the caller's is left. The name must not be
    /// among those to remove, because gateways remove fields after they have set others. Names that some servers
    /// read as the same, such as `x_spiffe_id`, are removed.
    pub(super) fn allowed(
        &self,
        caller: Option<&Caller>,
        underscored: Option<&Underscored>,
    ) -> CheckResponse {
        let name = self.caller_header.as_str();
        let removed = [
            (caller.is_none()).then_some(name),
            (!self.forwards_authorization).then_some(AUTHORIZATION.as_str()),
        ];
        let removed = removed.into_iter().flatten().map(str::to_owned);
        let alike = underscored.into_iter().flat_map(|all| all.read_as(name));
        let id = caller.map(|caller| set(name, caller.id.to_string()));
        answer(
            0,
            HttpResponse::OkResponse(Allowed {
                headers: id.into_iter().collect(),
                headers_to_remove: removed.chain(alike).collect(),
            }),
        )
    }
}

/// Returns the answer for a request that can't be read.
pub(super) fn rejected() -> CheckResponse {
    denied(StatusCode::BAD_REQUEST, &HeaderMap::new())
}

/// Returns the answer for a request that is refused. The caller gets the same as from a server.
///
/// A server that can't verify denies too, instead of failing the call. A gateway can be told to let
/// requests pass when calls fail.
pub(super) fn denied(status: StatusCode, fields: &HeaderMap) -> CheckResponse {
    let fields = fields
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    answer(
        grpc::code(status),
        HttpResponse::DeniedResponse(Denied {
            status: Some(HttpStatus {
                code: status.as_u16().into(),
            }),
            headers: fields
                .map(|(name, value)| set(name, value.into()))
                .collect(),
            body: format!("{status}\n"),
        }),
    )
}

fn answer(code: u16, response: HttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(Status { code: code.into() }),
        http_response: Some(response),
    }
}

/// Returns the change that leaves one field of this name.
fn set(name: &str, value: String) -> FieldChange {
    FieldChange {
        header: Some(Field {
            key: name.to_owned(),
            value,
        }),
        append_action: Action::OverwriteIfExistsOrAdd.into(),
    }
}

#[cfg(test)]
mod tests;
