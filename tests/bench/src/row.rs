//! The rows of the table: which load, and what is measured under it.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use harness::process;

use crate::{
    bodies,
    contender::{Contender, World},
    far,
    figure::{Figure, Sample},
    growth,
    load::Caller,
    running::Running,
    tools::{self, Load},
};

/// Seconds of the same load before anything is measured.
const WARM_UP: u64 = 1;
/// Tokens for each second that a row may take.
const NEW_TOKENS: usize = 10_000;
/// How many callers send them, and how many make new connections.
const CALLERS: usize = 32;
/// How many connections stay idle: all that the project takes by default.
const IDLE: usize = 10_000;

/// The number of wrk's connections, unless the row has its own.
const CONNECTIONS: u32 = 32;

/// A load.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Row {
    /// wrk, 32 kept-alive HTTP/1.1 connections.
    #[value(name = "wrk32")]
    Wrk32,
    /// The same with 512.
    #[value(name = "wrk512")]
    Wrk512,
    /// h2load, 4 connections of 64 streams.
    #[value(name = "h2")]
    Http2,
    /// A new TLS connection for each request.
    Handshake,
    /// The same by callers that resume sessions where that is offered.
    Resumed,
    /// Another token for each request.
    NewTokens,
    /// wrk, 32 kept-alive HTTP/1.1 connections, POST with a body of 5 bytes.
    #[value(name = "post-5b")]
    Post5B,
    /// The same with 1 KiB.
    #[value(name = "post-1k")]
    Post1K,
    /// The same with 64 KiB.
    #[value(name = "post-64k")]
    Post64K,
    /// Bodies of 64 MiB through the proxy.
    Bodies,
    /// Bodies of 32 MiB with 50 ms of round trip before or after the proxy.
    Far,
    /// 10,000 idle connections.
    Idle,
    /// From exec to accepting.
    Start,
    /// The project alone, as what it has to do grows.
    Growth,
}

/// What the rows have in common.
pub(crate) struct Bench {
    /// Where the stacks run.
    pub(crate) world: World,
    /// How long each measurement takes.
    pub(crate) seconds: u64,
    /// For [`Row::NewTokens`]: any process that starts has seen none of them.
    pub(crate) tokens: Arc<Vec<String>>,
}

impl Row {
    /// Its name for people.
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
            Self::Idle => "10,000 idle connections",
            Self::Start => "from exec to accepting",
            Self::Growth => "CPU per request as work grows",
        }
    }

    /// Its name for machines and flags.
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

    /// Returns whether a stack is measured under this load. Envoy without its cache is a stack of its
    /// own only where the cache would help, and so is the project without a profile only where its
    /// code decides. The last rows are about what the project promises.
    pub(crate) fn includes(self, contender: Contender) -> bool {
        match self {
            Self::Wrk32 => true,
            Self::Bodies | Self::Far => {
                matches!(contender, Contender::Project | Contender::Floor)
            }
            Self::Growth => contender == Contender::Project,
            _ if contender == Contender::EnvoyUncached => false,
            Self::Wrk512 | Self::Http2 | Self::Post5B | Self::Post1K | Self::Post64K => true,
            // Envoy is one process for both hops.
            Self::Start => !matches!(contender, Contender::Envoy | Contender::Plain),
            _ => contender != Contender::Plain,
        }
    }

    /// How many rounds of `rounds` are worth their time.
    pub(crate) fn rounds(self, rounds: usize) -> usize {
        if self == Self::Idle { 1 } else { rounds }
    }
}

impl Bench {
    /// A world with tokens enough for `rows`.
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

    /// Starts a stack, loads it, and ends it.
    pub(crate) async fn sample(&self, row: Row, contender: Contender) -> Result<Sample> {
        match row {
            Row::Bodies => return bodies::sample(&self.world, contender).await,
            Row::Far => return far::sample(&self.world, contender).await,
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
        // What is bad about it will be bad after it.
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
    ) -> Result<Load> {
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

/// Returns what a load saw, and the CPU time of the stack for each answer, in µs.
pub(crate) async fn cpu_per_request(
    running: &Running,
    load: impl Future<Output = Result<Load>>,
) -> Result<(Load, f64)> {
    let before = running.cpu_time();
    let load = load.await?;
    let cpu = running.cpu_time() - before;
    let micros = cpu.as_secs_f64() * 1e6 / load.requests as f64;
    Ok((load, micros))
}

/// Fails unless there were answers.
fn answered(load: Load) -> Result<Load> {
    ensure!(load.requests > 0, "no answer came in time");
    Ok(load)
}

/// Fails unless all requests were answered well.
pub(crate) fn good(load: Load) -> Result<Load> {
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
