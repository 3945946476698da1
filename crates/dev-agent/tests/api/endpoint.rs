use std::{sync::Arc, time::Duration};

use dev_agent::{BundleEndpoint, Config, DevAgent, EndpointIdentity, EndpointMode};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use serde_json::Value;
use spiffe::cert::spiffe_id_from_der;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{TestAgent, soon, web_certificate};

/// Accepts any certificate, because the tests check it themselves. The field has the signature algorithms.
#[derive(Debug)]
struct Any(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// The answer of an endpoint, and the certificate that it presented.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: String,
    pub(crate) body: String,
    pub(crate) certificate: CertificateDer<'static>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Sends a request to an address, with a `Host` of its own.
pub(crate) async fn send(
    address: std::net::SocketAddr,
    method: &str,
    host: &str,
    path: &str,
) -> std::io::Result<Answer> {
    let provider = aws_lc_rs::default_provider();
    let any = Any(provider.signature_verification_algorithms);
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(any))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let stream = stream.await.unwrap();
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", host);
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let content_type = response.headers()["content-type"].to_str().unwrap();
    let (status, content_type) = (response.status(), content_type.to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok(Answer {
        status,
        content_type,
        body: String::from_utf8(body.to_vec()).unwrap(),
        certificate,
    })
}

async fn get(agent: &TestAgent) -> Answer {
    let address = agent.bundle_endpoint().unwrap();
    soon(send(address, "GET", "b.test", "/")).await.unwrap()
}

fn uses(bundle: &Value) -> Vec<&str> {
    let keys = bundle["keys"].as_array().unwrap().iter();
    keys.map(|key| key["use"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn endpoint_serves_the_bundle_as_spires_identity_f001_f002_f003() {
    let agent = TestAgent::with_endpoint(|endpoint| {
        endpoint.refresh_hint = Duration::from_secs(17);
    })
    .await;
    let answer = get(&agent).await;
    assert_eq!(
        (answer.status, &*answer.content_type),
        (StatusCode::OK, "application/json")
    );
    let id = spiffe_id_from_der(&answer.certificate).unwrap();
    assert_eq!(id.to_string(), "spiffe://b.test/spire/server");
    let bundle = answer.json();
    assert_eq!(uses(&bundle), ["x509-svid", "jwt-svid"]);
    assert_eq!(bundle["spiffe_refresh_hint"], 17);
    let first = bundle["spiffe_sequence"].as_u64().unwrap();

    // "F4"
    agent.rotate_x509();
    assert_eq!(get(&agent).await.json(), bundle);
    agent.rotate_ca();
    agent.rotate_jwt_key();
    let bundle = get(&agent).await.json();
    assert_eq!(
        uses(&bundle),
        ["x509-svid", "x509-svid", "jwt-svid", "jwt-svid"]
    );
    assert!(bundle["spiffe_sequence"].as_u64().unwrap() > first);
    assert_eq!(
        agent.status().bundle_endpoint.unwrap().sequence,
        bundle["spiffe_sequence"].as_u64().unwrap()
    );
}

#[tokio::test]
async fn other_methods_and_paths_are_refused_f001() {
    let agent = TestAgent::with_endpoint(|_| ()).await;
    let address = agent.bundle_endpoint().unwrap();
    for (method, path, status) in [
        ("HEAD", "/", 200),
        ("POST", "/", 405),
        ("GET", "/keys", 404),
        ("GET", "/..", 404),
    ] {
        let answer = soon(send(address, method, "b.test", path)).await.unwrap();
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.body, "", "{method} {path}");
    }
}

#[tokio::test]
async fn endpoint_on_a_port_in_use_is_refused_with_the_remedy() {
    let agent = TestAgent::with_endpoint(|_| ()).await;
    let directory = tempfile::tempdir().unwrap();
    let entry = "spiffe://c.test/y=unix:uid:0".parse().unwrap();
    let mut config = Config::new(directory.path().join("agent.sock"), vec![entry]);
    config.bundle_endpoint = Some(BundleEndpoint::new(agent.bundle_endpoint().unwrap()));
    let error = DevAgent::start(config).await.unwrap_err().to_string();
    assert!(error.contains("stop what listens there"), "{error}");
}

#[tokio::test]
async fn endpoint_of_the_web_profile_presents_its_certificate_f003() {
    let (certificate, _, [chain, _]) = web_certificate();
    let agent = TestAgent::with_endpoint(|endpoint| {
        endpoint.identity = EndpointIdentity::Web(certificate);
    })
    .await;
    let answer = get(&agent).await;
    let presented = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap();
    assert_eq!(answer.certificate, presented);
    assert!(spiffe_id_from_der(&answer.certificate).is_err());
    assert_eq!(uses(&answer.json()), ["x509-svid", "jwt-svid"]);
}

/// "F11"
#[tokio::test]
async fn endpoint_misbehaves_as_it_is_told_and_is_normal_again() {
    let agent = TestAgent::with_endpoint(|_| ()).await;
    let genuine = get(&agent).await;
    let before = genuine.json();
    let address = agent.bundle_endpoint().unwrap();
    let issuer = |answer: &Answer| {
        let (_, certificate) = x509_parser::parse_x509_certificate(&answer.certificate).unwrap();
        certificate.issuer().to_string()
    };
    for mode in EndpointMode::ALL {
        agent.set_endpoint_mode(mode).await.unwrap();
        agent.rotate_jwt_key();
        agent.drop_old_jwt_key();
        assert_eq!(agent.status().bundle_endpoint.unwrap().mode, mode);
        if mode == EndpointMode::Gone {
            let refused = soon(send(address, "GET", "b.test", "/")).await;
            let error = refused.err().unwrap();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            continue;
        }
        let answer = get(&agent).await;
        let id = spiffe_id_from_der(&answer.certificate).unwrap().to_string();
        let as_ever = id == "spiffe://b.test/spire/server" && issuer(&answer) == issuer(&genuine);
        let current: Value = serde_json::from_str(agent.federation().document()).unwrap();
        let wrong_certificate = [EndpointMode::WrongCertificate, EndpointMode::WrongIdentity];
        assert_eq!(
            as_ever,
            !wrong_certificate.contains(&mode),
            "{mode:?}: {id}"
        );
        match mode {
            EndpointMode::NotFound => assert_eq!(answer.status, 404),
            EndpointMode::Garbage => assert!(serde_json::from_str::<Value>(&answer.body).is_err()),
            EndpointMode::Empty => assert_eq!(uses(&answer.json()), [""; 0]),
            EndpointMode::OldSequence => assert_eq!(answer.json()["spiffe_sequence"], 1),
            EndpointMode::Stale => {
                let kept = answer.json()["spiffe_sequence"].as_u64();
                assert!(kept < current["spiffe_sequence"].as_u64());
                assert!(kept >= before["spiffe_sequence"].as_u64());
            }
            _ => assert_eq!(answer.json()["keys"], current["keys"], "{mode:?}"),
        }
    }
    agent.set_endpoint_mode(EndpointMode::Normal).await.unwrap();
    let current: Value = serde_json::from_str(agent.federation().document()).unwrap();
    assert_eq!(get(&agent).await.json()["keys"], current["keys"]);
}

#[tokio::test]
async fn agent_without_an_endpoint_refuses_to_change_it() {
    let agent = TestAgent::start(&["spiffe://a.test/x=unix:uid:{uid}"]).await;
    let refused = agent.set_endpoint_mode(EndpointMode::Gone).await;
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("start it with --bundle-endpoint"), "{error}");
}
