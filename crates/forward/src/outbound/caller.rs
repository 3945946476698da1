//! The caller that a request is sent for.

use std::{net::IpAddr, sync::Arc};

use serve::shares::Eviction;

/// The caller of a listener that a request comes from.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The source that its requests are counted for.
    pub(crate) source: IpAddr,
    /// Tells the request to make room for another source's.
    pub(crate) eviction: Arc<Eviction>,
}
