use std::{sync::Arc, time::Duration};

use hyper::body::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::{
    caller::NAME,
    plan::{Break, End, Plan, Reads},
    upstream::World,
};

/// Holds a connection and the bytes of it that are not parsed yet.
struct Connection {
    tls: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// Holds the method, the name and the framing of a request.
struct Head {
    method: String,
    name: String,
    framing: Framing,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length(usize),
    Chunked,
}

/// Holds a request's body as far as it was read.
struct Body {
    read: Vec<u8>,
    framing: Framing,
    is_whole: bool,
}

/// Serves a connection to its end.
pub(crate) async fn serve(tls: TlsStream<TcpStream>, world: Arc<World>) -> Option<()> {
    let buffer = Vec::new();
    let mut connection = Connection { tls, buffer };
    loop {
        let head = connection.head().await?;
        let (plan, number) = world.begin(&head.name, &head.method)?;
        let mut body = Body {
            read: Vec::new(),
            framing: head.framing,
            is_whole: false,
        };
        let before = match plan.answer.reads {
            Reads::All => usize::MAX,
            Reads::Early(length) => length,
            Reads::Never => 0,
        };
        let read = connection.read(&mut body, before).await;
        if body.is_whole || read.is_none() {
            let whole = body.is_whole.then(|| body.read.clone());
            world.end(&head.name, number, whole);
            read?;
        }
        let continues = connection.answer(&plan).await;
        if !body.is_whole && continues.is_some() {
            let read = connection.read(&mut body, usize::MAX).await;
            let whole = read.map(|()| body.read.clone());
            world.end(&head.name, number, whole);
            read?;
        }
        continues?;
        if plan.answer.is_last {
            return connection.close().await;
        }
    }
}

impl Connection {
    async fn fill(&mut self) -> Option<()> {
        let read = self.tls.read_buf(&mut self.buffer).await.ok()?;
        (read > 0).then_some(())
    }

    /// Reads up to and including the next `end`.
    async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self.buffer.windows(end.len()).position(|here| here == end);
            match found {
                Some(at) => return Some(self.buffer.drain(..at + end.len()).collect()),
                None => self.fill().await?,
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Some(self.buffer.drain(..length).collect())
    }

    async fn head(&mut self) -> Option<Head> {
        let head = String::from_utf8(self.until(b"\r\n\r\n").await?).ok()?;
        let field = |name: &str| {
            let lines = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            let mut lines = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
            lines.next().map(|(_, value)| value.trim().to_owned())
        };
        let length = field("content-length").map_or(0, |length| length.parse().unwrap());
        let framing = match field("transfer-encoding") {
            Some(_) => Framing::Chunked,
            None => Framing::Length(length),
        };
        Some(Head {
            method: head.split(' ').next()?.to_owned(),
            name: field(NAME)?,
            framing,
        })
    }

    /// Continues to read a body, to its end or until `enough` bytes of it are there.
    async fn read(&mut self, body: &mut Body, enough: usize) -> Option<()> {
        while !body.is_whole && (body.read.len() < enough || enough == usize::MAX) {
            match body.framing {
                Framing::Length(length) => {
                    let step = (length - body.read.len()).min(4096);
                    body.read.extend(self.exactly(step).await?);
                    body.is_whole = body.read.len() == length;
                }
                Framing::Chunked => {
                    let line = String::from_utf8(self.until(b"\r\n").await?).ok()?;
                    let length = usize::from_str_radix(line.trim(), 16).ok()?;
                    body.read.extend(self.exactly(length).await?);
                    self.until(b"\r\n").await?;
                    body.is_whole = length == 0;
                }
            }
        }
        Some(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Option<()> {
        self.tls.write_all(bytes).await.ok()?;
        self.tls.flush().await.ok()
    }

    /// Sends the answer. Returns `None` if that ended the connection.
    async fn answer(&mut self, plan: &Plan) -> Option<()> {
        if let End::BreakBeforeHead(how) = plan.answer.end {
            return self.end(how).await;
        }
        let length = plan.answer_length();
        let is_chunked = plan.has_answer_body() && length.is_none();
        let has_end = !(is_chunked && plan.answer.is_last);
        self.write(head(plan, is_chunked && has_end).as_bytes())
            .await?;
        let mut bytes = plan.answer_body();
        let parts = plan.answer.parts.iter().filter(|_| plan.has_answer_body());
        for part in parts {
            let part_bytes = bytes.split_to(part.length);
            self.write(&framed(&part_bytes, is_chunked && has_end))
                .await?;
            sleep(Duration::from_millis(part.pause_ms)).await;
        }
        match plan.answer.end {
            End::Break(how) if plan.has_answer_body() => self.end(how).await,
            _ if is_chunked && has_end => self.write(b"0\r\n\r\n").await,
            _ => Some(()),
        }
    }

    /// Ends the connection within an answer.
    async fn end(&mut self, how: Break) -> Option<()> {
        match how {
            Break::GoAway(_) => self.close().await,
            _ => {
                let (tcp, _) = self.tls.get_mut();
                let _ = tcp.shutdown().await;
                self.drain().await
            }
        }
    }

    /// Ends the connection with close_notify.
    async fn close(&mut self) -> Option<()> {
        let _ = self.tls.shutdown().await;
        self.drain().await
    }

    /// Reads to the end, because a socket that is closed with unread bytes loses what it has sent.
    async fn drain(&mut self) -> Option<()> {
        let (tcp, _) = self.tls.get_mut();
        let mut sink = Vec::new();
        let _ = timeout(Duration::from_secs(1), tcp.read_to_end(&mut sink)).await;
        None
    }
}

fn head(plan: &Plan, is_chunked: bool) -> String {
    let mut head = String::new();
    if plan.answer.has_hints {
        head += "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    }
    head += &format!("HTTP/1.1 {} Reason\r\n", plan.answer.status);
    for (name, value) in &plan.answer.fields {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(length) = plan.answer_length() {
        head += &format!("content-length: {length}\r\n");
    } else if is_chunked {
        head += "transfer-encoding: chunked\r\n";
    }
    if plan.answer.is_last {
        head += "connection: close\r\n";
    }
    head + "\r\n"
}

fn framed(part: &Bytes, is_chunked: bool) -> Vec<u8> {
    if is_chunked {
        [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()
    } else {
        part.to_vec()
    }
}
