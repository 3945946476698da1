//! Connections, spread over the cores of a process.
//!
//! The kernel deals them out to the cores' listeners by chance. With many of them each core gets about
//! as many; with a few that last and carry much (HTTP/2 from a proxy), one core may get all of them
//! while others are idle. So a core that has more than another gives what it accepts to that one.

use std::{
    future::pending,
    net::{SocketAddr, TcpStream as StdTcpStream},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use common::lock::lock;
use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};
use tracing::debug;

/// A core keeps what it accepts until it has more than another, by more than one in so many: to give
/// a connection away costs some microseconds, and among many a few more make no difference.
const TOLERANCE: usize = 8;

/// The cores of a process that accept connections; shared by them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Balance(Arc<Mutex<Vec<Core>>>);

/// A core as others see it.
#[derive(Debug)]
struct Core {
    connections: Arc<AtomicUsize>,
    given: UnboundedSender<Given>,
}

/// A connection on its way to another core.
#[derive(Debug)]
struct Given {
    tcp: StdTcpStream,
    peer: SocketAddr,
    counted: Counted,
}

/// A core's place among the cores, until it is dropped or [left](Self::leave).
#[derive(Debug)]
pub(crate) struct Seat {
    balance: Balance,
    connections: Arc<AtomicUsize>,
    given: UnboundedReceiver<Given>,
}

/// A connection that is this core's.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) tcp: TcpStream,
    pub(crate) peer: SocketAddr,
    pub(crate) counted: Counted,
}

/// Counts a connection as its core's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Counted(Arc<AtomicUsize>);

impl Balance {
    /// A core accepts connections from now on.
    pub(crate) fn join(&self) -> Seat {
        let (sender, given) = unbounded_channel();
        let connections = Arc::<AtomicUsize>::default();
        self.lock().push(Core {
            connections: Arc::clone(&connections),
            given: sender,
        });
        Seat {
            balance: self.clone(),
            connections,
            given,
        }
    }

    /// Nothing panics while it holds this.
    fn lock(&self) -> MutexGuard<'_, Vec<Core>> {
        lock(&self.0)
    }
}

impl Seat {
    /// Gives a connection that this core accepted to the core that has the fewest; returns it if that
    /// is this core, or not much better off.
    pub(crate) fn place(&self, (tcp, peer): (TcpStream, SocketAddr)) -> Option<Accepted> {
        // Counted before the next is placed.
        let cores = self.balance.lock();
        let with_fewest = cores.iter().min_by_key(|core| core.connections());
        let fewest = with_fewest.map_or(0, Core::connections);
        if self.connections.load(Relaxed) <= fewest + fewest / TOLERANCE {
            return Some(self.keep((tcp, peer)));
        }
        if let Some(core) = with_fewest {
            core.give(tcp, peer);
        }
        None
    }

    /// A connection that this core accepted and keeps.
    pub(crate) fn keep(&self, (tcp, peer): (TcpStream, SocketAddr)) -> Accepted {
        let counted = Counted::on(&self.connections);
        Accepted { tcp, peer, counted }
    }

    /// The next connection that another core gives to this one.
    pub(crate) async fn given(&mut self) -> Accepted {
        while let Some(given) = self.given.recv().await {
            if let Some(accepted) = given.arrive() {
                return accepted;
            }
        }
        // It has left: there will be none.
        pending().await
    }

    /// This core accepts no more; returns the last that were given to it.
    pub(crate) fn leave(mut self) -> Vec<Accepted> {
        self.vacate();
        let last = std::iter::from_fn(|| self.given.try_recv().ok());
        last.filter_map(Given::arrive).collect()
    }

    /// From then on it is given nothing.
    fn vacate(&self) {
        let own = |core: &Core| Arc::ptr_eq(&core.connections, &self.connections);
        self.balance.lock().retain(|core| !own(core));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.vacate();
    }
}

impl Core {
    fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    fn give(&self, tcp: TcpStream, peer: SocketAddr) {
        match tcp.into_std() {
            Ok(tcp) => {
                let counted = Counted::on(&self.connections);
                // Refused only by a core that has ended without a word: then it is closed.
                let _ = self.given.send(Given { tcp, peer, counted });
            }
            Err(error) => debug!(%peer, %error, "connection ended"),
        }
    }
}

impl Given {
    /// Ready to be served by the core that this runs on.
    fn arrive(self) -> Option<Accepted> {
        let Self { tcp, peer, counted } = self;
        match TcpStream::from_std(tcp) {
            Ok(tcp) => Some(Accepted { tcp, peer, counted }),
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
    use tokio::net::TcpListener;

    use super::*;

    /// Accepts on the core of `seat`; what that core has to serve then.
    async fn accept(seat: &Seat, callers: usize) -> Vec<Accepted> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut own = Vec::new();
        for _ in 0..callers {
            let (caller, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
            drop(caller.unwrap());
            own.extend(seat.place(accepted.unwrap()));
        }
        own
    }

    async fn given(seat: &mut Seat) -> Vec<Accepted> {
        let mut given = Vec::new();
        while let Some(accepted) = seat.given().now_or_never() {
            given.push(accepted);
        }
        given
    }

    #[tokio::test]
    async fn what_one_core_accepts_is_served_by_all() {
        let balance = Balance::default();
        let (one, mut two, mut three) = (balance.join(), balance.join(), balance.join());
        let own = accept(&one, 7).await;
        let (second, third) = (given(&mut two).await, given(&mut three).await);
        assert_eq!((own.len(), second.len(), third.len()), (3, 2, 2));

        drop(third);
        let more = accept(&one, 2).await;
        assert_eq!((more.len(), given(&mut three).await.len()), (0, 2));
        drop(own);
    }

    #[tokio::test]
    async fn among_many_a_few_more_make_no_difference() {
        let balance = Balance::default();
        let (one, mut two) = (balance.join(), balance.join());
        let _many: Vec<_> = (0..16).map(|_| Counted::on(&two.connections)).collect();
        let own = accept(&one, 20).await;
        assert_eq!((own.len(), given(&mut two).await.len()), (19, 1));
    }

    #[tokio::test]
    async fn who_leaves_takes_what_was_given_and_gets_no_more() {
        let balance = Balance::default();
        let (one, two) = (balance.join(), balance.join());
        let own = accept(&one, 4).await;
        let last = two.leave();
        assert_eq!((own.len(), last.len()), (2, 2));
        assert_eq!(accept(&one, 4).await.len(), 4);
        drop(one);
        assert!(balance.lock().is_empty());
    }
}
