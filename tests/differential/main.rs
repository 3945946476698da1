//! Makes random exchanges with an upstream, through the proxy and without it. Through the proxy, a
//! caller must get the same answer, or a break if the upstream broke off. Each exchange is drawn
//! from its seed.
//!
//! `DIFFERENTIAL_EXCHANGES` sets the number of exchanges of each test. `DIFFERENTIAL_FROM` sets the
//! first seed.
#![allow(clippy::unwrap_used, reason = "a test that can't go on should stop")]

/// Sends requests and reads answers.
mod caller;
/// Serves HTTP/1.1 as an upstream.
mod http1;
/// Serves HTTP/2 as an upstream.
mod http2;
/// Compares the results.
mod judge;
/// Draws exchanges from seeds.
mod plan;
/// Listens, and holds the exchanges of both upstreams.
mod upstream;

use std::sync::Arc;

use harness::{Stack, https::Https, listen::listen, process::Process};
use http::Version;
use tokio::task::JoinSet;

use self::{plan::Plan, upstream::World};

/// Each of these seeds has found the fault next to it. Every run includes them.
const FOUND: &[(u64, &str)] = &[
    (
        5,
        "502 where the upstream takes 1 at once: a new connection took requests before its SETTINGS",
    ),
    (7, "as 5, of a DELETE"),
    (10, "as 5, of an OPTIONS request"),
];

/// The number of exchanges in each test.
const EXCHANGES: u64 = 300;

/// The number of workers whose exchanges may end a whole connection. Therefore each has proxies and
/// upstreams of its own.
const ALONE: usize = 4;

/// The in-flight limit of a connection of many servers.
const MANY: u32 = 200;

/// The number of callers that share a proxy.
const TOGETHER: usize = 16;

/// Connects to an upstream, and to its proxy.
struct Path {
    direct: Https,
    proxied: Https,
    proxy: Process,
}

struct Worker {
    _stack: Stack,
    world: Arc<World>,
    http1: Path,
    http2: Path,
}

impl Worker {
    /// Starts upstreams and proxies. The upstream over HTTP/2 allows `streams` requests at once on
    /// a connection.
    async fn new(streams: u32) -> Self {
        let (stack, world) = (Stack::new().await, Arc::<World>::default());
        let known = Arc::clone(&world);
        let http1 = listen(&stack, &["http/1.1"], move |tls| {
            http1::serve(tls, Arc::clone(&known))
        });
        let http1 = Path::to(&stack, http1.await).await;
        let known = Arc::clone(&world);
        let http2 = listen(&stack, &["h2"], move |tls| {
            http2::serve(tls, Arc::clone(&known), streams)
        });
        let http2 = Path::to(&stack, http2.await).await;
        Self {
            _stack: stack,
            world,
            http1,
            http2,
        }
    }

    /// Makes an exchange without and with the proxy, and returns its fault.
    async fn exchange(&self, plan: Plan, source: &str) -> Option<String> {
        let seed = plan.seed;
        let path = match plan.upstream {
            Version::HTTP_2 => &self.http2,
            _ => &self.http1,
        };
        let names = ["direct", "proxied"].map(|way| format!("{way}-{seed}"));
        for name in &names {
            self.world.plan(name, &plan);
        }
        let direct = caller::ask(&path.direct, plan.upstream, &names[0], &plan).await;
        let proxied = caller::ask(&path.proxied.from(source), plan.caller, &names[1], &plan).await;
        let [_, received] = names.each_ref().map(|name| self.world.take(name));
        let wrong = judge::judge(&plan, direct, proxied, &received).err()?;
        let said = path.proxy.log().pop();
        Some(format!("seed {seed}: {wrong}\n{plan:?}\nproxy: {said:?}"))
    }
}

impl Path {
    async fn to(stack: &Stack, port: u16) -> Self {
        let proxy = stack.proxy(port, &["--cores", "1"]).await;
        Self {
            direct: stack.https(port),
            proxied: stack.https(proxy.listening().await),
            proxy,
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Returns the seeds of a run for one of `of` workers.
fn seeds(worker: usize, of: usize) -> impl Iterator<Item = u64> {
    let from = number("DIFFERENTIAL_FROM", 0);
    let to = from + number("DIFFERENTIAL_EXCHANGES", EXCHANGES);
    let found = FOUND.iter().map(|(seed, _)| *seed);
    let is_new = |seed: &u64| FOUND.iter().all(|(found, _)| found != seed);
    let all = found.chain((from..to).filter(is_new));
    all.skip(worker).step_by(of)
}

async fn nothing_is_wrong(workers: JoinSet<Vec<String>>) {
    let wrong = workers.join_all().await.concat();
    let count = wrong.len();
    assert!(
        wrong.is_empty(),
        "{}\n{count} are wrong",
        wrong.join("\n\n")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_through_the_proxy_are_as_those_with_the_upstream_itself() {
    let mut workers = JoinSet::new();
    for number in 0..ALONE {
        workers.spawn(async move {
            let worker = Worker::new(MANY).await;
            let mut wrong = Vec::new();
            for seed in seeds(number, ALONE) {
                wrong.extend(worker.exchange(Plan::of(seed), "127.0.0.1").await);
            }
            wrong
        });
    }
    nothing_is_wrong(workers).await;
}

/// Makes exchanges of many callers through one proxy.
async fn together(streams: u32) {
    let (shared, mut workers) = (Arc::new(Worker::new(streams).await), JoinSet::new());
    for number in 0..TOGETHER {
        let worker = Arc::clone(&shared);
        workers.spawn(async move {
            let source = format!("127.0.0.{}", number + 1);
            let mut wrong = Vec::new();
            for seed in seeds(number, TOGETHER) {
                let plan = Plan::of(seed).next_to_others();
                wrong.extend(worker.exchange(plan, &source).await);
            }
            wrong
        });
    }
    nothing_is_wrong(workers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_of_many_callers_through_one_proxy_are_as_those_with_the_upstream_itself() {
    together(MANY).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_of_many_callers_are_the_same_where_the_upstream_takes_3_at_once() {
    together(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exchanges_of_many_callers_are_the_same_where_the_upstream_takes_1_at_once() {
    together(1).await;
}
