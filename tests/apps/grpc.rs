use crate::app::App;

const SERVER: &str = "grpc_server.py";
const CLIENT: &str = "grpc_client.py";

/// The groups of calls whose server counts nothing.
const KINDS: [&str; 5] = ["unary", "large", "streams", "turns", "errors"];

async fn calls() -> Option<App> {
    App::behind_the_proxy(SERVER, "/test.Calls/**").await
}

#[tokio::test]
async fn calls_of_all_kinds_cross_the_proxy_h003() {
    let Some(app) = calls().await else {
        return;
    };
    for group in KINDS {
        app.run(CLIENT, &[group]).await;
    }
}

/// Makes calls of all kinds. Each group whose server counts something has a server of its own.
async fn calls_of_all_kinds(start: impl AsyncFn() -> Option<App>) {
    for groups in [&KINDS[..], &["deadlines"], &["cancels"]] {
        let Some(app) = start().await else {
            return;
        };
        for group in groups {
            app.run(CLIENT, &[group]).await;
        }
    }
}

#[tokio::test]
async fn calls_of_all_kinds_cross_client_proxy_and_server_h003_h004() {
    calls_of_all_kinds(async || App::behind_all(SERVER, "h2c").await).await;
}

#[tokio::test]
async fn calls_of_all_kinds_cross_client_nginx_and_server_h003_h004() {
    calls_of_all_kinds(async || App::behind_nginx(SERVER, "h2c").await).await;
}

#[tokio::test]
async fn deadlines_and_cancels_reach_the_server_h004() {
    for group in ["deadlines", "cancels"] {
        let Some(app) = calls().await else {
            return;
        };
        app.run(CLIENT, &[group]).await;
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
        app.run_against(port, CLIENT, &["one", code, details]).await;
    }
}

#[tokio::test]
async fn refusals_of_the_server_are_grpc_statuses_with_their_challenge_h005() {
    let Some(app) = calls().await else {
        return;
    };
    let allow = ["--allow", "spiffe://example.org/other"];
    let server = app.stack.server(&allow).await;
    let port = server.listening().await;
    let refused = ["one", "UNAUTHENTICATED", "Unauthorized"];
    let told = app.run_against(port, CLIENT, &refused).await;
    assert!(told.contains(r#"'www-authenticate': 'Bearer"#), "{told}");
    let token = format!("authorization={}", app.stack.bearer());
    let refused = ["one", "PERMISSION_DENIED", "Forbidden", &token];
    let told = app.run_against(port, CLIENT, &refused).await;
    assert!(told.contains("insufficient_scope"), "{told}");
}
