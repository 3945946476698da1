//! Defines the rows of the table, each of which is a load and its figures.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use harness::process;

use crate::{
    bodies, chain,
    contender::{Contender, World},
    far,
    figure::{Figure, Sample},
    growth,
    load::Caller,
    running::Running,
    scrape,
    tools::{self, LoadResult},
};

/// The seconds of the same load before a measurement.
pub(crate) const WARM_UP: u64 = 1;
/// The number of tokens for each second of a measurement.
const NEW_TOKENS: usize = 10_000;
/// The number of callers that send new tokens or open new connections.
const CALLERS: usize = 32;
/// The number of idle connections, which is the project's default limit.
const IDLE: usize = 10_000;

/// The number of wrk's connections, unless the row has its own.
pub(crate) const CONNECTIONS: u32 = 32;

/// A load.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Row {
    /// wrk, 32 kept-alive HTTP/1.1 connections.
    #[value(name = "wrk32")]
    Wrk32,
    /// wrk, 512 kept-alive HTTP/1.1 connections.
    #[value(name = "wrk512")]
    Wrk512,
    /// h2load, 4 connections of 64 streams.
    #[value(name = "h2")]
    Http2,
    /// A new TLS connection for each request.
    Handshake,
    /// A new TLS connection for each request, by callers that resume sessions if the stack offers
    /// that.
    Resumed,
    /// Another token for each request.
    NewTokens,
    /// wrk, 32 kept-alive HTTP/1.1 connections, POST with a body of 5 bytes.
    #[value(name = "post-5b")]
    Post5B,
    /// wrk, 32 kept-alive HTTP/1.1 connections, POST with a body of 1 KiB.
    #[value(name = "post-1k")]
    Post1K,
    /// wrk, 32 kept-alive HTTP/1.1 connections, POST with a body of 64 KiB.
    #[value(name = "post-64k")]
    Post64K,
    /// Bodies of 64 MiB through the proxy.
    Bodies,
    /// Bodies of 32 MiB with a round trip of 50 ms before or after the proxy.
    Far,
    /// wrk, 32 kept-alive HTTP/1.1 connections without TLS to a client that listens, and an application
    /// behind the server.
    Chain,
    /// h2load, 4 connections of 64 streams, unary gRPC calls of an application behind the server.
    Grpc,
    /// 5,000 idle WebSockets through client, proxy and server.
    #[value(name = "websockets")]
    WebSockets,
    /// wrk, 32 kept-alive HTTP/1.1 connections, with and without a scrape of the metrics each second.
    Scrape,
    /// 10,000 idle connections.
    Idle,
    /// The time from exec to the first accepted connection.
    Start,
    /// The project alone, with growing numbers of connections, keys, patterns or callers.
    Growth,
}

/// Holds what all rows share.
pub(crate) struct Bench {
    /// The agent and the programs of the stacks.
    pub(crate) world: World,
    /// The duration of each measurement in seconds.
    pub(crate) seconds: u64,
    /// The tokens of [`Row::NewTokens`]. A process that starts has verified none of them.
    pub(crate) tokens: Arc<Vec<String>>,
}

