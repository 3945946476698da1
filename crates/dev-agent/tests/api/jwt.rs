use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dev_agent::pb;
use prost_types::value::Kind;
use serde_json::{Value, json};
use tonic::Code;

use crate::support::{TestAgent, assert_status};

fn part(token: &str, index: usize) -> Value {
    let part = token.split('.').nth(index).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn kids(response: &pb::JwtBundlesResponse) -> Vec<String> {
    let jwks: Value = serde_json::from_slice(&response.bundles["spiffe://example.org"]).unwrap();
    let keys = jwks["keys"].as_array().unwrap().iter();
    keys.map(|key| key["kid"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_token_has_the_members_of_the_standard_and_no_others_w106() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid};hint=h"]).await;
    let svids = agent.fetch_jwt(&["y", "x", "y"], "").await.unwrap();
    let [svid] = &svids[..] else {
        panic!("not one SVID");
    };
    assert_eq!(
        (&*svid.spiffe_id, &*svid.hint),
        ("spiffe://example.org/a", "h")
    );
    let jwks: Value = serde_json::from_str(&agent.jwks()).unwrap();
    let kid = &jwks["keys"][0]["kid"];
    assert_eq!(
        part(&svid.svid, 0),
        json!({ "alg": "ES256", "kid": kid, "typ": "JWT" })
    );

    let claims = part(&svid.svid, 1);
    let issued = claims["iat"].as_u64().unwrap();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!((now - 60..=now).contains(&issued));
    assert_eq!(
        claims,
        json!({ "sub": "spiffe://example.org/a", "aud": ["y", "x"], "iat": issued, "exp": issued + 300 })
    );
}

#[tokio::test]
async fn the_jwt_ttl_of_an_entry_overrides_that_of_the_agent_w108() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid};jwt-ttl=30s"]).await;
    let svids = agent.fetch_jwt(&["x"], "").await.unwrap();
    let claims = part(&svids[0].svid, 1);
    assert_eq!(
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
        30
    );
}

#[tokio::test]
async fn a_caller_gets_the_identity_that_it_requests_or_all_w102() {
    let agent = TestAgent::start(&[
        "spiffe://example.org/b=unix:uid:{uid}",
        "spiffe://example.org/a=unix:uid:{uid}",
        "spiffe://example.org/other=unix:path:/nowhere",
    ])
    .await;
    for (asked, expected) in [
        (
            "",
            &["spiffe://example.org/b", "spiffe://example.org/a"][..],
        ),
        ("spiffe://example.org/a", &["spiffe://example.org/a"]),
    ] {
        let svids = agent.fetch_jwt(&["x"], asked).await.unwrap();
        let ids: Vec<_> = svids.iter().map(|svid| &*svid.spiffe_id).collect();
        assert_eq!(ids, expected, "W102, W103");
        assert_eq!(part(&svids[0].svid, 1)["sub"], expected[0], "W110");
    }
    // "W104"
    for asked in [
        "spiffe://example.org/other",
        "spiffe://example.org/nobody",
        "spiffe://elsewhere.test/a",
        "spiffe://example.org/spire/agent",
    ] {
        let status = agent.fetch_jwt(&["x"], asked).await.unwrap_err();
        assert_status(&status, Code::PermissionDenied, "no identity issued");
    }
    // "W105"
    for asked in [
        "a",
        "spiffe://example.org",
        "spiffe://EXAMPLE.org/a",
        "https://example.org/a",
    ] {
        let status = agent.fetch_jwt(&["x"], asked).await.unwrap_err();
        assert_status(
            &status,
            Code::InvalidArgument,
            "spiffe_id must be a SPIFFE ID with a path",
        );
    }
    // "W98", "W25"
    let status = agent.fetch_jwt(&[], "").await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "audience must be specified");
    let status = agent.fetch_jwt(&["x", ""], "").await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "audience must not be empty");
}

#[tokio::test]
async fn an_old_key_stays_in_the_bundle_until_it_is_dropped_w142() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut bundles = agent.jwt_bundle_stream().await;
    let old = kids(&bundles.next().await);
    let token = agent.fetch_jwt(&["x"], "").await.unwrap().remove(0).svid;
    assert_eq!(part(&token, 0)["kid"], *old[0]);

    agent.rotate_jwt_key();
    let both = kids(
        &bundles
            .wait_for(|m| kids(m).last() == old.last() && kids(m).len() == 2)
            .await,
    );
    agent.validate("x", &token).await.unwrap();
    let next = agent.fetch_jwt(&["x"], "").await.unwrap().remove(0).svid;
    assert_eq!(part(&next, 0)["kid"], *both[0]);

    agent.drop_old_jwt_key();
    let new = kids(&bundles.wait_for(|m| kids(m).len() == 1).await);
    assert_eq!(new[0], both[0]);
    let status = agent.validate("x", &token).await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "the JWT-SVID is not valid");
    agent.validate("x", &next).await.unwrap();
}

