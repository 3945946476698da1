use harness::{process::Process, users::Users};

/// These users exist on every Linux machine, so that the test creates none.
const SERVER_USER: &str = "daemon";
const CLIENT_USER: &str = "games";

#[tokio::test]
async fn processes_of_several_unix_users_get_the_identities_of_their_users() {
    let Some(users) = Users::new(&[("server", SERVER_USER), ("client", CLIENT_USER)]).await else {
        return;
    };

    let server = Process::spawn(users.command("server", SERVER_USER, &["--listen", "127.0.0.1:0"]));
    let upstream = format!("https://localhost:{}", server.listening().await);
    let args = ["--listen", "127.0.0.1:0", "--upstream", &upstream];
    let proxy = Process::spawn(users.command("proxy", SERVER_USER, &args));
    let url = format!("https://localhost:{}/", proxy.listening().await);

    let output = users
        .command("client", CLIENT_USER, &["--url", &url])
        .output()
        .await
        .unwrap();
    assert_eq!(output.stdout, b"Success!!!", "{output:?}");
    server.logged("caller=spiffe://example.org/client").await;

    let other = users
        .command("client", "bin", &["--url", &url, "-m", "3s"])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(other.stderr).unwrap();
    assert!(
        text.contains("user bin") && text.contains("-selector unix:user:bin"),
        "{text}"
    );
}
