//! A server that answers the checks of a gateway.

/// Checks requests, and reads what the gateway is told about them.
mod checks;
/// Starts on addresses that can and that cannot be used.
mod start;

use http::{HeaderMap, Request, Version, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use prost::Message;
use server::ext_authz::pb::{
    Address, Attributes, CheckRequest, CheckResponse, Denied, Field, FieldChange, HttpRequest,
    SocketAddress, Source, check_response::HttpResponse,
};
use tempfile::TempDir;

use harness::{
    Stack,
    process::{self, Process},
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
        let address = if address.starts_with("unix:") {
            address.to_owned()
        } else {
            format!("127.0.0.1:{}", process::port(&line))
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
        self.call(PATH, framed(&question)).await.decoded()
    }

    async fn denied(&self, fields: &[(&str, &str)]) -> Denied {
        denied(self.check(fields).await)
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

impl CallAnswer {
    /// Returns the answer to a check.
    fn decoded(&self) -> CheckResponse {
        assert_eq!(self.code, "0");
        let length = u32::from_be_bytes(self.message[1..5].try_into().unwrap());
        assert_eq!(length as usize, self.message.len() - 5);
        CheckResponse::decode(&self.message[5..]).unwrap()
    }
}

/// Returns the answer for the caller of a request that is denied.
fn denied(response: CheckResponse) -> Denied {
    match response.http_response {
        Some(HttpResponse::DeniedResponse(denied)) => denied,
        other => panic!("it is not denied: {other:?}"),
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
