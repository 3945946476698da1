//! The loop of one core: accept, hand off, serve, drain.

use std::sync::Arc;

use common::{source::network, throttle::Quota, tls::refused_certificate};
use tokio::{task::JoinSet, time::timeout};
use tracing::{debug, field::display, warn};

use crate::{
    accept::{self, Accepted},
    connection::{self, Connection},
    handler::Handler,
    listen::{Listener, Security},
    peer::Peer,
    reason::ConnectionReason,
    shared::Shared,
    shutdown::Shutdown,
    stream::PeerAddress,
};

/// Serves `listener` until `shutdown` is requested, and then drains: requests in flight may finish
/// within [`Limits::drain_timeout`](crate::Limits::drain_timeout).
pub async fn serve(
    listener: impl Into<Listener>,
    security: impl Into<Security>,
    handler: impl Handler,
    shared: Shared,
    shutdown: Shutdown,
) {
    let listener = listener.into();
    let mut stop = std::pin::pin!(shutdown.clone().requested());
    let admission = shared.admission.clone();
    let mut member = shared.balance.join();
    let mut core = ServingCore {
        security: security.into(),
        handler,
        shared,
        shutdown,
        connections: JoinSet::new(),
    };
    'accepting: loop {
        // The future is kept when a connection ends, because a new one would restart its backoff.
        let mut accepting = std::pin::pin!(accept::accept(&listener.socket, &admission));
        let accepted = loop {
            tokio::select! {
                accepted = &mut accepting => break accepted,
                handed_off = member.next_handoff() => core.open(handed_off),
                Some(_) = core.connections.join_next() => {}
                () = &mut stop => break 'accepting,
            }
        };
        if let Some(accepted) = member.keep_or_hand_off(accepted) {
            core.open(accepted);
        }
    }
    for accepted in accept::close(listener) {
        core.open(member.keep(accepted));
    }
    for handed_off in member.withdraw() {
        core.open(handed_off);
    }
    core.drain().await;
}

/// A core with its handler and its connections.
struct ServingCore<H> {
    security: Security,
    handler: H,
    shared: Shared,
    shutdown: Shutdown,
    connections: JoinSet<()>,
}

impl<H: Handler> ServingCore<H> {
    /// Starts a task that serves a connection, if its source may have one more.
    fn open(
        &mut self,
        Accepted {
            stream,
            peer,
            counted,
        }: Accepted,
    ) {
        let source = network(peer.ip());
        let counts = &self.shared.counts;
        let Some((permit, handshake)) = self.shared.admission.admit(source) else {
            let reason = ConnectionReason::MaxConnectionsPerAddress;
            counts.unserved.add(reason, 1);
            return;
        };
        counts.connections.add(1);
        let connection = Connection {
            peer: Peer::from(peer),
            source,
            shared: self.shared.clone(),
            shutdown: self.shutdown.clone(),
            identity_end: match &self.shared.tenure {
                Some(tenure) => tenure.end(),
                None => self.shutdown.clone(),
            },
        };
        let (security, handler) = (self.security.clone(), self.handler.clone());
        let (refused, counts) = (Arc::clone(&self.shared.refused), Arc::clone(counts));
        // The future is boxed because it is large and would be moved about a dozen times before it runs.
        self.connections.spawn(Box::pin(async move {
            let _permits = (permit, counted);
            if let Err(error) = connection.serve(stream, security, handshake, handler).await {
                if let Some(reason) = error.reason() {
                    counts.unserved.add(reason, 1);
                }
                log_end(peer, &error, &refused);
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

/// Logs why a connection ended early. `refused` limits the lines about certificates. They are warnings,
/// because they tell the operator of a correct peer what to mend.
fn log_end(peer: PeerAddress, error: &connection::Error, refused: &Quota) {
    let fault = match error {
        connection::Error::Handshake(cause) => refused_certificate(cause),
        _ => None,
    };
    match fault {
        None => {
            let reason = error.reason().map(display);
            debug!(%peer, %error, reason, "connection ended");
        }
        Some(fault) => {
            if let Some(left_out) = refused.take(network(peer.ip())) {
                let reason = ConnectionReason::Certificate;
                warn!(%peer, %reason, left_out, "TLS handshake refused: {fault}");
            }
        }
    }
}
