use std::{fs, os::fd::OwnedFd, path::Path};

use harness::{
    Stack, binary,
    process::{self, Process},
};

#[tokio::test]
async fn a_passed_socket_that_other_machines_reach_is_refused_where_a_local_one_is_needed_u014_u018()
 {
    let stack = Stack::new().await;
    for (name, args) in [
        ("server", ["--ext-authz", "127.0.0.1:0"]),
        ("client", ["--listen", "127.0.0.1:0"]),
    ] {
        for (address, is_refused) in [("0.0.0.0:0", true), ("127.0.0.1:0", false)] {
            let socket = std::net::TcpListener::bind(address).unwrap();
            let program = binary(name);
            let mut command = process::activated(&program, &stack.agent.endpoint(), &args);
            command.env("LISTEN_FDS", "1").stdin(OwnedFd::from(socket));
            let mut process = Process::spawn(command);
            if is_refused {
                assert_eq!(process.ended().await.code(), Some(1));
                process
                    .logged("of LISTEN_FDS can be reached from other machines")
                    .await;
            } else {
                let [flag, value] = args;
                process
                    .logged(&format!("(LISTEN_FDS): {flag} {value} is not used"))
                    .await;
                process.listening().await;
            }
        }
    }
}

#[tokio::test]
async fn an_address_for_checks_that_cannot_be_used_ends_the_start_u018() {
    let stack = Stack::new().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "kept").unwrap();
    let not_a_socket = format!("unix:{}", Path::display(&file));
    for (status, args, said) in [
        (
            2,
            &["--ext-authz", "0.0.0.0:0"] as &[&str],
            "--ext-authz 0.0.0.0:0 can be reached",
        ),
        (
            2,
            &["--ext-authz", "localhost:1"],
            "expected an IP address and a port",
        ),
        (
            2,
            &["--ext-authz", "127.0.0.1:0", "--listen", "127.0.0.1:0"],
            "cannot be used with",
        ),
        (
            2,
            &[
                "--ext-authz",
                "127.0.0.1:0",
                "--upstream",
                "http://127.0.0.1:1",
            ],
            "cannot be used with",
        ),
        (
            2,
            &[
                "--ext-authz",
                "127.0.0.1:0",
                "--peers",
                "spiffe://example.org/a",
            ],
            "cannot be used with",
        ),
        (
            2,
            &["--ext-authz", "127.0.0.1:0", "--policy", "/no/such/file"],
            "--policy /no/such/file",
        ),
        (2, &["--plaintext-ext-authz"], "--ext-authz <ADDRESS>"),
        (2, &["--forward-authorization"], "--ext-authz <ADDRESS>"),
        (
            1,
            &["--ext-authz", &taken],
            "choose another port with --ext-authz",
        ),
        (
            1,
            &["--ext-authz", &not_a_socket],
            "choose another path with --ext-authz",
        ),
    ] {
        let output = process::output("server", &stack.agent.endpoint(), args).await;
        assert_eq!(output.status.code(), Some(status), "{args:?} {output:?}");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains(said), "{args:?}: {errors}");
    }
}
