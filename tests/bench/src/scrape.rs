//! Measures the cost of scraping the metrics. The same processes serve requests with a scrape each second and
//! without, in turns. The CPU time of one scrape is measured alone.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::{admin::Admin, process};
use tokio::{task::JoinHandle, time::interval};

use crate::{
    contender::Contender,
    figure::{Figure, Sample},
    running::Running,
    sample::{Bench, CONNECTIONS, WARM_UP, good},
    tools,
};

/// The turns with scrapes, and as many without.
const TURNS: u32 = 5;
/// The scrapes of each process without other load.
const SCRAPES: u32 = 1000;

/// The CPU time of requests.
#[derive(Clone, Copy, Default)]
struct Spent {
    cpu: Duration,
    requests: u64,
}

impl Spent {
    fn micros(self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }
}

/// Measures proxy and server.
pub(crate) async fn sample(bench: &Bench, contender: Contender) -> Result<Sample> {
    let addresses = process::free_ports::<2>().map(|port| format!("127.0.0.1:{port}"));
    let [server, proxy] = addresses.each_ref().map(|one| ["--admin", one]);
    let running = bench.world.start_pair(contender, &server, &proxy).await?;
    let admins = addresses.map(Admin::Ip);
    let token = bench.world.token();
    good(tools::wrk(running.port, &token, CONNECTIONS, WARM_UP).await?)?;
    let [mut without, mut with] = [Spent::default(); 2];
    for _ in 0..TURNS {
        add(&mut without, bench, &running, &token).await?;
        let scraping = scrape_each_second(admins.clone());
        add(&mut with, bench, &running, &token).await?;
        ensure!(!scraping.is_finished(), "a scrape failed");
        scraping.abort();
    }
    let begun = running.cpu_time();
    for _ in 0..SCRAPES {
        scrape(&admins).await;
    }
    let scrapes = running.cpu_time() - begun;
    running.stop().await;
    Ok(vec![
        (Figure::CpuMicros, without.micros()),
        (Figure::ScrapedCpuMicros, with.micros()),
        (
            Figure::ScrapeMillis,
            scrapes.as_secs_f64() * 1e3 / f64::from(SCRAPES),
        ),
    ])
}

/// Sends the load, and adds its CPU time.
async fn add(spent: &mut Spent, bench: &Bench, running: &Running, token: &str) -> Result<()> {
    let before = running.cpu_time();
    let load = tools::wrk(running.port, token, CONNECTIONS, bench.seconds).await;
    let load = good(load?)?;
    spent.cpu += running.cpu_time() - before;
    spent.requests += load.requests as u64;
    Ok(())
}

/// Scrapes all processes now and each second, until it is aborted.
fn scrape_each_second(admins: [Admin; 2]) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut seconds = interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            scrape(&admins).await;
        }
    })
}

async fn scrape(admins: &[Admin]) {
    for admin in admins {
        let page = admin.get("/metrics").await;
        assert_eq!(page.status, 200);
    }
}
