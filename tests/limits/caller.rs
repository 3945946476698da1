//! A good caller follows every rule. Its requests must be served, whatever other callers do.

use std::time::{Duration, Instant};

use harness::{PATIENCE, https::Https};
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{task::JoinSet, time::timeout};

/// Bounds the time of a request next to a flood. The product's own bound is 1 s, but the flood and
/// other tests use the same machine.
pub(crate) const IN_TIME: Duration = Duration::from_secs(5);

/// Sends requests one after the other over one connection, and opens another one if that ended.
pub(crate) struct Caller {
    https: Https,
    version: Version,
    fields: Vec<(&'static str, String)>,
    kept: Option<Kept>,
    tally: Tally,
}

enum Kept {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Counts the outcomes of a caller's requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) served: usize,
    pub(crate) failures: Vec<String>,
    pub(crate) connections: usize,
    pub(crate) slowest: Duration,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.served += other.served;
        self.failures.extend(other.failures);
        self.connections += other.connections;
        self.slowest = self.slowest.max(other.slowest);
    }

    /// Asserts that at least 99 % of the requests were served.
    pub(crate) fn is_well(&self, what: &str) {
        println!("next to {what}: {self:?}");
        let all = self.served + self.failures.len();
        assert!(self.failures.len() * 100 <= all, "next to {what}: {self:?}");
    }
}

impl Caller {
    /// Makes a caller that presents `token`.
    pub(crate) fn new(https: &Https, version: Version, token: &str) -> Self {
        Self::stranger(https, version).with("authorization", &format!("Bearer {token}"))
    }

    /// Makes a caller that presents no token.
    pub(crate) fn stranger(https: &Https, version: Version) -> Self {
        Self {
            https: https.clone(),
            version,
            fields: Vec::new(),
            kept: None,
            tally: Tally::default(),
        }
    }

    /// Adds a field to each request.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.fields.push((name, value.to_owned()));
        self
    }

    /// Sends `count` requests, each of which must be answered 200 within `limit`.
    pub(crate) async fn sends(
        mut self,
        count: usize,
        method: Method,
        body: Bytes,
        limit: Duration,
    ) -> Tally {
        for _ in 0..count {
            let asked = Instant::now();
            let answer = timeout(limit, self.send(&method, body.clone())).await;
            self.tally.slowest = self.tally.slowest.max(asked.elapsed());
            match answer {
                Ok(Ok(StatusCode::OK)) => self.tally.served += 1,
                Ok(Ok(status)) => self.tally.failures.push(status.to_string()),
                Ok(Err(error)) => self.fails(error),
                Err(_) => self.fails(format!("no answer within {limit:?}")),
            }
        }
        self.tally
    }

    fn fails(&mut self, why: String) {
        self.tally.failures.push(why);
        self.kept = None;
    }

    async fn send(&mut self, method: &Method, body: Bytes) -> Result<StatusCode, String> {
        let ready = match &mut self.kept {
            Some(kept) => kept.is_ready().await,
            None => false,
        };
        if !ready {
            self.kept = Some(Kept::open(&self.https, self.version).await?);
            self.tally.connections += 1;
        }
        let request = self.request(method, body);
        let kept = self.kept.as_mut().expect("the connection is open");
        kept.send(request)
            .await
            .map_err(|error| format!("{error:?}"))
    }

    fn request(&self, method: &Method, body: Bytes) -> Request<Full<Bytes>> {
        let request = Request::builder().method(method);
        let request = match self.version {
            Version::HTTP_2 => request.uri(format!("{}://localhost/", self.https.scheme())),
            _ => request.uri("/").header("host", "localhost"),
        };
        let request = self.fields.iter().fold(request, |request, (name, value)| {
            request.header(*name, value)
        });
        request.body(body.into()).unwrap()
    }
}

impl Kept {
    async fn open(https: &Https, version: Version) -> Result<Self, String> {
        let alpn: &[u8] = match version {
            Version::HTTP_2 => b"h2",
            _ => b"http/1.1",
        };
        let tls = https.open(alpn).await.map_err(|error| error.to_string())?;
        let io = TokioIo::new(tls);
        if version == Version::HTTP_2 {
            let opened = http2::handshake(TokioExecutor::new(), io).await;
            let (sender, connection) = opened.map_err(|error| format!("{error:?}"))?;
            tokio::spawn(connection);
            return Ok(Self::Http2(sender));
        }
        let opened = http1::handshake(io).await;
        let (sender, connection) = opened.map_err(|error| format!("{error:?}"))?;
        tokio::spawn(connection);
        Ok(Self::Http1(sender))
    }

    async fn is_ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Sends a request and reads its answer to the end.
    async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<StatusCode> {
        let answer = match self {
            Self::Http1(sender) => sender.send_request(request).await?,
            Self::Http2(sender) => sender.send_request(request).await?,
        };
        let status = answer.status();
        answer.into_body().collect().await?;
        Ok(status)
    }
}

/// Sends `count` POSTs with this body over each of `connections` connections.
pub(crate) async fn posts(
    https: &Https,
    token: &str,
    version: Version,
    (connections, count): (usize, usize),
    body: &Bytes,
) -> Tally {
    let mut callers = JoinSet::new();
    for _ in 0..connections {
        let caller = Caller::new(https, version, token);
        callers.spawn(caller.sends(count, Method::POST, body.clone(), PATIENCE));
    }
    let mut all = Tally::default();
    for tally in callers.join_all().await {
        all.add(tally);
    }
    all
}

/// Sends GETs over kept connections and over new ones, in both versions.
pub(crate) async fn gets(caller: impl Fn(Version) -> Caller) -> Tally {
    const KEPT: usize = 60;
    const NEW: usize = 20;
    let mut all = Tally::default();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        all.add(
            caller(version)
                .sends(KEPT, Method::GET, Bytes::new(), IN_TIME)
                .await,
        );
        for _ in 0..NEW {
            all.add(
                caller(version)
                    .sends(1, Method::GET, Bytes::new(), IN_TIME)
                    .await,
            );
        }
    }
    all
}