impl Row {
    /// Returns the name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Wrk32 => "32 kept-alive HTTP/1.1 connections",
            Self::Wrk512 => "512 kept-alive HTTP/1.1 connections",
            Self::Http2 => "HTTP/2, 4 connections of 64 streams",
            Self::Handshake => "a new TLS connection per request",
            Self::Resumed => "a new TLS connection per request, resumed where offered",
            Self::NewTokens => "a new token per request, 32 connections",
            Self::Post5B => "POST with 5 bytes, 32 kept-alive HTTP/1.1 connections",
            Self::Post1K => "POST with 1 KiB, 32 kept-alive HTTP/1.1 connections",
            Self::Post64K => "POST with 64 KiB, 32 kept-alive HTTP/1.1 connections",
            Self::Bodies => "64 MiB bodies through the proxy",
            Self::Far => "32 MiB bodies at 50 ms of round trip",
            Self::Chain => "client, proxy and server before an application",
            Self::Grpc => "unary gRPC calls, 4 connections of 64 streams",
            Self::WebSockets => "5,000 idle WebSockets through client, proxy and server",
            Self::Scrape => "32 kept-alive HTTP/1.1 connections, metrics scraped",
            Self::Idle => "10,000 idle connections",
            Self::Start => "from exec to accepting",
            Self::Growth => "CPU per request as work grows",
        }
    }

    /// Returns the name for machines and flags.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Wrk32 => "wrk32",
            Self::Wrk512 => "wrk512",
            Self::Http2 => "h2",
            Self::Handshake => "handshake",
            Self::Resumed => "resumed",
            Self::NewTokens => "new-tokens",
            Self::Post5B => "post-5b",
            Self::Post1K => "post-1k",
            Self::Post64K => "post-64k",
            Self::Bodies => "bodies",
            Self::Far => "far",
            Self::Chain => "chain",
            Self::Grpc => "grpc",
            Self::WebSockets => "websockets",
            Self::Scrape => "scrape",
            Self::Idle => "idle",
            Self::Start => "start",
            Self::Growth => "growth",
        }
    }

    /// Returns the size of each request's body in the POST rows.
    pub(crate) fn post_size(self) -> Option<usize> {
        match self {
            Self::Post5B => Some(5),
            Self::Post1K => Some(1 << 10),
            Self::Post64K => Some(64 << 10),
            _ => None,
        }
    }

    /// Returns whether a stack is measured under this load. Envoy without its cache is measured
    /// only where the cache would help. The project without a profile is measured only where its
    /// code decides the result. The last rows measure promises of the project.
    pub(crate) fn includes(self, contender: Contender) -> bool {
        match self {
            Self::Wrk32 => true,
            Self::Bodies | Self::Far => {
                matches!(contender, Contender::Project | Contender::Floor)
            }
            Self::Chain | Self::Grpc | Self::WebSockets | Self::Scrape => {
                matches!(
                    contender,
                    Contender::Project | Contender::Plain | Contender::Static
                )
            }
            Self::Growth => contender == Contender::Project,
            _ if contender == Contender::EnvoyUncached => false,
            Self::Wrk512 | Self::Http2 | Self::Post5B | Self::Post1K | Self::Post64K => true,
            // Envoy is one process for both hops.
            Self::Start => !matches!(contender, Contender::Envoy | Contender::Plain),
            _ => contender != Contender::Plain,
        }
    }

    /// Returns how many of `rounds` the row needs.
    pub(crate) fn rounds(self, rounds: usize) -> usize {
        match self {
            Self::Idle | Self::WebSockets => 1,
            _ => rounds,
        }
    }
}

impl Bench {
    /// Starts the agent and issues enough tokens for `rows`.
    pub(crate) async fn new(rows: &[Row], seconds: u64) -> Result<Self> {
        let world = World::new().await?;
        let count = if rows.contains(&Row::NewTokens) {
            seconds as usize * NEW_TOKENS
        } else {
            0
        };
        let tokens = Arc::new(world.new_tokens(count));
        Ok(Self {
            world,
            seconds,
            tokens,
        })
    }

    /// Starts a stack, sends the load, and stops the stack.
    pub(crate) async fn sample(&self, row: Row, contender: Contender) -> Result<Sample> {
        match row {
            Row::Bodies => return bodies::sample(&self.world, contender).await,
            Row::Far => return far::sample(&self.world, contender).await,
            Row::Chain => return chain::of_all_roles(self, contender).await,
            Row::Grpc => return chain::of_grpc(self, contender).await,
            Row::WebSockets => return chain::of_websockets(self, contender).await,
            Row::Scrape => return scrape::sample(self, contender).await,
            Row::Growth => return growth::sample(self.seconds).await,
            _ => {}
        }
        let running = match row.post_size() {
            None => self.world.start(contender).await?,
            Some(_) => self.world.start_for_bodies(contender).await?,
        };
        let sample = match row {
            Row::Idle => self.idle(&running).await?,
            Row::Start => start_times(&running),
            _ => self.load(row, &running).await?,
        };
        running.stop().await;
        Ok(sample)
    }

