use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::tls;
use futures_util::future::join_all;
use harness::{
    PATIENCE, Stack, binary,
    https::{Https, get},
    process::{self, Process},
    raw::{self, Client},
    wait::until,
};
use http::{Request, Response};
use nix::sys::signal::Signal;
use serve::{
    Handler, Limits, Received, Shared,
    body::Body,
    listen::{Listener, Queue, Socket, StdSocket},
    peer::Peer,
    shutdown,
};
use tokio::{task::JoinSet, time::timeout};

/// Starts a server on sockets that are passed to it.
fn activated(stack: &Stack, sockets: &[&TcpListener], args: &[&str]) -> Process {
    let mut passed = sockets
        .iter()
        .map(|s| OwnedFd::from(s.try_clone().unwrap()));
    let stdin = passed.next().unwrap();
    let stdout = passed.next().map_or_else(Stdio::null, Stdio::from);
    let count = sockets.len().to_string();
    passing(stack, stdin, stdout, &[("LISTEN_FDS", &count)], args)
}

fn passing(
    stack: &Stack,
    stdin: OwnedFd,
    stdout: Stdio,
    environment: &[(&str, &str)],
    args: &[&str],
) -> Process {
    let mut command = process::activated(&binary("server"), &stack.agent.endpoint(), args);
    command.envs(environment.iter().copied());
    command.stdin(stdin).stdout(stdout);
    Process::spawn(command)
}

/// Runs callers that open a connection for each request, until they are stopped.
struct Callers {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    calls: JoinSet<Vec<String>>,
}

impl Callers {
    fn start(https: &Https, token: &str, count: usize) -> Self {
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let mut calls = JoinSet::new();
        for _ in 0..count {
            let (https, token) = (https.clone(), token.to_owned());
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            calls.spawn(async move {
                let mut failures = Vec::new();
                while !stop.load(SeqCst) {
                    match call(&https, &token).await {
                        Ok(()) => _ = answered.fetch_add(1, SeqCst),
                        Err(failure) => failures.push(failure),
                    }
                }
                failures
            });
        }
        Self {
            stop,
            answered,
            calls,
        }
    }

