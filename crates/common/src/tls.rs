//! rustls configurations for one-way TLS with X.509-SVIDs.
//!
//! The side that accepts ([`server`]) presents its X.509-SVID and requests no certificate, unless it
//! also accepts callers by their certificates ([`server_verifying`]). The side that connects
//! ([`client`]) verifies a SPIFFE ID, and presents no certificate unless it is told to
//! ([`ClientTls::presenting`]). Both use the state that the [`X509Source`] has at each handshake.
//! `verify` is the verification of a peer.
//!
//! A caller may resume a session while the SVID is the one that the caller verified. A connection to an
//! upstream never resumes a session, because that would skip the verification.

mod callers;
mod own;
mod verify;

use std::{
    fmt,
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use rustls::{
    CipherSuite, ClientConfig, ConfigBuilder, ServerConfig, SignatureScheme, SupportedCipherSuite,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WantsServerCert,
    },
    sign::CertifiedKey,
};
use spiffe::{SpiffeId, TrustDomain};

use self::{callers::CallerVerifier, verify::ServerVerifier};
pub use self::{
    callers::{CallerError, Callers, refused_certificate},
    own::{UnfitError, verify_own},
    verify::{PeerError, workload_id},
};
use crate::{
    lock::lock,
    workload::{Trust, Unavailable, X509Source, X509Svid},
};

/// The protocols offered in TLS (ALPN, RFC 7301), the preferred one first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The thread that gathers the first entropy of the process.
#[derive(Debug)]
#[must_use = "the process must not end before the thread"]
pub struct Entropy(JoinHandle<bool>);

impl Entropy {
    /// Waits for the end of the thread. Returns whether it has gathered entropy.
    ///
    /// `main` calls it before it returns. At the end of the process aws-lc frees its source of entropy, and a
    /// thread that is still about to use it aborts the process.
    pub fn wait(self) -> bool {
        self.0.join().is_ok_and(|is_filled| is_filled)
    }
}

/// Installs aws-lc-rs as the crypto provider of the process, with hybrid post-quantum key exchange
/// preferred. Call it at the start of `main`, before any TLS configuration is built.
pub fn install_crypto_provider() -> Entropy {
    // An error means that a provider is installed already, for example by another test of this process.
    let _ = provider().install_default();
    // The first entropy takes 40 ms of CPU time. A thread gathers it, so that no handshake waits.
    let random = aws_lc_rs::default_provider().secure_random;
    Entropy(thread::spawn(|| random.fill(&mut [0]).is_ok()))
}

/// Returns aws-lc-rs with AES-128-GCM and SHA-256 preferred, the suite that every TLS 1.3
/// implementation has (RFC 8446 §9.1).
///
/// Processors have no instructions for SHA-384, which rustls prefers; it took 12 % of a handshake's
/// CPU time. With AES-128-GCM, a full handshake took 1.0 times the CPU of hyper and rustls alone instead of
/// 1.2 times (`scripts/bench.sh --rows handshake`).
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
    // The sort is stable, so that the other suites keep their order.
    provider
        .cipher_suites
        .sort_by_key(|suite| !is_aes_128(suite));
    provider
}

/// Returns the configuration to accept TLS 1.3 and 1.2 with the source's current X.509-SVID. It
/// requests no client certificate.
///
/// # Errors
/// Fails when the source has no usable X.509-SVID.
pub fn server(source: &X509Source) -> Result<Arc<ServerConfig>, ServerError> {
    let current = CurrentSvid::of(source)?;
    let config = ServerConfig::builder().with_no_client_auth();
    let mut config = presenting(config, &current);
    config.ticketer = current;
    config.send_tls13_tickets = 1;
    Ok(Arc::new(config))
}

/// Returns the configuration of [`server`] for a listener that requests a certificate and verifies it as
/// `callers` says. It resumes no session, because that would skip the verification.
///
/// # Errors
/// Fails when the source has no usable X.509-SVID.
pub fn server_verifying(
    source: &X509Source,
    callers: Callers,
) -> Result<Arc<ServerConfig>, ServerError> {
    let current = CurrentSvid::of(source)?;
    let config = ServerConfig::builder();
    let provider = Arc::clone(config.crypto_provider());
    let verifier = CallerVerifier::new(source.clone(), callers, provider);
    let config = config.with_client_cert_verifier(Arc::new(verifier));
    let mut config = presenting(config, &current);
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// Returns the settings of every listener.
fn presenting(
    config: ConfigBuilder<ServerConfig, WantsServerCert>,
    svid: &Arc<CurrentSvid>,
) -> ServerConfig {
    let mut config = config.with_cert_resolver(Arc::clone(svid) as _);
    config.alpn_protocols = ALPN.map(Vec::from).to_vec();
    config.ignore_client_order = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config
}

/// The reason why an X.509-SVID cannot be presented.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The source has no X.509-SVID, or only one that was withdrawn or has expired.
    #[error(transparent)]
    Source(#[from] Unavailable),
    /// The keys of session tickets could not be made.
    #[error("session tickets can't be encrypted: {0}")]
    Tickets(#[from] rustls::Error),
}

/// Presents the source's current X.509-SVID, to callers and to upstreams. The handshake fails once it
/// was withdrawn or has expired.
#[derive(Debug)]
struct CurrentSvid {
    source: X509Source,
    /// The SVID that was presented last, with its tickets.
    last: Mutex<Presentable>,
}

/// An SVID, and the session tickets that belong to it.
#[derive(Clone)]
struct Presentable {
    svid: Arc<X509Svid>,
    /// Encrypts session tickets with keys of its own, so that no session outlives the SVID.
    tickets: Arc<dyn ProducesTickets>,
}

impl Presentable {
    fn new(svid: Arc<X509Svid>) -> Result<Self, rustls::Error> {
        Ok(Self {
            tickets: aws_lc_rs::Ticketer::new()?,
            svid,
        })
    }
}

impl fmt::Debug for Presentable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Presentable")
            .field(self.svid.spiffe_id())
            .finish()
    }
}

