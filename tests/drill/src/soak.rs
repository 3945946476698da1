//! Sends many requests while all keys and SVIDs rotate continuously. No request may fail and no
//! process may grow.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    node::Node,
    stack::Stack,
    tally::{Tally, Wanted},
};

/// Everything rotates every few seconds. A retired key leaves the bundles once nothing that it
/// signed is valid.
const ROTATING: [&str; 10] = [
    "--x509-ttl",
    "8s",
    "--rotate-x509-every",
    "2s",
    "--rotate-ca-every",
    "6s",
    "--jwt-ttl",
    "8s",
    "--rotate-jwt-key-every",
    "6s",
];
/// The interval at which the number of requests is read.
const LOOK: Duration = Duration::from_millis(200);
/// A process may grow by this much after a tenth of the requests: noise of its allocator, and
/// connections that are being replaced.
const GROWTH_KIB: u64 = 8 * 1024;
const GROWTH_FILES: usize = 16;

/// Resident memory in KiB and open files, of each process.
type Usage = Vec<(String, u64, usize)>;

/// The result of a soak.
struct Found {
    seconds: f64,
    tally: Tally,
    early: Usage,
    late: Usage,
}

/// Sends `requests` as fast as they are answered.
pub(crate) async fn run(requests: u64, json: bool) -> Result<()> {
    let stack = Stack::with_agent(&ROTATING).await?;
    let begun = Instant::now();
    stack.load.go(None);
    while stack.load.requests() < requests / 10 {
        sleep(LOOK).await;
    }
    let early = usage(&stack)?;
    while stack.load.requests() < requests {
        sleep(LOOK).await;
    }
    let late = usage(&stack)?;
    stack.load.rest();
    let found = Found {
        seconds: begun.elapsed().as_secs_f64(),
        tally: stack.load.take(),
        early,
        late,
    };
    if json {
        println!("{:#}", found.json());
    } else {
        found.print();
    }
    found.check()?;
    stack.end().await
}

impl Found {
    fn failed(&self) -> u64 {
        let [gets, posts] = self.tally.judge(Wanted::default());
        gets.failed + posts.failed
    }

    fn worst_millis(&self) -> u64 {
        self.tally.worst.as_millis() as u64
    }

    fn json(&self) -> Value {
        let of = |usage: &Usage| -> Vec<_> {
            let one = |(name, kib, files): &(String, u64, usize)| json!({"process": name, "resident_kib": kib, "open_files": files});
            usage.iter().map(one).collect()
        };
        json!({
            "requests": self.tally.requests(),
            "posts": self.tally.posts(),
            "failed": self.failed(),
            "seconds": self.seconds,
            "worst_pause_ms": self.worst_millis(),
            "after_a_tenth": of(&self.early),
            "at_the_end": of(&self.late),
        })
    }

    fn print(&self) {
        println!(
            "{} requests, {} of them POSTs, in {:.0} s, {} failed, worst pause {} ms",
            self.tally.requests(),
            self.tally.posts(),
            self.seconds,
            self.failed(),
            self.worst_millis()
        );
        for ((name, kib, files), (_, last_kib, last_files)) in self.early.iter().zip(&self.late) {
            println!(
                "{name}: {kib} KiB and {files} open files after a tenth, {last_kib} KiB and {last_files} at the end"
            );
        }
    }

    /// Fails if a request did, or if a process has grown.
    fn check(&self) -> Result<()> {
        let failed = self.failed();
        ensure!(
            failed == 0,
            "{failed} requests failed: {:?}",
            self.tally.failures(Wanted::default())
        );
        for ((name, kib, files), (_, last_kib, last_files)) in self.early.iter().zip(&self.late) {
            ensure!(
                *last_kib <= kib + GROWTH_KIB,
                "{name} has grown by {} KiB",
                last_kib - kib
            );
            ensure!(
                *last_files <= files + GROWTH_FILES,
                "{name} has {last_files} open files"
            );
        }
        Ok(())
    }
}

fn usage(stack: &Stack) -> Result<Usage> {
    let of = |node: &Node| {
        let (kib, files) = node.usage()?;
        Ok((node.name().to_owned(), kib, files))
    };
    let [first, second] = &stack.servers;
    [first, second, &stack.proxy, &stack.agent]
        .map(of)
        .into_iter()
        .collect()
}
