//! Sends the load of each row to a stack, and takes a sample of its figures.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use harness::process;

use crate::{
    bodies, chain,
    contender::Contender,
    far,
    figure::{Figure, Sample},
    growth,
    load::Caller,
    row::Row,
    running::Running,
    sample::{Bench, CONNECTIONS, WARM_UP, answered, cpu_per_request, good},
    scrape,
    tools::{self, LoadResult},
};

/// The number of callers that send new tokens or open new connections.
const CALLERS: usize = 32;
/// The number of idle connections, which is the project's default limit.
const IDLE: usize = 10_000;

impl Bench {
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
