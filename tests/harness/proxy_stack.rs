//! Starts a proxy in front of an upstream that a test made.

use http::{Request, Response};
use hyper::body::Incoming;
use serve::body::Body;

use crate::{
    Stack,
    https::Https,
    process::Process,
    raw,
    scripted::Scripted,
    upstream::{self, Recording},
    x509::Presenting,
};

/// Holds a proxy and its only upstream, with the agent of both.
///
/// ```ignore
/// let stack = ProxyStack::before(async |stack| Scripted::new(stack, serve).await, &[]).await;
/// let answer = stack.https.send(get(&[])).await;
/// ```
pub struct ProxyStack<U> {
    /// The agent that issues the identities of the proxy and the upstream.
    pub stack: Stack,
    /// The upstream that `before` started.
    pub upstream: U,
    /// The proxy, which listens.
    pub proxy: Process,
    /// A client that sends to the proxy.
    pub https: Https,
}

/// An upstream on a port of this machine.
pub trait Upstream {
    /// Returns the port that it listens on.
    fn port(&self) -> u16;
}

impl<U: Upstream> ProxyStack<U> {
    /// Starts a stack, its upstream, and a proxy with more `args` in front of the upstream.
    pub async fn before(upstream: impl AsyncFnOnce(&Stack) -> U, args: &[&str]) -> Self {
        let stack = Stack::new().await;
        let upstream = upstream(&stack).await;
        Self::on(stack, upstream, args).await
    }

    /// Does the same as [`Self::before`] on a stack that has its upstream already.
    pub async fn on(stack: Stack, upstream: U, args: &[&str]) -> Self {
        let proxy = stack.proxy(upstream.port(), args).await;
        let https = stack.https(proxy.listening().await);
        Self {
            stack,
            upstream,
            proxy,
            https,
        }
    }
}

impl ProxyStack<u16> {
    /// Does the same as [`Self::before`] with an upstream that speaks only `alpn` and answers by `answer`.
    pub async fn answering<F, R>(alpn: &[&str], args: &[&str], answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<Body>> + Send + 'static,
    {
        let upstream = async |stack: &Stack| upstream::answering(stack, alpn, answer).await;
        Self::before(upstream, args).await
    }
}

impl Upstream for u16 {
    fn port(&self) -> u16 {
        *self
    }
}

macro_rules! listens {
    ($($upstream:ty),*) => {$(
        impl Upstream for $upstream {
            fn port(&self) -> u16 {
                self.port
            }
        }
    )*};
}

listens!(raw::Upstream, Scripted, Recording, Presenting);
