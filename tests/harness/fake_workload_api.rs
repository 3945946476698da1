//! Serves a Workload API whose answers a test chooses.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use common::workload::{Address, Identity, WorkloadApi};
use dev_agent::pb::{
    self,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::watch, task::JoinSet, time::Instant};
use tonic::{
    Request, Response, Status,
    codegen::{BoxStream, tokio_stream::Stream},
    transport::Endpoint,
};

use crate::{
    PATIENCE, SERVER_ID, Stack,
    process::{self, Process},
    wait::becomes,
};

/// The present state of a stream: a message, after which it stays open, or its end.
pub type Said<M> = Result<M, Status>;

/// Serves a Workload API on a socket of its own.
pub struct Fake {
    /// The answers, which a test sets.
    pub script: Arc<Script>,
    path: PathBuf,
    _directory: TempDir,
    _server: JoinSet<()>,
}

/// The answers to come, and the calls that came.
pub struct Script {
    x509: watch::Sender<Said<pb::X509svidResponse>>,
    x509_bundles: watch::Sender<Said<pb::X509BundlesResponse>>,
    jwt_bundles: watch::Sender<Said<pb::JwtBundlesResponse>>,
    /// The answers to FetchJWTSVID. The last one serves all further calls.
    pub tokens: Mutex<Vec<Said<pb::JwtsvidResponse>>>,
    /// The requests of FetchJWTSVID that came.
    pub asked: Mutex<Vec<pb::JwtsvidRequest>>,
    /// True while FetchJWTSVID gets no answer.
    held: watch::Sender<bool>,
    /// The kind and the moment of each call.
    calls: watch::Sender<Vec<(Call, Instant)>>,
    connections: watch::Sender<usize>,
}

/// Names a method of the Workload API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `FetchX509SVID`.
    X509,
    /// `FetchX509Bundles`.
    X509Bundles,
    /// `FetchJWTBundles`.
    JwtBundles,
    /// `FetchJWTSVID`.
    Token,
}

/// The answers of a real agent to this process, for a test to change.
#[derive(Clone)]
pub struct Genuine {
    /// The first message of `FetchX509SVID`.
    pub x509: pb::X509svidResponse,
    /// The first message of `FetchX509Bundles`.
    pub x509_bundles: pb::X509BundlesResponse,
    /// The first message of `FetchJWTBundles`.
    pub jwt_bundles: pb::JwtBundlesResponse,
}

impl Genuine {
    /// Asks the agent of `stack`.
    pub async fn of(stack: &Stack) -> Self {
        let endpoint = Endpoint::try_from(stack.agent.endpoint()).unwrap();
        let mut client = SpiffeWorkloadApiClient::new(endpoint.connect().await.unwrap());
        let mut svids = client
            .fetch_x509svid(with_header(pb::X509svidRequest {}))
            .await
            .unwrap()
            .into_inner();
        let mut x509_bundles = client
            .fetch_x509_bundles(with_header(pb::X509BundlesRequest {}))
            .await
            .unwrap()
            .into_inner();
        let mut bundles = client
            .fetch_jwt_bundles(with_header(pb::JwtBundlesRequest {}))
            .await
            .unwrap()
            .into_inner();
        Self {
            x509: svids.message().await.unwrap().unwrap(),
            x509_bundles: x509_bundles.message().await.unwrap().unwrap(),
            jwt_bundles: bundles.message().await.unwrap().unwrap(),
        }
    }
}

fn with_header<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    let value = "true".parse().unwrap();
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

