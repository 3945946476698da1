use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use harness::{
    PATIENCE, Stack,
    frames::{CANCEL, ENHANCE_YOUR_CALM, Frames, GET, POST, block, request, reset, upload},
    https::{Https, get},
    wait::until,
};
use http::{Method, Version};
use hyper::{body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::roles::{ROLES, Role, Running};

/// Bounds the time of a request next to a flood, its handshake included. The flood and other tests
/// use the same machine.
const ANSWERED: Duration = Duration::from_secs(5);

/// The most that a process may grow by, in KiB.
const MEMORY: usize = 128 * 1024;

/// The answers to the good caller next to a flood.
#[derive(Debug)]
struct GoodCaller {
    answers: usize,
    median: Duration,
    worst: Duration,
    flood: Duration,
    grown_kib: usize,
}

/// Runs `flood`. Meanwhile, and at least ten times, a good caller connects and must be answered
/// 200.
async fn next_to(running: &Running, flood: impl Future<Output = ()>) -> GoodCaller {
    let before = running.process.peak_memory();
    let start = Instant::now();
    let mut took = Vec::new();
    let mut flood = std::pin::pin!(flood);
    let mut flooded = None;
    while flooded.is_none() || took.len() < 10 {
        let good = running.caller("127.0.0.2", Version::HTTP_11);
        let mut asking = std::pin::pin!(good.sends(1, Method::GET, Bytes::new(), ANSWERED));
        let tally = loop {
            tokio::select! {
                tally = &mut asking => break tally,
                () = &mut flood, if flooded.is_none() => flooded = Some(start.elapsed()),
            }
        };
        assert_eq!(tally.served, 1, "{tally:?}");
        took.push(tally.slowest);
    }
    took.sort();
    let good_caller = GoodCaller {
        answers: took.len(),
        median: took[took.len() / 2],
        worst: took[took.len() - 1],
        flood: flooded.unwrap(),
        grown_kib: running.process.peak_memory_above(before),
    };
    println!(
        "flood {:?}, next to it {} answers, median {:?}, worst {:?}; the process grew by {} KiB",
        good_caller.flood,
        good_caller.answers,
        good_caller.median,
        good_caller.worst,
        good_caller.grown_kib
    );
    assert!(good_caller.worst < ANSWERED, "{good_caller:?}");
    assert!(good_caller.grown_kib < MEMORY, "{good_caller:?}");
    good_caller
}

/// Runs `attack` `count` times, at most `at_once` at the same time.
async fn times<F, T>(count: usize, at_once: usize, attack: impl Fn() -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let permits = Arc::new(Semaphore::new(at_once));
    let mut attacks = JoinSet::new();
    for _ in 0..count {
        let permit = Arc::clone(&permits).acquire_owned().await.unwrap();
        let attack = attack();
        attacks.spawn(async move {
            let done = attack.await;
            drop(permit);
            done
        });
    }
    attacks.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slowloris_of_2000_connections_delays_no_good_caller_p135() {
    harness::process::allow_open_files(3000);
    let stack = Stack::new().await;
    for role in [Role::BuiltIn, Role::Client] {
        let running = role.before_any(&stack, &["--header-timeout", "60s"]).await;
        let mut slow = Vec::new();
        next_to(&running, async {
            slow = times(2000, 50, || {
                let https = running.https.clone();
                async move {
                    let mut stream = https.open(b"http/1.1").await.unwrap();
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-a: ")
                        .await
                        .unwrap();
                    stream.flush().await.unwrap();
                    stream
                }
            })
            .await;
        })
        .await;
        next_to(&running, async {}).await;
        for stream in &mut slow {
            stream.write_all(b"b").await.expect("all are kept open");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_flood_delays_no_good_caller_p144() {
    let stack = Stack::new().await;
    for role in ROLES {
        let running = role.before_any(&stack, &[]).await;
        for &with_token in role.floods() {
            println!("{role:?}, with token: {with_token}");
            reset_rapidly(&running, with_token).await;
        }
    }
}

async fn reset_rapidly(running: &Running, with_token: bool) {
    const CONNECTIONS: usize = 100;
    let (get, fields) = (block(&running.https, GET), running.fields(with_token));
    let bytes = (0..1000).flat_map(|n| {
        let stream = 2 * n + 1;
        [request(stream, &get, &fields), reset(stream, CANCEL)].concat()
    });
    let bytes: Arc<Vec<u8>> = Arc::new(bytes.collect());
    let ended = next_to(running, async {
        let ended = times(CONNECTIONS, 8, || {
            let (https, bytes) = (running.https.clone(), Arc::clone(&bytes));
            async move {
                let http2 = Frames::connect(&https, &[]).await;
                http2.flood(&bytes).await.goaway
            }
        })
        .await;
        for goaway in ended {
            assert_eq!(goaway, Some(ENHANCE_YOUR_CALM));
        }
    })
    .await;
    println!(
        "{:.0} connections of 1000 resets a second",
        CONNECTIONS as f64 / ended.flood.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_1000_bad_tokens_a_second_delays_no_good_caller_p143() {
    let (stack, stranger) = (Stack::new().await, Stack::new().await);
    let bad = stranger.bearer();
    for role in [Role::BuiltIn, Role::Server("h2c")] {
        let running = role.before_any(&stack, &[]).await;
        let mut refused = 0;
        let good_caller = next_to(&running, async {
            refused = present_in_time(&running.https, &bad).await;
        });
        let good_caller = good_caller.await;
        println!(
            "{:.0} bad tokens a second",
            refused as f64 / good_caller.flood.as_secs_f64()
        );
    }
}

/// Presents a bad token 1,100 times a second, and returns how often. Each must be answered 401.
async fn present_in_time(https: &Https, bad: &str) -> usize {
    const TICKS: usize = 200;
    const EACH: usize = 10;
    let io = TokioIo::new(https.connect(b"h2").await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let mut tick = interval(Duration::from_millis(9));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut asking = JoinSet::new();
    for _ in 0..TICKS {
        tick.tick().await;
        for _ in 0..EACH {
            let mut sender = sender.clone();
            let mut request = get(&[("authorization", bad)]);
            *request.uri_mut() = "https://localhost/".parse().unwrap();
            asking.spawn(async move {
                sender.ready().await.unwrap();
                let answer = sender.send_request(request).await.unwrap();
                assert_eq!(answer.status(), 401);
            });
        }
    }
    asking.join_all().await.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_10000_half_open_handshakes_keeps_no_caller_out_p138() {
    const COUNT: usize = 10_000;
    harness::process::allow_open_files(COUNT as u64 + 1000);
    let stack = Stack::new().await;
    let running = Role::BuiltIn.before_any(&stack, &[]).await;
    let port = running.https.port();
    let mut half_open = Vec::new();
    next_to(&running, async {
        half_open = times(COUNT, 200, || async move {
            let connecting = TcpStream::connect(("127.0.0.1", port));
            let mut tcp = timeout(PATIENCE, connecting)
                .await
                .expect("connects")
                .unwrap();
            // The bytes are half of a record that begins a ClientHello. The server may have closed
            // the connection by now.
            let _ = tcp
                .write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
                .await;
            tcp
        })
        .await;
    })
    .await;
    assert_eq!(half_open.len(), COUNT);
    next_to(&running, async {}).await;
}

/// Sends requests repeatedly, resets each once the process has read it, and counts these. Returns when
/// the connection has ended.
async fn cancel(https: &Https, begin: fn(&Https, u32) -> Vec<u8>, cancelled: &AtomicUsize) {
    const AT_ONCE: u32 = 60;
    let mut http2 = Frames::connect(https, &[]).await;
    for first in (0..1_000_000).step_by(AT_ONCE as usize) {
        let streams = || (first..first + AT_ONCE).map(|n| 2 * n + 1);
        let requests: Vec<u8> = streams().flat_map(|stream| begin(https, stream)).collect();
        let resets: Vec<u8> = streams().flat_map(|stream| reset(stream, CANCEL)).collect();
        // The process may have ended this connection. The flood then continues with another.
        if !http2.send(&requests).await || http2.ping().await.is_none() {
            return;
        }
        if !http2.send(&resets).await {
            return;
        }
        cancelled.fetch_add(AT_ONCE as usize, SeqCst);
    }
}

/// A request that is complete, and one whose body is to come.
const BEGINNINGS: [fn(&Https, u32) -> Vec<u8>; 2] = [
    |https, stream| request(stream, &block(https, GET), &[]),
    |https, stream| upload(stream, &block(https, POST), &[]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_at_proxy_and_client_fail_no_other_request_p144() {
    for role in [Role::Proxy, Role::Client] {
        resets_fail_no_other_request(role).await;
    }
}

/// All callers share a connection to the server, which would end it if resets came too fast.
async fn resets_fail_no_other_request(role: Role) {
    let stack = Stack::new().await;
    let running = role.before_any(&stack, &["--cores", "1"]).await;
    let server = running.upstream.as_ref().unwrap();
    let cancelled = Arc::<[AtomicUsize; 2]>::default();
    let mut flood = JoinSet::new();
    for (index, begin) in BEGINNINGS.into_iter().enumerate() {
        let (https, cancelled) = (running.https.clone(), Arc::clone(&cancelled));
        flood.spawn(async move {
            loop {
                cancel(&https, begin, &cancelled[index]).await;
            }
        });
    }
    let resets = || -> usize { cancelled.iter().map(|count| count.load(SeqCst)).sum() };
    let (start, mut answers) = (Instant::now(), 0);
    let is_flood = || cancelled.iter().all(|count| count.load(SeqCst) >= 2000);
    let in_time = || start.elapsed() < PATIENCE;
    while start.elapsed() < Duration::from_secs(4) || answers < 10 || (!is_flood() && in_time()) {
        // A server that reads requests and their resets at once would end the connection.
        server.signal(Signal::SIGSTOP);
        // A POST is not sent again if its connection breaks.
        let good = running.caller("127.0.0.2", Version::HTTP_11);
        let asking = tokio::spawn(good.sends(1, Method::POST, "body".into(), PATIENCE));
        let before = resets();
        until(async || resets() >= before + 500).await;
        server.signal(Signal::SIGCONT);
        let tally = asking.await.unwrap();
        assert_eq!(
            tally.served,
            1,
            "{tally:?} {:?}",
            running.process.log().last()
        );
        answers += 1;
    }
    drop(flood);
    println!("{answers} answers next to {cancelled:?} requests that were reset at {role:?}");
    assert!(is_flood(), "{cancelled:?}");
}
