//! The HTTPS endpoints of the agent, from which other trust domains and validators get its keys.
//!
//! - `server`: accept → TLS → HTTP, and a port that stays ours while nobody listens.
//! - `bundle`: the bundle endpoint (SPIFFE Federation §5), and its misbehaviour for tests.
//! - `oidc`: the discovery document and the JWK Set for validators that do not speak SPIFFE.
//! - `settings`: their settings, and the ways to misbehave.
//! - `web`: a certificate and its key from files.

mod bundle;
mod oidc;
mod server;
mod settings;
mod web;

use std::{net::SocketAddr, sync::Arc};

use tracing::info;

pub(crate) use self::settings::{DEFAULT_HINT, default_id};
use self::{
    bundle::BundleSite,
    oidc::OidcSite,
    server::{Server, Site},
};
pub use self::{
    settings::{BundleEndpoint, EndpointIdentity, EndpointMode, OidcEndpoint},
    web::WebCertificate,
};
use crate::{
    error::Error,
    state::State,
    status::{BundleEndpointStatus, OidcEndpointStatus},
};

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
            info!(
                "bundle endpoint at https://{} ({})",
                server.address(),
                site.profile()
            );
            endpoints.bundle = Some((server, site));
        }
        if let Some(settings) = &state.config.oidc_endpoint {
            let site = Arc::new(OidcSite::new(Arc::clone(state), settings));
            let server = serve(settings.address, &site).await?;
            info!("OIDC discovery at https://{}", server.address());
            endpoints.oidc = Some((server, site));
        }
        Ok(endpoints)
    }

    pub(crate) fn bundle_address(&self) -> Option<SocketAddr> {
        self.bundle.as_ref().map(|(server, _)| server.address())
    }

    pub(crate) fn oidc_address(&self) -> Option<SocketAddr> {
        self.oidc.as_ref().map(|(server, _)| server.address())
    }

    /// Changes the behaviour of the bundle endpoint, from the next connection on.
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
        info!("bundle endpoint: {}", mode.name());
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
