use harness::{Stack, https::get};
use http::Method;
use tokio::net::TcpStream;

#[tokio::test]
async fn filter_that_is_put_applies_at_once_and_a_bad_one_is_400_and_changes_nothing() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&[]).await;
    let put = async |filter: &str| admin.ask(admin.request(Method::PUT, "/log", filter)).await;
    assert_eq!(admin.get("/log").await.body, "h2=error,info\n");

    let answer = put("debug,h2=off\n").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, "h2=off,debug\n")
    );
    server
        .logged("the log filter is replaced filter=debug,h2=off")
        .await;
    let port = server.listening().await;
    drop(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
    server.logged("DEBUG connection ended").await;

    for bad in ["", "server=loud", "a=b=c", &"x".repeat(5000)] {
        let answer = put(bad).await;
        assert_eq!(answer.status, 400, "{bad}");
        assert!(answer.body.ends_with('\n'), "{}", answer.body);
    }
    let answer = put("server=loud").await;
    assert!(
        answer.body.starts_with("not a log filter: "),
        "{}",
        answer.body
    );
    assert!(
        answer.body.contains("expected for example info"),
        "{}",
        answer.body
    );
    assert_eq!(admin.get("/log").await.body, "h2=off,debug\n");

    assert_eq!(put("off").await.status, 200);
    let lines = server.log().len();
    let https = stack.https(port);
    let token = stack.bearer();
    let answer = https.send(get(&[("authorization", &token)])).await;
    assert_eq!(answer.status, 200);
    assert_eq!(put("info").await.status, 200);
    server
        .logged("the log filter is replaced filter=info")
        .await;
    let later = server.log().split_off(lines);
    assert!(!later.join("\n").contains("Request received"), "{later:?}");
}
