use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use harness::{
    PATIENCE, Stack,
    https::Https,
    process::Process,
    upstream::{self, Http},
};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serve::body;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// The longest time of another caller's request, which takes longer on a machine that is shared.
pub(crate) const QUICK: Duration = Duration::from_secs(3);

/// Holds a proxy and its upstream. The upstream neither reads nor answers a request with a query
/// until it is released. It answers any other request with the length of its body.
pub(crate) struct Holding {
    _stack: Stack,
    proxy: Process,
    pub(crate) https: Https,
    /// Each request that is held sends its query here.
    arrived: mpsc::UnboundedReceiver<String>,
    release: Arc<Semaphore>,
}

impl Holding {
    /// Starts both. No timeout of the proxy but this `queue_timeout` matters.
    pub(crate) async fn new(
        alpn: &[&str],
        queue_timeout: &str,
        change: impl FnOnce(&mut Http),
    ) -> Self {
        let stack = Stack::new().await;
        let (sender, arrived) = mpsc::unbounded_channel();
        let release = Arc::new(Semaphore::new(0));
        let (sender, held) = (Mutex::new(sender), Arc::clone(&release));
        let upstream = upstream::answering_with(&stack, alpn, change, move |request| {
            let sender = request
                .uri()
                .query()
                .map(|query| (sender.lock().unwrap().clone(), query.to_owned()));
            let held = Arc::clone(&held);
            async move {
                if let Some((sender, query)) = sender {
                    let _ = sender.send(query);
                    held.acquire().await.unwrap().forget();
                }
                let body = request.into_body().collect().await;
                let length = body.map_or(0, |body| body.to_bytes().len());
                body::text(StatusCode::OK, length.to_string())
            }
        })
        .await;
        // Hundreds of handshakes at once take long, and so does each request that is held.
        let args = [
            ["--cores", "1"],
            ["--queue-timeout", queue_timeout],
            ["--connect-timeout", "1h"],
            ["--response-timeout", "1h"],
        ];
        let proxy = stack.proxy(upstream, args.as_flattened()).await;
        let https = stack.https(proxy.listening().await);
        Self {
            _stack: stack,
            proxy,
            https,
            arrived,
            release,
        }
    }

    /// Waits for the next request that is held and returns its query.
    pub(crate) async fn arrives(&mut self) -> String {
        let next = timeout(PATIENCE, self.arrived.recv());
        next.await.expect("arrives in time").unwrap()
    }

    /// Waits for `count` requests that are held.
    pub(crate) async fn arrive(&mut self, count: usize, what: &str) {
        for number in 0..count {
            let next = timeout(PATIENCE, self.arrived.recv()).await;
            assert!(
                next.is_ok(),
                "{what}: {number} of {count} arrived, {:?}",
                self.said()
            );
        }
    }

    /// Counts the proxy's log lines, apart from times and ports.
    pub(crate) fn said(&self) -> BTreeMap<String, usize> {
        let mut said = BTreeMap::new();
        for line in self.proxy.log() {
            let words = line.split(' ').skip(1).filter(|word| !word.contains(':'));
            *said.entry(words.collect::<Vec<_>>().join(" ")).or_default() += 1;
        }
        said
    }

    /// Releases `count` requests that are held or will be.
    pub(crate) fn release(&self, count: usize) {
        self.release.add_permits(count);
    }
}

/// Returns a POST with a body of `length` bytes. The upstream holds a POST with a query.
pub(crate) fn post(target: &str, length: usize) -> Request<Full<Bytes>> {
    let body = Full::new(Bytes::from(vec![b'x'; length]));
    Request::post(target).body(body).unwrap()
}
