//! Configures Envoy as both hops in one process. The server's listener verifies tokens with a local
//! JWK Set. The proxy's listener forwards to it and verifies its SPIFFE ID.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use harness::{SERVER_ID, Stack, x509::pem};
use serde_json::{Value, json};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// The largest body that the server waits for, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Optional parts of a configuration.
#[derive(Clone, Copy)]
pub(crate) struct Features {
    /// The server caches verified tokens.
    pub(crate) cached: bool,
    /// The server reads the body of a request before it answers.
    pub(crate) bodies: bool,
}

/// Writes the agent's X.509-SVID, trust bundle and JWK Set where the configuration expects them.
pub(crate) async fn write_identity(stack: &Stack, directory: &Path) -> Result<()> {
    let identity = stack.identity().await;
    let svid = identity.x509.svid()?;
    let chain: String = svid
        .cert_chain()
        .iter()
        .map(|certificate| pem("CERTIFICATE", certificate.as_bytes()))
        .collect();
    fs::write(directory.join("svid.pem"), chain)?;
    let key = pem("PRIVATE KEY", svid.private_key().as_bytes());
    fs::write(directory.join("svid.key"), key)?;
    fs::write(directory.join("ca.pem"), stack.agent.x509_bundle_pem())?;
    fs::write(directory.join("jwks.json"), jwks(&stack.agent.jwks())?)?;
    Ok(())
}

/// Writes a configuration that listens on these ports.
pub(crate) fn write_config(
    directory: &Path,
    server: u16,
    proxy: u16,
    features: Features,
) -> Result<PathBuf> {
    let path = directory.join("envoy.json");
    fs::write(
        &path,
        config(directory, server, proxy, features).to_string(),
    )?;
    Ok(path)
}

/// Adds `alg` and `use` to each key, as JWK Sets outside SPIFFE have them. Envoy accepts a key only
/// for these.
fn jwks(set: &str) -> Result<String> {
    let mut set: Value = serde_json::from_str(set)?;
    for key in set["keys"].as_array_mut().into_iter().flatten() {
        key["alg"] = "ES256".into();
        key["use"] = "sig".into();
    }
    Ok(set.to_string())
}

fn config(directory: &Path, server: u16, proxy: u16, features: Features) -> Value {
    let greet = json!({
        "match": { "path": "/" },
        "direct_response": { "status": 200, "body": { "inline_string": "Success!!!" } },
    });
    let forward = json!({ "match": { "path": "/" }, "route": { "cluster": "server" } });
    let mut filters = vec![jwt_authn(directory, features.cached)];
    if features.bodies {
        let settings = json!({ "max_request_bytes": MAX_BODY });
        filters.push(extension("filters.http.buffer.v3.Buffer", settings));
    }
    json!({ "static_resources": {
        "listeners": [
            listener(directory, "server", server, greet, filters),
            listener(directory, "proxy", proxy, forward, vec![]),
        ],
        "clusters": [cluster(directory, server)],
    } })
}

fn listener(directory: &Path, name: &str, port: u16, route: Value, filters: Vec<Value>) -> Value {
    let file = |name: &str| json!({ "filename": directory.join(name) });
    let router = extension("filters.http.router.v3.Router", json!({}));
    let filters = [filters, vec![router]].concat();
    let tls = json!({ "common_tls_context": {
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            { "certificate_chain": file("svid.pem"), "private_key": file("svid.key") },
        ],
    } });
    let http = json!({
        "stat_prefix": name,
        "route_config": { "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [route] }] },
        "http_filters": filters,
    });
    json!({
        "name": name,
        "address": address(port),
        "filter_chains": [{
            "transport_socket": extension("transport_sockets.tls.v3.DownstreamTlsContext", tls),
            "filters": [extension(
                "filters.network.http_connection_manager.v3.HttpConnectionManager",
                http,
            )],
        }],
    })
}

fn jwt_authn(directory: &Path, cached: bool) -> Value {
    let mut provider = json!({
        "audiences": [SERVER_ID],
        "local_jwks": { "filename": directory.join("jwks.json") },
    });
    if cached {
        // The cache has room for every token of a run.
        provider["jwt_cache_config"] = json!({ "jwt_cache_size": 100_000 });
    }
    let rules = json!([{ "match": { "prefix": "/" }, "requires": { "provider_name": "spiffe" } }]);
    let settings = json!({ "providers": { "spiffe": provider }, "rules": rules });
    extension("filters.http.jwt_authn.v3.JwtAuthentication", settings)
}

fn cluster(directory: &Path, server: u16) -> Value {
    let verified = json!({ "common_tls_context": { "validation_context": {
        "trusted_ca": { "filename": directory.join("ca.pem") },
        "match_typed_subject_alt_names": [
            { "san_type": "URI", "matcher": { "exact": SERVER_ID } },
        ],
    } } });
    let endpoint = json!({ "endpoint": { "address": address(server) } });
    json!({
        "name": "server",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{ "lb_endpoints": [endpoint] }],
        },
        "transport_socket": extension("transport_sockets.tls.v3.UpstreamTlsContext", verified),
    })
}

fn address(port: u16) -> Value {
    json!({ "socket_address": { "address": "127.0.0.1", "port_value": port } })
}

/// Returns an extension of this type with its settings, under the name that Envoy requires.
fn extension(kind: &str, mut settings: Value) -> Value {
    settings["@type"] = format!("{TYPES}.{kind}").into();
    json!({ "name": format!("envoy.{kind}"), "typed_config": settings })
}
