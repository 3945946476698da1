use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};

use harness::{PATIENCE, Stack, https::get};
use rustls::{
    CipherSuite, SignatureScheme, SupportedProtocolVersion,
    client::ResolvesClientCert,
    server::Acceptor,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::LazyConfigAcceptor;

/// Starts a server and a proxy, both of which accept TLS.
async fn both(stack: &Stack) -> [harness::process::Process; 2] {
    let server = stack.server(&[]).await;
    let proxy = stack.proxy(server.listening().await, &[]).await;
    [server, proxy]
}

/// Says that it has a certificate, and counts how often a server requests one.
#[derive(Debug, Default)]
struct Asked(AtomicUsize);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.fetch_add(1, SeqCst);
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn callers_are_not_asked_for_a_certificate_p178_d051() {
    let stack = Stack::new().await;
    for process in both(&stack).await {
        let https = stack.https(process.listening().await);
        for version in [&TLS12, &TLS13] as [&SupportedProtocolVersion; 2] {
            let asked = Arc::<Asked>::default();
            let mut config = https.config_of(&[version], &[b"http/1.1"]);
            config.client_auth_cert_resolver = Arc::clone(&asked) as Arc<dyn ResolvesClientCert>;
            let tls = https.connect_with(config, "localhost").await.unwrap();
            assert_eq!(asked.0.load(SeqCst), 0, "{version:?}");
            let (_, session) = tls.get_ref();
            assert_eq!(session.protocol_version(), Some(version.version));
            let chain = session.peer_certificates().unwrap();
            let uri = b"spiffe://example.org/server";
            assert!(
                chain[0].windows(uri.len()).any(|bytes| bytes == uri),
                "the X.509-SVID is presented"
            );
        }
    }
}

/// The protocols that a caller offers, and the one that is chosen, if any.
type Offered = &'static [&'static [u8]];
type Chosen = Option<&'static [u8]>;

#[tokio::test]
async fn alpn_chooses_h2_or_http1_and_refuses_others_p199() {
    let stack = Stack::new().await;
    for process in both(&stack).await {
        let https = stack.https(process.listening().await);
        let cases: [(Offered, Option<Chosen>); 6] = [
            (&[b"h2"], Some(Some(b"h2"))),
            (&[b"http/1.1"], Some(Some(b"http/1.1"))),
            (&[b"http/1.1", b"h2"], Some(Some(b"h2"))),
            (&[b"spdy/3", b"http/1.1"], Some(Some(b"http/1.1"))),
            (&[], Some(None)),
            (&[b"spdy/3"], None),
        ];
        for (offered, chosen) in cases {
            let connected = https.connect_with(https.config(offered), "localhost").await;
            match chosen {
                Some(chosen) => {
                    let tls = connected.unwrap();
                    assert_eq!(tls.get_ref().1.alpn_protocol(), chosen, "{offered:?}");
                }
                None => {
                    let error = connected.unwrap_err().to_string();
                    assert!(error.contains("NoApplicationProtocol"), "{error}");
                }
            }
        }
        // HTTP/1.1 is used without ALPN.
        let mut tls = https
            .connect_with(https.config(&[]), "localhost")
            .await
            .unwrap();
        tls.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 9];
        tls.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 ");
    }
}

#[tokio::test]
async fn any_server_name_is_served_p200() {
    let stack = Stack::new().await;
    for process in both(&stack).await {
        let https = stack.https(process.listening().await);
        let mut silent = https.config(&[b"http/1.1"]);
        silent.enable_sni = false;
        https.connect_with(silent, "localhost").await.unwrap();

        // Only this side finds the name wrong, and it does so at the end of the handshake.
        let unknown = https
            .connect_with(https.config(&[b"http/1.1"]), "unknown.test")
            .await;
        let error = unknown.unwrap_err().to_string();
        assert!(error.contains("not valid for name"), "{error}");
    }
}

/// Returns a ClientHello (RFC 5246 §7.4.1.2) of this version with these cipher suites. It has only
/// the extensions that elliptic curves need.
fn client_hello(version: [u8; 2], suites: &[u16]) -> Vec<u8> {
    let block = |length: usize, content: &[u8]| {
        let size = (content.len() as u32).to_be_bytes();
        [&size[4 - length..], content].concat()
    };
    let extension =
        |kind: u16, content: &[u8]| [&kind.to_be_bytes() as &[u8], &block(2, content)].concat();
    let suites: Vec<u8> = suites
        .iter()
        .flat_map(|suite| suite.to_be_bytes())
        .collect();
    let extensions = [
        extension(10, &block(2, &[0, 23, 0, 29])),
        extension(11, &block(1, &[0])),
        extension(13, &block(2, &[4, 3, 8, 4, 4, 1, 2, 1])),
        extension(23, &[]),
    ]
    .concat();
    let body = [
        &version as &[u8],
        &[7; 32],
        &[0],
        &block(2, &suites),
        &[1, 0],
        &block(2, &extensions),
    ]
    .concat();
    let hello = [&[1u8] as &[u8], &block(3, &body)].concat();
    [&[22u8, 3, 1] as &[u8], &block(2, &hello)].concat()
}

