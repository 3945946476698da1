//! Starts each role that floods run against, in front of an upstream of a test.

use harness::{
    Stack,
    https::Https,
    process::Process,
    upstream::{self, plainly_answering},
};
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use serve::body::{self, Body};

use crate::caller::{Caller, gets};

/// A role that callers can flood.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// A server with the built-in answer and without an upstream.
    BuiltIn,
    /// A proxy in front of an upstream with TLS.
    Proxy,
    /// A server in front of an application that `--upstream` names with this scheme.
    Server(&'static str),
    /// A client that listens for applications, in front of an upstream with TLS.
    Client,
}

/// Holds the roles that pass requests on.
pub(crate) const FORWARDING: [Role; 4] = [
    Role::Proxy,
    Role::Server("http"),
    Role::Server("h2c"),
    Role::Client,
];

/// Holds every role.
pub(crate) const ROLES: [Role; 5] = [
    Role::BuiltIn,
    Role::Proxy,
    Role::Server("http"),
    Role::Server("h2c"),
    Role::Client,
];

/// A running process with the callers of a test.
pub(crate) struct Running {
    /// The process.
    pub(crate) process: Process,
    /// The server behind it, if [`Role::before_any`] started one.
    pub(crate) upstream: Option<Process>,
    /// A client of the process.
    pub(crate) https: Https,
    /// The fields that make the process pass a request on.
    pub(crate) credential: Vec<(&'static str, String)>,
}

impl Role {
    /// Starts the role in front of an upstream that answers by `answer`.
    pub(crate) async fn before<F, R>(self, stack: &Stack, args: &[&str], answer: F) -> Running
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let port = match self {
            Self::BuiltIn => 0,
            Self::Server(_) => plainly_answering(answer).await,
            Self::Proxy | Self::Client => upstream::answering(stack, &["h2"], answer).await,
        };
        self.before_port(stack, args, port, None).await
    }

    /// Returns whether the requests of a flood have a token, for each flood to run. A proxy and a
    /// client pass on what a server would refuse.
    pub(crate) fn floods(self) -> &'static [bool] {
        match self {
            Self::BuiltIn | Self::Server(_) => &[false, true],
            Self::Proxy | Self::Client => &[false],
        }
    }

    /// Starts the role in front of an application, or of a server that verifies tokens.
    pub(crate) async fn before_any(self, stack: &Stack, args: &[&str]) -> Running {
        if !matches!(self, Self::Proxy | Self::Client) {
            let answer = async |_| body::text(StatusCode::OK, "Success!!!");
            return self.before(stack, args, answer).await;
        }
        // All callers share one connection to a server with one core.
        let server = stack.server(&["--cores", "1"]).await;
        let port = server.listening().await;
        self.before_port(stack, args, port, Some(server)).await
    }

    async fn before_port(
        self,
        stack: &Stack,
        args: &[&str],
        port: u16,
        upstream: Option<Process>,
    ) -> Running {
        let process = match self {
            Self::BuiltIn => stack.server(args).await,
            Self::Proxy => stack.proxy(port, args).await,
            Self::Server(scheme) => {
                let url = format!("{scheme}://127.0.0.1:{port}");
                stack.server(&[&["--upstream", &url], args].concat()).await
            }
            Self::Client => {
                let url = format!("https://localhost:{port}");
                let listening = ["--listen", "127.0.0.1:0", "--url", &url];
                stack.spawn("client", &[&listening, args].concat())
            }
        };
        let port = process.listening().await;
        let (https, token) = match self {
            Self::Client => (Https::plain(port), None),
            _ => (stack.https(port), Some(stack.token(|_| ()))),
        };
        let bearer = token.map(|token| ("authorization", format!("Bearer {token}")));
        Running {
            process,
            upstream,
            https,
            credential: bearer.into_iter().collect(),
        }
    }
}

impl Running {
    /// Makes a caller at this address, with the credential.
    pub(crate) fn caller(&self, source: &str, version: Version) -> Caller {
        let caller = Caller::stranger(&self.https.from(source), version);
        let fields = self.credential.iter();
        fields.fold(caller, |caller, (name, value)| caller.with(name, value))
    }

    /// Asserts that a good caller at another address than that of a flood is served.
    pub(crate) async fn serves_next_to(&self, what: &str) {
        // An upstream of a test answers such requests at once.
        let caller = |version| self.caller("127.0.0.2", version).with("x-quick", "1");
        gets(caller).await.is_well(what);
    }

    /// Returns the credential as header fields, or none for a stranger.
    pub(crate) fn fields(&self, with_token: bool) -> Vec<(&str, &str)> {
        let fields = self.credential.iter().filter(|_| with_token);
        fields
            .map(|(name, value)| (*name, value.as_str()))
            .collect()
    }
}
