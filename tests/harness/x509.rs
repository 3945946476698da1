//! X.509 certificates as no SPIFFE issuer would make them, and an upstream that presents them.

use std::{
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use dev_agent::FederatedBundle;
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
};
use rustls::{
    HandshakeKind, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// A CA whose key is the test's own.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A chain from the leaf on, and the leaf's key.
pub struct Svid {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

/// Presents whatever it was last told to; answers each request with 200.
pub struct Presenting {
    /// Where it listens.
    pub port: u16,
    svid: Arc<Presented>,
    seen: Arc<Seen>,
}

/// What came to an upstream so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Handshakes that its caller finished.
    pub connections: AtomicUsize,
    /// Those that were not resumed ones.
    pub full_handshakes: AtomicUsize,
    /// Connections that ended after their handshake.
    pub closed: AtomicUsize,
    /// Requests.
    pub requests: AtomicUsize,
}

#[derive(Debug, Default)]
struct Presented(Mutex<Option<Arc<CertifiedKey>>>);

/// The path that a [`Presenting`] upstream does not answer.
pub const NEVER: &str = "/never";

impl Authority {
    /// A self-signed root as it should be.
    pub fn root() -> Self {
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(ca_params(), key).unwrap())
    }

    /// An intermediate below it, changed by `change`.
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

    /// An X.509-SVID for `id` as it should be, changed by `change`.
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

    /// Its certificate as the trust bundle of `trust_domain`.
    pub fn bundle(&self, trust_domain: &str) -> FederatedBundle {
        bundle_of(&[self], trust_domain)
    }
}

/// Returns the certificates of `authorities` as the trust bundle of `trust_domain`.
pub fn bundle_of(authorities: &[&Authority], trust_domain: &str) -> FederatedBundle {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let key = |authority: &&Authority| {
        let x5c = STANDARD.encode(authority.0.der());
        serde_json::json!({ "use": "x509-svid", "kty": "EC", "x5c": [x5c] })
    };
    let keys: Vec<_> = authorities.iter().map(key).collect();
    let document = serde_json::json!({ "keys": keys }).to_string();
    FederatedBundle::parse(trust_domain.parse().unwrap(), &document).unwrap()
}

impl Svid {
    /// With the certificate of `authority` after its own.
    pub fn below(mut self, authority: &Authority) -> Self {
        self.chain.push(authority.0.der().clone());
        self
    }
}

impl Presenting {
    /// Listens on a free port, speaks `alpn`, and keeps its connections.
    pub async fn new(alpn: &str) -> Self {
        Self::listen(alpn, true).await
    }

    /// Listens on a free port, speaks HTTP/1.1, and has a new handshake for each request.
    pub async fn closing() -> Self {
        Self::listen("http/1.1", false).await
    }

    async fn listen(alpn: &str, keeps: bool) -> Self {
        let svid = Arc::<Presented>::default();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&svid) as Arc<dyn ResolvesServerCert>);
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
        let key = PrivateKeyDer::try_from(svid.key.serialized_der().to_vec()).unwrap();
        let provider = CryptoProvider::get_default().unwrap();
        let key = provider.key_provider.load_private_key(key).unwrap();
        let certified = CertifiedKey::new(svid.chain.clone(), key);
        *self.svid.0.lock().unwrap() = Some(Arc::new(certified));
    }

    /// What came so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }
}

impl Seen {
    /// The requests so far.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// The finished handshakes so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap().clone()
    }
}

/// A URI as a subject alternative name.
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
    // A caller that breaks off is a test's own doing.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(tls), service)
        .await;
    seen.closed.fetch_add(1, Ordering::SeqCst);
}
