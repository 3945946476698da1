//! The client side of the SPIFFE Workload API.
//!
//! [`WorkloadApi`] connects to an [`Address`] and returns live sources of SVIDs and bundles.
//! [`Readiness`] tells whether they can be used, and a [`Monitor`] has the details.
//! [`tokens::TokenSource`] keeps a JWT-SVID current.
//!
//! The module implements the SPIFFE Workload Endpoint (§4, §6) and Workload API standards.
//!
//! # What a message may have
//!
//! A message has at most 16 MiB, 10,000 X.509-SVIDs and 10,000 trust domains. Beyond that it is refused as
//! a whole, and the log has both numbers. Everything else that cannot be used affects itself only: a key,
//! the bundle of one trust domain, or the X.509-SVID.
//!
//! # What is trusted, and for how long
//!
//! The last good message is in use. If no later one comes:
//!
//! - While the Workload API is away, the SVID and the bundles stay in use until the X.509-SVID expires.
//! - If messages come and cannot be used, or one stream fails while another one works, the bundles before
//!   them stay in use. They do so for [`DEFAULT_BUNDLE_GRACE`], and not after the X.509-SVID expires. The
//!   same holds for the bundle of one trust domain, and for a process that fetches no X.509-SVID.
//! - The X.509-SVID itself is presented until it expires, because its peers decide on it.
//! - After a withdrawal, nothing that the stream delivered is used. An identity that is missing among others
//!   is withdrawn if it is still missing after 10 s.
//!
//! After that time, tokens and peers are refused, and [`Readiness`] is [`Readiness::NotReady`].

mod absence;
mod address;
mod apply;
mod choice;
mod connection;
mod counts;
mod domains;
mod error;
mod fetch;
mod follow;
mod jwt;
mod keeper;
mod link;
mod look;
mod monitor;
mod readiness;
mod report;
mod running;
mod seen;
pub mod tokens;
mod x509;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tracing::info;

pub(crate) use self::x509::Trust;
pub use self::{
    address::{Address, AddressError},
    choice::{Choice, NotIssued},
    connection::{AgentHook, Stream},
    counts::Counts,
    error::{Error, Process, Reason},
    jwt::JwtSource,
    look::{AgentProcess, Issued, IssuedId},
    monitor::{Authority, BundleFault, Kind, Monitor, Overview, StreamState, StreamStatus},
    readiness::{Degradation, Readiness, Unready},
    x509::{SvidFault, Unavailable, X509Source, X509Svid},
};
use self::{
    follow::{Agent, Follower},
    keeper::{Keeper, Published},
    running::Running,
};

impl From<Identity> for X509Identity {
    fn from(identity: Identity) -> Self {
        let Identity {
            x509, readiness, ..
        } = identity;
        Self { x509, readiness }
    }
}
