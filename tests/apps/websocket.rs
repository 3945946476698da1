use crate::app::App;

const SERVER: &str = "websocket_server.py";
const CLIENT: &str = "websocket_client.py";

#[tokio::test]
async fn websockets_cross_the_proxy_p100() {
    let Some(app) = App::behind_the_proxy(SERVER, "/ws/**").await else {
        return;
    };
    app.run(CLIENT, &[]).await;
}

#[tokio::test]
async fn websockets_cross_client_proxy_and_server_p100() {
    let Some(app) = App::behind_all(SERVER, "http").await else {
        return;
    };
    app.run(CLIENT, &[]).await;
}

#[tokio::test]
async fn websockets_cross_client_nginx_and_server_p100() {
    let Some(app) = App::behind_nginx(SERVER, "http").await else {
        return;
    };
    app.run(CLIENT, &[]).await;
}
