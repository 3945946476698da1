//! The time for which a process holds the X.509-SVID that its callers have verified.

use std::time::{Duration, SystemTime};

use common::workload::{X509Source, X509Svid};
use serve::{
    shutdown::{Shutdown, Trigger},
    tenure::Tenure,
};
use spiffe::SpiffeId;
use tokio::time::sleep;

/// The longest time between two readings of the clock, which may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The SVIDs that open connections may have been opened under.
struct Held {
    tenure: Tenure,
    svids: Vec<HeldSvid>,
}

/// An SVID that is held. Dropping it drains the connections that were opened under it.
struct HeldSvid {
    id: SpiffeId,
    leaf: Vec<u8>,
    until: SystemTime,
    _end: Trigger,
}

/// Follows the source's X.509-SVID until `shutdown`. Returns its tenure: a connection drains when the SVID
/// that it was opened under expires or is withdrawn, or when the process stops.
#[must_use]
pub(crate) fn follow(source: X509Source, shutdown: Shutdown) -> Tenure {
    let (tenure, first) = Tenure::begin();
    let mut held = Held {
        tenure: tenure.clone(),
        svids: Vec::new(),
    };
    held.update(&source);
    drop(first);
    tokio::spawn(held.watch(source, shutdown));
    tenure
}

/// Follows the source's X.509 bundles until `shutdown`. Returns their tenure: a connection whose peer was
/// verified by its certificate drains when they change, or when the process stops.
#[must_use]
pub(crate) fn follow_bundles(source: X509Source, shutdown: Shutdown) -> Tenure {
    let (tenure, end) = Tenure::begin();
    tokio::spawn(watch_bundles(source, tenure.clone(), end, shutdown));
    tenure
}

async fn watch_bundles(mut source: X509Source, tenure: Tenure, end: Trigger, shutdown: Shutdown) {
    let mut held = (source.bundle_set().ok(), end);
    let mut stop = std::pin::pin!(shutdown.requested());
    loop {
        tokio::select! {
            is_open = source.changed() => if !is_open {
                return;
            },
            () = &mut stop => return,
        }
        let bundles = source.bundle_set().ok();
        if bundles != held.0 {
            held = (bundles, tenure.renew());
        }
    }
}

impl Held {
    async fn watch(mut self, mut source: X509Source, shutdown: Shutdown) {
        let mut stop = std::pin::pin!(shutdown.requested());
        loop {
            self.update(&source);
            tokio::select! {
                is_open = source.changed() => if !is_open {
                    // A source that is closed has no identity.
                    return;
                },
                () = sleep(self.next_expiry(SystemTime::now())) => {}
                () = &mut stop => return,
            }
        }
    }

    fn update(&mut self, source: &X509Source) {
        match source.svid() {
            Ok(svid) => self.hold(&svid),
            Err(_) => self.svids.clear(),
        }
        let now = SystemTime::now();
        self.svids.retain(|svid| svid.until > now);
    }

    /// Holds a new SVID, next to older ones of the same identity.
    fn hold(&mut self, svid: &X509Svid) {
        let leaf = svid.leaf().as_bytes();
        if self.svids.iter().any(|held| held.leaf == leaf) {
            return;
        }
        self.svids.retain(|held| held.id == *svid.spiffe_id());
        self.svids.push(HeldSvid {
            id: svid.spiffe_id().clone(),
            leaf: leaf.to_vec(),
            until: svid.expiry(),
            _end: self.tenure.renew(),
        });
    }

    /// Returns the time until the next SVID expires.
    fn next_expiry(&self, now: SystemTime) -> Duration {
        let left = |svid: &HeldSvid| svid.until.duration_since(now).unwrap_or_default();
        let next = self.svids.iter().map(left).min();
        next.unwrap_or(LOOK_EVERY).min(LOOK_EVERY)
    }
}
