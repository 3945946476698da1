//! Requests to an upstream that is verified before the first byte of a request, or is on this machine.
//!
//! Connections are pooled, speak HTTP/2 or 1.1 as the upstream offers, and have deadlines. One
//! [`Client`] belongs to one core, and so do its connections.
//!
//! A request passes these files from the top down. No files import each other in a circle:
//!
//! - `client`: sends a request, and once more where that is safe (`retry`)
//! - `pool`, `checkout`: the connection of a request, from the queue for one to its return
//! - `race`: opens connections for a request, to one endpoint after the other
//! - `connections`: all connections of one core, and the tasks that open and close them
//! - `endpoints`, `endpoint`: the choice of the endpoint and the connection of a request (`choice`,
//!   `health`, `generation`)
//! - `connector`, `security`: TCP or a Unix socket, TLS and HTTP to an endpoint · `resolver`, `origin`,
//!   `url`: names to endpoints
//! - `connection`: `shared` by requests (`sent`, `abandoned`) or `exclusive`; `http2`, `age`,
//!   `in_flight`, `resets`
//! - [`Counts`]: the requests, retries, ejections and connections
//! - `exclusive_limit`: the bound on connections of one request each · `caller`: the caller of a request
//! - `prepared`, `upload`, `body_fault`: a request's body, before and while it is sent · `arriving`, `response`: a
//!   response's body
//! - `tunnel`: a connection that was upgraded
//! - `probe`: the steps of a connection one by one, for a diagnosis
//! - `status`: the state of the endpoints for operators
//! - [`Upstream`], [`Error`]: the description of an upstream, and the error of a request

mod abandoned;
mod age;
mod arriving;
mod body_fault;
mod caller;
mod checkout;
mod choice;
mod client;
mod connection;
mod connections;
mod connector;
mod counts;
mod endpoint;
mod endpoints;
mod error;
mod exclusive;
mod exclusive_limit;
mod generation;
mod health;
mod http2;
mod in_flight;
mod origin;
mod pool;
mod prepared;
mod probe;
mod race;
mod resets;
mod resolver;
mod response;
mod retry;
mod security;
mod sent;
mod shared;
mod status;
mod tunnel;
mod upload;
mod upstream;
mod url;

pub use self::{
    body_fault::BodyFault,
    client::Client,
    counts::Counts,
    endpoint::MAX_KEPT,
    error::Error,
    exclusive_limit::ExclusiveLimit,
    origin::At,
    prepared::RequestBody,
    probe::{Presented, Probe, Target},
    response::ResponseBody,
    security::Security,
    status::{Ejection, EndpointStatus, UpstreamStatus},
    upstream::{Timeouts, Upstream},
    url::{Protocol, UpstreamUrl, has_bad_port},
};
pub(crate) use self::{
    caller::Caller,
    client::{Answered, PreparedRequest},
};
