use crate::app::App;

#[tokio::test]
async fn websockets_cross_the_proxy_p100() {
    let Some(app) = App::new("websocket_server.py", &["--path", "/ws/**"]).await else {
        return;
    };
    app.run("websocket_client.py", app.port().await, &[]).await;
}
