//! One gRPC connection to the Workload API (SPIFFE Workload Endpoint §3, §6).

use std::{
    future::ready,
    io::{self, ErrorKind::NotConnected},
};

use hyper_util::rt::TokioIo;
use spiffe::SpiffeId;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tonic::{
    Request, Status, Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use workload_api::pb::{self, spiffe_workload_api_client::SpiffeWorkloadApiClient};

use super::{address::Address, error::Reason};

/// A function that is called with the Unix user ID of the agent's process.
pub type AgentHook = fn(u32);

/// The longest message that is read, in bytes. 10,000 X.509-SVIDs fit into it.
const MAX_MESSAGE: usize = 16 << 20;

/// A connection on which calls can be made.
pub(super) struct Connection(SpiffeWorkloadApiClient<Channel>);

crate::labels! {
    /// The kinds of streams that the Workload API offers, and that are used here.
    pub enum Stream {
        /// The X.509-SVIDs of this process, with their bundles.
        X509Svids = "x509_svids",
        /// The X.509 bundles alone.
        X509Bundles = "x509_bundles",
        /// The JWT bundles.
        JwtBundles = "jwt_bundles",
    }
}

impl Stream {
    /// Returns the name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::X509Svids => "X.509-SVIDs",
            Self::X509Bundles => "X.509 bundles",
            Self::JwtBundles => "JWT bundles",
        }
    }
}

/// A message of a stream. It replaces all earlier messages of that stream (Workload API §4.3).
#[derive(Debug)]
pub(super) enum Message {
    X509Svids(pb::X509svidResponse),
    X509Bundles(pb::X509BundlesResponse),
    JwtBundles(pb::JwtBundlesResponse),
}

/// The messages of an open stream.
pub(super) enum Messages {
    X509Svids(Streaming<pb::X509svidResponse>),
    X509Bundles(Streaming<pb::X509BundlesResponse>),
    JwtBundles(Streaming<pb::JwtBundlesResponse>),
}

impl Connection {
    /// Connects to the agent, and tells `on_agent` which user it runs as.
    ///
    /// # Errors
    /// Fails when the agent does not accept the connection. The error has the kernel's reason, which
    /// gRPC would hide.
    pub(super) async fn open(
        address: &Address,
        on_agent: Option<AgentHook>,
    ) -> Result<Self, Reason> {
        let channel = match address {
            Address::Unix(path) => {
                let socket = UnixStream::connect(path)
                    .await
                    .map_err(|error| Reason::from_open(path, error))?;
                if let (Some(hook), Ok(agent)) = (on_agent, socket.peer_cred()) {
                    hook(agent.uid());
                }
                channel_over(socket).await
            }
            Address::Tcp(address) => {
                let socket = TcpStream::connect(address).await;
                channel_over(socket.map_err(Reason::from_connect)?).await
            }
        };
        let channel = channel.map_err(|error| Reason::Failed(error.into()))?;
        let client = SpiffeWorkloadApiClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Self(client))
    }

    pub(super) async fn subscribe(&mut self, stream: Stream) -> Result<Messages, Status> {
        let client = &mut self.0;
        Ok(match stream {
            Stream::X509Svids => {
                let call = client.fetch_x509svid(marked(pb::X509svidRequest {}));
                Messages::X509Svids(call.await?.into_inner())
            }
            Stream::X509Bundles => {
                let call = client.fetch_x509_bundles(marked(pb::X509BundlesRequest {}));
                Messages::X509Bundles(call.await?.into_inner())
            }
            Stream::JwtBundles => {
                let call = client.fetch_jwt_bundles(marked(pb::JwtBundlesRequest {}));
                Messages::JwtBundles(call.await?.into_inner())
            }
        })
    }

    /// Fetches JWT-SVIDs of the identity `id`, or of all identities of this process.
    pub(super) async fn jwt_svids(
        &mut self,
        audience: Vec<String>,
        id: Option<&SpiffeId>,
    ) -> Result<Vec<pb::Jwtsvid>, Status> {
        let request = pb::JwtsvidRequest {
            audience,
            spiffe_id: id.map(SpiffeId::to_string).unwrap_or_default(),
        };
        let answer = self.0.fetch_jwtsvid(marked(request)).await?;
        Ok(answer.into_inner().svids)
    }
}

impl Messages {
    /// Waits for the next message. Returns `None` when the agent has ended the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, Status> {
        Ok(match self {
            Self::X509Svids(stream) => stream.message().await?.map(Message::X509Svids),
            Self::X509Bundles(stream) => stream.message().await?.map(Message::X509Bundles),
            Self::JwtBundles(stream) => stream.message().await?.map(Message::JwtBundles),
        })
    }
}

/// Returns a request with the header that proves that no browser was tricked into sending it (Workload
/// Endpoint §3).
fn marked<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    let value = tonic::metadata::MetadataValue::from_static("true");
    request.metadata_mut().insert("workload.spiffe.io", value);
    request
}

/// Returns a channel over an open socket. It does not connect again, because its owner does that, and
/// counts and logs it.
async fn channel_over<S>(socket: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut socket = Some(TokioIo::new(socket));
    let connector = service_fn(move |_: Uri| {
        let taken = socket.take();
        ready(taken.ok_or_else(|| io::Error::from(NotConnected)))
    });
    // The host is a placeholder, which gRPC over a Unix socket needs.
    Endpoint::from_static("http://localhost")
        .connect_with_connector(connector)
        .await
}
