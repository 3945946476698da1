use std::{sync::Arc, time::Duration};

use h2::{
    Ping, PingPong, Reason, RecvStream,
    server::{self, SendResponse},
};
use http::{Request, Response};
use hyper::body::Bytes;
use tokio::{
    net::TcpStream,
    sync::{Mutex, mpsc},
    time::sleep,
};
use tokio_rustls::server::TlsStream;

use crate::{
    caller::{NAME, send_data},
    plan::{Break, End, Plan, Reads},
    upstream::World,
};

/// Tells a connection how it must end.
enum Told {
    Cut,
    GoAway(u32),
    /// The connection accepts no more requests.
    Leave,
}

/// Lets a stream act on its connection.
#[derive(Clone)]
struct Connection {
    tell: mpsc::UnboundedSender<Told>,
    ping: Arc<Mutex<PingPong>>,
}

/// Serves a connection to its end, at most `streams` requests at once.
pub(crate) async fn serve(
    tls: TlsStream<TcpStream>,
    world: Arc<World>,
    streams: u32,
) -> Option<()> {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(streams);
    let mut h2 = builder.handshake(tls).await.ok()?;
    let (tell, mut told) = mpsc::unbounded_channel();
    let ping = Arc::new(Mutex::new(h2.ping_pong()?));
    let connection = Connection { tell, ping };
    loop {
        tokio::select! {
            accepted = h2.accept() => {
                let (request, respond) = accepted?.ok()?;
                tokio::spawn(exchange(request, respond, Arc::clone(&world), connection.clone()));
            }
            Some(told) = told.recv() => match told {
                Told::Cut => return None,
                Told::GoAway(code) => h2.abrupt_shutdown(code.into()),
                Told::Leave => h2.graceful_shutdown(),
            },
        }
    }
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    world: Arc<World>,
    connection: Connection,
) -> Option<()> {
    let name = request.headers().get(NAME)?.to_str().ok()?.to_owned();
    let (plan, number) = world.begin(&name, request.method().as_str())?;
    let (mut body, mut read) = (request.into_body(), Vec::new());
    let before = match plan.answer.reads {
        Reads::All => usize::MAX,
        Reads::Early(length) => length,
        Reads::Never => 0,
    };
    let is_whole = read_on(&mut body, &mut read, before).await;
    if is_whole != Some(false) {
        world.end(&name, number, is_whole.map(|_| read.clone()));
        is_whole?;
    }
    answer(&mut respond, &plan, &connection).await?;
    if is_whole == Some(false) && plan.answer.reads != Reads::Never {
        let whole = read_on(&mut body, &mut read, usize::MAX).await;
        world.end(&name, number, whole.map(|_| read));
    }
    if plan.answer.is_last {
        connection.tell.send(Told::Leave).ok()?;
    }
    Some(())
}

/// Continues to read a body, to its end or until `enough` bytes of it are there. Returns whether it
/// has ended, or `None` if it broke off.
async fn read_on(body: &mut RecvStream, read: &mut Vec<u8>, enough: usize) -> Option<bool> {
    while read.len() < enough || enough == usize::MAX {
        let Some(data) = body.data().await else {
            return Some(true);
        };
        let data = data.ok()?;
        let _ = body.flow_control().release_capacity(data.len());
        read.extend(data);
    }
    Some(body.is_end_stream())
}

/// Sends the answer. Returns `None` if it broke off.
async fn answer(
    respond: &mut SendResponse<Bytes>,
    plan: &Plan,
    connection: &Connection,
) -> Option<()> {
    if let End::BreakBeforeHead(how) = plan.answer.end {
        return connection.end(|code| respond.send_reset(code), how).await;
    }
    if plan.answer.has_hints {
        let hints = Response::builder().status(103).header("link", "</a>");
        respond.send_informational(hints.body(()).unwrap()).ok()?;
    }
    let mut head = Response::builder().status(plan.answer.status);
    for (name, value) in &plan.answer.fields {
        head = head.header(*name, value);
    }
    if let Some(length) = plan.answer_length() {
        head = head.header("content-length", length);
    }
    let head = head.body(()).unwrap();
    let mut stream = respond.send_response(head, !plan.has_answer_body()).ok()?;
    if !plan.has_answer_body() {
        return Some(());
    }
    let mut bytes = plan.answer_body();
    for part in &plan.answer.parts {
        send_data(&mut stream, bytes.split_to(part.length)).await?;
        sleep(Duration::from_millis(part.pause_ms)).await;
    }
    match plan.answer.end {
        End::Break(how) => connection.end(|code| stream.send_reset(code), how).await,
        _ => stream.send_data(Bytes::new(), true).ok(),
    }
}

impl Connection {
    /// Breaks the answer of a stream off after all bytes that were sent before.
    async fn end(&self, reset: impl FnOnce(Reason), how: Break) -> Option<()> {
        let _ = self.ping.lock().await.ping(Ping::opaque()).await;
        match how {
            Break::Reset(code) => reset(code.into()),
            Break::GoAway(code) => self.tell.send(Told::GoAway(code)).ok()?,
            Break::Cut => self.tell.send(Told::Cut).ok()?,
        }
        None
    }
}
