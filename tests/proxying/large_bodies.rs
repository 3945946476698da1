use http::{Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serve::body::Body;

use harness::proxy_stack::ProxyStack;

const SIZE: usize = 32 * 1024 * 1024;

/// A proxy that buffered one body would grow by more than this.
const MEMORY_BOUND_KIB: usize = SIZE / 1024 / 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_stream_both_ways_in_bounded_memory_p170() {
    for alpn in ["h2", "http/1.1"] {
        let stack = ProxyStack::answering(&[alpn], &[], async |request| {
            Response::new(Body::streamed(request.into_body()))
        })
        .await;
        let sent: Bytes = (0..SIZE).map(|i| (i / 7) as u8).collect::<Vec<_>>().into();
        let before = stack.proxy.peak_memory();
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let request = Request::post("/").body(Full::new(sent.clone())).unwrap();
            let response = stack.https.start(version, request).await;
            let received = response.into_body().collect().await.unwrap().to_bytes();
            assert!(
                received == sent,
                "{alpn} {version:?}: the body came back changed"
            );
        }
        let grown = stack.proxy.peak_memory_above(before);
        assert!(
            grown < MEMORY_BOUND_KIB,
            "{alpn}: the proxy grew by {grown} KiB"
        );
    }
}
