use std::{future::poll_fn, io, time::Duration};

use h2::{RecvStream, SendStream, client};
use harness::https::Https;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Channel, Either, Full, channel::Sender};
use hyper::body::{Bytes, Incoming};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::plan::{Part, Plan, Upload};

/// The result that a caller gets.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// The caller gets no head of an answer.
    Nothing(String),
    Answer(CallerAnswer),
}

#[derive(Clone, Debug)]
pub(crate) struct CallerAnswer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// The body came to its end. Otherwise it broke off.
    pub(crate) is_whole: bool,
}

type Body = Either<Full<Bytes>, Channel<Bytes, io::Error>>;

/// This field names the exchange to the upstream.
pub(crate) const NAME: &str = "x-exchange";

/// Every exchange takes less time.
const PATIENCE: Duration = Duration::from_secs(10);

/// Sends the request of `plan` over `version` and returns what the caller gets.
///
/// # Errors
/// Fails if the caller gets neither an answer nor a break in time.
pub(crate) async fn ask(
    https: &Https,
    version: Version,
    name: &str,
    plan: &Plan,
) -> Result<Seen, &'static str> {
    let upload = &plan.request;
    let mut request = Request::builder()
        .method(upload.method)
        .uri("/")
        .header(NAME, name);
    if !upload.is_empty() && upload.has_length {
        request = request.header("content-length", upload.length());
    } else if !upload.is_empty() && version == Version::HTTP_11 {
        // hyper sends no body with some methods unless this field is there.
        request = request.header("transfer-encoding", "chunked");
    }
    if upload.expects {
        request = request.header("expect", "100-continue");
    }
    let request = request.body(()).unwrap();
    let asking = async {
        match version {
            Version::HTTP_2 => over_http2(https, request, plan).await,
            _ => over_http1(https, request, plan).await,
        }
    };
    let seen = timeout(PATIENCE, asking).await;
    seen.map_err(|_| "neither an answer nor a break in time")
}

async fn over_http1(https: &Https, request: Request<()>, plan: &Plan) -> Seen {
    let (body, sender) = if plan.request.is_empty() {
        (Body::Left(Full::default()), None)
    } else {
        let (sender, body) = Channel::new(1);
        (Body::Right(body), Some(sender))
    };
    let bytes = plan.request.body(plan.seed);
    // The upload is aborted when this set is dropped.
    let mut sending = JoinSet::new();
    if let Some(sender) = sender {
        sending.spawn(send_http1(sender, plan.request.clone(), bytes));
    }
    let request = request.map(|()| body);
    match https.try_start(Version::HTTP_11, request).await {
        Ok(answer) => Seen::Answer(read_http1(answer, &plan.request).await),
        Err(error) => Seen::Nothing(format!("{error:?}")),
    }
}

async fn send_http1(mut sender: Sender<Bytes, io::Error>, upload: Upload, mut bytes: Bytes) {
    for part in upload.parts {
        if sender.send_data(bytes.split_to(part.length)).await.is_err() {
            return;
        }
        pause(part).await;
    }
    if upload.is_given_up {
        sender.abort(io::Error::other("given up"));
    }
}

async fn pause(part: Part) {
    if part.pause_ms > 0 {
        sleep(Duration::from_millis(part.pause_ms)).await;
    }
}

async fn read_http1(answer: Response<Incoming>, upload: &Upload) -> CallerAnswer {
    let (head, mut incoming) = answer.into_parts();
    let mut body = Vec::new();
    let leaves_after = upload.leaves_after.unwrap_or(usize::MAX);
    let is_whole = loop {
        if body.len() >= leaves_after {
            break false;
        }
        match incoming.frame().await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => body.extend(frame.into_data().unwrap_or_default()),
        }
    };
    CallerAnswer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        is_whole,
    }
}

/// Sends the request by `h2`, because hyper takes RST_STREAM with NO_ERROR for the end of a body.
async fn over_http2(https: &Https, mut request: Request<()>, plan: &Plan) -> Seen {
    let url = format!("https://localhost:{}/", https.port());
    *request.uri_mut() = url.parse().unwrap();
    match try_over_http2(https, request, plan).await {
        Ok(answer) => Seen::Answer(answer),
        Err(error) => Seen::Nothing(format!("{error:?}")),
    }
}

async fn try_over_http2(
    https: &Https,
    request: Request<()>,
    plan: &Plan,
) -> Result<CallerAnswer, h2::Error> {
    let (sender, connection) = client::handshake(https.connect(b"h2").await).await?;
    // The connection ends when its stream has ended or was reset.
    tokio::spawn(connection);
    let is_empty = plan.request.is_empty();
    let (answer, stream) = sender.ready().await?.send_request(request, is_empty)?;
    let bytes = plan.request.body(plan.seed);
    let mut sending = JoinSet::new();
    if !is_empty {
        sending.spawn(send_http2(stream, plan.request.clone(), bytes));
    }
    Ok(read_http2(answer.await?, &plan.request).await)
}

async fn send_http2(mut stream: SendStream<Bytes>, upload: Upload, mut bytes: Bytes) -> Option<()> {
    for part in upload.parts {
        send_data(&mut stream, bytes.split_to(part.length)).await?;
        pause(part).await;
    }
    if upload.is_given_up {
        stream.send_reset(h2::Reason::CANCEL)
    } else {
        stream.send_data(Bytes::new(), true).ok()?
    }
    Some(())
}

/// Sends data within the windows of the peer.
pub(crate) async fn send_data(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Option<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = match stream.capacity() {
            0 => poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?,
            room => room,
        };
        let part = data.split_to(room.min(data.len()));
        stream.send_data(part, false).ok()?;
    }
    Some(())
}

async fn read_http2(answer: Response<RecvStream>, upload: &Upload) -> CallerAnswer {
    let (head, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    let leaves_after = upload.leaves_after.unwrap_or(usize::MAX);
    let is_whole = loop {
        if body.len() >= leaves_after {
            break false;
        }
        match stream.data().await {
            None => break stream.trailers().await.is_ok(),
            Some(Err(_)) => break false,
            Some(Ok(data)) => {
                let _ = stream.flow_control().release_capacity(data.len());
                body.extend(data);
            }
        }
    };
    CallerAnswer {
        status: head.status.as_u16(),
        headers: head.headers,
        body,
        is_whole,
    }
}
