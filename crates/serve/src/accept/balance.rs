//! The handoff of accepted connections between the cores of a process.
//!
//! The kernel distributes connections over the cores' listeners by a hash (`SO_REUSEPORT`). Many
//! connections spread evenly. A few connections that last long and carry much, such as HTTP/2 from a
//! proxy, may all go to one core while others are idle. A core therefore hands a connection off to the
//! core that has the fewest, if the difference is large enough. Envoy has the same mechanism
//! (`exact_balance`).
//!
//! # Alternatives
//!
//! tokio's multi-thread runtime has one listener, and moves tasks from a busy thread to an idle one. It
//! costs no more. A bare hyper server without TLS took 2.9 µs of CPU time per request on it, and 3.0 µs on
//! one runtime for each core. `h2load --h1 -n 60000 -c 32` sent the requests, and these are medians of 9
//! rounds on two cores. It does not serve here because each core has a pool, a verification queue and a log
//! buffer of its own. No other core holds their locks for long.
//!
//! The kernel can choose the listener with a BPF program. A classic program does not know how many
//! connections each core has; an extended one needs `CAP_BPF`.
//!
//! # Measurement
//!
//! `h2load -n 1200 -m 10` sent requests to a server with two cores, 16 times over each number of
//! connections. The kernel counted the CPU time of each core's thread (`/proc/PID/task/TID/schedstat`).
//! This is the share of the busier core, at the median and at worst:
//!
//! | connections | without handoff | with |
//! |---|---|---|
//! | 2 | 55 %, 100 % | 54 %, 60 % |
//! | 4 | 72 %, 100 % | 53 %, 55 % |
//! | 6 | 64 %, 82 % | 52 %, 58 % |
//!
//! One core did more than 90 % of the work in 10 of the 48 runs without handoff. A handoff costs a lock for
//! each connection, and two system calls for one that is handed off.

use std::{
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use common::lock::lock;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::debug;

use crate::stream::{PeerAddress, StdStream, Stream, from_std, into_std};

/// The tolerated imbalance. A core keeps a connection unless it has more than the fewest plus one in
/// [`TOLERANCE`]. A handoff costs some microseconds, and among many connections a few more do not
/// matter.
const TOLERANCE: usize = 8;

/// The cores of a process that accept connections. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Balance(Arc<Mutex<Vec<HandoffTarget>>>);

/// A core to which other cores can hand connections off.
#[derive(Debug)]
struct HandoffTarget {
    connections: Arc<AtomicUsize>,
    sender: UnboundedSender<HandedOff>,
}

/// A connection that is handed off to another core.
#[derive(Debug)]
struct HandedOff {
    stream: StdStream,
    peer: PeerAddress,
    counted: Counted,
}

/// A core's membership in the balance, until it is dropped or [withdrawn](Self::withdraw).
#[derive(Debug)]
pub(crate) struct Member {
    balance: Balance,
    connections: Arc<AtomicUsize>,
    handoffs: UnboundedReceiver<HandedOff>,
}

/// An accepted connection that this core serves.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    pub(crate) peer: PeerAddress,
    pub(crate) counted: Counted,
}

