//! Measures what applications add to two hops: `client --listen` and `server --upstream` around the
//! proxy, gRPC calls, and WebSockets. The application runs in this process, whose CPU time is not
//! counted.

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use harness::process;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    application,
    contender::Contender,
    figure::{Figure, Sample},
    sample::{Bench, CONNECTIONS, WARM_UP, cpu_per_request, good},
    tools::{self, Call},
};

/// The number of idle WebSockets. Each needs two open files in each process.
const WEBSOCKETS: usize = 5_000;
/// The number of WebSockets that are opened at once.
const AT_ONCE: usize = 100;

/// Measures client, proxy and server in front of an application, and then proxy and server alone.
pub(crate) async fn of_all_roles(bench: &Bench, contender: Contender) -> Result<Sample> {
    let (token, seconds) = (bench.world.token(), bench.seconds);
    let app = format!("http://127.0.0.1:{}", application::start().await?);
    let running = bench.world.start_chain(contender, &app, &[]).await?;
    let load = |seconds| tools::wrk_plaintext(running.port, CONNECTIONS, seconds);
    good(load(WARM_UP).await?)?;
    let (load, cpu) = cpu_per_request(&running, load(seconds)).await?;
    let load = good(load)?;
    let peak = running.peak_mib();
    running.stop().await;

    let running = bench.world.start(contender).await?;
    let two = |seconds| tools::wrk(running.port, &token, CONNECTIONS, seconds);
    good(two(WARM_UP).await?)?;
    let (_, two_hops) = cpu_per_request(&running, two(seconds)).await?;
    running.stop().await;
    let mut sample = vec![
        (Figure::RequestsPerSecond, load.per_second),
        (Figure::CpuMicros, cpu),
        (Figure::TwoHopsCpuMicros, two_hops),
        (Figure::PeakMib, peak),
    ];
    sample.extend(load.p99_millis.map(|p99| (Figure::P99Millis, p99)));
    Ok(sample)
}

/// Measures unary gRPC calls through proxy and server, and other POSTs to the same application.
pub(crate) async fn of_grpc(bench: &Bench, contender: Contender) -> Result<Sample> {
    let (token, seconds) = (bench.world.token(), bench.seconds);
    let app = format!("h2c://127.0.0.1:{}", application::start().await?);
    let running = bench.world.start_before(contender, &app, &[]).await?;
    let mut cpu = Vec::new();
    let mut calls_per_second = 0.0;
    for call in [Call::Plain, Call::Grpc] {
        let load = |seconds| tools::h2load_post(running.port, &token, call, seconds);
        good(load(WARM_UP).await?)?;
        let (load, micros) = cpu_per_request(&running, load(seconds)).await?;
        calls_per_second = good(load)?.per_second;
        cpu.push(micros);
    }
    let peak = running.peak_mib();
    running.stop().await;
    Ok(vec![
        (Figure::RequestsPerSecond, calls_per_second),
        (Figure::CpuMicros, cpu[1]),
        (Figure::PlainCpuMicros, cpu[0]),
        (Figure::PeakMib, peak),
    ])
}

/// Measures the memory of idle WebSockets through client, proxy and server.
pub(crate) async fn of_websockets(bench: &Bench, contender: Contender) -> Result<Sample> {
    process::allow_open_files(2 * WEBSOCKETS as u64 + 500);
    let app = format!("http://127.0.0.1:{}", application::start().await?);
    let bounds = [
        "--max-upstream-connections",
        "6000",
        "--max-connections-per-address",
        "6000",
    ];
    let running = bench.world.start_chain(contender, &app, &bounds).await?;
    // The first ones also open what all requests share.
    let mut open = open(running.port, AT_ONCE).await?;
    let before = running.peaks_mib();
    while open.len() < AT_ONCE + WEBSOCKETS {
        open.extend(self::open(running.port, AT_ONCE).await?);
    }
    let after = running.peaks_mib();
    running.stop().await;
    let figures = [
        Figure::ServerKibPerWebSocket,
        Figure::ProxyKibPerWebSocket,
        Figure::ClientKibPerWebSocket,
    ];
    let growth = after.iter().zip(before);
    let growth = growth.map(|(after, before)| (after - before) * 1024.0 / WEBSOCKETS as f64);
    Ok(figures.into_iter().zip(growth).collect())
}

/// Opens `count` WebSockets.
async fn open(port: u16, count: usize) -> Result<Vec<TcpStream>> {
    try_join_all((0..count).map(|_| async move {
        let mut tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        tcp.write_all(application::OPENING).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            ensure!(tcp.read_buf(&mut answer).await? > 0, "the answer broke off");
        }
        let answer = String::from_utf8_lossy(&answer);
        ensure!(
            answer.starts_with("HTTP/1.1 101 "),
            "no WebSocket: {answer}"
        );
        Ok(tcp)
    }))
    .await
}