#[tokio::test]
async fn old_versions_and_ciphers_are_refused_p198() {
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    let gcm = &[0xc02b, 0xc02f];
    let stack = Stack::new().await;
    for process in both(&stack).await {
        let port = process.listening().await;
        for (case, version, suites, alert) in [
            ("TLS 1.2, AES-GCM", [3, 3], gcm as &[u16], None),
            ("SSL 3.0", [3, 0], gcm, Some(PROTOCOL_VERSION)),
            ("TLS 1.0", [3, 1], gcm, Some(PROTOCOL_VERSION)),
            ("TLS 1.1", [3, 2], gcm, Some(PROTOCOL_VERSION)),
            ("RC4", [3, 3], &[0xc007, 0x0005], Some(HANDSHAKE_FAILURE)),
            ("3DES", [3, 3], &[0xc008, 0x000a], Some(HANDSHAKE_FAILURE)),
            (
                "CBC",
                [3, 3],
                &[0xc009, 0xc023, 0x002f],
                Some(HANDSHAKE_FAILURE),
            ),
        ] {
            let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tcp.write_all(&client_hello(version, suites)).await.unwrap();
            let mut answer = [0; 7];
            tcp.read_exact(&mut answer).await.unwrap();
            match alert {
                None => assert_eq!(answer[0], HANDSHAKE, "P198 {case}"),
                Some(alert) => assert_eq!((answer[0], answer[6]), (ALERT, alert), "P198 {case}"),
            }
        }
    }
}

#[tokio::test]
async fn tiny_records_are_served_p153() {
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let before = server.peak_memory();
    let mut config = https.config(&[b"http/1.1"]);
    config.max_fragment_size = Some(32);
    let mut tls = https.connect_with(config, "localhost").await.unwrap();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX-a: {}\r\n\r\n",
        "a".repeat(30_000)
    );
    for byte in request.as_bytes().chunks(5) {
        tls.write_all(byte).await.unwrap();
        tls.flush().await.unwrap();
    }
    let mut answer = [0; 12];
    tls.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
    let grown = server.peak_memory_above(before);
    assert!(grown < 8 * 1024, "the server grew by {grown} KiB");
    assert_eq!(https.send(get(&[])).await.status, 401);
}

/// Returns the TLS 1.2 cipher suite that a listener chooses among these.
async fn chosen(port: u16, suites: &[u16]) -> u16 {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    tcp.write_all(&client_hello([3, 3], suites)).await.unwrap();
    // The suite comes after the headers, the version, the random bytes and the session ID (RFC 5246
    // §7.4.1.3).
    let mut before = [0; 5 + 4 + 2 + 32];
    tcp.read_exact(&mut before).await.unwrap();
    let mut session = vec![0; tcp.read_u8().await.unwrap().into()];
    tcp.read_exact(&mut session).await.unwrap();
    tcp.read_u16().await.unwrap()
}

/// Returns the cipher suite that the next caller of `listener` offers first.
async fn offered_first(listener: &TcpListener) -> CipherSuite {
    let accepting = async {
        let (tcp, _) = listener.accept().await?;
        LazyConfigAcceptor::new(Acceptor::default(), tcp).await
    };
    let started = timeout(PATIENCE, accepting).await.expect("connects");
    started.unwrap().client_hello().cipher_suites()[0]
}

/// Returns whether the binaries depend on a package.
fn is_compiled_in(package: &str) -> bool {
    let binaries = ["-p", "server", "-p", "proxy", "-p", "client"];
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal"])
        .args(binaries)
        .args(["--invert", package])
        .output()
        .unwrap();
    tree.status.success() && !tree.stdout.is_empty()
}

/// If a configuration is built before the provider is installed, `rustls` installs its own. That one
/// prefers AES-256.
#[tokio::test]
async fn one_crypto_provider_is_compiled_in_and_installed_first_p201() {
    const AES_256: u16 = 0xc02c;
    const AES_128: u16 = 0xc02b;
    assert!(is_compiled_in("aws-lc-rs"));
    assert!(!is_compiled_in("ring"));

    let stack = Stack::new().await;
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = upstream.local_addr().unwrap().port();
    let (server, proxy) = (stack.server(&[]).await, stack.proxy(port, &[]).await);
    for process in [&server, &proxy] {
        let port = process.listening().await;
        assert_eq!(chosen(port, &[AES_256, AES_128]).await, AES_128);
        assert_eq!(chosen(port, &[AES_256]).await, AES_256);
    }

    let preferred = CipherSuite::TLS13_AES_128_GCM_SHA256;
    let https = stack.https(proxy.listening().await);
    tokio::spawn(async move { https.send(get(&[])).await });
    assert_eq!(offered_first(&upstream).await, preferred, "by the proxy");
    drop(proxy);
    let url = format!("https://127.0.0.1:{port}/");
    let _client = stack.spawn("client", &["--url", &url]);
    assert_eq!(offered_first(&upstream).await, preferred, "by the client");
}