/// Counts a connection on its core until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Balance {
    /// Adds a core that accepts connections from now on.
    pub(crate) fn join(&self) -> Member {
        let (sender, handoffs) = unbounded_channel();
        let connections = Arc::<AtomicUsize>::default();
        self.lock().push(HandoffTarget {
            connections: Arc::clone(&connections),
            sender,
        });
        Member {
            balance: self.clone(),
            connections,
            handoffs,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<HandoffTarget>> {
        lock(&self.0)
    }
}

impl Member {
    /// Hands off a connection that this core accepted to the core with the fewest connections. Returns
    /// it if this core has the fewest, or not many more.
    pub(crate) fn keep_or_hand_off(
        &self,
        (stream, peer): (Stream, PeerAddress),
    ) -> Option<Accepted> {
        // The lock is held until the connection is counted, so that other cores see the count.
        let cores = self.balance.lock();
        let with_fewest = cores.iter().min_by_key(|core| core.connections());
        let fewest = with_fewest.map_or(0, HandoffTarget::connections);
        if self.connections.load(Relaxed) <= fewest + fewest / TOLERANCE {
            return Some(self.keep((stream, peer)));
        }
        if let Some(core) = with_fewest {
            core.hand_off(stream, peer);
        }
        None
    }

    /// Counts a connection that this core accepted and keeps.
    pub(crate) fn keep(&self, (stream, peer): (Stream, PeerAddress)) -> Accepted {
        let counted = Counted::on(&self.connections);
        Accepted {
            stream,
            peer,
            counted,
        }
    }

    /// Waits for the next connection that another core hands off to this one.
    pub(crate) async fn next_handoff(&mut self) -> Accepted {
        while let Some(handed_off) = self.handoffs.recv().await {
            if let Some(accepted) = handed_off.register() {
                return accepted;
            }
        }
        // The core was removed, so that no connection comes.
        pending().await
    }

    /// Removes this core, which accepts no more connections. Returns the ones that were handed off to
    /// it and not yet received.
    pub(crate) fn withdraw(mut self) -> Vec<Accepted> {
        self.remove();
        let last = std::iter::from_fn(|| self.handoffs.try_recv().ok());
        last.filter_map(HandedOff::register).collect()
    }

    fn remove(&self) {
        let own = |core: &HandoffTarget| Arc::ptr_eq(&core.connections, &self.connections);
        self.balance.lock().retain(|core| !own(core));
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.remove();
    }
}

impl HandoffTarget {
    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    fn hand_off(&self, stream: Stream, peer: PeerAddress) {
        match into_std(stream) {
            Ok(stream) => {
                let counted = Counted::on(&self.connections);
                // An error means that the core has ended without removing itself. The connection is
                // closed then.
                let _ = self.sender.send(HandedOff {
                    stream,
                    peer,
                    counted,
                });
            }
            Err(error) => debug!(%peer, %error, "connection ended"),
        }
    }
}

impl HandedOff {
    /// Registers the connection with the runtime of the current core.
    fn register(self) -> Option<Accepted> {
        let Self {
            stream,
            peer,
            counted,
        } = self;
        match from_std(stream) {
            Ok(stream) => Some(Accepted {
                stream,
                peer,
                counted,
            }),
            Err(error) => {
                debug!(%peer, %error, "connection ended");
                None
            }
        }
    }
}

impl Counted {
    fn on(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::either::Either;

    use super::*;

    /// Accepts connections on the core of `member`, and returns those that it keeps.
    async fn accept(member: &Member, callers: usize) -> Vec<Accepted> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut own = Vec::new();
        for _ in 0..callers {
            let (caller, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            drop(caller.unwrap());
            let (stream, peer) = accepted.unwrap();
            own.extend(member.keep_or_hand_off((Either::Left(stream), peer.into())));
        }
        own
    }

    async fn handoffs(member: &mut Member) -> Vec<Accepted> {
        let mut handoffs = Vec::new();
        while let Some(accepted) = member.next_handoff().now_or_never() {
            handoffs.push(accepted);
        }
        handoffs
    }

    #[tokio::test]
    async fn connections_that_one_core_accepts_spread_over_all_cores() {
        let balance = Balance::default();
        let (one, mut two, mut three) = (balance.join(), balance.join(), balance.join());
        let own = accept(&one, 7).await;
        let (second, third) = (handoffs(&mut two).await, handoffs(&mut three).await);
        assert_eq!((own.len(), second.len(), third.len()), (3, 2, 2));

        drop(third);
        let more = accept(&one, 2).await;
        assert_eq!((more.len(), handoffs(&mut three).await.len()), (0, 2));
        drop(own);
    }

    #[tokio::test]
    async fn a_core_keeps_connections_within_the_tolerance() {
        let balance = Balance::default();
        let (one, mut two) = (balance.join(), balance.join());
        let _many: Vec<_> = (0..16).map(|_| Counted::on(&two.connections)).collect();
        let own = accept(&one, 20).await;
        assert_eq!((own.len(), handoffs(&mut two).await.len()), (19, 1));
    }

    #[tokio::test]
    async fn a_core_that_withdraws_keeps_its_handoffs_and_gets_no_more() {
        let balance = Balance::default();
        let (one, two) = (balance.join(), balance.join());
        let own = accept(&one, 4).await;
        let last = two.withdraw();
        assert_eq!((own.len(), last.len()), (2, 2));
        assert_eq!(accept(&one, 4).await.len(), 4);
        drop(one);
        assert!(balance.lock().is_empty());
    }
}
