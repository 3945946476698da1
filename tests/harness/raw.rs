//! Speaks HTTP/1.1 as bytes. The client sends exactly what a test gives it. The upstream records
//! each byte and sends the answers that a test chooses.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    sync::watch,
    time::timeout,
};

use crate::{
    PATIENCE, Stack,
    https::{Https, Stream},
    listen::listen,
};

/// Holds a message byte for byte. The body includes its framing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The start line and fields, without the empty line.
    pub head: String,
    /// The bytes after the empty line.
    pub body: Vec<u8>,
}

/// The two ways in which a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer sent close_notify, so that all before it is complete.
    Clean,
    /// The peer sent no close_notify, so that what came before may be cut off.
    Abrupt,
}

/// Holds one connection to the process that a test calls.
pub struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

impl Message {
    /// Returns the status of a response, or 0 for a request.
    pub fn status(&self) -> u16 {
        let word = self.head.split(' ').nth(1).unwrap_or_default();
        word.parse().unwrap_or(0)
    }

    /// Returns all values of a field, in order.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// Returns the first line.
    pub fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

impl Client {
    /// Connects and offers HTTP/1.1.
    pub async fn new(https: &Https) -> Self {
        Self::over(https.open(b"http/1.1").await.unwrap())
    }

    /// Uses a connection that speaks HTTP/1.1.
    pub fn over(stream: impl Stream + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            buffer: Vec::new(),
        }
    }

    /// Connects and sends `bytes`.
    pub async fn sending(https: &Https, bytes: impl AsRef<[u8]>) -> Self {
        let mut client = Self::new(https).await;
        client.send(bytes).await;
        client
    }

    /// Sends exactly `bytes`. They are lost if the peer has closed the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Sends until the peer stops reading or `limit` bytes are sent, and returns their number.
    pub async fn flood(&mut self, limit: usize) -> usize {
        self.send_ahead(&[b'x'; 16 * 1024], limit).await
    }

    /// Sends `message` repeatedly, as [`Self::flood`] does.
    pub async fn send_ahead(&mut self, message: &[u8], limit: usize) -> usize {
        let messages = message.repeat((16 * 1024_usize).div_ceil(message.len()));
        let mut sent = 0;
        let stalled = std::time::Duration::from_secs(2);
        while sent < limit {
            match timeout(stalled, self.stream.write(&messages)).await {
                Ok(Ok(n)) => sent += n,
                _ => break,
            }
        }
        sent
    }

    /// Reads the next answer, to a request that was not HEAD. Returns `None` if the connection ends
    /// first.
    pub async fn answer(&mut self) -> Option<Message> {
        self.answer_to("GET").await
    }

    /// Reads the next answer to a request of this method.
    pub async fn answer_to(&mut self, method: &str) -> Option<Message> {
        let read = read_message(&mut self.stream, &mut self.buffer, Side::Response(method));
        timeout(PATIENCE, read).await.expect("answers in time").ok()
    }

    /// Reads and drops at least `length` bytes, and returns how many they were.
    pub async fn read_some(&mut self, length: usize) -> usize {
        let (mut chunk, mut read) = (vec![0; 64 * 1024], 0);
        while read < length {
            let reading = timeout(PATIENCE, self.stream.read(&mut chunk));
            match reading.await.expect("comes in time").unwrap() {
                0 => panic!("the connection ended after {read} bytes"),
                n => read += n,
            }
        }
        read
    }

    /// Reads exactly `length` bytes, which belong to no message.
    pub async fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert_ne!(read, 0, "it ended after {:?}", self.buffer);
        }
        self.buffer.drain(..length).collect()
    }

    /// Waits for the end of the connection, and returns the bytes before it and the kind of end.
    pub async fn end(&mut self) -> (Vec<u8>, End) {
        let mut rest = std::mem::take(&mut self.buffer);
        let read = self.stream.read_to_end(&mut rest);
        let end = match timeout(PATIENCE, read).await.expect("ends in time") {
            Ok(_) => End::Clean,
            Err(_) => End::Abrupt,
        };
        (rest, end)
    }

    /// Sends close_notify and continues to read.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
}

/// The action of the upstream for one request.
pub enum Reply {
    /// Sends these bytes before it reads the body.
    Early(Vec<u8>),
    /// Reads the whole request, sends these bytes and waits for the next request.
    Bytes(Vec<u8>),
    /// Reads the whole request, sends these bytes and closes the connection.
    Last(Vec<u8>),
    /// Reads the whole request, sends nothing, and waits for the next request.
    Silence,
}

/// Records all that comes, and presents the test's own X.509-SVID.
pub struct Upstream {
    /// The port that it listens on.
    pub port: u16,
    connections: watch::Receiver<Vec<Connection>>,
}

/// The bytes and requests of one connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The requests that came whole.
    pub requests: Vec<Message>,
    /// Every byte that came.
    pub bytes: Vec<u8>,
    /// The connection has ended.
    pub ended: bool,
}

/// Returns a GET of `/` with this `Authorization`.
pub fn get(authorization: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\r\n")
}

/// Answers 200 with this body.
pub fn ok(body: &str) -> Reply {
    Reply::Bytes(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into(),
    )
}