#[tokio::test]
async fn a_prepared_key_is_published_before_it_is_used_w109() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut bundles = agent.jwt_bundle_stream().await;
    let old = kids(&bundles.next().await);
    agent.prepare_jwt_key();
    let both = kids(&bundles.next().await);
    assert_eq!((both.len(), &both[0]), (2, &old[0]));
    let kid = async || {
        let svids = agent.fetch_jwt(&["x"], "").await.unwrap();
        part(&svids[0].svid, 0)["kid"].clone()
    };
    assert_eq!(kid().await, *both[0]);
    agent.rotate_jwt_key();
    assert_eq!(kid().await, *both[1]);
}

#[tokio::test]
async fn a_valid_token_is_answered_with_its_claims_w130() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut claims = agent.jwt_claims("spiffe://example.org/b", &["x"]);
    claims.payload["aud"] = json!("x");
    claims.payload["__proto__"] = json!({ "W133": 1e308 });
    claims.payload["private"] = json!({ "deep": [1.5, null, true, "text"] });
    let expires = claims.payload["exp"].as_f64().unwrap();
    let answer = agent.validate("x", &agent.mint_jwt(&claims)).await.unwrap();
    assert_eq!(answer.spiffe_id, "spiffe://example.org/b");
    let fields = answer.claims.unwrap().fields;
    let kind = |name: &str| fields[name].kind.clone().unwrap();
    assert_eq!(
        kind("sub"),
        Kind::StringValue("spiffe://example.org/b".to_owned())
    );
    assert_eq!(kind("exp"), Kind::NumberValue(expires), "W132");
    let Kind::ListValue(audience) = kind("aud") else {
        panic!("aud is not a list");
    };
    assert_eq!(audience.values.len(), 1, "W131");
    assert!(matches!(kind("private"), Kind::StructValue(_)));
}

#[tokio::test]
async fn a_token_that_the_standard_allows_is_valid_w129() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let good = agent.jwt_claims("spiffe://example.org/a", &["x"]);
    for (number, part, name, value) in [
        ("J1", "header", "typ", json!("JWT")),
        ("typ", "header", "typ", json!("JOSE")),
        ("aud", "payload", "aud", json!("x")),
        ("aud", "payload", "aud", json!(["y", "x"])),
        ("nbf", "payload", "nbf", json!(1_000_000_000)),
        ("private", "payload", "groups", json!(["a", { "b": null }])),
        ("J77", "payload", "sub", json!("spiffe://example.org")),
    ] {
        let mut claims = good.clone();
        let changed = match part {
            "header" => &mut claims.header,
            _ => &mut claims.payload,
        };
        changed[name] = value;
        let answer = agent.validate("x", &agent.mint_jwt(&claims)).await;
        let answer = answer.unwrap_or_else(|status| panic!("{number} {name}: {status}"));
        assert_eq!(answer.spiffe_id, claims.payload["sub"]);
    }
}

#[tokio::test]
async fn an_invalid_token_is_refused_without_a_reason_w128() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let good = agent.jwt_claims("spiffe://example.org/a", &["x"]);
    let with = |part: &str, name: &str, value: Value| {
        let mut claims = good.clone();
        if part == "header" {
            claims.header[name] = value;
        } else {
            claims.payload[name] = value;
        }
        agent.mint_jwt(&claims)
    };
    let token = agent.mint_jwt(&good);
    agent.validate("x", &token).await.unwrap();
    let deep = (0..1000).fold(Value::Null, |value, _| json!([value]));
    let unsigned = token[..=token.rfind('.').unwrap()].to_owned();
    for token in [
        with("payload", "exp", json!(1_000_000_000)),
        with("payload", "nbf", json!(4_000_000_000_u64)),
        with("payload", "aud", json!(["y"])),
        with("payload", "aud", json!([])),
        with("payload", "sub", json!("spiffe://elsewhere.test/a")),
        with("payload", "sub", json!("SPIFFE://example.org/a")),
        with("payload", "sub", json!("spiffe://EXAMPLE.org/a")),
        with(
            "payload",
            "sub",
            json!(format!("spiffe://example.org/{}", "a".repeat(2048))),
        ),
        with("header", "kid", json!("unknown")),
        with("header", "kid", json!("")),
        // "W138", "S2"
        with("header", "typ", json!("foo")),
        with("header", "typ", json!("at+jwt")),
        with("header", "alg", json!("none")),
        with("header", "jku", json!("https://example.org/")),
        with("header", "crit", json!(["exp"])),
        with("payload", "aud", json!(7)),
        with("payload", "exp", json!("soon")),
        with("payload", "exp", json!(null)),
        with("payload", "sub", json!("")),
        // "W133": deep, long, and no text at all.
        with("payload", "deep", deep),
        with("payload", "long", json!("x".repeat(1 << 20))),
        token.replacen('.', ".//79/w", 1),
        format!("{token}."),
        format!(" {token}"),
        unsigned,
        "not a token".to_owned(),
    ] {
        let status = agent.validate("x", &token).await.unwrap_err();
        assert_status(&status, Code::InvalidArgument, "the JWT-SVID is not valid");
    }
    // "W127"
    let status = agent.validate("", &token).await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "audience must be specified");
    let status = agent.validate("x", "").await.unwrap_err();
    assert_status(&status, Code::InvalidArgument, "svid must be specified");
}
