use std::{fs, process::Stdio};

use serde_json::json;
use tokio::{io::AsyncWriteExt, time::timeout};

use harness::{CLIENT_ID, PATIENCE, SERVER_ID, Stack, binary, jwt, process};

use crate::diagnosis::without_times;

/// The output of `--explain-token`.
struct Explanation {
    status: i32,
    text: String,
}

/// Explains a token that is passed on standard input.
async fn explain(endpoint: &str, token: &str, args: &[&str]) -> Explanation {
    let args = [&["--explain-token", "-"], args].concat();
    let mut command = process::command(&binary("client"), endpoint, &args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(token.as_bytes()).await.unwrap();
    drop(stdin);
    let output = timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.expect("ends in time").unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let text = String::from_utf8(output.stdout).unwrap();
    if let Some(signature) = token.trim().split('.').nth(2).filter(|one| !one.is_empty()) {
        assert!(!text.contains(signature), "a signature was printed: {text}");
    }
    Explanation {
        status: output.status.code().unwrap(),
        text: without_times(&text),
    }
}

impl Explanation {
    /// Checks that this rule refuses the token, with this code.
    fn refused(&self, rule: &str, code: &str) {
        assert_eq!(self.status, 1, "{}", self.text);
        let end = format!("(reason={code}; deploy/refusals.md#{code})\n");
        assert!(self.text.ends_with(&end), "{code}: {}", self.text);
        let by = format!("refused by the rule {rule} with ");
        assert!(self.text.contains(&by), "{rule}: {}", self.text);
    }

    fn accepted(&self) {
        assert_eq!(self.status, 0, "{}", self.text);
        assert!(
            self.text.ends_with("accepted: no rule refuses it\n"),
            "{}",
            self.text
        );
    }
}

#[tokio::test]
async fn accepted_token_is_explained_rule_by_rule() {
    let stack = Stack::new().await;
    let endpoint = stack.agent.endpoint();
    let token = stack.token(|_| ());
    let claims = stack.agent.jwt_claims(CLIENT_ID, &[SERVER_ID]);
    let key = claims.header["kid"].as_str().unwrap();
    let explanation = explain(&endpoint, &format!("Bearer {token}\n"), &[]).await;
    let (said, rules) = explanation.text.split_once("bundles ").unwrap();
    assert!(
        said.contains(r#""sub":"spiffe://example.org/client""#),
        "{said}"
    );
    assert!(said.contains("exp         TIME (in SPAN)\n"), "{said}");
    assert_eq!(
        rules,
        format!(
            "    of the Workload API: example.org (keys: {key})
audience    spiffe://example.org/server
request     GET /

ok         header      one bearer token
ok         form        header and claims are those of a JWT-SVID
ok         subject     spiffe://example.org/client
ok         audience    the token has an audience that is accepted
ok         exp         it has not expired
ok         nbf         there is none
ok         lifetime    there is no limit
ok         bundle      there is one for example.org
ok         signature   made by key \"{key}\" of example.org
ok         policy      the caller is allowed
accepted: no rule refuses it
"
        )
    );
    assert_eq!(explanation.status, 0);
}

#[tokio::test]
async fn explanation_has_the_code_that_the_server_logs() {
    let stack = Stack::new().await;
    let other = Stack::with("spiffe://partner.example/caller", |config| {
        config.entries = vec![
            "spiffe://partner.example/caller=unix:uid:0"
                .parse()
                .unwrap(),
        ];
    })
    .await;
    let partner = other
        .agent
        .jwt_claims("spiffe://partner.example/caller", &[SERVER_ID]);
    let good = stack.token(|_| ());
    let (signed, _) = good.rsplit_once('.').unwrap();
    let with = |name: &str, value| stack.token(|claims| claims.payload[name] = value);
    let flags = [
        "--max-token-lifetime",
        "1h",
        "--allow",
        "spiffe://example.org/client",
    ];
    let server = stack.server(&flags).await;
    let https = stack.https(server.listening().await);
    let endpoint = stack.agent.endpoint();
    for (token, rule, code) in [
        (with("aud", json!(["other"])), "audience", "audience"),
        (with("exp", json!(1_000_000_000)), "exp", "expired"),
        (
            with("nbf", json!(jwt::now() + 3600)),
            "nbf",
            "not_yet_valid",
        ),
        (
            with("exp", json!(jwt::now() + 7200)),
            "lifetime",
            "lifetime",
        ),
        (with("sub", json!("client")), "subject", "subject"),
        (with("sub", json!(SERVER_ID)), "policy", "not_allowed"),
        (with("exp", json!("soon")), "form", "unparsable"),
        (
            stack.token(|claims| claims.header["alg"] = json!("none")),
            "form",
            "algorithm",
        ),
        (
            stack.token(|claims| claims.header["kid"] = json!("other")),
            "signature",
            "unknown_key",
        ),
        (format!("{signed}.AAAA"), "signature", "signature"),
        (
            other.agent.mint_jwt(&partner),
            "bundle",
            "unknown_trust_domain",
        ),
        ("opaque".to_owned(), "form", "unparsable"),
    ] {
        let explanation = explain(&endpoint, &token, &flags).await;
        explanation.refused(rule, code);
        assert_ne!(https.status(&token).await, 200);
        server.logged(&format!("reason={code} ")).await;
    }
    explain(&endpoint, &good, &flags).await.accepted();
    assert_eq!(https.status(&good).await, 200);
}

#[tokio::test]
async fn rules_after_the_one_that_refuses_are_applied_too() {
    let stack = Stack::new().await;
    let token = stack.token(|claims| {
        claims.payload["exp"] = json!(1_000_000_000);
        claims.payload["aud"] = json!(["other"]);
    });
    let args = ["--allow", "spiffe://example.org/else"];
    let explanation = explain(&stack.agent.endpoint(), &token, &args).await;
    explanation.refused("audience", "audience");
    for line in [
        "refused    exp         Invalid token: jwtsvid: token has expired (reason=expired)",
        "ok         signature   made by key ",
        "refused    policy      Not allowed: spiffe://example.org/client matches no allowed pattern (reason=not_allowed)",
    ] {
        assert!(
            explanation.text.contains(line),
            "{line}\n{}",
            explanation.text
        );
    }
}

#[tokio::test]
async fn rule_of_a_policy_file_decides_by_method_and_path() {
    let stack = Stack::new().await;
    let endpoint = stack.agent.endpoint();
    let token = stack.token(|_| ());
    let file = tempfile::NamedTempFile::new().unwrap();
    let policy = r#"
[[rule]]
name = "health"
paths = ["/healthz"]
public = true
[[rule]]
name = "orders"
methods = ["GET"]
paths = ["/orders"]
callers = ["spiffe://example.org/client"]
"#;
    fs::write(file.path(), policy).unwrap();
    let policy = file.path().to_str().unwrap();
    let ask = async |method: &str, path: &str| {
        let url = format!("https://localhost{path}");
        explain(
            &endpoint,
            &token,
            &["--policy", policy, "-X", method, "--url", &url],
        )
        .await
    };
    let orders = ask("GET", "/orders").await;
    orders.accepted();
    assert!(
        orders.text.contains("rule \"orders\" allows the caller"),
        "{}",
        orders.text
    );
    ask("PUT", "/orders").await.refused("policy", "not_allowed");
    let health = ask("GET", "/healthz").await;
    health.accepted();
    assert!(health.text.contains("no token is read"), "{}", health.text);
    fs::write(policy, "x").unwrap();
    let args = ["--explain-token", "x", "--policy", policy];
    let output = process::output("client", &endpoint, &args).await;
    assert_eq!(output.status.code(), Some(2));
}

#[tokio::test]
async fn token_is_explained_by_a_bundle_in_a_file_without_an_agent() {
    let stack = Stack::new().await;
    let token = stack.token(|_| ());
    let nobody = "unix:///does/not/exist";
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    fs::write(path, stack.agent.jwks()).unwrap();
    let explanation = explain(nobody, &token, &["--bundle", path]).await;
    explanation.accepted();
    // The agent's next key replaces the one that has signed.
    stack.agent.rotate_jwt_key();
    stack.agent.drop_old_jwt_key();
    fs::write(path, stack.agent.jwks()).unwrap();
    let explanation = explain(nobody, &token, &["--bundle", path]).await;
    explanation.refused("signature", "unknown_key");
}

#[tokio::test]
async fn token_is_not_decided_about_without_bundles() {
    let stack = Stack::new().await;
    let nobody = "unix:///does/not/exist";
    let explanation = explain(nobody, &stack.token(|_| ()), &[]).await;
    assert_eq!(explanation.status, 12, "{}", explanation.text);
    let text = &explanation.text;
    assert!(
        text.contains(
            "none: no identity from the Workload API at unix:///does/not/exist: no such socket"
        ),
        "{text}"
    );
    assert!(
        text.contains("not tried  bundle      it needs bundles"),
        "{text}"
    );
    assert!(
        text.ends_with("not decided: there are no bundles to verify the token with\n"),
        "{text}"
    );
    // A token that is refused without its signature is refused in any case.
    let expired = stack.token(|claims| claims.payload["exp"] = json!(1));
    explain(nobody, &expired, &[])
        .await
        .refused("exp", "expired");
}

#[tokio::test]
async fn terminal_escapes_of_a_token_or_a_bundle_are_not_printed() {
    const ODD: &str = "\u{1b}[2J\u{202e}";
    let stack = Stack::new().await;
    let endpoint = stack.agent.endpoint();
    let is_odd = |one: char| (one.is_control() && one != '\n') || one == '\u{202e}';
    let token = stack.token(|claims| claims.payload["x"] = json!(ODD));
    let explanation = explain(&endpoint, &token, &[]).await;
    assert!(!explanation.text.contains(is_odd), "{:?}", explanation.text);
    // The bundle of another trust domain is that domain's text.
    let mut jwks: serde_json::Value = serde_json::from_str(&stack.agent.jwks()).unwrap();
    jwks["keys"][0]["kid"] = json!(ODD);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), jwks.to_string()).unwrap();
    let args = ["--bundle", file.path().to_str().unwrap()];
    let explanation = explain(&endpoint, &token, &args).await;
    assert!(!explanation.text.contains(is_odd), "{:?}", explanation.text);
    assert!(
        explanation.text.contains("(keys: \\u{1b}[2J"),
        "{}",
        explanation.text
    );
}
