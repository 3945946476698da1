//! The HTTPS endpoints of the agent, from which other trust domains and validators get its keys.
//!
//! - `server`: accept → TLS → HTTP, and a port that stays ours while nobody listens.
//! - `bundle`: the bundle endpoint (SPIFFE Federation §5), and its misbehaviour for tests.
//! - `oidc`: the discovery document and the JWK Set for validators that do not speak SPIFFE.
//! - `web`: a certificate and its key from files.

mod bundle;
mod oidc;
mod server;
mod web;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use spiffe::{SpiffeId, TrustDomain};

use self::{
    bundle::BundleSite,
    oidc::OidcSite,
    server::{Server, Site},
};
pub use self::{bundle::EndpointMode, web::WebCertificate};
use crate::{
    error::Error,
    state::State,
    status::{BundleEndpointStatus, OidcEndpointStatus},
};

/// The refresh hint of SPIRE, and the period at which a bundle without a hint is fetched (Federation
/// §4.1).
pub(crate) const DEFAULT_HINT: Duration = Duration::from_secs(300);

/// The endpoint from which other trust domains get the agent's bundle.
#[derive(Clone, Debug)]
pub struct BundleEndpoint {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The identity that it presents.
    pub identity: EndpointIdentity,
    /// The period at which others fetch the bundle again.
    pub refresh_hint: Duration,
}

/// The identity of a bundle endpoint, which is that of its profile (Federation §5.2).
#[derive(Clone, Debug)]
pub enum EndpointIdentity {
    /// `https_spiffe`: an X.509-SVID with this SPIFFE ID, by default
    /// `spiffe://TRUST-DOMAIN/spire/server` as SPIRE's.
    Spiffe(Option<SpiffeId>),
    /// `https_web`: a certificate that has the endpoint's name.
    Web(WebCertificate),
}

/// The endpoint for validators that do not speak SPIFFE.
#[derive(Clone, Debug)]
pub struct OidcEndpoint {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The certificate that it presents.
    pub certificate: WebCertificate,
}

impl BundleEndpoint {
    /// Returns the settings with the profile `https_spiffe`, SPIRE's SPIFFE ID and SPIRE's refresh
    /// hint.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            identity: EndpointIdentity::Spiffe(None),
            refresh_hint: DEFAULT_HINT,
        }
    }
}

impl EndpointIdentity {
    /// Returns the name of the profile.
    fn profile(&self) -> &'static str {
        match self {
            Self::Spiffe(_) => "https_spiffe",
            Self::Web(_) => "https_web",
        }
    }
}

/// Returns the SPIFFE ID that SPIRE's bundle endpoint has in this trust domain.
pub(crate) fn default_id(trust_domain: &TrustDomain) -> Result<SpiffeId, Error> {
    let id = SpiffeId::new(format!("{}/spire/server", trust_domain.id_string()));
    id.map_err(|error| Error::setting("bundle-endpoint-id", error.to_string()))
}

/// The endpoints of a running agent. Dropping this closes them.
pub(crate) struct Endpoints {
    bundle: Option<(Server, Arc<BundleSite>)>,
    oidc: Option<(Server, Arc<OidcSite>)>,
}

impl Endpoints {
    /// Binds the endpoints of the configuration, and serves them.
    pub(crate) async fn start(state: &Arc<State>) -> Result<Self, Error> {
        let mut endpoints = Self {
            bundle: None,
            oidc: None,
        };
        if let Some(settings) = &state.config.bundle_endpoint {
            let site = Arc::new(BundleSite::new(Arc::clone(state), settings)?);
            let server = serve(settings.address, &site).await?;
            tracing::info!(
                "bundle endpoint at https://{} ({})",
                server.address(),
                site.profile()
            );
            endpoints.bundle = Some((server, site));
        }
        if let Some(settings) = &state.config.oidc_endpoint {
            let site = Arc::new(OidcSite::new(Arc::clone(state), settings));
            let server = serve(settings.address, &site).await?;
            tracing::info!("OIDC discovery at https://{}", server.address());
            endpoints.oidc = Some((server, site));
        }
        Ok(endpoints)
    }

    /// Returns the address of the bundle endpoint.
    pub(crate) fn bundle_address(&self) -> Option<SocketAddr> {
        self.bundle.as_ref().map(|(server, _)| server.address())
    }

    /// Returns the address of the OIDC endpoint.
    pub(crate) fn oidc_address(&self) -> Option<SocketAddr> {
        self.oidc.as_ref().map(|(server, _)| server.address())
    }

    /// Changes the behaviour of the bundle endpoint. The next connection meets it.
    pub(crate) async fn set_mode(&self, mode: EndpointMode) -> Result<(), Error> {
        let Some((server, site)) = &self.bundle else {
            return Err(Error::NoBundleEndpoint);
        };
        site.set_mode(mode);
        let site: Arc<dyn Site> = Arc::clone(site) as _;
        match mode {
            EndpointMode::Gone => server.close().await,
            _ => server.open(site).await?,
        }
        tracing::info!("bundle endpoint: {}", mode.name());
        Ok(())
    }

    pub(crate) fn bundle_status(&self) -> Option<BundleEndpointStatus> {
        let (server, site) = self.bundle.as_ref()?;
        Some(site.status(server.address()))
    }

    pub(crate) fn oidc_status(&self) -> Option<OidcEndpointStatus> {
        let (server, site) = self.oidc.as_ref()?;
        Some(site.status(server.address()))
    }
}

/// Binds `address`, and serves `site` there.
async fn serve<S: Site>(address: SocketAddr, site: &Arc<S>) -> Result<Server, Error> {
    let server = Server::bind(address)?;
    let site: Arc<dyn Site> = Arc::clone(site) as _;
    server.open(site).await?;
    Ok(server)
}
