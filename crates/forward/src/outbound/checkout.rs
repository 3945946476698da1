//! The guard of a connection for one request.

use std::sync::Arc;

use http::{Request, Response};

use super::{
    arriving::Arriving,
    connection::{Connection, Kind},
    connections::Connections,
    endpoints::Failed,
    error::Error,
    in_flight::CountedRequest,
    origin::{At, Origin},
    prepared::RequestBody,
    response::ResponseBody,
    retry::Failure,
    upload::UploadBody,
};

/// A connection that is checked out for one request. Each way for the request to end has a method. A
/// guard that is dropped instead closes an exclusive connection, and leaves a shared one as it is.
pub(super) struct Checkout<B> {
    connections: Arc<Connections<B>>,
    connection: Connection<B>,
    /// The answers of the endpoint that had begun when the request was sent.
    answers: u64,
}

impl<B: RequestBody> Checkout<B> {
    pub(super) fn new(connections: &Arc<Connections<B>>, connection: Connection<B>) -> Self {
        Self {
            connections: Arc::clone(connections),
            answers: connection.counted.answers(),
            connection,
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.connection.location.origin
    }

    pub(super) fn is_http2(&self) -> bool {
        self.connection.is_http2()
    }

    /// Returns the name of the endpoint in errors.
    pub(super) fn at(&self) -> At {
        self.connections.at(&self.connection.location)
    }

    /// Sends the request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<UploadBody<B>>,
    ) -> Result<Response<Arriving>, Failure> {
        self.answers = self.connection.counted.answers();
        let response = self.connection.send(request).await?;
        self.connection.counted.answered();
        Ok(response)
    }

    /// Ends with an answer. The connection serves other requests once the answer's body has come, unless
    /// the rest of the request's body makes it unusable.
    pub(super) fn complete(
        self,
        response: Response<Arriving>,
        is_reusable: bool,
    ) -> Response<ResponseBody> {
        let Connection {
            location,
            counted,
            kind,
        } = self.connection;
        if let Kind::Exclusive(connection) = kind
            && is_reusable
        {
            self.connections.keep(location.id, *connection);
        }
        response.map(|body| ResponseBody::new(body, counted))
    }

    /// Ends with an answer that switches protocols. The connection serves no other requests. Returns the
    /// count of the request.
    pub(super) fn switch(
        self,
        response: Response<Arriving>,
    ) -> (Response<Arriving>, CountedRequest) {
        (response, self.connection.counted)
    }

    /// Ends with an answer that is not acceptable. New requests use other connections, because this one
    /// can't be trusted to end where its messages do.
    pub(super) fn discard(self, response: Response<Arriving>) {
        let Connection {
            location,
            counted,
            kind,
        } = self.connection;
        if let Kind::Shared(connection) = kind {
            self.connections.lock().discard(location.id, &connection);
        }
        // The stream of a shared connection is not reset at once.
        drop(ResponseBody::new(response.into_body(), counted));
    }

    /// Ends with a failure of the connection. Returns the facts that a second attempt needs.
    pub(super) fn fail(self) -> Failed {
        let endpoint = self.connection.location.id;
        self.connections.lock().fail(endpoint)
    }

    /// Ends without an answer in time. The endpoint is ejected for a while if it gave no other answer
    /// either since the request was sent.
    pub(super) fn time_out(self) -> Error {
        let error = Error::ResponseTimeout(self.at());
        if self.connection.counted.answers() == self.answers {
            let endpoint = self.connection.location.id;
            self.connections.lock().eject_silent(endpoint, &error);
        }
        error
    }
}
