//! Fuzzes the dev-agent's Workload API with requests of a caller.

use std::{collections::HashSet, future::poll_fn, sync::LazyLock, time::Duration};

use dev_agent::{
    Config, DevAgent, JwtClaims,
    pb::{
        JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest, ValidateJwtsvidResponse,
        X509svidResponse,
    },
};
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use prost::Message;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    runtime::{Builder, Runtime},
};
use tonic::body::Body;
use tower_service::Service as _;

use super::{cut, holds};
use crate::{CLIENT_ID, SERVER_ID, jwt};

/// The life of tokens and certificates, which is longer than a run.
const LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The length of a piece of a private key that other text does not contain by chance.
const TELLING: usize = 16;

static WORLD: LazyLock<World> = LazyLock::new(World::new);

struct World {
    runtime: Runtime,
    agent: DevAgent,
    /// Both ends of the caller's own connection, because the agent asks the kernel who the peer is.
    caller: (UnixStream, UnixStream),
    /// A token of the server for itself, which the agent issued.
    token: String,
    kid: Value,
    /// The secret numbers of the private keys of the X.509-SVIDs.
    keys: Vec<Vec<u8>>,
}

/// A request and its message.
struct Call {
    request: Request<Body>,
    path: String,
    message: Vec<u8>,
    /// The signed parts of tokens that the agent's key signed for it.
    signed: HashSet<String>,
}

struct GrpcAnswer {
    ok: bool,
    headers: HeaderMap,
    message: Vec<u8>,
}

/// Takes a method and a path, lines of metadata, an empty line, and the bytes of the request's
/// body. The first byte of the body may choose another form.
///
/// - `=` comes before a message to be framed.
/// - `?` comes before an audience and, on the next line, a token to be validated. In it `$TOKEN` is
///   a token that was issued for `spiffe://example.org/server`.
/// - `!` comes before an audience and, on the next lines, a JOSE header and claims. The token is
///   signed with the agent's key, `$KID`, and validated. `NOW` in it is the time in seconds.
///
/// # Panics
/// Panics if a call is answered that must fail, or if an answer discloses too much.
pub fn workload_api(input: &[u8]) {
    let Some(call) = call(input) else {
        return;
    };
    let headers = call.request.headers().clone();
    let answer = WORLD
        .runtime
        .block_on(answer(&WORLD.agent, &WORLD.caller.0, call.request));
    if !answer.ok {
        check_refused(&answer, &call.message, &call.signed);
        return;
    }
    assert!(
        headers.get_all("workload.spiffe.io").iter().eq(["true"]),
        "{headers:?}"
    );
    let may_hold_keys = call.path == "/SpiffeWorkloadAPI/FetchX509SVID";
    assert!(
        may_hold_keys || !holds_a_key(&answer.message),
        "{}",
        call.path
    );
    match call.path.strip_prefix("/SpiffeWorkloadAPI/") {
        Some("FetchX509SVID" | "FetchX509Bundles" | "FetchJWTBundles") => {}
        Some("FetchJWTSVID") => check_issued(&answer.message, &call.message),
        Some("ValidateJWTSVID") => check_valid(&answer.message, &call.message, &call.signed),
        _ => panic!("{} is answered", call.path),
    }
}

impl World {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let (agent, caller) = runtime.block_on(start());
        let asked = JwtsvidRequest {
            audience: vec![SERVER_ID.to_owned()],
            spiffe_id: SERVER_ID.to_owned(),
        };
        let known = [
            ("FetchJWTSVID", asked.encode_to_vec()),
            ("FetchX509SVID", Vec::new()),
        ];
        let [tokens, certificates] = known.map(|(rpc, message)| {
            let path = format!("/SpiffeWorkloadAPI/{rpc}");
            let request = Request::post(path)
                .header("workload.spiffe.io", "true")
                .header("content-type", "application/grpc")
                .body(Body::new(Full::new(Bytes::from(framed(&message)))))
                .unwrap();
            let answer = runtime.block_on(answer(&agent, &caller.0, request));
            assert!(answer.ok, "{:?}", answer.headers);
            answer.message
        });
        let token = JwtsvidResponse::decode(&*tokens)
            .unwrap()
            .svids
            .remove(0)
            .svid;
        let svids = X509svidResponse::decode(&*certificates).unwrap().svids;
        Self {
            kid: agent.jwt_claims(SERVER_ID, &[SERVER_ID]).header["kid"].clone(),
            keys: svids
                .iter()
                .map(|svid| secret(&svid.x509_svid_key))
                .collect(),
            token,
            runtime,
            agent,
            caller,
        }
    }
}

