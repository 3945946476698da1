//! TCP and TLS to a target under one deadline; its SPIFFE ID is verified in the handshake.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::ClientConfig;
use tokio::time::{sleep, timeout};
use tower_service::Service;

use super::stream::Stream;
use crate::cause;

/// Connects to `https` URLs and to nothing else.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    https: HttpsConnector<HttpConnector>,
    timeout: Duration,
}

/// The deadline for connecting passed.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not connected within {}", humantime::format_duration(*.0))]
pub(super) struct ConnectTimeout(Duration);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    /// Connects with `tls`, which decides who may be at the other end; ALPN offers HTTP/2 and 1.1.
    pub(super) fn new(tls: ClientConfig, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_all_versions()
            .wrap_connector(tcp);
        Self { https, timeout }
    }
}

/// How long `spiffe-rustls` is given to take in a new SVID or bundle before the next attempt.
const REVISION_PAUSE: Duration = Duration::from_millis(5);

/// For a moment after each update it refuses to verify anybody; that says nothing about the target.
fn is_between_revisions(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        cause::find(error),
        Some(spiffe_rustls::Error::PendingRevision { .. })
    )
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let (mut https, deadline) = (self.https.clone(), self.timeout);
        let connecting = async move {
            loop {
                match https.call(url.clone()).await {
                    Err(error) if is_between_revisions(&*error) => sleep(REVISION_PAUSE).await,
                    connected => return connected.map(Stream::new),
                }
            }
        };
        Box::pin(async move {
            timeout(deadline, connecting)
                .await
                .map_err(|_| ConnectTimeout(deadline))?
        })
    }
}
