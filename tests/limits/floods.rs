use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use harness::{
    PATIENCE, Stack,
    frames::{
        END_HEADERS, ENHANCE_YOUR_CALM, Frames, GET, HEADERS, PING, POST, RST_STREAM, frame,
        request,
    },
    https::{Https, get},
    process::Process,
    wait::until,
};
use http_body_util::Full;
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

/// Bounds the time of a request next to a flood, its handshake included. The flood and other tests
/// use the same machine.
const ANSWERED: Duration = Duration::from_secs(5);

/// The most that the server may grow by, in KiB.
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
async fn next_to(stack: &Stack, server: &Process, flood: impl Future<Output = ()>) -> GoodCaller {
    let good = stack.https(server.listening().await).from("127.0.0.2");
    let token = format!("Bearer {}", stack.token(|_| ()));
    let before = server.peak_memory();
    let start = Instant::now();
    let mut took = Vec::new();
    let mut flood = std::pin::pin!(flood);
    let mut flooded = None;
    while flooded.is_none() || took.len() < 10 {
        let asked = Instant::now();
        let mut asking = std::pin::pin!(good.send(get(&[("authorization", &token)])));
        let answer = loop {
            tokio::select! {
                answer = &mut asking => break answer,
                () = &mut flood, if flooded.is_none() => flooded = Some(start.elapsed()),
            }
        };
        assert_eq!(answer.status, 200);
        took.push(asked.elapsed());
    }
    took.sort();
    let good_caller = GoodCaller {
        answers: took.len(),
        median: took[took.len() / 2],
        worst: took[took.len() - 1],
        flood: flooded.unwrap(),
        grown_kib: server.peak_memory() - before,
    };
    println!(
        "flood {:?}, next to it {} answers, median {:?}, worst {:?}; the server grew by {} KiB",
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
    let stack = Stack::new().await;
    let server = stack.server(&["--header-timeout", "60s"]).await;
    let https = Arc::new(stack.https(server.listening().await));
    let mut slow = Vec::new();
    next_to(&stack, &server, async {
        slow = times(2000, 50, || {
            let https = Arc::clone(&https);
            async move {
                let mut tls = https.connect(b"http/1.1").await;
                tls.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-a: ")
                    .await
                    .unwrap();
                tls.flush().await.unwrap();
                tls
            }
        })
        .await;
    })
    .await;
    next_to(&stack, &server, async {}).await;
    for tls in &mut slow {
        tls.write_all(b"b").await.expect("all are kept open");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_reset_flood_delays_no_good_caller_p144() {
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let bytes: Arc<Vec<u8>> = Arc::new(
        (0..1000)
            .flat_map(|n| {
                [
                    request(2 * n + 1, GET, &[]),
                    frame(RST_STREAM, 0, 2 * n + 1, &CANCEL),
                ]
                .concat()
            })
            .collect(),
    );
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let https = Arc::new(stack.https(server.listening().await));
    let ended = next_to(&stack, &server, async {
        let ended = times(200, 8, || {
            let (https, bytes) = (Arc::clone(&https), Arc::clone(&bytes));
            async move {
                Frames::connect(&https, &[])
                    .await
                    .flood(&bytes)
                    .await
                    .goaway
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
        200.0 / ended.flood.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_1000_bad_tokens_a_second_delays_no_good_caller_p143() {
    const TICKS: usize = 200;
    const EACH: usize = 10;
    let (stack, stranger) = (Stack::new().await, Stack::new().await);
    let server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    let refused = Arc::<AtomicUsize>::default();
    let bad = format!("Bearer {}", stranger.token(|_| ()));
    let flood = async {
        let io = TokioIo::new(https.connect(b"h2").await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        let mut tick = interval(Duration::from_millis(9));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut asking = JoinSet::new();
        for _ in 0..TICKS {
            tick.tick().await;
            for _ in 0..EACH {
                let (mut sender, refused) = (sender.clone(), Arc::clone(&refused));
                let mut request = get(&[("authorization", &bad)]);
                *request.uri_mut() = "https://localhost/".parse().unwrap();
                asking.spawn(async move {
                    sender.ready().await.unwrap();
                    let answer = sender.send_request(request).await.unwrap();
                    assert_eq!(answer.status(), 401);
                    refused.fetch_add(1, SeqCst);
                });
            }
        }
        asking.join_all().await;
    };
    let good_caller = next_to(&stack, &server, flood).await;
    let count = refused.load(SeqCst);
    assert_eq!(count, TICKS * EACH);
    println!(
        "{:.0} bad tokens a second",
        count as f64 / good_caller.flood.as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_of_10000_half_open_handshakes_keeps_no_caller_out_p138() {
    const COUNT: usize = 10_000;
    harness::process::allow_open_files(COUNT as u64 + 1000);
    let stack = Stack::new().await;
    let server = stack.server(&[]).await;
    let port = server.listening().await;
    let mut half_open = Vec::new();
    next_to(&stack, &server, async {
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
    next_to(&stack, &server, async {}).await;
}

/// Sends requests repeatedly, resets each once the proxy has read it, and counts these. Returns when
/// the connection has ended.
async fn take_back(https: &Https, begin: fn(u32) -> Vec<u8>, taken_back: &AtomicUsize) {
    const AT_ONCE: u32 = 60;
    const CANCEL: [u8; 4] = [0, 0, 0, 8];
    let mut http2 = Frames::connect(https, &[]).await;
    for first in (0..1_000_000).step_by(AT_ONCE as usize) {
        let streams = || (first..first + AT_ONCE).map(|n| 2 * n + 1);
        let mut requests: Vec<u8> = streams().flat_map(begin).collect();
        requests.extend(frame(PING, 0, 0, &[1; 8]));
        let resets: Vec<u8> = streams()
            .flat_map(|stream| frame(RST_STREAM, 0, stream, &CANCEL))
            .collect();
        // The proxy may have ended this connection. The flood then continues with another.
        if !http2.send(&requests).await || !is_pinged_back(&mut http2).await {
            return;
        }
        if !http2.send(&resets).await {
            return;
        }
        taken_back.fetch_add(AT_ONCE as usize, SeqCst);
    }
}

async fn is_pinged_back(http2: &mut Frames) -> bool {
    loop {
        match http2.next().await {
            Some(frame) if frame.kind == PING => return true,
            Some(_) => {}
            None => return false,
        }
    }
}

/// A request that is complete, and one whose body is to come.
const BEGINNINGS: [fn(u32) -> Vec<u8>; 2] = [
    |stream| request(stream, GET, &[]),
    |stream| frame(HEADERS, END_HEADERS, stream, POST),
];

/// All callers share a connection to the server, which would end it if resets came too fast.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_at_the_proxy_fail_no_other_request_p144() {
    let stack = Stack::new().await;
    let server = stack.server(&["--cores", "1"]).await;
    let proxy = stack.proxy(server.listening().await, &["--cores", "1"]);
    let proxy = proxy.await;
    let https = stack.https(proxy.listening().await);
    let taken_back = Arc::<[AtomicUsize; 2]>::default();
    let mut flood = JoinSet::new();
    for (index, begin) in BEGINNINGS.into_iter().enumerate() {
        let (https, taken_back) = (https.clone(), Arc::clone(&taken_back));
        flood.spawn(async move {
            loop {
                take_back(&https, begin, &taken_back[index]).await;
            }
        });
    }
    let resets = || -> usize { taken_back.iter().map(|count| count.load(SeqCst)).sum() };
    let (good, token) = (https.from("127.0.0.2"), stack.token(|_| ()));
    let (start, mut answers) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(4) || answers < 10 {
        // A server that reads requests and their resets at once would end the connection.
        server.signal(Signal::SIGSTOP);
        // A POST is not sent again if its connection breaks.
        let post = http::Request::post("/").header("authorization", format!("Bearer {token}"));
        let post = post.body(Full::<Bytes>::from("body")).unwrap();
        let asking = tokio::spawn({
            let good = good.clone();
            async move { good.send(post).await.status }
        });
        let before = resets();
        until(async || resets() >= before + 500).await;
        server.signal(Signal::SIGCONT);
        assert_eq!(asking.await.unwrap(), 200, "{:?}", proxy.log().last());
        answers += 1;
    }
    drop(flood);
    println!("{answers} answers next to {taken_back:?} requests that were reset");
    let is_flood = |count: &AtomicUsize| count.load(SeqCst) >= 2000;
    assert!(taken_back.iter().all(is_flood), "{taken_back:?}");
}