/// Starts an agent that knows this process. Nobody else can reach it, because its socket is
/// unlinked.
async fn start() -> (DevAgent, (UnixStream, UnixStream)) {
    let directory = tempfile::tempdir().unwrap();
    let uid = nix::unistd::getuid();
    let entries = [SERVER_ID, CLIENT_ID].map(|id| format!("{id}=unix:uid:{uid}").parse().unwrap());
    let mut config = Config::new(directory.path().join("agent.sock"), entries.to_vec());
    (config.x509_ttl, config.jwt_ttl, config.ca_ttl) = (LIFE, LIFE, LIFE * 2);
    let agent = DevAgent::start(config).await.unwrap();
    (agent, UnixStream::pair().unwrap())
}

/// Returns the secret in a private key (PKCS #8), whose other parts may be public. It follows
/// version 1 as an octet string of 32 bytes (RFC 5915 §3).
fn secret(key: &[u8]) -> Vec<u8> {
    cut(key, &[2, 1, 1, 4, 32]).1[..32].to_vec()
}

fn call(input: &[u8]) -> Option<Call> {
    let (head, body) = cut(input, b"\n\n");
    let mut lines = head.split(|&byte| byte == b'\n');
    let (method, path) = cut(lines.next()?, b" ");
    let uri = Uri::try_from(path).ok()?;
    let path = uri.path().to_owned();
    let mut signed = HashSet::from([signed_part(&WORLD.token)]);
    let (body, message) = body_of(body, &mut signed);
    let mut request = Request::new(Body::new(Full::new(Bytes::from(body))));
    *request.method_mut() = Method::from_bytes(method).ok()?;
    *request.uri_mut() = uri;
    for line in lines {
        let (name, value) = cut(line, b": ");
        let name = HeaderName::from_bytes(name).ok()?;
        request
            .headers_mut()
            .append(name, HeaderValue::from_bytes(value).ok()?);
    }
    Some(Call {
        request,
        path,
        message,
        signed,
    })
}

/// Returns the bytes of a body, and the first message in it.
fn body_of(told: &[u8], signed: &mut HashSet<String>) -> (Vec<u8>, Vec<u8>) {
    let message = match told {
        [b'=', message @ ..] => message.to_vec(),
        [b'?', told @ ..] => {
            let (audience, svid) = cut(told, b"\n");
            validation(
                audience,
                String::from_utf8_lossy(svid).replace("$TOKEN", &WORLD.token),
            )
        }
        [b'!', told @ ..] => {
            let (audience, parts) = cut(told, b"\n");
            let svid = token(parts);
            signed.insert(signed_part(&svid));
            validation(audience, svid)
        }
        body => return (body.to_vec(), first_message(body).to_vec()),
    };
    (framed(&message), message)
}

fn validation(audience: &[u8], svid: String) -> Vec<u8> {
    let audience = String::from_utf8_lossy(audience).into_owned();
    ValidateJwtsvidRequest { audience, svid }.encode_to_vec()
}

/// Returns a token that the agent's key signed. A part that is not JSON becomes null.
fn token(parts: &[u8]) -> String {
    let (header, payload) = cut(parts, b"\n");
    let json = |text: &[u8]| serde_json::from_slice(text).unwrap_or_default();
    let mut claims = JwtClaims {
        header: json(header),
        payload: json(&super::at(payload, jwt::now())),
    };
    if let Some(kid) = claims.header.get_mut("kid").filter(|kid| *kid == "$KID") {
        kid.clone_from(&WORLD.kid);
    }
    WORLD.agent.mint_jwt(&claims)
}

/// Returns the part of a token that is signed, because one message has many ECDSA signatures.
fn signed_part(token: &str) -> String {
    token.rsplit_once('.').unwrap_or_default().0.to_owned()
}

/// Returns a gRPC frame, which has a flag for compression and the length before the message.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short message");
    [&[0], &length.to_be_bytes()[..], message].concat()
}

fn first_message(body: &[u8]) -> &[u8] {
    let Some(([_, length @ ..], rest)) = body.split_first_chunk::<5>() else {
        return &[];
    };
    rest.get(..u32::from_be_bytes(*length) as usize)
        .unwrap_or_default()
}

