//! Runs for scripts/drill.sh. It changes everything that can change under running processes, one
//! event after the other. Meanwhile no request of the load may fail.
//!
//! Half of the load are GETs, and half are POSTs with bodies of 0 to 100 KiB (`request`). The servers of one
//! stack answer themselves, and those of the other stand in front of an application.
//!
//! # Requests that may go without a good answer
//!
//! A request that is not answered 200 has *failed*, with two exceptions. Each is counted apart, and
//! only while an event lasts that explains it.
//!
//! - A request is *refused as wanted* if nobody could have answered it otherwise. Its key or identity
//!   is gone, no server is there, the proxy is at its in-flight limit, or any process was killed. The
//!   event says which statuses such a refusal has, and whether the connection may break. The rule is
//!   the same for GETs and POSTs.
//! - A POST is *lost with a server* if it is answered 502 while one of two servers is killed. The
//!   dead server may have acted on it, so the proxy must not send it again (RFC 9110 §9.2.2). A GET
//!   is never lost, because the proxy can send it to the other server. At most as many POSTs are
//!   lost as requests were in flight at the kills.
//!
//! Nothing else excuses a POST. A process that restarts, or a connection that is replaced, answers
//! what it has begun. A kept connection gets an answer with `Connection: close` before it ends, so
//! that no POST crosses the end of its connection. If one does, it has failed: the caller sends a
//! POST again only if nothing of it was sent (`caller`).
//!
//! The event that kills any process allows more, because the next kill comes before all processes
//! have recovered from the last one. It shows that everything recovers, not that little is lost.

mod agent;
mod application;
mod caller;
mod event;
mod findings;
mod identity;
mod load;
mod node;
mod options;
mod partner;
mod processes;
mod report;
mod request;
mod scale;
mod soak;
mod stack;
mod tally;

use std::process::ExitCode;

use clap::Parser as _;

use crate::options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    harness::process::install_crypto_provider();
    harness::tool::run("drill.sh", options.run()).await
}
