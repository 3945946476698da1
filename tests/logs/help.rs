use std::process::Stdio;

use harness::{binary, process};

#[tokio::test]
async fn examples_of_the_help_are_not_wrapped_on_80_columns() {
    for args in [
        &["server"][..],
        &["proxy"],
        &["client"],
        &["dev-agent"],
        &["dev-agent", "ctl"],
    ] {
        assert_eq!(examples(args, 80).await, examples(args, 100).await);
    }
}

/// Returns the examples in the help of a program, or of its subcommand, as this terminal shows them.
async fn examples(args: &[&str], columns: usize) -> String {
    let command = &[&args[1..], &["--help"]].concat();
    let output = process::command(&binary(args[0]), "", command)
        .env("COLUMNS", columns.to_string())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let (_, examples) = help.split_once("Examples:").unwrap();
    examples.to_owned()
}
