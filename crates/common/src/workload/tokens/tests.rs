use std::{
    collections::VecDeque,
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::UNIX_EPOCH,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::{
    task::yield_now,
    time::{sleep, timeout},
};

use super::{
    super::{Address, Process, Reason},
    *,
};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const TTL: u64 = 300;

/// Returns a token with these claims, and with the ones that every token has. Its signature is not
/// verified in these tests.
pub(super) fn svid(claims: &Value) -> JwtSvid {
    let mut payload = json!({ "sub": "spiffe://example.org/client", "aud": ["server"] });
    for (name, value) in claims.as_object().unwrap() {
        payload[name] = value.clone();
    }
    let part = |part: Value| BASE64_URL_SAFE_NO_PAD.encode(part.to_string());
    let header = part(json!({ "alg": "ES256", "kid": "k" }));
    JwtSvid::parse_insecure(&format!("{header}.{}.c2ln", part(payload))).unwrap()
}

/// The agent's answer to a fetch.
#[derive(Clone, Copy)]
pub(super) enum Does {
    Issue,
    /// Returns the last token again.
    Repeat,
    Fail,
    Withdraw,
    Hang,
}

/// An agent, and the wall clock that it shares with the source. The clock moves with the paused time
/// and by [`Agent::set_clock`].
pub(super) struct Agent {
    began: Instant,
    clock: AtomicI64,
    ttl: u64,
    does: Mutex<Does>,
    issued: Mutex<VecDeque<JwtSvid>>,
    fetches: Mutex<Vec<Instant>>,
}

impl Agent {
    pub(super) fn new(ttl: u64) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            // The clock does not start on a whole second, because `iat` and `exp` are whole seconds.
            clock: AtomicI64::new(1_800_000_000_900),
            ttl,
            does: Mutex::new(Does::Issue),
            issued: Mutex::default(),
            fetches: Mutex::default(),
        })
    }

    pub(super) fn source(self: &Arc<Self>) -> TokenSource {
        let (fetch, clock) = (Arc::clone(self), Arc::clone(self));
        TokenSource::fetching(move || Arc::clone(&fetch).fetch(), move || clock.now())
    }

    fn now(&self) -> SystemTime {
        let set = Duration::from_millis(self.clock.load(SeqCst).cast_unsigned());
        UNIX_EPOCH + set + self.began.elapsed()
    }

    pub(super) fn set_clock(&self, by: i64) {
        self.clock.fetch_add(by * 1000, SeqCst);
    }

    pub(super) fn will(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    pub(super) fn fetches(&self) -> usize {
        self.fetches.lock().unwrap().len()
    }

    /// Returns the intervals between the fetches from number `from` on.
    fn intervals(&self, from: usize) -> Vec<Duration> {
        let fetches = self.fetches.lock().unwrap();
        fetches[from..]
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .collect()
    }

    async fn fetch(self: Arc<Self>) -> Result<JwtSvid, Error> {
        let number = {
            let mut fetches = self.fetches.lock().unwrap();
            fetches.push(Instant::now());
            fetches.len()
        };
        let does = *self.does.lock().unwrap();
        let address: Address = "unix:///agent.sock".parse().unwrap();
        // An answer over a socket is not immediate either.
        sleep(Duration::from_millis(1)).await;
        match does {
            Does::Issue => {
                let now = self.now().duration_since(UNIX_EPOCH).unwrap().as_secs();
                let claims = json!({ "iat": now, "exp": now + self.ttl, "jti": number });
                self.issued.lock().unwrap().push_back(svid(&claims));
            }
            Does::Repeat => {}
            Does::Fail => return Err(Error::new(address, Reason::NobodyListens)),
            Does::Withdraw => {
                let reason = Reason::NoIdentityIssued(Process::current());
                return Err(Error::new(address, reason));
            }
            Does::Hang => {
                // The real fetch has a timeout too.
                sleep(SECOND * 5).await;
                return Err(Error::new(address, Reason::NoAnswer));
            }
        }
        Ok(self.issued.lock().unwrap().back().unwrap().clone())
    }
}

/// Lets time pass. Paused time advances from timer to timer, so that the source acts at its times.
pub(super) async fn pass(time: Duration) {
    sleep(time).await;
}