    /// Waits until this many more calls were answered.
    async fn answered(&self, more: usize) {
        let enough = self.answered.load(SeqCst) + more;
        let waiting = async {
            while self.answered.load(SeqCst) < enough {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, waiting).await.expect("are answered");
    }

    async fn failures(self) -> Vec<String> {
        self.stop.store(true, SeqCst);
        self.calls.join_all().await.concat()
    }
}

async fn call(https: &Https, token: &str) -> Result<(), String> {
    let tls = https.try_connect(b"http/1.1").await;
    let mut client = Client::over(tls.map_err(|error| format!("connect: {error}"))?);
    client.send(raw::get(token)).await;
    match timeout(PATIENCE, client.answer()).await {
        Ok(Some(answer)) if answer.status() == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[tokio::test]
async fn a_passed_socket_outlives_the_process_and_no_connection_is_lost() {
    let stack = Stack::new().await;
    let token = stack.bearer();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let callers = Callers::start(&stack.https(port), &token, 4);
    // The callers use the port that `--listen` names, and the server does not use `--listen`.
    let args = ["--listen", &format!("127.0.0.1:{port}")];
    for _ in 0..3 {
        let mut server = activated(&stack, &[&socket], &args);
        server
            .logged("listening sockets were passed (LISTEN_FDS): --listen")
            .await;
        assert_eq!(server.listening().await, port);
        callers.answered(20).await;
        server.signal(Signal::SIGTERM);
        assert_eq!(server.ended().await.code(), Some(0));
    }
    let last = activated(&stack, &[&socket], &args);
    callers.answered(20).await;
    let failures = callers.failures().await;
    assert!(failures.is_empty(), "{failures:?}");
    drop(last);
}

#[tokio::test]
async fn several_passed_sockets_are_all_served() {
    let stack = Stack::new().await;
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = sockets.each_ref().map(|s| s.local_addr().unwrap().port());
    for cores in ["1", "2", "3"] {
        let [one, two] = sockets.each_ref();
        let server = activated(&stack, &[one, two], &["--cores", cores]);
        let both = format!(
            "listening on 127.0.0.1:{}, 127.0.0.1:{}",
            ports[0], ports[1]
        );
        server.logged(&both).await;
        for port in ports {
            let https = stack.https(port);
            assert_eq!(https.send(get(&[])).await.status, 401, "{cores} cores");
        }
    }
}

#[tokio::test]
async fn passed_descriptors_that_do_not_listen_are_refused_or_ignored() {
    let stack = Stack::new().await;
    let directory = tempfile::tempdir().unwrap();
    let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let unix = UnixListener::bind(directory.path().join("s")).unwrap();
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = std::net::TcpStream::connect(tcp.local_addr().unwrap()).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for (fd, count, error) in [
        (
            unix.into(),
            "1",
            "socket 1 of LISTEN_FDS is not a listening TCP socket",
        ),
        (
            udp.into(),
            "1",
            "socket 1 of LISTEN_FDS is not a listening TCP socket",
        ),
        (
            connected.into(),
            "1",
            "socket 1 of LISTEN_FDS is not a listening TCP socket: it does not listen",
        ),
        (file.into(), "1", "is not a socket; pass others"),
        (
            listener(),
            "2",
            "socket 2 of LISTEN_FDS is not a listening TCP socket",
        ),
        (
            listener(),
            "many",
            r#"LISTEN_FDS is "many": expected how many sockets are passed"#,
        ),
        (listener(), "0", r#"LISTEN_FDS is "0""#),
    ] {
        let environment = [("LISTEN_FDS", count)];
        let mut server = passing(&stack, fd, Stdio::null(), &environment, &[]);
        server.logged(error).await;
        assert_eq!(server.ended().await.code(), Some(1), "{error}");
    }
    for pid in ["1", "nonsense", ""] {
        let environment = [("LISTEN_FDS", "1"), ("LISTEN_PID", pid)];
        let args = ["--listen", "127.0.0.1:0"];
        let mut server = passing(&stack, listener(), Stdio::null(), &environment, &args);
        let https = stack.https(server.listening().await);
        assert_eq!(
            https.send(get(&[])).await.status,
            401,
            "the sockets are for another process: {pid:?}"
        );
        assert!(!server.whole_log().await.contains("LISTEN_FDS"));
    }
}

#[tokio::test]
async fn a_second_process_shares_the_port_while_the_first_drains() {
    let stack = Stack::new().await;
    let token = stack.bearer();
    let mut old = stack.server(&[]).await;
    let address = format!("127.0.0.1:{}", old.listening().await);
    let https = stack.https(old.listening().await);
    let mut kept = Client::sending(&https, raw::get(&token)).await;
    assert_eq!(kept.answer().await.unwrap().status(), 200);

    let callers = Callers::start(&https, &token, 2);
    let new = stack.spawn("server", &["--listen", &address, "--reuse-port"]);
    new.listening().await;
    callers.answered(20).await;
    old.signal(Signal::SIGTERM);
    old.logged("stopping").await;
    kept.send(raw::get(&token)).await;
    assert_eq!(kept.answer().await.unwrap().fields("connection"), ["close"]);
    assert_eq!(old.ended().await.code(), Some(0));

    callers.answered(20).await;
    let failures = callers.failures().await;
    assert!(failures.is_empty(), "{failures:?}");
    new.logged("Request received").await;
}

#[tokio::test]
async fn caller_that_waits_to_be_accepted_at_the_stop_is_served() {
    let stack = Stack::new().await;
    let token = stack.bearer();
    let mut server = stack.server(&[]).await;
    let https = stack.https(server.listening().await);
    server.suspend().await;
    let waiting = (0..40).map(|_| {
        let (https, token) = (https.clone(), token.clone());
        tokio::spawn(async move { call(&https, &token).await })
    });
    let waiting: Vec<_> = waiting.collect();
    until_waiting(https.port(), 40).await;

    server.signal(Signal::SIGTERM);
    server.signal(Signal::SIGCONT);

    for answered in join_all(waiting).await {
        answered.unwrap().unwrap();
    }
    assert_eq!(server.ended().await.code(), Some(0));
}

#[tokio::test]
async fn caller_that_waits_at_a_passed_socket_at_the_stop_is_served_by_the_next_process() {
    let stack = Stack::new().await;
    let token = stack.bearer();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    for cores in ["1", "2"] {
        let mut old = activated(&stack, &[&socket], &["--cores", cores]);
        let https = stack.https(old.listening().await);
        old.suspend().await;
        let waiting = (0..40).map(|_| {
            let (https, token) = (https.clone(), token.clone());
            tokio::spawn(async move { call(&https, &token).await })
        });
        let waiting: Vec<_> = waiting.collect();
        until_waiting(https.port(), 40).await;

        old.signal(Signal::SIGTERM);
        old.signal(Signal::SIGCONT);
        assert_eq!(old.ended().await.code(), Some(0));
        let mut next = activated(&stack, &[&socket], &["--cores", cores]);

        for answered in join_all(waiting).await {
            answered.unwrap().unwrap();
        }
        next.listening().await;
        next.signal(Signal::SIGTERM);
        assert_eq!(next.ended().await.code(), Some(0));
    }
}

/// Never answers.
#[derive(Clone)]
struct Silent;

impl Handler for Silent {
    async fn handle(&self, _: Request<Received>, _: &Peer) -> Response<Body> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn stop_takes_no_caller_out_of_the_queue_of_a_passed_socket() {
    let stack = Stack::new().await;
    let tls = tls::server(&stack.identity().await.x509).unwrap();
    for (queue, all_are_taken) in [(Queue::Ends, true), (Queue::Outlives, false)] {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        held.set_nonblocking(true).unwrap();
        let socket = StdSocket::Tcp(held.try_clone().unwrap());
        let socket = Socket::from_std(socket).unwrap();
        let address = held.local_addr().unwrap();
        let _callers = [(); 60].map(|()| std::net::TcpStream::connect(address).unwrap());
        until_waiting(address.port(), 60).await;

        let (stop, shutdown) = shutdown::channel();
        drop(stop);
        let limits = Limits {
            drain_timeout: Duration::from_millis(100),
            ..Limits::new(100)
        };
        let listener = Listener { socket, queue };
        let shared = Shared::new(limits);
        serve::serve(listener, Arc::clone(&tls), Silent, shared, shutdown).await;

        let left = std::iter::from_fn(|| held.accept().ok()).count();
        // It may accept some connections before it sees that it must stop.
        assert_eq!(left == 0, all_are_taken, "{queue:?}: {left} are left");
    }
}

/// Waits until this many connections wait in the kernel for the listeners on a port.
async fn until_waiting(port: u16, count: u32) {
    let waiting = || -> u32 {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let listeners = table.lines().filter_map(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            let listens = fields.get(3) == Some(&"0A");
            let here = fields.get(1)?.ends_with(&format!(":{port:04X}"));
            // The field is `tx_queue:rx_queue`. For a listener, `rx_queue` is the number of waiting
            // connections.
            let queue = fields.get(4)?.split_once(':')?.1;
            (listens && here).then(|| u32::from_str_radix(queue, 16).unwrap())
        });
        listeners.sum()
    };
    until(async || waiting() >= count).await;
}