    async fn load(&self, row: Row, running: &Running) -> Result<Sample> {
        let token = self.world.token();
        // A failure during the warm-up would occur during the measurement too.
        self.once(row, running.port, &token, WARM_UP, true).await?;
        let load = async {
            let load = self.once(row, running.port, &token, self.seconds, false);
            // The POST rows show failures as a figure. In other rows a stack that fails is left out.
            match row.post_size() {
                None => good(load.await?),
                Some(_) => answered(load.await?),
            }
        };
        let (load, cpu) = cpu_per_request(running, load).await?;
        let mut sample = vec![
            (Figure::RequestsPerSecond, load.per_second),
            (Figure::CpuMicros, cpu),
        ];
        sample.extend(load.p99_millis.map(|p99| (Figure::P99Millis, p99)));
        if row.post_size().is_some() {
            sample.push((Figure::Failed, load.bad as f64));
        }
        sample.push((Figure::PeakMib, running.peak_mib()));
        if row == Row::Resumed {
            let percent = load.resumed as f64 / load.requests as f64 * 100.0;
            sample.push((Figure::ResumedPercent, percent));
        }
        Ok(sample)
    }

    async fn once(
        &self,
        row: Row,
        port: u16,
        token: &str,
        seconds: u64,
        warm_up: bool,
    ) -> Result<LoadResult> {
        let caller = Caller::new(port);
        let duration = Duration::from_secs(seconds);
        if let Some(size) = row.post_size() {
            return tools::wrk_post(port, token, CONNECTIONS, seconds, size).await;
        }
        match row {
            Row::Wrk512 => tools::wrk(port, token, 512, seconds).await,
            Row::Http2 => tools::h2load(port, token, seconds).await,
            Row::Handshake | Row::Resumed => {
                let resume = row == Row::Resumed;
                caller
                    .new_connections(token, CALLERS, duration, resume)
                    .await
            }
            Row::NewTokens if !warm_up => {
                let tokens = Arc::clone(&self.tokens);
                caller.each_token(tokens, CALLERS).await
            }
            _ => tools::wrk(port, token, CONNECTIONS, seconds).await,
        }
    }

    async fn idle(&self, running: &Running) -> Result<Sample> {
        process::allow_open_files(IDLE as u64 + 500);
        let caller = Caller::new(running.port);
        let connections = caller.idle(&self.world.token(), IDLE).await?;
        let sample = vec![(Figure::PeakMib, running.peak_mib())];
        drop(connections);
        Ok(sample)
    }
}

fn start_times(running: &Running) -> Sample {
    let figures = [Figure::ServerStartMillis, Figure::ProxyStartMillis];
    let millis = running.start.iter().map(|time| time.as_secs_f64() * 1000.0);
    figures.into_iter().zip(millis).collect()
}

/// Returns the result of a load, and the CPU time of the stack for each answer in µs.
pub(crate) async fn cpu_per_request(
    running: &Running,
    load: impl Future<Output = Result<LoadResult>>,
) -> Result<(LoadResult, f64)> {
    let before = running.cpu_time();
    let load = load.await?;
    let cpu = running.cpu_time() - before;
    let micros = cpu.as_secs_f64() * 1e6 / load.requests as f64;
    Ok((load, micros))
}

/// Fails if there was no answer.
fn answered(load: LoadResult) -> Result<LoadResult> {
    ensure!(load.requests > 0, "no answer came in time");
    Ok(load)
}

/// Fails if a request was not answered with 200.
pub(crate) fn good(load: LoadResult) -> Result<LoadResult> {
    let load = answered(load)?;
    if load.bad > 0 {
        bail!(
            "{} of {} answers were not 200, or did not come",
            load.bad,
            load.requests
        );
    }
    Ok(load)
}
