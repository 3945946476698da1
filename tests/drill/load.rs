//! Callers as they are in practice: some keep their connection, some open one for each request. Each
//! follows the trust bundles and renews its token, and does what HTTP lets every client do.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use common::workload::{WorkloadApi, tokens::TokenSource};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use spiffe::{JwtSvid, SpiffeId, X509Source};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::tally::{Outcome, Tally};

/// Connections that are kept, and callers that open one for each request.
pub(crate) const KEPT: u32 = 32;
pub(crate) const RECONNECTING: u32 = 4;
/// No request takes this long.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a caller that has no turn yet looks at what its pace is.
const LOOK: Duration = Duration::from_millis(20);

/// Whom to trust, by the trust bundles of the moment, and what to say.
pub(crate) struct Caller {
    port: u16,
    x509: X509Source,
    trust: Mutex<(u64, Arc<ClientConfig>)>,
    pub(crate) tokens: TokenSource,
}

/// The callers at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    _callers: JoinSet<()>,
}

struct Shared {
    caller: Arc<Caller>,
    tally: Mutex<Tally>,
    /// Between two requests of one caller, in µs.
    pause: AtomicU64,
}

/// Nobody makes requests.
const AT_REST: u64 = u64::MAX;

type Sender = SendRequest<Empty<Bytes>>;

impl Caller {
    /// Calls `port` of this machine by the identity that the Workload API gives this process as `id`.
    pub(crate) async fn new(
        port: u16,
        api: &WorkloadApi,
        id: &str,
        audience: &str,
    ) -> Result<Self> {
        let x509 = api.x509().await?.x509;
        let id = Some(SpiffeId::new(id)?);
        let trust = (x509.updated().last(), Arc::new(config(&x509)?));
        let tokens = TokenSource::new(api.clone(), vec![audience.to_owned()], id);
        // There from the start, whatever happens then.
        tokens.token().await.context("no token")?;
        Ok(Self {
            port,
            trust: Mutex::new(trust),
            x509,
            tokens,
        })
    }

    /// A TLS connection to `port`, whose certificate is verified by the current bundles.
    pub(crate) async fn connect(&self, port: u16) -> Result<TlsStream<TcpStream>> {
        let connecting = async {
            let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
            tcp.set_nodelay(true)?;
            let name = "localhost".try_into()?;
            anyhow::Ok(
                TlsConnector::from(self.config()?)
                    .connect(name, tcp)
                    .await?,
            )
        };
        timeout(PATIENCE, connecting)
            .await
            .context("no connection in time")?
    }

    /// The certificate that `port` presents.
    pub(crate) async fn presented(&self, port: u16) -> Result<CertificateDer<'static>> {
        let tls = self.connect(port).await?;
        let chain = tls
            .get_ref()
            .1
            .peer_certificates()
            .context("no certificate")?;
        Ok(chain[0].clone().into_owned())
    }

    /// The status of one request with `token` on a connection of its own.
    pub(crate) async fn status(&self, token: &str) -> Result<StatusCode> {
        let mut sender = self.open().await?;
        Ok(sender.send_request(request(token)?).await?.status())
    }

    /// One request after the other on one connection until `end`; how many were answered 200, and
    /// how many 503.
    pub(crate) async fn insist(&self, token: &str, end: Instant) -> Result<(u64, u64)> {
        let mut kept = None;
        let (mut good, mut shed) = (0, 0);
        while Instant::now() < end {
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => self.open().await?,
            };
            let response = sender.send_request(request(token)?).await?;
            match finish(sender, response, &mut kept).await? {
                StatusCode::OK => good += 1,
                StatusCode::SERVICE_UNAVAILABLE => shed += 1,
                status => bail!("the crowd was answered {status}"),
            }
        }
        Ok((good, shed))
    }

    fn config(&self) -> Result<Arc<ClientConfig>> {
        let mut trust = lock(&self.trust);
        let revision = self.x509.updated().last();
        if trust.0 != revision {
            *trust = (revision, Arc::new(config(&self.x509)?));
        }
        Ok(Arc::clone(&trust.1))
    }

    async fn open(&self) -> Result<Sender> {
        let io = TokioIo::new(self.connect(self.port).await?);
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A request over `kept` if that is still open, else over a new connection.
    async fn exchange(&self, kept: &mut Option<Sender>, reopened: &mut bool) -> Outcome {
        match timeout(PATIENCE, self.authorized(kept, reopened)).await {
            Ok(Ok(StatusCode::OK)) => Outcome::Good,
            Ok(Ok(status)) => Outcome::Status(status.as_u16()),
            Ok(Err(error)) => Outcome::Broken(format!("{error:#}")),
            Err(_) => Outcome::Broken("no answer in time".into()),
        }
    }

    /// A token that is refused is replaced once, since its key may be gone.
    async fn authorized(
        &self,
        kept: &mut Option<Sender>,
        reopened: &mut bool,
    ) -> Result<StatusCode> {
        let token = self.token().await?;
        let status = self.send(kept, reopened, &token).await?;
        if status != StatusCode::UNAUTHORIZED {
            return Ok(status);
        }
        self.tokens.invalidate(&token);
        let next = self.token().await?;
        match next.token() == token.token() {
            true => Ok(status),
            false => self.send(kept, reopened, &next).await,
        }
    }

    async fn token(&self) -> Result<Arc<JwtSvid>> {
        self.tokens.token().await.context("no token")
    }

    /// A kept connection may end just as the request is sent: then it is repeated on a new one (RFC
    /// 9110 §9.2.2, RFC 9112 §9.3.1).
    async fn send(
        &self,
        kept: &mut Option<Sender>,
        reopened: &mut bool,
        token: &JwtSvid,
    ) -> Result<StatusCode> {
        if let Some(mut sender) = kept.take() {
            if let Ok(response) = sender.send_request(request(token.token())?).await {
                return finish(sender, response, kept).await;
            }
            *reopened = true;
        }
        let mut sender = self.open().await.context("cannot connect")?;
        let response = sender.send_request(request(token.token())?).await;
        finish(
            sender,
            response.context("no answer on a new connection")?,
            kept,
        )
        .await
    }
}

