//! Sends the load from which scripts/release.sh takes its profile. It has each usual kind of request
//! over both versions of HTTP, and tokens that are refused. Further requests go through a client in
//! front of the proxy to an application behind the server.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    body::Bytes,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    application, bodies,
    contender::{Contender, World},
    load::{self, Caller},
};

/// The number of concurrent HTTP/1.1 connections.
const CALLERS: usize = 32;
/// The total of requests with the same token, and the total of requests with a new token each.
const KNOWN: usize = 60_000;
const NEW: usize = 5_000;
/// The total of POSTs, and the bytes of each body.
const POSTS: [(usize, usize); 3] = [(20_000, 5), (20_000, 1024), (3_000, 64 * 1024)];
/// The time during which each request opens a new connection. It applies once without and once with
/// resumption.
const CONNECTING: Duration = Duration::from_secs(1);
/// The number of HTTP/2 connections, of streams of each, and of requests of each stream.
const CONNECTIONS: usize = 4;
const STREAMS: usize = 64;
const OF_A_STREAM: usize = 200;
/// One of this many requests is refused.
const REFUSED: usize = 20;

type Sender = SendRequest<Empty<Bytes>>;

/// The application of each chain, by the scheme of its URL.
const APPLICATIONS: [&str; 2] = ["http", "h2c"];

/// Sends load to the project's binaries and stops them by SIGTERM, because they write their profile
/// when they end.
pub(crate) async fn run() -> Result<()> {
    let world = World::new().await?.without_sandbox();
    let running = world.start(Contender::Project).await?;
    let caller = Caller::new(running.port);
    let token = world.token();
    let known = vec![token.clone(); KNOWN];
    caller.each_token(known.into(), CALLERS).await?;
    let new = world.new_tokens(NEW);
    caller.each_token(new.into(), CALLERS).await?;
    for (count, bytes) in POSTS {
        caller.posts(&token, CALLERS, count, bytes).await?;
    }
    for resume in [false, true] {
        caller
            .new_connections(&token, CALLERS, CONNECTING, resume)
            .await?;
    }
    let caller = caller.http2();
    try_join_all((0..CONNECTIONS).map(|_| over_http2(&caller, &world))).await?;
    running.end().await?;
    bodies::both_ways(&world).await?;
    let app = application::start().await?;
    for scheme in APPLICATIONS {
        let app = format!("{scheme}://127.0.0.1:{app}");
        let running = world.start_chain(Contender::Project, &app, &[]).await?;
        load::plaintext(running.port, CALLERS, KNOWN).await?;
        running.end().await?;
    }
    Ok(())
}

/// Sends requests over one HTTP/2 connection.
async fn over_http2(caller: &Caller, world: &World) -> Result<()> {
    let io = TokioIo::new(caller.connect("127.0.0.1").await?);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    let connection = tokio::spawn(connection);
    let good = world.token();
    let other = world.stack.token(|claims| {
        claims.payload["aud"] = "spiffe://example.org/other".into();
    });
    let stream = || async {
        for number in 0..OF_A_STREAM {
            let (token, expected) = match number % REFUSED {
                0 => (&other, StatusCode::UNAUTHORIZED),
                _ => (&good, StatusCode::OK),
            };
            let status = request(sender.clone(), token).await?;
            ensure!(status == expected, "{status} instead of {expected}");
        }
        Ok(())
    };
    try_join_all((0..STREAMS).map(|_| stream())).await?;
    connection.abort();
    Ok(())
}

async fn request(mut sender: Sender, token: &str) -> Result<StatusCode> {
    let request = Request::get("https://localhost/");
    let request = request.header("authorization", format!("Bearer {token}"));
    sender.ready().await?;
    let response = sender.send_request(request.body(Empty::new())?).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}
