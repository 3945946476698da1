//! Fetches what a run needs of the Workload API: a token, and the bundles that verify its peer.

use std::time::Duration;

use anyhow::anyhow;
use common::workload::{WorkloadApi, X509Source, tokens::TokenSource};
use process::cli;
use spiffe::JwtSvid;
use tokio::time::timeout;

use crate::{config::Config, peer::PeerIdentity};

pub(crate) async fn token(config: &Config, workload_api: &WorkloadApi) -> anyhow::Result<JwtSvid> {
    let fetched = workload_api.fetch_jwt_svid(&config.audiences(), None).await;
    fetched.map_err(cli::with_remedy)
}

/// The longest wait for the error of a fetch, after the time for a first token is over.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Returns the reason why there is no first token in time.
pub(crate) async fn no_token(tokens: &TokenSource, audiences: &[String]) -> anyhow::Error {
    let audiences = audiences.join(", ");
    match timeout(LAST_WAIT, tokens.token()).await {
        Ok(Err(error)) => anyhow!("no JWT-SVID for {audiences}: {error}"),
        Ok(Ok(_)) => anyhow!("no JWT-SVID for {audiences} in time"),
        Err(_) => anyhow!("no JWT-SVID for {audiences} in time, and no answer of the Workload API"),
    }
}

/// Returns the X.509 bundles, if they verify the server.
pub(crate) async fn bundles(
    config: &Config,
    workload_api: &WorkloadApi,
) -> anyhow::Result<Option<X509Source>> {
    match config.peer() {
        PeerIdentity::Name { .. } => Ok(None),
        PeerIdentity::SpiffeId(_) => {
            let bundles = workload_api.x509_bundles().await;
            Ok(Some(bundles.map_err(cli::with_remedy)?.x509))
        }
    }
}
