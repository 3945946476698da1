use harness::{
    Stack, binary,
    process::{self, Process},
};

/// Starts a binary that may have this many open files, and waits until it listens.
async fn listening(stack: &Stack, name: &str, files: usize, args: &[&str]) -> Process {
    let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
    let args = [&["--listen", "127.0.0.1:0", "--cores", "2"], args].concat();
    let command = process::in_shell(&script, &binary(name), &stack.agent.endpoint(), &args);
    let process = Process::spawn(command);
    process.listening().await;
    process
}

const WARNING: &str = "open files, but this process may have only";

#[tokio::test]
async fn limit_of_open_files_that_fits_the_flags_gives_no_warning_and_a_lower_one_does() {
    let stack = Stack::new().await;
    // The proxy may have 320 shared and idle connections on each core.
    for (name, fits, flags) in [
        ("server", 11_100, ""),
        ("proxy", 15_740, ", --max-upstream-connections 4000"),
    ] {
        let mut process = listening(&stack, name, fits, &[]).await;
        assert!(!process.whole_log().await.contains(WARNING), "{name}");
        for files in [fits - 1, 4_096] {
            let process = listening(&stack, name, files, &[]).await;
            let line = process.logged(WARNING).await;
            let flags = format!(
                "--max-connections 10000, --max-handshakes 1000{flags} allow up to {fits} open files"
            );
            assert!(line.contains(&flags), "{line}");
            assert!(line.contains(&format!("may have only {files}:")), "{line}");
        }
    }
}

#[tokio::test]
async fn lower_flags_fit_into_a_low_limit_of_open_files() {
    let stack = Stack::new().await;
    let lower = ["--max-connections", "1000", "--max-handshakes", "100"];
    let upstream = ["--max-upstream-connections", "1000"];
    for (name, args) in [
        ("server", lower.to_vec()),
        ("proxy", [&lower[..], &upstream].concat()),
    ] {
        let mut process = listening(&stack, name, 4_096, &args).await;
        assert!(!process.whole_log().await.contains(WARNING), "{name}");
    }
}
