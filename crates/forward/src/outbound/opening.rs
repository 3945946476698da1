//! New connections: what they offer, on tasks of their own, and what becomes of them.

use std::sync::Arc;

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use tokio::time::timeout;

use super::{
    Error, RequestBody,
    connection::{Opened, handshake},
    connector::{Fault, Offer},
    endpoint::Place,
    pool::Pool,
    state::State,
};

/// The outcome of opening a connection, for all that wait for it.
pub(super) type Opening = Shared<BoxFuture<'static, Result<(), Error>>>;

impl<B: RequestBody> Pool<B> {
    /// Opens a connection, or waits for the lane that is being opened.
    pub(super) fn open(
        self: &Arc<Self>,
        state: &mut State<B>,
        index: usize,
        offer: Offer,
    ) -> Opening {
        self.resolve_again(state);
        let endpoint = &mut state.endpoints[index];
        if let (Some(opening), Offer::Both) = (&endpoint.opening, offer) {
            return opening.clone();
        }
        let opening = Arc::clone(self).opened(endpoint.id, Arc::clone(&endpoint.place), offer);
        let opening = opening.boxed().shared();
        tokio::spawn(opening.clone());
        // A connection for one request: each that waits needs its own.
        if offer == Offer::Both && !endpoint.is_http1() {
            endpoint.opening = Some(opening.clone());
        }
        opening
    }

    async fn opened(
        self: Arc<Self>,
        id: u64,
        place: Arc<Place>,
        mut offer: Offer,
    ) -> Result<(), Error> {
        loop {
            let outdated = self.lock().outdated;
            let opened = match self.opened_once(&place, offer).await {
                Ok(opened) => Ok(opened),
                // It speaks HTTP/2 alone.
                Err(None) => {
                    offer = Offer::Http2;
                    if let Some(endpoint) = self.lock().endpoint(id) {
                        endpoint.refuses_http1();
                    }
                    continue;
                }
                Err(Some(error)) => Err(error),
            };
            let mut state = self.lock();
            // Otherwise the connection was verified with what has since changed.
            if outdated == state.outdated {
                let settled = state.settle(id, offer, opened);
                drop(state);
                self.call_next_if_there_is_room();
                return settled;
            }
        }
    }

    /// Opens a connection; no error if the target speaks HTTP/2, and not the HTTP/1.1 that was offered.
    async fn opened_once(&self, place: &Place, offer: Offer) -> Result<Opened<B>, Option<Error>> {
        let fault = match self.connector.connect(place, offer).await {
            // An endpoint that chooses HTTP/2 where it may, and nothing here.
            Ok(tls) if offer == Offer::Http1 && tls.get_ref().1.alpn_protocol().is_none() => {
                return Err(None);
            }
            Ok(tls) => {
                let patience = self.connector.timeout();
                let Ok(opened) = timeout(patience, handshake(tls, offer != Offer::Both)).await
                else {
                    let fault = Fault::Timeout(patience).to_string();
                    return Err(Some(Error::ConnectTimeout(self.at(place), fault)));
                };
                return opened.map_err(|error| Some(Error::unanswered(&error, self.at(place))));
            }
            Err(fault) if offer == Offer::Http1 && fault.is_of_offer() => return Err(None),
            Err(fault) => fault,
        };
        // After a withdrawal a handshake fails by what looks like the target's fault.
        Err(Some(match self.connector.is_usable() {
            true => Error::unconnected(&fault, self.at(place), self.expected.clone()),
            false => Error::NoTrust(self.at(place)),
        }))
    }
}
