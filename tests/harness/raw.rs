//! HTTP/1.1 as bytes: a client that sends exactly what it is told, and an upstream that records
//! exactly what it gets and answers what it is told.

use std::{
    io,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{PATIENCE, Stack, https::Https, listen::listen};

/// What is spoken over TLS, on either side.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A message as it came: head and body, the framing of the body included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Start line and fields, without the empty line.
    pub head: String,
    /// What came after the empty line, byte for byte.
    pub body: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With TLS's own goodbye: what came before is complete.
    Clean,
    /// Without: what came before may have been cut off.
    Abrupt,
}

/// One TLS connection to the proxy.
pub struct Client {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Message {
    /// The status of a response, 0 of a request.
    pub fn status(&self) -> u16 {
        let word = self.head.split(' ').nth(1).unwrap_or_default();
        word.parse().unwrap_or(0)
    }

    /// All values of a field, in order.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|line| line.split_once(':'))
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
            .collect()
    }

    /// The first line.
    pub fn start_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }
}

impl Client {
    /// Connects, speaking HTTP/1.1.
    pub async fn new(https: &Https) -> Self {
        Self::over(https.connect(b"http/1.1").await)
    }

    /// On a connection that speaks HTTP/1.1.
    pub fn over(stream: TlsStream<TcpStream>) -> Self {
        let buffer = Vec::new();
        Self { stream, buffer }
    }

    /// Connects, sends `bytes`.
    pub async fn sending(https: &Https, bytes: impl AsRef<[u8]>) -> Self {
        let mut client = Self::new(https).await;
        client.send(bytes).await;
        client
    }

    /// Sends exactly `bytes`. The other side may have closed: then they go nowhere.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Sends as much as is taken within a while, at most `limit` bytes; how many that was.
    pub async fn flood(&mut self, limit: usize) -> usize {
        self.send_ahead(&[b'x'; 16 * 1024], limit).await
    }

    /// Sends `message` over and over, as [`Self::flood`] does.
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

    /// The next answer, to a request that was not HEAD; `None` when the connection ends before it.
    pub async fn answer(&mut self) -> Option<Message> {
        self.answer_to("GET").await
    }

    /// The next answer to a request of this method.
    pub async fn answer_to(&mut self, method: &str) -> Option<Message> {
        let read = read_message(&mut self.stream, &mut self.buffer, Side::Response(method));
        timeout(PATIENCE, read).await.expect("answers in time").ok()
    }

    /// Reads and forgets at least `length` bytes, and returns how many those were.
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

    /// Waits for the connection's end; what came before it, and how it ended.
    pub async fn end(&mut self) -> (Vec<u8>, End) {
        let mut rest = std::mem::take(&mut self.buffer);
        let read = self.stream.read_to_end(&mut rest);
        let end = match timeout(PATIENCE, read).await.expect("ends in time") {
            Ok(_) => End::Clean,
            Err(_) => End::Abrupt,
        };
        (rest, end)
    }

    /// Says that nothing more comes from this side, and goes on reading.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }
}

/// What the upstream does with one request, once all of it is there.
pub enum Answer {
    /// Sends these bytes before it reads the body.
    Early(Vec<u8>),
    /// Sends these bytes and waits for the next request.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes the connection.
    Last(Vec<u8>),
    /// Sends nothing, and waits for what else comes.
    Silence,
}

/// A recording upstream with the test's own X.509-SVID.
pub struct Upstream {
    /// Where it listens.
    pub port: u16,
    connections: watch::Receiver<Vec<Connection>>,
}

/// What one connection brought.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// The requests that came whole.
    pub requests: Vec<Message>,
    /// Every byte.
    pub bytes: Vec<u8>,
    /// Whether it is over.
    pub ended: bool,
}

/// Returns a GET of `/` with this `Authorization`.
pub fn get(authorization: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: {authorization}\r\n\r\n")
}

/// 200 with this body.
pub fn ok(body: &str) -> Answer {
    Answer::Bytes(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into(),
    )
}

/// 200, saying which target was asked for.
pub fn echo(request: &Message) -> Answer {
    ok(request.start_line().split(' ').nth(1).unwrap_or_default())
}

type Script = dyn Fn(&Message) -> Answer + Send + Sync;
type Log = Arc<Mutex<watch::Sender<Vec<Connection>>>>;

impl Upstream {
    /// Speaks HTTP/1.1; `script` decides by each request's head.
    pub async fn new(
        stack: &Stack,
        script: impl Fn(&Message) -> Answer + Send + Sync + 'static,
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

    /// All that came so far, by connection.
    pub fn connections(&self) -> Vec<Connection> {
        self.connections.borrow().clone()
    }

    /// All whole requests so far.
    pub fn requests(&self) -> Vec<Message> {
        let all = self.connections.borrow();
        all.iter().flat_map(|one| one.requests.clone()).collect()
    }

    /// Waits until the connections are as `is_so` says; what they are.
    pub async fn wait(&self, is_so: impl Fn(&[Connection]) -> bool) -> Vec<Connection> {
        let mut connections = self.connections.clone();
        match timeout(PATIENCE, connections.wait_for(|all| is_so(all))).await {
            Ok(Ok(all)) => all.clone(),
            _ => panic!("the upstream never saw it: {:?}", self.connections()),
        }
    }
}

/// Changes the record; how many connections it had before.
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
        if let Answer::Early(bytes) = &answer {
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
            Answer::Bytes(bytes) => connection.write(&bytes).await?,
            Answer::Last(bytes) => {
                connection.write(&bytes).await?;
                return connection.stream.shutdown().await;
            }
            Answer::Early(_) | Answer::Silence => {}
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
            if method == "HEAD" || [100, 204, 304].contains(&message.status()) =>
        {
            0
        }
        _ if message.fields("transfer-encoding").contains(&"chunked") => {
            let last = b"0\r\n\r\n";
            body.windows(last.len())
                .enumerate()
                .find(|(at, five)| *five == last && (*at == 0 || body[at - 1] == b'\n'))?
                .0
                + last.len()
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