/// Returns the current token, which must need no wait.
fn at_once(source: &TokenSource) -> Arc<JwtSvid> {
    let result = source.token().now_or_never().expect("there is no wait");
    result.expect("a usable token")
}

#[tokio::test(start_paused = true)]
async fn concurrent_calls_share_one_fetch_and_its_token() {
    let agent = Agent::new(TTL);
    let source = Arc::new(agent.source());
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let source = Arc::clone(&source);
            tokio::spawn(async move { source.token().await })
        })
        .collect();
    yield_now().await;
    // The first call woke the task. Its end must not end the fetch.
    callers[0].abort();
    let mut tokens = Vec::new();
    for caller in callers.into_iter().skip(1) {
        tokens.push(caller.await.unwrap().unwrap());
    }
    assert!(tokens.iter().all(|token| Arc::ptr_eq(token, &tokens[0])));
    assert!(Arc::ptr_eq(&tokens[0], &at_once(&source)));
    assert_eq!(agent.fetches(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_renewed_in_the_background_from_half_of_its_life() {
    let agent = Agent::new(TTL);
    let source = agent.source();
    source.token().await.unwrap();
    while agent.fetches() < 50 {
        pass(SECOND).await;
        at_once(&source);
    }
    // `iat` is up to a second earlier than the fetch.
    let early = SECOND * 149;
    for interval in agent.intervals(0) {
        assert!(early < interval && interval <= SECOND * 181, "{interval:?}");
    }
    let mut intervals = agent.intervals(0);
    intervals.sort_unstable();
    assert!(
        intervals[48] - intervals[0] > SECOND * 10,
        "there is jitter"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_of_two_seconds_is_always_available() {
    let agent = Agent::new(2);
    let source = agent.source();
    source.token().await.unwrap();
    for _ in 0..6000 {
        pass(Duration::from_millis(10)).await;
        let token = at_once(&source);
        assert!(SystemTime::from(token.expiry()) > agent.now());
    }
    assert!((50..200).contains(&agent.fetches()), "{}", agent.fetches());
}

#[tokio::test(start_paused = true)]
async fn the_old_token_is_used_while_the_agent_fails_and_then_the_error_is_returned() {
    let agent = Agent::new(TTL);
    let source = agent.source();
    let old = source.token().await.unwrap();
    agent.will(Does::Fail);
    // 5 s before `exp`, which is 0.9 s less than it would be on a whole second.
    pass(SECOND * 294).await;
    assert!(Arc::ptr_eq(&old, &at_once(&source)));
    pass(SECOND).await;
    let error = source.token().await.unwrap_err();
    assert!(error.to_string().contains("nobody listens"), "{error}");

    let intervals = agent.intervals(1);
    let (shortest, longest) = (intervals.iter().min(), intervals.iter().max());
    assert!(shortest.unwrap() >= &Duration::from_millis(100));
    assert!(longest.unwrap() <= &Duration::from_millis(3001));
    assert!(
        intervals[10..].iter().all(|interval| *interval > SECOND),
        "backed off"
    );

    agent.will(Does::Issue);
    pass(SECOND * 4).await;
    assert!(!Arc::ptr_eq(&old, &at_once(&source)), "recovers by itself");
}

#[tokio::test(start_paused = true)]
async fn calls_during_an_outage_fail_and_cause_no_more_fetches() {
    let agent = Agent::new(TTL);
    agent.will(Does::Fail);
    let source = agent.source();
    let began = Instant::now();
    while began.elapsed() < SECOND * 60 {
        source.token().await.unwrap_err();
        pass(Duration::from_millis(5)).await;
    }
    assert!((20..60).contains(&agent.fetches()), "{}", agent.fetches());
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_is_repeated() {
    let agent = Agent::new(TTL);
    agent.will(Does::Hang);
    let source = agent.source();
    let mut token = Box::pin(source.token());
    assert!(
        timeout(SECOND * 3, &mut token).await.is_err(),
        "the timeout of the call"
    );
    agent.will(Does::Issue);
    timeout(SECOND * 6, token).await.unwrap().unwrap_err();
    pass(SECOND).await;
    at_once(&source);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_a_withdrawn_identity_is_dropped() {
    let agent = Agent::new(TTL);
    let source = agent.source();
    source.token().await.unwrap();
    agent.will(Does::Withdraw);
    pass(SECOND * 181).await;
    let error = source.token().await.unwrap_err();
    assert!(error.to_string().contains("no identity issued"), "{error}");
    agent.will(Does::Issue);
    pass(SECOND * 4).await;
    at_once(&source);
}

#[tokio::test(start_paused = true)]
async fn a_usable_token_is_returned_after_the_clock_was_set() {
    for by in [3600, -3600] {
        let agent = Agent::new(TTL);
        let source = agent.source();
        source.token().await.unwrap();
        agent.set_clock(by);
        for _ in 0..3000 {
            let token = source.token().await.unwrap();
            let expiry = SystemTime::from(token.expiry());
            assert!(expiry > agent.now(), "set by {by} s: sent an expired token");
            pass(SECOND).await;
        }
        assert!(
            (16..24).contains(&agent.fetches()),
            "{by}: {}",
            agent.fetches()
        );
    }
    // If the clock is set back during an outage, the token still expires by its age.
    let agent = Agent::new(TTL);
    let source = agent.source();
    source.token().await.unwrap();
    agent.will(Does::Fail);
    agent.set_clock(-3600);
    pass(SECOND * 301).await;
    source.token().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_repeats_its_token_gets_a_bounded_number_of_fetches() {
    let agent = Agent::new(TTL);
    let source = agent.source();
    source.token().await.unwrap();
    agent.will(Does::Repeat);
    for _ in 0..290 {
        pass(SECOND).await;
        at_once(&source);
    }
    assert!(agent.fetches() < 30, "{}", agent.fetches());
    let intervals = agent.intervals(0);
    assert!(
        intervals.iter().all(|interval| *interval > MIN_INTERVAL),
        "{intervals:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_token_that_many_calls_report_as_refused_is_replaced_once() {
    let agent = Agent::new(TTL);
    let source = agent.source();
    let refused = source.token().await.unwrap();
    pass(SECOND).await;
    let callers = (0..50).map(async |_| source.renewed(&refused).await.unwrap());
    let tokens = futures_util::future::join_all(callers).await;
    assert_eq!(agent.fetches(), 2);
    assert!(tokens.iter().all(|token| Arc::ptr_eq(token, &tokens[0])));
    assert_ne!(tokens[0].token(), refused.token());

    source.invalidate(&refused);
    assert!(
        Arc::ptr_eq(&tokens[0], &at_once(&source)),
        "the current token was not refused"
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_every_token_causes_one_fetch_a_second() {
    for (what, does) in [("new tokens", Does::Issue), ("the same one", Does::Repeat)] {
        let agent = Agent::new(TTL);
        let source = agent.source();
        source.token().await.unwrap();
        agent.will(does);
        let began = Instant::now();
        while began.elapsed() < SECOND * 60 {
            let token = source.token().await.unwrap();
            source.invalidate(&token);
        }
        assert!(
            (59..=62).contains(&agent.fetches()),
            "{what}: {}",
            agent.fetches()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_is_returned_again_while_the_agent_fails() {
    let agent = Agent::new(TTL);
    let source = agent.source();
    let token = source.token().await.unwrap();
    agent.will(Does::Fail);
    let began = Instant::now();
    while began.elapsed() < SECOND * 60 {
        source.invalidate(&token);
        let again = timeout(SECOND * 2, source.token()).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&token, &again));
        let other = timeout(SECOND * 2, source.renewed(&token)).await.unwrap();
        assert!(other.is_none(), "there is no other");
        pass(Duration::from_millis(10)).await;
    }
    assert!((20..62).contains(&agent.fetches()), "{}", agent.fetches());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_source_ends_its_task() {
    for does in [Does::Issue, Does::Fail, Does::Hang] {
        let agent = Agent::new(TTL);
        agent.will(does);
        let source = agent.source();
        pass(SECOND).await;
        drop(source);
        yield_now().await;
        assert_eq!(Arc::strong_count(&agent), 1);
    }
}