impl CurrentSvid {
    fn of(source: &X509Source) -> Result<Arc<Self>, ServerError> {
        Ok(Arc::new(Self {
            last: Mutex::new(Presentable::new(source.svid()?)?),
            source: source.clone(),
        }))
    }

    /// Returns the source's SVID at this moment, or `None` if there is no usable one.
    fn get(&self) -> Option<Presentable> {
        let svid = self.source.svid().ok()?;
        let mut last = lock(&self.last);
        if !Arc::ptr_eq(&last.svid, &svid) {
            *last = Presentable::new(svid).ok()?;
        }
        Some(last.clone())
    }
}

impl ResolvesServerCert for CurrentSvid {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.source.svid().ok()?.key()))
    }
}

/// Presents the SVID to an upstream that requests a certificate, whatever authorities it names.
impl ResolvesClientCert for CurrentSvid {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.source.svid().ok()?.key()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Issues and accepts tickets of the current SVID only. A ticket of another SVID leads to a full
/// handshake.
impl ProducesTickets for CurrentSvid {
    fn enabled(&self) -> bool {
        true
    }

    /// Returns the lifetime that callers are told, in seconds. A new SVID ends it sooner.
    fn lifetime(&self) -> u32 {
        60 * 60
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.get()?.tickets.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.get()?.tickets.decrypt(cipher)
    }
}

/// A configuration to connect to one SPIFFE ID, and the changes of the trust bundle that verifies it.
#[derive(Clone, Debug)]
pub struct ClientTls {
    config: ClientConfig,
    source: X509Source,
    /// The SPIFFE ID of the peer.
    expected: SpiffeId,
    /// The bundle of its trust domain after the last change.
    trust: CurrentTrust,
}

/// The bundle that verifies a peer. It is `None` while no peer can be verified, because there is no
/// bundle, or none may be used.
type CurrentTrust = Option<Arc<Trust>>;

impl ClientTls {
    /// Returns the configuration. Each handshake uses the bundles of its time.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Presents the source's current X.509-SVID to a peer that requests a certificate.
    ///
    /// # Errors
    /// Fails when the source has no usable X.509-SVID.
    pub fn presenting(mut self) -> Result<Self, ServerError> {
        self.config.client_auth_cert_resolver = CurrentSvid::of(&self.source)?;
        Ok(self)
    }

    /// Returns the SPIFFE ID that the peer must have.
    #[must_use]
    pub fn expected(&self) -> &SpiffeId {
        &self.expected
    }

    /// Returns whether bundles may be used. After a withdrawal they may not, and the error of a
    /// handshake looks like a fault of the peer.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.source.trust(self.expected.trust_domain()).is_ok()
    }

    /// Returns the peer's trust domain if there is no trust bundle for it. Then no peer can be verified,
    /// and the error of a handshake looks like a fault of the peer.
    #[must_use]
    pub fn missing_bundle(&self) -> Option<&TrustDomain> {
        let trust_domain = self.expected.trust_domain();
        let bundle = self.source.trust(trust_domain).ok()?;
        bundle.is_none().then_some(trust_domain)
    }

    /// Returns a number that changes with each update of SVIDs or bundles.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.source.revision()
    }

    /// Waits for the next change of the authorities that verify the peer, or for a withdrawal of the
    /// bundles or their return.
    ///
    /// A connection outlives its verification, because rustls does not verify again. Its owner uses this
    /// to close it. Updates of SVIDs and of other bundles do not count as changes. The future never
    /// completes once the source is closed.
    pub async fn changed(&mut self) {
        while self.source.changed().await {
            let now = current_trust(&self.source, self.expected.trust_domain());
            if !is_same(&now, &self.trust) {
                self.trust = now;
                return;
            }
        }
        std::future::pending().await
    }
}

fn current_trust(source: &X509Source, trust_domain: &TrustDomain) -> CurrentTrust {
    source.trust(trust_domain).ok().flatten()
}

fn is_same(one: &CurrentTrust, other: &CurrentTrust) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.bundle == other.bundle,
        (one, other) => one.is_none() && other.is_none(),
    }
}

/// Returns the configuration to connect to the workload `expected`, whatever its host name. It presents
/// no certificate, and leaves ALPN to the connector.
#[must_use]
pub fn client(source: &X509Source, expected: &SpiffeId) -> ClientTls {
    let builder = ClientConfig::builder();
    let algorithms = builder.crypto_provider().signature_verification_algorithms;
    let verifier = ServerVerifier::new(source.clone(), expected.clone(), algorithms);
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    // A resumed session would skip the verification.
    config.resumption = Resumption::disabled();
    let mut source = source.clone();
    source.mark_seen();
    ClientTls {
        config,
        // The bundle is read after updates are marked as seen, so that no change is missed.
        trust: current_trust(&source, expected.trust_domain()),
        source,
        expected: expected.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_lasts_until_the_first_entropy_is_there() {
        assert!(install_crypto_provider().wait());
    }
}