impl Fake {
    /// Starts with the answers of the real agent.
    pub fn new(genuine: &Genuine) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fake.sock");
        let script = Arc::new(Script {
            x509: watch::Sender::new(Ok(genuine.x509.clone())),
            x509_bundles: watch::Sender::new(Ok(genuine.x509_bundles.clone())),
            jwt_bundles: watch::Sender::new(Ok(genuine.jwt_bundles.clone())),
            tokens: Mutex::new(Vec::new()),
            asked: Mutex::default(),
            held: watch::Sender::new(false),
            calls: watch::Sender::new(Vec::new()),
            connections: watch::Sender::new(0),
        });
        let mut server = JoinSet::new();
        let listener = UnixListener::bind(&path).unwrap();
        server.spawn(serve(listener, Arc::clone(&script)));
        Self {
            script,
            path,
            _directory: directory,
            _server: server,
        }
    }

    /// Returns the address, as in `SPIFFE_ENDPOINT_SOCKET`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.path.display())
    }

    /// Returns a Workload API at this address, whose start-up takes at most `patience`.
    pub fn workload_api(&self, patience: std::time::Duration) -> WorkloadApi {
        WorkloadApi::new(self.endpoint().parse::<Address>().unwrap(), patience)
    }

    /// Returns both sources, which this Workload API feeds.
    pub async fn identity(&self) -> Identity {
        process::install_crypto_provider();
        self.workload_api(PATIENCE).identity().await.unwrap()
    }

    /// Starts a server that uses this Workload API, and returns its port.
    pub async fn server(&self, args: &[&str]) -> (Process, u16) {
        let args = [&["--listen", "127.0.0.1:0"], args].concat();
        let server = process::spawn("server", &self.endpoint(), &args);
        let port = server.listening().await;
        (server, port)
    }

    /// Answers FetchX509SVID with `said` from now on, also on open streams.
    pub fn say_x509(&self, said: Said<pb::X509svidResponse>) {
        drop(self.script.x509.send_replace(said));
    }

    /// Answers FetchJWTBundles with `said` from now on, also on open streams.
    pub fn say_jwt_bundles(&self, said: Said<pb::JwtBundlesResponse>) {
        drop(self.script.jwt_bundles.send_replace(said));
    }

    /// Holds back the answers to FetchJWTSVID, or gives them.
    pub fn hold_tokens(&self, held: bool) {
        self.script.held.send_replace(held);
    }

    /// Waits until `count` calls of this kind came, and returns the moments of all.
    pub async fn wait_for_calls(&self, kind: Call, count: usize) -> Vec<Instant> {
        let of_kind = |calls: &Vec<(Call, Instant)>| -> Vec<Instant> {
            let calls = calls.iter().filter(|(call, _)| *call == kind);
            calls.map(|(_, at)| *at).collect()
        };
        let mut calls = self.script.calls.subscribe();
        let enough = |calls: &Vec<_>| of_kind(calls).len() >= count;
        of_kind(&becomes(&mut calls, enough).await)
    }

    /// Waits until `wanted` accepts the number of open connections.
    pub async fn wait_for_connections(&self, wanted: impl FnMut(&usize) -> bool) {
        becomes(&mut self.script.connections.subscribe(), wanted).await;
    }
}

async fn serve(listener: UnixListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let script = Arc::clone(&script);
        connections.spawn(async move {
            script.connections.send_modify(|open| *open += 1);
            let service = SpiffeWorkloadApiServer::from_arc(Arc::clone(&script));
            // A client may end its connection in any way.
            let _ = http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
                .await;
            script.connections.send_modify(|open| *open -= 1);
        });
    }
}

impl Script {
    fn called(&self, call: Call) {
        self.calls
            .send_modify(|calls| calls.push((call, Instant::now())));
    }

    /// Streams the present message and all later ones, to the end.
    fn stream<M: Clone + Send + Sync + 'static>(
        said: &watch::Sender<Said<M>>,
    ) -> Result<Response<BoxStream<M>>, Status> {
        let mut said = said.subscribe();
        let first = said.borrow_and_update().clone()?;
        let messages = async_messages(first, said);
        Ok(Response::new(Box::pin(messages)))
    }
}

fn async_messages<M: Clone + Send + Sync + 'static>(
    first: M,
    said: watch::Receiver<Said<M>>,
) -> impl Stream<Item = Said<M>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let mut said = said;
        let mut next = Ok(first);
        loop {
            let last = next.is_err();
            if sender.send(next).await.is_err() || last {
                return;
            }
            tokio::select! {
                changed = said.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            next = said.borrow_and_update().clone();
        }
    });
    Messages(receiver)
}

struct Messages<M>(tokio::sync::mpsc::Receiver<Said<M>>);

impl<M> Stream for Messages<M> {
    type Item = Said<M>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Script {
    type FetchX509SVIDStream = BoxStream<pb::X509svidResponse>;
    type FetchX509BundlesStream = BoxStream<pb::X509BundlesResponse>;
    type FetchJWTBundlesStream = BoxStream<pb::JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        assert_header(&request);
        self.called(Call::X509);
        Self::stream(&self.x509)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        assert_header(&request);
        self.called(Call::X509Bundles);
        Self::stream(&self.x509_bundles)
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<pb::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        assert_header(&request);
        self.called(Call::JwtBundles);
        Self::stream(&self.jwt_bundles)
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<pb::JwtsvidRequest>,
    ) -> Result<Response<pb::JwtsvidResponse>, Status> {
        assert_header(&request);
        self.called(Call::Token);
        self.asked.lock().unwrap().push(request.into_inner());
        let mut held = self.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        let mut tokens = self.tokens.lock().unwrap();
        let said = match tokens.len() {
            1 => tokens[0].clone(),
            _ => tokens.remove(0),
        };
        said.map(Response::new)
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("no binary of ours asks for this"))
    }
}

/// Checks that the call has the security header once (Workload Endpoint §3).
fn assert_header<M>(request: &Request<M>) {
    let values = request.metadata().get_all("workload.spiffe.io");
    assert!(values.iter().eq(["true"]));
}

/// Returns an answer to FetchJWTSVID with this token.
pub fn token(svid: String) -> Said<pb::JwtsvidResponse> {
    Ok(pb::JwtsvidResponse {
        svids: vec![pb::Jwtsvid {
            spiffe_id: SERVER_ID.to_owned(),
            svid,
            hint: String::new(),
        }],
    })
}
