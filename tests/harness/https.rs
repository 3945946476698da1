//! Sends HTTPS requests for tests, each over a connection of its own, by HTTP/1.1 or HTTP/2 as
//! asked.

use std::{net::Ipv4Addr, sync::Arc};

use forward::outbound::RequestBody;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::http::send;

/// Holds the port that requests go to and the roots to trust there.
#[derive(Clone)]
pub struct Https {
    port: u16,
    roots: Arc<RootCertStore>,
    source: Ipv4Addr,
    is_plain: bool,
}

/// A connection with or without TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Holds an answer that was read to its end.
#[derive(Debug)]
pub struct WholeAnswer {
    /// Its status.
    pub status: StatusCode,
    /// The HTTP version that it came over.
    pub version: Version,
    /// Its header fields.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

/// Returns a GET of `/` with these header fields.
pub fn get(fields: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let request = fields
        .iter()
        .fold(Request::get("/"), |request, (name, value)| {
            request.header(*name, *value)
        });
    request.body(Full::default()).unwrap()
}

/// Returns the certificates in `pem` as roots to trust.
pub fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    roots
}

impl Https {
    /// Connects to `port` of this machine and trusts the certificates in `roots_pem`.
    pub fn new(port: u16, roots_pem: &str) -> Self {
        Self {
            port,
            roots: Arc::new(roots(roots_pem)),
            source: Ipv4Addr::UNSPECIFIED,
            is_plain: false,
        }
    }

    /// Connects to `port` of this machine. [`Self::open`] makes connections without TLS.
    pub fn plain(port: u16) -> Self {
        Self {
            is_plain: true,
            ..Self::new(port, "")
        }
    }

    /// Returns the port that requests go to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns a client with another source address. All of 127.0.0.0/8 belong to this machine.
    pub fn from(&self, source: &str) -> Self {
        let source = source.parse().unwrap();
        Self {
            source,
            ..self.clone()
        }
    }

    /// Returns a configuration with the same roots, for [`Self::connect_with`].
    pub fn config(&self, alpn: &[&[u8]]) -> ClientConfig {
        self.config_of(rustls::DEFAULT_VERSIONS, alpn)
    }

    /// Does the same as [`Self::config`] for these versions of TLS.
    pub fn config_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> ClientConfig {
        let mut config = ClientConfig::builder_with_protocol_versions(versions)
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config
    }

    /// Returns the certificate that the listener presents, or `None` if the handshake fails.
    pub async fn presented(&self) -> Option<CertificateDer<'static>> {
        let tls = self.try_connect(b"http/1.1").await.ok()?;
        let (_, connection) = tls.get_ref();
        Some(connection.peer_certificates()?[0].clone().into_owned())
    }

    /// Sends a GET of `/` with this token and returns the status of its answer.
    pub async fn status(&self, token: &str) -> u16 {
        let token = format!("Bearer {token}");
        let answer = self.send(get(&[("authorization", &token)])).await;
        answer.status.as_u16()
    }

    /// Sends `request` over HTTP/1.1.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> WholeAnswer {
        self.send_over(Version::HTTP_11, request).await
    }

    /// Sends `request` over `version` and reads the answer to its end.
    pub async fn send_over<B: RequestBody>(
        &self,
        version: Version,
        request: Request<B>,
    ) -> WholeAnswer {
        let (head, body) = self.start(version, request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        WholeAnswer {
            status: head.status,
            version: head.version,
            headers: head.headers,
            body,
        }
    }

    /// Sends `request` over `version` and returns the answer, whose body is still to be read.
    pub async fn start<B: RequestBody>(
        &self,
        version: Version,
        request: Request<B>,
    ) -> Response<Incoming> {
        self.try_start(version, request).await.unwrap()
    }

    /// Does the same as [`Self::start`], and returns an error if there is no head of an answer.
    pub async fn try_start<B: RequestBody>(
        &self,
        version: Version,
        mut request: Request<B>,
    ) -> hyper::Result<Response<Incoming>> {
        let authority = format!("localhost:{}", self.port);
        if version == Version::HTTP_2 {
            let target = request.uri().path_and_query().unwrap().to_string();
            *request.uri_mut() = format!("https://{authority}{target}").parse().unwrap();
            return send(self.connect(b"h2").await, version, request).await;
        }
        let host = authority.parse().unwrap();
        request.headers_mut().insert("host", host);
        send(self.connect(b"http/1.1").await, version, request).await
    }

    /// Returns the scheme of its requests.
    pub fn scheme(&self) -> &'static str {
        if self.is_plain { "http" } else { "https" }
    }

    /// Opens a connection for one protocol, with TLS unless [`Self::plain`] made this client.
    pub async fn open(&self, alpn: &[u8]) -> std::io::Result<Box<dyn Stream>> {
        if self.is_plain {
            return Ok(Box::new(self.connect_tcp().await?));
        }
        Ok(Box::new(self.try_connect(alpn).await?))
    }

    /// Opens a TLS connection that offers one protocol.
    pub async fn connect(&self, alpn: &[u8]) -> TlsStream<TcpStream> {
        self.try_connect(alpn).await.unwrap()
    }

    /// Does the same as [`Self::connect`], and returns an error if the handshake fails.
    pub async fn try_connect(&self, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(self.config(&[alpn]), "localhost").await
    }

    /// Does the same as [`Self::try_connect`] with this configuration, to the server name `server_name`.
    pub async fn connect_with(
        &self,
        config: ClientConfig,
        server_name: &'static str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(Arc::new(config))
            .connect(server_name.try_into().unwrap(), self.connect_tcp().await?)
            .await
    }

    async fn connect_tcp(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((self.source, 0).into())?;
        let tcp = socket
            .connect((Ipv4Addr::LOCALHOST, self.port).into())
            .await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }
}
