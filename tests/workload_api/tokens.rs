use std::{sync::Arc, time::Duration};

use common::workload::{Address, WorkloadApi, tokens::TokenSource};
use harness::{
    CLIENT_ID, PATIENCE, SERVER_ID, Stack,
    fake_workload_api::{Call, Fake, Genuine, token},
};
use serde_json::json;
use spiffe::{JwtBundle, JwtBundleSet, JwtSvid, TrustDomain};
use tokio::time::timeout;

/// Returns a source of tokens of the test's own process, for the server and another audience.
fn source(stack: &Stack) -> TokenSource {
    let address = stack.agent.endpoint().parse::<Address>().unwrap();
    let audiences = [SERVER_ID, "other", SERVER_ID].map(str::to_owned).to_vec();
    TokenSource::new(WorkloadApi::new(address, PATIENCE), audiences, None)
}

/// Waits until the source has a token other than `old`. Meanwhile there may be none.
async fn other(source: &TokenSource, old: &JwtSvid) -> Arc<JwtSvid> {
    let asking = async {
        loop {
            match source.token().await {
                Ok(token) if token.token() != old.token() => return token,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    let asked = timeout(PATIENCE, asking).await;
    asked.expect("is renewed")
}

fn is_valid(stack: &Stack, token: &JwtSvid) -> bool {
    let trust_domain = TrustDomain::new("example.org").unwrap();
    let bundle = JwtBundle::from_jwt_authorities(trust_domain, stack.agent.jwks().as_bytes());
    let bundles = JwtBundleSet::from_iter([bundle.unwrap()]);
    JwtSvid::parse_and_validate(token.token(), &bundles, &[SERVER_ID]).is_ok()
}

#[tokio::test]
async fn token_is_kept_until_it_must_be_renewed_w115() {
    let stack = Stack::new().await;
    let source = source(&stack);
    let first = source.token().await.unwrap();
    assert!(is_valid(&stack, &first));
    assert_eq!(first.audience().len(), 2, "each audience once");
    assert!(Arc::ptr_eq(&first, &source.token().await.unwrap()));

    // The token is valid for minutes, with or without the agent.
    stack.agent.stop().await;
    assert!(Arc::ptr_eq(&first, &source.token().await.unwrap()));
    stack.agent.restart().await.unwrap();
    assert!(Arc::ptr_eq(&first, &source.token().await.unwrap()));

    stack.agent.restart_with_new_keys().await.unwrap();
    assert!(!is_valid(&stack, &first));
    source.invalidate(&first);
    let second = source.token().await.unwrap();
    assert!(is_valid(&stack, &second));
}

#[tokio::test]
async fn token_of_seconds_is_renewed_and_lost_with_the_agent_w115() {
    let change = |config: &mut dev_agent::Config| config.jwt_ttl = Duration::from_secs(2);
    let stack = Stack::with(SERVER_ID, change).await;
    let source = source(&stack);
    let first = source.token().await.unwrap();
    let second = other(&source, &first).await;
    assert!(is_valid(&stack, &second));

    stack.agent.stop().await;
    let lost = async {
        loop {
            match source.token().await {
                Ok(token) => assert!(is_valid(&stack, &token), "it is used after it has expired"),
                Err(error) => return error,
            }
            tokio::task::yield_now().await;
        }
    };
    let error = timeout(PATIENCE, lost).await.unwrap().to_string();
    assert!(error.contains(&stack.agent.endpoint()), "{error}");

    stack.agent.restart().await.unwrap();
    other(&source, &second).await;
}

#[tokio::test]
async fn refused_token_that_the_agent_returns_again_causes_no_load_w115() {
    let stack = Stack::new().await;
    let fake = Fake::new(&Genuine::of(&stack).await);
    let svid = stack.token(|claims| claims.payload["aud"] = json!([SERVER_ID]));
    *fake.script.tokens.lock().unwrap() = vec![token(svid)];
    let audiences = vec![SERVER_ID.to_owned()];
    let id = Some(CLIENT_ID.parse().unwrap());
    let source = TokenSource::new(fake.workload_api(PATIENCE), audiences, id);

    for _ in 0..4 {
        let token = source.token().await.unwrap();
        source.invalidate(&token);
    }

    let calls = fake.wait_for_calls(Call::Token, 4).await;
    assert_eq!(calls.len(), 4);
    // The second call was the first that a refusal caused.
    assert!(calls[3] - calls[1] >= Duration::from_millis(1900));
}
