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

use tonic::{Code, Status};

use super::{address::Address, choice::NotIssued, x509::SvidFault};
use crate::{cause, sanitize::Sanitized};

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
    /// Identities are issued, and the chosen one is not among them.
    #[error("connected, but {0}; register it for this process, or choose another one")]
    NotIssued(NotIssued),
    /// The issued X.509-SVID cannot be used.
    #[error("connected, but the X.509-SVID that it issues can't be used: {0}")]
    UnusableSvid(SvidFault),
    /// The trust bundle of the own trust domain cannot be used, or the message as a whole.
    #[error("connected, but what it sends can't be used: {0}")]
    Unusable(String),
    /// The answer is one of another service, so that waiting does not help.
    #[error(
        "connected, but it does not offer the SPIFFE Workload API: {0}; is this the agent's Workload API socket?"
    )]
    NotImplemented(Sanitized<String>),
    /// The agent calls the request for a JWT-SVID invalid, so that waiting does not help.
    #[error(
        "the agent refuses the request for a JWT-SVID: {0}; change its audience or its SPIFFE ID"
    )]
    InvalidRequest(Sanitized<String>),
    /// The agent answered with an error of its own.
    #[error("the agent answers {}: {message}", code_name(*.code))]
    Agent {
        /// The status code of gRPC.
        code: Code,
        /// The message of the agent.
        message: Sanitized<String>,
    },
    /// The agent accepted the connection and did not answer in time.
    #[error("connected, but it did not answer in time; look at the agent's log")]
    NoAnswer,
    /// The agent ended the stream.
    #[error("the agent ended the stream; look at its log")]
    Ended,
    /// The issued token is not the requested one, or has expired (Workload API §6.2.1).
    #[error(
        "it issued a JWT-SVID that has expired, or is for another subject or audience than was asked for"
    )]
    WrongToken,
    /// The issued token is not a JWT-SVID.
    #[error("it issued a JWT-SVID that can't be used: {0}")]
    UnusableToken(Sanitized<String>),
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

    /// Returns the reason why a stream failed with `status`.
    pub(super) fn of_stream(status: Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::Unimplemented => Self::NotImplemented(sanitized(&status)),
            // tonic found that the message is longer than is read. The text has both lengths.
            Code::OutOfRange => Self::Unusable(sanitized(&status).to_string()),
            _ => Self::of(status),
        }
    }

    /// Returns the reason why no JWT-SVID was issued, by the `status` of the call.
    pub(super) fn of_token(status: Status) -> Self {
        match status.code() {
            Code::InvalidArgument => Self::InvalidRequest(sanitized(&status)),
            Code::Unimplemented => Self::NotImplemented(sanitized(&status)),
            _ => Self::of(status),
        }
    }

    fn of(status: Status) -> Self {
        // A status of the agent has no cause in this process.
        let is_local = std::error::Error::source(&status).is_some();
        match status.code() {
            Code::PermissionDenied => Self::NoIdentityIssued(Process::current()),
            _ if is_local => Self::Failed(status.into()),
            code => Self::Agent {
                code,
                message: sanitized(&status),
            },
        }
    }

    /// Returns whether a later attempt may succeed, for example once the agent or the entry exists.
    pub(super) fn is_transient(&self) -> bool {
        !matches!(
            self,
            Self::NotImplemented(_) | Self::InvalidRequest(_) | Self::WrongToken
        )
    }

    /// Returns the fault of a message, without the words that are for start-up.
    pub(super) fn fault(&self) -> String {
        match self {
            Self::UnusableSvid(fault) => format!("the X.509-SVID: {fault}"),
            Self::Unusable(fault) => fault.clone(),
            Self::NoIdentityIssued(process) => {
                format!("no registration entry matches this process ({process})")
            }
            Self::NotIssued(choice) => choice.to_string(),
            other => other.to_string(),
        }
    }

    /// Returns whether the Workload API has withdrawn what it issued (Workload API §5.2.1).
    pub(super) fn is_withdrawal(&self) -> bool {
        matches!(self, Self::NoIdentityIssued(_) | Self::NotIssued(_))
    }

    /// Returns whether no agent answered, or only one that starts or stops (Workload Endpoint §6).
    pub(super) fn is_unavailable(&self) -> bool {
        matches!(
            self,
            Self::NoSocket
                | Self::NobodyListens
                | Self::Connect(_)
                | Self::Failed(_)
                | Self::Agent {
                    code: Code::Unavailable,
                    ..
                }
        )
    }
}

/// Returns the message of a status. An agent may answer with a code alone.
fn sanitized(status: &Status) -> Sanitized<String> {
    let message = match status.message() {
        "" => status.code().description(),
        message => message,
    };
    Sanitized(message.to_owned())
}

/// Returns the name of a code, as gRPC's documents write it.
fn code_name(code: Code) -> String {
    format!("{code:?}")
}

impl Process {
    pub(super) fn current() -> Self {
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
