//! Checks that a request and an answer mean the same to every reader. The module does no I/O.

use http::{HeaderMap, Method, Request, Response, StatusCode, uri::Scheme};
use serve::{Received, peer::Peer, websocket::WebSocket};

use crate::{
    body::CleanBody,
    framing,
    headers::{self, FieldPolicy},
    rejection::{Rejected, Rejection},
    target,
};

/// A request that is fit to be forwarded, because it means the same to every reader.
#[derive(Debug)]
pub struct Checked<B = Received>(pub(crate) Request<B>);

impl<B: http_body::Body> Checked<B> {
    /// Checks method, target, `Host`, framing and fields that must not be doubled.
    ///
    /// # Errors
    /// Fails when the request is answered here instead.
    pub fn new(request: Request<B>) -> Result<Self, Box<Rejected<B>>> {
        Self::over(&Scheme::HTTPS, request)
    }

    /// Checks a request that came without TLS, as [`Self::new`] does.
    ///
    /// # Errors
    /// Fails when the request is answered here instead.
    pub fn plaintext(request: Request<B>) -> Result<Self, Box<Rejected<B>>> {
        Self::over(&Scheme::HTTP, request)
    }

    fn over(scheme: &Scheme, request: Request<B>) -> Result<Self, Box<Rejected<B>>> {
        match check_request(scheme, &request) {
            Ok(()) => Ok(Self(request)),
            Err(rejection) => Err(Self(request).rejected(rejection)),
        }
    }

    /// Rejects the request for a reason of the caller of this function.
    #[must_use]
    pub fn rejected(self, rejection: Rejection) -> Box<Rejected<B>> {
        let Self(request) = self;
        Box::new(Rejected { request, rejection })
    }

    /// Returns the method.
    #[must_use]
    pub fn method(&self) -> &Method {
        self.0.method()
    }

    /// Returns the header fields as they came.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// Returns the host that the caller asked for, with its port if it has one.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        target::host(&self.0)
    }

    /// Returns the path of the target. Every reader of it takes it for the same path.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.uri().path()
    }

    pub(crate) fn is_websocket(&self) -> bool {
        self.0.extensions().get::<WebSocket>().is_some()
    }

    /// Returns the request that is sent upstream. It has the fields that its caller may set, and those
    /// that name `peer`, its sender. `fields` are the deployment's choice.
    #[must_use]
    pub fn cleaned(self, peer: &Peer, fields: &FieldPolicy) -> Request<CleanBody<B>> {
        let Self(mut request) = self;
        let rules = headers::clean_request(&mut request, peer, fields);
        *request.uri_mut() = target::without_authority(request.uri());
        request.map(|body| CleanBody::new(body, rules))
    }
}

/// Checks that a request means the same to every reader.
pub(super) fn check_request<B>(scheme: &Scheme, request: &Request<B>) -> Result<(), Rejection> {
    target::check(scheme, request)?;
    framing::check_request(request.headers())?;
    headers::check_request(request)
}

/// Checks that an upstream's response means the same to every reader. Returns the reason if not.
pub(super) fn check_response<B>(response: &Response<B>) -> Result<(), &'static str> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err("it switched protocols unasked");
    }
    check_switch(response)
}

/// Checks as [`check_response`] does, for an answer that may switch protocols.
pub(super) fn check_switch<B>(response: &Response<B>) -> Result<(), &'static str> {
    framing::check_response(response.headers())?;
    headers::check_response_size(response.headers())?;
    headers::check_names(response.headers())
}
