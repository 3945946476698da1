//! Sends large bodies through a proxy without a server. All stacks have the same upstream, which
//! runs in this process. Then sends them again next to small requests.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use harness::{Stack, upstream};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serve::body::Body;

use crate::{
    contender::{Contender, World},
    figure::{Figure, Sample},
    load::Caller,
};

const SIZE: usize = 64 << 20;
/// The number of bodies in each direction. One body takes too little time to measure the small
/// requests next to it.
const BODIES: usize = 4;
/// The number of callers that send small requests next to the bodies.
const SMALL_CALLERS: usize = 4;
/// The number of small requests of each caller before the bodies.
const SMALL_ALONE: usize = 2_000;

/// Measures uploads and downloads, and small requests before and next to them.
pub(crate) async fn sample(world: &World, contender: Contender) -> Result<Sample> {
    let upstream = upstream(&world.stack, SIZE).await;
    let running = world.start_proxy(contender, upstream).await?;
    let token = world.token();
    let caller = Caller::new(running.port);
    let tokens = vec![token.clone(); SMALL_CALLERS * SMALL_ALONE];
    let alone = caller.each_token(tokens.into(), SMALL_CALLERS).await?;

    let before = running.peak_mib();
    let both = async || {
        let down = transfers(&caller, false).await?;
        Ok((down, transfers(&caller, true).await?))
    };
    // Large bodies are measured alone, because small requests take as much from them as they can.
    let (down, up) = both().await?;
    let (_, next_to) = caller.next_to(&token, SMALL_CALLERS, both()).await?;
    let growth = running.peak_mib() - before;
    running.stop().await;
    Ok(vec![
        (Figure::DownloadMibPerSecond, down),
        (Figure::UploadMibPerSecond, up),
        (Figure::GrowthMib, growth),
        (
            Figure::SmallAloneP99Millis,
            alone.p99_millis.context("no times")?,
        ),
        (
            Figure::SmallNextToP99Millis,
            next_to.p99_millis.context("no times")?,
        ),
    ])
}

/// Uploads and downloads without other requests, to profile for scripts/release.sh.
pub(crate) async fn both_ways(world: &World) -> Result<()> {
    let upstream = upstream(&world.stack, SIZE).await;
    let running = world.start_proxy(Contender::Project, upstream).await?;
    let caller = Caller::new(running.port);
    for up in [false, true] {
        transfers(&caller, up).await?;
    }
    running.end().await
}

/// Starts an upstream that answers POST after it has read a body of `size` bytes. It answers PUT
/// with such a body, and other requests as the server does. Returns its port.
pub(crate) async fn upstream(stack: &Stack, size: usize) -> u16 {
    let large = Bytes::from(vec![0; size]);
    upstream::answering(stack, &["h2", "http/1.1"], move |request| {
        let large = large.clone();
        async move { Response::new(Body::full(answer(request, large).await)) }
    })
    .await
}

async fn answer(request: Request<Incoming>, large: Bytes) -> Bytes {
    let small = Bytes::from_static(b"Success!!!");
    match *request.method() {
        Method::PUT => large,
        Method::POST => match received(request.into_body()).await {
            Ok(length) if length == large.len() => small,
            _ => Bytes::from_static(b"The body had another length."),
        },
        _ => small,
    }
}

/// Transfers bodies one after the other on one connection, and returns MiB/s.
async fn transfers(caller: &Caller, up: bool) -> Result<f64> {
    let io = TokioIo::new(caller.connect("127.0.0.1").await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    let connection = tokio::spawn(connection);
    let large = Bytes::from(vec![0; SIZE]);
    let begin = Instant::now();
    for _ in 0..BODIES {
        let (method, body) = if up {
            (Method::POST, large.clone())
        } else {
            (Method::PUT, Bytes::new())
        };
        let request = Request::builder().method(method).uri("/");
        let request = request.header("host", "localhost").body(Full::new(body))?;
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        ensure!(response.status().is_success(), "{}", response.status());
        let expected = if up { b"Success!!!".len() } else { SIZE };
        let got = received(response.into_body()).await?;
        ensure!(got == expected, "{got} bytes instead of {expected}");
    }
    let seconds = begin.elapsed().as_secs_f64();
    connection.abort();
    Ok((SIZE >> 20) as f64 * BODIES as f64 / seconds)
}

/// Reads a body to its end and returns its length.
pub(crate) async fn received(mut body: Incoming) -> Result<usize, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}
