//! Measures the CPU time of a request as the number of connections, keys, patterns or callers
//! grows. Each case has a stack of its own.

use anyhow::Result;
use harness::{CLIENT_ID, SERVER_ID};

use crate::{
    contender::World,
    figure::{Case, Figure, Sample},
    load::Caller,
    sample::{cpu_per_request, good},
    tools,
};

const KEYS: usize = 1_000;
const PATTERNS: usize = 1_000;
const CALLERS: usize = 10_000;
/// The requests for each second of a case that wrk cannot run.
const REQUESTS: usize = 10_000;

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
    let (of_server, of_both) = flags(case);
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
            let (token, connections) = (world.token(), connections(case));
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

fn connections(case: Case) -> u32 {
    match case {
        Case::Connections8 => 8,
        Case::Connections512 => 512,
        _ => 32,
    }
}

/// Returns the flags of the server, and the flags of both processes.
fn flags(case: Case) -> (Vec<String>, Vec<String>) {
    match case {
        Case::OneCore => (Vec::new(), vec!["--cores".to_owned(), "1".to_owned()]),
        Case::Patterns => {
            let others = (1..PATTERNS).map(|n| format!("spiffe://example.org/ns/{n}/*"));
            let patterns = others.chain([CLIENT_ID.to_owned()]);
            let flags = patterns.flat_map(|pattern| ["--allow".to_owned(), pattern]);
            (flags.collect(), Vec::new())
        }
        _ => Default::default(),
    }
}
