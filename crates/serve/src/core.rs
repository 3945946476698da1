//! One core's loop: accept, hand off, serve, drain.

use std::sync::Arc;

use common::source::network;
use tokio::{task::JoinSet, time::timeout};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tracing::{debug, warn};

use crate::{
    accept::{self, Accepted},
    connection::Connection,
    handler::Handler,
    listen::Listener,
    peer::Peer,
    shared::Shared,
    shutdown::Shutdown,
};

/// Serves `listener` until `shutdown`, then lets what is in flight finish within the drain timeout.
pub async fn serve(
    listener: impl Into<Listener>,
    tls: Arc<ServerConfig>,
    handler: impl Handler,
    shared: Shared,
    shutdown: Shutdown,
) {
    let listener = listener.into();
    let mut stop = std::pin::pin!(shutdown.clone().requested());
    let admission = shared.admission.clone();
    let mut seat = shared.balance.join();
    let mut core = Core {
        acceptor: TlsAcceptor::from(tls),
        handler,
        shared,
        shutdown,
        connections: JoinSet::new(),
    };
    'accepting: loop {
        // Not begun anew for each connection that ends: that would begin its back-off anew.
        let mut accepting = std::pin::pin!(accept::accept(&listener.socket, &admission));
        let accepted = loop {
            tokio::select! {
                accepted = &mut accepting => break accepted,
                given = seat.given() => core.open(given),
                Some(_) = core.connections.join_next() => {}
                () = &mut stop => break 'accepting,
            }
        };
        if let Some(accepted) = seat.place(accepted) {
            core.open(accepted);
        }
    }
    for accepted in accept::close(listener) {
        core.open(seat.keep(accepted));
    }
    for given in seat.leave() {
        core.open(given);
    }
    core.drain().await;
}

/// What one core serves with, and what it serves.
struct Core<H> {
    acceptor: TlsAcceptor,
    handler: H,
    shared: Shared,
    shutdown: Shutdown,
    connections: JoinSet<()>,
}

impl<H: Handler> Core<H> {
    /// Begins to serve a connection, if there is a place for it.
    fn open(&mut self, Accepted { tcp, peer, counted }: Accepted) {
        let source = network(peer.ip());
        let Some((place, handshake)) = self.shared.admission.enter(source) else {
            return;
        };
        let connection = Connection {
            peer: Peer::from(peer),
            source,
            shared: self.shared.clone(),
            shutdown: self.shutdown.clone(),
        };
        let (acceptor, handler) = (self.acceptor.clone(), self.handler.clone());
        // Boxed: it is large, and would be moved about a dozen times until it runs.
        self.connections.spawn(Box::pin(async move {
            let _places = (place, counted);
            if let Err(error) = connection.serve(tcp, acceptor, handshake, handler).await {
                debug!(%peer, %error, "connection ended");
            }
        }));
    }

    async fn drain(mut self) {
        let drained = async { while self.connections.join_next().await.is_some() {} };
        if timeout(self.shared.limits.drain_timeout, drained)
            .await
            .is_err()
        {
            warn!(
                connections = self.connections.len(),
                "drain timeout passed: closing what is still in flight"
            );
        }
    }
}
