//! Measures the CPU time of a request as the number of connections, keys, patterns or callers
//! grows. Each case has a stack of its own.

use anyhow::Result;
use harness::{CLIENT_ID, SERVER_ID};

use crate::{
    contender::World,
    figure::{Figure, Sample},
    load::Caller,
    row::{cpu_per_request, good},
    tools,
};

const KEYS: usize = 1_000;
const PATTERNS: usize = 1_000;
const CALLERS: usize = 10_000;
/// The requests for each second of a case that wrk cannot run.
const REQUESTS: usize = 10_000;

/// The quantity that grows, and its size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Case {
    /// 8 connections.
    Connections8,
    /// 32 connections, with which the next cases are compared.
    Connections32,
    /// 512 connections.
    Connections512,
    /// 32 connections, with server and proxy on one core each.
    OneCore,
    /// 32 connections, and [`KEYS`] keys in the JWT bundle.
    Keys,
    /// 32 connections, and [`PATTERNS`] patterns of which the caller matches the last.
    Patterns,
    /// 32 connections of our own load generator with one caller, with which the next case is
    /// compared.
    OneCaller,
    /// 32 connections of our own load generator with [`CALLERS`] callers in turn, whose tokens were
    /// verified before.
    Callers,
}

impl Case {
    const ALL: [Self; 8] = [
        Self::Connections8,
        Self::Connections32,
        Self::Connections512,
        Self::OneCore,
        Self::Keys,
        Self::Patterns,
        Self::OneCaller,
        Self::Callers,
    ];

    /// Returns the name for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Connections8 => "8 connections, µs",
            Self::Connections32 => "32 connections, µs",
            Self::Connections512 => "512 connections, µs",
            Self::OneCore => "32, one core each, µs",
            Self::Keys => "32, 1,000 keys, µs",
            Self::Patterns => "32, 1,000 patterns, µs",
            Self::OneCaller => "one caller, other load, µs",
            Self::Callers => "10,000 callers, same load, µs",
        }
    }

    /// Returns the name for machines.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Connections8 => "cpu_us_8_connections",
            Self::Connections32 => "cpu_us_32_connections",
            Self::Connections512 => "cpu_us_512_connections",
            Self::OneCore => "cpu_us_one_core",
            Self::Keys => "cpu_us_1000_keys",
            Self::Patterns => "cpu_us_1000_patterns",
            Self::OneCaller => "cpu_us_one_caller",
            Self::Callers => "cpu_us_10000_callers",
        }
    }

    fn connections(self) -> u32 {
        match self {
            Self::Connections8 => 8,
            Self::Connections512 => 512,
            _ => 32,
        }
    }

    /// Returns the flags of the server, and the flags of both processes.
    fn flags(self) -> (Vec<String>, Vec<String>) {
        match self {
            Self::OneCore => (Vec::new(), vec!["--cores".to_owned(), "1".to_owned()]),
            Self::Patterns => {
                let others = (1..PATTERNS).map(|n| format!("spiffe://example.org/ns/{n}/*"));
                let patterns = others.chain([CLIENT_ID.to_owned()]);
                let flags = patterns.flat_map(|pattern| ["--allow".to_owned(), pattern]);
                (flags.collect(), Vec::new())
            }
            _ => Default::default(),
        }
    }
}

/// Measures all cases, one after the other.
pub(crate) async fn sample(seconds: u64) -> Result<Sample> {
    let mut sample = Sample::new();
    for case in Case::ALL {
        sample.push((Figure::Growing(case), cpu(case, seconds).await?));
    }
    Ok(sample)
}

async fn cpu(case: Case, seconds: u64) -> Result<f64> {
    let world = World::new().await?;
    if case == Case::Keys {
        (1..KEYS).for_each(|_| world.stack.agent.rotate_jwt_key());
    }
    let (of_server, of_both) = case.flags();
    let running = world.start_with(&of_server, &of_both).await?;
    let (_, micros) = match case {
        Case::OneCaller | Case::Callers => {
            let callers = if case == Case::Callers { CALLERS } else { 1 };
            let tokens = tokens(&world, callers);
            let caller = Caller::new(running.port);
            let once = tokens.clone().into();
            good(caller.each_token(once, 32).await?)?;
            let requests = seconds as usize * REQUESTS;
            let again: Vec<_> = tokens.into_iter().cycle().take(requests).collect();
            let load = caller.each_token(again.into(), 32);
            cpu_per_request(&running, async { good(load.await?) }).await?
        }
        _ => {
            let (token, connections) = (world.token(), case.connections());
            good(tools::wrk(running.port, &token, connections, 1).await?)?;
            let load = tools::wrk(running.port, &token, connections, seconds);
            cpu_per_request(&running, async { good(load.await?) }).await?
        }
    };
    running.stop().await;
    Ok(micros)
}

/// Returns one token for each of `callers` workloads.
fn tokens(world: &World, callers: usize) -> Vec<String> {
    let agent = &world.stack.agent;
    (0..callers)
        .map(|n| agent.mint_jwt(&agent.jwt_claims(&format!("{CLIENT_ID}/{n}"), &[SERVER_ID])))
        .collect()
}
