//! The X.509 source as rustls configurations, one-way: the side that accepts presents its X.509-SVID
//! and asks for no certificate; the side that connects verifies a SPIFFE ID and presents none.
//!
//! Both go by the source's state at each handshake. `spiffe-rustls` does the verification (X509-SVID
//! §5). The certificate is chosen here: for a moment after each update that crate has none to give,
//! until a task of its own has run, and callers who come then would be turned away.
//!
//! Callers may resume a session under the same SVID, no longer: nothing is verified of them, and they
//! verified that SVID. Towards a target no session is resumed: that would skip its verification.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
};

use rustls::{
    CipherSuite, ClientConfig, ServerConfig, SignatureScheme, SupportedCipherSuite,
    client::ResolvesClientCert,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    server::{ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use spiffe::{
    SpiffeId, TrustDomain, X509Source, X509SourceUpdates, X509Svid, x509_source::X509SourceError,
};
use spiffe_rustls::{TlsStatus, TrustDomainPolicy, authorizer};

use crate::lock::lock;

/// The protocols that are offered in TLS (ALPN, RFC 7301), the preferred one first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Installs the one crypto provider of the process (aws-lc-rs, hybrid post-quantum key exchange
/// preferred). Call it first thing in `main`.
pub fn install_crypto_provider() {
    // An error means that it is installed already: by another test in this process.
    let _ = provider().install_default();
    // Gathering the first entropy takes 40 ms of CPU time; here no handshake waits for it.
    std::thread::spawn(|| aws_lc_rs::default_provider().secure_random.fill(&mut [0]));
}

/// aws-lc-rs with AES-128-GCM and SHA-256 first, the suite that every TLS 1.3 speaks (RFC 8446 §9.1):
/// SHA-384 has no help from the processor, and was a tenth of a handshake.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_aes_128 = |suite: &SupportedCipherSuite| {
        matches!(
            suite.suite(),
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    // Stable: the others stay in their order.
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite));
    provider
}

/// Accepts TLS 1.3 and 1.2 with the current X.509-SVID; asks for no client certificate.
///
/// # Errors
/// When the source has no usable X.509-SVID.
pub fn server(source: &X509Source) -> Result<Arc<ServerConfig>, ServerError> {
    let presented = Arc::new(Presented {
        last: Mutex::new(Session::new(source.svid()?)?),
        source: source.clone(),
    });
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&presented) as _);
    config.alpn_protocols = ALPN.map(Vec::from).to_vec();
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = presented;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Why there is nothing to present.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The source has no X.509-SVID that is permitted and has not expired.
    #[error(transparent)]
    Source(#[from] X509SourceError),
    /// The private key is of no known kind, or not the certificate's.
    #[error("the X.509-SVID can't be presented: {0}")]
    Key(#[from] rustls::Error),
}

/// Presents the source's X.509-SVID; nothing, so that the handshake fails, once it was withdrawn or
/// has expired.
#[derive(Debug)]
struct Presented {
    source: X509Source,
    /// Of the SVID that was presented last: its key is parsed once.
    last: Mutex<Session>,
}

/// What goes with one SVID.
#[derive(Clone)]
struct Session {
    svid: Arc<X509Svid>,
    key: Arc<CertifiedKey>,
    /// Encrypts the tickets that sessions are resumed by, with keys of its own: with the SVID they end.
    tickets: Arc<dyn ProducesTickets>,
}

impl Session {
    fn new(svid: Arc<X509Svid>) -> Result<Self, rustls::Error> {
        Ok(Self {
            key: Arc::new(certified_key(&svid)?),
            tickets: aws_lc_rs::Ticketer::new()?,
            svid,
        })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session")
            .field(self.svid.spiffe_id())
            .finish()
    }
}

impl Presented {
    /// Of the SVID of this moment.
    fn session(&self) -> Option<Session> {
        let svid = self.source.svid().ok()?;
        let mut last = lock(&self.last);
        if !Arc::ptr_eq(&last.svid, &svid) {
            *last = Session::new(svid).ok()?;
        }
        Some(last.clone())
    }
}

impl ResolvesServerCert for Presented {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.session()?.key)
    }
}

