//! OIDC discovery for validators that do not speak SPIFFE (OpenID Connect Discovery 1.0 §4).
//!
//! The issuer is the one that the tokens have, whatever name this endpoint is reached by. The address
//! of the keys has that name.

use std::{net::SocketAddr, sync::Arc};

use http::{StatusCode, uri::Authority};
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

use super::{server::Site, settings::OidcEndpoint, web::WebCertificate};
use crate::{error::Error, state::State, status::OidcEndpointStatus};

/// The contents of the OIDC endpoint.
pub(super) struct OidcSite {
    state: Arc<State>,
    certificate: WebCertificate,
}

impl OidcSite {
    pub(super) fn new(state: Arc<State>, settings: &OidcEndpoint) -> Self {
        Self {
            state,
            certificate: settings.certificate.clone(),
        }
    }

    pub(super) fn status(&self, address: SocketAddr) -> OidcEndpointStatus {
        OidcEndpointStatus {
            address: address.to_string(),
            issuer: self.issuer().to_owned(),
        }
    }

    /// Returns the issuer, which the configuration requires for this endpoint.
    fn issuer(&self) -> &str {
        self.state.config.jwt_issuer.as_deref().unwrap_or_default()
    }

    /// Returns the discovery document (§3).
    fn discovery(&self, host: &Authority) -> Value {
        json!({
            "issuer": self.issuer(),
            "jwks_uri": format!("https://{host}/keys"),
            "authorization_endpoint": "",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

impl Site for OidcSite {
    fn certificate(&self) -> Result<CertifiedKey, Error> {
        Ok(self.certificate.certified())
    }

    fn get(&self, path: &str, host: Option<&str>) -> (StatusCode, String) {
        match path {
            "/.well-known/openid-configuration" => {
                let host = host.and_then(|host| host.parse::<Authority>().ok());
                let host = host.filter(|host| !host.as_str().contains('@'));
                match host {
                    Some(host) => (StatusCode::OK, self.discovery(&host).to_string()),
                    None => (StatusCode::BAD_REQUEST, String::new()),
                }
            }
            "/keys" => (StatusCode::OK, self.state.oidc_keys()),
            _ => (StatusCode::NOT_FOUND, String::new()),
        }
    }
}
