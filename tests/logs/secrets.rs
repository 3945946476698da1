use std::os::unix::fs::MetadataExt;

use harness::{
    PATIENCE, Stack, binary,
    https::get,
    process::{Process, command},
    users::Users,
};
use tokio::{net::TcpListener, time::timeout};

/// The beginning of a PKCS#8 P-256 private key or of a JWT, in the forms in which code prints
/// bytes.
const SECRETS: [&str; 9] = [
    "eyJ",                    // any JWT: base64url of {"
    "MIGHAgEA",               // base64
    "308187020100",           // hex
    r"0\x81\x87\x02\x01",     // escaped
    r"\x30\x81\x87\x02\x01",  // escaped, every byte
    "48, 129, 135, 2, 1, 0",  // a list of numbers
    "30, 81, 87, 2, 1, 0, 3", // a list in hex
    "30, 81, 87, 02, 01, 00",
    "30:81:87:02:01:00",
];

fn assert_no_secret(what: &str, text: &str, tokens: &[String]) {
    for secret in SECRETS {
        let found = text.lines().find(|line| line.contains(secret));
        assert!(found.is_none(), "{what} has {secret:?}: {}", found.unwrap());
    }
    for token in tokens {
        for part in token.split('.') {
            assert!(!text.contains(part), "{what} has a part of a token: {part}");
        }
    }
}

#[tokio::test]
async fn no_log_at_trace_has_a_secret_j201_p176_w180() {
    let stack = Stack::new().await;
    let traced = |name: &str, args: &[&str]| {
        let mut command = command(&binary(name), &stack.agent.endpoint(), args);
        command.env("RUST_LOG", "trace");
        command
    };
    let mut server = Process::spawn(traced("server", &["--listen", "127.0.0.1:0"]));
    let upstream = format!("https://localhost:{}", server.listening().await);
    let mut proxy = Process::spawn(traced(
        "proxy",
        &["--listen", "127.0.0.1:0", "--upstream", &upstream],
    ));
    let port = proxy.listening().await;
    let url = format!("https://localhost:{port}/");

    let accepted = traced("client", &["--url", &url, "-i"])
        .output()
        .await
        .unwrap();
    assert!(accepted.status.success());
    let refused = traced("client", &["--url", &url, "spiffe://example.org/other"])
        .output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let tokens = [
        stack.token(|_| ()),
        stack.token(|jwt| jwt.payload["exp"] = 1.into()),
        stack.token(|jwt| jwt.header["kid"] = "unknown".into()),
        stack.token(|jwt| jwt.payload["aud"] = "spiffe://example.org/other".into()),
    ];
    for token in &tokens {
        let bearer = format!("Bearer {token}");
        stack
            .https(port)
            .send(get(&[("authorization", &bearer)]))
            .await;
        stack
            .https(port)
            .send(get(&[
                ("authorization", &bearer),
                ("authorization", &bearer),
            ]))
            .await;
    }
    server.logged("expected audience in").await;

    for output in [accepted, refused] {
        assert_no_secret(
            "the client's output",
            &String::from_utf8_lossy(&output.stdout),
            &[],
        );
        assert_no_secret(
            "the client's log",
            &String::from_utf8_lossy(&output.stderr),
            &[],
        );
    }
    for (name, process) in [("server", &mut server), ("proxy", &mut proxy)] {
        let arguments =
            std::fs::read_to_string(format!("/proc/{}/cmdline", process.pid())).unwrap();
        assert_no_secret(&format!("the {name}'s command line"), &arguments, &tokens);
        let log = process.whole_log().await;
        assert!(log.contains("TRACE"), "{name} logs at trace");
        assert_no_secret(&format!("the {name}'s log"), &log, &tokens);
    }
}

#[tokio::test]
async fn a_process_can_be_dumped_and_traced_by_root_alone() {
    let Some(users) = Users::new(&[("server", "daemon"), ("client", "games")]).await else {
        return;
    };
    let listen = ["--listen", "127.0.0.1:0"];
    let server = Process::spawn(users.command("server", "daemon", &listen));
    server.listening().await;
    let proxy = Process::spawn(users.command("proxy", "daemon", &listen));
    proxy.listening().await;
    // The client has its identity by the time that it connects.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", mute.local_addr().unwrap());
    let client = Process::spawn(users.command("client", "games", &["--url", &url]));
    let accepted = timeout(PATIENCE, mute.accept()).await;
    let _waits_for_an_answer = accepted.expect("connects").unwrap();

    for (name, process) in [("server", server), ("proxy", proxy), ("client", client)] {
        let of_process = |file: &str| format!("/proc/{}/{file}", process.pid());
        let limits = std::fs::read_to_string(of_process("limits")).unwrap();
        let core = limits
            .lines()
            .find_map(|line| line.strip_prefix("Max core file size"))
            .unwrap();
        let core: Vec<_> = core.split_whitespace().take(2).collect();
        assert_eq!(
            core,
            ["1", "1"],
            "{name}: the limit is less than any core dump needs"
        );
        // The kernel makes root the owner of what a tracer could read if a process is not dumpable
        // (proc(5)).
        let environ = std::fs::metadata(of_process("environ")).unwrap();
        assert_eq!(environ.uid(), 0, "{name}");
    }
}
