use harness::{
    Stack,
    https::Https,
    process::Process,
    raw::{Client, Message},
};

/// The challenge to a request without a token.
pub(crate) const NONE: Option<&str> = Some(r#"Bearer realm="spiffe""#);

/// A server with its agent, and a caller.
pub(crate) struct Fixture {
    pub(crate) stack: Stack,
    pub(crate) server: Process,
    pub(crate) https: Https,
    /// A valid token.
    pub(crate) token: String,
}

impl Fixture {
    pub(crate) async fn new(args: &[&str]) -> Self {
        let stack = Stack::new().await;
        let server = stack.server(args).await;
        let https = stack.https(server.listening().await);
        let token = stack.token(|_| ());
        Self {
            stack,
            server,
            https,
            token,
        }
    }

    /// Returns a token of the agent for this subject.
    pub(crate) fn token_of(&self, subject: &str) -> String {
        self.stack.token(|jwt| jwt.payload["sub"] = subject.into())
    }

    /// Sends each request over a connection of its own and checks status and challenge.
    pub(crate) async fn check<B: AsRef<[u8]>>(&self, rows: &[(&str, &str, B, u16, Option<&str>)]) {
        for (number, what, request, status, challenge) in rows {
            let method = if *what == "HEAD" { "HEAD" } else { "GET" };
            let mut client = Client::sending(&self.https, request).await;
            let answer = client.answer_to(method).await.expect("an answer");
            assert_is(&format!("{number} {what}"), &answer, *status, *challenge);
        }
    }
}

fn assert_is(name: &str, answer: &Message, status: u16, challenge: Option<&str>) {
    assert_eq!(answer.status(), status, "{name}: {}", answer.head);
    assert_eq!(
        answer.fields("www-authenticate"),
        Vec::from_iter(challenge),
        "{name}"
    );
    if matches!(status, 400 | 401 | 403) {
        assert_eq!(answer.fields("cache-control"), ["no-store"], "{name}");
        assert!(
            answer.body.len() < 32,
            "{name}: the body has only the status"
        );
    }
}

/// Returns a request with these header lines, each with its line end.
pub(crate) fn request(start: &str, lines: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("{start} HTTP/1.1\r\nhost: localhost\r\n");
    [head.as_bytes(), lines.as_ref(), b"\r\n"].concat()
}

/// Returns a GET of `/` with this `Authorization` header.
pub(crate) fn bearer(value: impl AsRef<[u8]>) -> Vec<u8> {
    request(
        "GET /",
        [b"authorization: ", value.as_ref(), b"\r\n"].concat(),
    )
}
