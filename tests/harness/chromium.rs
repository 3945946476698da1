//! Controls a headless Chromium over a pipe (Chrome DevTools Protocol).

use std::process::Stdio;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::{PATIENCE, installed::is_installed};

/// The program.
const PROGRAM: &str = "chromium";

/// These flags run Chromium as any user, without a network beyond this machine.
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
];

/// Holds a browser with one page, which ends when this is dropped.
pub struct Chromium {
    _child: Child,
    commands: ChildStdin,
    messages: BufReader<ChildStdout>,
    last_id: u64,
    session: Option<String>,
    events: Vec<Value>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts a browser with an empty profile. Skips the test if there is none.
    pub async fn start() -> Option<Self> {
        if !is_installed(PROGRAM, "--version").await {
            return None;
        }
        let profile = tempfile::tempdir().unwrap();
        // The browser reads commands from descriptor 3, and writes messages to descriptor 4.
        let script = r#"exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", script, PROGRAM])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut browser = Self {
            commands: child.stdin.take().unwrap(),
            messages: BufReader::new(child.stdout.take().unwrap()),
            _child: child,
            last_id: 0,
            session: None,
            events: Vec::new(),
            _profile: profile,
        };
        let page = json!({ "url": "about:blank" });
        let page = browser.command("Target.createTarget", page).await;
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        let session = browser.command("Target.attachToTarget", attach).await;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        browser.command("Page.enable", json!({})).await;
        browser.command("Log.enable", json!({})).await;
        Some(browser)
    }

    /// Sets the width of the page, and the colour scheme that its user prefers.
    pub async fn show(&mut self, width: u32, scheme: &str) {
        let metrics = json!({
            "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.command("Emulation.setDeviceMetricsOverride", metrics)
            .await;
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        let media = json!({ "features": [feature] });
        self.command("Emulation.setEmulatedMedia", media).await;
    }

    /// Opens a page, and waits until it is loaded.
    pub async fn open(&mut self, url: &str) {
        self.events.clear();
        let opened = self.command("Page.navigate", json!({ "url": url })).await;
        assert!(opened.get("errorText").is_none(), "{url}: {opened}");
        while !self
            .events
            .iter()
            .any(|one| one["method"] == "Page.loadEventFired")
        {
            let message = self.message().await;
            self.events.push(message);
        }
    }

    /// Returns the value of an expression in the page.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let answer = self.command("Runtime.evaluate", params).await;
        answer["result"]["value"].clone()
    }

    /// Returns what the browser has logged about the page, for example what its policy forbids.
    pub fn complaints(&self) -> Vec<String> {
        let entries = self
            .events
            .iter()
            .filter(|one| one["method"] == "Log.entryAdded");
        entries
            .map(|one| one["params"]["entry"]["text"].to_string())
            .collect()
    }

    /// Returns a picture of the whole page (PNG).
    pub async fn picture(&mut self) -> Vec<u8> {
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let answer = self.command("Page.captureScreenshot", params).await;
        let picture = answer["data"].as_str().unwrap();
        BASE64_STANDARD.decode(picture).unwrap()
    }

    /// Sends a command and returns its result.
    async fn command(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = &self.session {
            command["sessionId"] = json!(session);
        }
        let bytes = format!("{command}\0");
        self.commands.write_all(bytes.as_bytes()).await.unwrap();
        loop {
            let message = self.message().await;
            if message["id"] == self.last_id {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    async fn message(&mut self) -> Value {
        let mut bytes = Vec::new();
        let read = self.messages.read_until(0, &mut bytes);
        let read = timeout(PATIENCE, read).await.expect("answers in time");
        assert_ne!(read.unwrap(), 0, "the browser ended");
        serde_json::from_slice(&bytes[..bytes.len() - 1]).unwrap()
    }
}
