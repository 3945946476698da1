use std::collections::BTreeSet;

use harness::{
    PATIENCE, Stack,
    https::{Https, get},
    process::Process,
};
use http::{Request, Version};
use http_body_util::{Channel, Full};
use hyper::body::Bytes;
use nix::sys::signal::Signal;
use tokio::{task::JoinSet, time::timeout};

/// Holds a proxy and its servers, the first of which is stopped and then killed.
struct Killed {
    stack: Stack,
    servers: Vec<Process>,
    proxy: Process,
    https: Https,
}

const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

impl Killed {
    /// Starts `count` servers and sends some requests, so that connections are open.
    async fn new(count: usize) -> Self {
        let stack = Stack::new().await;
        let (mut servers, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let server = stack.server(&["--cores", "1"]).await;
            ports.push(server.listening().await);
            servers.push(server);
        }
        let proxy = stack.proxy_before(&ports, &["--cores", "1"]).await;
        let https = stack.https(proxy.listening().await);
        let killed = Self {
            stack,
            servers,
            proxy,
            https,
        };
        for _ in 0..10 {
            let answer = killed.https.send(get(&[killed.token().as_field()])).await;
            assert_eq!(answer.status, 200);
        }
        killed
    }

    fn token(&self) -> Token {
        Token(self.stack.bearer())
    }

    /// Kills the first server when the proxy has all requests that were `sent`, and returns the
    /// statuses of their answers.
    async fn statuses(&self, sent: usize, answers: JoinSet<u16>) -> BTreeSet<u16> {
        self.proxy.logged_times(" / ", 10 + sent).await;
        self.servers[0].signal(Signal::SIGKILL);
        let statuses = timeout(PATIENCE, answers.join_all()).await;
        let log = || self.proxy.log().join("\n");
        let statuses = statuses.unwrap_or_else(|_| panic!("not all are answered: {}", log()));
        let statuses: BTreeSet<_> = statuses.into_iter().collect();
        assert!(!statuses.contains(&400), "{}", log());
        statuses
    }

    fn stand_still(&self) {
        self.servers[0].signal(Signal::SIGSTOP);
    }
}

struct Token(String);

impl Token {
    fn as_field(&self) -> (&str, &str) {
        ("authorization", &self.0)
    }
}

const SENT: usize = 40;

fn gets(killed: &Killed) -> JoinSet<u16> {
    let mut answers = JoinSet::new();
    for number in 0..SENT {
        let (https, token) = (killed.https.clone(), killed.token());
        answers.spawn(async move {
            let request = get(&[token.as_field()]);
            https
                .send_over(BOTH[number % 2], request)
                .await
                .status
                .as_u16()
        });
    }
    answers
}

#[tokio::test]
async fn gets_at_a_server_that_is_killed_are_answered_with_502_where_it_is_alone() {
    let killed = Killed::new(1).await;
    killed.stand_still();
    let answers = gets(&killed);
    let statuses = killed.statuses(SENT, answers).await;
    assert_eq!(statuses, BTreeSet::from([502]));
}

#[tokio::test]
async fn gets_at_a_server_that_is_killed_are_answered_by_another_one() {
    for others in [1, 2] {
        let killed = Killed::new(1 + others).await;
        killed.stand_still();
        let answers = gets(&killed);
        let statuses = killed.statuses(SENT, answers).await;
        assert_eq!(statuses, BTreeSet::from([200]), "{others} others");
    }
}

/// Callers send these bodies at once and as a whole.
#[tokio::test]
async fn posts_at_a_server_that_is_killed_are_answered_with_502_or_by_another_one() {
    for others in [0, 1] {
        for length in [2, 8 * 1024, 100_000, 2_000_000] {
            let killed = Killed::new(1 + others).await;
            let answered = post(&killed, Version::HTTP_11, length).await;
            killed.proxy.logged_times(" / ", 11).await;
            killed.stand_still();
            let mut answers = JoinSet::new();
            for number in 0..SENT {
                let post = post(&killed, BOTH[number % 2], length);
                answers.spawn(post);
            }
            let statuses = killed.statuses(SENT + 1, answers).await;
            let expected = BTreeSet::from([502, answered]);
            let what = format!("{others} others, {length} bytes");
            assert!(statuses.is_subset(&expected), "{what}: {statuses:?}");
            assert!(others == 1 || statuses == BTreeSet::from([502]), "{what}");
        }
    }
}

fn post(killed: &Killed, version: Version, length: usize) -> impl Future<Output = u16> + use<> {
    let (https, token) = (killed.https.clone(), killed.token());
    let body = Full::new(Bytes::from(vec![b'x'; length]));
    let request = Request::post("/").header("authorization", token.0);
    let request = request.body(body).unwrap();
    async move { https.start(version, request).await.status().as_u16() }
}

/// Callers send a part of these bodies, and send no more until the server is killed.
#[tokio::test]
async fn begun_posts_at_a_server_that_is_killed_are_never_answered_with_400() {
    for others in [0, 1] {
        for part in [0, 1, 50_000] {
            let killed = Killed::new(1 + others).await;
            killed.stand_still();
            let (mut answers, mut bodies) = (JoinSet::new(), Vec::new());
            for number in 0..SENT {
                let (mut sender, body) = Channel::<Bytes>::new(4);
                sender.send_data(vec![b'x'; part].into()).await.unwrap();
                bodies.push(sender);
                let (https, token) = (killed.https.clone(), killed.token());
                let request = Request::post("/")
                    .header("authorization", token.0)
                    .header("content-length", 100_000);
                let request = request.body(body).unwrap();
                let version = BOTH[number % 2];
                answers.spawn(async move { https.start(version, request).await.status().as_u16() });
            }
            let statuses = killed.statuses(SENT, answers).await;
            let what = format!("{others} others, {part} bytes: {statuses:?}");
            assert!(
                !statuses.contains(&504) && !statuses.contains(&503),
                "{what}"
            );
            assert!(others == 1 || statuses == BTreeSet::from([502]), "{what}");
        }
    }
}
