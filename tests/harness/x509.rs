//! Makes X.509 certificates that no SPIFFE issuer would issue, and an upstream that presents them.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
pub use common::certificate::pem;
use dev_agent::{FederatedBundle, pb};
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use rustls::{
    HandshakeKind, ServerConfig,
    client::ResolvesClientCert,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::https::roots;

/// Holds a CA whose key is the test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Holds a chain from the leaf upwards, and the leaf's key.
pub struct Svid {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// Presents the latest SVID that a test gave it, and answers each request with 200.
pub struct Presenting {
    /// The port that it listens on.
    pub port: u16,
    svid: Arc<CurrentSvid>,
    seen: Arc<Seen>,
}

/// Counts what came to an upstream so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Handshakes that the caller completed.
    pub connections: AtomicUsize,
    /// Handshakes that were not resumptions.
    pub full_handshakes: AtomicUsize,
    /// Certificates that callers presented.
    pub certificates: AtomicUsize,
    /// Connections that ended after their handshake.
    pub closed: AtomicUsize,
    /// Requests.
    pub requests: AtomicUsize,
}

#[derive(Debug, Default)]
struct CurrentSvid(Mutex<Option<Arc<CertifiedKey>>>);

/// The path that a [`Presenting`] upstream does not answer.
pub const NEVER: &str = "/never";

impl Authority {
    /// Makes a valid self-signed root.
    pub fn root() -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(ca_params(), key).unwrap())
    }

    /// Makes a valid intermediate CA below this one, changed by `change`.
    pub fn intermediate(&self, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "intermediate");
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::signed_by(params, key, &self.0).unwrap())
    }

    /// Issues a valid X.509-SVID for `id`, changed by `change`.
    pub fn issue(&self, id: &str, change: impl FnOnce(&mut CertificateParams)) -> Svid {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(id)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let chain = vec![leaf.der().clone()];
        Svid { chain, key }
    }

    /// Issues a certificate for a DNS name. Returns it and its key in PEM.
    pub fn issue_pem(&self, name: &str) -> (String, String) {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.0).unwrap();
        let key = pem("PRIVATE KEY", key.serialized_der());
        (pem("CERTIFICATE", leaf.der()), key)
    }

    /// Returns its certificate in PEM.
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", self.0.der())
    }

    /// Returns its certificate as the trust bundle of `trust_domain`.
    pub fn bundle(&self, trust_domain: &str) -> FederatedBundle {
        bundle_of(&[self], trust_domain)
    }
}

/// Returns the certificates of `authorities` as the trust bundle of `trust_domain`.
pub fn bundle_of(authorities: &[&Authority], trust_domain: &str) -> FederatedBundle {
    let key = |authority: &&Authority| {
        let x5c = STANDARD.encode(authority.0.der());
        serde_json::json!({ "use": "x509-svid", "kty": "EC", "x5c": [x5c] })
    };
    let keys: Vec<_> = authorities.iter().map(key).collect();
    let document = serde_json::json!({ "keys": keys }).to_string();
    FederatedBundle::parse(trust_domain.parse().unwrap(), &document).unwrap()
}

/// Lets a certificate expire after `life`, which is whole seconds.
pub fn expires_in(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    params.not_after = date_time_ymd(1970, 1, 1) + now + life;
}

impl Svid {
    /// Returns it as an agent sends it, with `authority` as its trust bundle.
    pub fn message(&self, id: &str, authority: &Authority) -> pb::X509svid {
        pb::X509svid {
            spiffe_id: id.to_owned(),
            x509_svid: self.chain.iter().flat_map(|one| one.to_vec()).collect(),
            x509_svid_key: self.key.serialize_der(),
            bundle: authority.0.der().to_vec(),
            hint: String::new(),
        }
    }

    /// Returns it for a client that presents it.
    pub fn presented(&self) -> Arc<dyn ResolvesClientCert> {
        Arc::new(SingleCertAndKey::from(self.certified_key()))
    }

    fn certified_key(&self) -> CertifiedKey {
        let key = PrivateKeyDer::try_from(self.key.serialized_der().to_vec()).unwrap();
        let provider = CryptoProvider::get_default().unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        CertifiedKey::new(self.chain.clone(), key)
    }

    /// Adds the certificate of `authority` to the chain.
    pub fn below(mut self, authority: &Authority) -> Self {
        self.chain.push(authority.0.der().clone());
        self
    }
}

impl Presenting {
    /// Listens on a free port, speaks `alpn`, and keeps its connections open.
    pub async fn new(alpn: &str) -> Self {
        Self::listen(alpn, true).await
    }

    /// Listens on a free port, speaks HTTP/1.1, and closes its connection after each answer.
    pub async fn closing() -> Self {
        Self::listen("http/1.1", false).await
    }

    /// Listens as [`Self::closing`] does. A caller may present a certificate of a CA in `roots_pem`.
    pub async fn requesting(roots_pem: &str) -> Self {
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots(roots_pem)));
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        Self::listening("http/1.1", false, verifier).await
    }

    async fn listen(alpn: &str, keeps: bool) -> Self {
        Self::listening(alpn, keeps, WebPkiClientVerifier::no_client_auth()).await
    }

    async fn listening(alpn: &str, keeps: bool, callers: Arc<dyn ClientCertVerifier>) -> Self {
        let svid = Arc::<CurrentSvid>::default();
        let config = ServerConfig::builder().with_client_cert_verifier(callers);
        let mut config =
            config.with_cert_resolver(Arc::clone(&svid) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::<Seen>::default();
        tokio::spawn({
            let seen = Arc::clone(&seen);
            async move {
                while let Ok((tcp, _)) = listener.accept().await {
                    tokio::spawn(serve(acceptor.clone(), tcp, Arc::clone(&seen), keeps));
                }
            }
        });
        Self { port, svid, seen }
    }

    /// Presents `svid` from the next handshake on.
    pub fn present(&self, svid: &Svid) {
        *self.svid.0.lock().unwrap() = Some(Arc::new(svid.certified_key()));
    }

    /// Returns the counts so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Seen {
    /// Returns the number of requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Returns the number of completed handshakes so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().clone()
    }
}

/// Returns a URI as a subject alternative name.
pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

async fn serve(acceptor: TlsAcceptor, tcp: TcpStream, seen: Arc<Seen>, keeps: bool) {
    let Ok(tls) = acceptor.accept(tcp).await else {
        return;
    };
    seen.connections.fetch_add(1, Ordering::SeqCst);
    if tls.get_ref().1.peer_certificates().is_some() {
        seen.certificates.fetch_add(1, Ordering::SeqCst);
    }
    if tls.get_ref().1.handshake_kind() != Some(HandshakeKind::Resumed) {
        seen.full_handshakes.fetch_add(1, Ordering::SeqCst);
    }
    let service = service_fn(|request: Request<Incoming>| {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Full::<Bytes>::from("served"));
        if !keeps {
            let close = http::HeaderValue::from_static("close");
            response.headers_mut().insert("connection", close);
        }
        async move {
            if request.uri().path() == NEVER {
                pending::<()>().await;
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    // A caller may end its connection in any way.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), service)
        .await;
    seen.closed.fetch_add(1, Ordering::SeqCst);
}