/// Answers 200 with the request's target as the body.
pub fn echo(request: &Message) -> Reply {
    ok(request.start_line().split(' ').nth(1).unwrap_or_default())
}

type Script = dyn Fn(&Message) -> Reply + Send + Sync;
type Log = Arc<Mutex<watch::Sender<Vec<Connection>>>>;

impl Upstream {
    /// Starts an upstream that speaks HTTP/1.1. `script` chooses the answer by the head of a
    /// request.
    pub async fn new(
        stack: &Stack,
        script: impl Fn(&Message) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (sender, connections) = watch::channel(Vec::new());
        let (log, script): (Log, Arc<Script>) = (Arc::new(Mutex::new(sender)), Arc::new(script));
        let port = listen(stack, &["http/1.1"], move |stream| {
            let number = record(&log, |all| all.push(Connection::default()));
            let (log, script) = (Arc::clone(&log), Arc::clone(&script));
            async move {
                let recorded = Recorded {
                    stream,
                    number,
                    log: Arc::clone(&log),
                };
                let _ = serve(recorded, &*script).await;
                record(&log, |all| all[number].ended = true);
            }
        })
        .await;
        Self { port, connections }
    }

    /// Returns all that came so far, by connection.
    pub fn connections(&self) -> Vec<Connection> {
        self.connections.borrow().clone()
    }

    /// Returns all whole requests so far.
    pub fn requests(&self) -> Vec<Message> {
        let all = self.connections.borrow();
        all.iter().flat_map(|one| one.requests.clone()).collect()
    }

    /// Waits until `is_so` accepts the connections, and returns them.
    pub async fn wait(&self, is_so: impl Fn(&[Connection]) -> bool) -> Vec<Connection> {
        let mut connections = self.connections.clone();
        match timeout(PATIENCE, connections.wait_for(|all| is_so(all))).await {
            Ok(Ok(all)) => all.clone(),
            _ => panic!(
                "the upstream never had such connections: {:?}",
                self.connections()
            ),
        }
    }
}

/// Changes the record and returns how many connections it had before.
fn record(log: &Log, change: impl FnOnce(&mut Vec<Connection>)) -> usize {
    let mut number = 0;
    log.lock().unwrap().send_modify(|all| {
        number = all.len();
        change(all);
    });
    number
}

struct Recorded<S> {
    stream: S,
    number: usize,
    log: Log,
}

async fn serve<S: Stream>(mut connection: Recorded<S>, script: &Script) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let head = loop {
            match buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                Some(end) => break String::from_utf8_lossy(&buffer[..end]).into_owned(),
                None => connection.read(&mut buffer).await?,
            }
        };
        let answer = script(&Message {
            head,
            body: Vec::new(),
        });
        if let Reply::Early(bytes) = &answer {
            connection.write(bytes).await?;
        }
        let message = loop {
            match split_message(&mut buffer, Side::Request) {
                Some(message) => break message,
                None => connection.read(&mut buffer).await?,
            }
        };
        record(&connection.log, |all| {
            all[connection.number].requests.push(message);
        });
        match answer {
            Reply::Bytes(bytes) => connection.write(&bytes).await?,
            Reply::Last(bytes) => {
                connection.write(&bytes).await?;
                return connection.stream.shutdown().await;
            }
            Reply::Early(_) | Reply::Silence => {}
        }
    }
}

impl<S: Stream> Recorded<S> {
    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<()> {
        let start = buffer.len();
        if self.stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let number = self.number;
        record(&self.log, |all| all[number].bytes.extend(&buffer[start..]));
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Side<'a> {
    Request,
    Response(&'a str),
}

async fn read_message(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    side: Side<'_>,
) -> io::Result<Message> {
    loop {
        if let Some(message) = split_message(buffer, side) {
            return Ok(message);
        }
        if stream.read_buf(buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Takes one whole message off the front of `buffer`.
fn split_message(buffer: &mut Vec<u8>, side: Side<'_>) -> Option<Message> {
    let end = buffer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let mut message = Message {
        head: String::from_utf8_lossy(&buffer[..end]).into_owned(),
        body: Vec::new(),
    };
    let body = &buffer[end + 4..];
    let length = match side {
        Side::Response(method)
            if method == "HEAD" || [100, 101, 204, 304].contains(&message.status()) =>
        {
            0
        }
        _ if message.fields("transfer-encoding").contains(&"chunked") => {
            length_of_chunks(body, !message.fields("trailer").is_empty())?
        }
        _ => message
            .fields("content-length")
            .first()
            .map_or(0, |n| n.parse().unwrap()),
    };
    message.body = body.get(..length)?.to_vec();
    buffer.drain(..end + 4 + length);
    Some(message)
}

/// Returns the length of a chunked body that is whole, up to the empty line that ends it.
fn length_of_chunks(body: &[u8], has_trailers: bool) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let last: &[u8] = if has_trailers { b"0\r\n" } else { b"0\r\n\r\n" };
    let starts_line = |at: usize| at == 0 || body[at - 1] == b'\n';
    let mut windows = body.windows(last.len()).enumerate();
    let (zero, _) = windows.find(|(at, bytes)| *bytes == last && starts_line(*at))?;
    let end = body[zero..]
        .windows(END.len())
        .position(|bytes| bytes == END)?;
    Some(zero + end + END.len())
}