/// Reads the answer to its end; keeps the connection if the other end does.
async fn finish(
    sender: Sender,
    response: Response<Incoming>,
    kept: &mut Option<Sender>,
) -> Result<StatusCode> {
    let (head, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .context("the answer broke off")?
        .to_bytes();
    ensure!(
        head.status != StatusCode::OK || body == "Success!!!",
        "another body"
    );
    let shed = head.status == StatusCode::SERVICE_UNAVAILABLE;
    ensure!(
        !shed || head.headers.contains_key(header::RETRY_AFTER),
        "503 without Retry-After"
    );
    if head
        .headers
        .get(header::CONNECTION)
        .is_none_or(|value| value != "close")
    {
        *kept = Some(sender);
    }
    Ok(head.status)
}

fn request(token: &str) -> Result<Request<Empty<Bytes>>> {
    let request = Request::get("/").header(header::HOST, "localhost");
    let request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    Ok(request.body(Empty::new())?)
}

/// Trusts what the bundles of this moment have.
fn config(x509: &X509Source) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for (_, bundle) in x509.bundle_set()?.iter() {
        for authority in bundle.authorities() {
            roots.add(CertificateDer::from(authority.as_bytes().to_vec()))?;
        }
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

impl Load {
    /// Callers that are at rest, until [`Self::go`].
    pub(crate) fn new(caller: Arc<Caller>) -> Self {
        let shared = Arc::new(Shared {
            caller,
            tally: Mutex::default(),
            pause: AtomicU64::new(AT_REST),
        });
        let mut callers = JoinSet::new();
        for index in 0..KEPT + RECONNECTING {
            callers.spawn(Arc::clone(&shared).call(index < KEPT));
        }
        Self {
            shared,
            _callers: callers,
        }
    }

    pub(crate) fn caller(&self) -> &Caller {
        &self.shared.caller
    }

    pub(crate) fn shared_caller(&self) -> Arc<Caller> {
        Arc::clone(&self.shared.caller)
    }

    /// From now on so many requests a second; as many as there can be without a number.
    pub(crate) fn go(&self, per_second: Option<f64>) {
        let callers = f64::from(KEPT + RECONNECTING);
        let pause = per_second.map_or(0, |rate| (callers / rate * 1e6) as u64);
        self.shared.pause.store(pause, Relaxed);
    }

    pub(crate) fn rest(&self) {
        self.shared.pause.store(AT_REST, Relaxed);
    }

    /// What became of the requests since the last time.
    pub(crate) fn take(&self) -> Tally {
        std::mem::take(&mut *lock(&self.shared.tally))
    }

    /// How many there were since [`Self::take`].
    pub(crate) fn requests(&self) -> u64 {
        lock(&self.shared.tally).requests()
    }
}

impl Shared {
    async fn call(self: Arc<Self>, keep: bool) {
        let mut kept = None;
        let mut due = Instant::now();
        loop {
            due = self.turn(due).await;
            let (begun, mut reopened) = (Instant::now(), false);
            let outcome = self.caller.exchange(&mut kept, &mut reopened).await;
            let mut tally = lock(&self.tally);
            tally.reopened += u64::from(reopened);
            tally.count(outcome, begun.elapsed());
            drop(tally);
            if !keep {
                kept = None;
            }
        }
    }

    /// Waits for this caller's next turn; when the one after that is due. One that was held up does
    /// not make up for it.
    async fn turn(&self, due: Instant) -> Instant {
        loop {
            let pause = self.pause.load(Relaxed);
            if pause != AT_REST {
                let now = Instant::now();
                let due = due.max(now.checked_sub(LOOK).unwrap_or(now));
                tokio::time::sleep_until(due.into()).await;
                return due + Duration::from_micros(pause);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Nothing panics while it holds one of these.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
