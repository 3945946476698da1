//! Errors of the Workload API, each with its remedy.

use std::{
    fmt,
    io::{
        self,
        ErrorKind::{ConnectionRefused, NotFound, PermissionDenied},
    },
    os::unix::fs::FileTypeExt,
    path::Path,
};

use spiffe::{
    WorkloadApiError,
    jwt_source::JwtSourceError,
    transport::{GrpcStatusCode, TransportError},
    x509_source::X509SourceError,
};

use super::address::Address;
use crate::cause;

/// The error that the Workload API at an address issued no identity.
#[derive(Debug, thiserror::Error)]
#[error("no identity from the Workload API at {address}: {reason}")]
pub struct Error {
    address: Address,
    reason: Reason,
}

/// The reason why no identity was issued. Its text names the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The socket file does not exist.
    #[error("no such socket; start the agent")]
    NoSocket,
    /// The file is not a socket.
    #[error("that is not a socket")]
    NotASocket,
    /// The kernel refused to open the socket.
    #[error(
        "permission denied on the socket for {0}; let this user reach the socket and its directory"
    )]
    SocketPermission(Process),
    /// The socket file exists, and no process listens on it.
    #[error("nobody listens on the socket; start the agent")]
    NobodyListens,
    /// The connection failed for another reason.
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    /// No registration entry matches this process.
    #[error(
        "connected, but no identity issued: no registration entry matches this process ({0}); register it, for example: \
         spire-server entry create -parentID spiffe://example.org/host -spiffeID spiffe://example.org/workload {selector}",
        selector = .0.selector()
    )]
    NoIdentityIssued(Process),
    /// The answer is one of another service, so that waiting does not help.
    #[error(
        "connected, but it does not offer the SPIFFE Workload API: {0}; is this the agent's Workload API socket?"
    )]
    NotImplemented(WorkloadApiError),
    /// The agent accepted the connection and did not answer in time.
    #[error("connected, but it did not answer in time; look at the agent's log")]
    NoAnswer,
    /// The issued token is not the requested one, or has expired (Workload API §6.2.1).
    #[error(
        "it issued a JWT-SVID that has expired, or is for another subject or audience than was asked for"
    )]
    WrongToken,
    /// The request failed for another reason.
    #[error("{}", cause::chain(.0.as_ref()))]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The user and the executable of this process, by which an agent attests it.
#[derive(Clone, Debug)]
pub struct Process {
    uid: u32,
    user: Option<String>,
    executable: Option<String>,
}

impl Error {
    pub(super) fn new(address: Address, reason: Reason) -> Self {
        Self { address, reason }
    }

    /// Returns the reason.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
}

impl Reason {
    /// Returns the reason why the Unix socket at `path` cannot be opened.
    pub(super) fn from_open(path: &Path, error: io::Error) -> Self {
        // The kernel reports any other kind of file as a socket that nobody listens on.
        match std::fs::metadata(path) {
            Ok(file) if !file.file_type().is_socket() => Self::NotASocket,
            _ => Self::from_connect(error),
        }
    }

    /// Returns the reason why a connection failed.
    pub(super) fn from_connect(error: io::Error) -> Self {
        match error.kind() {
            NotFound => Self::NoSocket,
            PermissionDenied => Self::SocketPermission(Process::current()),
            ConnectionRefused => Self::NobodyListens,
            _ => Self::Connect(error),
        }
    }

    /// Returns whether a later attempt may succeed, for example once the agent or the entry exists.
    pub(super) fn is_transient(&self) -> bool {
        !matches!(self, Self::NotImplemented(_) | Self::WrongToken)
    }
}

/// Returns whether no agent answered, or one that starts or stops (Workload Endpoint §6).
pub(super) fn is_unavailable(error: &WorkloadApiError) -> bool {
    match error {
        WorkloadApiError::Transport(TransportError::Connect(_)) => true,
        WorkloadApiError::Transport(TransportError::Status(status)) => {
            status.code() == GrpcStatusCode::Unavailable
        }
        _ => false,
    }
}

impl From<WorkloadApiError> for Reason {
    fn from(error: WorkloadApiError) -> Self {
        match error {
            WorkloadApiError::NoIdentityIssued | WorkloadApiError::PermissionDenied(_) => {
                Self::NoIdentityIssued(Process::current())
            }
            WorkloadApiError::Transport(TransportError::Status(ref status))
                if matches!(
                    status.code(),
                    GrpcStatusCode::Unimplemented | GrpcStatusCode::InvalidArgument
                ) =>
            {
                Self::NotImplemented(error)
            }
            error => match cause::find::<io::Error>(&error).map(io::Error::kind) {
                Some(kind @ (NotFound | PermissionDenied | ConnectionRefused)) => {
                    Self::from_connect(kind.into())
                }
                _ => Self::Failed(error.into()),
            },
        }
    }
}

impl From<X509SourceError> for Reason {
    fn from(error: X509SourceError) -> Self {
        match error {
            X509SourceError::Source(error) | X509SourceError::UnsupportedRpc(error) => error.into(),
            X509SourceError::InitialSyncTimeout => Self::NoAnswer,
            error => Self::Failed(error.into()),
        }
    }
}

impl From<JwtSourceError> for Reason {
    fn from(error: JwtSourceError) -> Self {
        match error {
            JwtSourceError::Source(error) | JwtSourceError::UnsupportedRpc(error) => error.into(),
            JwtSourceError::InitialSyncTimeout => Self::NoAnswer,
            error => Self::Failed(error.into()),
        }
    }
}

impl Process {
    fn current() -> Self {
        let uid = nix::unistd::geteuid();
        Self {
            uid: uid.as_raw(),
            user: nix::unistd::User::from_uid(uid)
                .ok()
                .flatten()
                .map(|user| user.name),
            executable: std::env::current_exe()
                .ok()
                .as_deref()
                .map(Path::display)
                .map(|path| path.to_string()),
        }
    }

    fn selector(&self) -> String {
        match &self.user {
            Some(user) => format!("-selector unix:user:{user}"),
            None => format!("-selector unix:uid:{}", self.uid),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        if let Some(user) = &self.user {
            write!(f, ", user {user}")?;
        }
        match &self.executable {
            Some(executable) => write!(f, ", executable {executable}"),
            None => Ok(()),
        }
    }
}
