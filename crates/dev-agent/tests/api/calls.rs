use dev_agent::pb;
use tonic::{
    Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, metadata::MetadataMap,
    transport::Endpoint,
};
use tonic_prost::ProstCodec;

use crate::support::{TestAgent, assert_status, soon};

/// Returns the RPCs of the .proto, so that an added one is tested too ("W23").
fn rpcs() -> impl Iterator<Item = &'static str> {
    include_str!("../../../workload-api/proto/workload.proto")
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("rpc "))
        .filter_map(|line| Some(line.split_once('(')?.0))
}

/// Calls any method with an empty message, up to the first message of the answer.
async fn call(agent: &TestAgent, method: &str, headers: &[&str]) -> Result<(), Status> {
    let endpoint = Endpoint::try_from(agent.endpoint()).unwrap();
    let mut client = Grpc::new(endpoint.connect().await.unwrap());
    client.ready().await.unwrap();
    let mut metadata = MetadataMap::new();
    for value in headers {
        metadata.append("workload.spiffe.io", value.parse().unwrap());
    }
    let mut request = Request::new(pb::X509svidRequest {});
    *request.metadata_mut() = metadata;
    let path = PathAndQuery::try_from(format!("/{method}")).unwrap();
    let codec = ProstCodec::<pb::X509svidRequest, pb::X509BundlesRequest>::default();
    let response = soon(client.server_streaming(request, path, codec)).await?;
    soon(response.into_inner().message()).await.map(|_| ())
}

#[tokio::test]
async fn no_call_is_answered_without_exactly_one_header_w019() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    assert_eq!(rpcs().count(), 5, "W23");
    for rpc in rpcs().chain(["FetchWITSVID"]) {
        let method = format!("SpiffeWorkloadAPI/{rpc}");
        for headers in [
            &[][..],
            &["True"],
            &["TRUE"],
            &["1"],
            &["true,true"],
            &[""],
            &["true", "true"],
            &["true", "false"],
        ] {
            let status = call(&agent, &method, headers).await.unwrap_err();
            assert_status(
                &status,
                Code::InvalidArgument,
                "security header missing from request",
            );
        }
    }
}

#[tokio::test]
async fn only_the_five_rpcs_are_served_w001() {
    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    for (method, expected) in [
        ("SpiffeWorkloadAPI/FetchX509SVID", None),
        ("SpiffeWorkloadAPI/FetchX509Bundles", None),
        ("SpiffeWorkloadAPI/FetchJWTBundles", None),
        (
            "SpiffeWorkloadAPI/FetchJWTSVID",
            Some(Code::InvalidArgument),
        ),
        (
            "SpiffeWorkloadAPI/ValidateJWTSVID",
            Some(Code::InvalidArgument),
        ),
        // "W16", "W17", "D36"
        ("SpiffeWorkloadAPI/FetchWITSVID", Some(Code::Unimplemented)),
        (
            "SpiffeWorkloadAPI/FetchWITBundles",
            Some(Code::Unimplemented),
        ),
        // "W15": neither service is offered.
        ("grpc.health.v1.Health/Check", Some(Code::Unimplemented)),
        (
            "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            Some(Code::Unimplemented),
        ),
        (
            "spiffe.SpiffeWorkloadAPI/FetchX509SVID",
            Some(Code::Unimplemented),
        ),
        ("SpiffeWorkloadAPI/fetchx509svid", Some(Code::Unimplemented)),
    ] {
        let result = call(&agent, method, &["true"]).await;
        assert_eq!(
            result.err().map(|status| status.code()),
            expected,
            "{method}"
        );
    }
}

#[tokio::test]
async fn a_caller_that_no_entry_matches_gets_nothing_w026() {
    let agent =
        TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid},unix:path:/nowhere"]).await;
    for rpc in ["FetchX509SVID", "FetchX509Bundles", "FetchJWTBundles"] {
        let status = call(&agent, &format!("SpiffeWorkloadAPI/{rpc}"), &["true"]).await;
        assert_status(
            &status.unwrap_err(),
            Code::PermissionDenied,
            "no identity issued",
        );
    }
    // "W96", "W126": the same as for X.509-SVIDs. "W60": the caller is the agent's own process.
    let status = agent.fetch_jwt(&["x"], "").await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");
    // "W136", "S6": validation too is only for workloads.
    let status = agent.validate("x", "y").await.unwrap_err();
    assert_status(&status, Code::PermissionDenied, "no identity issued");
}

/// A browser can be made to send requests to a socket.
#[tokio::test]
async fn http1_is_refused_w024() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let agent = TestAgent::start(&["spiffe://example.org/a=unix:uid:{uid}"]).await;
    let mut stream = tokio::net::UnixStream::connect(agent.socket())
        .await
        .unwrap();
    let request =
        b"POST /SpiffeWorkloadAPI/FetchX509SVID HTTP/1.1\r\nworkload.spiffe.io: true\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // The agent closes the connection, with a reset if it had not read everything.
    let _ = soon(stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty(), "{answer:?}");
}
