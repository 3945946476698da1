//! Measures large bodies over a connection with a long round trip. It is between the proxy and its
//! upstream, or between a caller and the proxy. Each is compared with the same body without the
//! proxy, over the same round trip to the same upstream. Only the body is timed, because a small
//! request before it opens all connections.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    bodies::{received, upstream},
    contender::{Contender, World},
    figure::{Figure, Sample},
    load::Caller,
    relay::Relay,
};

/// The size of a body.
const SIZE: usize = 32 << 20;
/// The time that a byte takes in one direction: half of the round trip.
const ONE_WAY: Duration = Duration::from_millis(25);
/// The size of the answer to a small request, and to an upload that arrived complete.
const SMALL: usize = b"Success!!!".len();

/// Sends one body each way through the proxy, and one each way without it.
pub(crate) async fn sample(world: &World, contender: Contender) -> Result<Sample> {
    let near = upstream(&world.stack, SIZE).await;
    let far = Relay::start(near, ONE_WAY).await?;

    let proxy = world.start_proxy(contender, far.port).await?;
    let down = download(proxy.port).await?;
    proxy.stop().await;
    let down_direct = download(far.port).await?;

    let proxy = world.start_proxy(contender, near).await?;
    let way = Relay::start(proxy.port, ONE_WAY).await?;
    let up = upload(way.port).await?;
    proxy.stop().await;
    let up_direct = upload(far.port).await?;

    Ok(vec![
        (Figure::FarDownloadMibPerSecond, down),
        (Figure::FarDownloadDirectMibPerSecond, down_direct),
        (Figure::FarUploadMibPerSecond, up),
        (Figure::FarUploadDirectMibPerSecond, up_direct),
    ])
}

/// Reads one body and returns MiB/s. HTTP/1.1 has no windows, so that only TCP limits the direct
/// connection.
async fn download(port: u16) -> Result<f64> {
    let io = TokioIo::new(Caller::new(port).connect("127.0.0.1").await?);
    let (mut sender, connection) = http1::handshake(io).await?;
    let connection = tokio::spawn(connection);
    let request = |method| {
        let request = Request::builder().method(method).uri("/");
        request
            .header("host", "localhost")
            .body(Full::new(Bytes::new()))
    };
    answer(sender.send_request(request(Method::GET)?), SMALL).await?;
    sender.ready().await?;
    let begin = Instant::now();
    answer(sender.send_request(request(Method::PUT)?), SIZE).await?;
    let speed = mib_per_second(begin);
    connection.abort();
    Ok(speed)
}

/// Sends one body over HTTP/2 and returns MiB/s until its answer.
async fn upload(port: u16) -> Result<f64> {
    let io = TokioIo::new(Caller::new(port).http2().connect("127.0.0.1").await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
    let connection = tokio::spawn(connection);
    let request = |method, body| {
        let request = Request::builder().method(method);
        request.uri("https://localhost/").body(Full::new(body))
    };
    let small = request(Method::GET, Bytes::new())?;
    answer(sender.send_request(small), SMALL).await?;
    let large = request(Method::POST, vec![0; SIZE].into())?;
    sender.ready().await?;
    let begin = Instant::now();
    answer(sender.send_request(large), SMALL).await?;
    let speed = mib_per_second(begin);
    connection.abort();
    Ok(speed)
}

/// Waits for a good answer whose body has `size` bytes.
async fn answer(
    answering: impl Future<Output = hyper::Result<Response<Incoming>>>,
    size: usize,
) -> Result<()> {
    let response = answering.await?;
    ensure!(response.status().is_success(), "{}", response.status());
    let length = received(response.into_body()).await?;
    ensure!(length == size, "{length} bytes instead of {size}");
    Ok(())
}

fn mib_per_second(begin: Instant) -> f64 {
    (SIZE >> 20) as f64 / begin.elapsed().as_secs_f64()
}
