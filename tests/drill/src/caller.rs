//! Sends requests as a good client does: it follows the trust bundles, renews its token, and sends
//! a request again only if HTTP allows that.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use common::{
    lock::lock,
    workload::{WorkloadApi, X509Source, tokens::TokenSource},
};
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use spiffe::{JwtSvid, SpiffeId};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    request::{Payload, Sequence, Shape},
    tally::{Kind, Outcome, Tally},
};

/// Every request takes less time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Holds the trust bundles and the tokens of a caller.
pub(crate) struct Caller {
    port: u16,
    x509: X509Source,
    trust: Mutex<(u64, Arc<ClientConfig>)>,
    pub(crate) tokens: TokenSource,
}

type Sender = SendRequest<Payload>;

/// The reason why there is no answer.
struct Unanswered {
    error: hyper::Error,
    /// The peer cannot have received any part of the request.
    unsent: bool,
}

impl Caller {
    /// Returns a caller of `port` of this machine. Its identity is the one that the Workload API
    /// gives this process as `id`.
    pub(crate) async fn new(
        port: u16,
        api: &WorkloadApi,
        id: &str,
        audience: &str,
    ) -> Result<Self> {
        let x509 = api.x509().await?.x509;
        let id = Some(SpiffeId::new(id)?);
        let trust = (x509.revision(), Arc::new(config(&x509)?));
        let tokens = TokenSource::new(api.clone(), vec![audience.to_owned()], id);
        // Fetches a token now, so that there is one whatever happens later.
        tokens.token().await.context("no token")?;
        Ok(Self {
            port,
            trust: Mutex::new(trust),
            x509,
            tokens,
        })
    }

    /// Opens a TLS connection to `port` and verifies the certificate with the current bundles.
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

    /// Returns the certificate that `port` presents.
    pub(crate) async fn presented(&self, port: u16) -> Result<CertificateDer<'static>> {
        let tls = self.connect(port).await?;
        let chain = tls
            .get_ref()
            .1
            .peer_certificates()
            .context("no certificate")?;
        Ok(chain[0].clone().into_owned())
    }

    /// Returns the status of one request with `token` on a connection of its own.
    pub(crate) async fn status(&self, token: &str) -> Result<StatusCode> {
        let mut sender = self.open().await?;
        let request = Shape::Get.request(token)?;
        Ok(sender.send_request(request).await?.status())
    }

    /// Sends one request after the other on one connection until `end`, and returns their outcomes.
    pub(crate) async fn insist(&self, mut sequence: Sequence, end: Instant) -> Result<Tally> {
        let (mut kept, mut reopened) = (None, false);
        let mut tally = Tally::default();
        while Instant::now() < end {
            let shape = sequence.next().context("no request")?;
            let begun = Instant::now();
            let outcome = self.exchange(&mut kept, &mut reopened, shape).await;
            tally.count(shape.kind(), outcome, begun.elapsed());
        }
        Ok(tally)
    }

    fn config(&self) -> Result<Arc<ClientConfig>> {
        let mut trust = lock(&self.trust);
        let revision = self.x509.revision();
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

    /// Sends a request over `kept` if that is still open, otherwise over a new connection.
    pub(crate) async fn exchange(
        &self,
        kept: &mut Option<Sender>,
        reopened: &mut bool,
        shape: Shape,
    ) -> Outcome {
        match timeout(PATIENCE, self.authorized(kept, reopened, shape)).await {
            Ok(Ok(StatusCode::OK)) => Outcome::Good,
            Ok(Ok(status)) => Outcome::Status(status.as_u16()),
            Ok(Err(error)) => Outcome::Broken(format!("{error:#}")),
            Err(_) => Outcome::Broken("no answer in time".into()),
        }
    }

    /// Sends a request. If its token is refused, sends it once more with a new token, because the
    /// key may have been removed.
    async fn authorized(
        &self,
        kept: &mut Option<Sender>,
        reopened: &mut bool,
        shape: Shape,
    ) -> Result<StatusCode> {
        let token = self.token().await?;
        let status = self.send(kept, reopened, shape, &token).await?;
        if status != StatusCode::UNAUTHORIZED {
            return Ok(status);
        }
        self.tokens.invalidate(&token);
        let next = self.token().await?;
        if next.token() == token.token() {
            Ok(status)
        } else {
            self.send(kept, reopened, shape, &next).await
        }
    }

    async fn token(&self) -> Result<Arc<JwtSvid>> {
        self.tokens.token().await.context("no token")
    }

    /// Sends a request again on a new connection if the kept one ended just as it was sent (RFC 9112
    /// §9.3.1). A POST is sent again only if nothing of it was sent (RFC 9110 §9.2.2).
    async fn send(
        &self,
        kept: &mut Option<Sender>,
        reopened: &mut bool,
        shape: Shape,
        token: &JwtSvid,
    ) -> Result<StatusCode> {
        if let Some(mut sender) = kept.take() {
            match attempt(&mut sender, shape, token).await? {
                Ok(response) => return finish(sender, response, kept).await,
                Err(failed) if failed.unsent || shape.kind() == Kind::Get => *reopened = true,
                Err(failed) => {
                    return Err(failed.error).context("the connection ended on a POST");
                }
            }
        }
        let mut sender = self.open().await.context("cannot connect")?;
        let response = attempt(&mut sender, shape, token).await?;
        let response = response.map_err(|failed| failed.error);
        finish(
            sender,
            response.context("no answer on a new connection")?,
            kept,
        )
        .await
    }
}

/// Sends a request once, after the request before has been sent to its end.
async fn attempt(
    sender: &mut Sender,
    shape: Shape,
    token: &JwtSvid,
) -> Result<Result<Response<Incoming>, Unanswered>> {
    if let Err(error) = sender.ready().await {
        let unsent = true;
        return Ok(Err(Unanswered { error, unsent }));
    }
    let request = shape.request(token.token())?;
    let answer = sender.try_send_request(request).await;
    Ok(answer.map_err(|mut failed| Unanswered {
        unsent: failed.take_message().is_some(),
        error: failed.into_error(),
    }))
}

/// Reads the answer to its end, and keeps the connection if the peer does.
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

/// Trusts the certificates of the current bundles.
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
