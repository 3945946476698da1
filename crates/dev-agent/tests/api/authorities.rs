use crate::{
    support::TestAgent,
    wire::{END_HEADERS, END_STREAM, ENTRY, GOAWAY, HEADERS, RST_STREAM, Raw, fields, frame},
};

/// The forms that gRPC libraries send for the Unix socket `/tmp/agent.sock`, and others that a SPIRE
/// agent answers.
const AUTHORITIES: [&str; 15] = [
    "localhost",
    "localhost:0",
    "/tmp/agent.sock",
    "tmp/agent.sock",
    "%2Ftmp%2Fagent.sock",
    "tmp%2Fagent.sock",
    "unix:/tmp/agent.sock",
    "unix:///tmp/agent.sock",
    "unix:%2F%2F%2Ftmp%2Fagent.sock",
    "unix://%2Ftmp%2Fagent.sock",
    "agent.sock",
    "passthrough:///unix:///tmp/agent.sock",
    "@agent",
    "[unix socket]",
    "",
];

#[tokio::test]
async fn a_call_is_answered_whatever_its_authority_t001() {
    let agent = TestAgent::start(&[ENTRY]).await;
    let mut raw = Raw::connect(&agent).await;
    for (index, authority) in AUTHORITIES.iter().enumerate() {
        let stream = u32::try_from(index).unwrap() * 2 + 1;
        raw.write(&call(stream, &[(":authority", authority)])).await;
        let (kind, _) = raw.read(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
        assert_eq!(kind, HEADERS, "{authority}");
    }
    raw.write(&call(101, &[])).await;
    let (kind, _) = raw.read(&[HEADERS, RST_STREAM, GOAWAY]).await.unwrap();
    assert_eq!(kind, HEADERS, "without an authority");
}

/// Returns a call with these fields in addition.
fn call(stream: u32, more: &[(&str, &str)]) -> Vec<u8> {
    let path = "/SpiffeWorkloadAPI/FetchX509SVID";
    let first = [(":method", "POST"), (":scheme", "http"), (":path", path)];
    let block = [
        fields(&first),
        fields(more),
        fields(&[("workload.spiffe.io", "true")]),
    ];
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block.concat())
}
