use std::process::Output;

use harness::{SERVER_ID, Stack, process};

use super::{POLICY, PolicyFile};

/// Runs a server that ends by itself, and returns its status and its output.
async fn run(stack: &Stack, args: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = process::output("server", &stack.agent.endpoint(), args).await;
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_policy_with_a_mistake_ends_the_server_before_it_listens_u022() {
    let stack = Stack::new().await;
    let mistake = "[[rule]]\npaths = [\"/x*\"]\npublic = true\n";
    let bad = PolicyFile::new(&format!("{POLICY}\n{mistake}"));
    let good = PolicyFile::new(POLICY);
    let short = PolicyFile::new("[[rule]]\npaths = [\"/a\"]\npublic = true\n");
    let short = short.text();
    let (good, bad) = (good.text(), bad.text());
    let place = format!("{bad}: line 21, column 10: \"/x*\": a star stands only in a final /**");
    for (args, status, text) in [
        (["--policy", &bad], 2, place.as_str()),
        (
            ["--policy", "/no/such/file"],
            2,
            "--policy /no/such/file: No such file",
        ),
        (["--check-policy", &bad], 1, &place),
        (["--check-policy", &good], 0, "3 rules\n"),
        (["--check-policy", &short], 0, "1 rule\n"),
        (
            ["--check-policy", "/no/such/file"],
            2,
            "/no/such/file: No such file",
        ),
    ] {
        let (found, output) = run(&stack, &args).await;
        assert_eq!(found, Some(status), "{args:?}: {output}");
        assert!(output.contains(text), "{args:?}: {output}");
        assert!(!output.contains("listening on"), "{output}");
    }
}

#[tokio::test]
async fn explain_names_the_rule_that_decides_by_the_file_or_the_flags_u024() {
    let stack = Stack::new().await;
    let file = PolicyFile::new(POLICY);
    let path = file.text();
    let client = "GET /orders spiffe://example.org/client";
    let other = "GET /orders spiffe://example.org/x";
    let public = [
        "--upstream",
        "unix:/a",
        "--public",
        "/orders",
        "--explain",
        client,
    ];
    let partner = [
        "--spiffe-id",
        "spiffe://partner.example/server",
        "--explain",
        client,
    ];
    for (args, status, text) in [
        (
            &["--policy", &path, "--explain", client][..],
            0,
            "allowed: rule \"orders\" allows the caller, whose token must have the server's SPIFFE ID",
        ),
        (
            &["--policy", &path, "--explain", other],
            1,
            "refused: spiffe://example.org/x is not a caller of rule \"orders\"",
        ),
        (
            &["--policy", &path, "--explain", "PUT /orders"],
            1,
            "refused: no rule matches PUT /orders",
        ),
        (
            &["--allow", "spiffe://example.org/*", "--explain", client],
            0,
            "allowed: --allow",
        ),
        (
            &["--allow", "spiffe://example.org/y", "--explain", other],
            1,
            "spiffe://example.org/x matches no allowed pattern",
        ),
        (
            &["--spiffe-id", SERVER_ID, "--explain", client],
            0,
            "allowed: the default for workloads of example.org allows the caller",
        ),
        (
            &partner,
            1,
            "is not a workload of the trust domain partner.example",
        ),
        (
            &[&public[..], &["--allow", "spiffe://a/b"]].concat(),
            0,
            "allowed: --public makes it public",
        ),
        (&["--explain", client], 2, "add --spiffe-id"),
        (
            &["--policy", &path, "--explain", "GET"],
            2,
            "for example 'GET /orders",
        ),
    ] {
        let (found, output) = run(&stack, args).await;
        assert_eq!(found, Some(status), "{args:?}: {output}");
        assert!(output.contains(text), "{args:?}: {output}");
    }
}

#[tokio::test]
async fn a_policy_file_next_to_the_short_forms_is_refused_u028() {
    let stack = Stack::new().await;
    let file = PolicyFile::new(POLICY);
    let path = file.text();
    for short in [
        ["--allow", "spiffe://example.org/*"],
        ["--public", "/healthz"],
    ] {
        let args = ["--upstream", "unix:/a", "--policy", &path];
        let (status, output) = run(&stack, &[&args[..], &short].concat()).await;
        assert_eq!(status, Some(2), "{output}");
        let text = format!("'{} ", short[0]);
        assert!(output.contains(&text), "{output}");
        assert!(output.contains("cannot be used with"), "{output}");
    }
}

/// Returns the part of the operations page between two lines.
fn documented(begin: &str, end: &str) -> String {
    let page = include_str!("../../../deploy/policy.md");
    let (_, rest) = page.split_once(begin).unwrap();
    let (part, _) = rest.split_once(end).unwrap();
    part.to_owned()
}

#[tokio::test]
async fn the_example_of_the_operations_page_answers_as_it_says_u024() {
    let stack = Stack::new().await;
    let file = PolicyFile::new(&documented("```toml\n# policy.toml\n", "```"));
    let path = file.text();
    let session = documented("```console\n$ server --check-policy policy.toml\n", "```");
    let (counted, session) = session.split_once('\n').unwrap();
    let (status, output) = run(&stack, &["--check-policy", &path]).await;
    assert_eq!((status, output.trim_end()), (Some(0), counted));
    let lines: Vec<_> = session.lines().collect();
    assert_eq!(lines.len(), 6);
    for exchange in lines.chunks(2) {
        let request = exchange[0].split('\'').nth(1).unwrap();
        let (_, output) = run(&stack, &["--policy", &path, "--explain", request]).await;
        assert_eq!(output.trim_end(), exchange[1], "{request}");
    }
}