/// Tickets of another SVID, or without one, are none: a full handshake follows.
impl ProducesTickets for Presented {
    fn enabled(&self) -> bool {
        true
    }

    /// In seconds; what callers are told, who may be refused sooner.
    fn lifetime(&self) -> u32 {
        60 * 60
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.session()?.tickets.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.session()?.tickets.decrypt(cipher)
    }
}

/// The SVID's chain and key for rustls, if they belong together.
fn certified_key(svid: &X509Svid) -> Result<CertifiedKey, rustls::Error> {
    let chain = svid
        .cert_chain()
        .iter()
        .map(|certificate| CertificateDer::from(certificate.as_bytes().to_vec()))
        .collect();
    // Borrowed: the SVID wipes its key in the end, and nobody would wipe a copy.
    let key = PrivatePkcs8KeyDer::from(svid.private_key().as_bytes());
    let key = CertifiedKey::new(chain, aws_lc_rs::sign::any_supported_type(&key.into())?);
    key.keys_match()?;
    Ok(key)
}

/// A configuration to connect with, and the changes of the trust bundle that it verifies by.
#[derive(Clone, Debug)]
pub struct Outgoing {
    config: ClientConfig,
    status: TlsStatus,
    source: X509Source,
    updates: X509SourceUpdates,
    /// The trust domain of the peer.
    trust_domain: TrustDomain,
    /// The authorities of its trust bundle after the last change.
    authorities: Authorities,
}

/// The certificates of a trust bundle in DER. `None` while there is no bundle, or the identity is
/// withdrawn, so that nothing may be verified.
type Authorities = Option<BTreeSet<Vec<u8>>>;

impl Outgoing {
    /// The configuration. Each handshake goes by the SVIDs and bundles of its time.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Whether there is anything to verify by. After a withdrawal there is not, and a handshake fails
    /// by what looks like the peer's fault.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.source.svid().is_ok()
    }

    /// Returns another number after each update of SVIDs or bundles. `None` for a moment after each:
    /// until `spiffe-rustls` has taken it in, nobody can be verified, which is not the peer's fault.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        let now = self.status.current();
        (now.source_revision == now.applied_revision).then_some(now.source_revision)
    }

    /// Returns after the next change of the authorities that the peer is verified by, or when the
    /// identity is withdrawn or returns: connections outlive their verification, because rustls never
    /// verifies again. Updates of SVIDs and of other bundles do not matter. Never returns once there
    /// can't be a change.
    pub async fn changed(&mut self) {
        while self.updates.changed().await.is_ok() {
            let now = authorities(&self.source, &self.trust_domain);
            if now != self.authorities {
                self.authorities = now;
                return;
            }
        }
        std::future::pending().await
    }
}

/// Returns the authorities of a trust domain at this moment. An SVID of our own that has expired does
/// not matter here: the connections that are open were verified by authorities that still hold.
fn authorities(source: &X509Source, trust_domain: &TrustDomain) -> Authorities {
    let context = source.state().context().ok()?;
    let bundle = context.bundle_set().get(trust_domain)?;
    let certificates = bundle.authorities().iter();
    Some(certificates.map(|one| one.as_bytes().to_vec()).collect())
}

/// Connects only to the workload `expected`, whatever the host name; presents no certificate.
/// ALPN is left to the connector that uses it.
///
/// # Errors
/// When the source has no usable X.509-SVID, or outside a tokio runtime.
pub fn client(source: &X509Source, expected: &SpiffeId) -> Result<Outgoing, spiffe_rustls::Error> {
    let updates = source.updated();
    let (config, status) = spiffe_rustls::mtls_client(source.clone())
        .authorize(authorizer::exact([expected.clone()])?)
        .trust_domain_policy(TrustDomainPolicy::LocalOnly(
            expected.trust_domain().clone(),
        ))
        .with_config_customizer(|config| config.client_auth_cert_resolver = Arc::new(NoCertificate))
        .build_with_status()?;
    let trust_domain = expected.trust_domain().clone();
    Ok(Outgoing {
        config,
        status,
        source: source.clone(),
        updates,
        // Read after `updates` began, so that no change is missed.
        authorities: authorities(source, &trust_domain),
        trust_domain,
    })
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}
