//! Asks the admin listener of a process.

use std::path::{Path, PathBuf};

use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use serde_json::Value;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use crate::{PATIENCE, Stack, http::send, process::Process, wait::until_some};

/// The flags of an admin listener on a free port.
pub const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

/// The admin listener of a process.
#[derive(Clone, Debug)]
pub enum Admin {
    /// Listens on this address.
    Ip(String),
    /// Listens on this Unix socket.
    Unix(PathBuf),
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The fields.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: String,
}

/// Starts processes with an admin listener.
impl Stack {
    /// Does the same as [`Self::server`], and returns its admin listener too.
    pub async fn server_with_admin(&self, args: &[&str]) -> (Process, Admin) {
        with_admin(self.server(&[&ADMIN, args].concat()).await).await
    }

    /// Does the same as [`Self::proxy`], and returns its admin listener too.
    pub async fn proxy_with_admin(&self, upstream: u16, args: &[&str]) -> (Process, Admin) {
        with_admin(self.proxy(upstream, &[&ADMIN, args].concat()).await).await
    }

    /// Does the same as [`Self::spawn`], and waits for the admin listener.
    pub async fn spawn_with_admin(&self, name: &str, args: &[&str]) -> (Process, Admin) {
        with_admin(self.spawn(name, &[&ADMIN, args].concat())).await
    }
}

async fn with_admin(process: Process) -> (Process, Admin) {
    let admin = Admin::of(&process).await;
    (process, admin)
}

impl Admin {
    /// Waits until a process has said where its admin listener is.
    pub async fn of(process: &Process) -> Self {
        let line = process.logged("admin listener at ").await;
        let (_, address) = line.split_once("admin listener at ").unwrap();
        match address.trim().strip_prefix("unix:") {
            Some(path) => Self::Unix(Path::new(path).to_owned()),
            None => Self::Ip(address.trim().to_owned()),
        }
    }

    /// Returns the address, or the path.
    pub fn address(&self) -> &str {
        match self {
            Self::Ip(address) => address,
            Self::Unix(path) => path.to_str().unwrap(),
        }
    }

    /// Gets a path.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(self.request(Method::GET, path, "")).await
    }

    /// Gets the status page as a browser does.
    pub async fn page(&self) -> Answer {
        let mut request = self.request(Method::GET, "/", "");
        let headers = request.headers_mut();
        headers.insert("accept", "text/html,*/*;q=0.8".parse().unwrap());
        self.ask(request).await
    }

    /// Returns a request whose host is the address of the listener.
    pub fn request(&self, method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
        let host = match self {
            Self::Ip(address) => address,
            Self::Unix(_) => "admin",
        };
        let request = Request::builder().method(method).uri(path);
        let body = Full::from(body.to_owned());
        request.header("host", host).body(body).unwrap()
    }

    /// Sends a request over a connection of its own.
    pub async fn ask(&self, request: Request<Full<Bytes>>) -> Answer {
        let answered = async {
            let answer = match self {
                Self::Ip(address) => {
                    let stream = TcpStream::connect(address).await.unwrap();
                    send(stream, Version::HTTP_11, request).await
                }
                Self::Unix(path) => {
                    let stream = UnixStream::connect(path).await.unwrap();
                    send(stream, Version::HTTP_11, request).await
                }
            };
            let (head, body) = answer.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body: String::from_utf8(body.to_vec()).unwrap(),
            }
        };
        timeout(PATIENCE, answered).await.expect("answers in time")
    }

    /// Returns the status of `/ready`, and its answer in JSON.
    pub async fn ready(&self) -> (u16, Value) {
        let mut request = self.request(Method::GET, "/ready", "");
        let headers = request.headers_mut();
        headers.insert("accept", "application/json".parse().unwrap());
        let answer = self.ask(request).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// Waits until the process has this state, and a condition of this name has this state. Returns the status
    /// and the condition.
    pub async fn becomes(&self, process: &str, name: &str, state: &str) -> (u16, Value) {
        until_some(async || {
            let (status, report) = self.ready().await;
            let condition = condition(&report, name)?;
            let is_so = report["status"] == process && condition["state"] == state;
            is_so.then_some((status, condition))
        })
        .await
    }
}

/// Returns the condition of this name.
pub fn condition(report: &Value, name: &str) -> Option<Value> {
    let conditions = report["conditions"].as_array().unwrap();
    conditions.iter().find(|one| one["name"] == name).cloned()
}
