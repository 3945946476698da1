use crate::app::App;

const CLIENT: &str = "grpc_client.py";

/// Runs a gRPC server, and a proxy that forwards its calls.
async fn calls() -> Option<App> {
    App::new("grpc_server.py", &["--path", "/test.Calls/**"]).await
}

#[tokio::test]
async fn calls_of_all_kinds_cross_the_proxy_h003() {
    let Some(app) = calls().await else {
        return;
    };
    for group in ["unary", "large", "streams", "turns", "errors"] {
        app.run(CLIENT, app.port().await, &[group]).await;
    }
}

#[tokio::test]
async fn deadlines_and_cancels_reach_the_server_h004() {
    for group in ["deadlines", "cancels"] {
        let Some(app) = calls().await else {
            return;
        };
        app.run(CLIENT, app.port().await, &[group]).await;
    }
}

#[tokio::test]
async fn errors_of_the_proxy_are_grpc_statuses_h005() {
    let Some(app) = calls().await else {
        return;
    };
    for (path, code, details) in [
        ("/**", "UNAVAILABLE", "Bad Gateway"),
        ("/other", "UNIMPLEMENTED", "Not Found"),
    ] {
        let nobody = 1;
        let proxy = app.stack.proxy(nobody, &["--path", path]).await;
        let port = proxy.listening().await;
        app.run(CLIENT, port, &["one", code, details]).await;
    }
}

#[tokio::test]
async fn refusals_of_the_server_are_grpc_statuses_with_their_challenge_h005() {
    let Some(app) = calls().await else {
        return;
    };
    let server = app
        .stack
        .server(&["--allow", "spiffe://example.org/other"])
        .await;
    let port = server.listening().await;
    let told = app
        .run(CLIENT, port, &["one", "UNAUTHENTICATED", "Unauthorized"])
        .await;
    assert!(told.contains(r#"'www-authenticate': 'Bearer"#), "{told}");
    let token = format!("authorization=Bearer {}", app.stack.token(|_| ()));
    let refused = ["one", "PERMISSION_DENIED", "Forbidden", &token];
    let told = app.run(CLIENT, port, &refused).await;
    assert!(told.contains("insufficient_scope"), "{told}");
}
