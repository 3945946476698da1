//! Holds what the measurements of all rows share.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};

use crate::{contender::World, row::Row, running::Running, tools::LoadResult};

/// The seconds of the same load before a measurement.
pub(crate) const WARM_UP: u64 = 1;
/// The number of wrk's connections, unless the row has its own.
pub(crate) const CONNECTIONS: u32 = 32;
/// The number of tokens for each second of a measurement.
const NEW_TOKENS: usize = 10_000;

/// Holds what all rows share.
pub(crate) struct Bench {
    /// The agent and the programs of the stacks.
    pub(crate) world: World,
    /// The duration of each measurement in seconds.
    pub(crate) seconds: u64,
    /// The tokens of [`Row::NewTokens`]. A process that starts has verified none of them.
    pub(crate) tokens: Arc<Vec<String>>,
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
pub(crate) fn answered(load: LoadResult) -> Result<LoadResult> {
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
