//! The floor is the stack that the bench compares with: the same two hops by hyper and rustls as
//! they are usually used. It has one multi-threaded runtime, and a pool of HTTP/1.1 connections to
//! the upstream. It makes its key at start. It has neither an identity nor limits nor logs, and it
//! verifies nothing.
//!
//! `floor server PORT` reads the body of a request and answers `Success!!!`.
//! `floor proxy PORT UPSTREAM_PORT` forwards.

mod unverified;

use std::{env, net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, Uri,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// The service for each connection.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "copied once per connection")]
enum Role {
    Server,
    Proxy(Client<HttpsConnector<HttpConnector>, Incoming>, Uri),
}

#[tokio::main]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (role, port) = match args[..] {
        ["server", port] => (Role::Server, port),
        ["proxy", port, upstream] => {
            let upstream = format!("https://localhost:{upstream}/").parse()?;
            (Role::Proxy(client(), upstream), port)
        }
        _ => bail!("usage: floor server PORT | floor proxy PORT UPSTREAM_PORT"),
    };
    let acceptor = TlsAcceptor::from(Arc::new(server_tls()?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse()?)).await?;
    loop {
        let (tcp, _) = listener.accept().await?;
        let (acceptor, role) = (acceptor.clone(), role.clone());
        tokio::spawn(async move {
            tcp.set_nodelay(true).ok();
            if let Ok(tls) = acceptor.accept(tcp).await {
                serve(tls, role).await;
            }
        });
    }
}

fn server_tls() -> Result<ServerConfig> {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::try_from(own.signing_key.serialize_der())
        .ok()
        .context("the key that was just made can't be read")?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // The floor offers no session tickets, as the project.
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client() -> Client<HttpsConnector<HttpConnector>, Incoming> {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(unverified::client())
        .https_only()
        .enable_http1()
        .wrap_connector(tcp);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .build(connector)
}

/// Serves one connection to its end. Errors are ignored, because the caller counts its failures.
async fn serve(tls: TlsStream<TcpStream>, role: Role) {
    let io = TokioIo::new(tls);
    let http = auto::Builder::new(TokioExecutor::new());
    let _ = match role {
        Role::Server => http.serve_connection(io, service_fn(greet)).await,
        Role::Proxy(client, upstream) => {
            let forward = service_fn(move |mut request: Request<Incoming>| {
                *request.uri_mut() = upstream.clone();
                *request.version_mut() = http::Version::HTTP_11;
                request.headers_mut().remove(http::header::CONNECTION);
                client.request(request)
            });
            http.serve_connection(io, forward).await
        }
    };
}

/// Reads the body of the request to its end, and answers.
async fn greet(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(Response::new(Full::new(Bytes::from_static(b"Success!!!"))))
}
