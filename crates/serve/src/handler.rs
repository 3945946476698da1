//! The interface between a listener and its application.

use std::{convert::Infallible, future::poll_fn};

use http::{Request, Response};
use tower_service::Service;

use crate::{body::Body, connection::received::Received, peer::Peer};

/// Answers requests. Each core has a value of its own.
pub trait Handler: Clone + Send + Sync + Unpin + 'static {
    /// Answers one request that came from `peer`.
    fn handle(
        &self,
        request: Request<Received>,
        peer: &Peer,
    ) -> impl Future<Output = Response<Body>> + Send;
}

/// Handler that answers requests with a tower service. The service finds the [`Peer`] in the request's
/// extensions.
#[derive(Clone, Debug)]
pub struct ServiceHandler<S>(pub S);

impl<S> Handler for ServiceHandler<S>
where
    S: Service<Request<Received>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + Unpin
        + 'static,
    S::Future: Send,
{
    async fn handle(&self, mut request: Request<Received>, peer: &Peer) -> Response<Body> {
        request.extensions_mut().insert(peer.clone());
        let Self(service) = self;
        let mut service = service.clone();
        let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
        let Ok(response) = service.call(request).await;
        response
    }
}
