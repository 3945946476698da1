use std::{fs, os::fd::OwnedFd, path::Path};

use http::{HeaderMap, Request, Version, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use prost::Message;
use server::ext_authz::pb::{
    Address, Attributes, CheckRequest, CheckResponse, Denied, Field, FieldChange, HttpRequest,
    SocketAddress, Source, check_response::HttpResponse,
};
use spiffe::SpiffeId;
use tempfile::TempDir;

use harness::{
    CLIENT_ID, SERVER_ID, Stack, binary,
    process::{self, Process},
    wait,
};

use crate::caller::respond;

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// A server that answers checks.
struct Checking {
    stack: Stack,
    server: Process,
    address: String,
    _directory: TempDir,
}

/// The answer to a call of gRPC.
struct CallAnswer {
    code: String,
    message: Bytes,
}

impl Checking {
    async fn new(args: &[&str]) -> Self {
        Self::on("127.0.0.1:0", args).await
    }

    /// Starts a server on an address or, for `unix`, on a socket of its own.
    async fn on(address: &str, args: &[&str]) -> Self {
        let (stack, directory) = (Stack::new().await, tempfile::tempdir().unwrap());
        let socket = format!("unix:{}", directory.path().join("authz.sock").display());
        let address = if address == "unix" { &socket } else { address };
        let args = [&["--ext-authz", address], args].concat();
        let server = stack.spawn("server", &args);
        let line = server.logged("for checks of a gateway").await;
        let address = match address.starts_with("unix:") {
            true => address.to_owned(),
            false => format!("127.0.0.1:{}", process::port(&line)),
        };
        Self {
            stack,
            server,
            address,
            _directory: directory,
        }
    }

    /// Asks about a request with these fields.
    async fn check(&self, fields: &[(&str, &str)]) -> CheckResponse {
        let question = question("/orders?secret=7", fields).encode_to_vec();
        let answer = self.call(PATH, framed(&question)).await;
        assert_eq!(answer.code, "0");
        let length = u32::from_be_bytes(answer.message[1..5].try_into().unwrap());
        assert_eq!(length as usize, answer.message.len() - 5);
        CheckResponse::decode(&answer.message[5..]).unwrap()
    }

    async fn denied(&self, fields: &[(&str, &str)]) -> Denied {
        match self.check(fields).await.http_response {
            Some(HttpResponse::DeniedResponse(denied)) => denied,
            other => panic!("it is not denied: {other:?}"),
        }
    }

    async fn call(&self, path: &str, body: Vec<u8>) -> CallAnswer {
        let request = Request::post(format!("http://authz{path}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header("te", "trailers");
        let request = request.body(Full::from(body)).unwrap();
        let response = respond(&self.address, Version::HTTP_2, request).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc");
        call_answer(response).await
    }
}

/// Returns the status in the head or in the trailers, and the message.
async fn call_answer(response: http::Response<Incoming>) -> CallAnswer {
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let code = |fields: &HeaderMap| Some(fields.get("grpc-status")?.to_str().unwrap().to_owned());
    let code = code(&head.headers).or_else(|| code(body.trailers()?));
    CallAnswer {
        code: code.expect("a status of gRPC"),
        message: body.to_bytes(),
    }
}

/// Returns the check of a request that came from 192.0.2.7.
fn question(path: &str, fields: &[(&str, &str)]) -> CheckRequest {
    let field = |(key, value): &(&str, &str)| Field {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let http = HttpRequest {
        method: "POST".to_owned(),
        path: path.to_owned(),
        host: "orders".to_owned(),
        headers: fields.iter().map(field).collect(),
        header_map: None,
    };
    let socket_address = Some(SocketAddress {
        address: "192.0.2.7".to_owned(),
        port_value: 4711,
    });
    CheckRequest {
        attributes: Some(Attributes {
            source: Some(Source {
                address: Some(Address { socket_address }),
            }),
            request: Some(server::ext_authz::pb::Request { http: Some(http) }),
        }),
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], message].concat()
}

fn value<'a>(changes: &'a [FieldChange], name: &str) -> Option<&'a str> {
    let mut fields = changes.iter().filter_map(|change| change.header.as_ref());
    let field = fields.find(|field| field.key == name)?;
    Some(&field.value)
}

#[tokio::test]
async fn the_check_of_an_allowed_caller_gives_its_id_and_removes_its_token_u017() {
    for (address, args, header, removed) in [
        (
            "127.0.0.1:0",
            &[] as &[&str],
            "x-spiffe-id",
            &["authorization"] as &[&str],
        ),
        (
            "unix",
            &["--caller-header", "x-id", "--forward-authorization"],
            "x-id",
            &[],
        ),
    ] {
        let checking = Checking::on(address, args).await;
        let token = checking.stack.token(|_| ());
        let bearer = format!("Bearer {token}");
        let fields = [
            ("authorization", bearer.as_str()),
            (header, "spiffe://evil.example/x"),
        ];
        let response = checking.check(&fields).await;
        assert_eq!(response.status.unwrap().code, 0);
        let Some(HttpResponse::OkResponse(allowed)) = response.http_response else {
            panic!("it is denied");
        };
        assert_eq!(value(&allowed.headers, header), Some(CLIENT_ID));
        assert_eq!(allowed.headers_to_remove, removed);
        let line = checking.server.logged("Request received").await;
        assert!(
            line.contains(CLIENT_ID) && line.contains("192.0.2.7"),
            "{line}"
        );
        let log = checking.server.log().join("\n");
        assert!(!log.contains(&token) && !log.contains("secret=7"), "{log}");
    }
}

#[tokio::test]
async fn the_check_of_a_refused_caller_has_the_answer_of_a_server_u017() {
    let checking = Checking::new(&["--allow", "spiffe://example.org/client"]).await;
    let claims =
        |subject: &str, audience: &str| checking.stack.agent.jwt_claims(subject, &[audience]);
    let mint = |claims| format!("Bearer {}", checking.stack.agent.mint_jwt(&claims));
    let other_audience = mint(claims(CLIENT_ID, "spiffe://example.org/other"));
    let not_allowed = mint(claims("spiffe://example.org/stranger", SERVER_ID));
    for (authorization, status, said) in [
        (None, 401, r#"Bearer realm="spiffe""#),
        (Some("Basic dTpw"), 401, r#"Bearer realm="spiffe""#),
        (
            Some(other_audience.as_str()),
            401,
            r#"Bearer realm="spiffe", error="invalid_token""#,
        ),
        (
            Some("Bearer a,Bearer b"),
            400,
            r#"Bearer realm="spiffe", error="invalid_request""#,
        ),
        (
            Some(&not_allowed),
            403,
            r#"Bearer realm="spiffe", error="insufficient_scope""#,
        ),
    ] {
        let fields: Vec<_> = authorization
            .map(|value| ("authorization", value))
            .into_iter()
            .collect();
        let denied = checking.denied(&fields).await;
        assert_eq!(denied.status.unwrap().code, status, "{authorization:?}");
        assert_eq!(value(&denied.headers, "www-authenticate"), Some(said));
        assert_eq!(value(&denied.headers, "cache-control"), Some("no-store"));
        assert!(denied.body.starts_with(&status.to_string()));
    }
    let line = checking
        .server
        .logged("Not allowed: spiffe://example.org/stranger")
        .await;
    assert!(line.contains("peer=192.0.2.7:4711"), "{line}");

    // A server that can't verify fails no call, because a gateway might let its requests pass then.
    checking
        .stack
        .agent
        .withdraw(&SpiffeId::new(SERVER_ID).unwrap());
    let bearer = format!("Bearer {}", checking.stack.token(|_| ()));
    let fields = [("authorization", bearer.as_str())];
    let is_unavailable = async || {
        let response = checking.check(&fields).await.http_response;
        matches!(response, Some(HttpResponse::DeniedResponse(denied))
            if denied.status.unwrap().code == 503 && value(&denied.headers, "retry-after").is_some())
    };
    wait::until(is_unavailable).await;
}

#[tokio::test]
async fn the_policy_decides_and_a_request_without_a_caller_loses_forged_ids_u017() {
    let other = ["--allow", "spiffe://example.org/other"];
    let observe = [&other[..], &["--enforce", "observe"]].concat();
    for (args, has_token, id) in [
        (&["--public", "/orders"][..], false, None),
        (&["--public", "/orders"], true, None),
        (&observe, false, None),
        (&observe, true, Some(CLIENT_ID)),
    ] {
        let checking = Checking::new(args).await;
        let bearer = format!("Bearer {}", checking.stack.token(|_| ()));
        let token = has_token.then_some(("authorization", bearer.as_str()));
        let fields: Vec<_> = token.into_iter().collect();
        let Some(HttpResponse::OkResponse(allowed)) = checking.check(&fields).await.http_response
        else {
            panic!("{args:?}: it is denied");
        };
        assert_eq!(value(&allowed.headers, "x-spiffe-id"), id, "{args:?}");
        let is_removed = allowed
            .headers_to_remove
            .iter()
            .any(|one| one == "x-spiffe-id");
        assert_eq!(is_removed, id.is_none(), "{args:?}");
    }
    // Paths are compared as a whole.
    let checking = Checking::new(&["--public", "/order"]).await;
    assert_eq!(checking.denied(&[]).await.status.unwrap().code, 401);
}

#[tokio::test]
async fn a_call_that_is_not_a_check_is_answered_by_its_fault_u018() {
    let checking = Checking::new(&[]).await;
    let whole = framed(&question("/", &[]).encode_to_vec());
    let long = vec![0; 1 << 20];
    for (path, body, code) in [
        (
            "/envoy.service.auth.v2.Authorization/Check",
            whole.clone(),
            "12",
        ),
        ("/", whole.clone(), "12"),
        (PATH, whole[..whole.len() - 1].to_vec(), "13"),
        (PATH, [&whole[..], &whole].concat(), "13"),
        (PATH, Vec::new(), "13"),
        (PATH, framed(b"no message"), "13"),
        (PATH, [framed(&long), long].concat(), "2"),
    ] {
        let length = body.len();
        let answer = checking.call(path, body).await;
        assert_eq!(
            (answer.code.as_str(), answer.message.len()),
            (code, 0),
            "{path} {length}"
        );
    }
    for (version, path, status) in [
        (Version::HTTP_11, PATH, 415),
        (Version::HTTP_2, PATH, 415),
        (Version::HTTP_11, "/", 404),
    ] {
        let request = Request::get(format!("http://authz{path}")).header("host", "authz");
        let request = request.body(Full::default()).unwrap();
        let response = respond(&checking.address, version, request).await;
        assert_eq!(response.status(), status, "{version:?} {path}");
    }
    let denied = checking.denied(&[]).await;
    assert_eq!(denied.status.unwrap().code, 401);
    // A request that can't be read is denied, whatever the gateway does about calls that fail.
    let answer = checking
        .call(PATH, framed(&question("no path", &[]).encode_to_vec()))
        .await;
    assert_eq!(answer.code, "0");
    checking.server.logged("Malformed check").await;
}

#[tokio::test]
async fn a_passed_socket_that_other_machines_reach_is_refused_where_a_local_one_is_needed_u014_u018()
 {
    let stack = Stack::new().await;
    for (name, args) in [
        ("server", ["--ext-authz", "127.0.0.1:0"]),
        ("client", ["--listen", "127.0.0.1:0"]),
    ] {
        for (address, is_refused) in [("0.0.0.0:0", true), ("127.0.0.1:0", false)] {
            let socket = std::net::TcpListener::bind(address).unwrap();
            let program = binary(name);
            let mut command = process::activated(&program, &stack.agent.endpoint(), &args);
            command.env("LISTEN_FDS", "1").stdin(OwnedFd::from(socket));
            let mut process = Process::spawn(command);
            if is_refused {
                assert_eq!(process.ended().await.code(), Some(1));
                process
                    .logged("of LISTEN_FDS can be reached from other machines")
                    .await;
            } else if name == "server" {
                process
                    .logged("(LISTEN_FDS): --ext-authz 127.0.0.1:0 is not used")
                    .await;
                process.listening().await;
            }
        }
    }
}

#[tokio::test]
async fn an_address_for_checks_that_cannot_be_used_ends_the_start_u018() {
    let stack = Stack::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "kept").unwrap();
    let not_a_socket = format!("unix:{}", Path::display(&file));
    for (status, args, said) in [
        (
            2,
            &["--ext-authz", "0.0.0.0:0"] as &[&str],
            "--ext-authz 0.0.0.0:0 can be reached",
        ),
        (
            2,
            &["--ext-authz", "localhost:1"],
            "expected an IP address and a port",
        ),
        (
            2,
            &["--ext-authz", "127.0.0.1:0", "--listen", "127.0.0.1:0"],
            "cannot be used with",
        ),
        (
            2,
            &[
                "--ext-authz",
                "127.0.0.1:0",
                "--upstream",
                "http://127.0.0.1:1",
            ],
            "cannot be used with",
        ),
        (
            2,
            &[
                "--ext-authz",
                "127.0.0.1:0",
                "--peers",
                "spiffe://example.org/a",
            ],
            "cannot be used with",
        ),
        (
            2,
            &["--ext-authz", "127.0.0.1:0", "--policy", "/no/such/file"],
            "--policy /no/such/file",
        ),
        (2, &["--plaintext-ext-authz"], "--ext-authz <ADDRESS>"),
        (2, &["--forward-authorization"], "--ext-authz <ADDRESS>"),
        (
            1,
            &["--ext-authz", &taken],
            "choose another port with --ext-authz",
        ),
        (
            1,
            &["--ext-authz", &not_a_socket],
            "choose another path with --ext-authz",
        ),
    ] {
        let output = process::output("server", &stack.agent.endpoint(), args).await;
        assert_eq!(output.status.code(), Some(status), "{args:?} {output:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(said), "{args:?}: {errors}");
    }
}
