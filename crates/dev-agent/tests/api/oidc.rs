use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dev_agent::OidcEndpoint;
use serde_json::{Value, json};

use crate::{
    endpoint::{Answer, send},
    support::{ANY_PORT, TestAgent, soon, web_certificate},
};

const ISSUER: &str = "https://oidc.example.org/tenant";

async fn start() -> TestAgent {
    let (certificate, _, _) = web_certificate();
    TestAgent::start_with(&["spiffe://b.test/y=unix:uid:{uid}"], |config| {
        config.jwt_issuer = Some(ISSUER.to_owned());
        config.oidc_endpoint = Some(OidcEndpoint {
            address: ANY_PORT,
            certificate,
        });
    })
    .await
}

async fn get(agent: &TestAgent, host: &str, path: &str) -> Answer {
    let address = agent.oidc_endpoint().unwrap();
    soon(send(address, "GET", host, path)).await.unwrap()
}

#[tokio::test]
async fn issuer_is_that_of_the_tokens_by_any_name_f012() {
    let agent = start().await;
    let path = "/.well-known/openid-configuration";
    for host in ["localhost:8443", "keys.example.com", "[::1]:443"] {
        let answer = get(&agent, host, path).await;
        assert_eq!(answer.content_type, "application/json");
        let document = answer.json();
        assert_eq!(document["issuer"], ISSUER);
        assert_eq!(document["jwks_uri"], format!("https://{host}/keys"));
        assert_eq!(
            document["id_token_signing_alg_values_supported"],
            json!(["ES256"])
        );
    }
    for host in ["me@b.test", "a b", ""] {
        assert_eq!(get(&agent, host, path).await.status, 400, "{host:?}");
    }
    assert_eq!(get(&agent, "b.test", "/").await.status, 404);
}

#[tokio::test]
async fn token_has_the_issuer_and_a_published_key_f012() {
    let agent = start().await;
    agent.rotate_jwt_key();
    let token = agent.fetch_jwt(&["x"], "").await.unwrap().remove(0).svid;
    let claims = agent.validate("x", &token).await.unwrap().claims.unwrap();
    let issuer = claims.fields["iss"].kind.clone();
    let expected = prost_types::value::Kind::StringValue(ISSUER.to_owned());
    assert_eq!(issuer, Some(expected));

    let keys = get(&agent, "b.test", "/keys").await.json();
    let keys = keys["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2, "the old key is published too");
    let header = token.split('.').next().unwrap();
    let header = URL_SAFE_NO_PAD.decode(header).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    assert!(
        keys.iter().any(|key| key["kid"] == header["kid"]),
        "{header}"
    );
    let expected: Value = serde_json::from_str(&agent.jwks()).unwrap();
    for (key, expected) in keys.iter().zip(expected["keys"].as_array().unwrap()) {
        assert_eq!((&key["use"], &key["alg"]), (&json!("sig"), &json!("ES256")));
        for member in ["kid", "kty", "crv", "x", "y"] {
            assert_eq!(key[member], expected[member], "{member}");
        }
    }
}
