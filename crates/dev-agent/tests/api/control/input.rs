use dev_agent::{
    KeyUse,
    control::{Command, Reply, ask},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{controlled, refused, status, until, uses};
use crate::support::{self, soon};

/// Returns malformed inputs, each with a part of its refusal.
fn malformed() -> Vec<(Vec<u8>, &'static str)> {
    let long = [b"\"".to_vec(), vec![b'x'; 3 << 20]].concat();
    let deep = vec![b'['; 100_000];
    let mut inputs: Vec<(Vec<u8>, _)> = [
        ("", "not a command"),
        ("\n", "not a command"),
        ("\"stat", "not a command"),
        ("\"status\"}\n", "not a command"),
        ("\"Status\"\n", "unknown variant"),
        ("{\"withdraw\":{}}\n", "missing field"),
        ("{\"stall\":1}\n", "not a command"),
        (
            "{\"withdraw\":{\"id\":\"spiffe://example.org/a\",\"force\":true}}\n",
            "unknown field",
        ),
        (
            "{\"rotate-ca\":{\"lead\":{\"secs\":18446744073709551615,\"nanos\":4294967295}}}\n",
            "not a command",
        ),
        (
            "{\"rotate-ca\":{\"lead\":{\"secs\":18446744073709551615,\"nanos\":0}}}\n",
            "longer than",
        ),
        ("GET / HTTP/1.1\r\n\r\n", "not a command"),
    ]
    .map(|(text, reason)| (text.into(), reason))
    .into();
    inputs.push((b"\"\xff\xfe\0status\"\n".to_vec(), "not a command"));
    inputs.push((deep, "not a command"));
    inputs.push((long, "longer than 2101248 bytes"));
    inputs
}

#[tokio::test]
async fn malformed_input_is_refused_and_changes_nothing() {
    controlled(async |_, path| {
        let before = status(path).await;
        for (sent, reason) in malformed() {
            let (mut read, mut write) = UnixStream::connect(path).await.unwrap().into_split();
            let send = async {
                // The agent may refuse before the end.
                let _ = write.write_all(&sent).await;
                let _ = write.shutdown().await;
            };
            let mut answer = [0; 1024];
            let (length, ()) = soon(async { tokio::join!(read.read(&mut answer), send) }).await;
            let answer: Value = serde_json::from_slice(&answer[..length.unwrap()]).unwrap();
            let refusal = answer["refused"].as_str().unwrap();
            assert!(refusal.contains(reason), "{refusal}");
        }
        let after = status(path).await;
        assert_eq!(uses(&after), uses(&before));
        assert!(after.entries.iter().all(|entry| !entry.withdrawn));
    })
    .await;
}

#[tokio::test]
async fn a_line_with_or_without_its_end_is_a_command() {
    controlled(async |_, path| {
        // One line ends without a newline, the other comes in two parts with more after it.
        for parts in [["\"sta", "tus\""], ["\"status\"", "\n\"stall\"\n"]] {
            let mut stream = UnixStream::connect(path).await.unwrap();
            for part in parts {
                stream.write_all(part.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
            stream.shutdown().await.unwrap();
            let mut answer = [0; 4096];
            let length = soon(stream.read(&mut answer)).await.unwrap();
            let answer: Value = serde_json::from_slice(&answer[..length]).unwrap();
            assert_eq!(answer["status"]["phase"], json!("serving"));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_caller_is_disconnected_after_5_s() {
    controlled(async |_, path| {
        let mut silent = UnixStream::connect(path).await.unwrap();
        silent.write_all(b"\"sta").await.unwrap();
        let mut answer = String::new();
        silent.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("no line within 5s"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn silent_callers_are_limited_in_number() {
    controlled(async |_, path| {
        let mut silent = Vec::new();
        for _ in 0..16 {
            silent.push(UnixStream::connect(path).await.unwrap());
        }
        let refusal = refused(path, Command::Stall).await;
        assert!(refusal.contains("16 commands are in progress"), "{refusal}");
        drop(silent);
        support::until(async || {
            let reply = ask(path, &Command::RotateX509).await.unwrap();
            matches!(reply, Reply::Done(_))
        })
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_command_continues_after_its_caller_has_gone() {
    controlled(async |agent, path| {
        let line = json!({ "rotate-jwt": { "lead": { "secs": 0, "nanos": 100_000_000 } } });
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(line.to_string().as_bytes()).await.unwrap();
        drop(stream);
        until(path, |status| status.jwt_keys.len() == 2).await;
        support::until(async || agent.status().jwt_keys[1].key_use == KeyUse::Old).await;
    })
    .await;
}
