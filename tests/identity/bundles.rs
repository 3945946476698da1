use harness::{
    Stack,
    x509::{Authority, Presenting},
};

const REMEDY: &str =
    "federate with it, and register this process with -federatesWith spiffe://nowhere.example";

fn warning(kind: &str, flag: &str) -> String {
    format!(
        "no {kind} bundle for trust domain nowhere.example of {flag}, so that its workloads are refused until one \
         comes; {REMEDY}"
    )
}

#[tokio::test]
async fn trust_domain_without_a_bundle_is_warned_of_at_the_start_t003() {
    let stack = Stack::new().await;
    let args = [
        "--allow",
        "spiffe://nowhere.example/a",
        "--allow",
        "spiffe://nowhere.example/b/*",
        "--allow",
        "spiffe://example.org/*",
    ];
    let mut server = stack.server(&args).await;
    let warning_of_server = warning("JWT", "--allow");
    server.logged(&warning_of_server).await;
    let log = server.whole_log().await;
    assert_eq!(log.matches("no JWT bundle").count(), 1, "{log}");

    let id = "spiffe://nowhere.example/server";
    let proxy = stack.proxy(1, &["--upstream-id", id]).await;
    proxy.logged(&warning("X.509", "--upstream-id")).await;

    let output = stack.client(1, &["--server-id", id]).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        errors.contains(&warning("X.509", "--server-id")),
        "{errors}"
    );
    assert!(
        errors.contains("no X.509 bundle for trust domain nowhere.example; federate"),
        "{errors}"
    );
}

#[tokio::test]
async fn trust_domain_with_a_bundle_is_not_warned_of_t003() {
    let root = Authority::root();
    let id = "spiffe://odd.test/server";
    let upstream = Presenting::new("h2").await;
    upstream.present(&root.issue(id, |_| ()));
    let stack = Stack::federated(root.bundle("odd.test")).await;
    let mut proxy = stack.proxy(upstream.port, &["--upstream-id", id]).await;
    let log = proxy.whole_log().await;
    assert!(!log.contains("no X.509 bundle"), "{log}");
}