/// Returns the head of the answer and all of its body that is there at once. A stream has sent its
/// first message by then.
async fn answer(agent: &DevAgent, caller: &UnixStream, request: Request<Body>) -> GrpcAnswer {
    let mut service = agent.service(caller).unwrap();
    let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
    let Ok(response) = service.call(request).await;
    let (head, mut body) = response.into_parts();
    let (mut headers, mut bytes) = (head.headers, Vec::new());
    while let Some(Some(frame)) = body.frame().now_or_never() {
        match frame.expect("a body of its own").into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => headers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    let ok = match headers.get("grpc-status") {
        Some(status) => status == "0",
        None => head.status.is_success() && !bytes.is_empty(),
    };
    GrpcAnswer {
        ok,
        headers,
        message: first_message(&bytes).to_vec(),
    }
}

fn holds_a_key(text: &[u8]) -> bool {
    let mut pieces = WORLD.keys.iter().flat_map(|key| key.windows(TELLING));
    pieces.any(|piece| holds(text, piece))
}

/// Checks that an error has a reason, and nothing that the caller or the agent keeps secret.
fn check_refused(answer: &GrpcAnswer, asked: &[u8], signed: &HashSet<String>) {
    let GrpcAnswer { headers, .. } = answer;
    assert!(
        answer.message.is_empty() && headers.contains_key("grpc-status"),
        "{headers:?}"
    );
    let told: Vec<&[u8]> = headers.values().map(HeaderValue::as_bytes).collect();
    let told = told.join(&b' ');
    assert!(told.len() < 512, "{headers:?}");
    assert!(!holds_a_key(&told), "{headers:?}");
    let ValidateJwtsvidRequest { svid, .. } = Message::decode(asked).unwrap_or_default();
    let tokens = signed.iter().chain([&WORLD.token, &svid]);
    // A shorter one may be a word of the answer.
    for token in tokens.filter(|token| token.len() > 64) {
        assert!(!holds(&told, token.as_bytes()), "{headers:?}");
    }
}

/// Checks that tokens are for the caller's own identities and for the audiences that were asked
/// for.
fn check_issued(issued: &[u8], asked: &[u8]) {
    let asked = JwtsvidRequest::decode(asked).expect("it was read");
    let issued = JwtsvidResponse::decode(issued).expect("an answer").svids;
    assert!(!issued.is_empty());
    for svid in issued {
        let (_, claims) = parts_of(&svid.svid);
        assert!(
            [SERVER_ID, CLIENT_ID].contains(&&*svid.spiffe_id),
            "{claims}"
        );
        assert!(
            asked.spiffe_id.is_empty() || asked.spiffe_id == svid.spiffe_id,
            "{claims}"
        );
        assert_eq!(claims["sub"], svid.spiffe_id);
        let audience: Vec<_> = claims["aud"].as_array().unwrap().iter().collect();
        let all: HashSet<_> = audience
            .iter()
            .map(|value| value.as_str().unwrap())
            .collect();
        assert_eq!(all, asked.audience.iter().map(String::as_str).collect());
        assert_eq!(
            all.len(),
            audience.len(),
            "an audience occurs twice: {claims}"
        );
    }
}

/// Checks that the agent's key signed the token, for this audience, and that it has not expired.
fn check_valid(answer: &[u8], asked: &[u8], signed: &HashSet<String>) {
    let ValidateJwtsvidRequest { audience, svid } = Message::decode(asked).expect("it was read");
    assert!(signed.contains(&signed_part(&svid)), "never issued: {svid}");
    let (header, claims) = parts_of(&svid);
    assert_eq!(
        (&header["alg"], &header["kid"]),
        (&"ES256".into(), &WORLD.kid)
    );
    let is_for = |value: &Value| *value == *audience;
    let values = claims["aud"].as_array();
    assert!(
        is_for(&claims["aud"]) || values.is_some_and(|all| all.iter().any(is_for)),
        "{claims}"
    );
    assert!(
        claims["exp"]
            .as_f64()
            .is_some_and(|exp| exp >= jwt::now() as f64 - 1.0),
        "{claims}"
    );
    let answer = ValidateJwtsvidResponse::decode(answer).expect("an answer");
    assert_eq!(claims["sub"], answer.spiffe_id);
    assert!(
        answer.spiffe_id.starts_with("spiffe://example.org"),
        "{claims}"
    );
}

fn parts_of(token: &str) -> (Value, Value) {
    let mut parts = token
        .split('.')
        .map(|part| serde_json::from_slice(&jwt::decode(part)).unwrap_or_default());
    (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    )
}
